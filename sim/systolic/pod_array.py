"""An array of pods as frozen data, and what follows from its numbers alone.

Source: arXiv 2203.11540 and its artifact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import INTERCONNECTS
from sim.systolic.power import PAPER, Budget, Power, peak_power
from sim.text.pick import pick


@dataclass(frozen=True, slots=True)
class PodArray:
    """`pods` systolic arrays of rows x cols, each with a post-processor and a bank for X, W and P.

    Weight-stationary, rows are the reduction, columns the output channels; X and W are bytes,
    partial sums two bytes. Weights of the next tile load while one is computed.
    """

    rows: int = 32
    cols: int = 32
    pods: int = 256
    interconnect: str = PAPER.interconnect
    bank_bytes: int = 256 << 10
    # the authors keep it where they enlarge the banks
    sram_joules_per_byte: float = PAPER.sram_joules_per_byte
    clock_hz: float = PAPER.clock_hz
    dram_bytes_per_s: float = 1200 * 2.0**30  # the artifact's "1200 GB/s"
    prefetch_rounds: int = 100  # loads are for a round and those behind it, so many in all
    dataflow: str = "weight_stationary"

    def __post_init__(self) -> None:
        least = {"rows": 1, "cols": 1, "pods": 1, "bank_bytes": 1, "prefetch_rounds": 2}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(
                    f"{name} of a pod array is at least {lowest}, not {getattr(self, name)}"
                )
        for name in ("sram_joules_per_byte", "clock_hz", "dram_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of a pod array is positive, not {getattr(self, name)}")
        pick(DATAFLOWS, self.dataflow, "dataflow")
        pick(INTERCONNECTS, self.interconnect, "interconnect")

    @property
    def power(self) -> Power:
        """At its peak."""
        of_a_pod = Budget(
            interconnect=self.interconnect,
            sram_joules_per_byte=self.sram_joules_per_byte,
            clock_hz=self.clock_hz,
        )
        return peak_power(self.rows, self.cols, self.pods, of_a_pod)

    @property
    def peak_ops_per_s(self) -> float:
        """Operations, two a MAC."""
        return 2.0 * self.rows * self.cols * self.pods * self.clock_hz

    def at_power(self, ops_per_s: float, power_w: float = PAPER.power_w) -> float:
        """Throughput if scaled to a power: linearly, as the authors do after a simulation."""
        return float(ops_per_s * power_w / self.power.total_w)

    def part(self, pods: int) -> PodArray:
        """So many of its pods with an interconnect of their own, and as much of the bandwidth."""
        if pods == self.pods:
            return self
        return replace(self, pods=pods, dram_bytes_per_s=self.dram_bytes_per_s * pods / self.pods)


def harmonic_mean(values: np.ndarray) -> np.ndarray:
    """Of throughputs, the mean of their times for equal work."""
    return 1.0 / np.mean(1.0 / np.asarray(values, float), axis=0)
