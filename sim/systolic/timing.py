"""How long a schedule takes: the length of each round, and what waits for memory.

All pods step from round to round together. A round is as long as its longest tile op, addition or load of the next
round's weights, and at least the way to a bank and back. Tiles come from memory in the order of rounds, W before X, at
its bandwidth, running ahead of the round by `prefetch_rounds`; a round starts when all its tiles are there. X comes
from memory for the network's input only: activations stay in the banks. Source: arXiv 2203.11540 and its artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from sim.systolic.machine import Machine
from sim.systolic.rounds import Rounds, repeated, rounds_of
from sim.systolic.schedule import Schedule

ROWS_AT_ONCE = 16  # cells that an input reaches, and sums that are added, in one cycle: of the published RTL


@dataclass(frozen=True)
class Timing:
    """A run, in cycles.  Rounds count from 0, so that `last_main_round` is one less than the number of rounds."""

    cycles: int
    warm_up_cycles: int
    stall_cycles: int
    last_main_round: int  # with a tile op
    last_add_round: int  # with an addition; 0 if there is none
    tile_ops: int
    dram_bytes: int
    starts: np.ndarray  # [round], cycle in which it begins
    lengths: np.ndarray  # [round], cycles without stalls
    busy_pods: np.ndarray  # [round], tile ops


def simulate(schedule: Schedule) -> Timing:
    """Plays the rounds of a schedule.

    Exact schedules keep three habits of the artifact: the last round costs nothing; repeated copies are a round apart
    from the first, and load all of X from memory. Otherwise the last round counts, and the skew with which a pod's last
    rows arrive and its last sums leave is charged once. Not modelled: the capacity of the banks, writing results to
    memory, skew between rounds, which the next round hides.
    """
    machine, latency = schedule.machine, schedule.network.latency_cycles
    once = rounds_of(schedule)
    last = [np.flatnonzero(once.tile_ops)[-1], *np.flatnonzero(once.add_rows)[-1:]]
    rounds = repeated(once, schedule.repeats, schedule.exact)
    shift = len(rounds.tile_ops) - len(once.tile_ops)
    lengths = 1 + np.maximum.reduce(
        [rounds.x_rows, np.append(rounds.w_rows[1:], 0), rounds.add_rows, np.full_like(rounds.x_rows, 2 * latency + 1)]
    )
    if schedule.exact:
        lengths[-1] = 0
    warm_up, first_stall, starts, stalls = _play(lengths, rounds, machine)
    skew = 0 if schedule.exact else ceil(machine.rows / ROWS_AT_ONCE) + ceil(machine.cols / ROWS_AT_ONCE) - 2
    return Timing(
        cycles=int(starts[-1] + lengths[-1]) + latency + 1 + skew,
        warm_up_cycles=warm_up,
        stall_cycles=first_stall + int(stalls.sum()),
        last_main_round=int(last[0]) + shift,
        last_add_round=int(last[1]) + shift if len(last) > 1 else 0,
        tile_ops=int(rounds.tile_ops.sum()),
        dram_bytes=int(rounds.w_bytes.sum() + rounds.raw_bytes.sum()),
        starts=starts,
        lengths=lengths,
        busy_pods=rounds.tile_ops,
    )


def _play(lengths: np.ndarray, rounds: Rounds, machine: Machine) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Warm-up and stall before round 0; by round, when it starts and how long the next one waits for memory."""
    per_cycle = machine.dram_bytes_per_s / machine.clock_hz
    needed = np.cumsum(rounds.w_bytes + rounds.raw_bytes)  # up to and with a round
    within = needed[np.minimum(np.arange(len(needed)) + machine.prefetch_rounds - 1, len(needed) - 1)].tolist()
    due = needed.tolist()
    warm_up = ceil(int(rounds.w_bytes[0]) / per_cycle) + int(rounds.w_rows[0]) + 1
    fetched = min(warm_up * per_cycle, within[0])
    first_stall = max(ceil((due[0] - fetched) / per_cycle), 0)
    fetched = min(fetched + first_stall * per_cycle, within[0])
    now = warm_up + first_stall
    starts, stalls = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    for t, length in enumerate(lengths.tolist()):
        starts[t] = now
        fetched = min(fetched + length * per_cycle, within[t])
        if t + 1 < len(due) and due[t + 1] > fetched:
            stalls[t] = ceil((due[t + 1] - fetched) / per_cycle)
            fetched = min(fetched + int(stalls[t]) * per_cycle, within[t])
        now += length + int(stalls[t])
    return warm_up, first_stall, starts, stalls


def ops_per_s(schedule: Schedule, timing: Timing) -> float:
    """Effective throughput: operations asked for, over the time of the run."""
    return schedule.ops / timing.cycles * schedule.machine.clock_hz


def busy_share(schedule: Schedule, timing: Timing) -> float:
    """Tile ops over pods and rounds, as the artifact counts both."""
    return timing.tile_ops / (max(timing.last_main_round, 1) * schedule.machine.pods)
