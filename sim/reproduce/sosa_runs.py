"""Runs of pod arrays as SOSA's authors set them up: images of 299 pixels, 100 tokens, with or
without their habits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from sim.dnn.bert import bert
from sim.dnn.gemms import Dnn
from sim.dnn.known import dnn
from sim.reproduce.sosa_rows import NETWORKS_OF_THE_MAIN_TABLE as TEN
from sim.systolic.interconnect import network
from sim.systolic.machine import Machine, harmonic_mean
from sim.systolic.schedule import Schedule, schedule
from sim.systolic.timing import ops_per_s, simulate

BANK = 256 << 10
Array = tuple[int, int, int]  # rows, columns, pods


class Case(NamedTuple):
    """A run: networks that share a machine, and which of the artifact's habits it keeps."""

    names: tuple[str, ...]
    machine: Machine = Machine()
    partition: int | None = None
    batch: int = 1
    exact: bool = True
    repeated: bool = True  # BERT as one encoder with its heads, repeated
    twice: bool = True  # additions


class Run(NamedTuple):
    """What came of it."""

    counts: tuple[
        int, int, int, int, int
    ]  # cycles, last main round, last round of additions, stalls, tile ops
    tops: float
    dram_bytes: int


def clean(name: str, machine: Machine, twice: bool = False) -> Case:
    """The model without the artifact's habits, but for additions made `twice`."""
    return Case((name,), machine, exact=False, repeated=False, twice=twice)


@cache
def run(case: Case) -> Run:
    """Schedules and times it."""
    # Neither latency nor the size of a bank moves a tile op: networks without conflicts share a
    # schedule, banks too.
    kind = "crossbar" if case.machine.network == "benes_copy" else case.machine.network
    placed = replace(case.machine, network=kind, bank_bytes=max(case.machine.bank_bytes, BANK))
    made = replace(
        _placed(case._replace(machine=placed)),
        machine=case.machine,
        network=network(case.machine.network, case.machine.pods, exact=case.exact),
        exact=case.exact,
    )
    t = simulate(made)
    counts = t.cycles, t.last_main_round, t.last_add_round, t.stall_cycles, t.tile_ops
    return Run(counts, ops_per_s(made, t) / 1e12, t.dram_bytes)


@lru_cache(maxsize=1)
def _placed(case: Case) -> Schedule:
    nets = [_net(name, case) for name in case.names]
    return schedule(nets, case.machine, partition=case.partition, exact=case.twice)


def _net(name: str, case: Case) -> Dnn:
    if name.startswith("bert_"):
        size = name.removeprefix("bert_")
        return bert(size, 100, case.batch, exact=case.exact, repeated=case.repeated)
    return dnn(name, image=299, batch=case.batch)


def machine_of(array: Array) -> Machine:
    """Of the main table: with few pods the authors enlarge the banks, and keep the energy of a
    small one."""
    rows, cols, pods = array
    return Machine(rows, cols, pods, bank_bytes=BANK * max(128 // pods, 1))


def mean_tops(machine: Machine, partition: int | None = None) -> float:
    """Harmonic mean of the ten networks."""
    return float(
        harmonic_mean(np.array([run(Case((name,), machine, partition)).tops for name in TEN]))
    )
