"""Weights as published checkpoints store them: bytes against sums by hand, and what a step takes.

Counted are the numbers themselves, of matrices, embedding, LM head and norms of layers; not scales,
zero points and biases.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from machines import occupied, read_bytes

import sim
from sim import catalog
from sim.graph.batch import decode_batch
from sim.graph.parallel import Parallel
from sim.graph.transformer import transformer
from sim.machine.pod import precision_of
from sim.scenario.machine import Precision as Asked

FP16 = 2.0
DENSE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
QWEN3_FP8 = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": [
            "lm_head",
            *(f"model.layers.{i}.{n}_layernorm" for i in range(36) for n in ("input", "post")),
        ],
    },
}
GPT_OSS_MXFP4 = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "attention_bias": True,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
NVFP4 = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head", "model.layers.0.mlp*", "model.layers.31*"],
    },
}
QWEN2_AWQ = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "quantization_config": {
        "bits": 4,
        "group_size": 128,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
}
W8A8 = DENSE | {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "int",
                    "strategy": "channel",
                    "symmetric": True,
                },
                "input_activations": {"num_bits": 8, "type": "int", "dynamic": True},
            }
        },
        "ignore": ["lm_head"],
    }
}


def attention(hidden: int, heads: int, kv_heads: int, head: int) -> float:
    """Elements of q, k, v and o."""
    return hidden * head * (heads + 2 * kv_heads) + heads * head * hidden


# Elements of a layer's attention, and of its MLP or one expert.
QWEN3 = attention(4096, 32, 8, 128), 3 * 4096 * 12288
OSS = attention(2880, 64, 8, 64), 3 * 2880 * 2880
LLAMA = attention(4096, 32, 8, 128), 3 * 4096 * 14336
QWEN2 = attention(3584, 28, 4, 128), 3 * 3584 * 18944


class Case(NamedTuple):
    """A checkpoint, and sums over its layers in bytes: what HBM holds of the matrices, and what one
    token reads of them; the scenario's formats that are the same, if any, and what is said."""

    config: dict
    beside: dict | None
    held: float
    read: float
    by_hand: dict[str, str] | None
    said: str


CASES = {
    "fp8 in blocks": Case(
        QWEN3_FP8, None, *[36 * sum(QWEN3) * 1.0] * 2, {"weights": "fp8"}, "(fp8)"
    ),
    "mxfp4": Case(
        GPT_OSS_MXFP4,
        None,
        24 * (OSS[0] * FP16 + 2880 * 32 * FP16 + 32 * OSS[1] * 0.5),  # attention, router, experts
        24 * (OSS[0] * FP16 + 2880 * 32 * FP16 + 4 * OSS[1] * 0.5),
        {"weights": "fp16", "experts": "fp4"},
        "scales of 6.25 % more bytes not counted",
    ),
    "nvfp4, first MLP and last layer kept": Case(
        DENSE,
        NVFP4,
        *[(31 * LLAMA[0] + 30 * LLAMA[1]) * 0.5 + (LLAMA[0] + 2 * LLAMA[1]) * FP16] * 2,
        None,
        "fp16 (attention of layer 31), fp16 (mlp of layers 0, 31), as hf_quant_config.json "
        "(nvfp4, scales of 12.5 % more bytes not counted)",
    ),
    "awq": Case(
        QWEN2_AWQ,
        None,
        *[28 * sum(QWEN2) * 0.5] * 2,
        {"weights": "int4"},
        "(awq, scales of 3.91 % more bytes not counted)",
    ),
    "w8a8": Case(
        W8A8, None, *[32 * sum(LLAMA) * 1.0] * 2, {"weights": "int8"}, "(compressed-tensors)"
    ),
}
STEP = """\
question: How long is a step?
pod: {{topology: dgx_h100}}
model: {model}
workload: {{kind: decode, batch: 1, prompt_tokens: 16, output_tokens: 3}}
"""


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    found = CASES[request.param]
    (tmp_path / "config.json").write_text(json.dumps(found.config))
    if found.beside:
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(found.beside))
    return found, str(tmp_path / "config.json")


def test_bytes_of_weights_are_those_summed_by_hand(case):
    found, path = case
    model = catalog.model(path)
    precision, _ = precision_of(Asked(), model)
    hidden, vocab = model.hidden, model.vocab
    table, norms = vocab * hidden * FP16, 2 * model.layers * hidden * FP16
    held = occupied(model, precision, Parallel()).weight_bytes
    assert held == pytest.approx(found.held + 2 * table + norms, rel=1e-12)
    step = transformer(model, precision, Parallel(), decode_batch([17]))
    row = hidden * FP16  # of the embedding
    assert read_bytes(step, "weight") == pytest.approx(found.read + table + row, rel=1e-12)


def test_a_step_lasts_as_long_as_its_bytes_and_as_with_the_formats_given_by_hand(case, tmp_path):
    found, path = case
    file = tmp_path / "step.yaml"
    file.write_text(STEP.format(model=path))
    result = sim.run(file)
    [said] = [line for line in result.warnings if "weights are" in line]
    assert found.said in said
    tpot_s = result.variants["run"]["metrics"]["tpot_mean_s"]
    table = found.config["vocab_size"] * found.config["hidden_size"] * FP16
    least_s = (found.read + table) / catalog.device("h100_sxm").hbm_bytes_per_s
    assert least_s < tpot_s < 4 * least_s  # few bytes in many kernels
    wide = sim.run(file, {"precision.weights": "fp16"}).variants["run"]["metrics"]["tpot_mean_s"]
    assert tpot_s < wide
    if found.by_hand:
        same = sim.run(file, {f"precision.{part}": dtype for part, dtype in found.by_hand.items()})
        assert same.variants["run"]["metrics"]["tpot_mean_s"] == tpot_s


def test_what_is_stored_in_several_ways_within_a_part_is_said(tmp_path):
    """One of three modules is kept in 16 bits; and what the scenario gives goes before the file."""
    groups = W8A8["quantization_config"] | {"ignore": ["lm_head", "re:.*down_proj"]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DENSE | {"quantization_config": groups}))
    model = catalog.model(str(path))
    assert model.stored[:3] == ("int8", "int8", "")
    assert "32 of 96 modules of mlp otherwise" in model.stored.told
    groups = W8A8["quantization_config"] | {"ignore": ["re:.*layers.3.mlp", "re:.*s.5.self_attn.*"]}
    path.write_text(json.dumps(DENSE | {"quantization_config": groups}))
    model = catalog.model(str(path))
    assert model.stored.layers == ((5, "attention", ""), (3, "mlp", ""))
    precision, said = precision_of(Asked(attention="fp8"), model)
    assert precision.layers == ((3, "weights", "fp16"),) and "layer 3" in said
    assert precision.of_layer(3).stored() == "fp16"
    assert precision.of_layer(3).stored("attention") == precision.of_layer(5).stored("attention")
    assert precision_of(Asked(weights="fp8"), model)[0].layers == ()
