"""What a collective library costs before a byte moves: one YAML file each in `sim/catalog/libraries`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from sim.hardware.device import Fact


@dataclass(frozen=True)
class Library:
    """Fixed costs of a communication library (HCCL, NCCL, RCCL, one-shot kernels).

    A collective pays `launch_s` once and `step_s` for each round, beside the wire's own latency and bandwidth.
    `link_efficiency` is the share of the link's peak that a long message reaches.
    """

    name: str
    launch_s: float
    step_s: float = 0.0
    link_efficiency: float = 1.0
    reduce_bytes_per_s: float = inf  # at which what arrives is added to what is there; inf: as it arrives
    algorithms: tuple[
        str, ...
    ] = ()  # plans the library has, of `sim.network.collectives.PLANS`; none named: all of them
    facts: Mapping[str, Fact] = field(default_factory=dict)
