"""Topologies: what must hold of any pod, closed forms of each shape, and what is refused."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import prod

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.network import measures, topology
from sim.network.edge_list import from_edges
from sim.network.faults import Defect, check, degraded
from sim.network.layout import layout, ring_order
from sim.network.measures import bisection, degree, distances, wire_count
from sim.network.topology import SHAPES, build
from sim.network.wires import Wires

LINK = {"bytes_per_s": 1e9, "latency_s": 1e-6}
NIC = {"bytes_per_s": 0.5e9, "latency_s": 4e-6}
PODS = [  # shape, parameters, chips, wires, degree, diameter
    ("full_mesh", {"devices": 8}, 8, 28, 7, 1),
    ("switch", {"devices": 8}, 8, 8, 1, 2),
    ("crossbar", {"devices": 8}, 8, 8, 1, 2),
    ("ring", {"devices": 9}, 9, 9, 2, 4),
    ("ring", {"devices": 2}, 2, 1, 1, 1),
    ("torus", {"dims": (4, 4, 4)}, 64, 192, 6, 6),
    ("torus", {"dims": (5, 2)}, 10, 15, 3, 3),
    ("hypercube", {"dimensions": 5}, 32, 80, 5, 5),
    ("fat_tree", {"k": 2, "levels": 4}, 16, 64, 1, 8),
    ("fat_tree", {"k": 4, "levels": 2}, 16, 32, 1, 4),
    ("butterfly", {"k": 2, "n": 4}, 16, 80, 1, 5),
    ("butterfly", {"k": 2, "n": 3, "expansion": 4}, 8, 112, 1, 6),
    ("benes", {"k": 2, "n": 3}, 8, 48, 1, 6),
    (
        "dragonfly",
        {"groups": 9, "routers": 4, "chips": 2, "global_links": 2},
        72,
        72 + 54 + 36,
        1,
        5,
    ),
    ("multi_node", {"nodes": 4, "chips": 8, "nic": NIC, "spines": 2}, 32, 32 + 32 + 16, 2, 4),
]
ALL = [(shape, parameters) for shape, parameters, *_ in PODS] + [
    ("mesh", {"dims": (3, 4)}),
    ("star", {"devices": 5}),
    (
        "multi_node",
        {"nodes": 3, "chips": 4, "nic": NIC, "rails": 2, "spines": 3, "oversubscription": 2.0},
    ),
    ("multi_node", {"nodes": 1, "chips": 4}),
    ("butterfly", {"k": 3, "n": 2, "expansion": 3}),
]


@pytest.mark.parametrize(("shape", "parameters", "chips", "wires", "ports", "diameter"), PODS)
def test_closed_forms(shape, parameters, chips, wires, ports, diameter):
    pod = build(shape, **parameters, **LINK)
    assert sum(isinstance(node, int) for node in pod) == chips
    assert wire_count(pod) == wires
    assert degree(pod) == (ports, ports)
    far = distances(pod)
    assert (far.diameter, far.exact) == (diameter, True)


@pytest.mark.parametrize(("shape", "parameters"), ALL)
def test_any_shape_is_a_pod_of_the_size_foreseen(shape, parameters):
    pod = check(build(shape, **parameters, **LINK))
    own = topology.defaults(SHAPES[shape]) | parameters
    nodes, links = SHAPES[shape].size(own)
    if own.get("nodes") != 1:
        assert (len(pod), pod.number_of_edges()) == (pytest.approx(nodes), pytest.approx(links))
    assert pod.graph["shape"] == shape
    chips = [node for node in pod if isinstance(node, int)]
    assert chips == list(range(len(chips)))


@pytest.mark.parametrize(("shape", "parameters"), ALL)
def test_distances_by_symmetry_are_those_of_all_pairs(shape, parameters):
    pod = build(shape, **parameters, **LINK)
    wires = Wires(pod)
    table = np.array([wires.distances(chip)[: wires.chips] for chip in range(wires.chips)])
    assert distances(pod).diameter == table.max()
    assert distances(pod).average == pytest.approx(
        table.sum() / (wires.chips * (wires.chips - 1)), rel=1e-12
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_grids(dims, wraps):
    pod = build("torus" if wraps else "mesh", dims=tuple(dims), **LINK)
    n = prod(dims)
    expected = sum((n if wraps and size > 2 else n // size * (size - 1)) for size in dims)
    assert (len(pod), wire_count(pod)) == (n, expected)
    for a, b in pod.edges:
        apart = [abs(x - y) for x, y in zip(pod.nodes[a]["at"], pod.nodes[b]["at"])]
        assert sum(off > 0 for off in apart) == 1
        assert all(off <= 1 or (wraps and off == size - 1) for off, size in zip(apart, dims))
    assert distances(pod).diameter == sum(size // 2 if wraps else size - 1 for size in dims)


def narrowest(pod) -> float:
    """The bisection bandwidth by trying every even split."""
    wires = Wires(pod)
    n = wires.chips
    found = []
    for some in combinations(range(n), n // 2):
        half = np.isin(np.arange(n), some)
        found.append(measures._across(pod, wires, half))
    return min(found)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("full_mesh", {"devices": 7}),
        ("switch", {"devices": 6}),
        ("switch", {"devices": 6, "core_bytes_per_s": 2e9}),
        ("ring", {"devices": 7}),
        ("ring", {"devices": 2}),
        ("mesh", {"dims": (4, 2)}),
        ("mesh", {"dims": (7,)}),
        ("mesh", {"dims": (2, 3)}),
        ("torus", {"dims": (4, 2)}),
        ("torus", {"dims": (4, 3)}),
        ("torus", {"dims": (3, 3)}),
        ("hypercube", {"dimensions": 3}),
        ("star", {"devices": 7}),
        ("fat_tree", {"k": 2, "levels": 3}),
        ("fat_tree", {"k": 2, "levels": 3, "oversubscription": 2.0}),
        ("fat_tree", {"k": 3, "levels": 2, "oversubscription": 3.0}),
        ("butterfly", {"k": 2, "n": 3}),
        ("benes", {"k": 2, "n": 3}),
        ("dragonfly", {"groups": 3, "routers": 2, "chips": 1}),
        ("multi_node", {"nodes": 2, "chips": 4, "nic": NIC}),
        ("multi_node", {"nodes": 4, "chips": 2, "nic": NIC, "rails": 1}),
        ("multi_node", {"nodes": 2, "chips": 4, "nic": NIC, "oversubscription": 4.0}),
    ],
)
def test_bisection_is_the_narrowest_even_split(shape, parameters):
    pod = build(shape, **parameters, **LINK)
    found, least = bisection(pod), narrowest(pod)
    if found.exact:
        assert found.bytes_per_s == pytest.approx(least, rel=1e-9)
    else:
        assert found.bytes_per_s >= least * (1 - 1e-9)


def test_bisection_of_large_regular_pods_and_of_slow_links():
    assert bisection(build("torus", dims=(100, 100), **LINK)).bytes_per_s == 200e9
    assert bisection(build("hypercube", dimensions=12, **LINK)).bytes_per_s == 2048e9
    slow = degraded(build("ring", 8, 1e9, 1e-6), [Defect(0, 1, share=0.25)])
    assert bisection(slow) == (1.25e9, False, "narrowest split found")


def test_half_duplex_star_forwarding_and_tiers():
    pod = build("ring", 4, 1e9, 1e-6, duplex="half")
    wires = Wires(pod)
    assert len(set(wires.capacity.tolist())) == 4
    box = build("switch", 4, 1e9, 1e-6, core_bytes_per_s=2e9, forwarding="store_and_forward")
    assert box.nodes["switch"] == {"bytes_per_s": 2e9, "forwarding": "store_and_forward"}
    nodes = build("multi_node", nodes=4, chips=8, nic=NIC, spines=2, oversubscription=2.0, **LINK)
    assert {facts["tier"] for *_, facts in nodes.edges(data=True)} == {"node", "NIC", "spine"}
    up = sum(
        facts["bytes_per_s"]
        for *_, facts in nodes.out_edges("leaf 0", data=True)
        if facts["tier"] == "spine"
    )
    assert up == 4 * NIC["bytes_per_s"] / 2
    assert (0, "leaf 0") in nodes.edges and (13, "leaf 5") in nodes.edges


IMPOSSIBLE = [
    ("moebius", {"devices": 8}, "no topology shape 'moebius'"),
    ("full_mash", {"devices": 8}, "nearest 'full_mesh'"),
    ("ring", {"devices": 0}, "at least 1 devices"),
    ("ring", {"devices": 4.0}, "as a whole number"),
    ("ring", {"device": 4}, "no parameter 'device'; nearest 'devices'"),
    ("torus", {}, "a torus needs dims"),
    ("torus", {"dims": (4, 0)}, "whole numbers of at least 1"),
    ("torus", {"dims": (4, 4), "bytes_per_s": 0.0}, "positive bandwidth"),
    ("torus", {"dims": (4, 4), "bytes_per_s": float("nan")}, "positive bandwidth"),
    ("torus", {"dims": (4, 4), "latency_s": -1e-6}, "non-negative latency"),
    ("torus", {"dims": (4, 4), "duplex": "both"}, "duplex full or half"),
    (
        "torus",
        {"dims": (4, 4), "routing": "up_down"},
        "no routing 'up_down' on a torus; choose one of",
    ),
    ("torus", {"dims": (100_000, 100_000)}, "would have .* links, about .* GB of memory"),
    ("full_mesh", {"devices": 100_000}, "9,999,900,000 links"),
    ("hypercube", {"dimensions": 1_000_000}, "would have inf nodes"),
    ("fat_tree", {"k": 1000, "levels": 1_000_000}, "would have inf nodes"),
    ("butterfly", {"k": 2, "n": 50}, "would have"),
    ("butterfly", {"k": 2, "n": 3, "expansion": 3}, "a power of 2, not 3"),
    ("fat_tree", {"k": 2, "levels": 3, "oversubscription": 0.0}, "a positive ratio"),
    ("dragonfly", {"groups": 9, "routers": 2, "chips": 2}, "9 groups need 8 global wires"),
    ("multi_node", {"nodes": 2, "chips": 4}, "need nic facts"),
    (
        "multi_node",
        {"nodes": 2, "chips": 4, "nic": {"bytes_per_s": 1e9}},
        "the nic of a multi_node lacks latency_s",
    ),
    ("multi_node", {"nodes": 2, "chips": 4, "nic": NIC, "rails": 5}, "5 rails do not fit"),
    ("switch", {"devices": 4, "forwarding": "magic"}, "cut_through or store_and_forward"),
    ("switch", {"devices": 4, "core_bytes_per_s": -1.0}, "positive bandwidth"),
]


@pytest.mark.parametrize(("shape", "parameters", "message"), IMPOSSIBLE)
def test_impossible_shapes_are_refused(shape, parameters, message):
    with pytest.raises(ValueError, match=message):
        build(shape, **LINK | parameters)


def test_edge_lists():
    pod = from_edges(
        [(0, "a", {}), (1, "a", {}), ("a", "b", {"bytes_per_s": 4e9}), (2, "b", {})], **LINK
    )
    assert list(pod)[:3] == [0, 1, 2]
    assert pod.edges["b", "a"]["bytes_per_s"] == 4e9
    assert not pod.graph["chips_forward"]
    asymmetric = from_edges(
        [(0, 1, {"duplex": "simplex"}), (1, 0, {"duplex": "simplex", "bytes_per_s": 5e9})], **LINK
    )
    assert asymmetric.edges[1, 0]["bytes_per_s"] == 5 * asymmetric.edges[0, 1]["bytes_per_s"]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1, {}), (0, 1, {})], "0 - 1 is given twice"),
        ([(0, 1, {}), (1, 0, {})], "1 - 0 is given twice"),
        ([(0, 0, {})], "joins 0 to itself"),
        ([(0, 1, {"bytes_per_s": -1.0})], "positive bandwidth"),
        ([(0, 1, {"bytes_per_s": float("inf")})], "positive bandwidth"),
        ([(0, 1, {"speed": 1.0})], "unknown fact 'speed'"),
        ([(0, 2, {})], "no chip 1 among chip 0, chip 2"),
        ([("a", "b", {})], "no chip among the nodes"),
        ([(0, 1, {}), (2, 3, {})], "not in one piece: chip 0 cannot reach chip 2, chip 3"),
        ([(0, 1, {"duplex": "simplex"})], "chip 1 cannot reach chip 0"),
        (
            [(0, "a", {}), ("a", 1, {}), (1, "b", {}), ("b", 2, {})],
            "chip 2 \\(chips do not forward here\\)",
        ),
        ([(0, 1, {}), ("a", "b", {})], "no chip is wired to a, b"),
    ],
)
def test_impossible_edge_lists_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        from_edges(edges, **LINK)


def test_faults():
    ring = build("ring", 6, 1e9, 1e-6)
    slow = degraded(ring, [Defect(1, 2, share=0.5, extra_latency_s=3e-6)])
    assert slow.edges[2, 1] == {"bytes_per_s": 0.5e9, "latency_s": 4e-6}
    assert ring.edges[2, 1]["bytes_per_s"] == 1e9
    assert not degraded(ring, [Defect(1, 2, failed=True)]).has_edge(2, 1)
    with pytest.raises(ValueError, match="no link 1 - 3 to fail; chip 1 is wired to chip"):
        degraded(ring, [Defect(1, 3, failed=True)])
    with pytest.raises(ValueError, match="a positive share"):
        degraded(ring, [Defect(1, 2, share=0.0)])


def test_a_cut_is_named():
    ring = build("ring", 6, 1e9, 1e-6)
    cut = [Defect(0, 1, failed=True), Defect(3, 4, failed=True)]
    with pytest.raises(
        ValueError,
        match="failed links 0 - 1, 3 - 4, chip 0 can no longer reach chip 1, chip 2, chip 3",
    ):
        degraded(ring, cut)
    assert degraded(ring, cut, group=[1, 2, 3]).graph["failed"] == 2
    nodes = build("multi_node", nodes=2, chips=4, nic=NIC, **LINK)
    no_nic = [Defect(5, "leaf 1", failed=True)]
    with pytest.raises(
        ValueError, match="failed link 5 - leaf 1, chip 0 can no longer reach chip 5"
    ):
        degraded(nodes, no_nic)
    assert degraded(nodes, no_nic, group=[4, 5, 6, 7])
    fly = build("butterfly", k=2, n=3, **LINK)
    with pytest.raises(
        ValueError,
        match="failed link stage 0 row 0 - stage 1 row 2, chip 0 can no longer reach chip 4",
    ):
        degraded(fly, [Defect("stage 0 row 0", "stage 1 row 2", failed=True)])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_ring_over_a_grid_goes_along_wires(dims, wraps):
    pod = build("torus" if wraps else "mesh", dims=tuple(dims), **LINK)
    n = prod(dims)
    order = ring_order(pod, range(n))
    assert sorted(order) == list(range(n))
    if sum(size > 1 for size in dims) > 1:
        assert all(pod.has_edge(a, b) for a, b in pairwise(order))
        closes = n % 2 == 0 or (wraps and any(size > 2 for size in dims))
        assert pod.has_edge(order[-1], order[0]) == closes


def test_ring_orders_of_groups():
    cube = build("hypercube", dimensions=4, **LINK)
    walk = ring_order(cube, range(16))
    assert all(bin(a ^ b).count("1") == 1 for a, b in zip(walk, [*walk[1:], walk[0]]))
    grid = build("mesh", dims=(4, 4), **LINK)
    box = ring_order(grid, [5, 6, 9, 10])
    assert box[0] == 5 and all(grid.has_edge(a, b) for a, b in zip(box, [*box[1:], box[0]]))
    assert ring_order(grid, [0, 5, 10]) == [0, 5, 10]
    nodes = build("multi_node", nodes=2, chips=4, nic=NIC, **LINK)
    assert ring_order(nodes, range(8)) == [0, 1, 2, 3, 7, 6, 5, 4]
    assert ring_order(build("switch", 8, 1e9, 0.0), [3, 1, 7]) == [3, 1, 7]


def test_layouts():
    torus = build("torus", dims=(4, 4, 4), **LINK)
    assert layout(torus, range(64)) == (4, 4, 4)
    assert layout(torus, range(16)) == (4, 4)
    assert layout(torus, [0, 1, 4, 5]) == (2, 2)
    assert layout(torus, [0, 4, 1, 5]) == (4,)
    assert layout(torus, [0, 1, 2, 7]) == (4,)
    nodes = build("multi_node", nodes=4, chips=8, nic=NIC, **LINK)
    assert layout(nodes, range(32)) == (4, 8)
    assert layout(nodes, [0, 1, 8, 9]) == (2, 2)
    assert layout(nodes, [0, 8, 16]) == (3,)
    assert layout(nodes, [0, 1, 8]) == (3,)
    assert layout(nodes, range(8)) == (8,)
    dragonfly = build("dragonfly", groups=3, routers=2, chips=2, **LINK)
    assert layout(dragonfly, range(12)) == (3, 4)
    assert layout(build("full_mesh", 8, 1e9, 0.0), range(8)) == (8,)


def test_the_first_shapes_are_as_they_were():
    pod = build("switch", 4, 1e9, 1e-6)
    assert pod.edges[0, "switch"] == {"bytes_per_s": 1e9, "latency_s": 0.5e-6}
    assert nx.is_isomorphic(build("ring", 4, 1e9, 1e-6), build("torus", dims=(4,), **LINK))
    assert ring_order(pod, range(4)) == [0, 1, 2, 3]
