"""DeepSeek-V3 against what others counted: the ops of a layer, and which experts real text uses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import sim
from sim import catalog
from sim.graph.batch import decode_batch
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.routing import Routing, chances, loads, recorded
from sim.graph.transformer import transformer
from sim.graph.work import SOFTMAX_FLOP

SHARED = Path(sim.__file__).resolve().parents[2] / "shared"
OPS = SHARED / "reference" / "deepseek_v3_ops.csv"
COUNTS = SHARED / "data" / "routing" / "deepseek_v3_mmlu_bincounts.json"
V3 = catalog.model("deepseek-v3")
LAYER = 10  # with experts
# Ours by their names. The two products of a layer's hidden state are one GEMM here.
LINEAR = {
    "q_kv_a": ("attn_absorb_wkva", "attn_absorb_wqa"),
    "q_b": ("attn_absorb_wqb",),
    "q_absorb": ("attn_absorb_wkvb1",),
    "v_expand": ("attn_absorb_wkvb2",),
    "o": ("attn_absorb_wo",),
    "router": ("moe_gate",),
}


def rows(layout):
    """The rows of a layout by op."""
    if not OPS.is_file():
        pytest.skip(f"no {OPS}")
    with OPS.open(newline="") as file:
        return {row["op"]: row for row in csv.DictReader(file) if row["layout"] == layout}


def layer(parallel, sequences, context):
    """Ours: the ops of one layer in a decode step, in 16 bits."""
    batch = decode_batch([context - 1] * sequences)  # the newest token is the last of the context
    graph = transformer(V3, Precision(), parallel, batch)
    return {op.name: op for op in graph.layers[1 + LAYER].ops}


def weight_bytes(op):
    return sum(tensor.nbytes for tensor in op.reads if tensor.kind == "weight")


def compare(theirs, ours):
    """Products of the shapes: the same multiplications, the same bytes of weights."""
    for name, names in LINEAR.items():
        mac = sum(int(theirs[each]["mac"]) for each in names)
        nbytes = sum(int(theirs[each]["hbm_bytes"]) for each in names)
        assert ours[name].flop == 2 * mac, name
        assert weight_bytes(ours[name]) == nbytes, name


def compare_attention(theirs, op):
    """Their count has no softmax."""
    work = op.work
    softmax = SOFTMAX_FLOP * work.heads * work.pairs
    assert op.flop - softmax == pytest.approx(2 * int(theirs["mac"]), rel=1e-12)
    read = sum(tensor.nbytes for tensor in op.reads if tensor.name in ("kv", "kv_new"))
    return read / int(theirs["hbm_bytes"])


def compare_experts(theirs, ours, pairs, shared_rows, here):
    """A (token, expert) pair costs the same, and so does a token at the shared expert.

    Which tokens go where was drawn there, and is the mean here; there the shared expert stands on
    some nodes for the tokens of several, here on each rank for its own.
    """
    for kind, rows_here in (("exp_", pairs), ("exp_shared_", shared_rows)):
        each = {
            part: next(
                int(row["mac"]) / int(row["tokens"])
                for name, row in theirs.items()
                if name.startswith(f"moe_{kind}") and name.endswith(part)
            )
            for part in ("up", "gate", "down")
        }
        up, down = (
            ("experts_up", "experts_down") if kind == "exp_" else ("shared_gate_up", "shared_down")
        )
        assert ours[up].flop == pytest.approx(
            2 * rows_here * (each["up"] + each["gate"]), rel=1e-12
        )
        assert ours[down].flop == pytest.approx(2 * rows_here * each["down"], rel=1e-12)
    held = sum(
        tensor.held
        for name in ("experts_up", "experts_down")
        for tensor in ours[name].reads
        if tensor.kind == "weight"
    )
    routed = [
        int(row["hbm_bytes"])
        for name, row in theirs.items()
        if name.startswith("moe_exp_") and "shared" not in name
    ]
    assert held == here * 3 * routed[0]  # an expert is three matrices
    assert weight_bytes(ours["shared_gate_up"]) + weight_bytes(ours["shared_down"]) == 3 * routed[0]


def test_a_layer_of_data_parallel_attention_has_the_ops_that_others_count():
    theirs = rows("dp16_ep16")
    parallel = Parallel(tensor=1, data=16, expert=16)
    ours = layer(parallel, 512, 4096)
    compare(theirs, ours)
    read = compare_attention(theirs["attn_absorb_absorbattn"], ours["absorb"])
    assert read == pytest.approx(1.0, rel=1e-12)
    compare_experts(theirs, ours, 512 * 8 / 16, 32, 16)
    # Tokens sent to other nodes: drawn there (6.3 a token), on average here (6.1).
    sent = int(theirs["moe_a2a_disp"]["network_bytes"])
    assert ours["experts_dispatch"].message_bytes * 15 / 16 == pytest.approx(sent, rel=0.05)
    # Nothing else multiplies matrices here or there.
    named = {*LINEAR, "absorb", "experts_up", "experts_down", "shared_gate_up", "shared_down"}
    assert {n for n, op in ours.items() if op.engine == "matrix" and op.flop} == named
    known = {name for names in LINEAR.values() for name in names} | {"attn_absorb_absorbattn"}
    assert all(
        n in known or n.startswith("moe_exp_") for n, row in theirs.items() if int(row["mac"])
    )


def test_a_layer_of_tensor_parallel_attention_has_the_ops_that_others_count():
    """Their two nodes that share a sequence's cache both project all its heads; ours a half each,
    and exchange them, so that projections are those of four ranks, attention that of eight."""
    theirs = rows("dp7_tp4_sp2_ep56")
    ours = layer(Parallel(tensor=4), 147, 2048)
    compare(theirs, ours)
    reduced = int(theirs["attn_absorb_ar_tp"]["network_bytes"])
    assert ours["attention_all_reduce"].message_bytes == reduced
    split = layer(Parallel(tensor=8, sequence=2), 147, 2048)
    read = compare_attention(theirs["attn_absorb_absorbattn"], split["absorb"])
    assert read == pytest.approx(1.0, rel=1e-3)  # the newest entry is read by both


@pytest.mark.parametrize(
    ("ranks", "mean", "least", "most"),
    [
        (8, 1.28, 1.10, 1.66),
        (32, 1.76, 1.30, 2.63),
        (64, 2.32, 1.48, 4.31),
        (128, 3.45, 1.84, 8.01),
    ],
)
def test_the_busiest_rank_of_real_text(ranks, mean, least, most):
    """Over the mean rank, experts in order, mean of the layers and their range: as worked out from
    the recording by other hands, to two places."""
    routing = Routing(counts=catalog.profile("deepseek-v3-mmlu"))
    if COUNTS.is_file():
        assert routing.counts == recorded(COUNTS)
    assert loads(256, 8, ranks, routing).pairs * ranks / 8 == pytest.approx(mean, rel=0.01)
    layers = [
        chances(256, 8, routing, index).reshape(ranks, -1).sum(axis=1).max() * ranks / 8
        for index in range(len(routing.counts))
    ]
    assert [np.min(layers), np.max(layers)] == pytest.approx([least, most], rel=0.01)
