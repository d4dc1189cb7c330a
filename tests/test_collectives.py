"""Collectives: plans that lose no byte, closed forms that the played plan meets, and the choice
between algorithms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import LIBRARY, network, replace

from sim.engine.isolated import played, seconds_of
from sim.network import topology
from sim.network.collectives import ALGORITHM_NAMES, COLLECTIVES
from sim.network.library import Library, Way
from sim.network.network import Network
from sim.network.plans import Members

BARE = replace(LIBRARY, launch_s=0.0, step_s=0.0)
LINK = {"bytes_per_s": 25e9, "latency_s": 1e-6}
EVERY = [(kind, name) for kind, row in COLLECTIVES.items() for name in row.algorithms]
SHAPES = {
    "ring": lambda: topology.build("ring", devices=8, **LINK),
    "mesh": lambda: topology.build("full_mesh", devices=8, **LINK),
    "switch": lambda: topology.build("switch", devices=8, **LINK),
    "torus": lambda: topology.build("torus", dims=(4, 2), **LINK),
    "nodes": lambda: topology.build("multi_node", nodes=2, chips=4, nic=LINK, spine=LINK, **LINK),
}


def members(n: int, dims: tuple[int, ...] = ()) -> Members:
    """A group with everything that an algorithm may need: two nodes of n/2, each with a switch
    (nodes n and n + 1)."""
    ranks = np.arange(n)
    return Members(ranks, ranks, dims, (n, n + 1) if len(dims) == 2 and dims[0] == 2 else (n,))


def contributions(plan, n, kind):
    """Who holds a part of whose data after a plan, when everybody always sends all that it has."""
    has = np.eye(n + 2, dtype=bool)
    for sends in plan:
        new = has.copy()
        np.logical_or.at(new, sends.target, has[sends.source])
        has = new
        for source, target in zip(
            sends.source, sends.target
        ):  # a switch passes on within the round
            if source >= n:
                has[target] |= has[source]
    return has[:n, :n]


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_everybody_hears_of_everybody(kind, name, n):
    who = members(n, (2, n // 2) if n > 2 else ())
    if COLLECTIVES[kind].algorithms[name].needs(who):
        pytest.skip("does not serve this group")
    heard = contributions(COLLECTIVES[kind].algorithms[name].plan(who, 1e6), n, kind)
    if kind == "broadcast":
        assert heard[:, 0].all()
    elif kind == "send_receive":
        assert all(heard[(i + 1) % n, i] for i in range(n))
    elif kind == "send":
        assert all(heard[i + n // 2, i] for i in range(n // 2))
    else:
        assert heard.all()


SENT = {  # bytes that a rank sends, of a buffer of 1
    "all_reduce": {
        "one_shot": lambda n: n - 1,
        "recursive_doubling": np.log2,
        "in_switch": lambda n: 1 + 1 / n,
    },
    "all_gather": {"in_switch": lambda n: 1 / n},
    "reduce_scatter": {"in_switch": lambda n: 1.0},
    "all_to_all": {
        "ring": lambda n: (n - 1) / 2,
        "hierarchical": lambda n: 1 - 2 / n + 1 / 2,
        "multi_dimensional": lambda n: 0.5 + (n / 2 - 1) / 2,
    },
    "broadcast": {"in_switch": lambda n: 1 / n},
    "send_receive": {"direct": lambda n: 1.0},
    "send": {"direct": lambda n: 0.5},
}
USUAL = {
    "all_reduce": 2.0,
    "all_gather": 1.0,
    "reduce_scatter": 1.0,
    "all_to_all": 1.0,
    "broadcast": 1.0,
}


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("n", [2, 8, 16])
def test_bytes_are_those_of_the_algorithm(kind, name, n):
    nbytes = 8e6
    who = members(n, (2, n // 2) if name in ("hierarchical", "multi_dimensional") and n > 2 else ())
    if COLLECTIVES[kind].algorithms[name].needs(who):
        pytest.skip("does not serve this group")
    sent, received = np.zeros(n + 2), np.zeros(n + 2)
    for sends in COLLECTIVES[kind].algorithms[name].plan(who, nbytes):
        assert (sends.source != sends.target).all()
        np.add.at(sent, sends.source, sends.nbytes)
        np.add.at(received, sends.target, sends.nbytes)
    share = SENT[kind].get(name, lambda n: USUAL[kind] * (n - 1) / n)(n)
    assert sent[:n].sum() / n == pytest.approx(share * nbytes, rel=1e-12)
    assert sent.sum() == pytest.approx(received.sum(), rel=1e-12)
    if kind not in ("broadcast", "send") and name != "double_binary_tree":
        assert np.ptp(sent[:n]) <= 1e-9 * nbytes and np.ptp(received[:n]) <= 1e-9 * nbytes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_played_meets_the_fold(shape, kind, name):
    """In step, playing send by send takes exactly as long as the closed form."""
    pod = Network(SHAPES[shape](), LIBRARY, name)
    if COLLECTIVES[kind].algorithms[name].needs(pod.members(8)):
        pytest.skip("does not serve this group")
    for nbytes in (8.0, 8e6):
        fold, result = pod.fold(kind, 8, nbytes), played(pod, kind, 8, nbytes)
        if fold.exact:
            assert result.seconds == pytest.approx(fold.seconds, rel=1e-9)
        assert (
            fold.exact or name not in ("ring", "halving_doubling", "pairwise") or shape == "nodes"
        )


@pytest.mark.parametrize("n", [2, 3, 4, 8, 48])
@pytest.mark.parametrize("nbytes", [1.0, 65536.0, 1e9])
def test_textbook(n, nbytes):
    ring = network(n, "ring", library=BARE, algorithm="ring").fold("all_reduce", n, nbytes)
    assert ring.seconds == pytest.approx(2 * (n - 1) * (nbytes / n / 25e9 + 1e-6), rel=1e-12)
    mesh = network(n, "full_mesh", library=BARE, algorithm="two_shot").fold("all_reduce", n, nbytes)
    assert mesh.seconds == pytest.approx(2 * (nbytes / n / 25e9 + 1e-6), rel=1e-12)
    # On a switch the n-1 shards leave through one port, one after the other.
    switch = network(n, "switch", library=BARE, algorithm="two_shot").fold("all_reduce", n, nbytes)
    assert switch.seconds == pytest.approx(2 * ((n - 1) * nbytes / n / 25e9 + 1e-6), rel=1e-12)


def test_a_torus_reduces_dimension_by_dimension():
    pod = Network(topology.build("torus", dims=(8, 4), **LINK), BARE, "multi_dimensional")
    s = 32e6  # first 4 a ring on S, then 8 a ring on S/4
    expected = 2 * (3 * (s / 4 / 25e9 + 1e-6) + 7 * (s / 32 / 25e9 + 1e-6))
    assert played(pod, "all_reduce", 32, s).seconds == pytest.approx(expected, rel=1e-9)


def test_reduction_is_paid_where_data_arrives():
    slow = replace(BARE, reduce_bytes_per_s=100e9)
    quick, paid = (
        played(network(4, "ring", library=lib, algorithm="ring"), "all_reduce", 4, 8e6)
        for lib in (BARE, slow)
    )
    assert paid.seconds - quick.seconds == pytest.approx(3 * 2e6 / 100e9, rel=1e-9)


def test_a_late_rank_holds_up_only_who_waits_for_it():
    pod = network(8, "ring", library=BARE, algorithm="ring")
    late = np.zeros(8)
    late[3] = 500e-6
    result, idle = (played(pod, "all_gather", 8, 8e6, each) for each in (late, None))
    assert result.seconds == pytest.approx(
        idle.seconds + 500e-6, rel=1e-9
    )  # everybody needs what it has
    chain = network(8, "ring", library=BARE, algorithm="chain")
    result, idle = (played(chain, "broadcast", 8, 8e6, each) for each in (late, None))
    assert result.end_s[:3] == pytest.approx(
        idle.end_s[:3], rel=1e-9
    )  # those before it in the chain
    assert (result.end_s[4:] > idle.end_s[4:] + 20e-6).all()


@given(
    st.integers(2, 12),
    st.sampled_from(sorted(COLLECTIVES["all_reduce"].algorithms)),
    st.floats(1.0, 1e9),
    st.floats(1.1, 8.0),
)
@settings(max_examples=60, deadline=None)
def test_more_bandwidth_is_never_slower(n, name, nbytes, factor):
    slow = network(n, "switch", library=BARE, algorithm=name)
    if COLLECTIVES["all_reduce"].algorithms[name].needs(slow.members(n)):
        return
    fast = network(n, "switch", bytes_per_s=25e9 * factor, library=BARE, algorithm=name)
    assert played(fast, "all_reduce", n, nbytes).seconds <= played(
        slow, "all_reduce", n, nbytes
    ).seconds * (1 + 1e-12)


def test_auto_takes_the_quickest_and_says_which():
    small, large = (network(8, "switch").fold("all_reduce", 8, nbytes) for nbytes in (1e3, 1e9))
    assert small.algorithm == "one_shot"
    assert large.algorithm == "two_shot"
    assert large.note == "two_shot, 2 rounds"


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_auto_takes_what_is_the_quickest_as_played_and_lasts_as_long(shape, kind):
    """At any size, also where the estimates of some are less than they take, and of nothing."""
    pod = Network(SHAPES[shape](), LIBRARY, play=seconds_of)
    for nbytes in (0.0, 1.0, 5e3, 3e6, 1e8):
        folds = pod.candidates(kind, 8, nbytes)
        took = {fold.way: seconds_of(pod, kind, 8, nbytes, fold) for fold in folds}
        chosen = pod.fold(kind, 8, nbytes)
        assert took[chosen.way] == pytest.approx(min(took.values()), rel=1e-9)
        assert chosen.seconds == pytest.approx(took[chosen.way], rel=1e-9)
        assert chosen.latency_s >= LIBRARY.launch_s
        assert chosen.bytes_per_s <= pod.egress_bytes_per_s(0) * (1 + 1e-9)


def test_auto_does_not_try_what_has_a_send_for_every_pair():
    pod = network(2000, "ring")
    assert pod.fold("all_reduce", 2000, 1e6).algorithm in (
        "ring",
        "bidirectional_ring",
        "double_binary_tree",
    )
    with pytest.raises(
        ValueError,
        match=r"all_to_all among 2,000 ranks is too much for auto.*name one of direct, pairwise",
    ):
        pod.fold("all_to_all", 2000, 1e6)


def test_measured_ways_are_chosen_by_time():
    ways = (
        Way(("all_reduce",), "ring", "LL", 1e-6, 1e-7, 0.1),
        Way(("all_reduce",), "ring", "Simple", 1e-6, 5e-6, 0.9),
    )
    pod = Network(topology.build("switch", 8, **LINK), Library("two ways", 1e-6, ways=ways))
    assert pod.fold("all_reduce", 8, 1e3).note == "ring LL, 14 rounds"
    assert pod.fold("all_reduce", 8, 1e9).note == "ring Simple, 14 rounds"
    assert (
        pod.fold("all_gather", 8, 1e3).way.protocol == ""
    )  # no way was measured: the library's own numbers
    for nbytes in (1e3, 1e6, 1e9):
        assert played(pod, "all_reduce", 8, nbytes).seconds == pytest.approx(
            pod.fold("all_reduce", 8, nbytes).seconds, rel=1e-9
        )


def test_two_ranks_of_a_mesh_have_one_wire():
    """Two chips of an 8-chip mesh own one of its wires: their all-reduce is slower than eight
    chips'."""
    pod = network(8, "full_mesh", library=BARE, algorithm="two_shot")
    assert pod.fold("all_reduce", 2, 1e9).seconds == pytest.approx(
        4 * pod.fold("all_reduce", 8, 1e9).seconds, rel=1e-3
    )


def test_groups_are_any_chips():
    pod = Network(SHAPES["nodes"](), BARE)
    assert pod.members((0, 1, 4, 5)).dims == (2, 2)
    assert len(pod.members((0, 1, 4, 5)).hubs) == 2
    assert pod.members((1, 2)).hubs == pod.members(4).hubs  # one node's switch
    within, across = (pod.fold("all_reduce", group, 8e6).seconds for group in ((0, 1), (0, 5)))
    assert within < across


@pytest.mark.parametrize(
    ("ranks", "algorithm", "what"),
    [
        (16, "auto", "16 ranks does not fit on 8 chips"),
        (1, "auto", "a group of one has nobody to talk to"),
        ((0, 9), "auto", "chip 9 of the group is not in the pod"),
        ((0, 1, 1), "auto", "chip 1 is twice in the group"),
        (
            6,
            "halving_doubling",
            "a power of two ranks, not 6; those that serve this group: ring, .*one_shot",
        ),
        (8, "hierarchical", "several nodes; those that serve"),
    ],
)
def test_groups_that_cannot_be(ranks, algorithm, what):
    with pytest.raises(ValueError, match=what):
        network(8, "ring", algorithm=algorithm).fold("all_reduce", ranks, 1e6)


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="no topology shape 'moebius'"):
        topology.build("moebius", 8, 1e9, 0)
    with pytest.raises(ValueError, match="no collective algorithm 'magic'"):
        Network(topology.build("ring", 8, 1e9, 0), LIBRARY, "magic")
    with pytest.raises(ValueError, match="no plan for the collective 'all_to_nobody'"):
        network(8).fold("all_to_nobody", 8, 1e6)


def test_what_may_be_asked_for_are_the_names_of_the_rows():
    assert sorted(ALGORITHM_NAMES) == sorted({name for _, name in EVERY})
