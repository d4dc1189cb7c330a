"""A topology in figures: degree, wires, hops, bisection bandwidth.  Pure functions of the graph.

Where the symmetry of a shape makes a figure exact, one look from one chip or a closed form is
enough; otherwise it is said that the figure is a sample or a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from sim.network.faults import is_chip
from sim.network.plans import Floats
from sim.network.topology import IRREGULAR, Shape, Starts, shape_of
from sim.network.wires import Wires

# chips from which distances are counted where no symmetry helps; more are sampled
MOST_STARTS = 2_000
MOST_FLOW_LINKS = 3_000  # links up to which a split through switches is cut exactly
MOST_SWAPPED = 512  # chips up to which splits are improved by swaps


class Distances(NamedTuple):
    """Links crossed from chip to chip by the shortest way, chips to themselves left out."""

    diameter: int
    average: float
    exact: bool  # else a sample of chips: the diameter may be greater


class Bisection(NamedTuple):
    """One way across the narrowest even split of the chips.  Not exact: an upper bound, the best
    split found."""

    bytes_per_s: float
    exact: bool
    how: str


def degree(graph: nx.DiGraph) -> tuple[int, int]:
    """(fewest, most) wires out of a chip."""
    out = [len(graph.adj[node]) for node in graph if is_chip(node)]
    return min(out), max(out)


def wire_count(graph: nx.DiGraph) -> int:
    """Wires, both ways counted once."""
    links = graph.number_of_edges()
    return links - sum(graph.has_edge(b, a) for a, b in graph.edges) // 2


def distances(graph: nx.DiGraph, wires: Wires | None = None) -> Distances:
    """Diameter and mean distance."""
    wires = wires or Wires(graph)
    chips = wires.chips
    if chips < 2:
        return Distances(0, 0.0, True)
    row, dims = _whole(graph), graph.graph.get("dims", ())
    if row.apart:
        return Distances(*row.apart(dims, chips), True)
    starts, exact = _starts(row, dims, chips)
    farthest, total = 0, 0.0
    for start, weight in starts:
        hops = wires.distances(start)[:chips]
        farthest = max(farthest, int(hops.max()))
        total += weight * float(hops.sum()) / (chips - 1)
    return Distances(farthest, total / sum(weight for _, weight in starts), exact)


def _whole(graph: nx.DiGraph) -> Shape:
    """What is known of the graph by its shape; one with failed links has none any more."""
    return IRREGULAR if graph.graph.get("failed") else shape_of(graph)


def _starts(row: Shape, dims: Sequence[int], chips: int) -> tuple[Starts, bool]:
    """Chips from which the network looks as from all others, each with how many it stands for, and
    whether it does."""
    if row.starts:
        return row.starts(dims, chips), True
    exact = chips <= MOST_STARTS
    some = range(chips) if exact else np.linspace(0, chips - 1, 200).astype(int).tolist()
    return [(chip, 1.0) for chip in some], exact


def bisection(graph: nx.DiGraph, wires: Wires | None = None) -> Bisection:
    """Bandwidth across the narrowest split of the chips into halves (one more in one of them, if
    their number is odd).

    Closed forms for a whole shape; otherwise the narrowest of many splits, which is an upper bound:
    in numbered order and along each axis, by the second eigenvector, each then improved by swaps.
    With switches, a split's bandwidth is the maximum flow from half to half, on large networks that
    of the best place found for each switch.
    """
    wires = wires or Wires(graph)
    if wires.chips < 2:
        return Bisection(0.0, True, "one chip")
    cut = _whole(graph).cut
    known = cut(graph, wires) if cut else None
    if known is not None:
        return Bisection(known, True, f"closed form of a {graph.graph['shape']}")
    best = min((_across(graph, wires, half), i) for i, half in enumerate(_splits(graph, wires)))
    return Bisection(best[0], False, "narrowest split found")


def _splits(graph: nx.DiGraph, wires: Wires) -> Iterator[np.ndarray]:
    """Even splits of the chips to try: true for one half."""
    n = wires.chips
    chips, dims = np.arange(n), graph.graph.get("dims", ())
    keys: list[Any] = [chips]
    if prod(dims) == n and dims:
        at = np.unravel_index(chips, dims)
        keys += [np.lexsort((*at, axis)).argsort() for axis in at]
    keys += (
        [(chips >> bit & 1) * n + chips for bit in range(n.bit_length() - 1)]
        if n & (n - 1) == 0
        else []
    )
    if len(wires.nodes) <= 1_500:
        keys.append(_fiedler(wires)[:n])
    direct = len(wires.nodes) == n
    for key in keys:
        half = np.zeros(n, dtype=bool)
        half[np.argsort(key, kind="stable")[: n // 2]] = True
        yield _swapped(wires, half) if direct and n <= MOST_SWAPPED else half


def _joined(wires: Wires) -> Floats:
    """Rates between nodes, both ways together, as parts of the greatest."""
    one_way = np.zeros((len(wires.nodes), len(wires.nodes)))
    rate = wires.bytes_per_s[wires.capacity] / wires.bytes_per_s.max()
    one_way[wires.source, wires.target] = rate
    return one_way + one_way.T


def _fiedler(wires: Wires) -> Floats:
    """The second eigenvector of the graph's Laplacian: what hangs together has values close
    together."""
    joined = _joined(wires)
    return np.linalg.eigh(np.diag(joined.sum(axis=0)) - joined)[1][:, 1].round(9)


def _swapped(wires: Wires, half: np.ndarray) -> np.ndarray:
    """A split of a direct network, improved by the best swap of two chips as long as there is one
    (Kernighan-Lin)."""
    joined, half = _joined(wires) / 2, half.copy()
    for _ in range(wires.chips):
        outward = (
            joined @ np.where(half, -1.0, 1.0) * np.where(half, 1.0, -1.0)
        )  # cut less uncut, by chip
        a, b = np.flatnonzero(half), np.flatnonzero(~half)
        gain = outward[a][:, None] + outward[b][None, :] - 2 * joined[np.ix_(a, b)]
        best = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[best] <= 1e-9:
            return half
        half[a[best[0]]], half[b[best[1]]] = False, True
    return half


def _across(graph: nx.DiGraph, wires: Wires, half: np.ndarray) -> float:
    """What the halves can send each other, the narrower of the two ways."""
    if len(wires.nodes) == wires.chips:
        rate = wires.bytes_per_s[wires.capacity]
        crossing = half[wires.source] != half[wires.target]
        out = crossing & half[wires.source]
        return min(float(rate[out].sum()), float(rate[crossing & ~out].sum()))
    if len(wires.source) <= MOST_FLOW_LINKS:
        return min(_flow(graph, wires, half), _flow(graph, wires, ~half))
    return min(_placed(wires, half), _placed(wires, ~half))


def _flow(graph: nx.DiGraph, wires: Wires, half: np.ndarray) -> float:
    """Maximum flow from the chips of `half` to the others; chips do not pass on unless they
    forward."""
    flows = nx.DiGraph()
    forward = wires.chips_forward
    for a, b, facts in graph.edges(data=True):
        if not forward and ((is_chip(a) and not half[a]) or (is_chip(b) and half[b])):
            continue
        flows.add_edge((a, "out"), (b, "in"), capacity=facts["bytes_per_s"])
    for node, facts in graph.nodes(data=True):
        flows.add_edge(
            (node, "in"),
            (node, "out"),
            **({"capacity": facts["bytes_per_s"]} if "bytes_per_s" in facts else {}),
        )
    for chip in range(wires.chips):
        flows.add_edge(
            *((("from", ""), (chip, "out")) if half[chip] else ((chip, "in"), ("to", "")))
        )
    return float(nx.maximum_flow_value(flows, ("from", ""), ("to", "")))


def _placed(wires: Wires, half: np.ndarray) -> float:
    """Links from `half` to the rest, each switch on the side where it cuts less: a bound on the
    flow."""
    side = np.zeros(len(wires.nodes))
    side[: wires.chips] = np.where(half, 1.0, -1.0)
    rate = wires.bytes_per_s[wires.capacity]
    for _ in range(64):  # switches far from chips learn their side from their neighbours
        pull = np.bincount(wires.source, rate * side[wires.target], minlength=len(side))
        pull += np.bincount(wires.target, rate * side[wires.source], minlength=len(side))
        new = np.where(np.arange(len(side)) < wires.chips, side, np.sign(pull.round(6)))
        if (new == side).all():
            break
        side = new
    side = np.where(side == 0, 1.0, side)
    return float(rate[(side[wires.source] > 0) & (side[wires.target] < 0)].sum())
