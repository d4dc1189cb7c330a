"""From a scenario with a section `sweep` to a plan: every fault said before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sim.explore.expression import Expression, parse, parse_bound
from sim.explore.measure import Also
from sim.explore.questions import Objective, Questions, names_wrong
from sim.explore.space import Axis, Point, Space, as_overrides, axes_of, joined
from sim.kinds import KINDS
from sim.results.expect import unknown_metric
from sim.run import load
from sim.scenario import Overrides, Scenario, ScenarioError, Source
from sim.scenario.layers import OVERRIDES
from sim.scenario.sweep import Search, Sweep
from sim.text.strict_yaml import Fault, KeyPath

_CHECKED = 1000  # values that are tried one by one before a sweep begins
_QUIET = {"record.enabled": False}  # what a timeline would show is of no use in a table

_NO_PART = ("question", "expect", "extends", "sweep")  # keys of a file that a point has not

_NOTHING = Questions((), ())
_LIMIT_S = 3600.0  # wall time after which a point of a list is given up

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Plan:
    """A sweep made ready: the scenario as it stands, the space, what is asked of each point, and
    how points are chosen; `also` is asked of every variant beside its metrics."""

    source: Source
    overrides: Mapping[str, Any]
    quiet: Mapping[str, Any]  # overrides that leave out what no table has
    scenario: Scenario
    space: Space
    questions: Questions
    search: Search | None
    limit_s: float
    also: Also | None = None

    @property
    def size(self) -> int:
        """How many points there will be, at most."""
        found = self.search.points if self.search else self.space.size
        assert found is not None
        return found

    def of(self, point: Point) -> dict[str, Any]:
        """The overrides that make the scenario that point."""
        return {**self.overrides, **as_overrides(point)}

    def quietly(self, point: Point) -> dict[str, Any]:
        """The same, without a timeline."""
        return {**self.quiet, **self.of(point)}

    def load(self, point: Point) -> Scenario:
        """The scenario at a point; ScenarioError where it cannot be."""
        return load(self.source, self.quietly(point))


def planned(source: Source, overrides: Overrides = ()) -> Plan:
    """The plan of the sweep that a scenario says; ScenarioError with every fault."""
    given = as_mapping(overrides)
    scenario = load(source, given)
    if scenario.sweep is None or scenario.swept is None:
        what = "there is no section `sweep`, which says what varies; docs/sweeps.md has examples"
        raise ScenarioError([Fault(str(scenario.path.name), 0, "sweep", what)])
    sweep = scenario.sweep
    if not isinstance(source, Mapping):
        source = str(scenario.path)  # from any folder, by any worker
    try:
        axes = axes_of(sweep)
    except ValueError as error:
        raise ScenarioError([scenario.sweep_fault(str(error))]) from None
    quiet = _quiet(scenario)
    faults = [*_idle(sweep, axes, scenario), *_counted(sweep, axes, scenario)]
    faults += [*_tried(source, given, scenario, sweep, axes)]
    space = Space(
        axes,
        sweep.random.points if sweep.random else None,
        sweep.random.seed if sweep.random else 0,
    )
    questions, wrong = _questions(scenario, sweep, space)
    if faults := [*faults, *wrong]:
        raise ScenarioError(dict.fromkeys(faults))
    return Plan(source, given, quiet, scenario, space, questions, sweep.search, sweep.limit)


def listed(source: Source, overrides: Overrides, points: Sequence[Point]) -> Plan:
    """The plan of points that are known beforehand, of a scenario that need not have a section
    `sweep`; nothing is asked of them but their metrics."""
    given = as_mapping(overrides)
    scenario = load(source, given)
    if not isinstance(source, Mapping):
        source = str(scenario.path)
    keys = tuple(dict.fromkeys(key for point in points for key in point))
    space = Space((Axis(keys, tuple(points)),))
    return Plan(source, given, _quiet(scenario), scenario, space, _NOTHING, None, _LIMIT_S)


def _quiet(scenario: Scenario) -> dict[str, Any]:
    return {key: value for key, value in _QUIET.items() if _read(scenario, key)}


def as_mapping(overrides: Overrides) -> dict[str, Any]:
    """Overrides by key; ScenarioError where one is not `key=value`."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    wrong = [text for text in overrides if "=" not in text]
    if wrong:
        raise ScenarioError(Fault(OVERRIDES, 0, text, "write it as key=value") for text in wrong)
    pairs = (text.partition("=") for text in overrides)
    return {key.strip(): value for key, _, value in pairs}


def _read(scenario: Scenario, key: str) -> bool:
    """Whether the work of all variants reads a key."""
    kinds = [KINDS[variant.workload.kind] for variant in scenario.variants.values()]
    return all(key in kind.reads or key.split(".")[0] in kind.reads for kind in kinds)


def _idle(sweep: Sweep, axes: Sequence[Axis], scenario: Scenario) -> Iterator[Fault]:
    """Keys that change nothing of what a point is."""
    for key in (key for axis in axes for key in axis.keys):
        if key == "variants" or key.split(".")[0] in _NO_PART:
            what = f"{key} is no part of what is simulated; take this out"
            yield scenario.sweep_fault(what, _place(sweep, key, 0))


def _counted(sweep: Sweep, axes: Sequence[Axis], scenario: Scenario) -> Iterator[Fault]:
    """Ranges without a count, where every combination is asked for."""
    for axis in axes if not (sweep.random or sweep.search) else ():
        if axis.span is not None:
            what = "say how many values: `count`; without, only random and search can use a range"
            yield scenario.sweep_fault(what, ("over", *axis.keys))


def _tried(
    source: Source,
    given: Mapping[str, Any],
    scenario: Scenario,
    sweep: Sweep,
    axes: Sequence[Axis],
) -> Iterator[Fault]:
    """Keys that are none, and values that their keys cannot have: each value once, with the first
    of every other axis.  What only a combination cannot be is a point that fails."""
    ends = [axis.drawn(0.0) for axis in axes]
    said: set[tuple[str, str]] = set()
    tries = 0
    for place, axis in enumerate(axes):
        options = axis.options or (axis.drawn(0.0), axis.drawn(1.0 - 1e-9))
        for number, option in enumerate(options):
            if (tries := tries + 1) > _CHECKED:
                return
            point = joined([*ends[:place], option, *ends[place + 1 :]])
            for fault in _faults(source, {**given, **as_overrides(point)}):
                key = next((k for k in option if _about(fault, k)), None)
                if key is not None and (key, fault.what) not in said:
                    said.add((key, fault.what))
                    yield scenario.sweep_fault(fault.what, _place(sweep, key, number))


def _faults(source: Source, overrides: Mapping[str, Any]) -> list[Fault]:
    try:
        load(source, overrides)
    except ScenarioError as error:
        return error.faults
    return []


def _about(fault: Fault, key: str) -> bool:
    """Whether a fault is of what was laid over at this key."""
    return fault.file == OVERRIDES and (
        fault.key == key or fault.key.startswith((f"{key}.", f"{key}["))
    )


def _place(sweep: Sweep, key: str, number: int) -> KeyPath:
    """Where in the section a value of a key stands."""
    if key in sweep.over:
        return ("over", key, number) if isinstance(sweep.over[key], list) else ("over", key)
    return ("zip", key, number) if key in sweep.zip else ("list", number, key)


def _questions(scenario: Scenario, sweep: Sweep, space: Space) -> tuple[Questions, list[Fault]]:
    faults: list[Fault] = []
    asked = Questions(tuple(scenario.variants), space.keys)

    def checked(read: Callable[[str], Parsed], text: str, *at: str | int) -> Parsed | None:
        try:
            found = read(text)
            names = found.names  # type: ignore[attr-defined]
            if wrong := names_wrong(names, asked, _unknown(scenario), _parts(scenario)):
                raise ValueError(wrong)
        except ValueError as error:
            faults.append(scenario.sweep_fault(str(error), at))
            return None
        return found

    derived: dict[str, Expression] = {}
    for name, text in sweep.metrics.items():
        if name in asked.variants or name in asked.keys:
            what = "a variant has this name" if name in asked.variants else "a key has this name"
            faults.append(scenario.sweep_fault(what, ("metrics", name)))
        elif expression := checked(parse, text, "metrics", name):
            derived[name] = expression
        asked = Questions(asked.variants, asked.keys, dict(derived))
    objectives = [
        Objective(found, sign)
        for way, sign in (("minimise", 1.0), ("maximise", -1.0))
        for place, text in enumerate(getattr(sweep, way))
        if (found := checked(parse, text, way, place))
    ]
    bounds = [
        bound
        for place, text in enumerate(sweep.constraints)
        if (bound := checked(parse_bound, text, "constraints", place))
    ]
    texts = [one.text for one in objectives]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        faults.append(scenario.sweep_fault(f"{twice!r} is asked for twice"))
    return (
        Questions(asked.variants, asked.keys, derived, tuple(objectives), tuple(bounds)),
        faults,
    )


def _unknown(scenario: Scenario) -> Callable[[str, str, bool], str]:
    def unknown(variant: str, metric: str, of_part: bool) -> str:
        kind = KINDS[scenario.variants[variant].workload.kind]
        return unknown_metric(metric, kind, of_part=of_part)

    return unknown


def _parts(scenario: Scenario) -> dict[str, list[str]]:
    """The parts of each variant's work by name: jobs, tenants, networks."""
    found = {}
    for name, variant in scenario.variants.items():
        kind = KINDS[variant.workload.kind]
        found[name] = [*getattr(variant.workload, kind.part_key, {})] if kind.part_key else []
    return found


def key_of(point: Point) -> str:
    """A point as text: equal for equal points."""
    return json.dumps(point, sort_keys=True, ensure_ascii=False)
