"""Which settings of a scenario meet its limits with the fewest chips, at the lowest cost, or with
the highest goodput.

Chips and cost of a candidate are known before it is run. So candidates are run by how many chips,
or dollars, they take, those that take the same all of them, until some of them meet the limits:
what is left takes more, whatever it would do. Of goodput nothing is known beforehand, and all are
run. Either way the answer is that of running them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sim.explore import candidates as spaces
from sim.explore.advice import Advice, Candidate, Goal, cost
from sim.explore.drive import drive
from sim.explore.identity import program
from sim.explore.measure import Measured
from sim.explore.plan import Plan, as_mapping, planned
from sim.explore.result import STORE
from sim.explore.rule import Rule, rule_of
from sim.explore.space import Point
from sim.explore.store import Store
from sim.explore.sweep import MOST
from sim.facts.outcome import Takes
from sim.run import load, prepare
from sim.scenario import Overrides, Scenario, ScenarioError, Source
from sim.text.pick import pick
from sim.workers import opened

GOALS = {
    "chips": Goal("fewest chips", lambda takes: float(takes.chips)),
    "cost": Goal("lowest cost", cost),
    "goodput": Goal("highest goodput", None),
}
_STEP = {"workload.fidelity": "step"}
Progress = Callable[[str], None]


def recommend(
    source: Source,
    overrides: Overrides = (),
    *,
    goal: str = "chips",
    slo: str = "",
    share: float = 0.99,
    over: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    chips: int | None = None,
    variant: str = "",
    workers: int | None = None,
    cluster: str | None = None,
    yes: bool = False,
    progress: Progress = lambda text: None,
) -> Advice:
    """The settings of a scenario of requests that meet its limits with the fewest "chips", at the
    lowest "cost", or with the highest "goodput" (requests that meet them, per second).

    `slo` is a limit of a latency ("ttft_p99_s <= 500 ms"), else the scenario's own `slo` that
    `share` of the requests are to meet. Candidates are the points of the scenario's section
    `sweep`, else they follow from its machine and model, with `chips` in all; `over` sets the
    values of keys in either ("parallel.tensor=2,4", or values by key). Of several variants the
    first, or `variant`. The answer does not depend on the number of workers. ScenarioError,
    ValueError.
    """
    aim = pick(GOALS, goal, "goal")
    scenario = load(source, as_mapping(overrides))
    name = variant or next(iter(scenario.variants))
    chosen = pick(scenario.variants, name, "variant")
    if not hasattr(chosen.workload, "trace"):
        raise ValueError(f"{name} has no trace of requests; what is recommended is of requests")
    rule = rule_of(chosen, name, slo, share)
    if goal == "goodput" and rule.mean:
        raise ValueError("goodput is of requests that each meet a limit; a mean has none")
    if scenario.sweep is not None:
        planned(source, as_mapping(overrides))  # says what is wrong with it where it is written
    given = spaces.over_of(over)
    whole = spaces.alone(scenario, name)
    spaces.check(whole, given)
    section, most, said = spaces.section_of(scenario, chosen, given, chips)
    plan = replace(planned({**whole, "sweep": section}, _STEP), also=rule.numbers, search=None)
    if plan.size > MOST and not yes:
        raise ValueError(
            f"there are {plan.size:,} candidates, more than {MOST:,}; --yes (yes=True) looks at "
            "them all, --over and --chips make them fewer"
        )
    if len(scenario.variants) > 1 and not variant:
        said.insert(0, f"of {len(scenario.variants)} variants the first, {name} (--variant)")
    with (
        opened(workers or os.cpu_count() or 1, cluster, says=program) as hands,
        TemporaryDirectory(prefix="podscope-recommend-") as folder,
    ):
        looked = [*_looked(plan, most, aim, progress)]
        asker = _Levels(looked, aim, rule)
        store = Store(Path(folder, STORE), program(), resume=False)
        try:
            drive(plan, store, hands, lambda tally: progress(asker.told), asker)
        finally:
            store.close()
        said += hands.warnings
    return Advice(plan, rule, aim, looked, said)


def _looked(plan: Plan, most: int | None, aim: Goal, progress: Progress) -> Iterator[Candidate]:
    """Every candidate, with what it takes or why it cannot be."""
    priced: set[bool] = set()
    for number, point in enumerate(plan.space.points()):
        progress(f"looking at {number + 1:,} of {plan.size:,} candidates")
        try:
            scenario: Scenario = plan.load(point)
            ((_, ready),) = prepare(scenario).items()
        except ScenarioError as error:
            first = error.faults[0]
            yield Candidate(number, point, Takes(0), wrong=first.what)
            continue
        assert ready.kind.takes is not None
        takes: Takes = ready.kind.takes(ready.built)
        if aim.of is cost:
            cost(takes)  # refuses at once what has none
            priced.add(takes.dollars_per_hour is not None)
            if len(priced) > 1:
                raise ValueError(
                    "some candidates have a price per hour and some have none; give all of them "
                    "one (pod.change.device.price_per_hour)"
                )
        over = most is not None and takes.chips > most
        wrong = f"more than {most} chips (--chips)" if over else ""
        yield Candidate(number, point, takes, wrong=wrong)


@dataclass
class _Levels:
    """Asks for candidates by what they take, all that take the same before it looks further."""

    looked: Sequence[Candidate]
    aim: Goal
    rule: Rule
    met: bool = False
    ran: int = 0
    _queue: list[Candidate] = field(default_factory=list)
    _open: int = 0

    def __post_init__(self) -> None:
        able = [one for one in self.looked if not one.wrong]
        self._levels = self.aim.levels(able)

    @property
    def told(self) -> str:
        """How far it is."""
        left = len(self._queue) + self._open
        return f"{self.ran:,} candidates run, {left:,} at hand"

    def ask(self) -> tuple[int, Point] | None:
        """The next candidate; None where what is out decides, or there is none."""
        if not self._queue and not self._open and not self.met and self._levels:
            self._queue = self._levels.pop(0)[::-1]
        if not self._queue:
            return None
        self._open += 1
        one = self._queue.pop()
        return one.number, one.point

    def count(self, new: bool) -> None:
        """Nothing depends on it."""

    def tell(self, number: int, found: Measured) -> None:
        """What a candidate came to."""
        one = self.looked[number]
        self._open -= 1
        self.ran += 1
        one.found = found
        self.met |= one.meets(self.rule)
