"""The array of pods that a variant describes, and what its numbers rest on."""

from __future__ import annotations

from sim.machine.wiring import Assumption
from sim.scenario import MisfitError, Variant
from sim.scenario.networks import Networks
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

_PAPER = "SOSA, arXiv 2203.11540"
_OURS = "an extension of podscope"
_CLOSED_FORM = (
    "closed form",
    "all tiles that fit run at once, and take as long as their weights to load",
    "READ",
    f"{_PAPER}, its artifact's run_design_space",
)
_TENANTS = {
    "partitioned": "a network of its own for the pods of each, and as much of the memory's "
    "bandwidth",
    "time_sliced": "a schedule is not stopped but at the end of a turn; who goes on loads "
    "its weights again",
    "interleaved": "one schedule for all that wait when the array gets free; the next "
    "begins when it has ended",
}


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


def array_assumptions(
    v: Variant, array: PodArray, work: Networks | None = None
) -> list[Assumption]:
    """What the numbers of an array rest on; without `work`, those of the closed form."""
    spec = v.pod.array
    assert spec is not None
    sizes = ", ".join(
        f"{joules * 1e12:g} at {show(size, 'B')}" for size, joules in SRAM_JOULES_PER_BYTE.items()
    )
    source = "INFER", f"between the {sizes} (pJ/B) of {_PAPER}"
    if spec.sram_energy:
        source = "READ", "the scenario"
    elif spec.bank in SRAM_JOULES_PER_BYTE:
        source = "READ", f"{_PAPER}: TSMC 28 nm"
    energy = f"{array.sram_joules_per_byte * 1e12:.3g} pJ/B"
    switch = f"{SWITCH_WATTS_PER_BYTE * 1e6:g} uW for each byte of a port"
    said = [
        ("energy of a byte from a bank", energy, *source),
        ("energy of a MAC", f"{MAC_JOULES * 1e12:g} pJ", "READ", f"{_PAPER}: 8 x 8 bits into 16"),
        ("a 2 x 2 switch", switch, "READ", f"{_PAPER}, its artifact; at 1 GHz"),
        ("power", "peak, all cells and ports busy, without memory and leakage", "READ", _PAPER),
        *([_CLOSED_FORM] if work is None else _of_schedules(array, work)),
    ]
    return [(f"array: {what}", value, tag, source) for what, value, tag, source in said]


def _of_schedules(array: PodArray, work: Networks) -> list[Assumption]:
    wires, flow = INTERCONNECTS[array.interconnect], DATAFLOWS[array.dataflow]
    once = work.sharing == "interleaved" and not any(n.trace for n in work.networks.values())
    found = [
        (
            True,
            "schedule",
            "first fit into rounds without conflicts" + ", with the authors' habits" * work.exact,
            "CHECKED",
            f"{_PAPER}: equal to its artifact to the cycle where `exact`",
        ),
        (
            wires.ours,
            wires.name,
            "routes by textbook rules, power by crosspoints",
            "INFER",
            _OURS,
        ),
        (
            wires.tries > 1,
            wires.name,
            f"up to {wires.tries} ways tried for each route",
            "INFER",
            f"{_PAPER} draws {wires.tries} settings",
        ),
        (
            flow.ours,
            flow.name.replace("_", "-"),
            "tiles, chains and rounds of weight-stationary arrays, another operand in the cells; "
            "the same peak power",
            "INFER",
            _OURS,
        ),
        (
            work.sharing in _TENANTS and not once,
            work.sharing.replace("_", " "),
            _TENANTS.get(work.sharing, ""),
            "INFER",
            _OURS,
        ),
    ]
    return [(what, value, tag, source) for holds, what, value, tag, source in found if holds]
