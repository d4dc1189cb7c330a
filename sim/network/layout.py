"""How a group of chips lies in its pod: in which order a ring should visit them, and into which
levels they factor."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import networkx as nx
import numpy as np


def ring_order(graph: nx.DiGraph, chips: Sequence[int]) -> list[int]:
    """Chips of a group in the order a ring should visit them.

    Where the group is a box of a mesh, torus or hypercube: a closed walk along wires (a Gray code
    on a hypercube). A mesh of odd sides has none, there the walk ends far from where it began. In a
    multi-node pod node by node, to and fro, so that the ring changes nodes on a rail. On other
    wires between chips, a closed walk whose slowest wire is as quick as can be, as far as it is
    found. Otherwise as given.
    """
    if "node_chips" in graph.graph:
        by_node: dict[int, list[int]] = {}
        for chip in chips:
            by_node.setdefault(chip // graph.graph["node_chips"], []).append(chip)
        return [
            chip
            for i, some in enumerate(by_node.values())
            for chip in (some[::-1] if i % 2 else some)
        ]
    sizes = _box(graph, sorted(chips))
    if sizes is None:
        return _quickest_walk(graph, chips)
    if sum(size > 1 for size in sizes) < 2:
        return list(chips)
    dims, wraps = graph.graph["dims"], graph.graph["wraps"]
    wide = [axis for axis, size in enumerate(sizes) if size > 1]
    walk = _closed_walk([sizes[a] for a in wide], [wraps and sizes[a] == dims[a] > 2 for a in wide])
    order = np.array(sorted(chips))[walk].tolist()
    start = order.index(chips[0])
    return order[start:] + order[:start]


def layout(graph: nx.DiGraph, chips: Sequence[int]) -> tuple[int, ...]:
    """How a group in its given order factors: the sides of the box it fills, or (nodes or groups of
    chips, chips of each); else (n,).

    Sides of one chip are left out. The order is that of numbering: the last side runs fastest.
    """
    together = graph.graph.get("node_chips") or graph.graph.get("group_chips")
    if together:
        owner = np.array(chips) // together
        owners = len(np.unique(owner))
        if owners and len(chips) % owners == 0:
            rows = owner.reshape(owners, -1)
            if (rows == rows[:, :1]).all() and 1 < owners < len(chips):
                return owners, len(chips) // owners
        return (len(chips),)
    sizes = _box(graph, chips)
    wide = tuple(size for size in sizes or () if size > 1)
    return wide or (len(chips),)


def _box(graph: nx.DiGraph, chips: Sequence[int]) -> tuple[int, ...] | None:
    """The sides of the box of a grid that `chips` fill in numbered order, if they do."""
    if "wraps" not in graph.graph or not chips:
        return None
    at = np.stack(np.unravel_index(np.array(chips), graph.graph["dims"]))
    low, high = at.min(axis=1), at.max(axis=1)
    sizes = tuple(int(size) for size in high - low + 1)
    if prod(sizes) != len(chips):
        return None
    box = np.stack(np.unravel_index(np.arange(len(chips)), sizes)) + low[:, None]
    return sizes if (box == at).all() else None


def _quickest_walk(graph: nx.DiGraph, chips: Sequence[int]) -> list[int]:
    """A closed walk over chips along wires between them, as quick as its slowest; as given where
    that is one, or none is found."""
    mine = set(chips)
    rate = {
        (a, b): min(graph.edges[a, b]["bytes_per_s"], graph.edges[b, a]["bytes_per_s"])
        for a in chips
        for b in graph.successors(a)
        if b in mine and graph.has_edge(b, a)
    }
    given = min((rate.get(pair, 0.0) for pair in zip(chips, (*chips[1:], chips[0]))), default=0.0)
    for least in sorted({*rate.values()}, reverse=True):
        if least <= given:
            break
        near = {a: [b for b in chips if rate.get((a, b), 0.0) >= least] for a in chips}
        if walk := _walk(near, chips[0]):
            return walk
    return list(chips)


def _walk(near: dict[int, list[int]], start: int) -> list[int]:
    """A closed walk over all, each after one that it is `near` to; [] if none is found in time.

    Depth first, to those with the fewest ways on before the others (Warnsdorff).
    """
    if min(map(len, near.values())) < 2:
        return []
    walk, left = [start], {*near} - {start}
    ways = [iter(_narrowest_first(near, start, left))]
    for _ in range(_MOST_STEPS):
        if not ways:
            return []
        if not left and start in near[walk[-1]]:
            return walk
        chip = next(ways[-1], None)
        if chip is None:
            ways.pop()
            left.add(walk.pop())
            continue
        walk.append(chip)
        left.discard(chip)
        ways.append(iter(_narrowest_first(near, chip, left)))
    return []


def _narrowest_first(near: dict[int, list[int]], chip: int, left: set[int]) -> list[int]:
    return sorted(
        (b for b in near[chip] if b in left), key=lambda b: sum(c in left for c in near[b])
    )


_MOST_STEPS = 20_000  # of a search for a closed walk


def _closed_walk(sizes: Sequence[int], closes: Sequence[bool]) -> np.ndarray:
    """Chips of a box along wires and back to the first, where that can be; `closes` tells which
    axes are rings."""
    cells = np.arange(prod(sizes)).reshape(sizes)
    odd = prod(sizes) % 2 == 1
    if odd and not any(closes):
        return _snake(cells)  # as on a chessboard: an odd number of squares has no closed walk
    axis = list(closes).index(True) if odd else 0
    along = np.moveaxis(cells, axis, -1)  # (other axes, this one)
    grid = along.reshape(-1, sizes[axis])[
        _snake(np.arange(along[..., 0].size).reshape(along.shape[:-1]))
    ]
    if not odd and len(grid) % 2:
        grid = grid.T
    # To and fro over all columns but the first, which is the way back.
    return np.concatenate(
        [*(row[1:] if i % 2 == 0 else row[:0:-1] for i, row in enumerate(grid)), grid[::-1, 0]]
    )


def _snake(cells: np.ndarray) -> np.ndarray:
    """All cells, each next to the one before."""
    if cells.ndim < 2:
        return cells
    return np.concatenate(
        [_snake(part) if i % 2 == 0 else _snake(part)[::-1] for i, part in enumerate(cells)]
    )
