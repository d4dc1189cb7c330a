"""The number formats in which a published checkpoint stores its weights, read from its files.

`quantization_config` of a `config.json`, as Transformers, compressed-tensors, AWQ, GPTQ and MXFP4
write it, or the `hf_quant_config.json` that NVIDIA's ModelOpt puts beside. A part of a layer is
taken as most of its modules are, and if others are not, that is said. Not read: formats of
activations, and of the LM head. Scales are not counted, and where they are 1 % of the bytes or
more, that is said: 12.5 % in NVFP4, 6 % in MXFP4, 4 % in groups of 128 integers of 4 bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from typing import Any

from sim.graph.model import Stored
from sim.graph.precision import BYTES
from sim.text.outside import bounded

_GATED = ("gate_proj", "up_proj", "down_proj")  # of an MLP, under the names that files use
_QKV = ("q_proj", "k_proj", "v_proj")
_LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
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
        raise ValueError(f"a mapping is due, not {str(given)[:40]!r}")
    method = str(given.get("quant_method", given.get("quant_algo", ""))).lower()
    groups = given.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        formats = [_of_group(group) for group in groups.values()]
    else:
        formats = [(_one(method, given), ("Linear",))]
    kept = _kept(given)

    def of(layer: int, module: str) -> str:
        name = f"model.layers.{layer}.{module}"
        if any(_matches(name, each) for each in kept):
            return ""
        return next((dtype for dtype, targets in formats if _meant(name, targets)), "")

    layers = range(bounded("layers", _number(config, "num_hidden_layers") or 1))
    bounded("patterns", len(layers) * len(kept))
    found, others, mixed = {}, [], ""
    for part in ("attention", "mlp", "experts"):
        of_layers = {
            layer: [of(layer, module) for module in _modules(config, part, layer)]
            for layer in layers
        }
        by_layer = {layer: _most(votes) for layer, votes in of_layers.items() if votes}
        found[part] = most = _most([*by_layer.values()])
        others += [(layer, part, own) for layer, own in by_layer.items() if own != most]
        odd = sum(vote != by_layer[layer] for layer in by_layer for vote in of_layers[layer])
        if odd:
            mixed += f", {odd} of {sum(map(len, of_layers.values()))} modules of {part} otherwise"
    told = "quantization_config" if beside is None or "quantization_config" in config else ""
    told = told or "hf_quant_config.json"
    more = _scales(method, given, {*found.values()} - {""})
    scales = f", scales of {100 * more:.3g} % more bytes not counted" if more >= 0.01 else ""
    told = f"{told} ({method or 'compressed-tensors'}{scales}{mixed})"
    return Stored(**found, told=told, layers=tuple(others))


def _most(votes: Sequence[str]) -> str:
    return max(dict.fromkeys(votes), key=votes.count, default="")


def _number(config: Mapping[str, Any], key: str) -> int:
    """A size of the model; what is none is another's fault to tell."""
    given = config.get(key)
    return given if isinstance(given, int) and 0 < given < 100_000 else 0


def _modules(config: Mapping[str, Any], part: str, layer: int) -> list[str]:
    """Those of a part of one layer."""
    if part == "attention":
        latent = _LATENT if config.get("q_lora_rank") else ("q_proj", *_LATENT[2:])
        names = latent if config.get("kv_lora_rank") else _QKV
        return [f"self_attn.{name}" for name in (*names, "o_proj")]
    keys = ("n_routed_experts", "num_local_experts", "num_experts")
    routed = any(config.get(key) for key in keys)
    dense = not routed or layer < _number(config, "first_k_dense_replace")
    if part == "experts":
        return [] if dense else [f"mlp.experts.0.{name}" for name in _GATED]
    if not dense and not _number(config, "n_shared_experts"):
        return []
    shared = "" if dense else "shared_experts."
    return [f"mlp.{shared}{name}" for name in _GATED]


def _scales(method: str, given: Mapping[str, Any], formats: set[str]) -> float:
    """Bytes of scales and zero points over those of the numbers that they belong to."""
    groups = given.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else given
    size = weights.get("group_size", given.get("q_group_size"))
    size = size if isinstance(size, int) and size < 2**31 else None
    if method == "mxfp4":
        return 1 / (32 * 0.5)
    if "fp4" in formats and method != "bitsandbytes":
        return 1 / ((size if isinstance(size, int) and size > 0 else 16) * 0.5)
    if method == "bitsandbytes" or not isinstance(size, int) or size <= 0:
        return 0.0
    zero = weights.get("zero_point", not weights.get("symmetric", weights.get("sym", False)))
    each = max((BYTES[dtype] for dtype in formats), default=1.0)
    return (2.0 + each * bool(zero)) / (size * each)


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
    if not isinstance(kind[1], int) or kind not in _BITS:
        raise ValueError(f"weights of {kind[1]} bits ({kind[0]}) are not known here")
    return _BITS[kind], tuple(_texts(group, "targets")) or ("Linear",)


def _kept(given: Mapping[str, Any]) -> Sequence[str]:
    """Names of modules that stay as they were."""
    for key in ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"):
        if given.get(key):
            return _texts(given, key)
    return ()


def _texts(given: Mapping[str, Any], key: str) -> list[str]:
    """The names in a list; ValueError where none is."""
    found = given.get(key) or ()
    if not isinstance(found, list | tuple):
        raise ValueError(f"a list of modules is due in {key}, not {str(found)[:40]!r}")
    return [str(each) for each in found]


def _meant(name: str, targets: Sequence[str]) -> bool:
    return any(each == "Linear" or _matches(name, each) for each in targets)


@cache
def _expression(text: str) -> re.Pattern[str]:
    """A regular expression of a file; ValueError if it is none, or could take for ever."""
    if len(text) > 300 or len(re.findall(r"[*+{]", text)) > 5 or re.search(r"\)[*+{]", text):
        raise ValueError(f"the pattern {text[:60]!r} is too involved to be matched")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} is no regular expression: {error}") from None


def _matches(name: str, pattern: str) -> bool:
    """Whether a module is named by `pattern`: a regular expression after `re:`, a glob, or a part
    of its name."""
    if pattern.startswith("re:"):
        return re.match(_expression(pattern[3:]), name) is not None
    if "*" in pattern:
        return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
    return f".{pattern}." in f".{name}."
