"""Edges and a cloud that train together: laws of the engine, closed forms of its methods, and every
batch exactly once whatever is lost and whenever."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine.edge_cloud import OUTAGE, Play
from sim.engine.fabric import Fabric
from sim.engine.lanes import Job, Outage, Work
from sim.engine.shared import Shared
from sim.facts.traffic import Binned
from sim.kinds.training.methods import METHODS, steps_of
from sim.network.channel import Channel
from sim.network.wires import Paths

SECONDS = {"edge forward": 0.3, "edge exit": 0.1, "edge backward": 0.5, "local training": 0.9}
CLOUD = {"cloud forward": 0.2, "cloud backward": 0.4, "average": 0.01}
LINK = Channel("link", 100.0, 200.0, latency_s=0.05, overhead_s=0.01)


def job(method="hierarchical", edges=1, batches=3, pipelined=False, **given):
    work = Work(SECONDS, {"upload": 120.0, "download": 80.0}, LINK, power_w=10.0)
    works = given.pop("works", [work] * edges)
    row = METHODS[method]
    return Job(
        steps=steps_of(row, pipelined),
        names=[f"edge {n}" for n in range(edges)],
        groups=["edge"] * edges,
        works=works,
        cloud_s=lambda step, batches: CLOUD[step] * batches,
        batches=batches,
        robust=row.robust,
        numbered=row.robust,
        **given,
    )


# One capacity that many flows share.


@st.composite
def flows(draw):
    limits = st.sampled_from([1.0, 2.0, 5.0, 40.0])
    each = st.tuples(st.sampled_from([0.0, 0.5, 1.25, 3.0]), limits, st.floats(0.5, 30.0))
    return draw(st.lists(each, min_size=1, max_size=12)), draw(st.sampled_from([3.0, 10.0, 1e6]))


@settings(max_examples=150, deadline=None)
@given(flows())
def test_a_shared_capacity_is_a_fabric(drawn) -> None:
    """The ends of flows are those of the fabric, where each has a link of its own limit."""
    some, rate = drawn
    env, ends = simpy.Environment(), {}
    shared = Shared(env, rate)

    def start(number, at_s, limit, nbytes):
        yield env.timeout(at_s)
        shared.send(nbytes, limit, lambda: ends.__setitem__(number, env.now))

    for number, (at_s, limit, nbytes) in enumerate(some):
        env.process(start(number, at_s, limit, nbytes))
    env.run()
    assert np.allclose([ends[n] for n in range(len(some))], by_fabric(some, rate), rtol=1e-9)
    total = sum(nbytes for _, _, nbytes in some)
    assert shared.moved_bytes == pytest.approx(total, rel=1e-9)
    assert shared.series.sums.sum() == pytest.approx(total, rel=1e-9)


def by_fabric(some, rate):
    env = simpy.Environment()
    fabric = Fabric(env, np.array([rate, *(limit for _, limit, _ in some)]))
    count = len(some)
    paths = Paths(
        first=np.arange(0, 2 * count + 1, 2),
        capacities=np.array([[0, 1 + n] for n in range(count)]).ravel(),
        share=np.ones(2 * count),
        latency_s=np.zeros(count),
        hops=np.full(count, 2),
    )
    fabric.add_paths(paths)
    ends = np.zeros(count)

    class Ear:
        def landed(self, tags):
            ends[tags] = env.now

    sender = fabric.add_sender(Ear())
    every = np.arange(count)
    fabric.send(
        sender,
        every,
        every,
        every,
        np.array([nbytes for _, _, nbytes in some]),
        np.array([at_s for at_s, _, _ in some]),
    )
    env.run()
    return ends


def test_a_flow_that_is_stopped_has_moved_its_share() -> None:
    env = simpy.Environment()
    shared, landed = Shared(env, 10.0), []
    first = shared.send(100.0, inf, lambda: landed.append("first"))
    shared.send(50.0, inf, lambda: landed.append(env.now))
    env.run(until=4.0)
    assert shared.stop(first) == pytest.approx(20.0)
    env.run()
    assert landed == [pytest.approx(7.0)]  # 20 of 50 bytes by then, the rest at the whole rate
    assert shared.moved_bytes == pytest.approx(70.0)
    with pytest.raises(ValueError, match="takes no time"):
        Shared(env).send(1.0, inf, lambda: None)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(1e-3, 80), st.floats(0, 9)), max_size=20))
def test_bins_keep_the_sum(stretches) -> None:
    binned = Binned()
    for start_s, wide_s, rate in stretches:
        binned.add(start_s, start_s + wide_s, rate)
    assert binned.sums.sum() == pytest.approx(sum(w * r for _, w, r in stretches))
    edges, rates = binned.rates(200.0)
    assert (np.diff(edges) * rates).sum() == pytest.approx(binned.sums.sum())


# Closed forms.

UP = 0.01 + 120 / 100 + 0.05
DOWN = 0.01 + 80 / 200 + 0.05
ON_CLOUD = 0.2 + 0.4


@pytest.mark.parametrize(
    ("method", "batch_s"),
    [
        ("hierarchical", 0.3 + max(0.1 + 0.5, UP + ON_CLOUD)),
        ("cloud_only", UP + ON_CLOUD),
        ("split", 0.3 + UP + ON_CLOUD + DOWN + 0.5),
        ("edge_only", 0.3 + 0.1 + 0.5),
    ],
)
def test_synchronous_batches_are_the_formula(method, batch_s) -> None:
    found = Play(job(method, batches=7)).run()
    assert found.seconds == pytest.approx(7 * batch_s, rel=1e-12)
    assert sum(found.path_s.values()) == pytest.approx(found.seconds, rel=1e-12)


def test_a_pipeline_goes_at_the_rate_of_its_slowest_lane() -> None:
    a, b = (Play(job(pipelined=True, batches=n)).run().seconds for n in (10, 30))
    assert (b - a) / 20 == pytest.approx(0.01 + 120 / 100)  # the radio, not the latency
    fast = [Work(SECONDS, {"upload": 1.0}, LINK)]
    a, b = (Play(job(pipelined=True, batches=n, works=fast)).run().seconds for n in (10, 30))
    assert (b - a) / 20 == pytest.approx(0.9)  # the edge


def test_federated_rounds_wait_for_the_slowest() -> None:
    quick = Work(SECONDS, {"upload": 120.0, "download": 80.0}, LINK)
    slow = quick._replace(seconds={**SECONDS, "local training": 5.0})
    found = Play(job("federated", 2, batches=1, rounds=3, together=True, works=[quick, slow])).run()
    assert found.seconds == pytest.approx(3 * (DOWN + 5.0 + UP + 0.01))
    assert found.edges.done.tolist() == [3, 3]


def test_many_edges_share_the_uplink_and_the_cloud() -> None:
    """Ten edges on an uplink of one: uploads take ten times as long, the cloud one after the
    other."""
    found = Play(job("cloud_only", 10, batches=1, uplink=100.0)).run()
    assert found.seconds == pytest.approx(0.01 + 10 * 1.2 + 0.05 + 10 * ON_CLOUD)
    assert found.most_uploads == 10
    merged = job("cloud_only", 10, batches=1, uplink=100.0, merge=10)
    merged = merged._replace(cloud_s=lambda step, batches: CLOUD[step])
    assert Play(merged).run().seconds == pytest.approx(0.01 + 12 + 0.05 + ON_CLOUD)


def test_a_deadline_ends_a_round() -> None:
    quick = Work(SECONDS, {"upload": 120.0}, LINK)
    slow = quick._replace(seconds=dict.fromkeys(SECONDS, 50.0))
    given = {"rounds": 4, "together": True, "deadline_s": 10.0, "works": [quick, slow]}
    found = Play(job("hierarchical", 2, batches=1, **given)).run()
    assert found.seconds == pytest.approx(40.0)
    assert found.edges.done.tolist() == [4, 0] and found.edges.late.tolist() == [0, 4]
    assert sum(found.path_s.values()) == pytest.approx(40.0)


def test_who_is_absent_is_not_waited_for() -> None:
    given = {"rounds": 5, "together": True, "absent": lambda edge, turn: edge == turn % 2}
    found = Play(job("hierarchical", 2, batches=2, **given)).run()
    assert found.edges.absent.tolist() == [3, 2] and found.edges.done.tolist() == [4, 6]


def test_energy_and_a_battery() -> None:
    radio = replace(LINK, send_w=2.0)
    work = Work(SECONDS, {"upload": 120.0}, radio, power_w=10.0)
    each_j = 10 * 0.9 + 2 * (0.01 + 1.2)
    found = Play(job(batches=4, works=[work])).run()
    assert found.edges.joules[0] == pytest.approx(4 * each_j)
    short = Play(job(batches=4, works=[work._replace(battery_j=1.5 * each_j)])).run()
    assert short.edges.done[0] == 1 and short.edges.late[0] == 3
    assert short.edges.empty_s[0] < found.seconds


def test_jitter_is_drawn_by_the_seed() -> None:
    work = Work(SECONDS, {"upload": 120.0}, replace(LINK, jitter_s=0.5))
    a, b, c = (Play(job(batches=5, works=[work], seed=seed)).run().seconds for seed in (1, 1, 2))
    assert a == b != c


# Every batch exactly once.


@st.composite
def troubles(draw):
    edges = draw(st.integers(1, 3))
    at = st.floats(0.0, 25.0)
    some = []
    for _ in range(draw(st.integers(1, 5))):
        start_s = draw(at)
        cloud = draw(st.booleans())
        whose = () if cloud else (draw(st.integers(0, edges - 1)),)
        ends_s = start_s + draw(st.floats(0.1, 8.0))
        some.append(Outage(start_s, ends_s, cloud, whose, killed=draw(st.booleans())))
    return (
        edges,
        some,
        draw(st.booleans()),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 6)),
        draw(st.integers(3, 12)),
    )


@settings(max_examples=300, deadline=None)
@given(troubles())
def test_every_batch_once_whatever_is_lost(drawn) -> None:
    """After outages and kills at any moments, the cloud has trained every batch that was handed up
    once, the others were trained on the edge alone and counted, and none is missing."""
    edges, outages, pipelined, queue, save_every, batches = drawn
    play = Play(
        job(
            edges=edges,
            batches=batches,
            pipelined=pipelined,
            outages=outages,
            queue=queue,
            save_every=save_every,
        )
    )
    found = play.run()
    for edge in play.edges:
        cloud, alone = [*edge.takes.batches], [*edge.hands.alone]
        assert sorted(cloud + alone) == list(range(batches))
        assert edge.hands.batch == batches
    assert found.edges.done.tolist() == [batches] * edges
    assert found.cloud_trained + found.edges.alone.sum() == edges * batches
    assert sum(found.path_s.values()) == pytest.approx(found.seconds, rel=1e-9)


@pytest.mark.parametrize("method", ["cloud_only", "split"])
def test_who_needs_the_cloud_waits_for_it(method) -> None:
    whole = Play(job(method, batches=4)).run().seconds
    out = Outage(1.0, 31.0, cloud=True)
    found = Play(job(method, batches=4, outages=[out])).run()
    assert whole + 29.0 < found.seconds < whole + 32.0
    assert 30.0 <= found.path_s[OUTAGE] <= 31.0 + 1e-9


def test_an_edge_that_is_robust_goes_on() -> None:
    """Through an outage of the cloud it trains at its own pace, hands up what it holds, and counts
    the rest."""
    out = Outage(5.0, 25.0, cloud=True)
    found = Play(job(batches=30, queue=6, outages=[out])).run()
    assert 10 <= found.edges.alone[0] <= 20
    assert found.seconds < Play(job(batches=30)).run().seconds
