"""What a collective library costs before a byte moves: one YAML file each in
`sim/catalog/libraries`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from sim.hardware.device import Fact


class Way(NamedTuple):
    """One way of a library to do a collective: an algorithm, driven by a protocol with costs of its
    own.

    A collective pays `launch_s` once and `step_s` for each round, beside the wire's own latency;
    `link_efficiency` is the share of what crosses a link that is payload (NCCL's LL sends a flag
    with every word; no protocol keeps a link busy all the time).
    """

    collectives: tuple[str, ...]
    algorithm: str
    protocol: str
    launch_s: float
    step_s: float
    link_efficiency: float
    most_bytes: float = inf  # a larger buffer goes another way

    def timed(self, times: float) -> Way:
        """The same, so many times longer."""
        return self._replace(
            launch_s=self.launch_s * times,
            step_s=self.step_s * times,
            link_efficiency=min(self.link_efficiency / times, 1.0),
        )


@dataclass(frozen=True)
class Library:
    """Fixed costs of a communication library (HCCL, NCCL, RCCL, one-shot kernels).

    `ways` are those that were measured, and a collective takes the one that promises to be
    quickest, as the library's own tuner does. A collective without any takes the quickest of
    `algorithms` (none named: of all) at `launch_s`, `step_s` and `link_efficiency`.
    """

    name: str
    launch_s: float
    step_s: float = 0.0
    link_efficiency: float = 1.0
    times: float = 1.0  # how many times longer its collectives take than the rest says
    # at which what arrives is added to what is there; inf: as it arrives
    reduce_bytes_per_s: float = inf
    algorithms: tuple[str, ...] = ()  # by name, of `sim.network.collectives.COLLECTIVES`
    ways: tuple[Way, ...] = ()
    # that drives groups within one node, where this one was measured across nodes
    within_node: Library | None = None
    measured_on: tuple[str, ...] = ()  # devices; none: nowhere, or not told
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def timed(self) -> Library:
        """The same with its numbers as `times` makes them."""
        if self.times == 1.0:
            return self
        base = self.way("").timed(self.times)
        return replace(
            self,
            launch_s=base.launch_s,
            step_s=base.step_s,
            link_efficiency=base.link_efficiency,
            ways=tuple(way.timed(self.times) for way in self.ways),
        )

    @property
    def best_link_efficiency(self) -> float:
        """Of all its ways."""
        return max([self.link_efficiency, *(way.link_efficiency for way in self.ways)])

    def way(self, algorithm: str) -> Way:
        """An algorithm without a protocol of its own."""
        return Way(
            collectives=(),
            algorithm=algorithm,
            protocol="",
            launch_s=self.launch_s,
            step_s=self.step_s,
            link_efficiency=self.link_efficiency,
        )
