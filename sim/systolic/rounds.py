"""What the rounds of a schedule have to do: sums and largest values over all layers, by round."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.systolic.schedule import Schedule


class Rounds(NamedTuple):
    """By round: cycles of the longest tile op, load and addition; tile ops, their MACs; bytes."""

    streamed: np.ndarray
    loaded: np.ndarray  # by the round that they are for
    add_rows: np.ndarray
    tile_ops: np.ndarray
    w_bytes: np.ndarray  # of tiles used for the first time
    raw_bytes: np.ndarray  # of X, the DNN's input
    x_bytes: np.ndarray  # of X, all
    macs: np.ndarray


def rounds_of(schedule: Schedule) -> Rounds:
    """The rounds of a schedule, once: without its repeats."""
    count = 1 + max(plan.last_round for plan in schedule.layers)
    total = Rounds(*(np.zeros(count, np.int64) for _ in Rounds._fields))
    for plan in schedule.layers:
        tiling = plan.tiling
        at = plan.cube(plan.round)  # [j, i, k]
        x, w, cols = (
            tiling.x_rows[None, :, None],
            tiling.w_rows[:, None, None],
            tiling.w_cols[None, None, :],
        )
        np.maximum.at(total.streamed, at, np.broadcast_to(tiling.streamed, at.shape))
        np.maximum.at(total.loaded, at, np.broadcast_to(tiling.loaded, at.shape))
        np.maximum.at(total.add_rows, plan.add_round, plan.add_rows[:, None])
        np.add.at(total.tile_ops, at, 1)
        np.add.at(total.macs, at, x * w * cols)
        np.add.at(total.w_bytes, at.min(axis=1), tiling.w_bytes)
        x_first, x_bytes = at.min(axis=2), tiling.x_bytes.T
        np.add.at(total.x_bytes, x_first, x_bytes)
        if tiling.layer.raw_input:
            np.add.at(total.raw_bytes, x_first, x_bytes)
    return total


def repeated(once: Rounds, times: int, exact: bool) -> Rounds:
    """The rounds of so many copies, one behind the other.

    `exact` keeps two habits of the artifact: an empty round after the first copy, and all of X
    coming from memory for the others, as if its banks had been emptied.
    """
    if times == 1:
        return once
    gap = Rounds(*(np.zeros(1 if exact else 0, np.int64) for _ in once))
    again = once._replace(raw_bytes=once.x_bytes if exact else once.raw_bytes)
    return Rounds(*map(np.concatenate, zip(once, gap, *[again] * (times - 1))))
