"""Models in pipeline stages: the stages are the model, bubbles meet their closed form, both
fidelities agree."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import (
    DEVICE,
    INT8,
    LIBRARY,
    MODEL,
    flop_of,
    graph,
    group,
    network,
    occupied,
    read_bytes,
    replace,
)

import sim
from sim.engine.group import Group, members_of
from sim.engine.isolated import played
from sim.engine.pipeline import run_static
from sim.engine.played_prices import PlayedPrices, in_stages
from sim.engine.pricing import pricing
from sim.engine.replay import Kind, player, serve_fleet
from sim.engine.scaling import Failure, failures
from sim.engine.steps import StaticBatch
from sim.facts.timeline import Timeline
from sim.graph.batch import decode_batch
from sim.graph.footprint import room
from sim.graph.model import Experts
from sim.graph.parallel import Parallel, shard, stage_layers
from sim.graph.transformer import transformer
from sim.network import topology
from sim.network.network import Network
from sim.scenario import ScenarioError
from sim.serving import compiled
from sim.serving.fleet import POLICIES, Rules, number, plain_arrivals, pool_of, replica_of
from sim.serving.router import ROUTERS
from sim.serving.stages import passed_through
from sim.techniques import TECHNIQUES, Machine, apply

MOE = replace(MODEL, experts=Experts(routed=8, chosen=2, ffn=1024, first_dense=1))


@given(st.integers(1, 200), st.integers(1, 16))
def test_stages_have_all_layers_between_them(layers, stages):
    found = stage_layers(layers, min(stages, layers))
    assert [layer for part in found for layer in part] == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_what_is_left_over_is_not_with_the_head():
    assert [*map(len, stage_layers(61, 4))] == [15, 15, 16, 15]
    assert [*map(len, stage_layers(62, 4))] == [15, 16, 16, 15]
    assert [*map(len, stage_layers(63, 4))] == [16, 16, 16, 15]


@pytest.mark.parametrize("model", [MODEL, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_stages_do_the_work_of_the_model_between_them(model, tensor):
    batch, whole, cut = (
        decode_batch([300] * 8),
        Parallel(tensor),
        Parallel(tensor, pipeline=3, micro_batches=3),
    )
    one = transformer(model, INT8, whole, batch)
    parts = [transformer(model, INT8, cut, batch, stage) for stage in range(3)]
    assert sum(flop_of(part) for part in parts) == pytest.approx(flop_of(one), rel=1e-12)
    for kind in ("weight", "kv"):
        assert sum(read_bytes(part, kind) for part in parts) == pytest.approx(
            read_bytes(one, kind), rel=1e-12
        )
    held = [occupied(model, INT8, cut, stage) for stage in range(3)]
    for size in ("weight_bytes", "kv_bytes_per_token"):
        assert sum(getattr(each, size) for each in held) == pytest.approx(
            getattr(occupied(model, INT8, whole), size)
        )
    sends = [[op for _, op in part.ops() if op.kind == "send"] for part in parts]
    assert [op.message_bytes for (op,) in sends] == [8 * model.hidden * 2 / tensor] * 2 + [8 * 4], (
        "fp16, and tokens"
    )


def test_a_shared_embedding_stands_at_both_ends():
    tied = replace(MODEL, tied_embeddings=True)
    whole, cut = Parallel(), Parallel(pipeline=2)
    table = tied.vocab * tied.hidden * 2
    both = sum(occupied(tied, INT8, cut, stage).weight_bytes for stage in range(2))
    assert both == pytest.approx(occupied(tied, INT8, whole).weight_bytes + table)


def test_the_fullest_stage_decides():
    cut = Parallel(pipeline=2)
    uneven = replace(MODEL, vocab=400_000)
    held = [occupied(uneven, INT8, cut, stage) for stage in range(2)]
    stages = [
        (8e9 - each.weight_bytes - each.activation_bytes) / each.kv_bytes_per_token for each in held
    ]
    found = room("a model", held, cut, 8e9, 1000)
    assert found.kv_tokens == pytest.approx(min(stages))
    with pytest.raises(ValueError, match=r"on 2 devices \(pipeline 2\) each of stage 0 needs"):
        room("a model", held, cut, 2e9, 1000)
    with pytest.raises(
        ValueError,
        match="pipeline parallel degree 5: test model has 4 layers, so at most as many stages",
    ):
        shard(MODEL, Parallel(pipeline=5))


# The flow shop.


@pytest.mark.parametrize("stages", [1, 2, 4, 7])
@pytest.mark.parametrize("micro", [1, 2, 4, 16])
def test_the_bubble_of_equal_stages(stages, micro):
    """Fill and drain: (M + P - 1) t (Huang et al., GPipe, arXiv 1811.06965); decode goes round in
    max(M, P) t."""
    free_s = [0.0] * stages
    ready_s = [passed_through(0.0, free_s, [1.0] * stages, stages, 1.0) for _ in range(micro)]
    assert ready_s[-1] == micro + stages - 1
    for step in range(1, 5):
        ready_s = [passed_through(at_s, free_s, [1.0] * stages, stages, 1.0) for at_s in ready_s]
        assert ready_s[-1] == micro + stages - 1 + step * max(micro, stages)


def static(stages, work, *, same=True, **more):
    """Outcome; with `same`, each stage is the whole model, so that all take as long."""
    parallel = Parallel(pipeline=len(stages), micro_batches=work.micro_batches)

    def graph_of(stage):
        return lambda batch: (
            graph(batch, ranks=1) if same else transformer(MODEL, INT8, parallel, batch, stage)
        )

    def group_of(stage):
        asked, name = graph_of(stage), f"stage {stage}"
        return lambda lines: group(
            ranks=1, timeline=lines, pod=network(2), graph_of=asked, name=name
        )

    return run_static([group_of(stage) for stage in stages], work, None, **more)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("micro", [1, 2, 6])
def test_a_prefill_in_micro_batches(stages, micro):
    one = static(range(1), StaticBatch(6 // micro, 500, 1)).totals.seconds
    outcome = static(range(stages), StaticBatch(6, 500, 1, micro_batches=micro))
    assert outcome.totals.seconds == pytest.approx((micro + stages - 1) * one, rel=1e-9)
    bubble = (stages - 1) / (micro + stages - 1)
    assert outcome.totals.bubble_s / outcome.totals.seconds == pytest.approx(bubble, abs=1e-9)


@pytest.mark.parametrize("batch, micro", [(6, 3), (7, 3), (5, 2), (2, 1)])
def test_sampled_steps_are_every_step(batch, micro):
    work = StaticBatch(batch, 900, 60, micro_batches=micro)
    sampled, every = (
        static(range(3), work._replace(every_step=each), same=False) for each in (False, True)
    )
    assert sampled.totals.seconds == pytest.approx(every.totals.seconds, rel=1e-9)
    assert sampled.part == pytest.approx(every.part, rel=1e-9)
    for name in ("flop", "bubble_s", "ops", "steps"):
        assert getattr(sampled.totals, name) == pytest.approx(
            getattr(every.totals, name), rel=1e-9
        ), name
    assert sampled.totals.steps == pytest.approx(60 * micro), "forward passes, on each stage"


def test_the_timeline_shows_every_stage_at_work_at_once():
    lines = Timeline()
    stages = [
        lambda shown, s=s: group(
            ranks=1,
            timeline=shown,
            pod=network(2),
            graph_of=lambda batch: transformer(
                MODEL, INT8, Parallel(pipeline=2, micro_batches=2), batch, s
            ),
            name=f"stage {s}",
        )
        for s in range(2)
    ]
    outcome = run_static(stages, StaticBatch(4, 300, 10, micro_batches=2), lines)
    tracks = {}
    for span in lines.spans:
        tracks.setdefault(span.track, []).append(span)
    assert {"stage 0 rank 0/compute", "stage 1 rank 0/compute"} <= set(tracks)
    first, second = (tracks[f"stage {s} rank 0/compute"] for s in range(2))
    assert any(a.start_s < b.end_s and b.start_s < a.end_s for a in first for b in second)
    for spans in tracks.values():
        ordered = sorted(spans, key=lambda span: span.start_s)
        assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(ordered)), "one pass at a time"
    assert outcome.ranks == 2


# Between the stages.


def test_a_send_goes_to_the_place_in_the_next_stage():
    nic, spine = {"bytes_per_s": 10e9, "latency_s": 5e-6}, {"bytes_per_s": 1e12, "latency_s": 0.0}
    nodes = topology.build(
        "multi_node", nodes=2, chips=4, bytes_per_s=100e9, latency_s=1e-6, nic=nic, spine=spine
    )
    pod = Network(nodes, LIBRARY)
    stages = [pod.part(tuple((first + chip) % 8 for chip in range(8))) for first in (0, 2, 4, 6)]
    seconds = [stage.fold("send", 4, 1e6).seconds for stage in stages]
    within, across = seconds[0], seconds[1]
    assert seconds == pytest.approx([within, across, within, across]), (
        "1 to 2 and 3 to 0 change nodes"
    )
    assert across > 2 * within
    for stage in stages:
        fold = stage.fold("send", 4, 1e6)
        assert fold.sent_bytes == 1e6, "of each rank that sends"
        assert played(stage, "send", 4, 1e6).seconds == pytest.approx(fold.seconds, rel=1e-12)
    assert stages[3].members(4).ranks.tolist() == [6, 7, 0, 1]
    assert stages[3].members((1, 2)).ranks.tolist() == [7, 0]


@pytest.mark.parametrize("stage", [0, 1])
def test_every_rank_on_its_own_takes_as_long(stage):
    """Unfolded, the ranks of the next stage are there to receive."""
    parallel, pod = Parallel(2, pipeline=2), network(4, "switch")
    part = pod.part(tuple((2 * stage + chip) % 4 for chip in range(4)))
    passed = transformer(MODEL, INT8, parallel, decode_batch([500] * 4), stage)
    times, sent = [], []
    for unfold in (False, True):
        members = members_of(DEVICE, lambda batch: passed, 2)
        some = Group(simpy.Environment(), members, part, unfold=unfold)
        some.env.run(some.env.process(some.run(passed)))
        times.append(some.env.now)
        sent.append([chip.totals.bytes["link"] for chip in some.chips])
    assert times[1] == pytest.approx(times[0], rel=1e-9)
    assert sent[0][0] > 0 and np.mean(sent[1]) == pytest.approx(sent[0][0], rel=1e-9)


# Serving.

DENSE = replace(MODEL, layers=4)
CHIP = replace(DEVICE, l2_bytes=20e6)  # a stage's weights do not fit into it
RULES = Rules(number(ROUTERS, "round_robin"), 0, 0, True, False, 0, False, True)
NETWORK = network(8)


@cache
def parts_of(stages):
    """The chips of each stage, first; one network each, which keeps what it has folded."""
    return [
        NETWORK.part(tuple((2 * stage + chip) % 8 for chip in range(8))) for stage in range(stages)
    ]


@cache
def graph_of(stages, stage, batch, techniques=()):
    options = [(name, TECHNIQUES[name].options()) for name in techniques]
    machine = Machine(CHIP.l2_bytes, CHIP.hbm_bytes_per_s, 2)
    parallel = Parallel(2, pipeline=stages)
    return apply(transformer(DENSE, INT8, parallel, batch, stage), machine, options)


@cache
def priced_stages(stages):
    forms = [
        pricing(partial(graph_of, stages, stage), CHIP, part, 2, DENSE.patterns)
        for stage, part in enumerate(parts_of(stages))
    ]
    assert None not in forms
    for form in forms:
        form.table = cache(form.table)
    return [Kind(form, DENSE.patterns) for form in forms]


def kinds(stages, how, techniques=(), lanes_groups=1):
    """The stages of one pipeline as kinds: priced, in pieces, or played."""
    parts = parts_of(stages)
    graphs = [
        partial(graph_of, stages, stage, techniques=tuple(techniques)) for stage in range(stages)
    ]

    def groups():
        return [
            Group(simpy.Environment(), members_of(CHIP, own, 2), part, name=f"stage {s}")
            for s, (part, own) in enumerate(zip(parts, graphs))
        ]

    if how == "priced":
        return priced_stages(stages)
    if how == "pieces":
        answer = in_stages([PlayedPrices(some, DENSE.patterns) for some in groups()])
    else:
        answer = player([groups() for _ in range(lanes_groups)])
    return [Kind(None, DENSE.patterns, answer)] * stages


def lanes_of(stages, lanes, replicas=1, policy="chunked", blocks=4_000, **more):
    rows = [
        replica_of(
            POLICIES[policy], 4, 256, 16, blocks, stages=stages, lanes=lanes, lane=lane, **more
        )
        for _ in range(replicas)
        for lane in range(lanes)
    ]
    return np.concatenate(rows).view(np.recarray)


def served(asked, rows, some_kinds, rules=RULES, expected=0.0, **more):
    pools = more.pop("pools", pool_of(0, len(rows)))
    found = list(
        serve_fleet([asked], rules, rows, pools, some_kinds, expected=expected, rows=1, **more)
    )
    records = np.concatenate([records for records, _ in found]).view(np.recarray)
    return records[np.argsort(records.id, kind="stable")], found[-1][1]


def requests_of(draw):
    count = draw(st.integers(1, 7))
    one = st.tuples(
        st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]), st.integers(1, 600), st.integers(1, 8)
    )
    gaps, prompt, output = zip(*draw(st.lists(one, min_size=count, max_size=count)))
    return plain_arrivals(np.cumsum(gaps), np.array(prompt), np.array(output))


@st.composite
def worlds(draw):
    stages, lanes, replicas = (
        draw(st.sampled_from([2, 4])),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 2)),
    )
    rows = lanes_of(
        stages,
        lanes,
        replicas,
        draw(st.sampled_from([*POLICIES])),
        draw(st.sampled_from([45, 4_000])),
        reserve=draw(st.booleans()),
        overhead_s=draw(st.sampled_from([0.0, 1e-4])),
        slow=draw(st.sampled_from([1.0, 1.5])),
    )
    rules = RULES._replace(
        router=draw(st.sampled_from(range(len(ROUTERS)))), coupled=draw(st.booleans())
    )
    return requests_of(draw), rows, rules, draw(st.sampled_from([(), ("preserve",)]))


@pytest.fixture(scope="module", autouse=True)
def loops():
    """What is loaded is used, and gives the same bits: see below."""
    compiled.LOOPS.native(1e9)


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_both_fidelities_agree(world):
    asked, rows, rules, techniques = world
    stages, replicas = int(rows.stages[0]), len(rows) // int(rows.lanes[0])
    step = "pieces" if techniques else "priced"
    mine, fleet = served(asked, rows, kinds(stages, step, techniques), rules)
    theirs, other = served(asked, rows, kinds(stages, "op", techniques, replicas), rules)
    for name in ("replica", "preempted"):
        assert (mine[name] == theirs[name]).all()
    for name in ("scheduled_s", "first_s", "last_s"):
        assert mine[name] == pytest.approx(theirs[name], rel=1e-9)
    assert fleet.replicas.flight_s == pytest.approx(other.replicas.flight_s, rel=1e-9)
    assert fleet.stage_busy_s == pytest.approx(other.stage_busy_s, rel=1e-9)
    # A stage has one pass at a time, and is busy only while something is under way.
    busy_s = fleet.stage_busy_s.reshape(replicas, -1, stages).sum(axis=1)
    flight_s = fleet.replicas.flight_s[fleet.replicas.lane == 0]
    assert (busy_s <= flight_s[:, None] * (1 + 1e-9)).all()
    assert flight_s.sum() <= replicas * mine.last_s.max() * (1 + 1e-9)
    done = mine[mine.replica >= 0]
    assert (done.first_s <= done.last_s).all() and (done.arrival_s <= done.scheduled_s).all()


def test_compiled_and_plain_are_the_same_bits():
    rng = np.random.default_rng(3)
    asked = plain_arrivals(
        np.cumsum(rng.exponential(2e-3, 150)), rng.integers(1, 500, 150), rng.integers(1, 30, 150)
    )
    rows, some = lanes_of(4, 4, 2), kinds(4, "priced")
    pytest.importorskip("numba")
    fast, _ = served(asked, rows, some, expected=1e9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.LOOPS, "native", lambda amount: None)
        plain, _ = served(asked, rows, some)
    assert (plain == fast).all()


def test_more_micro_batches_fill_the_stages():
    """Many equal requests: with as many micro-batches as stages, the slowest stage hardly ever
    waits."""
    asked = plain_arrivals(np.zeros(64), np.full(64, 100), np.full(64, 40))
    mean, most = {}, {}
    for lanes in (1, 2, 4):
        _, fleet = served(asked, lanes_of(4, lanes), kinds(4, "priced"), expected=1e9)
        shares = fleet.stage_busy_s.sum(axis=0) / fleet.replicas.flight_s.sum()
        mean[lanes], most[lanes] = shares.mean(), shares.max()
    assert mean[1] == pytest.approx(1 / 4, rel=1e-9), "one at a time"
    assert mean[1] < mean[2] < mean[4] and most[4] > 0.95


@pytest.mark.parametrize("at_s", [0.0, 3e-3, 0.02])
def test_a_pipeline_fails_as_a_whole(at_s):
    asked = plain_arrivals(np.linspace(0, 0.02, 24), np.full(24, 200), np.full(24, 10))
    rows = lanes_of(2, 2, 2)
    records, fleet = served(
        asked, rows, kinds(2, "priced"), events=failures([Failure(0, at_s, 0.05)], 2)
    )
    assert (records.replica >= 0).all() and (records.output == 10).all()
    assert (records.retried <= 1).all(), "none goes from one lane of a broken pipeline to another"
    assert (fleet.replicas.free_blocks == fleet.replicas.blocks).all() and fleet.replicas.up.all()
    again = records[(records.retried == 1)]
    assert not len(again) or (again.last_s > at_s).all()


# A scenario.

SCENARIO = """
question: What does a pipeline cost?
pod: {topology: dgx_h100}
model: llama3-8b
parallel: {tensor: 2, pipeline: 4}
workload: {kind: decode, batch: 8, prompt_tokens: 200, output_tokens: 20}
"""


def write(tmp_path, text=SCENARIO):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return path


def test_a_scenario_in_stages(tmp_path):
    result = sim.run(write(tmp_path))
    found = (
        result.variants["run"]["metrics"]
        if "run" in result.variants
        else next(iter(result.variants.values()))["metrics"]
    )
    assert 0 < found["bubbles"] < 0.6
    parts = ("compute_busy", "exposed_communication", "bubbles", "idle")
    assert sum(found[name] for name in parts) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"parallel.pipeline": 33, "workload.batch": 64, "pod.topology": "superpod_h100_256"},
            "pipeline parallel degree 33: llama3-8b has 32 layers",
        ),
        ({"parallel.pipeline": 5}, "a group of 10 ranks does not fit on 8 chips"),
        (
            {"parallel.micro_batches": 9},
            "a batch of 8 cannot be cut into 9 micro-batches; at most 8",
        ),
        (
            {"parallel.pipeline": 1, "parallel.micro_batches": 2},
            "micro_batches needs pipeline stages",
        ),
    ],
)
def test_what_cannot_be_is_told(tmp_path, given, said):
    with pytest.raises(ScenarioError, match=said):
        sim.run(write(tmp_path), given)


def test_prompts_longer_than_a_pass_go_through_in_pieces():
    asked = plain_arrivals(np.zeros(1), np.array([1000]), np.array([2]))
    records, fleet = served(asked, lanes_of(2, 2), kinds(2, "priced"))
    assert fleet.replicas.iterations.sum() == 5, "four pieces of 256, and the second token"
    assert records.first_s[0] > 0
