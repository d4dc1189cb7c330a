"""Collectives: the plan, its closed form, and the bytes they agree on."""

from __future__ import annotations

import networkx as nx
import pytest
from machines import LIBRARY, network, replace

from sim.network import topology
from sim.network.collectives import (
    PLANS,
    Network,
    direct_all_reduce_seconds,
    ring_all_reduce,
    ring_all_reduce_seconds,
)

BARE = replace(LIBRARY, launch_s=0.0, step_s=0.0)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("nbytes", [1.0, 65536.0, 1e9])
def test_folds_meet_the_textbook(ranks, nbytes):
    ring = network(ranks, "ring", library=BARE, algorithm="ring").fold("all_reduce", ranks, nbytes)
    assert ring.seconds == pytest.approx(ring_all_reduce_seconds(ranks, nbytes, 25e9, 1e-6), rel=1e-12)
    mesh = network(ranks, "full_mesh", library=BARE, algorithm="direct").fold("all_reduce", ranks, nbytes)
    assert mesh.seconds == pytest.approx(direct_all_reduce_seconds(ranks, nbytes, 25e9, 1e-6), rel=1e-12)
    # On a switch the n-1 shards leave through one port, one after the other.
    switch = network(ranks, "switch", library=BARE, algorithm="direct").fold("all_reduce", ranks, nbytes)
    assert switch.seconds == pytest.approx(2 * ((ranks - 1) * nbytes / ranks / 25e9 + 1e-6), rel=1e-12)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in PLANS for name in PLANS[kind]])
def test_every_rank_sends_and_receives_what_the_algorithm_says(kind, name):
    n, nbytes = 8, 8e6
    sent, received = dict.fromkeys(range(n), 0.0), dict.fromkeys(range(n), 0.0)
    for sends in PLANS[kind][name](range(n), nbytes):
        for source, target, size in sends:
            assert source != target
            sent[source] += size
            received[target] += size
    share = {"all_reduce": 2 * (n - 1) / n, "all_gather": (n - 1) / n}[kind] if name != "one_shot" else n - 1
    assert list(sent.values()) == list(received.values()) == [pytest.approx(share * nbytes)] * n


def test_auto_takes_the_quickest_and_says_which():
    small, large = (network(8, "switch").fold("all_reduce", 8, nbytes) for nbytes in (1e3, 1e9))
    assert small.algorithm == "one_shot"
    assert large.algorithm == "direct"
    rounds = list(ring_all_reduce(range(4), 4.0))
    assert len(rounds) == 6
    assert rounds[0] == [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (3, 0, 1.0)]


def test_two_ranks_of_a_mesh_have_one_wire():
    """Two chips of an 8-chip mesh own one of its wires: their all-reduce is slower than eight chips'."""
    pod = network(8, "full_mesh", library=BARE, algorithm="direct")
    assert pod.fold("all_reduce", 2, 1e9).seconds == pytest.approx(4 * pod.fold("all_reduce", 8, 1e9).seconds, rel=1e-3)


@pytest.mark.parametrize(("shape", "degree", "diameter"), [("full_mesh", 7, 1), ("ring", 2, 4), ("switch", 1, 2)])
def test_shapes(shape, degree, diameter):
    pod = topology.build(shape, 8, 1e9, 1e-6)
    assert {pod.out_degree(chip) for chip in range(8)} == {degree}
    assert max(nx.shortest_path_length(pod, 0, chip) for chip in range(8)) == diameter


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="no topology shape 'moebius'"):
        topology.build("moebius", 8, 1e9, 0)
    with pytest.raises(ValueError, match="positive bandwidth"):
        topology.build("ring", 8, 0.0, 0)
    with pytest.raises(ValueError, match="16 ranks does not fit on 8 chips"):
        network(8).fold("all_reduce", 16, 1e6)
    with pytest.raises(ValueError, match="no collective algorithm 'magic'"):
        Network(topology.build("ring", 8, 1e9, 0), LIBRARY, "magic")
    with pytest.raises(ValueError, match="no plan for the collective 'all_to_nobody'"):
        network(8).fold("all_to_nobody", 8, 1e6)
