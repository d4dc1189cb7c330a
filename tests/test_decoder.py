"""A decoder as matrix products: the same MACs as its op graph, but for what stands in the
module."""

from __future__ import annotations

import pytest

from sim import catalog
from sim.dnn.decoder import decoder
from sim.dnn.gemms import Dnn
from sim.graph.batch import decode_batch, prefill_batch
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.graph.work import SOFTMAX_FLOP

BATCH, CONTEXT = 4, 300


def _flop_by_op(name: str, phase: str) -> dict[str, float]:
    """FLOP of the matrix engine in the op graph, by op."""
    model = catalog.model(name)
    batch = (
        decode_batch([CONTEXT] * BATCH) if phase == "decode" else prefill_batch([CONTEXT] * BATCH)
    )
    found: dict[str, float] = {}
    for layer in transformer(model, Precision(), Parallel(), batch).layers:
        for op in layer.ops:
            if op.engine == "matrix" or op.kind in ("attention", "absorb", "naive"):
                found[op.name] = found.get(op.name, 0.0) + op.flop
    return found


def _ops(dnn: Dnn, *parts: str) -> int:
    """Operations of the products whose names end with one of these, head and sequence aside."""
    return sum(
        2 * layer.macs
        for layer in dnn.layers
        if layer.name.split("_", 1)[-1].rstrip("0123456789_") in parts
    )


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["llama3-8b", "qwen2-7b"])
def test_macs_are_those_of_the_op_graph(name: str, phase: str) -> None:
    model, graph = catalog.model(name), _flop_by_op(name, phase)
    dnn = decoder(model, phase=phase, tokens=CONTEXT, batch=BATCH)  # type: ignore[arg-type]
    assert _ops(dnn, "qkv") == graph["qkv"]
    assert _ops(dnn, "o") == graph["o"]
    assert _ops(dnn, "up", "down") == graph["gate_up"] + graph["down"]
    assert _ops(dnn, "head") == graph["lm_head"]
    per_pair = 4 * model.head_dim
    pairs = graph["attention"] / (per_pair + SOFTMAX_FLOP) * per_pair
    whole = (
        pairs if phase == "decode" else pairs * 2 * CONTEXT / (CONTEXT + 1)
    )  # the graph's prefill is causal
    assert _ops(dnn, "qk", "pv") == pytest.approx(whole)


def test_experts_get_equal_shares() -> None:
    model = catalog.model("mixtral-8x7b")
    dnn = decoder(model, phase="decode", tokens=100, batch=6, layers=1)
    rows = [
        layer.m for layer in dnn.layers if "expert" in layer.name and layer.name.endswith("_up")
    ]
    assert model.experts is not None
    assert sum(rows) == 6 * model.experts.chosen
    assert max(rows) - min(rows) <= 1
    assert len(rows) == min(model.experts.routed, 12)


def test_latent_attention_absorbs_in_decode_and_expands_in_prefill() -> None:
    model = catalog.model("deepseek-v3")
    latent = model.latent
    assert latent is not None
    decode = {
        layer.name: layer
        for layer in decoder(model, phase="decode", tokens=99, batch=2, layers=1).layers
    }
    assert (decode["layer1_qk0"].m, decode["layer1_qk0"].n, decode["layer1_qk0"].k) == (
        128,
        latent.cached,
        100,
    )
    assert (decode["layer1_pv1"].n, decode["layer1_pv1"].k) == (100, latent.kv_rank)
    prefill = {
        layer.name: layer
        for layer in decoder(model, phase="prefill", tokens=99, batch=2, layers=1).layers
    }
    assert (prefill["layer1_qk1_127"].m, prefill["layer1_qk1_127"].n) == (99, latent.query)


def test_a_window_bounds_what_decode_sees() -> None:
    model = catalog.model("gpt-oss-20b")
    dnn = decoder(model, phase="decode", tokens=4000, layers=2)
    keys = {layer.k for layer in dnn.layers if "_qk0" in layer.name}
    assert keys == {model.window_tokens, 4001}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": 0}, "at least 1 token"),
        ({"tokens": 5, "layers": 99}, "has 32 layers, not 99"),
        ({"tokens": 5, "layers": 0}, "not 0"),
        ({"tokens": 5, "batch": 0}, "a batch of 1, not 5 and 0"),
    ],
)
def test_bad_sizes(given: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decoder(catalog.model("llama3-8b"), phase="decode", **given)  # type: ignore[arg-type]
