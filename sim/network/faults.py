"""What may be wrong with a pod: graphs that cannot be are refused (`check`), links that fail taken
out (`degraded`)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, NamedTuple

import networkx as nx


class Defect(NamedTuple):
    """The wire between two nodes is slow, or gone; both ways alike."""

    a: Hashable
    b: Hashable
    share: float = 1.0  # of its bandwidth that is left
    extra_latency_s: float = 0.0
    failed: bool = False


def degraded(
    graph: nx.DiGraph, defects: Iterable[Defect], group: Sequence[int] | None = None
) -> nx.DiGraph:
    """The graph with its defects; what met a failed link goes by `shortest` instead.

    ValueError if the chips of `group` (all, unless told) can no longer reach each other, naming the
    cut.
    """
    new = graph.copy()
    failed: list[tuple[Any, Any]] = []
    for defect in defects:
        ways = [
            (a, b) for a, b in ((defect.a, defect.b), (defect.b, defect.a)) if new.has_edge(a, b)
        ]
        if not ways:
            near = ", ".join(map(_name, graph.adj[defect.a])) if defect.a in graph else some(graph)
            raise ValueError(
                f"no link {defect.a} - {defect.b} to fail; {_name(defect.a)} "
                + (f"is wired to {near}" if defect.a in graph else f"is none of {near}")
            )
        if defect.failed:
            new.remove_edges_from(ways)
            failed.append((defect.a, defect.b))
            continue
        if not (0 < defect.share < inf and 0 <= defect.extra_latency_s < inf):
            raise ValueError(
                f"the link {defect.a} - {defect.b} keeps a positive share of its bandwidth and "
                f"gets no less latency, not {defect.share} and {defect.extra_latency_s} s"
            )
        for way in ways:
            new.edges[way]["bytes_per_s"] *= defect.share
            new.edges[way]["latency_s"] += defect.extra_latency_s
    if failed:
        new.graph["failed"] = new.graph.get("failed", 0) + len(failed)
        chips = [node for node in new if is_chip(node)] if group is None else list(group)
        _refuse_cut(new, chips, failed)
    return new


def _refuse_cut(graph: nx.DiGraph, chips: Sequence[int], failed: Sequence[tuple[Any, Any]]) -> None:
    """ValueError if a chip can no longer reach another, with the failed links between what it
    reaches and the rest."""
    forward = graph.graph.get("chips_forward", True)
    if all(graph.has_edge(b, a) for a, b in graph.edges):
        # Wires both ways: one look at the pieces, of which a chip that does not forward may touch
        # several.
        inner = graph if forward else graph.subgraph([node for node in graph if not is_chip(node)])
        piece = {
            node: i
            for i, nodes in enumerate(nx.weakly_connected_components(inner))
            for node in nodes
        }
        touches: dict[frozenset[int], int] = {}  # pieces touched -> one of the chips that do
        for chip in chips:
            around = (chip,) if forward else graph.adj[chip]
            touches.setdefault(frozenset(piece[node] for node in around if node in piece), chip)
        if set.intersection(*map(set, touches)) or not touches:
            return
        starts = list(touches.values())
    else:
        starts = list(chips)
    for start in starts:
        near = reached(graph, start)
        lost = [chip for chip in chips if chip not in near]
        if lost:
            cut = [f"{a} - {b}" for a, b in failed if (a in near) != (b in near)] or [
                f"{a} - {b}" for a, b in failed
            ]
            raise ValueError(
                f"with the failed link{'s' * (len(cut) > 1)} {', '.join(cut)}, {_name(start)} can "
                f"no longer reach {some(lost)}"
            )


def check(graph: nx.DiGraph) -> nx.DiGraph:
    """The graph itself, if it is a pod: chips numbered from 0, possible links, all in one piece;
    else ValueError."""
    chips = [node for node in graph if is_chip(node)]
    if not chips:
        raise ValueError(
            "there is no chip among the nodes: chips are whole numbers from 0, switches have names"
        )
    if set(chips) != set(range(len(chips))):
        gap = next((chip for chip in range(len(chips)) if chip not in graph), 0)
        raise ValueError(
            f"chips are numbered from 0 without gaps; there is no chip {gap} among "
            f"{some(sorted(chips))}"
        )
    for a, b, facts in graph.edges(data=True):
        if a == b:
            raise ValueError(f"the link {a} - {b} joins {a} to itself")
        check_link(facts, f"the link {a} - {b}")
        if facts.get("duplex") == "half":
            back = graph.edges[b, a] if graph.has_edge(b, a) else {}
            if back.get("duplex") != "half" or back["bytes_per_s"] != facts["bytes_per_s"]:
                raise ValueError(
                    f"the half-duplex link {a} - {b} needs both ways, at one bandwidth"
                )
    for node, facts in graph.nodes(data=True):
        if facts.get("forwarding", "cut_through") not in ("cut_through", "store_and_forward"):
            raise ValueError(
                f"{node} forwards by cut_through or store_and_forward, not by "
                f"{facts['forwarding']!r}"
            )
        if not 0 < facts.get("bytes_per_s", 1.0) < inf:
            raise ValueError(
                f"the core of {node} has an impossible bandwidth: {facts['bytes_per_s']} bytes/s"
            )
    hint = "" if graph.graph.get("chips_forward", True) else " (chips do not forward here)"
    for onward in (True, False):  # from chip 0 to all, from all to chip 0
        near = reached(graph if onward else graph.reverse(copy=False), 0)
        lost = [chip for chip in chips if chip not in near]
        if lost:
            way = (
                f"chip 0 cannot reach {some(lost)}"
                if onward
                else f"{some(lost)} cannot reach chip 0"
            )
            raise ValueError(f"the network is not in one piece: {way}{hint}")
    loose = set(graph) - max(nx.weakly_connected_components(graph), key=len)
    if loose:
        raise ValueError(
            f"the network is not in one piece: no chip is wired to {some(sorted(loose, key=str))}"
        )
    return graph


def check_link(facts: Mapping[str, Any], where: str, complete: bool = True) -> None:
    """ValueError if a wire cannot have these facts; `complete`: it must have a bandwidth and a
    latency."""
    known = ("bytes_per_s", "latency_s", "duplex", "tier")
    wrong = [key for key in facts if key not in known]
    if wrong:
        raise ValueError(f"{where} has an unknown fact {wrong[0]!r}; known are {', '.join(known)}")
    missing = [key for key in known[:2] if key not in facts]
    if missing and complete:
        raise ValueError(f"{where} lacks {' and '.join(missing)}")
    rate, latency = facts.get("bytes_per_s", 1.0), facts.get("latency_s", 0.0)
    if not (isfinite(rate) and rate > 0):
        raise ValueError(f"{where} needs a positive bandwidth, not {rate} bytes/s")
    if not (isfinite(latency) and latency >= 0):
        raise ValueError(f"{where} needs a non-negative latency, not {latency} s")
    if facts.get("duplex", "full") not in ("full", "half"):
        raise ValueError(f"{where} is duplex full or half, not {facts['duplex']!r}")


def reached(graph: nx.DiGraph, start: Hashable) -> set[Hashable]:
    """Nodes that a message from `start` can come to."""
    if not graph.graph.get("chips_forward", True):
        graph = nx.subgraph_view(graph, filter_edge=lambda a, _: a == start or not is_chip(a))
    return {start, *nx.descendants(graph, start)}


def is_chip(node: object) -> bool:
    """Chips are whole numbers; all other nodes have names."""
    return isinstance(node, int) and not isinstance(node, bool)


def some(nodes: Iterable[object], most: int = 6) -> str:
    """Nodes by name, the first of them if there are many."""
    names = [_name(node) for node in nodes]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _name(node: object) -> str:
    return f"chip {node}" if is_chip(node) else str(node)
