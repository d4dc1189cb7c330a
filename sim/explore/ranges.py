"""How sure a verdict is: the scenario run again and again with its constants set within what is
known of them.

First each constant at its ends, the others as they are; then those that matter all together, by
Latin hypercubes; then the one that decides over its whole range, and where the technique stops
paying on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from sim.explore.drive import Tally, drive
from sim.explore.identity import program
from sim.explore.measure import DONE, Measured
from sim.explore.plan import Plan, listed
from sim.explore.questions import flat
from sim.explore.result import STORE
from sim.explore.space import Point
from sim.explore.store import Store
from sim.facts.assumption import Range
from sim.results import Result
from sim.results.metrics import SPEEDUP
from sim.results.sure import Constant, Sure, Swing
from sim.run import prepare
from sim.scenario import Overrides, Scenario, ScenarioError, Source
from sim.text.units import in_unit_of
from sim.workers import Workers, opened

SMALL = 0.001  # of the judged number: a constant that moves it by less matters to nobody
CURVE = 9  # points over the range of the constant that decides
CLOSER = 3  # rounds, each of three points, that close in on a threshold: to 1/64 of a step

# Of numbers without a range: why they do not vary, by their tag.
_NO_KEY = "no key sets it"
_UNSURE = dict.fromkeys(("INFER", "FITTED", "RECALLED"), _NO_KEY)
_UNSURE["CHANGED"] = "set by the scenario"

Progress = Callable[[str, Tally], None]


class _Knob(NamedTuple):
    """A constant, and the keys that set it where a variant has a use for it."""

    constant: Constant
    keys: tuple[str, ...]

    def at(self, value: float) -> Point:
        """The overrides that set it."""
        return {key: in_unit_of(key, value) for key in self.keys}


def ranged(
    source: Source,
    overrides: Overrides,
    result: Result,
    *,
    draws: int = 40,
    seed: int = 0,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress = lambda what, tally: None,
) -> Sure:
    """What is known of the verdict of a `result` of this scenario.

    ValueError where it has no number to be sure of. The answer does not depend on who computes it.
    """
    judged, good = _judged(result)
    scenario, knobs, fixed = _knobs(source, overrides, result)
    with (
        TemporaryDirectory(prefix="podscope-range-") as folder,
        opened(workers or os.cpu_count() or 1, cluster, says=program) as hands,
    ):
        store = Store(Path(folder) / STORE, program(), resume=False)
        try:
            runs = _Runs(source, overrides, scenario, store, hands, judged, progress)
            return _sure(runs, knobs, fixed, good, flat(result)[judged], draws, seed)
        finally:
            store.close()


def _judged(result: Result) -> tuple[str, bool]:
    """The number that the verdict is about, and whether it is a ratio to the baseline."""
    names = [*result.variants]
    speed = {
        name: found
        for name in names[1:]
        if (found := result.comparison[name].get(SPEEDUP.name)) is not None
    }
    if speed:
        return f"{max(speed, key=lambda name: speed[name])}.{SPEEDUP.name}", True
    metrics = result.variants[names[0]]["metrics"]
    kind = result.kinds[result.outcomes[names[0]].kind]
    for key in (*kind.judged, "makespan_s"):
        if metrics.get(key):
            return f"{names[0]}.{key}", False
    raise ValueError("there is no number in this scenario's verdict to be sure of")


def _knobs(
    source: Source, overrides: Overrides, result: Result
) -> tuple[Scenario, list[_Knob], list[str]]:
    """Every constant that the variants rest on and a scenario can set; and those that it cannot, or
    that change nothing here."""
    scenario = listed(source, overrides, []).scenario
    alone = not scenario.own
    keys: dict[str, tuple[str, str, Range, list[str]]] = {}
    fixed: list[str] = []
    for variant, outcome in result.outcomes.items():
        for row in dict.fromkeys(outcome.assumptions):
            if row.range is None:
                number = row.value.strip()[:1].isdigit()
                if row.tag in _UNSURE and number:
                    fixed.append(f"{row.what} ({_UNSURE[row.tag]})")
                continue
            if row.range.low == row.range.high:
                continue
            stem = "" if alone else f"variants.{variant}."
            entry = keys.setdefault(row.what, (row.tag, row.value, row.range, []))
            entry[3].append(stem + row.key)
    knobs = []
    for what, (tag, value, known, places) in keys.items():
        used = _used(source, overrides, [*dict.fromkeys(places)], known)
        if used:
            knobs.append(_Knob(Constant(what, tag, value, known), tuple(used)))
    return scenario, knobs, [*dict.fromkeys(fixed)]


def _used(source: Source, overrides: Overrides, keys: Sequence[str], known: Range) -> list[str]:
    """Those of the keys that their variants have a use for."""
    if _fits(source, overrides, keys, known):
        return [*keys]
    return [key for key in keys if len(keys) > 1 and _fits(source, overrides, [key], known)]


def _fits(source: Source, overrides: Overrides, keys: Iterable[str], known: Range) -> bool:
    plan = listed(source, overrides, [])
    try:
        for value in (known.low, known.high):
            prepare(plan.load({key: in_unit_of(key, value) for key in keys}))
    except (ScenarioError, ValueError):
        return False
    return True


class _Answers:
    """Points in order, and what they came to."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = zip(count(), points)
        self.found: dict[int, Measured] = {}

    def ask(self) -> tuple[int, Point] | None:
        """The next one and its number."""
        return next(self._points, None)

    def count(self, new: bool) -> None:
        """Nothing depends on it."""

    def tell(self, number: int, found: Measured) -> None:
        """Keep it."""
        self.found[number] = found


class _Runs:
    """The scenario at any values of its constants."""

    def __init__(
        self,
        source: Source,
        overrides: Overrides,
        scenario: Scenario,
        store: Store,
        hands: Workers,
        judged: str,
        progress: Progress,
    ) -> None:
        self.source, self.overrides, self.scenario = source, overrides, scenario
        self.store, self.hands, self.judged, self.progress = store, hands, judged, progress

    def at(self, what: str, points: Sequence[Point]) -> list[float]:
        """The judged number at each point; NaN where there is none."""
        if not points:
            return []
        plan: Plan = listed(self.source, self.overrides, points)
        asker = _Answers(points)
        drive(plan, self.store, self.hands, lambda tally: self.progress(what, tally), asker)
        return [self._number(asker.found[place]) for place in range(len(points))]

    def _number(self, found: Measured) -> float:
        return found.values.get(self.judged, np.nan) if found.status == DONE else np.nan


def _sure(
    runs: _Runs,
    knobs: Sequence[_Knob],
    fixed: Sequence[str],
    ratio: bool,
    nominal: float,
    draws: int,
    seed: int,
) -> Sure:
    ends = runs.at(
        "each constant at its ends",
        [
            knob.at(end)
            for knob in knobs
            for end in (knob.constant.known.low, knob.constant.known.high)
        ],
    )
    swings = [
        Swing(knob.constant, ends[2 * place], ends[2 * place + 1])
        for place, knob in enumerate(knobs)
    ]
    dead = {n for n, swing in enumerate(swings) if np.isnan((swing.low, swing.high)).all()}
    fixed = [*fixed, *(f"{knobs[n].constant.name} (no answer at its ends)" for n in sorted(dead))]
    order = sorted({*range(len(knobs))} - dead, key=lambda n: -swings[n].size(nominal))
    moving = [n for n in order if swings[n].size(nominal) > SMALL]
    matter = [knobs[n] for n in moving]
    fitted = [knob for knob in matter if knob.constant.tag == "FITTED"]
    together = runs.at("all together", _drawn(matter, draws, seed))
    told = (
        runs.at("those that are fitted", _drawn(fitted, draws, seed))
        if fitted and len(fitted) < len(matter)
        else []
    )
    curve: list[tuple[float, float]] = []
    crossing: float | None = None
    if matter:
        curve, crossing = _curve(runs, matter[0], ratio)
    return Sure(
        judged=runs.judged,
        ratio=ratio,
        nominal=nominal,
        swings=tuple(swings[n] for n in moving),
        idle=tuple(swings[n].constant.name for n in order if n not in moving),
        fixed=tuple(fixed),
        draws=tuple(value for value in together if np.isfinite(value)),
        lost=sum(not np.isfinite(value) for value in together),
        fitted=tuple(value for value in told if np.isfinite(value)),
        seed=seed,
        curve=tuple(curve),
        crossing=crossing,
    )


def _drawn(knobs: Sequence[_Knob], draws: int, seed: int) -> list[Point]:
    """A Latin hypercube: of each constant one value from each of `draws` equal parts of its
    range."""
    if not knobs:
        return []
    shares = hypercube(len(knobs), draws, seed)
    return [
        {
            k: v
            for knob, at in zip(knobs, row)
            for k, v in knob.at(knob.constant.known.at(at)).items()
        }
        for row in shares.tolist()
    ]


def hypercube(axes: int, draws: int, seed: int) -> np.ndarray:
    """[draws, axes] shares in [0, 1): each axis has one in each of `draws` equal parts."""
    dice = np.random.default_rng(seed)
    parts = np.stack([dice.permutation(draws) for _ in range(axes)], axis=1)
    return (parts + dice.random((draws, axes))) / draws


def _curve(runs: _Runs, knob: _Knob, ratio: bool) -> tuple[list[tuple[float, float]], float | None]:
    """The judged number over all of a constant's range, and where a ratio crosses 1."""
    what = f"over all of {knob.constant.name}"
    known = knob.constant.known

    def at(shares: Iterable[float]) -> list[tuple[float, float]]:
        values = [known.at(share) for share in shares]
        found = runs.at(what, [knob.at(value) for value in values])
        return [(x, y) for x, y in zip(values, found) if np.isfinite(y)]

    curve = at(np.linspace(0.0, 1.0, CURVE).tolist())
    if not ratio:
        return curve, None
    ends = _around(curve)
    for _ in range(CLOSER):
        if ends is None:
            return curve, None
        (low, _), (high, _) = ends
        inner = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
        found = runs.at(what, [knob.at(value) for value in inner])
        closer = [ends[0], *zip(inner, found), ends[1]]
        ends = _around(closer)
    if ends is None:
        return curve, None
    (low, a), (high, b) = ends
    return curve, low + (high - low) * (1.0 - a) / (b - a)


def _around(
    curve: Sequence[tuple[float, float]],
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The two points between which the curve first crosses 1."""
    return next(((a, b) for a, b in pairwise(curve) if (a[1] > 1.0) != (b[1] > 1.0)), None)
