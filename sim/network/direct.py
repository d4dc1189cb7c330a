"""Direct networks: chips wired to each other, one function per shape.  `sim.network.topology`
registers them.

Chips pass on messages for each other. A chip's node attribute `at` is its place in the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import networkx as nx
import numpy as np


def full_mesh(devices: int, **link: Any) -> nx.DiGraph:
    """Every chip wired to every other (HCCS)."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(devices))
    graph.add_edges_from(((a, b) for a in range(devices) for b in range(devices) if a != b), **link)
    return graph


def ring(devices: int, **link: Any) -> nx.DiGraph:
    """Each chip wired to the next and the previous; two chips share one wire, both ways."""
    return torus((devices,), **link)


def mesh(dims: Sequence[int], **link: Any) -> nx.DiGraph:
    """A grid without wrap-around.  Chips are numbered row by row: the last axis of `dims` runs
    fastest."""
    return _grid(tuple(dims), False, **link)


def torus(dims: Sequence[int], **link: Any) -> nx.DiGraph:
    """A grid whose every axis closes to a ring; an axis of 2 has one wire, not two.  Numbered as a
    mesh is."""
    return _grid(tuple(dims), True, **link)


def hypercube(dimensions: int, **link: Any) -> nx.DiGraph:
    """2**dimensions chips, wired where their numbers differ in one bit."""
    return torus((2,) * dimensions, **link)


def star(devices: int, **link: Any) -> nx.DiGraph:
    """Chip 0 in the middle (the cloud), the others wired to it alone (the edges)."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(devices))
    graph.add_edges_from(((0, chip) for chip in range(1, devices)), **link)
    graph.add_edges_from(((chip, 0) for chip in range(1, devices)), **link)
    return graph


def _grid(dims: tuple[int, ...], wraps: bool, **link: Any) -> nx.DiGraph:
    graph = nx.DiGraph(dims=dims, wraps=wraps)
    count = prod(dims)
    graph.add_nodes_from((i, {"at": at}) for i, at in enumerate(np.ndindex(dims)))
    chips = np.arange(count).reshape(dims)
    for axis, size in enumerate(dims):
        ahead = np.roll(chips, -1, axis)
        if size <= 2 or not wraps:  # no way round: the last row has nothing ahead
            kept = [slice(None)] * len(dims)
            kept[axis] = slice(size - 1)
            a, b = chips[tuple(kept)].ravel().tolist(), ahead[tuple(kept)].ravel().tolist()
        else:
            a, b = chips.ravel().tolist(), ahead.ravel().tolist()
        graph.add_edges_from(zip(a, b), **link)
        graph.add_edges_from(zip(b, a), **link)
    return graph
