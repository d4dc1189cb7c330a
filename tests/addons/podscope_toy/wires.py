"""Rows of the network: a shape, and an algorithm of a collective."""

from __future__ import annotations

from typing import Any

import networkx as nx

from sim.network import plans
from sim.network.collectives import Algorithm
from sim.network.topology import WHOLE, Shape


def cycle(chips: int, chords: int = 1, **link: Any) -> nx.DiGraph:
    """Chips around a table, each wired to so many on either side."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(chips))
    for far in range(1, chords + 1):
        for chip in range(chips):
            graph.add_edge(chip, (chip + far) % chips, **link)
            graph.add_edge((chip + far) % chips, chip, **link)
    return graph


CYCLE = Shape(
    cycle,
    {"chips": WHOLE, "chords": WHOLE},
    lambda given: (given["chips"], 2 * given["chips"] * given["chords"]),
    starts=lambda dims, chips: [(0, 1.0)],
    drawn="circle",
)


def gather_and_add(who: plans.Members, nbytes: float) -> plans.Plan:
    """Every rank gathers the whole buffers of all, and adds them itself."""
    return plans.ring_all_gather(who, nbytes * len(who.ranks))


GATHER_AND_ADD = Algorithm(gather_and_add)
TABLE_OF_SIX = """\
name: a table of six
shape: cycle
chips: 6
chords: 2
device: toy_chip
library: none
link: {bytes_per_s: 10 GB/s, latency_s: 1 us, tag: INFER, source: a round number}
"""
