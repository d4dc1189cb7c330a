"""Pods as graphs: one function per shape, chips numbered from 0, one directed edge for each way of each wire.

Edges carry `bytes_per_s` and `latency_s`. A new shape is a function here and a line in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import networkx as nx

Graph: TypeAlias = nx.DiGraph
Hop = tuple[object, object]


def full_mesh(devices: int, **link: float) -> Graph:
    """Every chip wired to every other (HCCS)."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(devices))
    graph.add_edges_from(((a, b) for a in range(devices) for b in range(devices) if a != b), **link)
    return graph


def switch(devices: int, **link: float) -> Graph:
    """Every chip on one non-blocking switch (NVSwitch); a link is a chip's port, one way.

    The latency of the link is that of the whole way through the switch, half of it on each side.
    """
    graph = nx.DiGraph()
    link = link | {"latency_s": link.get("latency_s", 0.0) / 2}
    for chip in range(devices):
        graph.add_edge(chip, "switch", **link)
        graph.add_edge("switch", chip, **link)
    return graph


def ring(devices: int, **link: float) -> Graph:
    """Each chip wired to the next and the previous; two chips share one wire, both ways."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(devices))
    for chip in range(devices if devices > 1 else 0):
        graph.add_edge(chip, (chip + 1) % devices, **link)
        graph.add_edge((chip + 1) % devices, chip, **link)
    return graph


SHAPES: dict[str, Callable[..., Graph]] = {"full_mesh": full_mesh, "switch": switch, "ring": ring}


def build(shape: str, devices: int, bytes_per_s: float, latency_s: float) -> Graph:
    """The graph of a pod; ValueError on an unknown shape or an impossible link."""
    if shape not in SHAPES:
        raise ValueError(f"no topology shape {shape!r}; choose one of {', '.join(SHAPES)}")
    if devices < 1 or bytes_per_s <= 0 or latency_s < 0:
        raise ValueError(f"a {shape} needs at least 1 device, positive bandwidth and non-negative latency")
    return SHAPES[shape](devices, bytes_per_s=bytes_per_s, latency_s=latency_s)


def route(graph: Graph, source: int, target: int) -> list[Hop]:
    """Links of the shortest path, fewest hops first; ties go to the lower-numbered neighbour, always the same way."""
    if graph.has_edge(source, target):
        return [(source, target)]
    path = min(nx.all_shortest_paths(graph, source, target), key=lambda nodes: [str(node) for node in nodes])
    return list(pairwise(path))


def neighbour_order(graph: Graph, ranks: int) -> list[int]:
    """Chips of a group of `ranks` in the order a ring should visit them: as numbered."""
    if ranks > sum(isinstance(node, int) for node in graph):
        raise ValueError(
            f"a group of {ranks} ranks does not fit on {sum(isinstance(node, int) for node in graph)} chips"
        )
    return list(range(ranks))
