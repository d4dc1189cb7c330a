"""The networks between memory banks and pods, each as the links of its routes.

A pod array has seven equal ones (see `sim.systolic.schedule`), all addressed by (bank, pod), also
where pods write. A route is free if each of its links is free or carries the same bank's data
already: multicast costs nothing. Source: arXiv 2203.11540 and its artifact
(github.com/yuezuegu/sosa-compiler). `EXTENSIONS` are ours, by textbook rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isqrt

import numpy as np

# ways that are tried where there are several: as often as the artifact tries to route a Benes
# network
TRIES = 128


@dataclass(frozen=True)
class Network:
    """Banks to pods.  Not modelled: buffers, arbitration; a schedule avoids every conflict.

    One route for each pair, or several ways: then it is the head of the bank and the way, and
    `hops` of way and pod.
    """

    kind: str
    ports: int  # of either side
    latency_cycles: int  # one way
    links: int  # those that two routes can want at once
    writers: int  # pods that can store in one round, at most
    hops: np.ndarray = field(
        repr=False
    )  # [bank or way, pod, stage] of int32: links; no stages, no conflicts
    heads: np.ndarray = field(
        default_factory=lambda: _none(1, 1, 0), repr=False
    )  # [bank, way, stage] of int32: links
    order: np.ndarray = field(
        default_factory=lambda: _none(1, 1), repr=False
    )  # [bank, try]: ways; one try, one way

    def route(self, bank: int, pod: int, way: int = 0) -> tuple[int, ...]:
        """The links from a bank to a pod, in order."""
        if self.order.shape[1] < 2:
            return tuple(self.hops[bank, pod].tolist())
        return (*self.heads[bank, way].tolist(), *self.hops[way, pod].tolist())


def butterfly(ports: int, expansion: int = 2, *, exact: bool = False) -> Network:
    """A banyan of expansion x ports, rounded up to a power of two, of which `ports` sources and
    targets are used.

    2 x 2 switches, steered by the target's bits from the highest down, after a perfect shuffle of
    the sources; between stages a butterfly of half the block. What is left of a source after s
    stages are its lowest bits, so a link is (target's first bits, source's last bits). `exact`
    keeps the artifact's latency, which counts the stages added by the expansion twice.
    """
    extra = max(expansion, 1).bit_length() - 1
    if expansion != 1 << extra:
        raise ValueError(f"the expansion of a butterfly is a power of 2, not {expansion}")
    bits = _bits(ports) + extra
    bank, pod, stage = np.ogrid[:ports, :ports, :bits]
    left = bits - 1 - stage  # bits of the source that count behind this stage
    link = (pod << extra >> left << left) | (bank & ((1 << left) - 1))
    return Network(
        f"butterfly_{expansion}",
        ports,
        bits + extra if exact else bits,
        bits << bits,
        ports,
        ((stage << bits) | link).astype(np.int32),
    )


def crossbar(ports: int, *, exact: bool = False) -> Network:
    """Every bank to every pod."""
    return Network("crossbar", ports, 1, 0, ports, _no_hops(ports))


def benes_copy(ports: int, *, exact: bool = False) -> Network:
    """A Benes network with a copy network before it: two butterflies each, taken to find a way for
    anything."""
    return Network("benes_copy", ports, max(4 * _bits(ports) - 1, 1), 0, ports, _no_hops(ports))


def benes(ports: int, *, exact: bool = False) -> Network:
    """A Benes network without copies before it: 2 log2 N - 1 stages, of which the first log2 N - 1
    choose a way.

    INFER: the artifact draws 128 settings at random until one serves a round; here up to 128 ways
    are tried for each route, in an order drawn once. Behind s stages of the head a link is (way's
    first bits, bank's other bits), before the tail's last s stages (way's first bits, pod's first
    bits).
    """
    bits = _whole_bits("benes", ports)
    if bits < 2:
        return Network("benes", ports, max(2 * bits - 1, 1), 0, ports, _no_hops(ports))
    choices = bits - 1
    bank, way, stage = np.ogrid[:ports, : 1 << choices, :choices]
    made = stage + 1  # choices so far
    head = (way >> (choices - made) << (bits - made)) | (bank >> made)
    row, pod, stage = np.ogrid[: 1 << choices, :ports, :bits]
    left = choices - stage  # choices that still tell links apart
    tail = (row >> stage << (bits - left)) | (pod >> left)
    tries = min(TRIES, 1 << choices)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(1 << choices), (ports, 1)), axis=1)[
        :, :tries
    ]
    return Network(
        "benes",
        ports,
        2 * bits - 1,
        (2 * bits - 1) * ports,
        ports,
        ((choices + stage) * ports + tail).astype(np.int32),
        (np.arange(choices) * ports + head).astype(np.int32),
        order.astype(np.int32),
    )


def mesh(ports: int, *, exact: bool = False) -> Network:
    """INFER, ours: a bank and a pod at each node of a grid as square as it gets, X before Y, a link
    each way."""
    wide = isqrt(ports - 1) + 1
    high = -(-ports // wide)
    stages = wide + high - 1
    hops = np.empty((ports, ports, stages), np.int32)
    hops[:] = np.arange(ports)[
        :, None, None
    ]  # the link from the bank into the grid; also what fills short routes
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
    return Network("mesh", ports, stages, ports + 4 * nodes, ports, hops)


def fat_tree(ports: int, *, exact: bool = False) -> Network:
    """INFER, ours: a binary tree whose edges have as many lanes as leaves below; a bank keeps to
    its own.

    Upwards nothing can meet then. Downwards it does where banks with equal last bits go below the
    same edge.
    """
    bits = _whole_bits("fat_tree", ports)
    bank, pod, stage = np.ogrid[:ports, :ports, :bits]
    below = bits - 1 - stage  # the edge's leaves are 2 ** below
    link = ports + stage * ports + ((pod >> below << below) | (bank & ((1 << below) - 1)))
    crossed = (bank ^ pod) >> below > 0  # else the route turns below this edge
    return Network(
        "fat_tree",
        ports,
        max(2 * bits, 1),
        (bits + 1) * ports,
        ports,
        np.where(crossed, link, bank).astype(np.int32),
    )


def h_tree(ports: int, *, exact: bool = False) -> Network:
    """INFER, ours: a binary tree with one link each way on every edge; a route turns at the first
    common node."""
    bits = _whole_bits("h_tree", ports)
    bank, pod, stage = np.ogrid[:ports, :ports, : 2 * bits]
    up = stage < bits
    level = np.where(up, stage, 2 * bits - 1 - stage)  # of the edge's lower end
    link = ports + (level + bits * ~up) * ports + (np.where(up, bank, pod) >> level)
    crossed = (bank ^ pod) >> level > 0
    return Network(
        "h_tree",
        ports,
        max(2 * bits, 1),
        (2 * bits + 1) * ports,
        ports,
        np.where(crossed, link, bank).astype(np.int32),
    )


def bus(ports: int, *, exact: bool = False) -> Network:
    """One bank speaks in a round, to all."""
    return Network("bus", ports, 1, 1, 1, np.zeros((ports, ports, 1), np.int32))


NETWORKS: dict[str, Callable[..., Network]] = {
    "butterfly_1": partial(butterfly, expansion=1),
    "butterfly_2": partial(butterfly, expansion=2),
    "butterfly_4": partial(butterfly, expansion=4),
    "butterfly_8": partial(butterfly, expansion=8),
    "crossbar": crossbar,
    "benes_copy": benes_copy,
    "benes": benes,
    "bus": bus,
    "mesh": mesh,
    "fat_tree": fat_tree,
    "h_tree": h_tree,
}
EXTENSIONS = ("mesh", "fat_tree", "h_tree")  # not SOSA's


def network(kind: str, ports: int, *, exact: bool = False) -> Network:
    """The network `kind` for so many pods; ValueError if there is none, or not for so many."""
    if kind not in NETWORKS:
        raise ValueError(f"no network {kind!r} here; choose one of {', '.join(NETWORKS)}")
    if ports < 1:
        raise ValueError(f"a network has at least 1 port, not {ports}")
    return NETWORKS[kind](ports, exact=exact)


def switches(kind: str, ports: np.ndarray | float) -> np.ndarray | float:
    """2 x 2 units that the power of a network is counted in; `ports` may be an array.

    The authors count a crosspoint of a crossbar as one; so do we the 5 x 5 of a mesh's router, the
    3 x 3 of a tree's.
    """
    if kind == "crossbar":
        return ports * ports
    if kind == "bus":
        return np.ones_like(ports, float)
    if kind == "mesh":
        return 25.0 * ports
    if kind == "h_tree":
        return 9.0 * (ports - 1)
    times = _BY_LOGARITHM[kind] if kind in _BY_LOGARITHM else int(kind.removeprefix("butterfly_"))
    return times * ports * np.log2(ports)


_BY_LOGARITHM = {"benes_copy": 4, "benes": 2, "fat_tree": 2}


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


def _no_hops(ports: int) -> np.ndarray:
    return _none(ports, ports, 0)


def _none(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)
