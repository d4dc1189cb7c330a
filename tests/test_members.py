"""Members of a group: each a device and a graph.  Equal ones fold, unequal ones are added up by
hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import simpy
from machines import DEVICE, LIBRARY, graph, group, network, seconds

from sim.engine.group import Group, Member, members_of
from sim.graph.batch import decode_batch, prefill_batch
from sim.graph.graph import After, Graph, Layer, Op
from sim.hardware.device import slower
from sim.network import topology
from sim.network.network import Network

PHONE = replace(DEVICE, name="phone", vector_flop_per_s=1e12, vector_overhead_s=20e-6)
HALF_S = 4e6 / 2 / 5e9  # half of the message over the slow way
LATENCY_S = 1e-6


def norm(name: str, flop: float, *after: str) -> Op:
    return Op(name, "norm", engine="vector", flop=flop, after=tuple(map(After, after)))


REDUCE = Op("reduce", "all_reduce", "communication", message_bytes=4e6, after=(After("work"),))


def graph_of(*ops: Op):
    made = Graph((Layer("l", ops),))
    return lambda batch: made


def slow_link() -> Network:
    """Two chips; from the second to the first the wire has a fifth of the bandwidth."""
    wires = topology.build("full_mesh", 2, 25e9, LATENCY_S)
    wires.edges[1, 0]["bytes_per_s"] = 5e9
    return Network(wires, LIBRARY, "ring")


def passed_s(*members: Member) -> tuple[float, Group]:
    some = Group(simpy.Environment(), members, slow_link(), unfold=True)
    some.env.run(some.env.process(some.run(*some.graphs(decode_batch([1])))))
    return some.env.now, some


def test_without_an_exchange_a_pass_lasts_as_long_as_the_slower_member():
    work = graph_of(norm("work", 1e8))
    took_s, some = passed_s(Member(DEVICE, work), Member(PHONE, work))
    each_s = [chip.totals.seconds for chip in some.chips]
    assert each_s == pytest.approx([5e-6 + 1e8 / 10e12, 20e-6 + 1e8 / 1e12], rel=1e-12)
    assert took_s == pytest.approx(each_s[1], rel=1e-12)


def test_two_devices_meet_and_wait_for_the_slow_link():
    """Two rounds, each of half the message; the first begins when the later one comes."""
    both = graph_of(norm("work", 1e8), REDUCE, norm("rest", 1e8, "reduce"))
    took_s, some = passed_s(Member(DEVICE, both), Member(PHONE, both))
    assert not some.folded
    work_s, phone_s = 5e-6 + 10e-6, 20e-6 + 100e-6
    rounds_s = 2 * (LIBRARY.step_s + LATENCY_S + HALF_S)
    met_s = phone_s + LIBRARY.launch_s + rounds_s
    assert took_s == pytest.approx(met_s + phone_s, rel=1e-9)
    assert some.chips[0].totals.seconds == pytest.approx(met_s + work_s, rel=1e-9)


def test_members_with_graphs_of_their_own():
    """One comes late since it has more to do, while the other's half is on the slow way; that one
    has a tail of its own."""
    late = graph_of(norm("before", 3e9), norm("work", 1e8), REDUCE)
    early = graph_of(norm("work", 2e8), REDUCE, norm("rest", 5e8, "reduce"))
    took_s, some = passed_s(Member(DEVICE, late), Member(DEVICE, early))
    late_s = 2 * 5e-6 + 3.1e9 / 10e12 + LIBRARY.launch_s
    early_s = 5e-6 + 2e8 / 10e12 + LIBRARY.launch_s
    send_s = LIBRARY.step_s + LATENCY_S
    first_s = max(early_s + send_s + HALF_S, late_s + send_s + HALF_S / 5)
    met_s = first_s + send_s + HALF_S
    assert took_s == pytest.approx(met_s + 5e-6 + 5e8 / 10e12, rel=1e-9)
    assert some.chips[0].totals.seconds == pytest.approx(met_s, rel=1e-9)
    assert [chip.totals.ops for chip in some.chips] == [3, 3]


def test_equal_members_fold():
    work = graph_of(norm("work", 1e8))
    alike = [Member(replace(DEVICE), work) for _ in range(4)]
    for members, folds in (
        (alike, True),
        (members_of(DEVICE, work, 4, {2: 1.0}), True),
        (members_of(DEVICE, work, 4, {2: 1.3}), False),
        ([*alike[1:], Member(DEVICE, graph_of(norm("work", 1e8)))], False),
    ):
        some = Group(simpy.Environment(), members, network(4))
        assert some.folded == folds and len(some.chips) == (1 if folds else 4)
    with pytest.raises(ValueError, match="at least 1 rank"):
        Group(simpy.Environment(), [], network(4))


# Seconds of the second of two passes, as they were when a straggler was an option of a group.
STRAGGLING = [
    (decode_batch([4000] * 4), (), {3: 1.3}, 0.0005096490764800004),
    (decode_batch([4000] * 4), ("preserve",), {0: 1.5, 5: 2.0}, 0.0005097207871999996),
    (prefill_batch([700, 30]), (), {0: 1.5, 5: 2.0}, 0.001414888809200006),
    (prefill_batch([700, 30]), ("preserve",), {3: 1.3}, 0.0012682757327000047),
]


@pytest.mark.parametrize("batch, techniques, slow, known_s", STRAGGLING)
def test_a_straggler_is_a_member_with_a_slower_device(batch, techniques, slow, known_s):
    asked = graph(batch, *techniques)
    assert seconds(asked, stragglers=slow, passes=2) == pytest.approx(known_s, rel=1e-12)
    members = [Member(slower(DEVICE, slow.get(rank, 1.0)), lambda _: asked) for rank in range(8)]
    assert [member.device for member in members] == [
        chip.device for chip in group(stragglers=slow).chips
    ]
