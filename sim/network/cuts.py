"""Closed forms of the bisection bandwidth: of one way across the narrowest even split of the chips.

Each takes a whole pod of its shape, and answers None where its links are not as the form needs
them. `sim.network.topology` registers them; a test tries every even split of small pods.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from sim.network.wires import Wires


def uniform(wires: Wires, links: int) -> float | None:
    """So many links at the rate that all links of the pod have."""
    rate = float(wires.bytes_per_s[0])
    alike = bool((wires.bytes_per_s[: len(wires.source)] == rate).all())
    return links * rate if alike else None


def all_pairs(_: nx.DiGraph, wires: Wires) -> float | None:
    """Every chip of one half has a wire to every chip of the other."""
    half = wires.chips // 2
    return uniform(wires, half * (wires.chips - half))


def half_of_the_chips(_: nx.DiGraph, wires: Wires) -> float | None:
    """Each chip of a half has one wire's worth through what is non-blocking."""
    return uniform(wires, wires.chips // 2)


def core(graph: nx.DiGraph, wires: Wires) -> float | None:
    """Half of the ports, or all that the switch passes."""
    ports = half_of_the_chips(graph, wires)
    return ports and min(ports, graph.nodes["switch"].get("bytes_per_s", inf))


def grid(graph: nx.DiGraph, wires: Wires) -> float | None:
    """Across the longest axis, twice where it is a ring; not known where that is odd and not the
    only one."""
    dims = graph.graph["dims"]
    longest = max(dims)
    if len([size for size in dims if size > 1]) > 1 and longest % 2:
        return None
    closes = graph.graph["wraps"] and longest > 2
    return uniform(wires, wires.chips // longest * (2 if closes else 1))


def fat_tree(graph: nx.DiGraph, wires: Wires) -> float | None:
    """Half of the chips at the rate of the thinnest tier: a permutation can always be spread so
    that no wire carries more than one chip's worth."""
    if graph.graph["k"] % 2 == 0 and _tiers_uniform(graph):
        return wires.chips // 2 * min(float(wires.bytes_per_s[0]), float(wires.bytes_per_s.min()))
    return half_of_the_chips(graph, wires)


def rails(graph: nx.DiGraph, wires: Wires) -> float | None:
    """Nodes in two halves: all NICs of a half.  No split is narrower if NICs are no faster than the
    wires inside a node and the spines carry all: chips of the two halves in one node pair up inside
    it, the rest by their NICs.
    """
    (nodes, _), n = graph.graph["dims"], wires.chips
    if not _tiers_uniform(graph):
        return None
    rates = {facts["tier"]: facts["bytes_per_s"] for _, _, facts in graph.edges(data=True)}
    if nodes == 1:
        return n // 2 * rates["node"]
    leaves = [node for node in graph if str(node).startswith("leaf")]
    carried = [
        sum(
            f["bytes_per_s"] * (1 if f["tier"] == "spine" else -1) for f in graph.adj[leaf].values()
        )
        for leaf in leaves
    ]
    enough = graph.graph["rails"] == 1 or min(carried) >= -1e-9 * rates["NIC"]
    if nodes % 2 or rates["NIC"] > rates.get("node", inf) or not enough:
        return None
    return n // 2 * rates["NIC"]


def _tiers_uniform(graph: nx.DiGraph) -> bool:
    """Links of a tier all have one rate (the spines' but need not)."""
    rates: dict[str, float] = {}
    return all(
        facts["tier"] == "spine"
        or rates.setdefault(facts["tier"], facts["bytes_per_s"]) == facts["bytes_per_s"]
        for _, _, facts in graph.edges(data=True)
    )
