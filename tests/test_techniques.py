"""PRESERVE and the fused baseline as graph passes, and what they do to time."""

from __future__ import annotations

import pytest
from machines import DEVICE, LIBRARY, MODEL, flop_of, graph, read_bytes, recorded, replace, seconds

from sim.graph.batch import decode_batch, prefill_batch
from sim.graph.graph import is_collective
from sim.techniques.preserve import segment, working_set

DECODE = decode_batch([8000] * 4)


def prefetches(some_graph, layer):
    return [op.reads[0] for op in some_graph.layers[layer].ops if op.kind == "prefetch"]


def test_segments_hold_what_the_authors_say():
    plain = graph(DECODE)
    after_attention, after_mlp = (
        i for i, op in enumerate(plain.layers[1].ops) if is_collective(op)
    )
    assert [op.name for _, op in segment(plain.layers[1:3], after_attention)] == [
        "mlp_norm",
        "gate_up",
        "act",
        "down",
    ]
    assert [(ahead, op.name) for ahead, op in segment(plain.layers[1:3], after_mlp)] == [
        (1, "attention_norm"),
        (1, "qkv"),
        (1, "rope"),
        (1, "attention"),
        (1, "o"),
    ]
    body = prefetches(graph(DECODE, "preserve"), 2)
    assert [(t.name, t.ahead) for t in body] == [
        ("w_gate_up", 0),
        ("w_down", 0),
        ("w_qkv", 1),
        ("kv", 1),
        ("w_o", 1),
    ]
    last = prefetches(graph(DECODE, "preserve"), MODEL.layers)
    assert [(t.name, t.ahead) for t in last] == [("w_gate_up", 0), ("w_down", 0), ("w_lm_head", 1)]


def test_the_newest_kv_entry_is_not_prefetched():
    kv = next(t for t in prefetches(graph(DECODE, "preserve"), 1) if t.name == "kv")
    per_token = 2 * 1 * MODEL.head_dim * 2  # K and V of one head a rank in fp16
    assert kv.nbytes == 4 * 8000 * per_token


def test_the_pass_leaves_the_work_alone():
    plain, with_prefetch = graph(DECODE), graph(DECODE, "preserve")
    assert flop_of(with_prefetch) == flop_of(plain)
    assert read_bytes(with_prefetch, "weight") == read_bytes(plain, "weight")
    kernels = [(i, op.name) for i, op in with_prefetch.ops() if op.kind != "prefetch"]
    assert kernels == [(i, op.name) for i, op in plain.ops()]


@pytest.mark.parametrize("cap", [0.0, 1e6, 20e6, 60e6, 1e9])
def test_the_cap_holds_per_segment(cap):
    for layer in graph(DECODE, ("preserve", {"cap": cap})).layers:
        for names in (("w_gate_up", "w_down"), ("w_qkv", "kv", "w_o")):
            total = sum(
                op.reads[0].nbytes
                for op in layer.ops
                if op.kind == "prefetch" and op.reads[0].name in names
            )
            assert total <= cap


def test_options_choose_what_is_prefetched():
    def names(**options):
        return {t.name for t in prefetches(graph(DECODE, ("preserve", options)), 2)}

    assert names(prefetch="weights") == {"w_gate_up", "w_down", "w_qkv", "w_o"}
    assert names(prefetch="kv") == {"kv"}
    assert names(whole_tensors=True, cap=10e6) == {"w_qkv"}, (
        "gate_up (14.7 MB) does not fit whole; it ends its segment"
    )
    assert working_set(graph(DECODE)) < 1e6 < working_set(graph(prefill_batch([8000])))


def test_a_single_chip_has_nothing_to_hide_under():
    for technique in ("preserve", "fused_collective"):
        with pytest.raises(ValueError, match="tensor parallel degree 1"):
            graph(DECODE, technique, ranks=1)


def test_prefetches_run_under_the_all_reduces():
    timeline, _ = recorded(graph(DECODE, "preserve"))
    reduces = [s for s in timeline.spans if s.kind == "all_reduce"]
    fetched = [s for s in timeline.spans if s.kind == "prefetch"]
    for reduce in reduces[:-1]:
        assert any(f.start_s < reduce.end_s and f.end_s > reduce.start_s for f in fetched)


def test_preserve_gains_and_join_waits():
    vanilla, free, joined = (
        seconds(graph(DECODE, *t)) for t in ((), ("preserve",), (("preserve", {"join": True}),))
    )
    assert vanilla / free > 1.2
    assert free <= joined < vanilla


def test_the_gain_falls_where_compute_bounds():
    def gain(batch, device=DEVICE):
        return seconds(graph(batch, device=device), device) / seconds(
            graph(batch, "preserve", device=device), device
        )

    slow = replace(DEVICE, matrix_flop_per_s={"fp16": 40e12, "int8": 80e12})
    gains = [gain(decode_batch([10] * b), slow) for b in (4, 64, 256)]
    assert gains[0] > 1.15
    assert 0.99 < min(gains[1:]) <= max(gains[1:]) < 1.05


def test_prefetching_past_the_cache_pollutes_it():
    """A long collective leaves time to fetch more than L2 holds: what comes first is gone before it
    is used."""
    small, library = replace(DEVICE, l2_bytes=15e6), replace(LIBRARY, launch_s=100e-6)
    at_cap = graph(DECODE, "preserve", device=small)
    past = graph(DECODE, ("preserve", {"cap": 1e9}), device=small)
    assert seconds(past, small, library=library) > seconds(at_cap, small, library=library) * 1.01


def test_fused_tiles_add_up():
    plain, fused = graph(DECODE), graph(DECODE, "fused_collective")
    assert flop_of(fused) == pytest.approx(flop_of(plain))
    assert read_bytes(fused, "weight") == pytest.approx(read_bytes(plain, "weight"))
    messages = [sum(op.message_bytes for _, op in g.ops()) for g in (plain, fused)]
    assert messages[0] == pytest.approx(messages[1])
    assert seconds(fused) < seconds(plain)
    assert seconds(graph(DECODE, "preserve")) <= seconds(fused)


def test_techniques_compose():
    both = graph(DECODE, "fused_collective", "preserve")
    assert any(op.kind == "prefetch" for _, op in both.ops())
    assert seconds(both) < seconds(graph(DECODE, "fused_collective"))
