"""An array of pods as frozen data, its peak and its power.

Source: arXiv 2203.11540 and its artifact. Energies are those of its plotting scripts (TSMC 28 nm, 1
GHz).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.systolic.interconnect import NETWORKS, switches

SRAM_JOULES_PER_BYTE = {
    64 << 10: 1.1e-12,
    128 << 10: 1.6e-12,
    256 << 10: 2.7e-12,
    512 << 10: 4.1e-12,
}  # by bank
MAC_JOULES = 0.4e-12  # 8 x 8 bits into 16
SWITCH_WATTS_PER_BYTE = 2.875e-5  # of port width, for each 2 x 2 unit, at 1 GHz

Numbers = np.ndarray | float


class Dataflow(NamedTuple):
    """What each dimension of a product is cut by: "rows", "cols" of the array, or the "partition";
    and by axis (0 is i, 1 is j, 2 is k) what passes by in a tile op, and what its load takes a
    cycle each for."""

    m: str
    n: str
    k: str
    streamed: int
    loaded: int


DATAFLOWS = {
    "weight_stationary": Dataflow("partition", "rows", "cols", streamed=0, loaded=1),
    "output_stationary": Dataflow("rows", "partition", "cols", streamed=1, loaded=0),
    "input_stationary": Dataflow("cols", "rows", "partition", streamed=2, loaded=1),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """`pods` systolic arrays of rows x cols, each with a post-processor and a bank for X, W and P.

    Weight-stationary, rows are the reduction, columns the output channels; X and W are bytes,
    partial sums two bytes. Weights of the next tile load while one is computed.
    """

    rows: int = 32
    cols: int = 32
    pods: int = 256
    network: str = "butterfly_2"
    bank_bytes: int = 256 << 10
    sram_joules_per_byte: float = SRAM_JOULES_PER_BYTE[
        256 << 10
    ]  # the authors keep it where they enlarge the banks
    clock_hz: float = 1e9
    dram_bytes_per_s: float = 1200 * 2.0**30  # the artifact's "1200 GB/s"
    prefetch_rounds: int = 100  # loads are for a round and those behind it, so many in all
    dataflow: str = "weight_stationary"  # see `sim.systolic.tiling`

    def __post_init__(self) -> None:
        for name, least in (
            ("rows", 1),
            ("cols", 1),
            ("pods", 1),
            ("bank_bytes", 1),
            ("prefetch_rounds", 2),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} of a pod array is at least {least}, not {getattr(self, name)}"
                )
        for name in ("sram_joules_per_byte", "clock_hz", "dram_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of a pod array is positive, not {getattr(self, name)}")
        if self.dataflow not in DATAFLOWS:
            raise ValueError(
                f"no dataflow {self.dataflow!r} here; choose one of {', '.join(DATAFLOWS)}"
            )
        if self.network not in NETWORKS:
            raise ValueError(
                f"no network {self.network!r} here; choose one of {', '.join(NETWORKS)}"
            )


def sram_joules_per_byte(bank_bytes: float) -> float:
    """Energy of a byte from a bank of any size: the authors' four sizes, between them a power law,
    beyond the nearest.

    >>> sram_joules_per_byte(256 << 10), sram_joules_per_byte(1 << 20)
    (2.7e-12, 4.1e-12)
    """
    if bank_bytes in SRAM_JOULES_PER_BYTE:
        return SRAM_JOULES_PER_BYTE[int(bank_bytes)]
    sizes, joules = (
        np.log([*values]) for values in (SRAM_JOULES_PER_BYTE, SRAM_JOULES_PER_BYTE.values())
    )
    ends = [*SRAM_JOULES_PER_BYTE.values()]
    return float(np.clip(np.exp(np.interp(np.log(bank_bytes), sizes, joules)), ends[0], ends[-1]))


@dataclass(frozen=True, slots=True)
class Power:
    """Peak power, W: all ports and all cells busy."""

    sram_w: Numbers
    mac_w: Numbers
    network_w: Numbers

    @property
    def total_w(self) -> Numbers:
        """Of the whole array."""
        return self.sram_w + self.mac_w + self.network_w


def peak_power(
    rows: Numbers,
    cols: Numbers,
    pods: Numbers,
    network: str = "butterfly_2",
    sram_joules_per_byte: float = SRAM_JOULES_PER_BYTE[256 << 10],
    clock_hz: float = 1e9,
) -> Power:
    """Power of arrays of any sizes.  Not modelled: DRAM, post-processors, leakage, anything idle.

    A pod moves rows bytes of X, cols of W, and 2 cols of partial sums in and out in every cycle.
    """
    port_bytes = rows + 5 * cols
    return Power(
        pods * port_bytes * sram_joules_per_byte * clock_hz,
        pods * rows * cols * MAC_JOULES * clock_hz,
        SWITCH_WATTS_PER_BYTE * switches(network, pods) * port_bytes,
    )


def power_of(machine: Machine) -> Power:
    """Peak power of a machine."""
    m = machine
    return peak_power(m.rows, m.cols, m.pods, m.network, m.sram_joules_per_byte, m.clock_hz)


def peak_ops_per_s(machine: Machine) -> float:
    """Operations, two a MAC."""
    return 2.0 * machine.rows * machine.cols * machine.pods * machine.clock_hz


def at_power(ops_per_s: float, machine: Machine, power_w: float = 400.0) -> float:
    """Throughput if the machine were scaled to a power: linearly, as the authors do after a
    simulation."""
    return float(ops_per_s * power_w / power_of(machine).total_w)


def most_pods(
    rows: Numbers,
    cols: Numbers,
    power_w: float = 400.0,
    network: str = "butterfly_2",
    sram_joules_per_byte: float = SRAM_JOULES_PER_BYTE[256 << 10],
    clock_hz: float = 1e9,
) -> np.ndarray:
    """The most pods whose peak power is within a budget, at least 1; not only powers of two.
    [shape of rows x cols]"""
    shape = np.broadcast_shapes(np.shape(rows), np.shape(cols))
    few, many = np.ones(shape), np.full(shape, 2.0**24)
    while np.any(many - few > 1):
        middle = np.floor((few + many) / 2)
        fits = (
            peak_power(rows, cols, middle, network, sram_joules_per_byte, clock_hz).total_w
            <= power_w
        )
        few, many = np.where(fits, middle, few), np.where(fits, many, middle)
    return few


def harmonic_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Of throughputs, the mean of their times for equal work."""
    return 1.0 / np.mean(1.0 / np.asarray(values, float), axis=axis)
