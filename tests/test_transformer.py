"""The transformer graph: FLOP and bytes against formulas by hand, attended pairs against counting
them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import MODEL, occupied, read_bytes, replace

from sim import catalog
from sim.graph.batch import Pattern, attended, decode_batch, prefill_batch
from sim.graph.footprint import require, room
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import BYTES, Precision
from sim.graph.transformer import transformer

FP16 = Precision()
SPARSE = replace(MODEL, attention=("blocksparse",), window_tokens=16, sparse_stride=4)
NAMES = [
    "llama3-8b",
    "llama3-70b",
    "llama3.1-405b",
    "qwen2-7b",
    "qwen2-72b",
    "qwen3-8b",
    "qwen3-32b",
    "phi-3-small",
    "phi-3-medium",
    "smollm2-135m",
]


def matmul_flop(some) -> float:
    return sum(op.flop for _, op in some.ops() if op.kind == "matmul")


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "batch", [decode_batch([100] * 4), prefill_batch([500, 30])], ids=["decode", "prefill"]
)
def test_matmuls_do_two_flop_for_each_parameter_and_token(ranks, batch):
    kv, d = 8 * 128, 4096
    layer = d * (4096 + 2 * kv) + 4096 * d + 3 * d * 14336
    asked = 2 * (batch.tokens * 4 * layer + batch.logits * d * 32000)
    assert matmul_flop(transformer(MODEL, FP16, Parallel(ranks), batch)) * ranks == pytest.approx(
        asked, rel=1e-12
    )


def test_a_model_does_about_two_flop_for_each_of_its_parameters():
    model = catalog.model("llama3-8b")
    done = matmul_flop(transformer(model, FP16, Parallel(1), decode_batch([0])))
    tables = model.vocab * model.hidden  # the embedding is looked up, not multiplied
    assert done == pytest.approx(2 * (model.parameters - tables), rel=1e-3)


@pytest.mark.parametrize(("ranks", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1), (32, 1)])
def test_kv_heads_are_split_then_replicated(ranks, heads):
    asked = transformer(MODEL, FP16, Parallel(ranks), decode_batch([1000, 50]))
    token = 2 * heads * 128 * 2  # keys and values, fp16
    assert read_bytes(asked, "kv") == 4 * (1000 + 50) * token
    assert occupied(MODEL, FP16, Parallel(ranks)).kv_bytes_per_token == 4 * token
    newest = [op.writes[0] for _, op in asked.ops() if op.name == "rope"]
    assert [tensor.nbytes for tensor in newest] == [2 * token] * 4
    assert any("replicated" in note for note in shard(MODEL, Parallel(ranks)).notes) == (ranks > 8)


def test_attention_flop_is_four_a_pair_a_dimension():
    decode = transformer(MODEL, FP16, Parallel(4), decode_batch([999]))
    attention = [op for _, op in decode.ops() if op.kind == "attention"]
    assert len(attention) == 4
    assert attention[0].flop == pytest.approx(
        4 * 128 * 1000 * 8, rel=0.02
    )  # the softmax is the rest
    prefill = transformer(MODEL, FP16, Parallel(4), prefill_batch([1000]))
    pairs = 1000 * 1001 / 2
    assert next(op for _, op in prefill.ops() if op.kind == "attention").flop == pytest.approx(
        4 * 128 * pairs * 8, rel=0.02
    )


@settings(max_examples=200)
@given(
    st.sampled_from(["dense", "window", "blocksparse"]),
    st.integers(1, 120),
    st.integers(0, 120),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_attended_pairs_are_those_one_counts(pattern, new, past, window, stride):

    def seen(entries: int) -> float:
        near = entries if pattern == "dense" else min(entries, window)
        return near + ((entries - near) / stride if pattern == "blocksparse" else 0)

    pairs, entries = attended(Pattern(pattern, window, stride), new, past)
    assert pairs == pytest.approx(sum(seen(past + i + 1) for i in range(new)), rel=1e-12)
    assert entries <= past + new
    if new == 1:
        assert entries == pairs


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_parameters(name):
    model = catalog.model(name)
    assert occupied(model, FP16, Parallel(1)).weight_bytes == pytest.approx(
        2 * model.parameters, rel=0.01
    )
    held = read_bytes(transformer(model, FP16, Parallel(1), decode_batch([10])), "weight")
    embedding = (
        model.vocab * model.hidden * (0 if model.tied_embeddings else 2)
    )  # one row of it is read
    assert held + embedding == pytest.approx(2 * model.parameters, rel=0.01)


@pytest.mark.parametrize("weights", ["fp16", "bf16", "fp8", "int8", "int4"])
def test_precision_scales_what_it_names(weights):
    plain = transformer(MODEL, FP16, Parallel(2), decode_batch([500]))
    small = transformer(
        MODEL, Precision(weights=weights, kv="int8"), Parallel(2), decode_batch([500])
    )

    def weight(some, name: str) -> float:
        return next(t.nbytes for _, op in some.ops() for t in op.reads if t.name == name)

    for name in ("w_qkv", "w_o", "w_gate_up", "w_down"):
        assert weight(small, name) * 2 == weight(plain, name) * BYTES[weights]
    assert weight(small, "w_lm_head") == weight(plain, "w_lm_head"), "the head stays wide"
    assert read_bytes(small, "kv") * 2 == read_bytes(plain, "kv")
    assert Precision("int4", "fp16").arithmetic() == "fp16"
    assert Precision("int8", "int8").arithmetic() == "int8"


def test_collectives_carry_the_hidden_state_and_one_rank_has_none():
    asked = [
        op
        for _, op in transformer(MODEL, FP16, Parallel(8), decode_batch([5, 5])).ops()
        if op.kind == "all_reduce"
    ]
    assert [op.message_bytes for op in asked] == [2 * 4096 * 2] * 8  # two for each of four layers
    assert not [
        op
        for _, op in transformer(MODEL, FP16, Parallel(1), decode_batch([5])).ops()
        if op.stream == "communication"
    ]


@pytest.mark.parametrize(("tensor", "nearest"), [(3, "2, 4"), (6, "4, 8"), (64, "16, 32")])
def test_a_degree_that_does_not_divide_names_those_that_do(tensor, nearest):
    with pytest.raises(
        ValueError, match=f"degree {tensor} does not divide.*degrees that work:.*{nearest}"
    ):
        shard(MODEL, Parallel(tensor))


def test_heads_are_padded_at_powers_of_two():
    qwen = catalog.model("qwen2-7b")
    part = shard(qwen, Parallel(8))
    assert (part.heads, part.kv_heads) == (4, 1)
    assert any("padded to 32" in note for note in part.notes)
    assert shard(qwen, Parallel(4)).notes == ()


def test_room_is_divided_without_a_rest():
    whole = occupied(MODEL, FP16, Parallel(2))
    space = room("a model", [whole], Parallel(2), 64e9, 1000)
    held = space.weight_bytes + space.activation_bytes + space.kv_tokens * whole.kv_bytes_per_token
    assert held == pytest.approx(64e9, rel=1e-12)
    require("a model", space, int(space.kv_tokens))
    with pytest.raises(ValueError, match=r"KV-cache: .* tokens need .* and .* are left"):
        require("a model", space, int(space.kv_tokens) + 1)
    with pytest.raises(ValueError, match=r"does not fit: .* needs .* for weights .* and has 1"):
        room("a model", [whole], Parallel(2), 1e9, 1000)
