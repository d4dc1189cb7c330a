"""Serving at fleet scale: laws of any replay, both fidelities held to each other, and a queue of
textbooks."""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from machines import DEVICE, MODEL, graph, group, network, replace

from sim.compiled import ran
from sim.engine.lines import features_of_batch
from sim.engine.played_prices import PlayedPrices
from sim.engine.pricing import pricing
from sim.engine.replay import Kind, player, serve_fleet
from sim.engine.scaling import Autoscale, Failure, Scaler, failures
from sim.graph.batch import Batch, Sequences, decode_batch, prefill_batch
from sim.hardware.device import Kernel
from sim.reproduce.serving import md_c_waiting
from sim.serving import compiled
from sim.serving.fleet import (
    POLICIES,
    ROW_SUMS,
    Rules,
    Seen,
    number,
    plain_arrivals,
    pool_of,
    replica_of,
)
from sim.serving.order import ORDERS, Head, Order
from sim.serving.router import ROUTERS, Asks, Router
from sim.serving.step_time import steps_seconds

DENSE = replace(MODEL, layers=2)
SPARSE = replace(
    MODEL, layers=3, attention=("dense", "blocksparse", "window"), window_tokens=60, sparse_stride=8
)
# With a closed form of its own for every kind of kernel.
CHIP = replace(
    DEVICE,
    kernels={
        "matmul": Kernel(overlap=0.6, matrix_efficiency_8bit=0.7),
        "attention": Kernel(6e-6, 0.5, 0.7, tile=16.0),
    },
)
NETWORK = network(2)
RULES = Rules(number(ROUTERS, "round_robin"), 0, 0, True, False, 0, False, True)


@cache
def built(model, ranks, techniques, batch):
    return graph(batch, *techniques, model=model, ranks=ranks)


def graph_of(model, ranks, *techniques):
    return partial(built, model, ranks, techniques)


@cache
def kind_of(model, ranks):
    form = pricing(graph_of(model, ranks), CHIP, NETWORK, ranks, model.patterns)
    assert form is not None
    form.table = cache(form.table)  # worlds ask for few sizes
    return Kind(form, model.patterns)


@cache
def price_of(machine):
    return kind_of(*machine).pricing.table(4096, 64)


@pytest.fixture(scope="module", autouse=True)
def loops():
    """What is loaded is used: laws of many small worlds are tested on compiled code where there is
    any, which `test_any_world_compiled_is_that_world_interpreted` holds to the source."""
    compiled.LOOPS.native(1e9)


MACHINES = [(model, ranks) for model in (DENSE, SPARSE) for ranks in (1, 2)]


def replicas_of(
    count=1, policy="chunked", sequences=16, new_tokens=512, block_tokens=16, blocks=10_000, **more
):
    row = replica_of(POLICIES[policy], sequences, new_tokens, block_tokens, blocks, **more)
    return np.concatenate([row] * count).view(np.recarray)


def trace(rows):
    gaps, prompt, output = (np.array(column) for column in zip(*rows))
    return plain_arrivals(np.cumsum(gaps) - gaps[0], prompt, output)


def served(
    asked, replicas, kind, rules=RULES, *, expected=0.0, pieces=1, pools=None, rows=1, **more
):
    """Every record by id, and the fleet at the end."""
    edges = np.linspace(0, len(asked.id), pieces + 1).astype(int)
    parts = [
        asked._replace(
            **{
                name: getattr(asked, name)[a:b]
                for name in asked._fields
                if name not in ("blocks", "block_from")
            },
            block_from=asked.block_from[a : b + 1],
        )
        for a, b in itertools.pairwise(edges)
    ]
    pools = pool_of(0, len(replicas)) if pools is None else pools
    kinds = kind if isinstance(kind, list) else [kind]
    found = list(
        serve_fleet(parts, rules, replicas, pools, kinds, expected=expected, rows=rows, **more)
    )
    records = np.concatenate([records for records, _ in found]).view(np.recarray)
    return records[np.argsort(records.id, kind="stable")], found[-1][1]


def played(model, ranks, replicas, *techniques):
    """A kind that has every op of every iteration played."""
    asked = graph_of(model, ranks, *techniques)
    groups = [[group(CHIP, ranks, pod=NETWORK, graph_of=asked)] for _ in range(replicas)]
    return Kind(None, model.patterns, player(groups))


@st.composite
def worlds(draw, longest=40):
    """(requests, rules, replicas, pools): small, but with every mechanism in play; answers of up to
    `longest` tokens."""
    count = draw(st.integers(1, 12))
    asked = trace(
        draw(
            st.lists(
                st.tuples(
                    st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0]),
                    st.integers(1, 300),
                    st.integers(1, longest),
                ),
                min_size=count,
                max_size=count,
            )
        )
    )
    unit = draw(st.sampled_from([0, 16, 32]))
    if unit:  # prefixes of a few families, and of the answer as much as is known
        names, edges = [], [0]
        for prompt, output in zip(asked.prompt, asked.output):
            family, known = (
                draw(st.integers(0, 2)),
                draw(st.integers(0, (int(prompt) + int(output)) // unit)),
            )
            fork = draw(st.integers(0, 4))
            names += [
                1000 * family + i if i < fork else 1000 * (family + 3 + fork) + i
                for i in range(known)
            ]
            edges.append(len(names))
        asked = asked._replace(block_from=np.array(edges), blocks=np.array(names, np.int64))
    asked = asked._replace(
        rank=np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))),
        session=np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))),
    )
    closed = draw(st.booleans())
    if closed:  # the last third of the rows are later turns
        first = count - count // 3
        turns = asked.next.copy()
        turns[: count - first] = np.arange(first, count)
        asked = asked._replace(
            next=turns,
            arrival_s=np.where(np.arange(count) < first, asked.arrival_s, np.inf),
            think_s=np.full(count, draw(st.sampled_from([0.0, 0.01, 1.0]))),
        )
    split = draw(st.booleans())
    size = draw(st.sampled_from([1, 4, 16]))
    one = replicas_of(
        draw(st.integers(1, 2)),
        draw(st.sampled_from([*POLICIES])),
        draw(st.integers(1, 6)),
        draw(st.integers(6, 600)),
        size,
        -(-draw(st.integers(340, 1000)) // size),
        reserve=draw(st.booleans()),
        swap_s=draw(st.sampled_from([np.nan, 1e-6])),
        overhead_s=draw(st.sampled_from([0.0, 1e-4])),
        drafts=draw(st.sampled_from([0, 0, 3])),
    )
    pools = pool_of(0, len(one))
    if split:
        other = one.copy()
        other.pool = 1
        pools = np.concatenate(
            [
                pool_of(0, len(one), next=1, transfer_s=1e-6, latency_s=1e-5),
                pool_of(len(one), len(one)),
            ]
        )
        one = np.concatenate([one, other])
    rules = Rules(
        draw(st.sampled_from(range(len(ROUTERS)))),
        draw(st.sampled_from([0, 1, 2])),
        draw(st.integers(0, 9)),
        True,
        closed or split,
        unit,
        False,
        draw(st.booleans()),
    )
    return asked, rules, one.view(np.recarray), pools.view(np.recarray)


def outages():
    """Some replicas that fail, most of them while there is work."""
    one = st.builds(
        Failure,
        st.integers(0, 3),
        st.sampled_from([0.0, 1e-3, 5e-3, 0.02, 0.1, 1.0]),
        st.sampled_from([0.0, 1e-3, 0.01, 2.0, np.inf]),
    )
    return st.lists(one, max_size=4)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(MACHINES), st.integers(1, 4))
def test_laws_of_any_replay(world, machine, pieces):
    asked, rules, replicas, pools = world
    pieces = 1 if rules.coupled else pieces
    records, fleet = served(
        asked,
        replicas,
        kind_of(*machine),
        rules,
        pools=pools,
        pieces=pieces,
        ranks=3,
        acceptance=(0.8, 0.5, 0.1),
    )
    me = fleet.replicas
    assert records.id.tolist() == list(range(len(asked.id)))  # none lost, none twice
    assert (records.prompt == asked.prompt).all() and (records.output == asked.output).all()
    assert (records.arrival_s <= records.scheduled_s).all() and (
        records.scheduled_s < records.first_s
    ).all()
    assert ((records.first_s < records.last_s) <= (records.output > 1)).all()
    unit = (rules.unit_tokens or 1) // me.block_tokens if rules.unit_tokens else 0
    assert (me.free_blocks + unit * me.unused == me.blocks).all()  # every block came back
    assert not fleet.nodes.users.any() and (me.peak_blocks <= me.blocks).all()
    assert (
        not me.running_count.any()
        and not me.waiting_count.any()
        and not me.work.any()
        and not me.present.any()
    )
    assert not me[me.reserve == 1].preemptions.any()
    # Little's law: the area under the number of requests is the time that each spent here.
    spent_s = (records.last_s - records.arrival_s).sum()
    if len(pools) == 1:
        assert me.present_s.sum() == pytest.approx(spent_s, rel=1e-9)
    assert (fleet.of_tokens * np.arange(fleet.of_tokens.shape[1])).sum() == pytest.approx(
        fleet.sums[:, 1].sum()
    )
    assert fleet.series[..., 4].sum() == pytest.approx(records.output.sum())
    if not me.preemptions.any():
        assert fleet.series[..., 3].sum() == pytest.approx((records.prompt - records.hit).sum())
    assert fleet.series[..., 0].sum() == pytest.approx(me.busy_s.sum())
    assert fleet.gaps.sum() == (records.output - 1).sum()


def tied(records, rules):
    """Whether replicas end at one instant but for rounding, where who comes then goes by how they
    are."""
    ends = np.concatenate([records.first_s, records.last_s])
    whose = np.tile(records.replica, 2)
    order = np.argsort(ends)
    near = np.diff(ends[order]) <= 1e-9 * ends[order][1:]
    return rules.coupled and bool((near & (np.diff(whose[order]) != 0)).any())


@settings(max_examples=40, deadline=None)
@given(worlds(longest=20), st.sampled_from(MACHINES))
def test_step_is_op(world, machine):
    """Iterations priced and jumped over, against every op of every iteration played."""
    asked, rules, replicas, pools = world
    more = {"pools": pools, "ranks": 3, "acceptance": (0.8, 0.5, 0.1)}
    jumped, _ = served(asked, replicas, kind_of(*machine), rules, **more)
    every, _ = served(
        asked, replicas, played(*machine, len(replicas)), rules._replace(jump=False), **more
    )
    assume(not tied(every, rules))
    for column in ("arrival_s", "scheduled_s", "first_s", "last_s"):
        assert getattr(jumped, column) == pytest.approx(getattr(every, column), rel=1e-9, abs=1e-12)
    for column in ("replica", "hit", "preempted"):
        assert (getattr(jumped, column) == getattr(every, column)).all()


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: f"{len(machine[0].attention)} patterns, {machine[1]}"
)
def test_totals_of_priced_iterations_are_those_of_played_ones(machine):
    model, ranks = machine
    asked = many(12, 50)
    _, fleet = served(asked, replicas_of(), kind_of(*machine))
    some = group(CHIP, ranks=ranks, pod=NETWORK, graph_of=graph_of(model, ranks))
    kind = Kind(None, model.patterns, player([[some]]))
    served(asked, replicas_of(), kind, RULES._replace(jump=False))
    priced, true = kind_of(*machine).pricing.totals(fleet, 0), some.chips[0].totals
    for name in ("steps", "ops", "flop", "matrix_flop", "asked_bytes"):
        assert getattr(priced, name) == pytest.approx(getattr(true, name), rel=1e-9), name
    for name in ("HBM", "L2", "link"):
        assert priced.bytes[name] == pytest.approx(true.bytes[name], rel=1e-9), name
    assert priced.span_s["compute"] == pytest.approx(true.span_s["compute"], rel=1e-9)
    assert priced.span_s["communication"] == pytest.approx(true.span_s["communication"], rel=1e-9)
    assert sum(priced.bound_s.values()) == pytest.approx(sum(true.bound_s.values()), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(MACHINES), outages())
def test_nothing_is_lost_when_replicas_fail(world, machine, faults):
    asked, rules, replicas, pools = world
    faults = [fault for fault in faults if fault.replica < len(replicas)]
    sides = {tuple(range(pool.first, pool.first + pool.count)) for pool in pools}
    for side in sides:  # one of each pool comes back
        faults = [
            fault._replace(for_s=1.0)
            if fault.replica == side[0] and np.isinf(fault.for_s)
            else fault
            for fault in faults
        ]
    records, fleet = served(
        asked,
        replicas,
        kind_of(*machine),
        rules,
        pools=pools,
        ranks=3,
        acceptance=(0.8, 0.5, 0.1),
        events=failures(faults),
    )
    me = fleet.replicas
    assert records.id.tolist() == list(range(len(asked.id)))
    done = records[records.replica >= 0]
    assert (done.prompt + done.output <= int((me.blocks * me.block_tokens).max())).all()
    assert (done.arrival_s <= done.scheduled_s).all() and (done.scheduled_s < done.first_s).all()
    assert (done.first_s <= done.last_s).all()
    assert (
        not me.running_count.any()
        and not me.waiting_count.any()
        and not me.present.any()
        and not me.work.any()
    )
    cached = me.unused * (rules.unit_tokens // me.block_tokens)
    assert (me.free_blocks + cached == me.blocks).all(), "no block leaks"
    assert (me.peak_blocks <= me.blocks).all()
    assert me.present_s.sum() <= (np.nan_to_num(done.last_s - done.arrival_s)).sum() + 1e-9
    for fault in faults:
        down = (
            (done.replica == fault.replica)
            & (done.last_s > fault.at_s)
            & (done.last_s < fault.at_s + fault.for_s)
        )
        assert not down.any(), "nobody is answered by a replica that is down"


@settings(max_examples=25, deadline=None)
@given(worlds(longest=20), outages())
def test_step_is_op_when_replicas_fail(world, faults):
    asked, rules, replicas, pools = world
    faults = [
        fault._replace(for_s=min(fault.for_s, 1.0))
        for fault in faults
        if fault.replica < len(replicas)
    ]
    more = {"pools": pools, "ranks": 3, "acceptance": (0.8, 0.5, 0.1), "events": failures(faults)}
    told, _ = served(asked, replicas, kind_of(DENSE, 1), rules, **more)
    every, _ = served(
        asked, replicas, played(DENSE, 1, len(replicas)), rules._replace(jump=False), **more
    )
    assume(not tied(every, rules))
    for column in ("arrival_s", "scheduled_s", "first_s", "last_s", "retried"):
        assert getattr(told, column) == pytest.approx(getattr(every, column), rel=1e-9, abs=1e-12)


def test_a_failed_replicas_requests_go_on_elsewhere():
    asked = trace([(0.0, 200, 30)] * 4)
    healthy, _ = served(asked, replicas_of(2), kind_of(DENSE, 1))
    at_s = float(healthy.first_s.max() + 1e-3)
    hurt, fleet = served(
        asked, replicas_of(2), kind_of(DENSE, 1), events=failures([Failure(0, at_s, np.inf)])
    )
    assert hurt.retried.tolist() == [1, 0, 1, 0] and set(hurt.replica) == {1}
    assert hurt.first_s.tolist() == healthy.first_s.tolist(), "what has been answered stands"
    assert (hurt.last_s > healthy.last_s).all(), "the others have to share"
    assert fleet.replicas[0].lost_s > 0


def test_a_fleet_follows_its_load():
    rng = np.random.default_rng(0)
    gaps = np.concatenate(
        [rng.exponential(0.05, 100), rng.exponential(0.002, 1000), rng.exponential(0.05, 200)]
    )
    asked = plain_arrivals(np.cumsum(gaps), np.full(1300, 300), np.full(1300, 20))
    rule = Autoscale(0, 4, 1, 4.0, 0.1, 0.3, 0.5)
    scaler, replicas = Scaler(rule), replicas_of(4, sequences=4)
    router = RULES._replace(router=number(ROUTERS, "least_loaded"))
    quick = {"expected": 1e9}  # compiled, where it can be: the same bits
    events = scaler.begin(replicas)
    records, fleet = served(asked, replicas, kind_of(DENSE, 1), router, events=events, **quick)
    fixed, _ = served(asked, replicas_of(1, sequences=4), kind_of(DENSE, 1), router, **quick)
    full, _ = served(asked, replicas_of(4, sequences=4), kind_of(DENSE, 1), router, **quick)
    waits = [float((run.scheduled_s - run.arrival_s).mean()) for run in (full, records, fixed)]
    assert waits[0] < waits[1] < waits[2], "between one replica and all of them"
    end_s = float(records.last_s.max())
    on_s = [scaler.on_s(r, end_s) for r in range(4)]
    assert scaler.most == 4 and end_s == on_s[0] > on_s[1] >= on_s[2] >= on_s[3] > 0
    crowd_s = asked.arrival_s[100]
    assert records.scheduled_s[records.replica > 0].min() >= crowd_s + 0.3, (
        "not before it has started"
    )
    for r in range(4):
        assert fleet.replicas[r].busy_s <= on_s[r] + 1e-9


@settings(max_examples=60, deadline=None)
@given(worlds(), st.sampled_from(MACHINES), st.floats(1e-5, 0.1))
def test_who_waits_too_long_is_turned_away(world, machine, patience_s):
    asked, rules, replicas, pools = world
    asked = asked._replace(patience_s=np.full(len(asked.id), patience_s))
    records, fleet = served(
        asked,
        replicas,
        kind_of(*machine),
        rules._replace(shed=True),
        pools=pools,
        ranks=3,
        acceptance=(0.8, 0.5, 0.1),
    )
    assert records.id.tolist() == list(range(len(asked.id)))
    done = records[records.replica >= 0]
    assert (done.scheduled_s <= done.arrival_s + patience_s + 1e-12).all()
    assert not fleet.replicas.present.any() and not fleet.replicas.work.any()


def test_tight_budget_preempts_and_still_serves_all():
    asked = trace([(0.0, 100, 60)] * 8)
    records, fleet = served(asked, replicas_of(blocks=24), kind_of(DENSE, 1))
    assert fleet.replicas.preemptions[0] > 0 and len(records) == 8
    roomy, _ = served(asked, replicas_of(), kind_of(DENSE, 1))
    assert records.last_s.max() > roomy.last_s.max()


def seconds(price, first, growth, steps):
    return steps_seconds(price, 0, first, growth, steps, np.zeros((price.times.shape[1], ROW_SUMS)))


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: f"{len(machine[0].attention)} pattern"
)
def test_a_jump_is_the_sum_of_its_steps(machine):
    model, _ = machine
    price = price_of(machine)
    first, second = (
        np.array(features_of_batch(model.patterns, decode_batch([c + i, 3 * c + i])))
        for i in (0, 1)
        for c in (90,)
    )
    growth = second - first
    for begin, steps in ((0, 1), (0, 2), (0, 7), (0, 1000), (29_900, 100)):
        each = sum(
            seconds(price, first + i * growth, 0 * first, 1) for i in range(begin, begin + steps)
        )
        assert seconds(price, first + begin * growth, growth, steps) == pytest.approx(
            each, rel=1e-11
        )
    # A long one is the sum of shorter ones.
    each = sum(seconds(price, first + i * growth, growth, 100) for i in range(0, 30_000, 100))
    assert seconds(price, first, growth, 30_000) == pytest.approx(each, rel=1e-11)


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: f"{len(machine[0].attention)} pattern"
)
@pytest.mark.parametrize(
    "batch",
    [
        decode_batch([5]),
        decode_batch(range(40)),
        prefill_batch([700, 3]),
        Batch((Sequences(1, 256, 512), Sequences(9, 1, 80)), 9),
    ],
    ids=["one", "decode", "prefill", "mixed"],
)
def test_closed_form_meets_the_play(machine, batch):
    model, ranks = machine
    some = group(CHIP, ranks=ranks, pod=NETWORK)
    some.env.run(some.env.process(some.run(graph_of(model, ranks)(batch))))
    found = np.array(features_of_batch(model.patterns, batch))
    assert seconds(price_of(machine), found, 0 * found, 1) == pytest.approx(some.env.now, rel=1e-12)


@settings(max_examples=12, deadline=None)
@given(worlds(longest=20), st.sampled_from(["preserve", "fused_collective"]))
def test_step_is_op_with_overlap(world, technique):
    """What has no closed form is played at some contexts and told at others; every op played is the
    judge."""
    asked, rules, replicas, pools = world
    more = {"pools": pools, "ranks": 3, "acceptance": (0.8, 0.5, 0.1)}
    asked_of = graph_of(DENSE, 2, technique)
    pieces = PlayedPrices(group(CHIP, ranks=2, pod=NETWORK, graph_of=asked_of), DENSE.patterns)
    told, fleet = served(asked, replicas, Kind(None, DENSE.patterns, pieces), rules, **more)
    kind = played(DENSE, 2, len(replicas), technique)
    every, _ = served(asked, replicas, kind, rules._replace(jump=False), **more)
    for column in ("arrival_s", "scheduled_s", "first_s", "last_s"):
        assert getattr(told, column) == pytest.approx(getattr(every, column), rel=1e-9, abs=1e-12)
    for r in range(len(replicas)):
        pieces.settle(fleet, r)
    assert pieces.sums["steps",] == fleet.replicas.iterations.sum()


def test_overlap_has_no_closed_form():
    assert pricing(graph_of(DENSE, 2, "preserve"), CHIP, NETWORK, 2, DENSE.patterns) is None
    assert pricing(graph_of(DENSE, 2, "fused_collective"), CHIP, NETWORK, 2, DENSE.patterns) is None


def test_weights_that_stay_in_l2_have_no_closed_form():
    roomy = replace(CHIP, l2_bytes=64e9)
    assert pricing(graph_of(DENSE, 1), roomy, NETWORK, 1, DENSE.patterns) is None


def many(count, rate, seed=1):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 900, count), rng.integers(1, 60, count)
    return plain_arrivals(np.cumsum(rng.exponential(1 / rate, count)), *lengths)


@pytest.mark.parametrize(
    "replicas, router",
    [
        (replicas_of(3, blocks=150, sequences=12), "least_loaded"),
        (replicas_of(3, "prefill_first"), "power_of_two"),
        (replicas_of(3, "static"), "round_robin"),
    ],
    ids=["chunked", "prefill first", "static"],
)
def test_compiled_is_interpreted(replicas, router):
    pytest.importorskip("numba", reason="the compiled form needs numba")
    rules = RULES._replace(router=number(ROUTERS, router))
    quick, _ = served(many(150, 300), replicas, kind_of(SPARSE, 2), rules, expected=1e9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.LOOPS, "native", lambda amount: None)
        slow, _ = served(many(150, 300), replicas, kind_of(SPARSE, 2), rules)
    assert quick.tobytes() == slow.tobytes()


@settings(max_examples=40, deadline=None)
@given(worlds(), st.sampled_from(MACHINES), outages())
def test_any_world_compiled_is_that_world_interpreted(world, machine, faults):
    asked, rules, replicas, pools = world
    more = {"pools": pools, "ranks": 3, "acceptance": (0.8, 0.5, 0.1)}
    faults = [
        fault._replace(for_s=min(fault.for_s, 1.0))
        for fault in faults
        if fault.replica < len(replicas)
    ]
    found = []
    for native in (compiled.LOOPS.native, lambda amount: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled.LOOPS, "native", native)
            found.append(
                served(asked, replicas, kind_of(*machine), rules, events=failures(faults), **more)
            )
    (quick, one), (slow, other) = found
    assert quick.tobytes() == slow.tobytes()
    assert one.replicas.tobytes() == other.replicas.tobytes()


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_waiting_of_deterministic_servers(load, servers):
    """M/D/c, one request at a time on each, all of equal length, each to the server that is free
    first."""
    count = 300_000 if compiled.LOOPS.native(1e9) else 30_000
    replicas = replicas_of(servers, "prefill_first", sequences=1)
    rules = RULES._replace(router=number(ROUTERS, "oracle_least_work"))
    one, _ = served(trace([(0.0, 100, 1)]), replicas, kind_of(DENSE, 1), rules)
    service_s = float(one.last_s[0])
    gaps = np.random.default_rng(3).exponential(service_s / load / servers, count)
    asked = plain_arrivals(np.cumsum(gaps), np.full(count, 100), np.ones(count))
    records, _ = served(
        asked, replicas, kind_of(DENSE, 1), rules, expected=count, pieces=20, rows=65_536
    )
    waited_s = (records.scheduled_s - records.arrival_s).mean()
    expected_s = md_c_waiting(load, servers, service_s)
    if servers == 1:
        assert expected_s == pytest.approx(
            load * service_s / (2 * (1 - load)), rel=1e-6
        )  # Pollaczek and Khinchine
    assert waited_s == pytest.approx(expected_s, rel=0.02 if count > 100_000 else 0.15)


def talking(count=60, rate=400.0):
    """Requests with sessions and, in three families, prefixes."""
    asked, rng = many(count, rate), np.random.default_rng(9)
    blocks = np.concatenate([100 * (i % 3) + np.arange(4) for i in range(count)])
    return asked._replace(
        session=rng.integers(0, 9, count),
        prompt=np.maximum(asked.prompt, 70),
        block_from=4 * np.arange(count + 1),
        blocks=blocks,
    )


@pytest.mark.parametrize("row", ROUTERS.values(), ids=ROUTERS)
def test_answers_not_made_yet_change_no_routing_but_the_oracles(row):
    """Requests that are not answered in full at some time are made to be answered three times as
    long: who came before goes where it went."""
    rules = RULES._replace(router=number(ROUTERS, row.name), unit_tokens=16, seed=5)
    replicas, asked = replicas_of(3, sequences=6), talking()
    before, _ = served(asked, replicas, kind_of(SPARSE, 2), rules)
    assert len(set(before.replica)) > 1
    changed = False
    for now_s in np.quantile(asked.arrival_s, [0.3, 0.6, 0.9]):
        output = np.where(before.last_s > now_s, 3 * asked.output, asked.output)
        assert (output != asked.output).any() and (now_s < before.last_s.max())
        after, _ = served(asked._replace(output=output), replicas, kind_of(SPARSE, 2), rules)
        came = asked.arrival_s <= now_s
        changed = changed or (before.replica != after.replica)[came].any()
    assert changed == row.oracle


def test_least_work_counts_prompts_and_expects_answers_like_those_before():
    """Long prompts to one, short ones to the other: the next goes where fewer tokens wait, though
    more requests do."""
    rules = RULES._replace(router=number(ROUTERS, "least_work"))
    asked = trace([(0.0, 800, 50), (0.0, 100, 50), (0.0, 100, 50), (0.0, 100, 50)])
    records, _ = served(asked, replicas_of(2), kind_of(DENSE, 1), rules)
    assert records.replica.tolist() == [0, 1, 1, 1]
    # 600 + 700 is more than 10 + 700, and less than 2 (10 + 700).
    asked = trace([(0.0, 50, 700), (9.0, 600, 2), (0.0, 10, 2), (0.0, 10, 2), (0.0, 10, 2)])
    records, _ = served(asked, replicas_of(2), kind_of(DENSE, 1), rules)
    assert records.replica.tolist() == [0, 0, 1, 1, 0]


def test_a_router_from_outside_runs_in_plain_python_and_says_so(monkeypatch):
    def last(seen: Seen, asks: Asks) -> int:
        return seen.first + seen.replicas - 1

    monkeypatch.setitem(ROUTERS, "last", Router("last", "always the last", last))
    rules = RULES._replace(router=number(ROUTERS, "last"))
    records, _ = served(many(20, 300), replicas_of(3), kind_of(DENSE, 1), rules, expected=1e9)
    assert set(records.replica) == {2}
    assert "serving: plain Python (last is not of this package)" in ran()


def test_an_order_from_outside_is_asked(monkeypatch):
    def shortest_patience_last(a: Head, b: Head) -> bool:
        return a.deadline_s > b.deadline_s

    row = Order("late", "the latest deadline first", shortest_patience_last)
    monkeypatch.setitem(ORDERS, "late", row)
    asked = trace([(0.0, 100, 9), (0.0, 100, 2), (0.0, 100, 2)])
    asked = asked._replace(rank=np.array([0, 0, 1]), patience_s=np.array([1.0, 2.0, 3.0]))
    first = {}
    for name in ("priority", "late"):
        rules = RULES._replace(order=number(ORDERS, name))
        found, _ = served(asked, replicas_of(1, sequences=1), kind_of(DENSE, 1), rules, ranks=2)
        first[name] = found.scheduled_s.argsort().tolist()
    assert first == {"priority": [0, 1, 2], "late": [2, 0, 1]}
