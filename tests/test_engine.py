"""The engine: laws that hold for any input, then closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import DEVICE, LIBRARY, MODEL, graph, group, network, recorded, seconds

from sim.engine.flows import Capacity, Flow, Net, Work
from sim.facts.span import fingerprint
from sim.facts.timeline import Timeline
from sim.graph.batch import decode_batch, prefill_batch
from sim.graph.graph import After, Graph, Layer, Op, Tensor
from sim.hardware.cost import cost
from sim.network.sharing import crossings, fill

TECHNIQUES = st.sampled_from(
    [
        (),
        ("preserve",),
        ("fused_collective",),
        (("preserve", {"join": True}),),
        ("fused_collective", "preserve"),
    ]
)
RANKS = st.sampled_from([2, 4, 8])
BATCHES = st.one_of(
    st.lists(st.integers(0, 20_000), min_size=1, max_size=6).map(decode_batch),
    st.lists(st.integers(1, 9_000), min_size=1, max_size=3).map(prefill_batch),
)


@settings(max_examples=40, deadline=None)
@given(BATCHES, TECHNIQUES, RANKS)
def test_laws_of_any_run(batch, techniques, ranks):
    asked = graph(batch, *techniques, ranks=ranks)
    timeline, some = recorded(asked, ranks=ranks)
    chip = some.chips[0]
    # Kernels and collectives read what the graph asks for, from L2 or from HBM, and nothing else
    # moves.
    reads = sum(t.nbytes for _, op in asked.ops() if op.stream != "prefetch" for t in op.reads)
    writes = sum(t.nbytes for _, op in asked.ops() for t in op.writes)
    assert chip.totals.asked_bytes == pytest.approx(reads, rel=1e-12)
    moved = chip.hbm.moved + chip.l2.moved - chip.totals.prefetched_bytes
    assert moved == pytest.approx(reads + writes, rel=1e-9)
    # What crossed a capacity is what its recorded uses add up to, never above its rate.
    for capacity in (chip.hbm, chip.l2, chip.link):
        uses = [use for use in timeline.uses if use.capacity == capacity.name]
        assert sum((u.end_s - u.start_s) * u.bytes_per_s for u in uses) == pytest.approx(
            capacity.moved, rel=1e-6
        )
        assert capacity.moved <= capacity.bytes_per_s * some.env.now * (1 + 1e-9)
    for stream in ("compute", "communication", "prefetch"):
        spans = [span for span in timeline.spans if span.track == f"rank 0/{stream}"]
        assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(spans)), (
            "a stream overlaps itself"
        )
        assert sum(span.end_s - span.start_s for span in spans) <= some.env.now * (1 + 1e-9)
    again, _ = recorded(asked, ranks=ranks)
    assert fingerprint(timeline.spans) == fingerprint(again.spans)


@settings(max_examples=40, deadline=None)
@given(
    BATCHES,
    st.sampled_from(
        ["hbm_bytes_per_s", "l2_bytes_per_s", "l2_bytes", "vector_flop_per_s", "matrix"]
    ),
    st.floats(1.0, 8.0),
    st.integers(1, 3),
)
def test_a_better_chip_is_never_slower_without_prefetch(batch, what, factor, passes):
    if what == "matrix":
        better = replace(
            DEVICE, matrix_flop_per_s={k: v * factor for k, v in DEVICE.matrix_flop_per_s.items()}
        )
    else:
        better = replace(DEVICE, **{what: getattr(DEVICE, what) * factor})
    asked = graph(batch)
    assert seconds(asked, better, passes=passes) <= seconds(asked, DEVICE, passes=passes) * (
        1 + 1e-12
    )


@settings(max_examples=20, deadline=None)
@given(BATCHES, TECHNIQUES)
def test_doubling_every_rate_halves_the_time(batch, techniques):
    asked = graph(batch, *techniques)
    twice = replace(
        DEVICE,
        matrix_flop_per_s={k: 2 * v for k, v in DEVICE.matrix_flop_per_s.items()},
        vector_flop_per_s=2 * DEVICE.vector_flop_per_s,
        hbm_bytes_per_s=2 * DEVICE.hbm_bytes_per_s,
        l2_bytes_per_s=2 * DEVICE.l2_bytes_per_s,
        kernel_overhead_s=DEVICE.kernel_overhead_s / 2,
        vector_overhead_s=DEVICE.vector_overhead_s / 2,
        prefetch_overhead_s=DEVICE.prefetch_overhead_s / 2,
    )
    library = replace(LIBRARY, launch_s=LIBRARY.launch_s / 2, step_s=LIBRARY.step_s / 2)
    quick = network(bytes_per_s=50e9, latency_s=0.5e-6, library=library)
    assert seconds(asked, twice, pod=quick) == pytest.approx(seconds(asked) / 2, rel=1e-9)


def test_an_uncontended_graph_takes_the_sum_of_its_rooflines():
    asked = graph(decode_batch([5000] * 4), ranks=1)
    expected, resident = 0.0, set()
    for index, op in asked.ops():
        hbm = l2 = 0.0
        for tensor in (*op.reads, *op.writes):
            key = (index, tensor.name)
            if key in resident or tensor.kind == "activation":
                l2 += tensor.nbytes
            else:
                hbm += tensor.nbytes
            resident.add(key)
        expected += cost(op, DEVICE).alone(hbm, l2, DEVICE).seconds
    assert seconds(asked, replace(DEVICE, l2_bytes=1e15), ranks=1) == pytest.approx(
        expected, rel=1e-9
    )


def test_a_collective_takes_its_closed_form():
    op = Op("reduce", "all_reduce", "communication", message_bytes=1e6)
    fold = network().fold("all_reduce", 8, 1e6)
    assert seconds(Graph((Layer("l", (op,)),))) == pytest.approx(fold.seconds, rel=1e-12)
    assert fold.seconds == pytest.approx(30e-6 + 2 * (0.5e-6 + 1e-6 + 1e6 / 8 / 25e9), rel=1e-12)


@pytest.mark.parametrize("shape", ["full_mesh", "switch", "ring"])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "direct"])
def test_unfolded_ranks_agree_with_the_folded_one(shape, algorithm):
    asked = graph(decode_batch([4000] * 4))
    pod = network(shape=shape, algorithm=algorithm)
    folded, unfolded = seconds(asked, pod=pod), seconds(asked, pod=pod, unfold=True)
    if (
        shape == "ring" and algorithm == "direct"
    ):  # sends of a round differ in length: the fold is an upper bound
        assert unfolded <= folded * (1 + 1e-9)
    else:
        assert unfolded == pytest.approx(folded, rel=1e-9)


def test_a_straggler_holds_everybody_up():
    asked = graph(decode_batch([4000] * 4))
    even, one, two = (
        seconds(asked, stragglers=slow, unfold=True) for slow in ({}, {3: 1.5}, {3: 1.5, 5: 1.5})
    )
    assert even * 1.05 < one < even * 1.5
    assert two == pytest.approx(one, rel=1e-9)
    assert seconds(asked, stragglers={3: 0.5}) == pytest.approx(even, rel=1e-9), (
        "a fast rank waits for the rest"
    )
    with pytest.raises(ValueError, match="straggler rank 9"):
        group(stragglers={9: 2.0})


def test_shared_layers_are_only_an_economy():
    asked = graph(decode_batch([4000] * 4), "preserve")
    copies = Graph(
        tuple(Layer(layer.name, tuple(replace(op) for op in layer.ops)) for layer in asked.layers)
    )
    assert len(set(copies.layers)) > len(set(asked.layers))
    assert seconds(copies) == seconds(asked)


def test_two_flows_share_a_port_and_the_limit_of_one_frees_the_other():
    env = simpy.Environment()
    net, port = Net(env), Capacity("port", 10.0)
    ends = {}

    def send(name, nbytes, at, limit=float("inf")):
        yield env.timeout(at)
        work = Work(env)
        work.flows = (Flow(work, port, limit),)
        work.end_s = net.start(*work.flows, nbytes, env.now, env.now)
        work.event = env.timeout(work.end_s - env.now)
        yield work.event
        ends[name] = env.now

    env.process(send("a", 100, 0))
    env.process(send("b", 20, 2))
    env.process(send("slow", 6, 20, limit=1.0))
    env.run()
    # a alone to 2 s (20 bytes), both at 5/s until b's 20 are done at 6 s, then a's last 60 at 10/s.
    assert ends == {"a": pytest.approx(12.0), "b": pytest.approx(6.0), "slow": pytest.approx(26.0)}
    assert port.moved == 126


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 3), min_size=1), st.floats(0.1, 5), st.floats(0.1, 100)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.floats(0.5, 50), min_size=4, max_size=4),
)
def test_max_min_fills_and_is_fair(flows, capacities):
    routes, weights, limits = (
        [sorted(f[0]) for f in flows],
        [f[1] for f in flows],
        [f[2] for f in flows],
    )
    # A flow's own limit is one more capacity, which it alone crosses.
    crossed = [c for f, route in enumerate(routes) for c in (*route, 4 + f)]
    first = np.cumsum([0, *(len(route) + 1 for route in routes)])
    table = crossings(first, np.array(crossed), np.ones(len(crossed)), 4 + len(flows))
    rates = fill(table, np.array(capacities + limits), np.array(weights)).tolist()
    load = [sum(rate for rate, route in zip(rates, routes) if c in route) for c in range(4)]
    assert all(used <= have * (1 + 1e-9) for used, have in zip(load, capacities))
    for f, rate in enumerate(rates):
        if rate >= limits[f] * (1 - 1e-9):
            continue
        # Somewhere on its way is full, and nobody there has more for its weight.
        assert any(
            load[c] >= capacities[c] * (1 - 1e-9)
            and all(
                rates[g] / weights[g] <= rate / weights[f] * (1 + 1e-9)
                for g in range(len(flows))
                if c in routes[g]
            )
            for c in routes[f]
        )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 100)), min_size=1, max_size=8),
    st.floats(0.5, 50),
)
def test_a_port_is_shared_by_the_same_rule(flows, rate):
    env = simpy.Environment()
    net, port = Net(env), Capacity("port", rate)
    works = [Work(env) for _ in flows]
    for work, (weight, limit) in zip(works, flows):
        work.flows = (Flow(work, port, limit, weight),)
        net.start(*work.flows, 1e9, 0.0, 0.0)
    crossed = np.array([c for f in range(len(flows)) for c in (0, 1 + f)])
    first = np.arange(len(flows) + 1) * 2
    table = crossings(first, crossed, np.ones(len(crossed)), 1 + len(flows))
    weights, limits = zip(*flows)
    due = fill(table, np.array([rate, *limits]), np.array(weights))
    assert [work.flows[0].rate for work in works] == pytest.approx(due.tolist(), rel=1e-9)


def test_an_overtaken_prefetch_moves_no_byte_twice():
    weight = Tensor("w", 100e6, "weight")
    fetch = Op("fetch", "prefetch", "prefetch", reads=(weight,))
    wait = Op(
        "wait", "norm", engine="vector", flop=10e12 * 20e-6
    )  # 25 us with its launch, a quarter of the fetch
    use = Op("use", "matmul", engine="matrix", reads=(weight,))
    timeline, some = recorded(Graph((Layer("l", (fetch, wait, use)),)), ranks=1)
    assert some.chips[0].hbm.moved == pytest.approx(100e6)
    assert some.env.now == pytest.approx(25e-6 + 4e-6 + (100e6 - 24e6) / 1e12, rel=1e-9)
    assert [span.name for span in timeline.spans] == ["l 0: wait", "l 0: fetch", "l 0: use"]


def test_dependencies_hold_across_streams_and_layers():
    ops = graph(decode_batch([4000] * 4), "preserve")
    timeline, _ = recorded(ops)
    at = {span.name: span for span in timeline.spans}
    for index, op in ops.ops():
        me = at.get(f"{ops.layers[index].name} {index}: {op.name}")
        for after in op.after:
            before = at.get(
                f"{ops.layers[index - after.back].name} {index - after.back}: {after.name}"
            )
            if me and before:
                assert before.end_s <= me.start_s + 1e-12
    assert After("x") == After("x", back=0)


def test_memory_does_not_grow_with_steps():
    some = group()
    program = [chip.lower(graph(decode_batch([4000] * 4), "preserve")) for chip in some.chips]

    def steps(count):
        for _ in range(count):
            yield from some.play(program)

    import tracemalloc

    some.env.run(some.env.process(steps(3)))
    tracemalloc.start()
    some.env.run(some.env.process(steps(20)))
    early = tracemalloc.get_traced_memory()[0]
    some.env.run(some.env.process(steps(100)))
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late - early < 20_000


def test_a_timeline_keeps_no_more_than_asked():
    timeline = Timeline()
    some = group(timeline=timeline, max_spans=30)
    some.env.run(some.env.process(some.run(graph(decode_batch([4000] * 4)))))
    assert len(timeline.spans) == 30
    assert timeline.truncated > 0
    assert MODEL.layers == 4


def test_what_crosses_a_port_is_kept_as_long_as_its_spans():
    """Else a long window of a few spans is millions of uses."""
    timeline, whole = Timeline(), Timeline()
    for kept, most in ((timeline, 30), (whole, 20_000)):
        some = group(timeline=kept, max_spans=most)
        some.env.run(some.env.process(some.run(graph(decode_batch([4000] * 4)))))
    assert timeline.full_s is not None and whole.full_s is None
    assert 0 < max(use.end_s for use in timeline.uses) <= timeline.full_s
    assert timeline.uses == whole.uses[: len(timeline.uses)] and len(timeline.uses) < 100
