"""The `pod:` section of a scenario as a graph of links and a library, with its faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sim import catalog
from sim.facts.assumption import Assumption
from sim.hardware.device import Fact
from sim.network.faults import Defect, degraded
from sim.network.library import Library
from sim.network.network import Network, Ranks
from sim.network.topology import Graph
from sim.scenario import MisfitError, Variant
from sim.scenario.faults import LinkFault
from sim.scenario.machine import Pod
from sim.text.strict_yaml import KeyPath, nearest


class Wiring(NamedTuple):
    """A pod's links without its faults, and what drives them."""

    pod: catalog.PodSpec
    library: Library
    graph: Graph


def wiring(v: Variant) -> Wiring:
    """The wires of a variant's pod; ValueError if they cannot be, or if an edit of the links
    reaches none."""
    changes = v.pod.change.link.given()
    pod = catalog.pod(v.pod.topology, changes)
    library = catalog.library(v.pod.library or pod.library, v.pod.change.library.given())
    graph = pod.graph()
    for key in changes:  # is there a link that another number would reach?
        number = f"link_{key}"
        other = replace(pod, **{number: 2 * getattr(pod, number) + 1}).graph()
        if all(graph.edges[link] == facts for link, facts in other.edges.items()):
            what = f"no link of {pod.name} has its {key} from `link`; take this out"
            raise MisfitError([(("pod", "change", "link", key), what)])
    return Wiring(pod, library, graph)


def beyond_library(device: str, library: Library | None) -> list[str]:
    """What to say of a library that was measured, but not on chips like these."""
    if library is None or not library.measured_on or device in library.measured_on:
        return []
    return [
        f"{library.name} was measured on {' and '.join(library.measured_on)}, not on {device}: "
        "what its collectives cost beside the wires is that of another machine"
    ]


def whole_at_each_hop(network: Network, groups: Iterable[Ranks]) -> list[str]:
    """What to say of groups whose messages cross a switch that stores and forwards."""
    if not any(network.stored_between(group) for group in groups):
        return []
    return [
        "upper bound, up to 2x: times over switches that store and forward, where messages that "
        "share a port arrive whole together; one by one, the first would go on sooner"
    ]


def strange_stragglers(pod: Pod, chips: int) -> list[tuple[KeyPath, str]]:
    """Stragglers that are not among so many chips."""
    return [
        (
            ("pod", "stragglers", chip),
            f"chip {chip} is not in the pod: its chips are 0 to {chips - 1}",
        )
        for chip in pod.stragglers
        if chip >= chips
    ]


def with_faults(
    graph: Graph, faults: Sequence[LinkFault], groups: Iterable[Sequence[int]]
) -> Graph:
    """The graph with its faults; MisfitError if a link is not there, or if a group of chips falls
    apart."""
    if not faults:
        return graph
    wrong: list[tuple[KeyPath, str]] = []
    seen: dict[frozenset[int | str], int] = {}
    for index, fault in enumerate(faults):
        what = _no_link(graph, *fault.link)
        if not what and seen.setdefault(frozenset(fault.link), index) != index:
            what = (
                f"the link {fault.link[0]} - {fault.link[1]} has a fault already; give both in one"
            )
        if what:
            wrong.append((("pod", "faults", index, "link"), what))
    if wrong:
        raise MisfitError(wrong)
    defects = [
        Defect(
            a=fault.link[0],
            b=fault.link[1],
            share=fault.bandwidth,
            extra_latency_s=fault.latency,
            failed=fault.failed,
        )
        for fault in faults
    ]
    faulty = graph
    for group in dict.fromkeys(map(tuple, groups)):
        try:
            faulty = degraded(graph, defects, group)
        except ValueError as error:
            raise MisfitError([(("pod", "faults"), str(error))]) from None
    return faulty


def _no_link(graph: Graph, a: int | str, b: int | str) -> str:
    """Why there is no such link; '' where there is one."""
    for node in (a, b):
        if node not in graph:
            chips = sum(isinstance(each, int) for each in graph)
            names = [str(each) for each in graph if not isinstance(each, int)]
            few = (
                f"; the others are {', '.join(names[:6])}{' ...' * (len(names) > 6)}"
                if names
                else ""
            )
            return (
                f"no node {node!r} in the pod{nearest(node, names)}; its chips are 0 to "
                f"{chips - 1}{few}"
            )
    if graph.has_edge(a, b) or graph.has_edge(b, a):
        return ""
    near = ", ".join(map(str, list(graph.adj[a])[:8])) + (" ..." if len(graph.adj[a]) > 8 else "")
    return f"there is no link from {a} to {b}; {a} is wired to {near}"


def assumptions(
    facts: Mapping[str, Mapping[str, Fact]], keys: Mapping[str, str] | None = None
) -> list[Assumption]:
    """Rows for the report, from each part's facts; `keys` are where a scenario changes each part
    whose numbers it can change."""
    rows = []
    for part, mine in facts.items():
        stem = (keys or {}).get(part, "")
        for what, fact in mine.items():
            known = fact.range if stem else None
            key = f"{stem}.{what.removeprefix('link_')}" if known else ""
            name = f"{part}: {what}"
            rows.append(Assumption(name, fact.value, fact.tag, fact.source, known, key))
    return rows
