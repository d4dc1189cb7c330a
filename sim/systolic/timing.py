"""How long a schedule takes: the length of each round, and what waits for memory.

All pods step from round to round together. A round is as long as its longest tile op, addition or
load of the next round's weights, and at least the way to a bank and back. Tiles come from memory in
the order of rounds, W before X, at its bandwidth, running ahead of the round by `prefetch_rounds`;
a round starts when all its tiles are there. X comes from memory for the DNN's input only:
activations stay in the banks. Partial sums may outgrow theirs: see `sim.systolic.memory`. Source:
arXiv 2203.11540 and its artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from sim.systolic.compiled import loops_for
from sim.systolic.memory import NO_ROOM, Asked, Banks, Stream, Sums, play
from sim.systolic.partial_sums import banks_hold, sums_of
from sim.systolic.rounds import Rounds, repeated, rounds_of
from sim.systolic.schedule import Schedule

# cells that an input reaches, and sums that are added, in one cycle: of the published RTL
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Timing:
    """A run, in cycles.  Rounds count from 0: `last_main_round` is one less than there are."""

    cycles: int
    warm_up_cycles: int
    stall_cycles: int
    last_main_round: int  # with a tile op
    last_add_round: int  # with an addition; 0 if there is none
    tile_ops: int
    dram_bytes: int  # to the chip: W, X, and partial sums that had left their banks
    starts: np.ndarray  # [round], cycle in which it begins
    lengths: np.ndarray  # [round], cycles without stalls
    busy_pods: np.ndarray  # [round], tile ops


def simulate(schedule: Schedule) -> Timing:
    """Plays the rounds of a schedule.

    Exact schedules keep three habits of the artifact: the last round costs nothing; repeated copies
    are a round apart from the first, and load all of X from memory. Otherwise the last round
    counts, and the skew with which a pod's last rows arrive and its last sums leave is charged
    once. Not modelled: the capacity of banks of X and W, writing to memory, skew between rounds,
    which the next round hides.
    """
    array, latency = schedule.array, schedule.latency_cycles
    once = rounds_of(schedule)
    last = [np.flatnonzero(once.tile_ops)[-1], *np.flatnonzero(once.add_rows)[-1:]]
    rounds = repeated(once, schedule.repeats, schedule.exact)
    shift = len(rounds.tile_ops) - len(once.tile_ops)
    lengths = 1 + np.maximum.reduce(
        [
            rounds.streamed,
            np.append(rounds.loaded[1:], 0),
            rounds.add_rows,
            np.full_like(rounds.streamed, 2 * latency + 1),
        ]
    )
    if schedule.exact:
        lengths[-1] = 0
    per_cycle = array.dram_bytes_per_s / array.clock_hz
    warm_up = ceil(int(rounds.w_bytes[0]) / per_cycle) + int(rounds.loaded[0]) + 1
    first, back, starts, stalls = _play(lengths, rounds, schedule, warm_up)
    skew = (
        0
        if schedule.exact
        else ceil(array.rows / ROWS_AT_ONCE) + ceil(array.cols / ROWS_AT_ONCE) - 2
    )
    return Timing(
        cycles=int(starts[-1] + lengths[-1]) + latency + 1 + skew,
        warm_up_cycles=warm_up,
        stall_cycles=first - warm_up + int(stalls.sum()),
        last_main_round=int(last[0]) + shift,
        last_add_round=int(last[1]) + shift if len(last) > 1 else 0,
        tile_ops=int(rounds.tile_ops.sum()),
        dram_bytes=int(rounds.w_bytes.sum() + rounds.raw_bytes.sum() + round(back)),
        starts=starts,
        lengths=lengths,
        busy_pods=rounds.tile_ops,
    )


def _play(
    lengths: np.ndarray, rounds: Rounds, schedule: Schedule, warm_up: int
) -> tuple[int, float, np.ndarray, np.ndarray]:
    """Cycles before round 0, bytes of sums brought back; by round, its start and wait."""
    array, count = schedule.array, len(lengths)
    due = np.cumsum(rounds.w_bytes + rounds.raw_bytes).astype(float)
    within = due[np.minimum(np.arange(count) + array.prefetch_rounds - 1, count - 1)]
    per_cycle = array.dram_bytes_per_s / array.clock_hz
    starts, stalls = np.zeros((2, count), np.int64)
    sums = sums_of(schedule, count)
    if banks_hold(sums, array.bank_bytes):
        stream = Stream(due.tolist(), within.tolist(), per_cycle)
        return play(lengths.tolist(), stream, warm_up, starts, stalls), 0.0, starts, stalls
    loops = loops_for(schedule.tile_ops)
    flat = (lambda a: a) if loops.compiled else (lambda a: a.tolist())
    room, first, back = 4 * len(sums.nbytes), NO_ROOM, np.zeros(1)
    while first == NO_ROOM:
        of_bank, of_sum = (np.full(size, -1, np.int64) for size in (array.pods, len(sums.nbytes)))
        back[:] = 0
        first = loops.play_full(
            flat(lengths),
            Stream(flat(due), flat(within), per_cycle),
            warm_up,
            Sums(*map(flat, sums)),
            Banks(
                used=flat(0 * of_bank),
                first=flat(of_bank),
                last=flat(of_bank.copy()),
                before=flat(of_sum),
                behind=flat(of_sum.copy()),
                until=flat(of_sum.copy()),
                come=flat(np.zeros(len(of_sum))),
                here=flat(0 * of_sum),
            ),
            array.bank_bytes,
            Asked(*(flat(np.zeros(size, np.int64)) for size in (room, room, 1))),
            starts,
            stalls,
            back,
        )
        room *= 4
    if first < 0:
        raise ValueError(
            f"banks of {array.bank_bytes} bytes hold too few partial sums for round "
            f"{-first - 1} to start"
        )
    return first, float(back[0]), starts, stalls


def ops_per_s(schedule: Schedule, timing: Timing) -> float:
    """Effective throughput: operations asked for, over the time of the run."""
    return schedule.ops / timing.cycles * schedule.array.clock_hz
