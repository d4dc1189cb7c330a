"""A lookup table of layers: each size run by the array simulator, the nearest one taken.

It knows fill, loading and memory, and has no gradient in channels. Activations stay in the banks:
of a layer within a network only weights come from memory. Source: U-Boost NAS (arXiv 2203.12412),
its blackbox baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.dnn.gemms import Dnn, GemmLayer
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate
from sim.systolic.utilisation import LAYERS, Layer
from sim.text.pick import pick

# the paper's array: 3 banks of 5 MiB, and its "80 GB/s", which the artifact counts in GiB
ONE_ARRAY = PodArray(128, 128, 1, "crossbar", bank_bytes=5 << 20, dram_bytes_per_s=80 * 2.0**30)
CHANNELS = tuple(range(16, 257, 16))  # of the paper's table


class Simulated(NamedTuple):
    """A layer alone on an array."""

    cycles: int
    utilisation: float  # multiply-accumulates over cells and cycles


def network_of(*layers: Layer) -> Dnn:
    """Layers one after the other, sizes being whole numbers; copies do not wait for each other."""
    placed: list[GemmLayer] = []
    before: tuple[str, ...] = ()
    for at, product in enumerate(product for layer in layers for product in layer):
        made = [
            GemmLayer(f"{at}_{copy}", product.m, product.n, product.k, product.area, before)
            for copy in range(product.copies)
        ]
        placed += made
        before = tuple(each.name for each in made)
    return Dnn("layers", tuple(placed))


def simulated(*layers: Layer, array: PodArray = ONE_ARRAY, exact: bool = True) -> Simulated:
    """Layers one after the other through the simulator.

    `exact`: as the authors counted: the last round costs nothing, and its multiplications are left
    out of the utilisation.
    """
    made = schedule([network_of(*layers)], array, exact=exact)
    timing = simulate(made)
    done = made.macs
    if exact:
        last = max(plan.last_round for plan in made.layers)
        for plan in made.layers:
            x, w, cols = plan.tiling.x_rows, plan.tiling.w_rows, plan.tiling.w_cols
            sizes = x[None, :, None] * w[:, None, None] * cols[None, None, :]
            done -= int(sizes[plan.cube(plan.round) == last].sum())
    cells = array.rows * array.cols * array.pods
    return Simulated(timing.cycles, done / (cells * timing.cycles))


class Lookup:
    """Of one kind of layer at one size of image: a table over channels and filters."""

    def __init__(
        self,
        kind: str,
        area: int,
        positions: int,
        array: PodArray = ONE_ARRAY,
        channels: Sequence[int] = CHANNELS,
    ) -> None:
        """Runs len(channels) squared simulations.  ValueError for an unknown kind of layer."""
        layer = pick(LAYERS, kind, "kind of layer")
        self.channels = np.array(sorted(channels))
        runs = [
            [simulated(layer(area, positions, int(c), int(f)), array=array) for f in self.channels]
            for c in self.channels
        ]
        self.cycles = np.array([[run.cycles for run in row] for row in runs])  # [channels, filters]
        self.utilisation = np.array([[run.utilisation for run in row] for row in runs])

    def nearest(self, channels: float, filters: float) -> Simulated:
        """What was simulated at the nearest size; between two it is the smaller.

        ValueError beyond the table: its edge would pass for any larger size.
        """
        low, high = self.channels[[0, -1]]
        for what, size in (("channels", channels), ("filters", filters)):
            if not low <= size <= high:
                raise ValueError(f"{size:g} {what}: the table goes from {low} to {high}")
        c, f = (int(np.abs(self.channels - size).argmin()) for size in (channels, filters))
        return Simulated(int(self.cycles[c, f]), float(self.utilisation[c, f]))
