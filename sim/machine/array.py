"""The array of pods that a variant describes, and what its numbers rest on."""

from __future__ import annotations

from sim.facts.assumption import Assumption
from sim.scenario import MisfitError, Variant
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import INTERCONNECTS, interconnect
from sim.systolic.pod_array import PodArray
from sim.systolic.power import (
    MAC_JOULES,
    SRAM_JOULES_PER_BYTE,
    SWITCH_WATTS_PER_BYTE,
    sram_joules_per_byte,
)
from sim.text.units import show

PAPER = "SOSA, arXiv 2203.11540"
OURS = "an extension of podscope"


def array_of(v: Variant) -> PodArray:
    """The array that a variant describes; MisfitError if there can be none."""
    spec = v.pod.array
    assert spec is not None
    try:
        array = PodArray(
            rows=spec.rows,
            cols=spec.cols,
            pods=spec.pods,
            interconnect=spec.network,
            bank_bytes=int(spec.bank),
            sram_joules_per_byte=spec.sram_energy or sram_joules_per_byte(spec.bank),
            clock_hz=spec.clock,
            dram_bytes_per_s=spec.memory,
            prefetch_rounds=spec.prefetch_rounds,
            dataflow=spec.dataflow,
        )
        interconnect(array.interconnect, array.pods)
    except ValueError as error:
        raise MisfitError([(("pod", "array"), str(error))]) from None
    return array


def array_assumptions(v: Variant, array: PodArray) -> list[Assumption]:
    """What the numbers of an array rest on, whatever runs on it."""
    spec = v.pod.array
    assert spec is not None
    sizes = ", ".join(
        f"{joules * 1e12:g} at {show(size, 'B')}" for size, joules in SRAM_JOULES_PER_BYTE.items()
    )
    source = "INFER", f"between the {sizes} (pJ/B) of {PAPER}"
    if spec.sram_energy:
        source = "READ", "the scenario"
    elif spec.bank in SRAM_JOULES_PER_BYTE:
        source = "READ", f"{PAPER}: TSMC 28 nm"
    energy = f"{array.sram_joules_per_byte * 1e12:.3g} pJ/B"
    switch = f"{SWITCH_WATTS_PER_BYTE * 1e6:g} uW for each byte of a port"
    said = [
        ("energy of a byte from a bank", energy, *source),
        ("energy of a MAC", f"{MAC_JOULES * 1e12:g} pJ", "READ", f"{PAPER}: 8 x 8 bits into 16"),
        ("a 2 x 2 switch", switch, "READ", f"{PAPER}, its artifact; at 1 GHz"),
        ("power", "peak, all cells and ports busy, without memory and leakage", "READ", PAPER),
    ]
    return [Assumption(f"array: {what}", value, tag, source) for what, value, tag, source in said]


def schedule_assumptions(array: PodArray) -> list[Assumption]:
    """What schedules on an array rest on, beside."""
    wires, flow = INTERCONNECTS[array.interconnect], DATAFLOWS[array.dataflow]
    rules = "routes by textbook rules, power by crosspoints"
    ways = f"up to {wires.tries} ways tried for each route"
    tiles = (
        "tiles, chains and rounds of weight-stationary arrays, another operand in the cells; the "
        "same peak power"
    )
    found = [
        (wires.ours, wires.name, rules, OURS),
        (wires.tries > 1, wires.name, ways, f"{PAPER} draws {wires.tries} settings"),
        (flow.ours, flow.name.replace("_", "-"), tiles, OURS),
    ]
    return [
        Assumption(f"array: {what}", value, "INFER", source)
        for holds, what, value, source in found
        if holds
    ]
