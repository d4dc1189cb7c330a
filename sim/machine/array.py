"""The array of pods that a variant describes, and what its numbers rest on."""

from __future__ import annotations

from collections.abc import Iterator

from sim.machine.wiring import Assumption
from sim.scenario import MisfitError, Variant
from sim.scenario.machine import Array
from sim.systolic.interconnect import EXTENSIONS, TRIES, network
from sim.systolic.machine import (
    MAC_JOULES,
    SRAM_JOULES_PER_BYTE,
    SWITCH_WATTS_PER_BYTE,
    Machine,
    sram_joules_per_byte,
)
from sim.text.units import show

PAPER = "SOSA, arXiv 2203.11540"
OURS = "an extension of podscope"


def machine_of(v: Variant) -> Machine:
    """The array that a variant describes; MisfitError if there can be none."""
    spec = v.pod.array
    assert spec is not None
    energy = spec.sram_energy or sram_joules_per_byte(spec.bank)
    try:
        machine = Machine(
            spec.rows,
            spec.cols,
            spec.pods,
            spec.network,
            int(spec.bank),
            energy,
            spec.clock,
            spec.memory,
            spec.prefetch_rounds,
            spec.dataflow,
        )
        network(machine.network, machine.pods)
    except ValueError as error:
        raise MisfitError([(("pod", "array"), str(error))]) from None
    return machine


def array_assumptions(v: Variant, machine: Machine) -> list[Assumption]:
    """What the numbers of an array rest on, whatever runs on it."""
    spec = v.pod.array
    assert spec is not None
    return list(_assumed(spec, machine))


def _assumed(spec: Array, machine: Machine) -> Iterator[Assumption]:
    energy = f"{machine.sram_joules_per_byte * 1e12:.3g} pJ/B"
    if spec.sram_energy:
        yield "array: energy of a byte from a bank", energy, "READ", "the scenario"
    elif spec.bank in SRAM_JOULES_PER_BYTE:
        yield "array: energy of a byte from a bank", energy, "READ", f"{PAPER}: TSMC 28 nm"
    else:
        sizes = ", ".join(
            f"{joules * 1e12:g} at {show(size, 'B')}"
            for size, joules in SRAM_JOULES_PER_BYTE.items()
        )
        yield (
            "array: energy of a byte from a bank",
            energy,
            "INFER",
            f"between the {sizes} (pJ/B) of {PAPER}",
        )
    yield (
        "array: energy of a MAC",
        f"{MAC_JOULES * 1e12:g} pJ",
        "READ",
        f"{PAPER}: 8 x 8 bits into 16",
    )
    switch = f"{SWITCH_WATTS_PER_BYTE * 1e6:g} uW for each byte of a port"
    yield "array: a 2 x 2 switch", switch, "READ", f"{PAPER}, its artifact; at 1 GHz"
    yield (
        "array: power",
        "peak, all cells and ports busy, without memory and leakage",
        "READ",
        PAPER,
    )


def schedule_assumptions(v: Variant) -> Iterator[Assumption]:
    """What schedules on an array rest on, beside."""
    spec = v.pod.array
    assert spec is not None
    if spec.network in EXTENSIONS:
        yield (
            f"array: {spec.network}",
            "routes by textbook rules, power by crosspoints",
            "INFER",
            OURS,
        )
    if spec.network == "benes":
        yield (
            "array: benes",
            f"up to {TRIES} ways tried for each route",
            "INFER",
            f"{PAPER} draws {TRIES} settings",
        )
    if spec.dataflow != "weight_stationary":
        rule = (
            "tiles, chains and rounds of weight-stationary arrays, another operand in the "
            "cells; the same peak power"
        )
        yield f"array: {spec.dataflow.replace('_', '-')}", rule, "INFER", OURS
