"""Irregular pods: wires listed one by one.  `sim.network.topology` registers them as a shape."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import networkx as nx

from sim.network.faults import check, is_chip, some


def from_edges(
    edges: Iterable[tuple[Hashable, Hashable, Mapping[str, Any]]],
    nodes: Mapping[Hashable, Mapping[str, Any]] | None = None,
    chips_forward: bool | None = None,
    **link: Any,
) -> nx.DiGraph:
    """An irregular pod from a list of wires (a, b, facts); `link` are the facts that a wire does
    not give itself.

    A wire goes both ways, unless its `duplex` is "simplex" (a to b only). `nodes` are facts of
    switches. Chips pass on messages for others where there are no switches; `chips_forward` says
    so, or not, where there are.
    """
    graph = nx.DiGraph()
    for a, b, own in edges:
        facts = {**link, **own}
        simplex = facts.get("duplex") == "simplex"
        if simplex:
            del facts["duplex"]
        if a == b:
            raise ValueError(f"the link {a} - {b} joins {a} to itself")
        if graph.has_edge(a, b) or (not simplex and graph.has_edge(b, a)):
            raise ValueError(f"the link {a} - {b} is given twice")
        graph.add_edge(a, b, **facts)
        if not simplex:
            graph.add_edge(b, a, **facts)
    for node, of_node in (nodes or {}).items():
        if node not in graph:
            raise ValueError(
                f"among the switches {node!r} has facts but no link; the nodes are {some(graph)}"
            )
        graph.nodes[node].update(of_node)
    chips = sorted(node for node in graph if is_chip(node))
    direct = len(chips) == len(graph)
    ordered = nx.DiGraph(chips_forward=direct if chips_forward is None else chips_forward)
    ordered.add_nodes_from((chip, graph.nodes[chip]) for chip in chips)
    ordered.add_nodes_from(graph.nodes(data=True))
    ordered.add_edges_from(graph.edges(data=True))
    return check(ordered)
