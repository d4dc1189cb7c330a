"""How large an array should be, from specs to Outcome: the closed form over a grid of sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.dnn.gemms import Dnn
from sim.dnn.known import INPUTS
from sim.facts.array import GridRecord
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.facts.span import digest
from sim.facts.totals import Totals
from sim.kinds.array_grid.spec import Family, Granularity
from sim.kinds.dnn.plan import network_of
from sim.kinds.dnn.spec import Networks
from sim.machine.array import PAPER, array_assumptions, array_of
from sim.scenario import MisfitError, Variant, refuse
from sim.systolic.granularity import mean_of_means
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.power import Budget, most_pods
from sim.text.strict_yaml import KeyPath

_RULE = Assumption(
    "array: closed form",
    "all tiles that fit run at once, and take as long as their weights to load",
    "READ",
    f"{PAPER}, its artifact's run_design_space",
)


class GridPlan(NamedTuple):
    """A variant made ready: every network of every family built at each of its sizes."""

    variant: Variant
    array: PodArray
    families: dict[str, list[list[Dnn]]]
    assumptions: list[Assumption]


def prepare(v: Variant, seed: int) -> GridPlan:
    """Build the networks; MisfitError with everything that cannot be."""
    work: Granularity = v.workload
    array = array_of(v)
    wrong: list[tuple[KeyPath, str]] = []
    families: dict[str, list[list[Dnn]]] = {}
    for name, family in work.families.items():
        for each in family.networks:
            try:
                families.setdefault(name, []).append(_sizes(each, family))
            except MisfitError as error:
                wrong += error.wrong
            except (ValueError, OSError) as error:
                wrong.append((("workload", "families", name, "networks", each), str(error)))
    refuse(wrong)
    return GridPlan(v, array, families, [*array_assumptions(v, array), _RULE])


def _sizes(name: str, family: Family) -> list[Dnn]:
    """A DNN at each size of its family's inputs; one is enough where it is not known by name."""
    spec = family.networks[name]
    found: list[Dnn] = []
    for image in family.images or [INPUTS["image"].default]:
        for length in family.lengths or [INPUTS["length"].default]:
            work = Networks.model_construct(
                image=image, length=length, batch=family.batch, sharing="alone", exact=False
            )
            dnn = network_of(name, spec, work)[0]
            if not any(dnn.layers == other.layers for other in found):
                found.append(dnn)
    return found


def play(plan: GridPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Operations a joule of every size in the grid, and of the array that the variant has."""
    spec, array, work = plan.variant.pod.array, plan.array, plan.variant.workload
    assert spec is not None
    rows, cols = (np.array(steps.numbers(), float) for steps in (work.rows, work.cols))
    r, c = rows[:, None], cols[None, :]
    budget = Budget(spec.power, array.interconnect, array.sram_joules_per_byte, array.clock_hz)
    grids = {name: mean_of_means(each, r, c, budget) for name, each in plan.families.items()}
    here = {
        name: float(mean_of_means(each, float(array.rows), float(array.cols), budget))
        for name, each in plan.families.items()
    }
    whole = harmonic_mean(np.array([*grids.values()]))
    here[""] = float(harmonic_mean(np.array([*here.values()])))
    return Outcome(
        Totals(),
        part=GridRecord(
            rows=rows.astype(int),
            cols=cols.astype(int),
            pods=most_pods(r, c, budget).astype(int),
            ops_per_joule=whole,
            families=grids,
            here=(array.rows, array.cols),
            here_ops_per_joule=here,
            power_w=spec.power,
        ),
        assumptions=plan.assumptions,
        fingerprint=digest(whole.ravel().tolist()),
    )
