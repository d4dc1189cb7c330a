"""A model from its published Hugging Face `config.json`: sizes only; nothing is run or fetched.

Of a model of images or sound, the text model is read, and a note says so. Refused by name: linear
and sparse attention, gated shared experts. Ignored, for they change no sizes: RoPE (but for the
context that it is stretched to), which groups of experts a token may choose from, soft-caps, scales
of embeddings and residuals, and the layers for multi-token prediction.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from sim.catalog.quantized import stored
from sim.graph.model import Experts, Latent, Model, Stored
from sim.text.outside import bounded, meeting, read_text
from sim.text.strict_yaml import Fault, ScenarioError, nearest

# What each count of a config is of (a key of `sim.text.outside.MOST`); others are of tokens.
_COUNTED = {
    "num_hidden_layers": "layers",
    "first_k_dense_replace": "layers",
    "max_window_layers": "layers",
    "dense_attention_every_n_layers": "layers",
    "sliding_window_pattern": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "heads",
    "vocab_size": "vocabulary",
    **dict.fromkeys(
        (
            "num_local_experts",
            "n_routed_experts",
            "num_experts",
            "num_experts_per_tok",
            "experts_per_token",
            "n_shared_experts",
        ),
        "experts",
    ),
    **dict.fromkeys(
        (
            "hidden_size",
            "intermediate_size",
            "ff_intermediate_size",
            "moe_intermediate_size",
            "head_dim",
            "kv_lora_rank",
            "q_lora_rank",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
        ),
        "width",
    ),
}


class _Family(NamedTuple):
    """What a `model_type` leaves unsaid: its own code's defaults."""

    ffn: str = "intermediate_size"
    tied: bool = False
    qkv_bias: bool = False  # where the config has no `attention_bias`
    qk_norm: bool = False
    o_bias: bool = True  # `attention_bias` is of the output projection too
    o_bias_key: str = ""  # where that has a key of its own
    windowed: bool = False  # heeds `sliding_window` without `use_sliding_window`
    # where the config has no `layer_types`: all layers have a window but each so-manieth
    dense_every: int = 0
    norms: int = 2  # of a layer
    experts: tuple[str, str, str] | None = (
        None  # keys of: how many there are, how many a token goes to, their width
    )
    latent: bool = False
    mlp_bias: bool = False  # where the config has no `mlp_bias`
    sinks: bool = False


_MIXTRAL = ("num_local_experts", "num_experts_per_tok", "intermediate_size")
_DEEPSEEK = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
FAMILIES: dict[str, _Family] = {
    "llama": _Family(),
    "smollm": _Family(),
    "mistral": _Family(windowed=True),
    "qwen2": _Family(qkv_bias=True, o_bias=False),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
        _Family(qkv_bias=True, o_bias=False),
    ),
    "qwen3": _Family(qk_norm=True),
    "phi3": _Family(windowed=True),
    "mixtral": _Family(experts=_MIXTRAL, windowed=True),
    "qwen3_moe": _Family(
        qk_norm=True, experts=("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    ),
    "deepseek_v2": _Family(experts=_DEEPSEEK, latent=True),
    "deepseek_v3": _Family(experts=_DEEPSEEK, latent=True),
    "kimi_k2": _Family(experts=_DEEPSEEK, latent=True),
    "gpt_oss": _Family(
        qkv_bias=True,
        windowed=True,
        dense_every=2,
        mlp_bias=True,
        sinks=True,
        experts=_MIXTRAL,
    ),
    "phi3small": _Family(ffn="ff_intermediate_size", tied=True, qkv_bias=True, o_bias=False),
    "glm4_moe": _Family(experts=_DEEPSEEK, o_bias=False),
    "granite": _Family(),
    "cohere": _Family(tied=True, norms=1),
    "cohere2": _Family(tied=True, norms=1, windowed=True, dense_every=4),
    "smollm3": _Family(tied=True),
    "seed_oss": _Family(qkv_bias=True, o_bias=False, o_bias_key="attention_out_bias"),
    "gemma": _Family(tied=True),
    "gemma2": _Family(tied=True, norms=4, windowed=True, dense_every=2),
    "gemma3_text": _Family(tied=True, norms=4, qk_norm=True, windowed=True, dense_every=6),
}
# Families whose experts were measured, with so many of them: the profile in `sim/catalog/routing`.
MEASURED = {("deepseek_v3", 256): "deepseek-v3-mmlu"}
# Where the text model of a model of several kinds of input stands, if it is a mapping within the
# config, and what it is where that does not say.
_WITHIN = ("text_config", "llm_config", "language_config")
_TEXT_OF = {"kimi_k25": "kimi_k2", "gemma3": "gemma3_text", "llava": "llama"}
_SENSES = ("vision_config", "audio_config")
# One number under the names of several families; newer versions of a library save it under
# another's.
_NAMES = (
    ("n_routed_experts", "num_local_experts", "num_experts"),
    ("num_experts_per_tok", "experts_per_token"),
)
_EXPERTS = "a mixture of experts in this family"
_LATENT = "multi-head latent attention in this family"
# Keys that a family without them must not have, and what they stand for.
_FOREIGN = {
    "num_experts": _EXPERTS,
    "num_local_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "num_experts_per_tok": _EXPERTS,
    "moe_intermediate_size": _EXPERTS,
    "kv_lora_rank": _LATENT,
    "q_lora_rank": _LATENT,
}
# Keys of architectures that have no op graph here, and what they stand for.
_NOT_MODELLED = {
    "full_attention_interval": "linear attention",
    "linear_num_key_heads": "linear attention",
    "index_topk": "sparse attention",
    "shared_expert_intermediate_size": "a shared expert with a gate",
    "ssm_state_size": "a state-space layer",
    "is_encoder_decoder": "an encoder-decoder",
}


def model(path: Path) -> Model:
    """The model that the config at `path` describes; ScenarioError with every fault at once."""
    config = _Config(path)
    try:
        with meeting(""):
            return _model(config, path)
    except ScenarioError:
        raise
    except ValueError as error:
        config.fault(config.last, str(error))
        raise ScenarioError(config.faults) from error


def _model(config: _Config, path: Path) -> Model:
    formats, notes = _stored(config)
    notes += _entered(config)
    kind = config.data.get("model_type")
    family = FAMILIES.get(str(kind))
    own = (family and family.experts and _EXPERTS, family and family.latent and _LATENT)
    for key, what in (_NOT_MODELLED | _FOREIGN).items():
        if config.data.get(key) and what not in own:
            config.fault(key, f"{what} is not modelled yet")
    if family is None:
        config.fault(
            "model_type",
            f"{_shown(kind)} is not modelled yet{nearest(kind, FAMILIES)}; there are "
            f"{', '.join(FAMILIES)}",
        )
    config.stop()
    assert family is not None
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    layers = config.count("num_hidden_layers")
    head_dim = config.count("head_dim", hidden // max(heads, 1))
    kv_heads = config.count("num_key_value_heads", heads)
    max_tokens = _context(config)
    if heads % max(kv_heads, 1):
        config.fault(
            "num_key_value_heads", f"{heads} heads cannot share {kv_heads} KV heads evenly"
        )
    attention, window, stride = _attention(config, family, layers, max_tokens)
    latent, experts = _latent(config) if family.latent else None, _experts(config, family, layers)
    bias = config.flag("attention_bias", family.qkv_bias)
    o_bias = config.flag(family.o_bias_key, False) if family.o_bias_key else bias and family.o_bias
    if latent:
        kv_heads, head_dim = heads, latent.value
    if (family.latent and bias) or (family.mlp_bias and not bias):
        config.fault(
            "attention_bias", f"only {str(not bias).lower()} is modelled yet in this family"
        )
    qk_norm = config.flag("use_qk_norm", family.qk_norm)
    if qk_norm and family.norms == 1:
        config.fault("use_qk_norm", "a norm over all heads is not modelled yet")
    ffn, vocab = config.count(family.ffn), config.count("vocab_size")
    tied = config.flag("tie_word_embeddings", family.tied)
    mlp_bias = config.flag("mlp_bias", family.mlp_bias)
    config.stop()
    if family.norms != 2:
        notes.append(f"a layer has {family.norms} norms, of which two are played")
    return Model(
        name=path.resolve().parent.name if path.name == "config.json" else path.stem,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
        latent=latent,
        experts=experts,
        gated=True,
        tied_embeddings=tied,
        qkv_bias=family.qkv_bias or bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        norms=family.norms,
        sinks=family.sinks,
        attention=attention,
        window_tokens=window,
        sparse_stride=stride,
        max_tokens=max_tokens,
        stored=formats._replace(
            mlp="" if experts and not experts.shared_ffn + experts.first_dense else formats.mlp,
            experts=formats.experts if experts else "",
        ),
        routing=MEASURED.get((str(kind), experts.routed), "") if experts else "",
        source=str(path),
        notes=tuple(notes),
    )


def _stored(config: _Config) -> tuple[Stored, list[str]]:
    """The formats of the weights, and what is to be said of them."""
    beside = config.path.parent / "hf_quant_config.json"
    own = config.data
    for key in _WITHIN:  # some keep it with the text model
        if "quantization_config" not in own and isinstance(own.get(key), dict):
            own = own[key] if "quantization_config" in own[key] else own
    try:
        return stored(own, _Config(beside).data if beside.is_file() else None), []
    except ValueError as error:
        return Stored(), [
            f"{error}; weights are taken as 16 bits unless `precision` says otherwise"
        ]


def _entered(config: _Config) -> list[str]:
    """Read on in the text model of a model of several kinds of input; what that leaves out."""
    kind = str(config.data.get("model_type"))
    within = next((key for key in _WITHIN if config.data.get(key)), "")
    senses = [key for key in _SENSES if config.data.get(key)]
    if kind in _TEXT_OF and not within:
        within = _WITHIN[0]
    config.enter(within)
    own = str(config.data.setdefault("model_type", _TEXT_OF.get(kind)))
    if within and kind in FAMILIES and own not in FAMILIES:
        config.fault(within, f"the text model of a {kind} is not modelled yet")
    if not within and not senses:
        return []
    return [f"of {kind} only the text model is simulated, without what reads images or sound"]


def _context(config: _Config) -> int:
    """The longest context, as engines derive it: stretched by RoPE, unless that is within the
    number already."""
    most = config.count("max_position_embeddings", 0)
    rope = config.data.get("rope_scaling") or config.data.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        config.fault("rope_scaling", f"a mapping is due, not {_shown(rope)}")
        return most
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor", 1.0)
    if kind in (None, "default", "llama3", "longrope", "su", "mrope") or not most:
        return most
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
        config.fault("rope_scaling", f"a positive factor is due, not {_shown(factor)}")
        return most
    if kind == "yarn":
        most = rope.get("original_max_position_embeddings") or most
    try:
        if isinstance(most, bool) or not isinstance(most, int):
            raise ValueError(f"a whole number of tokens is due, not {_shown(most)}")
        return bounded("context", most * factor)
    except (ValueError, OverflowError) as error:
        config.fault("rope_scaling", str(error))
        return 1


def _latent(config: _Config) -> Latent:
    sizes = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    kv_rank, rope, nope, value = (config.count(key) for key in sizes)
    return Latent(kv_rank, rope, nope, value, config.count("q_lora_rank", 0, least=0))


def _experts(config: _Config, family: _Family, layers: int) -> Experts | None:
    if family.experts is None:
        return None
    routed, chosen, ffn = (config.named(key) for key in family.experts)
    if chosen > routed:
        config.fault(family.experts[1], f"a token cannot be sent to {chosen} of {routed} experts")
    for key in ("moe_layer_freq", "decoder_sparse_step"):
        if config.data.get(key) not in (None, 1):
            config.fault(
                key,
                f"only 1, experts in every layer, is modelled yet, not {_shown(config.data[key])}",
            )
    if config.data.get("mlp_only_layers"):
        config.fault(
            "mlp_only_layers", "layers without experts among the others are not modelled yet"
        )
    shared = config.count("n_shared_experts", 0, least=0)
    return Experts(
        routed,
        chosen,
        ffn,
        shared * ffn,
        min(config.count("first_k_dense_replace", 0, least=0), layers),
    )


def _attention(
    config: _Config, family: _Family, layers: int, max_tokens: int
) -> tuple[tuple[str, ...], int, int]:
    """(pattern of the layers, window, stride of the sparse part)."""
    if config.data.get("model_type") == "phi3small":
        every = config.count("dense_attention_every_n_layers", 0)
        window = config.count("blocksparse_block_size") * config.count(
            "blocksparse_num_local_blocks"
        )
        stride = config.count("blocksparse_vert_stride")
        # Layer i (from 0) is dense when i + 1 is a multiple of `every`.
        pattern = (*["blocksparse"] * (every - 1), "dense") if every else ("blocksparse",)
        return (pattern, window, stride) if "blocksparse" in pattern else (pattern, 0, 0)
    if not (family.windowed or config.flag("use_sliding_window", False)):
        return ("dense",), 0, 0
    every = config.count("sliding_window_pattern", family.dense_every, least=0)
    window = config.count(
        "sliding_window", None if every and "sliding_window" not in config.data else 0
    )
    if not window or (
        max_tokens and window >= max_tokens
    ):  # as wide as the longest context: never felt
        return ("dense",), 0, 0
    kinds = {"full_attention": "dense", "sliding_attention": "window"}
    types = config.data.get("layer_types")
    if types is None and every:
        types = [f"{('full', 'sliding')[(i + 1) % every > 0]}_attention" for i in range(layers)]
    elif types is None:
        first = 0 if family.windowed else config.count("max_window_layers", layers)
        types = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(
            layers - first, 0
        )
    other = [kind for kind in types if str(kind) not in kinds] if isinstance(types, list) else types
    if not isinstance(types, list) or not types or other:
        what = _shown(other[0] if isinstance(types, list) and other else types)
        config.fault("layer_types", f"only {' and '.join(kinds)} are modelled yet, not {what}")
        return ("dense",), 0, 0
    if len(types) != layers:
        config.fault("layer_types", f"one for each of {layers} layers is due, not {len(types)}")
    found = tuple(kinds[kind] for kind in types)
    periods = (found[:n] for n in range(1, len(found) + 1))
    found = next(each for each in periods if found == (each * len(found))[: len(found)])
    return found, window if "window" in found else 0, 0


class _Config:
    """The file's keys, and the faults found while reading them."""

    def __init__(self, path: Path) -> None:
        self.path, self.text, self.start = path, _text(path), 0
        self.faults: list[Fault] = []
        self.last = ""  # of the keys, that was looked at
        try:
            self.data = json.loads(self.text, object_pairs_hook=self._once)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            raise ScenarioError([Fault(str(path), line, "", f"not valid JSON: {error}")]) from None
        if not isinstance(self.data, dict):
            raise ScenarioError([Fault(str(path), 1, "", "a JSON object is due")])

    def enter(self, key: str) -> None:
        """Read on in the mapping at `key`; stay with no key."""
        if not key:
            return
        given = self.data.get(key)
        if not isinstance(given, dict):
            self.fault(
                key,
                "this key is missing"
                if given is None
                else f"a mapping is due, not {_shown(given)}",
            )
            self.stop()
        self.data, self.start = given, self.text.find(f'"{key}"')

    def fault(self, key: str, what: str) -> None:
        at = self.text.find(f'"{key}"', self.start)
        self.faults.append(
            Fault(str(self.path), self.text.count("\n", 0, at) + 1 if at >= 0 else 1, key, what)
        )

    def stop(self) -> None:
        if self.faults:
            raise ScenarioError(sorted(set(self.faults), key=lambda fault: fault.line))

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number, positive or `least`; `default` where the key is absent or null."""
        value = self.data.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            due = f"a {'positive ' if least else ''}whole number is due, not {_shown(value)}"
            self.fault(key, "this key is missing" if value is None else due)
            return 1
        try:
            return bounded(_COUNTED.get(key, "context"), value)
        except ValueError as error:
            self.fault(key, str(error))
            return 1

    def named(self, key: str) -> int:
        """`count` of `key`, which may have the name of another family."""
        names = next((names for names in _NAMES if key in names), (key,))
        given = [name for name in names if self.data.get(name) is not None] or [key]
        for other in given[1:]:
            if self.data[other] != self.data[given[0]]:
                here, there = _shown(self.data[other]), _shown(self.data[given[0]])
                self.fault(other, f"{here} here, but {given[0]} is {there}")
        return self.count(given[0])

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is not None and not isinstance(value, bool):
            self.fault(key, f"true or false is due, not {_shown(value)}")
        return default if value is None else bool(value)

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = _Keys(pairs)
        found.of = self
        if len(found) < len(pairs):
            for key, count in sorted(Counter(key for key, _ in pairs).items()):
                if count > 1:
                    self.fault(key, "this key is given twice")
        return found


class _Keys(dict[str, Any]):
    """An object of the file, which notes what is looked at: where a reader fails, it was there."""

    of: _Config

    def get(self, key: str, default: Any = None) -> Any:
        """What stands at a key."""
        self.of.last = key
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.of.last = key
        return super().__getitem__(key)


_shown = reprlib.repr  # a value in a message, cut short


def _text(path: Path) -> str:
    try:
        return read_text(path, "config bytes")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ScenarioError([Fault(str(path), 0, "", f"cannot be read: {why}")]) from None
