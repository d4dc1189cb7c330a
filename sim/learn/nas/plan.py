"""What a search is asked for, and its presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from sim.dnn.found import side_after
from sim.learn.nas.costs import METHODS
from sim.systolic.lookup import ONE_ARRAY
from sim.systolic.pod_array import PodArray
from sim.text.pick import pick

STAGES = ("operations", "channels", "training")
CELLS = 3
_FROM_0 = ("latency_weight", "utilisation_weight", "decay", "final_decay", "clip", "seed")
_ABOVE_0 = ("rate", "final_rate", "decision_rate")


@dataclass(frozen=True)
class Plan:
    """Defaults are the preset `tiny`: the paper's set-up with the array and all channels over 4.

    Loss of the searches: cross-entropy + latency_weight x ms - utilisation_weight x utilisation,
    of `hardware_batch` images on an array of rows x cols.
    """

    method: str = "uboost"
    latency_weight: float = 1.0  # 1 / ms
    utilisation_weight: float = 1.0
    rows: int = 32
    cols: int = 32
    hardware_batch: int = 64
    images: str = "mnist-5k"
    train: int = 1000
    image: int = 16
    pools: tuple[bool, ...] = (True,) * CELLS  # behind each cell
    stem: int = 32
    # widths: first, first + step, ..., last; flexible ones begin with `start` allocated
    first: int = 16
    step: int = 2
    last: int = 70
    flexible: bool = False
    start: int = 0
    epochs: tuple[int, int, int] = (6, 24, 12)
    batch: int = 32
    decision_share: float = 0.5  # of an epoch's batches, the last, which train decisions
    cooling: float = 0.95  # of the temperature, an epoch; 1: never
    rate: float = 0.05
    decay: float = 3e-4
    decision_rate: float = 0.1
    final_rate: float = 0.1
    final_decay: float = 5e-4
    momentum: float = 0.9
    clip: float = 0.5
    augment: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        pick(dict.fromkeys(METHODS), self.method, "model of the machine")
        if not self.pools:
            raise ValueError("pools: a network has at least one cell; true where a pooling follows")
        side_after(self.image, self.pools)
        if min(self.rows, self.cols) < 1:
            raise ValueError(f"an array of {self.rows} x {self.cols} has no cells")
        least = {"stem": 1, "first": 1, "step": 1, "batch": 2, "hardware_batch": 1, "train": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: {getattr(self, name)} is below {low}")
        end = self.start if self.flexible else self.last
        what = "start" if self.flexible else "last"
        if end < self.first or (end - self.first) % self.step:
            near = self.first + max(0, round((end - self.first) / self.step)) * self.step
            raise ValueError(
                f"widths from {self.first} by steps of {self.step} do not meet {what} {end}; the "
                f"nearest is {near}"
            )
        for name in _FROM_0 + _ABOVE_0:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: {value} is not at least 0")
            if name in _ABOVE_0 and not value:
                raise ValueError(f"{name}: with 0 nothing is learned")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum: {self.momentum} is not between 0 and 1")
        if not 0 < self.cooling <= 1:
            raise ValueError(f"cooling: {self.cooling} is not above 0 and up to 1")
        if len(self.epochs) != len(STAGES) or min(self.epochs) < 1:
            raise ValueError(
                f"epochs: {self.epochs}; three numbers ({', '.join(STAGES)}), each at least 1"
            )
        if not 0 < self.decision_share < 1:
            raise ValueError(f"decision_share: {self.decision_share} is not between 0 and 1")
        if self.utilisation_weight and self.method in ("flops",):
            raise ValueError("flops says that all cells always work: its utilisation_weight is 0")

    @property
    def array(self) -> PodArray:
        """The machine: the paper's memory, and as many cells as asked for."""
        return replace(ONE_ARRAY, rows=self.rows, cols=self.cols)

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        made = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in made.items()}


# Of the paper's table 6; learning rates and batches differ between its text, table and code.
PRESETS = {
    "tiny": Plan(),
    "paper": Plan(
        rows=128,
        cols=128,
        images="",
        train=50_000,
        image=32,
        stem=128,
        first=64,
        step=8,
        last=280,
        epochs=(10, 30, 200),
        batch=64,
        decision_share=0.2,
        augment=True,
    ),
}
