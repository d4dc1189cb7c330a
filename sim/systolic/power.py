"""Peak power of pods, and how many of them a budget allows.

Source: arXiv 2203.11540 and its artifact. Energies are those of its plotting scripts (TSMC 28 nm, 1
GHz).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.systolic.interconnect import INTERCONNECTS, Numbers

SRAM_JOULES_PER_BYTE = {
    64 << 10: 1.1e-12,
    128 << 10: 1.6e-12,
    256 << 10: 2.7e-12,
    512 << 10: 4.1e-12,
}  # by bank
MAC_JOULES = 0.4e-12  # 8 x 8 bits into 16
SWITCH_WATTS_PER_BYTE = 2.875e-5  # of port width, for each 2 x 2 unit, at 1 GHz


class Budget(NamedTuple):
    """What pods may draw in all, and what decides how much one draws; by default the paper's."""

    power_w: float = 400.0
    interconnect: str = "butterfly_2"
    sram_joules_per_byte: float = SRAM_JOULES_PER_BYTE[256 << 10]
    clock_hz: float = 1e9


PAPER = Budget()


@dataclass(frozen=True, slots=True)
class Power:
    """Peak power, W: all ports and all cells busy."""

    sram_w: Numbers
    mac_w: Numbers
    interconnect_w: Numbers

    @property
    def total_w(self) -> Numbers:
        """Of the whole array."""
        return self.sram_w + self.mac_w + self.interconnect_w


def peak_power(rows: Numbers, cols: Numbers, pods: Numbers, budget: Budget = PAPER) -> Power:
    """Power of arrays of any sizes.  Not modelled: DRAM, post-processors, leakage, anything idle.

    A pod moves rows bytes of X, cols of W, and 2 cols of partial sums in and out in every cycle.
    """
    port_bytes = rows + 5 * cols
    switches = INTERCONNECTS[budget.interconnect].switches(pods)
    return Power(
        pods * port_bytes * budget.sram_joules_per_byte * budget.clock_hz,
        pods * rows * cols * MAC_JOULES * budget.clock_hz,
        SWITCH_WATTS_PER_BYTE * switches * port_bytes,
    )


def most_pods(rows: Numbers, cols: Numbers, budget: Budget = PAPER) -> np.ndarray:
    """The most pods within a budget, at least 1; any number.  [shape of rows x cols]"""
    shape = np.broadcast_shapes(np.shape(rows), np.shape(cols))
    few, many = np.ones(shape), np.full(shape, 2.0**24)
    while np.any(many - few > 1):
        middle = np.floor((few + many) / 2)
        fits = peak_power(rows, cols, middle, budget).total_w <= budget.power_w
        few, many = np.where(fits, middle, few), np.where(fits, many, middle)
    return few


def sram_joules_per_byte(bank_bytes: float) -> float:
    """Energy of a byte from a bank of any size: a power law between the authors' four sizes.

    Beyond them it is that of the nearest.

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
