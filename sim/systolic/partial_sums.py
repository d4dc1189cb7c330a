"""Partial sums in their banks: when each is made and read, and whether they hold it so long.

A bank that is full gives up the sum it has had longest; who needs it later waits until memory has
brought it back.
"""

from __future__ import annotations

import numpy as np

from sim.systolic.memory import Sums
from sim.systolic.schedule import LayerPlan, Schedule

Fact = tuple[np.ndarray, np.ndarray, np.ndarray]  # round, order within it, sum


def sums_of(schedule: Schedule, rounds: int) -> Sums:
    """The sums of a schedule with its repeats, which end with round `rounds` - 1."""
    pods = schedule.array.pods
    nbytes: list[np.ndarray] = []
    made: list[Fact] = []
    started: list[Fact] = []
    added: list[Fact] = []
    first = 0
    for plan in schedule.layers:
        ops, adds = plan.tiling.tile_ops, len(plan.add_left)
        nbytes.append(_nbytes(plan))
        chained = plan.source >= 0
        made.append((plan.round, np.zeros(ops, int), first + np.arange(ops)))
        started.append((plan.round[chained], plan.pod[chained], first + plan.source[chained]))
        total = first + ops + np.arange(adds)
        # the second copy may come first
        made.append((plan.add_round.min(axis=1), np.ones(adds, int), total))
        for t, adder in zip(plan.add_round.T, plan.adder.T, strict=True):
            for place, what in enumerate((first + plan.add_left, first + plan.add_right, total)):
                added.append((t, place * pods + adder, what))
        first += ops + adds
    once = 1 + max(plan.last_round for plan in schedule.layers)
    gap = rounds - schedule.repeats * once
    copies = [(c * once + (gap if c else 0), c * first) for c in range(schedule.repeats)]
    banks = [bank for plan in schedule.layers for bank in (plan.bank, plan.add_bank)]
    return Sums(
        np.tile(np.concatenate(nbytes), schedule.repeats),
        np.tile(np.concatenate(banks), schedule.repeats),
        *_by_round(made, copies, rounds),
        *_by_round(started, copies, rounds),
        *_by_round(added, copies, rounds),
    )


def _nbytes(plan: LayerPlan) -> np.ndarray:
    """Of the sums of a layer's tile ops, then of its additions: two bytes an element."""
    i, _, k = plan.tiling.shape
    of_op = 2 * np.outer(plan.tiling.x_rows, plan.tiling.w_cols).ravel()
    return np.concatenate((np.tile(of_op, plan.tiling.tile_ops // (i * k)), of_op[plan.add_group]))


def _by_round(
    facts: list[Fact], copies: list[tuple[int, int]], rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each round's part begins, and the sums in order; copies are shifts (rounds, sums)."""
    t, order, what = (np.concatenate(parts) for parts in zip(*facts, strict=True))
    sort = np.lexsort((order, t))
    t, what = (
        np.concatenate([own[sort] + copy[x] for copy in copies]) for x, own in enumerate((t, what))
    )
    return np.searchsorted(t, np.arange(rounds + 1)), what


def banks_hold(sums: Sums, bank_bytes: int) -> bool:
    """Whether every sum stays till it is read: with all that came into its bank since, it fits."""
    rounds = np.arange(len(sums.made_from) - 1)
    born, place = np.empty((2, len(sums.nbytes)), np.int64)
    born[sums.made] = np.repeat(rounds, np.diff(sums.made_from))
    place[sums.made] = np.arange(len(sums.made))
    by_bank = np.lexsort((place, sums.bank))
    times = len(rounds) + 1
    ascending = sums.bank[by_bank].astype(np.int64) * times + born[by_bank]
    filled = np.concatenate(([0], np.cumsum(sums.nbytes[by_bank])))
    rank = np.empty(len(born), np.int64)
    rank[by_bank] = np.arange(len(born))
    for start, what in ((sums.started_from, sums.started), (sums.added_from, sums.added)):
        read = np.repeat(rounds, np.diff(start))
        since = np.searchsorted(
            ascending, sums.bank[what].astype(np.int64) * times + read, side="right"
        )
        if np.any(filled[since] - filled[rank[what]] > bank_bytes):
            return False
    return True
