"""The networks between memory banks and pods, each as the links of its routes.

A pod array has seven equal ones (see `sim.systolic.schedule`), all addressed by (bank, pod), also where pods write. A
route is free if each of its links is free or carries the same bank's data already: multicast costs nothing. Source:
arXiv 2203.11540 and its artifact (github.com/yuezuegu/sosa-compiler).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np


@dataclass(frozen=True)
class Network:
    """Banks to pods, one route for each pair.  Not modelled: buffers, arbitration; a schedule avoids every conflict."""

    kind: str
    ports: int  # of either side
    latency_cycles: int  # one way
    links: int  # those that two routes can want at once
    writers: int  # pods that can store in one round, at most
    hops: np.ndarray = field(repr=False)  # [bank, pod, stage] of int32: links of the route; no stages, no conflicts

    def route(self, bank: int, pod: int) -> tuple[int, ...]:
        """The links from a bank to a pod, in order."""
        return tuple(self.hops[bank, pod].tolist())


def butterfly(ports: int, expansion: int = 2, *, exact: bool = False) -> Network:
    """A banyan of expansion x ports, rounded up to a power of two, of which `ports` sources and targets are used.

    2 x 2 switches, steered by the target's bits from the highest down, after a perfect shuffle of the sources; between
    stages a butterfly of half the block. What is left of a source after s stages are its lowest bits, so a link is
    (target's first bits, source's last bits). `exact` keeps the artifact's latency, which counts the stages added by
    the expansion twice.
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
    """A Benes network with a copy network before it: two butterflies each, taken to find a way for anything."""
    return Network("benes_copy", ports, max(4 * _bits(ports) - 1, 1), 0, ports, _no_hops(ports))


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
    "bus": bus,
}


def network(kind: str, ports: int, *, exact: bool = False) -> Network:
    """The network `kind` for so many pods; ValueError if there is none.

    Not yet: a Benes network without copies, which the authors route by 128 random trials of a looping algorithm.
    """
    if kind not in NETWORKS:
        raise ValueError(f"no network {kind!r} here; choose one of {', '.join(NETWORKS)}")
    if ports < 1:
        raise ValueError(f"a network has at least 1 port, not {ports}")
    return NETWORKS[kind](ports, exact=exact)


def switches(kind: str, ports: np.ndarray | float) -> np.ndarray | float:
    """2 x 2 units that the power of a network is counted in; `ports` may be an array."""
    if kind == "crossbar":
        return ports * ports
    if kind == "bus":
        return np.ones_like(ports, float)
    times = 4 if kind == "benes_copy" else int(kind.removeprefix("butterfly_"))
    return times * ports * np.log2(ports)


def _bits(ports: int) -> int:
    return (ports - 1).bit_length()


def _no_hops(ports: int) -> np.ndarray:
    return np.zeros((ports, ports, 0), np.int32)
