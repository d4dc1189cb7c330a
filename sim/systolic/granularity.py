"""The size of an array as a closed form: many small ones or few large ones for the same power?

Tiles without a schedule: all that fit run at once, and a tile takes as long as its weights take to
load. Source: the artifact of arXiv 2203.11540, `run_design_space`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sim.dnn.gemms import Dnn
from sim.systolic.interconnect import Numbers
from sim.systolic.power import PAPER, Budget, most_pods, peak_power


def ops_per_joule(dnn: Dnn, rows: Numbers, cols: Numbers, budget: Budget = PAPER) -> np.ndarray:
    """Effective operations a joule, with all pods that the power allows.  [shape of rows x cols]"""
    pods = most_pods(rows, cols, budget)
    cycles = np.zeros(np.shape(pods))
    shapes = Counter((layer.m, layer.n, layer.k) for layer in dnn.layers)
    for (m, n, k), times in shapes.items():
        tiles = np.ceil(m / rows) * np.ceil(n / rows) * np.ceil(k / cols)
        cycles += times * np.ceil(tiles / pods) * rows
    power_w = peak_power(rows, cols, pods, budget).total_w
    return dnn.ops / (dnn.repeats * cycles) * budget.clock_hz / power_w


def mean_of_means(
    families: Sequence[Sequence[Dnn]], rows: Numbers, cols: Numbers, budget: Budget = PAPER
) -> np.ndarray:
    """Harmonic mean over DNNs of the harmonic mean over the sizes of each."""
    inverse = [
        np.mean([1 / ops_per_joule(dnn, rows, cols, budget) for dnn in sizes], axis=0)
        for sizes in families
    ]
    return 1 / np.mean(inverse, axis=0)
