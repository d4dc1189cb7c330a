"""The interconnects between memory banks and pods, each as the links of its routes.

A pod array has seven equal ones (see `sim.systolic.schedule`), all addressed by (bank, pod), also
where pods write. A route is free if each of its links is free or carries the same bank's data
already: multicast costs nothing. Source: arXiv 2203.11540 and its artifact
(github.com/yuezuegu/sosa-compiler). Rows that say `ours` are by textbook rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from sim.text.pick import pick

# ways that are tried where there are several: as often as the artifact tries to route a Benes
# network
TRIES = 128
Numbers = np.ndarray | float


@dataclass(frozen=True)
class Routes:
    """From banks to pods.  Not modelled: buffers, arbitration; a schedule avoids every conflict.

    One route for each pair, or several ways: then it is the head of the bank and the way, and
    `hops` of way and pod.
    """

    ports: int  # of either side
    latency_cycles: int  # one way
    links: int  # those that two routes can want at once
    writers: int  # pods that can store in one round, at most
    # [bank or way, pod, stage] of int32: links; no stages, no conflicts
    hops: np.ndarray = field(repr=False)
    # [bank, way, stage] of int32: links
    heads: np.ndarray = field(default_factory=lambda: _none(1, 1, 0), repr=False)
    # [bank, try]: ways; one try, one way
    order: np.ndarray = field(default_factory=lambda: _none(1, 1), repr=False)
    recounted_cycles: int = 0  # of the latency, what the artifact counts twice


def butterfly(ports: int, expansion: int = 2) -> Routes:
    """A banyan of expansion x ports, rounded up to a power of two; `ports` of each side are used.

    2 x 2 switches, steered by the target's bits from the highest down, after a perfect shuffle of
    the sources; between stages a butterfly of half the block. What is left of a source after s
    stages are its lowest bits, so a link is (target's first bits, source's last bits). The artifact
    counts the stages that the expansion adds twice.
    """
    extra = max(expansion, 1).bit_length() - 1
    if expansion != 1 << extra:
        raise ValueError(f"the expansion of a butterfly is a power of 2, not {expansion}")
    bits = _bits(ports) + extra
    bank, pod, stage = np.ogrid[:ports, :ports, :bits]
    left = bits - 1 - stage  # bits of the source that count behind this stage
    link = (pod << extra >> left << left) | (bank & ((1 << left) - 1))
    return _routes(bits, bits << bits, (stage << bits) | link, recounted_cycles=extra)


def crossbar(ports: int) -> Routes:
    """Every bank to every pod."""
    return _routes(1, 0, _none(ports, ports, 0))


def benes_copy(ports: int) -> Routes:
    """A Benes network behind a copy network, two butterflies each: there is a way for anything."""
    return _routes(max(4 * _bits(ports) - 1, 1), 0, _none(ports, ports, 0))


def benes(ports: int) -> Routes:
    """A Benes network: 2 log2 N - 1 stages, of which the first log2 N - 1 choose a way.

    INFER: the artifact draws 128 settings at random until one serves a round; here up to 128 ways
    are tried for each route, in an order drawn once. Behind s stages of the head a link is (way's
    first bits, bank's other bits), before the tail's last s stages (way's first bits, pod's first
    bits).
    """
    bits = _whole_bits("benes", ports)
    if bits < 2:
        return _routes(max(2 * bits - 1, 1), 0, _none(ports, ports, 0))
    choices = bits - 1
    bank, way, stage = np.ogrid[:ports, : 1 << choices, :choices]
    made = stage + 1  # choices so far
    head = (way >> (choices - made) << (bits - made)) | (bank >> made)
    row, pod, stage = np.ogrid[: 1 << choices, :ports, :bits]
    left = choices - stage  # choices that still tell links apart
    tail = (row >> stage << (bits - left)) | (pod >> left)
    ways = np.tile(np.arange(1 << choices), (ports, 1))
    order = np.random.default_rng(0).permuted(ways, axis=1)[:, : min(TRIES, 1 << choices)]
    return _routes(
        2 * bits - 1,
        (2 * bits - 1) * ports,
        (choices + stage) * ports + tail,
        heads=(np.arange(choices) * ports + head).astype(np.int32),
        order=order.astype(np.int32),
    )


def mesh(ports: int) -> Routes:
    """INFER, ours: a bank and a pod a node of a near-square grid, X before Y, a link each way."""
    wide = isqrt(ports - 1) + 1
    high = -(-ports // wide)
    stages = wide + high - 1
    hops = np.empty((ports, ports, stages), np.int32)
    # the link from the bank into the grid; also what fills short routes
    hops[:] = np.arange(ports)[:, None, None]
    y0, x0, y1, x1 = (
        each[:, None, None] if number < 2 else each[None, :, None]
        for number, each in enumerate(2 * divmod(np.arange(ports), wide))
    )
    step = np.arange(1, stages)[None, None, :]
    across, down = np.abs(x1 - x0), np.abs(y1 - y0)
    x = x0 + np.sign(x1 - x0) * (step - 1)  # of the node before the step
    y = y0 + np.sign(y1 - y0) * (step - 1 - across)
    nodes = high * wide
    on_x = ports + (y0 * wide + x) + nodes * (x1 < x0)
    on_y = ports + (y * wide + x1) + nodes * (2 + (y1 < y0))
    hops[:, :, 1:] = np.where(
        step <= across, on_x, np.where(step <= across + down, on_y, hops[:, :, :1])
    )
    return _routes(stages, ports + 4 * nodes, hops)


def fat_tree(ports: int) -> Routes:
    """INFER, ours: a binary tree with as many lanes on an edge as leaves below it.

    A bank keeps to its own lane, so upwards nothing can meet. Downwards it does where banks with
    equal last bits go below the same edge.
    """
    bits = _whole_bits("fat_tree", ports)
    bank, pod, stage = np.ogrid[:ports, :ports, :bits]
    below = bits - 1 - stage  # the edge's leaves are 2 ** below
    link = ports + stage * ports + ((pod >> below << below) | (bank & ((1 << below) - 1)))
    crossed = (bank ^ pod) >> below > 0  # else the route turns below this edge
    return _routes(max(2 * bits, 1), (bits + 1) * ports, np.where(crossed, link, bank))


def h_tree(ports: int) -> Routes:
    """INFER, ours: a binary tree, edges a link each way; a route turns at the first common node."""
    bits = _whole_bits("h_tree", ports)
    bank, pod, stage = np.ogrid[:ports, :ports, : 2 * bits]
    up = stage < bits
    level = np.where(up, stage, 2 * bits - 1 - stage)  # of the edge's lower end
    link = ports + (level + bits * ~up) * ports + (np.where(up, bank, pod) >> level)
    crossed = (bank ^ pod) >> level > 0
    return _routes(max(2 * bits, 1), (2 * bits + 1) * ports, np.where(crossed, link, bank))


def bus(ports: int) -> Routes:
    """One bank speaks in a round, to all."""
    return _routes(1, 1, _none(ports, ports, 1), writers=1)


class Interconnect(NamedTuple):
    """All that is known of a way to join banks and pods.

    `switches` are the 2 x 2 units that its power is counted in, by number of ports. The authors
    count a crosspoint of a crossbar as one; so do we the 5 x 5 of a mesh's router, the 3 x 3 of a
    tree's.
    """

    name: str
    build: Callable[[int], Routes]  # for so many ports; ValueError if it joins others only
    switches: Callable[[Numbers], Numbers]
    free: bool = False  # of conflicts: one schedule fits all that are
    tries: int = 1  # ways that are tried for a route, at most
    ours: bool = False  # an extension of SOSA's


def _by_logarithm(times: int, ports: Numbers) -> Numbers:
    return times * ports * np.log2(ports)


INTERCONNECTS = {
    row.name: row
    for row in (
        *(
            Interconnect(
                f"butterfly_{expansion}",
                partial(butterfly, expansion=expansion),
                partial(_by_logarithm, expansion),
            )
            for expansion in (1, 2, 4, 8)
        ),
        Interconnect("crossbar", crossbar, lambda ports: ports * ports, free=True),
        Interconnect("benes_copy", benes_copy, partial(_by_logarithm, 4), free=True),
        Interconnect("benes", benes, partial(_by_logarithm, 2), tries=TRIES),
        Interconnect("bus", bus, lambda ports: np.ones_like(ports, float)),
        Interconnect("mesh", mesh, lambda ports: 25.0 * ports, ours=True),
        Interconnect("fat_tree", fat_tree, partial(_by_logarithm, 2), ours=True),
        Interconnect("h_tree", h_tree, lambda ports: 9.0 * (ports - 1), ours=True),
    )
}


def interconnect(name: str, ports: int) -> Routes:
    """The routes of the interconnect `name` for so many pods; ValueError if it cannot join them."""
    if ports < 1:
        raise ValueError(f"an interconnect has at least 1 port, not {ports}")
    return pick(INTERCONNECTS, name, "interconnect").build(ports)


def _whole_bits(kind: str, ports: int) -> int:
    """Of a number that has to be a power of two."""
    if ports != 1 << _bits(ports):
        raise ValueError(
            f"a {kind} joins a power of 2 of pods: {1 << _bits(ports) - 1} or {1 << _bits(ports)}, "
            f"not {ports}"
        )
    return _bits(ports)


def _bits(ports: int) -> int:
    return (ports - 1).bit_length()


def _routes(
    latency_cycles: int, links: int, hops: np.ndarray, writers: int | None = None, **more: Any
) -> Routes:
    """Routes to as many pods as `hops` has; by default all can store at once."""
    return Routes(
        ports=hops.shape[1],
        latency_cycles=max(latency_cycles, 1),
        links=links,
        writers=hops.shape[1] if writers is None else writers,
        hops=hops.astype(np.int32, copy=False),
        **more,
    )


def _none(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)
