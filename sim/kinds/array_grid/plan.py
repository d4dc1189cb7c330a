"""How large an array should be, from specs to Outcome: the closed form over a grid of sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.dnn.gemms import Dnn
from sim.facts.array import GridRecord
from sim.facts.outcome import Outcome
from sim.facts.span import digest
from sim.facts.totals import Totals
from sim.kinds.array_grid.spec import Family, Granularity
from sim.kinds.dnn.plan import network_of
from sim.kinds.dnn.spec import Networks
from sim.machine.array import PAPER, array_assumptions, machine_of
from sim.machine.wiring import Assumption
from sim.scenario import MisfitError, Variant
from sim.systolic.granularity import Budget, mean_of_means
from sim.systolic.machine import Machine, harmonic_mean, most_pods
from sim.text.strict_yaml import KeyPath

_RULE = (
    "array: closed form",
    "all tiles that fit run at once, and take as long as their weights to load",
    "READ",
    f"{PAPER}, its artifact's run_design_space",
)


class GridPlan(NamedTuple):
    """A variant made ready: every network of every family built at each of its sizes."""

    variant: Variant
    work: Granularity
    machine: Machine
    families: dict[str, list[list[Dnn]]]
    assumptions: list[Assumption]


def prepare(v: Variant, seed: int) -> GridPlan:
    """Build the networks; MisfitError with everything that cannot be."""
    work: Granularity = v.workload
    machine = machine_of(v)
    wrong: list[tuple[KeyPath, str]] = []
    families: dict[str, list[list[Dnn]]] = {}
    for name, family in work.families.items():
        families[name] = []
        for each in family.networks:
            try:
                families[name].append(_sizes(each, family))
            except MisfitError as error:
                wrong += error.wrong
            except (ValueError, OSError) as error:
                wrong.append((("workload", "families", name, "networks", each), str(error)))
    if wrong:
        raise MisfitError(wrong)
    return GridPlan(v, work, machine, families, [*array_assumptions(v, machine), _RULE])


def _sizes(name: str, family: Family) -> list[Dnn]:
    """A network at each image size or length of its family; one size is enough where it is not
    known by name."""
    spec = family.networks[name]
    found: list[Dnn] = []
    for image in family.images or [224]:
        for length in family.lengths or [128]:
            work = Networks.model_construct(
                image=image, length=length, batch=family.batch, sharing="alone", exact=False
            )
            dnn = network_of(name, spec, work)[0]
            if not any(dnn.layers == other.layers for other in found):
                found.append(dnn)
    return found


def play(plan: GridPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Operations a joule of every size in the grid, and of the array that the variant has."""
    spec, machine = plan.variant.pod.array, plan.machine
    assert spec is not None
    rows, cols = (np.array(steps.numbers(), float) for steps in (plan.work.rows, plan.work.cols))
    r, c = rows[:, None], cols[None, :]
    budget = Budget(spec.power, spec.network, machine.sram_joules_per_byte, machine.clock_hz)
    grids = {name: mean_of_means(each, r, c, budget) for name, each in plan.families.items()}
    here = {
        name: float(mean_of_means(each, float(machine.rows), float(machine.cols), budget))
        for name, each in plan.families.items()
    }
    whole = harmonic_mean(np.array([*grids.values()]))
    here[""] = float(harmonic_mean(np.array([*here.values()])))
    record = GridRecord(
        rows.astype(int),
        cols.astype(int),
        most_pods(r, c, *budget).astype(int),
        whole,
        grids,
        (machine.rows, machine.cols),
        here,
        spec.power,
    )
    return Outcome(
        Totals(),
        part=record,
        assumptions=plan.assumptions,
        fingerprint=digest(whole.ravel().tolist()),
    )
