"""Language models of a few thousand weights, in the formats of real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HIDDEN, HEADS, KV_HEADS, D, FFN = 3, 32, 4, 2, 8, 48


def weights(seed: int = 0, family: str = "llama") -> dict[str, np.ndarray]:
    """Under Hugging Face's names, RoPE in halves."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return draw.normal(0, scale, shape).astype(np.float32)

    made = {
        "model.embed_tokens.weight": normal(len(vocabulary()), HIDDEN, scale=1.0),
        "model.norm.weight": 1 + normal(HIDDEN, scale=0.1),
    }
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        made[f"{at}input_layernorm.weight"] = 1 + normal(HIDDEN, scale=0.1)
        made[f"{at}post_attention_layernorm.weight"] = 1 + normal(HIDDEN, scale=0.1)
        for key, rows in (("q", HEADS * D), ("k", KV_HEADS * D), ("v", KV_HEADS * D)):
            made[f"{at}self_attn.{key}_proj.weight"] = normal(rows, HIDDEN)
            if family == "qwen2":
                made[f"{at}self_attn.{key}_proj.bias"] = normal(rows)
            if family == "qwen3" and key != "v":
                made[f"{at}self_attn.{key}_norm.weight"] = 1 + normal(D, scale=0.1)
        made[f"{at}self_attn.o_proj.weight"] = normal(HIDDEN, HEADS * D)
        made[f"{at}mlp.gate_proj.weight"] = normal(FFN, HIDDEN)
        made[f"{at}mlp.up_proj.weight"] = normal(FFN, HIDDEN)
        made[f"{at}mlp.down_proj.weight"] = normal(HIDDEN, FFN)
    return made


def vocabulary() -> list[str]:
    """All bytes as byte-level BPE writes them, a merge, and a special token."""
    from tokenizers import pre_tokenizers

    return ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def write_folder(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A Hugging Face checkpoint."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(family=family), folder / "model.safetensors")
    config = {
        "model_type": family,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": D,
        "vocab_size": len(vocabulary()),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(vocabulary())}, merges=[("t", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.": "ffn_",
    "_proj": "",
}


def write_gguf(path: Path, family: str = "llama", odd: bool = False, **changes: Any) -> Path:
    """The same model as llama.cpp converts it; `odd`: a tensor of a kind that nobody reads."""
    from gguf import GGUFWriter, TokenType

    arch = changes.pop("arch", family)
    writer = GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(changes.pop("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.pop("pre", "gpt-2"))
    writer.add_token_list(vocabulary())
    kinds = [TokenType.CONTROL, *[TokenType.NORMAL] * (len(vocabulary()) - 1)]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    for name, value in weights(family=family).items():
        if family == "llama" and (".q_proj.weight" in name or ".k_proj.weight" in name):
            value = _adjacent(value)
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        if name in changes.get("without", ()):
            continue
        if odd and name == "blk.1.ffn_up.weight":
            writer.add_tensor(name, value.astype(np.int8))
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _adjacent(rows: np.ndarray) -> np.ndarray:
    """Rows of Q or K from halves to adjacent pairs, as llama.cpp's conversion permutes them."""
    heads = rows.shape[0] // D
    return rows.reshape(heads, 2, D // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def some_text(words: int = 6_000, seed: int = 0) -> str:
    """Lines of words, drawn from a short list by a skewed law."""
    draw = np.random.default_rng(seed)
    known = ["the", "of", "and", "machine", "memory", "cache", "reads", "layer", "token", "their"]
    picked = draw.choice(known, words, p=(p := 1 / np.arange(1, len(known) + 1)) / p.sum())
    return "\n".join(" ".join(picked[i : i + 12]) for i in range(0, words, 12)) + "\n"
