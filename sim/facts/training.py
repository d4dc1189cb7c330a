"""What edges and a cloud that train together did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sim.facts.traffic import Binned


@dataclass
class EdgesRecord:
    """By edge, in order: what it did.  Arrays have a place for each."""

    names: list[str]
    group: list[str]  # what each is one of
    busy_s: np.ndarray  # computing
    sending_s: np.ndarray
    receiving_s: np.ndarray
    end_s: np.ndarray  # when its last batch was done
    done: np.ndarray  # batches that are trained on all sides that the method has
    alone: (
        np.ndarray
    )  # batches trained on the edge alone, for want of room while the cloud was lost
    late: np.ndarray  # batches that a round did not wait for
    absent: np.ndarray  # rounds in which it was not there
    again: np.ndarray  # batches that it trained again after it was killed
    joules: np.ndarray
    empty_s: np.ndarray  # when its battery was empty; inf: never

    @classmethod
    def of(cls, names: list[str], group: list[str]) -> EdgesRecord:
        """With nothing done yet."""
        found = cls(names, group, *(np.zeros(len(names)) for _ in range(11)))
        found.empty_s[:] = np.inf
        return found


@dataclass
class PlayedTraining:
    """What the engine found.  `path_s` says of what the wall time is made: the steps on the way
    that led to its end, and what was waited for; they add up to it."""

    seconds: float
    edges: EdgesRecord
    path_s: dict[str, float]
    cloud_busy_s: float
    up: Binned
    down: Binned
    up_bytes: float
    down_bytes: float
    most_uploads: int  # at once
    cloud_trained: int  # batches, by the cloud
    rounds_s: list[float] = field(default_factory=list)  # when each round ended
    stopped: bool = False


@dataclass(frozen=True)
class Cut:
    """A place at which a network can be cut, as judged for one variant."""

    name: str
    ratio: float  # elements of the feature map / of the input
    batch_s: float  # of one batch of every edge, synchronous
    edge_joules: float  # the same, mean of an edge
    memory_bytes: float  # on the edge
    fits: bool
    accuracy: float | None = None
    why_not: str = ""  # it cannot be chosen, and why


@dataclass
class TrainingRecord:
    """A variant's facts: how it was set up, and what was played."""

    method: str
    network: str
    cut: str  # "" of methods without one
    chosen: bool  # by podscope
    batch: int
    samples: int  # of all edges, in batches that are done
    played: PlayedTraining
    cuts: list[Cut]
    memory: Mapping[str, float]  # bytes on the edge, by what for
    up_rate: float  # bytes/s of one edge's channel, the first group's
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]  # by cut or method: rates, seconds
