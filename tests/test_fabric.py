"""Flows on a fabric: the law of sharing, whoever begins and ends when; and one answer however it is
computed."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.network.sharing as sharing
from sim.engine.fabric import Fabric
from sim.engine.flows import Capacity, Flow, Net, Work
from sim.engine.isolated import finish_times
from sim.network.sharing import crossings, fill
from sim.network.wires import Paths


def max_min(routes, capacities, weights):
    """Rates by the book: raise all in proportion to weight until a capacity is full, freeze the
    flows that cross it, go on with the rest."""
    rates, left, growing = [0.0] * len(routes), list(capacities), set(range(len(routes)))
    while growing:
        load = [sum(weights[f] for f in growing if c in routes[f]) for c in range(len(left))]
        level = min(have / asked for have, asked in zip(left, load) if asked)
        tight = {c for c, asked in enumerate(load) if asked and left[c] / asked <= level}
        for f in [f for f in growing if tight & {*routes[f]}]:
            rates[f] = level * weights[f]
            for c in routes[f]:
                left[c] -= rates[f]
            growing.discard(f)
    return rates


def one_event_at_a_time(rates, routes, start, nbytes, weight):
    """Finish times the slow way: share out all flows anew at every start and end."""
    now, left, end = 0.0, list(nbytes), [None] * len(routes)
    while None in end:
        going = [f for f, over in enumerate(end) if over is None and start[f] <= now + 1e-15]
        speed = max_min([routes[f] for f in going], rates, [weight[f] for f in going])
        coming = [s for s in start if s > now + 1e-15]
        until = min(coming + [now + left[f] / rate for f, rate in zip(going, speed)])
        for f, rate in zip(going, speed):
            left[f] -= rate * (until - now)
            if left[f] <= rate * 1e-12:
                end[f] = until
        now = until
    return end


@st.composite
def networks(draw, most=6):
    links = draw(st.integers(1, most))
    flows = draw(st.integers(1, 12))
    number = st.sampled_from([1.0, 2.0, 3.0, 5.0, 7.5])
    return (
        [draw(number) for _ in range(links)],
        [
            draw(st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True))
            for _ in range(flows)
        ],
        [draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for _ in range(flows)],
        [draw(number) for _ in range(flows)],
        [draw(st.sampled_from([1.0, 1.0, 3.0])) for _ in range(flows)],
    )


@given(networks())
@settings(max_examples=300, deadline=None)
def test_flows_end_when_they_should(some):
    rates, routes, start, nbytes, weight = some
    ours = finish_times(
        np.array(rates),
        routes,
        np.array(start),
        np.zeros(len(routes)),
        np.array(nbytes),
        np.array(weight),
    )
    assert ours == pytest.approx(
        one_event_at_a_time(rates, routes, start, nbytes, weight), rel=1e-9
    )


@given(networks(most=1))
@settings(max_examples=100, deadline=None)
def test_the_fabric_and_a_chips_flows_agree(some):
    rates, routes, start, nbytes, weight = some
    env = simpy.Environment()
    net, port = Net(env), Capacity("port", rates[0])
    ends = {}

    def send(f):
        yield env.timeout(start[f])
        work = Work(env)
        work.flows = (Flow(work, port, weight=weight[f]),)
        work.end_s = net.start(*work.flows, nbytes[f], env.now, env.now)
        work.floor_s = env.now
        work.event = env.timeout(work.end_s - env.now)
        yield work.event  # moved when the rate changes
        ends[f] = env.now

    for f in range(len(routes)):
        env.process(send(f))
    env.run()
    ours = finish_times(
        np.array(rates),
        routes,
        np.array(start),
        np.zeros(len(routes)),
        np.array(nbytes),
        np.array(weight),
    )
    assert ours == pytest.approx([ends[f] for f in range(len(routes))], rel=1e-9)


@given(networks(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_filling_on_arrays_is_filling_on_lists(some, compiled):
    rates, routes, _, _, weight = some
    if compiled:
        pytest.importorskip("numba", reason="the compiled form needs numba")
    first = np.cumsum([0, *map(len, routes)])
    crossed = np.array([link for route in routes for link in route])
    with pytest.MonkeyPatch.context() as patch:
        form = sharing.LOOPS.native(1e9) if compiled else None
        patch.setattr(sharing.LOOPS, "native", lambda amount: form)
        table = crossings(first, crossed, np.ones(len(crossed)), len(rates))
        ours = fill(table, np.array(rates), np.array(weight))
    assert ours.tolist() == pytest.approx(max_min(routes, rates, weight), rel=1e-9)


@pytest.mark.parametrize("flows", [50, 500])
def test_compiled_and_interpreted_filling_agree_to_the_bit(flows, monkeypatch):
    pytest.importorskip("numba", reason="the compiled form needs numba")
    dice = np.random.default_rng(flows)
    first = np.arange(flows + 1) * 5
    crossed = np.concatenate([dice.choice(40, 5, replace=False) for _ in range(flows)])
    share, rates, weight = (
        np.ones(len(crossed)),
        dice.uniform(1e9, 1e11, 40),
        dice.uniform(1, 3, flows),
    )
    answers = []
    for form in (sharing.LOOPS.native(1e9), None):
        monkeypatch.setattr(sharing.LOOPS, "native", lambda amount, form=form: form)
        answers.append(fill(crossings(first, crossed, share, 40), rates, weight))
    assert (answers[0] == answers[1]).all()


def test_flows_that_were_tied_in_plain_python_are_shared_by_what_is_loaded(monkeypatch):
    """Loading decides once for all: a table that was made before is no reason to stay slow."""
    pytest.importorskip("numba", reason="the compiled form needs numba")
    form = sharing.LOOPS.native(1e9)
    asked = []
    monkeypatch.setattr(sharing.LOOPS, "native", lambda amount: asked.append(amount))
    table = crossings(np.arange(5), np.array([0, 1, 1, 2]), np.ones(4), 3)
    plain = fill(table, np.array([1.0, 2.0, 3.0]), np.ones(4))
    assert sum(asked) >= 3 * 100, "each pass counts"
    calls = []
    seen = {name: lambda *given, f=f: calls.append(f) or f(*given) for name, f in form.items()}
    monkeypatch.setattr(sharing.LOOPS, "native", lambda amount: seen)
    assert (fill(table, np.array([1.0, 2.0, 3.0]), np.ones(4)) == plain).all()
    assert len(calls) == 1


def test_a_split_flow_uses_its_part_of_each_way():
    """A flow sprayed over two links of 1 goes at 2, and beside a flow that holds one of them, at
    what is left."""
    paths = Paths(
        np.array([0, 2]), np.array([0, 1]), np.array([0.5, 0.5]), np.zeros(1), np.ones(1, dtype=int)
    )
    env = simpy.Environment()
    fabric = Fabric(env, np.array([1.0, 1.0]))
    ends = []

    class Listener:
        def landed(self, tags):
            ends.append(env.now)

    row = np.array([fabric.add_paths(paths)])
    fabric.send(
        fabric.add_sender(Listener()), np.array([0]), row, row, np.array([8.0]), np.zeros(1)
    )
    env.run()
    assert ends == [pytest.approx(4.0)]
    assert [use.moved_bytes for use in fabric.uses()] == [4.0, 4.0]


def test_links_report_what_they_carried():
    routes = [[0], [0, 1], [1], [2]]
    env = simpy.Environment()
    uses = []
    fabric = Fabric(env, np.array([10.0, 4.0, 1.0]), "link {}".format, uses.append)

    class Listener:
        def landed(self, tags):
            pass

    first = np.cumsum([0, *map(len, routes)])
    crossed = np.array([link for route in routes for link in route])
    rows = fabric.add_paths(
        Paths(first, crossed, np.ones(5), np.zeros(4), np.diff(first))
    ) + np.arange(4)
    fabric.send(
        fabric.add_sender(Listener()), np.arange(4), rows, rows, np.full(4, 8.0), np.zeros(4)
    )
    env.run()
    links = {use.name: use for use in fabric.uses()}
    assert {name: use.moved_bytes for name, use in links.items()} == {
        "link 0": 16.0,
        "link 1": 16.0,
        "link 2": 8.0,
    }
    assert links["link 1"].busy_s == pytest.approx(4.0) and links["link 1"].most_flows == 2
    for name, use in links.items():  # the recorded stretches add up to the same bytes
        moved = sum(
            (each.end_s - each.start_s) * each.bytes_per_s for each in uses if each.capacity == name
        )
        assert moved == pytest.approx(use.moved_bytes)
