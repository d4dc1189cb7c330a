"""The number formats in which a published checkpoint stores its weights, read from its files.

`quantization_config` of a `config.json`, as Transformers, compressed-tensors, AWQ, GPTQ and MXFP4
write it, or the `hf_quant_config.json` that NVIDIA's ModelOpt puts beside. Not read: scales (a few
per cent of the bytes), formats of activations, and what holds for single layers: a part of the
model is stored as most of its modules are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from sim.graph.model import Stored

# A part's modules in one layer, under the names that files use.
_MODULES = {
    "attention": ("self_attn.q_proj", "self_attn.o_proj"),
    "mlp": ("mlp.gate_proj", "mlp.shared_experts.gate_proj"),
    "experts": ("mlp.experts.0.gate_proj",),
}
_BITS = {("float", 8): "fp8", ("float", 4): "fp4", ("int", 8): "int8", ("int", 4): "int4"}
_METHODS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "fp4"}
_ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8",
    "NVFP4": "fp4",
    "NVFP4_AWQ": "fp4",
    "W4A16": "int4",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W8A16": "int8",
}
_MOST_LAYERS = 8  # are looked at, spread over the model


def stored(config: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Stored:
    """The formats by part of the model.

    `config` is a `config.json`, `beside` a `hf_quant_config.json`. ValueError if they name a format
    that is none of ours.
    """
    given = config.get("quantization_config") or config.get("compression_config")
    if given is None and beside is not None:
        given = beside.get("quantization") or beside
    if given is None:
        return Stored()
    if not isinstance(given, Mapping):
        raise ValueError(f"a mapping is due, not {given!r}")
    method = str(given.get("quant_method", given.get("quant_algo", ""))).lower()
    groups = given.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        formats = [_of_group(group) for group in groups.values()]
    else:
        formats = [(_one(method, given), ("Linear",))]
    kept, last = _kept(given), int(config.get("num_hidden_layers") or 1) - 1
    layers = {round(last * i / (_MOST_LAYERS - 1)) for i in range(_MOST_LAYERS)}
    found = {}
    for part, modules in _MODULES.items():
        names = [f"model.layers.{layer}.{module}" for layer in sorted(layers) for module in modules]
        votes = [
            next((dtype for dtype, targets in formats if _meant(name, targets)), "")
            if not any(_matches(name, each) for each in kept)
            else ""
            for name in names
        ]
        found[part] = max(dict.fromkeys(votes), key=votes.count)
    told = "quantization_config" if beside is None or "quantization_config" in config else ""
    told = told or "hf_quant_config.json"
    return Stored(**found, told=f"{told} ({method or 'compressed-tensors'})")


def _one(method: str, given: Mapping[str, Any]) -> str:
    """The format where there is one for all."""
    if method in _METHODS:
        return _METHODS[method]
    algorithm = str(given.get("quant_algo", "")).upper()
    if algorithm in _ALGORITHMS:
        return _ALGORITHMS[algorithm]
    if method == "bitsandbytes":
        return "int8" if given.get("load_in_8bit") else "fp4"
    bits = given.get("bits", given.get("w_bit", given.get("weight_bits")))
    if method in ("awq", "gptq", "auto-round", "auto_round", "hqq") and ("int", bits) in _BITS:
        return _BITS["int", bits]
    known = ", ".join([*_METHODS, "awq", "gptq", "bitsandbytes", "compressed-tensors", "modelopt"])
    what = f"{method or 'no method'}{'' if bits is None else f' of {bits} bits'}"
    raise ValueError(f"weights stored by {what} are not known here; known are {known}")


def _of_group(group: Any) -> tuple[str, tuple[str, ...]]:
    """(format, targets) of a group of compressed-tensors or ModelOpt."""
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        return "", ("Linear",)
    kind = str(weights.get("type", "int")).lower(), weights.get("num_bits")
    if kind not in _BITS:
        raise ValueError(f"weights of {kind[1]} bits ({kind[0]}) are not known here")
    return _BITS[kind], tuple(map(str, group.get("targets") or ("Linear",)))


def _kept(given: Mapping[str, Any]) -> Sequence[str]:
    """Names of modules that stay as they were."""
    for key in ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"):
        if given.get(key):
            return [str(each) for each in given[key]]
    return ()


def _meant(name: str, targets: Sequence[str]) -> bool:
    return any(each == "Linear" or _matches(name, each) for each in targets)


def _matches(name: str, pattern: str) -> bool:
    """Whether a module is named by `pattern`: a regular expression after `re:`, a glob, or a part
    of its name."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    if "*" in pattern:
        return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
    return f".{pattern}." in f".{name}."
