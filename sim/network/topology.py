"""Pods as graphs: one function per shape, chips numbered from 0, one directed edge for each way of
each wire.

Edges carry `bytes_per_s` and `latency_s`, and `duplex="half"` where both ways share one rate.
Switches are nodes with a name; they may carry `bytes_per_s` (all that a blocking core passes) and
`forwarding`. `graph.graph` says the shape, the routing rule and what the rule needs to know. A new
shape is a function in `direct` or `multistage` and its lines in `SHAPES` and `SIZES`; an irregular
pod is an edge list (`from_edges`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from itertools import pairwise
from math import inf, isfinite, log2, prod
from typing import Any, TypeAlias

import networkx as nx

from sim.network.direct import full_mesh, hypercube, mesh, ring, star, torus
from sim.network.faults import Fault, check, check_link, degraded, is_chip, some
from sim.network.multistage import (
    benes,
    butterfly,
    crossbar,
    dragonfly,
    fat_tree,
    fly_stages,
    multi_node,
    switch,
)
from sim.network.placement import layout, neighbour_order, ring_order

__all__ = [
    "Fault",
    "build",
    "check",
    "degraded",
    "from_edges",
    "layout",
    "neighbour_order",
    "ring_order",
    "route",
]

Graph: TypeAlias = nx.DiGraph
Node: TypeAlias = Hashable
Hop = tuple[object, object]

MOST_LINKS = 5_000_000
LINK_BYTES = (
    500  # of host memory for one directed link, measured: networkx's dicts (290) and our arrays
)


SHAPES: dict[str, Callable[..., Graph]] = {
    "full_mesh": full_mesh,
    "switch": switch,
    "crossbar": crossbar,
    "ring": ring,
    "mesh": mesh,
    "torus": torus,
    "hypercube": hypercube,
    "star": star,
    "fat_tree": fat_tree,
    "butterfly": butterfly,
    "benes": benes,
    "dragonfly": dragonfly,
    "multi_node": multi_node,
}
# Rules that know their way on some shapes only; the others serve on any graph.
ROUTES_ON: dict[str, tuple[str, ...]] = {
    "shortest": tuple(SHAPES),
    "spray": tuple(SHAPES),
    "dimension_order": ("ring", "mesh", "torus", "hypercube"),
    "bit_steered": ("butterfly", "benes"),
    "up_down": ("fat_tree", "multi_node", "switch", "crossbar", "star"),
}
# Nodes and directed links by shape, so as to refuse what is too large before building it. Floats:
# nothing overflows.
SIZES: dict[str, Callable[[Mapping[str, Any]], tuple[float, float]]] = {
    "full_mesh": lambda p: (p["devices"], p["devices"] * (p["devices"] - 1)),
    "switch": lambda p: (p["devices"] + 1, 2 * p["devices"]),
    "crossbar": lambda p: (p["devices"] + 1, 2 * p["devices"]),
    "ring": lambda p: _grid_size((p["devices"],), True),
    "mesh": lambda p: _grid_size(p["dims"], False),
    "torus": lambda p: _grid_size(p["dims"], True),
    "hypercube": lambda p: (
        _power(2, p["dimensions"]),
        p["dimensions"] * _power(2, p["dimensions"]),
    ),
    "star": lambda p: (p["devices"], 2 * (p["devices"] - 1)),
    "fat_tree": lambda p: (
        _power(p["k"], p["levels"]) * (1 + p["levels"] / p["k"]),
        2 * p["levels"] * _power(p["k"], p["levels"]),
    ),
    "butterfly": lambda p: _fly_size(p["k"], p["n"], p["expansion"]),
    "benes": lambda p: (
        _power(p["k"], p["n"]) * (1 + (2 * p["n"] - 1) / p["k"]),
        2 * p["n"] * _power(p["k"], p["n"]),
    ),
    "dragonfly": lambda p: (
        p["groups"] * p["routers"] * (p["chips"] + 1),
        p["groups"] * p["routers"] * (2 * p["chips"] + p["routers"] - 1 + p["global_links"]),
    ),
    "multi_node": lambda p: (
        p["nodes"] * (p["chips"] + 1) + (p["rails"] or p["chips"]) + p["spines"],
        4 * p["nodes"] * p["chips"] + 2 * (p["rails"] or p["chips"]) * p["spines"],
    ),
}


def build(
    shape: str,
    devices: int | None = None,
    bytes_per_s: float | None = None,
    latency_s: float | None = None,
    *,
    routing: str | None = None,
    **parameters: Any,
) -> Graph:
    """The graph of a shape with its parameters; ValueError on an unknown shape, an impossible link,
    one too large.

    `routing` puts another rule in the place of the shape's own.
    """
    if shape not in SHAPES:
        near = get_close_matches(shape, SHAPES, 1)
        hint = f"nearest {near[0]!r}; " if near else ""
        raise ValueError(f"no topology shape {shape!r}; {hint}choose one of {', '.join(SHAPES)}")
    named = {"devices": devices, "bytes_per_s": bytes_per_s, "latency_s": latency_s}
    parameters |= {key: value for key, value in named.items() if value is not None}
    link, own = _sorted_out(shape, parameters)
    if link.get("bytes_per_s", 1) <= 0 or link.get("latency_s", 0) < 0:
        raise ValueError(
            f"a {shape} needs at least 1 device, positive bandwidth and non-negative latency"
        )
    for name, facts in (("link", link), ("nic", own.get("nic")), ("spine", own.get("spine"))):
        if facts is not None:
            check_link(facts, f"the {name} of a {shape}", complete=name != "spine")
    nodes, links = SIZES[shape](own)
    if max(nodes, links) > MOST_LINKS:
        raise ValueError(
            f"this {shape} would have {nodes:,.0f} nodes and {links:,.0f} links, about "
            f"{links * LINK_BYTES / 1e9:,.0f}"
            f" GB of memory; the most is {MOST_LINKS:,} links"
        )
    if routing is not None and shape not in ROUTES_ON.get(routing, ()):
        fit = ", ".join(rule for rule, shapes in ROUTES_ON.items() if shape in shapes)
        raise ValueError(f"no routing {routing!r} on a {shape}; choose one of {fit}")
    graph = SHAPES[shape](**parameters)
    if routing is not None:
        graph.graph["routing"] = routing
    return graph


def from_edges(
    edges: Iterable[tuple[Node, Node, Mapping[str, Any]]],
    nodes: Mapping[Node, Mapping[str, Any]] | None = None,
    chips_forward: bool | None = None,
    routing: str = "shortest",
    **link: Any,
) -> Graph:
    """An irregular pod from a list of wires (a, b, facts); `link` are the facts that a wire does
    not give itself.

    A wire goes both ways, unless its `duplex` is "simplex" (a to b only). `nodes` are facts of
    switches. Chips pass on messages for others where there are no switches; `chips_forward` says
    so, or not, where there are.
    """
    graph = nx.DiGraph(shape="edges", routing=routing)
    if routing not in ("shortest", "spray"):
        raise ValueError(f"no routing {routing!r} on an edge list; choose one of shortest, spray")
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
            raise ValueError(f"{node!r} has facts but no link; the nodes are {some(graph)}")
        graph.nodes[node].update(of_node)
    chips = sorted(node for node in graph if is_chip(node))
    ordered = nx.DiGraph(**graph.graph, chips_forward=chips_forward)
    ordered.add_nodes_from((chip, graph.nodes[chip]) for chip in chips)
    ordered.add_nodes_from(graph.nodes(data=True))
    ordered.add_edges_from(graph.edges(data=True))
    if chips_forward is None:
        ordered.graph["chips_forward"] = len(chips) == len(graph)
    check(ordered)
    return ordered


def _sorted_out(shape: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of the link, and the shape's own parameters with their defaults; ValueError if some
    cannot be."""
    wanted = {
        name: p
        for name, p in signature(SHAPES[shape]).parameters.items()
        if p.kind is not p.VAR_KEYWORD
    }
    known = (*wanted, "bytes_per_s", "latency_s", "duplex")
    for name in parameters:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"nearest {near[0]!r}; " if near else ""
            raise ValueError(
                f"a {shape} has no parameter {name!r}; {hint}known are {', '.join(known)}"
            )
    missing = [
        name for name, p in wanted.items() if p.default is p.empty and name not in parameters
    ]
    if missing:
        raise ValueError(f"a {shape} needs {', '.join(missing)}")
    own = {name: parameters.get(name, p.default) for name, p in wanted.items()}
    for name, value in own.items():
        if name in _LEAST and value is not None and not (is_chip(value) and value >= _LEAST[name]):
            raise ValueError(
                f"a {shape} needs at least {_LEAST[name]} {name}, as a whole number, not {value!r}"
            )
    if "dims" in own and not (
        own["dims"] and all(is_chip(size) and size >= 1 for size in own["dims"])
    ):
        raise ValueError(
            f"the dims of a {shape} are whole numbers of at least 1, not {own['dims']!r}"
        )
    ratio = own.get("oversubscription", 1.0)
    if not (isfinite(ratio) and ratio > 0):
        raise ValueError(f"oversubscription is a positive ratio, not {ratio}")
    return {name: value for name, value in parameters.items() if name not in wanted}, own


_COUNTED = "devices n levels expansion groups routers chips global_links nodes rails spines"
_LEAST = {**dict.fromkeys(_COUNTED.split(), 1), "k": 2, "dimensions": 0}


def _power(base: int, exponent: int) -> float:
    return float(base**exponent) if exponent * log2(max(base, 1)) < 100 else inf


def _grid_size(dims: Sequence[int], wraps: bool) -> tuple[float, float]:
    count = float(prod(dims))
    return count, sum(2 * count * (1 if wraps and size > 2 else (size - 1) / size) for size in dims)


def _fly_size(k: int, n: int, expansion: int) -> tuple[float, float]:
    chips = _power(k, n)
    if chips * expansion > MOST_LINKS:
        return chips, n * chips * expansion
    extra = next((e for e in range(64) if k**e >= expansion), 0)
    stages = fly_stages(k, n, extra)
    between = [
        tops * lows * (stages[j + 1][0] // tops) for j, (tops, lows) in enumerate(stages[:-1])
    ]
    return chips + sum(tops * lows for tops, lows in stages), float(2 * chips + sum(between))


def route(graph: Graph, source: int, target: int) -> list[Hop]:
    """Links of the shortest path, fewest hops first; ties go to the lower-numbered neighbour,
    always the same way."""
    if graph.has_edge(source, target):
        return [(source, target)]
    path = min(
        nx.all_shortest_paths(graph, source, target),
        key=lambda nodes: [str(node) for node in nodes],
    )
    return list(pairwise(path))
