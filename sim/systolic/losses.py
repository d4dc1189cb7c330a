"""What is seen of a timed schedule: where its cycles went, and which layer each pod was at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.facts.array import Tiles
from sim.systolic.schedule import Schedule
from sim.systolic.timing import Timing


class Losses(NamedTuple):
    """Cycles of a run by cause, each a mean over the pods; they add up to all of them.

    `macs` is what an array would take whose cells all multiply all the time.
    """

    macs: float
    small_tiles: float  # cells that a tile smaller than the array leaves empty
    # pods done with their tile; the round lasts for a longer one, an addition, loads or the way
    waiting: float
    idle: float  # pods without a tile in a round
    memory: float  # stalls
    ends: float  # warm-up and drain


def losses(schedule: Schedule, timing: Timing) -> Losses:
    """Of one run.  In `exact` schedules the last round costs nothing; its waiting is left out."""
    array = schedule.array
    streamed = schedule.repeats * sum(plan.tiling.pod_cycles for plan in schedule.layers)
    macs = schedule.macs / (array.rows * array.cols * array.pods)
    busy = float(timing.busy_pods @ timing.lengths) / array.pods
    found = (
        macs,
        streamed / array.pods - macs,
        max(busy - streamed / array.pods, 0.0),
        float(timing.lengths.sum()) - busy,
        float(timing.stall_cycles),
    )
    return Losses(*found, ends=timing.cycles - sum(found))


def occupancy(schedule: Schedule, timing: Timing) -> Tiles:
    """Of one run, repeats and all; layers beyond the 65,535th are shown as that one."""
    rounds = len(timing.starts)
    once = 1 + max(plan.last_round for plan in schedule.layers)
    gap = rounds - schedule.repeats * once
    layer = np.zeros((schedule.array.pods, rounds), np.uint16)
    for index, plan in enumerate(schedule.layers):
        for copy in range(schedule.repeats):
            layer[plan.pod, plan.round + copy * once + (gap if copy else 0)] = min(
                index + 1, 65_535
            )
    names = tuple((plan.dnn, plan.tiling.layer.name) for plan in schedule.layers)
    hz = schedule.array.clock_hz
    return Tiles(names, timing.starts / hz, (timing.starts + timing.lengths) / hz, layer)


def ends(schedule: Schedule, timing: Timing) -> tuple[int, ...]:
    """The cycle in which each DNN of a schedule is done: its last round and the drain after."""
    if len(schedule.dnns) == 1:
        return (timing.cycles,)
    round_ends = timing.starts + timing.lengths
    drain = timing.cycles - int(round_ends[-1])
    last = [
        max(p.last_round for p in schedule.layers if p.dnn == d) for d in range(len(schedule.dnns))
    ]
    return tuple(int(round_ends[at]) + drain for at in last)
