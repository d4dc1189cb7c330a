"""What an array of pods did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.facts.requests import Requests

FAR = 0.15  # of a power, by which an array may miss it and still be scaled to it


@dataclass(frozen=True)
class Tiles:
    """Which layer each pod of a run was at, by round."""

    layers: tuple[tuple[int, str], ...]  # place in the run's `names`, and layer
    start_s: np.ndarray  # [round], from the start of the run
    end_s: np.ndarray  # [round]
    layer: np.ndarray  # [pod, round] of uint16: 0 is none, else 1 + the place in `layers`


class ArrayRun(NamedTuple):
    """One schedule on an array of pods, played once or, as it is, many times."""

    names: tuple[str, ...]  # of the networks that it runs
    first_pod: int
    pods: int
    start_s: float  # when it was played first
    seconds: float
    times: int
    ops: float  # two a MAC
    rounds: int
    tile_ops: int
    dram_bytes: int
    parts_s: dict[str, float]  # where its time went, mean over its pods; adds up to `seconds`
    tiles: Tiles | None


class NetworkRecord(NamedTuple):
    """A network on an array, one of several or by itself."""

    name: str
    what: str  # "resnet50, 224 x 224"
    ops: float  # of an inference, two a MAC
    pods: int  # that it may use
    seconds: (
        float  # from the start of the first schedule it is in to its end: waiting for others counts
    )
    alone_s: float  # of an inference with the whole array to itself
    requests: Requests | None  # of a trace, each an inference; tokens are 0
    alone_e2e_s: np.ndarray  # of each of them, with the whole array to itself


@dataclass(frozen=True)
class ArrayRecord:
    """An array of pods and what it did."""

    sharing: str  # alone, interleaved, partitioned or time_sliced
    peak_ops_per_s: float
    peak_power_w: float
    power_w: float  # that throughput is scaled to
    settings: dict[str, float | str]  # in which variants may differ, as a person would name them
    networks: list[NetworkRecord]
    runs: list[ArrayRun]


@dataclass(frozen=True)
class GridRecord:
    """Operations a joule of arrays of all sizes, for the same power."""

    rows: np.ndarray  # [r]
    cols: np.ndarray  # [c]
    pods: np.ndarray  # [r, c], that the power allows
    ops_per_joule: np.ndarray  # [r, c], all families together
    families: dict[str, np.ndarray]  # [r, c] of each
    here: tuple[int, int]  # rows and columns that the best are compared with
    here_ops_per_joule: dict[str, float]  # by family; "" for all together
    power_w: float
