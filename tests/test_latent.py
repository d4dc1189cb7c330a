"""Latent attention and experts as ops: identities, parallelism, techniques, and the closed form
against the play."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import simpy
from machines import DEVICE, network, occupied

from sim import catalog
from sim.engine.group import Group, members_of
from sim.engine.lines import features_of_batch
from sim.engine.pricing import pricing
from sim.graph.batch import (
    NO_SHARING,
    Batch,
    Sequences,
    Shared,
    Sharing,
    decode_batch,
    prefill_batch,
)
from sim.graph.footprint import footprint, room
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import Precision
from sim.graph.routing import Routing, chances, loads, recorded
from sim.graph.transformer import transformer
from sim.graph.work import SOFTMAX_FLOP
from sim.hardware.device import Kernel
from sim.serving.fleet import ROW_SUMS
from sim.serving.step_time import steps_seconds
from sim.techniques import TECHNIQUES, Machine, apply
from sim.techniques.latent import cut, threshold

V3, K2 = catalog.model("deepseek-v3"), catalog.model("kimi-k2")
BF16 = Precision("bf16", "bf16", "bf16", "bf16")
SMALL = replace(
    V3,
    name="small",
    layers=4,
    hidden=1024,
    heads=16,
    kv_heads=16,
    ffn=2048,
    vocab=16_000,
    experts=V3.experts._replace(routed=32, chosen=4, ffn=512, shared_ffn=512, first_dense=1),
)
MACHINE = Machine(200e6, 1e12, 1, {"fp16": 400e12, "bf16": 400e12})


def macs(op, heads, pairs):
    """Without the softmax."""
    return (op.flop - SOFTMAX_FLOP * heads * pairs) / 2


@pytest.mark.parametrize("model", [V3, K2], ids=["DeepSeek-V3", "Kimi K2"])
def test_the_complexity_table(model):
    """MACs and elements of an attention layer by token: 40k and 136k, 40k and 0.5625k, k = 1024, at
    128 heads."""
    batch, shared, own, k = 7, 4096, 100, 1024 * model.heads / 128
    asked = Batch((Sequences(batch, 1, shared + own - 1),), batch, (Shared(batch, shared),))
    graph = transformer(model, BF16, Parallel(), asked)
    absorb = graph.layers[1].op("absorb")
    pairs = batch * (shared + own)
    assert macs(absorb, model.heads, pairs) == pytest.approx(136 * k * pairs, rel=1e-12)
    assert sum(t.nbytes for t in absorb.reads[:2]) / 2 == pytest.approx(576 * pairs, rel=1e-12)
    options = TECHNIQUES["typhoon_mla"].options(threshold=2)
    layer = apply(graph, MACHINE, [("typhoon_mla", options)]).layers[1]
    naive, rest = layer.op("naive"), layer.op("absorb")
    assert macs(naive, model.heads, batch * shared) == pytest.approx(
        40 * k * batch * shared, rel=1e-12
    )
    assert naive.reads[0].nbytes / 2 == pytest.approx(40 * k * shared, rel=1e-12), "once for all"
    assert macs(rest, model.heads, batch * own) == pytest.approx(136 * k * batch * own, rel=1e-9)
    assert sum(t.nbytes for t in rest.reads[:2]) / 2 == pytest.approx(576 * batch * own, rel=1e-9)
    once = apply(
        graph,
        MACHINE,
        [("latent_attention", TECHNIQUES["latent_attention"].options(form="absorb_once"))],
    )
    assert sum(t.nbytes for t in once.layers[1].op("absorb").reads[:2]) / 2 == pytest.approx(
        576 * (batch * own + shared)
    )
    all_naive = apply(
        graph, MACHINE, [("latent_attention", TECHNIQUES["latent_attention"].options(form="naive"))]
    )
    whole = all_naive.layers[1].op("naive")
    assert macs(whole, model.heads, pairs) == pytest.approx(40 * k * pairs, rel=1e-12)
    assert whole.reads[0].nbytes / 2 == pytest.approx(40 * k * (batch * own + shared), rel=1e-12)
    assert not [
        op for op in all_naive.layers[1].ops if op.name in ("absorb", "q_absorb", "v_expand")
    ]


def test_the_threshold_does_not_depend_on_the_heads():
    assert threshold(V3.latent, 376e12, 1.8e12) == pytest.approx(61.4, abs=0.1)
    assert threshold(V3.latent, 376e12, 1.8e12) == threshold(K2.latent, 376e12, 1.8e12)


def test_the_best_cut_is_the_top_of_the_tree():
    tree = (Shared(10, 500), Shared(200, 1000), Shared(64, 300), Shared(136, 50))
    assert cut(tree, 61, 1e9) == (Shared(200, 1000), Shared(136, 50), Shared(64, 300))
    assert cut(tree, 61, 1020) == (Shared(200, 1000), Shared(136, 20))
    assert cut(tree, 300, 1e9) == ()

    def seconds(
        runs,
    ):  # of each run, whichever way it goes: naive once from HBM, absorb by its sequences
        return sum(run.tokens * (61 if run in runs else run.number) for run in tree)

    chosen = cut(tree, 61, 1e9)
    every = [[run for place, run in enumerate(tree) if number >> place & 1] for number in range(16)]
    assert seconds(chosen) == min(map(seconds, every))


def test_without_latent_attention_there_is_nothing_to_do():
    graph = transformer(catalog.model("llama3-8b"), BF16, Parallel(), decode_batch([10]))
    with pytest.raises(ValueError, match="no latent attention"):
        apply(graph, MACHINE, [("typhoon_mla", TECHNIQUES["typhoon_mla"].options())])


LAYOUTS = [
    Parallel(),
    Parallel(8),
    Parallel(8, 1, 8),
    Parallel(8, 1, 2),
    Parallel(1, 8, 8),
    Parallel(2, 4, 8),
    Parallel(2, 4),
    Parallel(8, 1, 8, 4),
]


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_ranks_do_the_work_of_the_model_between_them(parallel):
    batch = decode_batch([900] * 64)
    one = transformer(SMALL, BF16, Parallel(), batch)
    graph = transformer(SMALL, BF16, parallel, batch)

    def flop(graph, *names):
        return sum(op.flop for _, op in graph.ops() if op.name in names)

    # What each rank has of its own tokens: the latents and the router.
    for names in (("q_b", "q_absorb", "absorb", "v_expand", "o"), ("experts_up", "experts_down")):
        assert flop(graph, *names) * parallel.ranks == pytest.approx(flop(one, *names), rel=1e-9)
    whole, part = occupied(SMALL, BF16, Parallel()), occupied(SMALL, BF16, parallel)
    assert part.kv_bytes_per_token == pytest.approx(
        whole.kv_bytes_per_token / parallel.data / parallel.sequence
    )
    # At 64 tokens nearly every expert is met.
    held = sum(
        t.nbytes for _, op in graph.ops() if not op.idle for t in op.reads if t.kind == "weight"
    )
    kept = part.weight_bytes
    table = SMALL.vocab * SMALL.hidden * 2  # of which a pass reads some rows
    assert 0.9 * (kept - table) <= held <= kept


@pytest.mark.parametrize(
    "model, tokens", [(V3, 0.02), (catalog.model("mixtral-8x7b"), 0.02)], ids=["V3", "Mixtral"]
)
def test_weights_are_those_of_the_parameters(model, tokens):
    twice = (
        0 if model.latent is None else 2 * model.layers * model.heads * 512 * 256
    )  # the expansion, kept twice
    assert occupied(model, BF16, Parallel()).weight_bytes - twice == pytest.approx(
        2 * model.parameters, rel=tokens
    )


def test_what_a_token_sends_is_its_copies():
    """A copy for each rank that has one of its experts, spread over all: (E - 1) / E of it
    leaves."""
    parallel = Parallel(1, 32, 32)
    tokens = 64 * 32
    graph = transformer(
        V3, Precision("fp8", "fp8", "bf16", "bf16"), parallel, decode_batch([10] * tokens)
    )
    layer = graph.layers[-2]
    each, left = V3.experts.routed // 32, V3.experts.routed
    none = np.prod([(left - each - i) / (left - i) for i in range(V3.experts.chosen)])
    copies = 32 * (1 - none)
    assert layer.op("experts_dispatch").message_bytes == pytest.approx(64 * copies * V3.hidden)
    assert layer.op("experts_combine").message_bytes == pytest.approx(64 * copies * V3.hidden * 2)
    assert loads(256, 8, 256, Routing()).copies == pytest.approx(8), (
        "an expert a rank: a copy an expert"
    )
    pod = catalog.pod("cloudmatrix_384")
    from sim.network.network import Network

    fold = Network(pod.graph(), catalog.library(pod.library)).fold("all_to_all", 32, 32e6)
    assert fold.sent_bytes == pytest.approx(31e6)


@pytest.mark.parametrize(
    "parallel, words",
    [
        (
            Parallel(3),
            "tensor parallel degree 3 does not divide the .* of deepseek-v3; nearest degrees "
            "that work: 1, 2, 4",
        ),
        (Parallel(8, 1, 3), "expert parallel degree 3 does not divide the 8 ranks"),
        (Parallel(8, 1, 16), "expert parallel degree 16 does not divide the 8 ranks"),
        (Parallel(96, 1, 96), "tensor parallel degree 96 does not divide"),
        (Parallel(1, 96, 96), "expert parallel degree 96 does not divide the 256 experts"),
        (Parallel(1, 8, 4), "over all 8 ranks, or over none"),
        (
            Parallel(8, 1, 8, 3),
            "sequence parallel degree 3 does not divide the 8 ranks of a tensor group",
        ),
    ],
)
def test_what_does_not_divide_is_said(parallel, words):
    with pytest.raises(ValueError, match=words):
        shard(V3, parallel)


def test_a_dense_model_has_nothing_to_meet_at():
    llama = catalog.model("llama3-8b")
    with pytest.raises(ValueError, match="no experts at which the groups would meet"):
        shard(llama, Parallel(1, 2))
    with pytest.raises(ValueError, match="expert parallel degree 2: llama3-8b has no experts"):
        shard(llama, Parallel(2, 1, 2))


def test_routing(tmp_path):
    even = chances(256, 8, Routing())
    assert even == pytest.approx(np.full(256, 8 / 256))
    skewed = chances(256, 8, Routing(skew=1.2, seed=3))
    assert skewed.sum() == pytest.approx(8) and skewed.max() <= 1 and skewed.std() > even.std()
    assert (skewed == chances(256, 8, Routing(skew=1.2, seed=3))).all()
    assert (skewed != chances(256, 8, Routing(skew=1.2, seed=4))).any()
    assert sorted(skewed) == pytest.approx(sorted(chances(256, 8, Routing(skew=1.2, seed=4))))
    assert (
        loads(256, 8, 8, Routing(skew=1.2)).pairs
        > loads(256, 8, 8, Routing()).pairs
        == pytest.approx(1.0)
    )
    met = loads(256, 8, 8, Routing()).met
    assert met(1) == pytest.approx(1.0) and met(1e6) == pytest.approx(32)
    drawn = np.random.default_rng(0)
    draws = [
        {e for _ in range(20) for e in drawn.choice(256, 8, replace=False) if e < 32}
        for _ in range(400)
    ]
    seen = np.mean([len(draw) for draw in draws])
    assert met(20) == pytest.approx(seen, rel=0.02), "as many as dice find"
    file = tmp_path / "counts.txt"
    file.write_text("3\n1\n0\n4\n")
    assert chances(4, 2, Routing(counts=recorded(str(file)))) == pytest.approx([0.75, 0.25, 0, 1.0])
    with pytest.raises(ValueError, match="counts 4 experts, and the model has 256"):
        chances(256, 8, Routing(counts=recorded(str(file))))
    file.write_text("3\nmany\n")
    with pytest.raises(
        ValueError, match=r"counts.txt, line 2: a count of tokens is due, not 'many'"
    ):
        recorded(str(file))


def test_what_is_kept_expanded_leaves_less_room():
    def occupied_by(technique, **options):
        chosen = [(technique, TECHNIQUES[technique].options(**options))] if technique else []
        return footprint(
            lambda batch: apply(transformer(SMALL, BF16, Parallel(), batch), MACHINE, chosen),
            Parallel(),
            512,
            [Shared(70, 1000), Shared(30, 500)],
        )

    plain, kept = occupied_by(""), occupied_by("typhoon_mla", threshold=32)
    assert plain.kept_bytes == 0.0
    assert kept.kept_bytes == 1000 * SMALL.layers * SMALL.heads * SMALL.latent.expanded * 2
    assert occupied_by("typhoon_mla", threshold=80).kept_bytes == 0.0
    assert kept._replace(kept_bytes=0.0) == plain, "the latent cache stays"
    rooms = [room("small", [each], Parallel(), 40e9, 512) for each in (plain, kept)]
    less = rooms[0].kv_tokens - rooms[1].kv_tokens
    assert less * plain.kv_bytes_per_token == pytest.approx(kept.kept_bytes)
    assert occupied_by("latent_attention", form="naive").kv_bytes_per_token == (
        SMALL.layers * SMALL.heads * SMALL.latent.expanded * 2
    ), "all of it is expanded"


CHIP = replace(
    DEVICE,
    matrix_flop_per_s=dict.fromkeys(("bf16", "fp16"), 400e12),
    l2_bytes=30e6,
    kernels={
        "absorb": Kernel(5e-6, 0.8, 0.6, 0.0),
        "naive": Kernel(7e-6, 0.4, 0.5, 0.3),
        "head_matmul": Kernel(matrix_efficiency=0.3),
    },
)
WIRES = network(8)  # keeps what it has folded
built = cache(transformer)
BATCHES = [
    decode_batch([5]),
    decode_batch(range(100, 900, 7)),
    prefill_batch([700, 3]),
    Batch((Sequences(1, 256, 512), Sequences(9, 1, 80)), 9),
    Batch(
        (Sequences(80, 1, 3000), Sequences(2, 40, 3000)), 81, (Shared(70, 2048), Shared(60, 100))
    ),
]


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
@pytest.mark.parametrize("typhoon", [False, True], ids=["absorb", "typhoon"])
def test_closed_form_meets_the_play(parallel, typhoon):
    """Also what it adds up to, with experts of unequal popularity, and the sizes of what several
    sequences share."""
    parallel = replace(parallel, routing=Routing(skew=0.8))
    chosen = [("typhoon_mla", TECHNIQUES["typhoon_mla"].options(threshold=8))] if typhoon else []
    sharing = Sharing(8.0 * parallel.data, np.inf) if typhoon else NO_SHARING

    def graph_of(batch):
        return apply(built(SMALL, BF16, parallel, batch), MACHINE, chosen)

    form = pricing(graph_of, CHIP, WIRES, parallel.ranks, SMALL.patterns, sharing)
    assert form is not None
    table = form.table(800, 120)  # as far as the batches go
    for batch in BATCHES:
        some = Group(simpy.Environment(), members_of(CHIP, graph_of, parallel.ranks), WIRES)
        some.env.run(some.env.process(some.run(graph_of(batch))))
        found, sums = (
            np.array(features_of_batch(SMALL.patterns, batch, sharing)),
            np.zeros((table.times.shape[1], ROW_SUMS)),
        )
        assert steps_seconds(table, 0, found, 0 * found, 1, sums) == pytest.approx(
            some.env.now, rel=1e-8
        )


def test_a_jump_over_steps_is_their_sum():
    form = pricing(
        lambda batch: transformer(SMALL, BF16, Parallel(), batch),
        CHIP,
        network(8),
        1,
        SMALL.patterns,
    )
    assert form is not None
    table = form.table(100, 100)
    first, second = (
        np.array(features_of_batch(SMALL.patterns, decode_batch([90 + i, 2000 + i])))
        for i in (0, 1)
    )
    sums = np.zeros((table.times.shape[1], ROW_SUMS))
    each = sum(
        steps_seconds(table, 0, first + i * (second - first), 0 * first, 1, sums)
        for i in range(500)
    )
    assert steps_seconds(table, 0, first, second - first, 500, sums) == pytest.approx(
        each, rel=1e-11
    )


def test_unfolded_ranks_meet_in_their_own_groups():
    """A straggler unfolds the ranks; those of other tensor groups go their own way until the
    experts."""
    parallel, batch = Parallel(2, 4, 8), decode_batch([500] * 32)
    graph = transformer(SMALL, BF16, parallel, batch)
    times = []
    for slow, unfold in (({}, False), ({}, True), ({5: 3.0}, False)):
        members = members_of(CHIP, lambda batch: graph, 8, slow)
        group = Group(simpy.Environment(), members, network(8), unfold=unfold)
        assert group.folded == (not slow and not unfold)
        group.env.run(group.env.process(group.run(graph)))
        times.append(group.env.now)
    assert times[1] == pytest.approx(times[0], rel=1e-6) and times[2] > 1.2 * times[0]
