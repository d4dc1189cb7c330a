"""A language model and its tokenizer from one GGUF file (the format of llama.cpp).

Weights are dequantised to float32 by the package `gguf`. Llama and Mistral files keep the rows of Q
and K permuted, so that RoPE turns adjacent dimensions; Qwen files do not.
Source: ggml's docs/gguf.md; the conversion script of llama.cpp.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch

from sim.learn.decoder import Decoder, Sizes, decoder_of
from sim.learn.tokens import Tokens, byte_level

_PAIRS: dict[str, Literal["adjacent", "halves"]] = {
    "llama": "adjacent",
    "qwen2": "halves",
    "qwen3": "halves",
}
_NAMES = {
    "embedding": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "blk.{i}.attn_norm.weight",
    "ffn_norm": "blk.{i}.ffn_norm.weight",
    "q": "blk.{i}.attn_q.weight",
    "k": "blk.{i}.attn_k.weight",
    "v": "blk.{i}.attn_v.weight",
    "o": "blk.{i}.attn_output.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
    "q_bias": "blk.{i}.attn_q.bias",
    "k_bias": "blk.{i}.attn_k.bias",
    "v_bias": "blk.{i}.attn_v.bias",
    "o_bias": "blk.{i}.attn_output.bias",
    "q_norm": "blk.{i}.attn_q_norm.weight",
    "k_norm": "blk.{i}.attn_k_norm.weight",
}


def read_gguf(path: Path) -> tuple[Decoder, Tokens]:
    """The model and its tokenizer. ValueError, with the file: damaged, or of another family."""
    from gguf import GGUFReader

    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path}: not a GGUF file (it begins with {magic!r})")
    try:
        reader = GGUFReader(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, UnicodeError) as error:
        raise ValueError(f"{path}: damaged or truncated: {error}") from None
    fields = _Fields(path, reader)
    family = fields["general.architecture"]
    if family not in _PAIRS:
        raise ValueError(
            f"{path}: a model of the family {family!r}; read are {', '.join(sorted(_PAIRS))}"
        )
    heads = fields[f"{family}.attention.head_count"]
    hidden = fields[f"{family}.embedding_length"]
    context = fields[f"{family}.context_length"]
    sizes = Sizes(
        name=path.stem,  # `general.name` often is that of a training run
        layers=fields[f"{family}.block_count"],
        heads=heads,
        kv_heads=fields.get(f"{family}.attention.head_count_kv", heads),
        head_dim=fields.get(f"{family}.attention.key_length", hidden // heads),
        vocabulary=len(fields["tokenizer.ggml.tokens"]),
        rope_theta=fields.get(f"{family}.rope.freq_base", 10_000.0),
        epsilon=fields[f"{family}.attention.layer_norm_rms_epsilon"],
        pairs=_PAIRS[family],
        context=min(context, fields.get(f"{family}.attention.sliding_window", 0) or context),
        sha256=sha256_of(path),
    )
    scaling = fields.get(f"{family}.rope.scaling.type", "none")
    if scaling not in ("none", None):
        raise ValueError(f"{path}: RoPE is scaled by {scaling!r}, which is not modelled")
    factors = tensors.get("rope_freqs.weight")
    decoder = decoder_of(
        sizes,
        {name: _weights(path, tensor) for name, tensor in tensors.items()},
        _NAMES,
        None if factors is None else torch.from_numpy(factors.data.copy()),
    )
    return decoder, _tokens(path, fields)


def sha256_of(path: Path) -> str:
    """Of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Fields:
    """Metadata by key."""

    def __init__(self, path: Path, reader: Any) -> None:
        self.path, self.fields = path, reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        return self.fields[key].contents() if key in self.fields else default

    def __getitem__(self, key: str) -> Any:
        if key not in self.fields:
            raise ValueError(f"{self.path}: no metadata {key!r}")
        return self.fields[key].contents()


def _weights(path: Path, tensor: Any) -> torch.Tensor:
    """In float32, [out, in]."""
    from gguf import dequantize

    kind = tensor.tensor_type.name
    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: {tensor.name} is quantised as {kind}, which the package gguf does not "
            f"dequantise ({error}); requantise it to Q8_0 or F16"
        ) from None
    return torch.from_numpy(values.astype("float32", copy=True))


def _tokens(path: Path, fields: _Fields) -> Tokens:
    model = fields["tokenizer.ggml.model"]
    if model != "gpt2":
        raise ValueError(
            f"{path}: its tokenizer is {model!r}, and only byte-level BPE (gpt2) is read from "
            "GGUF; give the checkpoint's folder, whose tokenizer.json is read"
        )
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    bos = fields.get("tokenizer.ggml.bos_token_id")
    return byte_level(
        f"{path}",
        tokens,
        fields["tokenizer.ggml.merges"],
        fields.get("tokenizer.ggml.pre", "default"),
        [token for token, kind in zip(tokens, kinds) if kind == 3],
        bos if fields.get("tokenizer.ggml.add_bos_token", False) else None,
    )
