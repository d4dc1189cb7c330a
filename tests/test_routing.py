"""Routing: every way is a way, minimal, and the same for the same message; sprayed messages lose
nothing."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.network.edge_list import from_edges
from sim.network.faults import Defect, degraded
from sim.network.routing import ROUTINGS, routes
from sim.network.topology import SHAPES, build
from sim.network.traffic import all_to_all
from sim.network.wires import Wires

LINK = {"bytes_per_s": 1e9, "latency_s": 1e-6}
NIC = {"bytes_per_s": 0.5e9, "latency_s": 4e-6}
PODS = [
    ("full_mesh", {"devices": 6}),
    ("switch", {"devices": 6}),
    ("crossbar", {"devices": 6}),
    ("ring", {"devices": 7}),
    ("ring", {"devices": 2}),
    ("mesh", {"dims": (3, 4)}),
    ("torus", {"dims": (4, 3, 2)}),
    ("hypercube", {"dimensions": 4}),
    ("star", {"devices": 5}),
    ("fat_tree", {"k": 2, "levels": 4}),
    ("fat_tree", {"k": 3, "levels": 2}),
    ("butterfly", {"k": 2, "n": 4}),
    ("butterfly", {"k": 3, "n": 2}),
    ("butterfly", {"k": 2, "n": 3, "expansion": 2}),
    ("butterfly", {"k": 2, "n": 3, "expansion": 8}),
    ("benes", {"k": 2, "n": 3}),
    ("benes", {"k": 3, "n": 2}),
    ("dragonfly", {"groups": 5, "routers": 2, "chips": 2, "global_links": 2}),
    ("multi_node", {"nodes": 3, "chips": 4, "nic": NIC, "spines": 2}),
    ("multi_node", {"nodes": 4, "chips": 6, "nic": NIC, "spines": 3, "rails": 4}),
    ("multi_node", {"nodes": 3, "chips": 1, "nic": NIC}),
    ("multi_node", {"nodes": 1, "chips": 4}),
]
RULED = [(s, p, rule) for s, p in PODS for rule in SHAPES[s].rules if rule != "spray"]


def pairs(shape, parameters, **more):
    wires = Wires(build(shape, **parameters, **LINK, **more))
    source, target = all_to_all(wires.chips)
    return wires, source, target


def distance(wires, source, target):
    table = np.array([wires.distances(chip)[: wires.chips] for chip in range(wires.chips)])
    return table[target, source]


def test_every_rule_is_in_the_table():
    assert {rule for row in SHAPES.values() for rule in row.rules} == {*ROUTINGS, "spray"}


@pytest.mark.parametrize(("shape", "parameters", "rule"), RULED)
def test_every_way_is_a_minimal_walk_from_source_to_target(shape, parameters, rule):
    wires, source, target = pairs(shape, parameters, routing=rule)
    ways = routes(wires, source, target)
    assert (np.diff(ways.first) == 1).all()
    assert (ways.legs.hops == distance(wires, source, target)).all()
    for i in range(len(source)):
        links = ways.legs.capacities[ways.legs.first[i] : ways.legs.first[i + 1]]
        assert wires.source[links[0]] == source[i] and wires.target[links[-1]] == target[i]
        assert (wires.target[links[:-1]] == wires.source[links[1:]]).all()
        assert ways.legs.latency_s[i] == pytest.approx(wires.latency_s[links].sum(), rel=1e-12)
    again = routes(wires, source, target)
    assert (again.legs.capacities == ways.legs.capacities).all()


@pytest.mark.parametrize(("shape", "parameters"), PODS)
def test_chips_of_switched_networks_do_not_forward(shape, parameters):
    wires, source, target = pairs(shape, parameters)
    for rule in () if wires.chips_forward else ("shortest", "spray"):
        wires.graph.graph["routing"] = rule
        legs = routes(wires, source, target).legs
        links = legs.capacities < len(wires.source)
        leaves = wires.source[legs.capacities[links]] < wires.chips
        assert legs.share[links][leaves].sum() == pytest.approx(
            len(source), rel=1e-12
        )  # once each, from its source


@pytest.mark.parametrize(("shape", "parameters"), PODS)
def test_a_sprayed_message_arrives_whole_and_evenly(shape, parameters):
    """Flow conservation: 1 out of the source, 1 into the target, at every other node as much in as
    out."""
    wires, source, target = pairs(shape, parameters, routing="spray")
    ways = routes(wires, source, target)
    assert (ways.legs.hops == distance(wires, source, target)).all()
    nodes = len(wires.nodes)
    for i in range(len(source)):
        at = slice(ways.legs.first[i], ways.legs.first[i + 1])
        links, share = ways.legs.capacities[at], ways.legs.share[at]
        net = np.bincount(wires.source[links], share, minlength=nodes)
        net -= np.bincount(wires.target[links], share, minlength=nodes)
        expected = np.zeros(nodes)
        expected[source[i]], expected[target[i]] = 1, -1
        assert net == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "parameters"), [("torus", {"dims": (4, 3)}), ("fat_tree", {"k": 2, "levels": 3})]
)
def test_spray_is_even_over_all_shortest_ways(shape, parameters):
    wires, source, target = pairs(shape, parameters, routing="spray")
    ways = routes(wires, source, target)
    for i in range(0, len(source), 7):
        every = list(nx.all_shortest_paths(wires.graph, int(source[i]), int(target[i])))
        share = np.zeros(len(wires.source))
        for path in every:
            walk = np.array([wires.index[node] for node in path])
            share[wires.edges(walk[:-1], walk[1:])] += 1 / len(every)
        found = np.zeros(len(wires.source))
        at = slice(ways.legs.first[i], ways.legs.first[i + 1])
        found[ways.legs.capacities[at]] = ways.legs.share[at]
        assert found == pytest.approx(share, abs=1e-12)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans(), st.data())
@settings(max_examples=50, deadline=None)
def test_dimension_order_ends_one_axis_before_it_begins_the_next(dims, wraps, data):
    wires = Wires(build("torus" if wraps else "mesh", dims=tuple(dims), **LINK))
    one = st.integers(0, wires.chips - 1)
    a, b = data.draw(one), data.draw(one)
    ways = routes(wires, np.array([a]), np.array([b]))
    at = np.stack(np.unravel_index(np.append(wires.source[ways.legs.capacities], b), dims))
    axes = np.abs(np.diff(at, axis=1)).argmax(axis=0).tolist() if a != b else []
    assert axes == sorted(axes, reverse=True)


def test_ties_on_a_torus_go_up_for_all_alike():
    wires = Wires(build("ring", 8, 1e9, 1e-6))
    chips = np.arange(8)
    ways = routes(wires, chips, (chips + 4) % 8)
    links = ways.legs.capacities
    assert ((wires.target[links] - wires.source[links]) % 8 == 1).all()


def test_rails_and_spines():
    """Inside a node by its switch, along a rail by its leaf, across by a spine; uniform traffic
    loads spines alike."""
    wires, source, target = pairs("multi_node", {"nodes": 8, "chips": 4, "nic": NIC, "spines": 4})
    ways = routes(wires, source, target)
    inside, rail = source // 4 == target // 4, source % 4 == target % 4
    assert (ways.legs.hops == np.where(inside | rail, 2, 4)).all()
    load = np.bincount(ways.legs.capacities, minlength=len(wires.source))
    up = [
        wires.edges(*np.array([[wires.index["leaf 0"]], [wires.index[f"spine {s}"]]]))[0]
        for s in range(4)
    ]
    assert len(set(load[up].tolist())) == 1


def test_a_target_of_a_fat_tree_has_its_own_way_down():
    wires, source, target = pairs("fat_tree", {"k": 4, "levels": 3})
    ways = routes(wires, source, target)
    message = np.repeat(np.arange(len(source)), np.diff(ways.legs.first))
    links = ways.legs.capacities
    level = np.array(
        [int(str(node).split()[1]) if isinstance(node, str) else -1 for node in wires.nodes]
    )
    down = level[wires.target[links]] < level[wires.source[links]]
    seen = np.unique(np.stack([links[down], target[message[down]]]), axis=1)
    assert len(set(seen[0].tolist())) == len(seen[0])  # no link down has messages to two chips


@pytest.mark.parametrize(("shape", "parameters"), PODS)
def test_around_a_failed_link(shape, parameters):
    """Messages whose way is whole keep it; the others take a shortest way of what is left."""
    pod = build(shape, **parameters, **LINK)
    wires = Wires(pod)
    source, target = all_to_all(wires.chips)
    before = routes(wires, source, target)
    links = before.legs.capacities
    inner = (
        links[(wires.source[links] >= wires.chips) & (wires.target[links] >= wires.chips)]
        if pod.graph.get("chips_forward", True) is False
        else links
    )
    if not len(inner):
        return
    a, b = wires.nodes[wires.source[inner[0]]], wires.nodes[wires.target[inner[0]]]
    try:
        broken = degraded(pod, [Defect(a, b, failed=True)])
    except ValueError as cut:
        assert "can no longer reach" in str(cut)
        return
    wires = Wires(broken)
    after = routes(wires, source, target)
    assert (after.legs.hops == np.maximum(before.legs.hops, distance(wires, source, target))).all()
    wires.graph.graph["routing"] = "spray"
    assert (routes(wires, source, target).legs.hops == distance(wires, source, target)).all()


def test_messages_to_oneself_go_nowhere_or_through_the_fly():
    wires = Wires(build("butterfly", k=2, n=3, **LINK))
    chips = np.arange(8)
    assert len(routes(wires, chips, chips).legs.hops) == 0
    assert (routes(wires, chips, chips, itself=True).legs.hops == 4).all()


def test_legs_end_at_switches_that_store():
    wires = Wires(
        build("switch", 4, 1e9, 1e-6, forwarding="store_and_forward", core_bytes_per_s=2e9)
    )
    ways = routes(wires, np.array([0, 1]), np.array([3, 1]))
    assert ways.first.tolist() == [0, 2, 2]
    assert [wires.name(c) for c in ways.legs.capacities] == [
        "0 → switch",
        "core of switch",
        "switch → 3",
    ]
    with pytest.raises(ValueError, match="needs switches that cut through"):
        routes(
            Wires(build("switch", 4, 1e9, 1e-6, forwarding="store_and_forward", routing="spray")),
            np.array([0]),
            np.array([3]),
        )


def test_no_way_is_said():
    pod = from_edges([(0, "a", {}), (1, "a", {}), (2, "a", {})], **LINK)
    pod.remove_edge("a", 2)
    with pytest.raises(ValueError, match="there is no way from 0 to 2"):
        routes(Wires(pod), np.array([0]), np.array([2]))


def test_large_pods_need_no_tables():
    """16,384 neighbours of a torus, and a permutation of 8,192 chips in nodes: arrays, no
    search."""
    torus = Wires(build("torus", dims=(128, 128), **LINK))
    chips = np.arange(16_384)
    assert (routes(torus, chips, (chips + 128) % 16_384).legs.hops == 1).all()
    nodes = Wires(build("multi_node", nodes=1024, chips=8, nic=NIC, spines=8, **LINK))
    chips = np.arange(8_192)
    assert (routes(nodes, chips, chips[::-1]).legs.hops == 4).all()
    assert torus.nearer.cache_info().misses == nodes.nearer.cache_info().misses == 0
