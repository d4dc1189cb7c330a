"""Runs of pod arrays as SOSA's authors set them up: images of 299 pixels, 100 tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from sim.dnn.known import dnn
from sim.reproduce.sosa_rows import TEN
from sim.systolic.interconnect import INTERCONNECTS, interconnect
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.schedule import Schedule, schedule
from sim.systolic.timing import ops_per_s, simulate

BANK = 256 << 10
Shape = tuple[int, int, int]  # rows, columns, pods


class Case(NamedTuple):
    """A run: DNNs that share an array, and which of the artifact's habits it keeps."""

    names: tuple[str, ...]
    array: PodArray = PodArray()
    partition: int | None = None
    batch: int = 1
    exact: bool = True
    repeated: bool = True  # BERT as one encoder with its heads, repeated
    twice: bool = True  # additions


class Run(NamedTuple):
    """What came of it."""

    # cycles, last main round, last round of additions, stalls, tile ops
    counts: tuple[int, int, int, int, int]
    tops: float
    dram_bytes: int


@cache
def run(case: Case) -> Run:
    """Schedules and times it."""
    # Neither latency nor the size of a bank moves a tile op: interconnects without conflicts share
    # a schedule, banks too.
    array, kind = case.array, case.array.interconnect
    if INTERCONNECTS[kind].free:
        kind = next(name for name, row in INTERCONNECTS.items() if row.free)
    placed = replace(array, interconnect=kind, bank_bytes=max(array.bank_bytes, BANK))
    made = replace(
        _placed(case._replace(array=placed)),
        array=array,
        routes=interconnect(array.interconnect, array.pods),
        exact=case.exact,
    )
    t = simulate(made)
    counts = t.cycles, t.last_main_round, t.last_add_round, t.stall_cycles, t.tile_ops
    return Run(counts, ops_per_s(made, t) / 1e12, t.dram_bytes)


@lru_cache(maxsize=1)
def _placed(case: Case) -> Schedule:
    habits = {"exact": case.exact, "repeated": case.repeated}
    dnns = [dnn(name, image=299, length=100, batch=case.batch, **habits) for name in case.names]
    return schedule(dnns, case.array, partition=case.partition, exact=case.twice)


def array_of(shape: Shape) -> PodArray:
    """Of the main table: few pods have larger banks, at the energy of a small one."""
    rows, cols, pods = shape
    return PodArray(rows, cols, pods, bank_bytes=BANK * max(128 // pods, 1))


def mean_tops(array: PodArray, partition: int | None = None) -> float:
    """Harmonic mean of the ten DNNs."""
    return float(
        harmonic_mean(np.array([run(Case((name,), array, partition)).tops for name in TEN]))
    )
