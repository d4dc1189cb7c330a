"""A topology graph compiled to arrays: what routing, folding and playing look things up in.

A capacity is whatever limits bytes per second: one direction of a link, both directions together
where the link is half duplex, the core of a blocking switch. A path is the capacities that a
message from one node to another crosses, with its latency. Chips are nodes 0 to chips - 1; switches
follow, in the order the graph names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import networkx as nx
import numpy as np

from sim.network.plans import Floats, Ints


class Paths(NamedTuple):
    """Ways for messages, one row each, in compressed rows: row i crosses
    `capacities[first[i]:first[i + 1]]`."""

    first: Ints  # (rows + 1,)
    capacities: Ints  # (crossings,)
    # (crossings,) the part of the message's rate that crosses this capacity: 1 unless it is split
    share: Floats
    latency_s: Floats  # (rows,)
    hops: Ints  # (rows,)


def expand(first: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Row starts of a selection of compressed rows, and the positions of their entries."""
    if len(rows) == 1:
        start, stop = first[rows[0]], first[rows[0] + 1]
        return np.array([0, stop - start]), np.arange(start, stop)
    lengths = first[rows + 1] - first[rows]
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts, np.repeat(first[rows] - starts[:-1], lengths) + np.arange(starts[-1])


def joined(parts: Sequence[Paths]) -> Paths:
    """Rows of several tables, one after the other."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0] + [part.first[-1] for part in parts])
    first = np.concatenate([part.first[:-1] + end for part, end in zip(parts, ends)] + [ends[-1:]])
    _, *columns = zip(*parts)
    return Paths(first, *map(np.concatenate, columns))


class Wires:
    """The arrays of one graph.

    `bytes_per_s` and `names` are by capacity, `latency_s`, `ends` and `capacity` by directed link
    (edge).
    """

    def __init__(self, graph: nx.DiGraph) -> None:
        self.graph = graph
        chips = [node for node in graph if isinstance(node, int)]
        self.chips = len(chips)
        self.chips_forward = bool(
            graph.graph.get("chips_forward", True)
        )  # do they pass on messages for others
        self.nodes = [*range(self.chips), *(node for node in graph if not isinstance(node, int))]
        self.index = {node: i for i, node in enumerate(self.nodes)}
        size = len(self.nodes)
        rows = [(self.index[a], self.index[b], data) for a, b, data in graph.edges(data=True)]
        source = np.fromiter((a for a, _, _ in rows), dtype=np.int64, count=len(rows))
        target = np.fromiter((b for _, b, _ in rows), dtype=np.int64, count=len(rows))
        order = np.argsort(source * size + target, kind="stable")
        self.source, self.target = source[order], target[order]
        self._key = self.source * size + self.target
        self.latency_s = np.fromiter(
            (d["latency_s"] for _, _, d in rows), dtype=float, count=len(rows)
        )[order]
        rate = np.fromiter((d["bytes_per_s"] for _, _, d in rows), dtype=float, count=len(rows))[
            order
        ]
        half = np.fromiter(
            (d.get("duplex") == "half" for _, _, d in rows), dtype=bool, count=len(rows)
        )[order]
        self.out_first = np.searchsorted(
            self.source, np.arange(size + 1)
        )  # edges sorted by source: rows of neighbours
        self.in_edges = np.argsort(self.target, kind="stable")
        self.in_first = np.searchsorted(self.target[self.in_edges], np.arange(size + 1))
        self.capacity = np.arange(len(rows))
        if half.any():  # both ways of a half-duplex wire are one capacity
            back = self.edges(self.target[half], self.source[half])
            self.capacity[half] = np.minimum(np.flatnonzero(half), back)
        cores = [
            (self.index[n], d["bytes_per_s"])
            for n, d in graph.nodes(data=True)
            if d.get("bytes_per_s")
        ]
        self.core = np.full(size, -1)  # capacity of a blocking switch's core, by node
        for i, (node, core_rate) in enumerate(cores):
            self.core[node] = len(rows) + i
            rate = np.append(rate, core_rate)
        self.bytes_per_s = rate
        self.stores = np.array(
            [graph.nodes[n].get("forwarding") == "store_and_forward" for n in self.nodes],
            dtype=bool,
        )
        self.nearer = lru_cache(maxsize=None)(self._nearer)

    def _nearer(self, target: int) -> tuple[Ints, Ints, Ints]:
        """By node, its neighbours that are one hop nearer to `target`: row starts, neighbours, how
        many."""
        distance = self.distances(target)
        closer = distance[self.target] == distance[self.source] - 1
        closer &= distance[self.source] > 0  # unreachable: -1
        if not self.chips_forward:
            closer &= (self.target >= self.chips) | (self.target == target)
        ways = np.bincount(self.source[closer], minlength=len(self.nodes))
        first = np.zeros(len(self.nodes) + 1, dtype=np.int32)
        np.cumsum(ways, out=first[1:])
        return (
            first,
            self.target[closer].astype(np.int32),
            ways.astype(np.int32),
        )  # there may be a table for each chip

    def distances(self, target: int) -> Ints:
        """Hops from every node to `target`; -1 where there is no way."""
        distance = np.full(len(self.nodes), -1)
        distance[target] = 0
        hops, fresh = 0, np.array([target])
        while len(fresh):
            hops += 1
            _, at = expand(self.in_first, fresh)
            before = self.source[self.in_edges[at]]
            fresh = before[distance[before] < 0]
            distance[fresh] = hops
            fresh = (
                np.unique(fresh)
                if len(fresh) * 32 < len(distance)
                else np.flatnonzero(distance == hops)
            )
            if not self.chips_forward:
                fresh = fresh[fresh >= self.chips]
        return distance

    def name(self, capacity: int) -> str:
        """A capacity in words: '0 → 1', '0 ↔ 1' (half duplex), 'core of leaf 2'."""
        if capacity >= len(self.source):
            return f"core of {self.nodes[int(np.flatnonzero(self.core == capacity)[0])]}"
        a, b = self.nodes[self.source[capacity]], self.nodes[self.target[capacity]]
        half = self.graph.edges[a, b].get("duplex") == "half"
        return f"{a} {'↔' if half else '→'} {b}"

    def find(self, source: Ints, target: Ints) -> Ints:
        """Numbers of the links between nodes; -1 where there is none."""
        key = source * len(self.nodes) + target
        at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        return np.where(self._key[at] == key, at, -1) if len(self._key) else np.full(len(key), -1)

    def edges(self, source: Ints, target: Ints) -> Ints:
        """Numbers of the links between neighbours; ValueError where there is none."""
        at = self.find(source, target)
        if (at < 0).any():
            a, b = int(source[at < 0][0]), int(target[at < 0][0])
            raise ValueError(f"there is no link from {self.nodes[a]} to {self.nodes[b]}")
        return at
