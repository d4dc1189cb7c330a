"""A language model and its tokenizer from the folder of a Hugging Face checkpoint.

Read are `config.json`, `*.safetensors` and `tokenizer.json`, of the families llama, mistral, qwen2
and qwen3. Files of pickled tensors (`*.bin`) are not loaded: they can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch

from sim.learn.decoder import Decoder, Sizes, decoder_of
from sim.learn.gguf_file import sha256_of
from sim.learn.tokens import Tokens, from_json

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_LAYER = "model.layers.{i}."
_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": f"{_LAYER}input_layernorm.weight",
    "ffn_norm": f"{_LAYER}post_attention_layernorm.weight",
    **{key: f"{_LAYER}self_attn.{key}_proj.weight" for key in "qkvo"},
    **{f"{key}_bias": f"{_LAYER}self_attn.{key}_proj.bias" for key in "qkvo"},
    **{f"{key}_norm": f"{_LAYER}self_attn.{key}_norm.weight" for key in "qk"},
    **{key: f"{_LAYER}mlp.{key}_proj.weight" for key in ("gate", "up", "down")},
}


def read_folder(folder: Path) -> tuple[Decoder, Tokens]:
    """The model and its tokenizer. ValueError, with the file: absent, damaged, another family."""
    config = _json(folder / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"{folder / 'config.json'}: a model of the family {family!r}; read are "
            f"{', '.join(FAMILIES)}"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no *.safetensors there (*.bin files are not loaded)")
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        context = config["max_position_embeddings"]
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        sizes = Sizes(
            name=folder.resolve().name,
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            rope_theta=_rope(config).get("rope_theta") or config.get("rope_theta", 10_000.0),
            epsilon=config["rms_norm_eps"],
            pairs="halves",
            context=min(context, window or context),
            sha256=_hash_of(files),
        )
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'}: no key {error}") from None
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= _tensors(file)
    factors = _factors(folder, config, sizes)
    return decoder_of(sizes, tensors, _NAMES, factors), _tokens(folder, config)


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file.parent}: no {file.name} there") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None


def _hash_of(files: list[Path]) -> str:
    """Of the file; of several, of their hashes in order of name."""
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or truncated: {error}") from None
    if odd := next((name for name, each in found.items() if not each.is_floating_point()), None):
        raise ValueError(f"{file}: {odd} is quantised; give the checkpoint in 16 or 32 bits")
    return {name: each.float() for name, each in found.items()}


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _factors(folder: Path, config: dict[str, Any], sizes: Sizes) -> torch.Tensor | None:
    """By which each frequency of RoPE is divided; of Llama 3.1, as its config says."""
    rope = _rope(config)
    way = rope.get("rope_type", rope.get("type", "default"))
    if way == "default":
        return None
    if way == "linear":
        return torch.full((sizes.head_dim // 2,), float(rope["factor"]))
    if way != "llama3":
        raise ValueError(
            f"{folder / 'config.json'}: RoPE is scaled by {way!r}; modelled are linear and llama3"
        )
    factor, old = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    d = sizes.head_dim
    rate = sizes.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    turns = old * rate / (2 * math.pi)  # within the old context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / (smooth + (1 - smooth) / factor)


def _tokens(folder: Path, config: dict[str, Any]) -> Tokens:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise ValueError(f"{folder}: no tokenizer.json there")
    try:
        tokens = from_json(file, None)
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{file}: {error}") from None
    with_special = tokens.tokenizer.encode("a").ids
    begins = len(with_special) > 1 and with_special[0] == config.get("bos_token_id")
    return tokens._replace(bos=with_special[0] if begins else None)
