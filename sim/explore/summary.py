"""What a sweep says, found in one pass over its points, so that it takes no more memory for a
million of them than for a thousand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from sim.explore.expression import UndefinedError
from sim.explore.measure import DONE
from sim.explore.plan import Plan, key_of
from sim.explore.questions import Questions
from sim.explore.space import Axis, Point, between, number
from sim.explore.store import Row
from sim.text.units import scaled

_BINS = 10  # of a range, or of a list too long for a figure
_LEVELS = 24  # a list of so many values is shown as it is
_PAIRS = 28  # of axes whose interaction is looked at
_DRAWN = 500  # points in a figure of all
_ERRORS = 200  # different ones that are told apart


class Scored(NamedTuple):
    """A point that is all right, and its objectives, each low where it is good."""

    row: Row
    scores: tuple[float, ...]


class Levels:
    """What an axis is divided into for a figure: its values, or stretches of them."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        options = axis.options
        if axis.span is not None:
            edges = [between(axis.span, place / _BINS) for place in range(_BINS)]
            self.labels = [text_of(edge) for edge in edges]
            self._edges = [number(edge) or 0.0 for edge in edges]
        elif len(options) > _LEVELS and axis.ordered:
            firsts = [len(options) * place // _BINS for place in range(_BINS)]
            self.labels = [label(axis, options[first]) for first in firsts]
            at = [number(options[first][axis.keys[0]]) or 0.0 for first in firsts]
            self._edges = at if at[0] < at[-1] else []
            self._places = {
                key_of(option): max(p for p, first in enumerate(firsts) if first <= i)
                for i, option in enumerate(options)
            }
        else:
            self.labels = [label(axis, option) for option in options[:_LEVELS]]
            self._edges = []
            self._places = {key_of(one): place for place, one in enumerate(options[:_LEVELS])}

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, point: Point) -> int | None:
        """The level of a point; None where it has none that is shown."""
        if self.axis.span is None:
            own = {key: point[key] for key in self.axis.keys if key in point}
            return self._places.get(key_of(own))
        value = number(point[self.axis.keys[0]])
        return None if value is None else int(np.searchsorted(self._edges, value, "right")) - 1


def label(axis: Axis, option: Mapping[str, Any]) -> str:
    """An option as a figure writes it: the value alone where the axis is of one key."""
    if len(axis.keys) == 1:
        return text_of(option[axis.keys[0]])
    return ", ".join(text_of(option[key]) for key in axis.keys if key in option)


def text_of(value: Any) -> str:
    """A value of a key as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text_of(one)}" for key, one in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str) and (at := number(value)) is not None:
        return str(scaled(at, value, digits=4))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shortened(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key by as much of its end as tells it from the others."""
    all_keys = list(dict.fromkeys(keys))
    found = {}
    for key in all_keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            same = [k for k in all_keys if k == end or k.endswith(f".{end}")]
            if len(same) == 1 or length == len(parts):
                found[key] = end
                break
    return found


@dataclass
class Moments:
    """Count, sum, sum of squares, least and most of some numbers, by cell."""

    n: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, *shape: int) -> Moments:
        """Of no numbers yet."""
        nothing = np.zeros(shape)
        return cls(nothing.copy(), nothing.copy(), nothing.copy(), np.full(shape, np.inf))

    def add(self, at: tuple[int, ...], value: float) -> None:
        """One more number in a cell."""
        self.n[at] += 1
        self.total[at] += value
        self.squares[at] += value * value
        self.least[at] = min(self.least[at], value)

    @property
    def mean(self) -> np.ndarray:
        """By cell; nan where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 0, self.total / self.n, np.nan)


class Effect(NamedTuple):
    """How the first objective goes with the levels of one axis, or of two, in its own sign."""

    levels: tuple[Levels, ...]
    mean: np.ndarray
    best: np.ndarray
    share: float  # of the variance over all points; of two axes, beyond what each does by itself


@dataclass
class Summary:
    """Counts, the best point, the front, effects, warnings and errors of a sweep."""

    counts: Counter[str] = field(default_factory=Counter)
    feasible: int = 0
    best: Scored | None = None
    front: list[Scored] = field(default_factory=list)
    drawn: list[Scored] = field(default_factory=list)  # some, evenly, for a figure of all
    effects: list[Effect] = field(default_factory=list)
    interactions: list[Effect] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of the workers
    own_s: float = 0.0  # of these, the simulation's


def summarised(plan: Plan, rows: Iterable[Row]) -> Summary:
    """The summary of the points of a plan."""
    found = Summary()
    questions = plan.questions
    levels = [Levels(axis) for axis in plan.space.axes]
    whole = Moments.of(1)
    by_axis = [Moments.of(len(each)) for each in levels]
    pairs = [*combinations(range(len(levels)), 2)][:_PAIRS]
    by_pair = {pair: Moments.of(len(levels[pair[0]]), len(levels[pair[1]])) for pair in pairs}
    stride = max(1, math.ceil(plan.size / _DRAWN))
    for row in rows:
        scored = _scored(row, questions, found)
        if scored is None:
            continue
        found.feasible += 1
        if found.best is None or scored.scores < found.best.scores:
            found.best = scored
        found.front = with_point(found.front, scored)
        if row.number % stride == 0:
            found.drawn.append(scored)
        score = scored.scores[0]
        whole.add((0,), score)
        at = [each.of(row.point) for each in levels]
        for place, moments in zip(at, by_axis):
            if place is not None:
                moments.add((place,), score)
        for (one, other), moments in by_pair.items():
            a, b = at[one], at[other]
            if a is not None and b is not None:
                moments.add((a, b), score)
    if questions.objectives and found.feasible:
        _effects(found, questions, levels, whole, by_axis, by_pair)
    return found


def _scored(row: Row, questions: Questions, found: Summary) -> Scored | None:
    """The point with its scores, if it is all right; what it says is counted either way."""
    result = row.result
    if result is None:
        found.counts["missing"] += 1
        return None
    found.counts[result.status] += 1
    found.seconds += result.seconds
    found.own_s += result.own_s
    found.warnings.update(result.warnings)
    if result.status != DONE:
        if result.error in found.errors or len(found.errors) < _ERRORS:
            found.errors[result.error] += 1
        return None
    excesses = questions.excesses(result.values, row.point).values()
    if any(excess is None or excess > 0 for excess in excesses):
        found.counts["infeasible"] += 1
        return None
    if not questions.objectives:
        return None
    try:
        return Scored(row, tuple(questions.scores(result.values, row.point)))
    except UndefinedError as error:
        found.counts["undefined"] += 1
        found.errors[str(error)] += 1
        return None


def with_point(front: Sequence[Scored], one: Scored) -> list[Scored]:
    """The points that no other betters in all objectives, with one more."""
    if any(_betters(other, one) or other.scores == one.scores for other in front):
        return list(front)
    return [other for other in front if not _betters(one, other)] + [one]


def _betters(one: Scored, other: Scored) -> bool:
    """Whether `one` is as good in all objectives, and better in one."""
    return one.scores != other.scores and all(a <= b for a, b in zip(one.scores, other.scores))


def _effects(
    found: Summary,
    questions: Questions,
    levels: Sequence[Levels],
    whole: Moments,
    by_axis: Sequence[Moments],
    by_pair: Mapping[tuple[int, int], Moments],
) -> None:
    sign = questions.objectives[0].sign
    n, mean = whole.n[0], whole.mean[0]
    around = max(float(whole.squares[0] - n * mean * mean), 0.0)

    def share(squares: float) -> float:
        return squares / around if around > 1e-24 * max(float(whole.squares[0]), 1e-300) else 0.0

    for each, moments in zip(levels, by_axis):
        squares = float(np.nansum(moments.n * (moments.mean - mean) ** 2))
        found.effects.append(
            Effect((each,), sign * moments.mean, sign * moments.least, share(squares))
        )
    for (one, other), moments in by_pair.items():
        along, down = by_axis[one].mean, by_axis[other].mean
        rest = moments.mean - along[:, None] - down[None, :] + mean
        squares = float(np.nansum(moments.n * rest**2))
        pair = (levels[one], levels[other])
        found.interactions.append(
            Effect(pair, sign * moments.mean, sign * moments.least, share(squares))
        )
    found.interactions.sort(key=lambda effect: -effect.share)
