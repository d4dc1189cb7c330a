"""The size of an array as a closed form: many small ones or few large ones for the same power?

Tiles without a schedule: all that fit run at once, and a tile takes as long as its weights take to load. Source: the
artifact of arXiv 2203.11540, `run_design_space`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sim.systolic.machine import SRAM_JOULES_PER_BYTE, Numbers, most_pods, peak_power
from sim.workload.gemms import Dnn

PAPER = (400.0, "butterfly_2", SRAM_JOULES_PER_BYTE[256 << 10], 1e9)


def ops_per_joule(
    dnn: Dnn,
    rows: Numbers,
    cols: Numbers,
    power_w: float = PAPER[0],
    network: str = PAPER[1],
    sram_joules_per_byte: float = PAPER[2],
    clock_hz: float = PAPER[3],
) -> np.ndarray:
    """Effective operations a second and watt, with all pods that the power allows.  [shape of rows x cols]"""
    machine = network, sram_joules_per_byte, clock_hz
    pods = most_pods(rows, cols, power_w, *machine)
    cycles = np.zeros(np.shape(pods))
    shapes = Counter((layer.m, layer.n, layer.k) for layer in dnn.layers)
    for (m, n, k), times in shapes.items():
        tiles = np.ceil(m / rows) * np.ceil(n / rows) * np.ceil(k / cols)
        cycles += times * np.ceil(tiles / pods) * rows
    return dnn.ops / (dnn.repeats * cycles) * clock_hz / peak_power(rows, cols, pods, *machine).total_w


def mean_of_means(
    families: Sequence[Sequence[Dnn]],
    rows: Numbers,
    cols: Numbers,
    power_w: float = PAPER[0],
    network: str = PAPER[1],
    sram_joules_per_byte: float = PAPER[2],
    clock_hz: float = PAPER[3],
) -> np.ndarray:
    """Harmonic mean over networks of the harmonic mean over the sizes of each."""
    given = rows, cols, power_w, network, sram_joules_per_byte, clock_hz
    return 1 / np.mean(
        [np.mean([1 / ops_per_joule(dnn, *given) for dnn in sizes], axis=0) for sizes in families], axis=0
    )
