"""Points chosen by what was found so far: Optuna asks for them and is told what they came to.

It is told in the order in which it asked, and asks at most so many ahead, so that its choice does
not depend on which worker is the quickest, nor on how many there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sim.explore.expression import UndefinedError
from sim.explore.measure import DONE, Measured
from sim.explore.questions import Questions
from sim.explore.space import Axis, Point, Space, joined
from sim.scenario.sweep import Search
from sim.text.units import quantity, scaled

_ENOUGH = 20  # times as many questions as points: then the search is going round in circles


class Optuna:
    """An Optuna study over a space.  ValueError if Optuna is not installed."""

    def __init__(self, space: Space, questions: Questions, search: Search) -> None:
        self._space, self._questions, self._search = space, questions, search
        self._study = _study(questions, search)
        self._open: dict[int, tuple[Any, Point]] = {}  # asked and not yet told, by number
        self._answers: dict[int, Measured] = {}  # that came before it was their turn
        self._tried: set[tuple[Any, ...]] = set()
        self._dice = np.random.default_rng(search.seed)
        self._asked = self._told = self._new = 0

    def ask(self) -> tuple[int, Point] | None:
        """The next point and its number; None where there is none until more is known, or at
        all."""
        if self._over() or self._asked - self._told >= self._search.ahead:
            return None
        number = self._asked
        self._asked += 1
        trial = self._study.ask()
        places = [_suggested(trial, axis) for axis in self._space.axes]
        if tuple(places) in self._tried and (fresh := self._nearest(tuple(places))):
            trial = self._instead(trial, fresh)
            places = [_suggested(trial, axis) for axis in self._space.axes]
        self._tried.add(tuple(places))
        point = joined([_value(axis, place) for axis, place in zip(self._space.axes, places)])
        self._open[number] = trial, point
        return number, point

    def _instead(self, trial: Any, places: tuple[int, ...]) -> Any:
        """Another trial in place of one that asks for what was asked for before: a sampler that
        has found a good place goes on proposing it."""
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)
        names = [axis.name for axis in self._space.axes]
        self._study.enqueue_trial(dict(zip(names, places)))
        return self._study.ask()

    def _nearest(self, places: tuple[int, ...]) -> tuple[int, ...] | None:
        """The combination nearest to one that was tried, of those that were not: fewest steps along
        lists, of equals any.  None where a key has a whole range, or all were tried."""
        if self._space.combinations is None:
            return None
        ring, seen = [places], {places}
        while ring:
            following = [
                near
                for one in ring
                for near in self._beside(one)
                if near not in seen and not seen.add(near)  # type: ignore[func-returns-value]
            ]
            fresh = [one for one in following if one not in self._tried]
            if fresh:
                return fresh[int(self._dice.integers(len(fresh)))]
            ring = following
        return None

    def _beside(self, places: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """One step along one axis: to the next value of an ordered list, to any of another."""
        for at, axis in enumerate(self._space.axes):
            last = len(axis.options) - 1
            steps = (places[at] - 1, places[at] + 1) if axis.ordered else range(last + 1)
            for place in steps:
                if 0 <= place <= last and place != places[at]:
                    yield (*places[:at], place, *places[at + 1 :])

    def count(self, new: bool) -> None:
        """Whether the point asked for last was new, or the same as an earlier one of this sweep:
        that one costs nothing."""
        self._new += new

    def _over(self) -> bool:
        most = self._search.points
        known = self._space.combinations
        circling = self._asked >= _ENOUGH * most
        return self._new >= most or circling or (known is not None and self._new >= known)

    def tell(self, number: int, found: Measured) -> None:
        """What a point came to."""
        self._answers[number] = found
        while (answer := self._answers.pop(self._told, None)) is not None:
            trial, point = self._open.pop(self._told)
            self._told += 1
            self._tell(trial, point, answer)

    def _tell(self, trial: Any, point: Point, found: Measured) -> None:
        from optuna.trial import TrialState

        excesses = self._questions.excesses(found.values, point)
        for text, excess in excesses.items():
            # What cannot be said (a variant was left out, a metric has no value) is not held
            # against a point that is told to be bad anyway, nor for it.
            trial.set_constraint(text, 0.0 if excess is None else excess)
        try:
            if found.status != DONE:
                raise UndefinedError(found.error)
            scores = self._questions.scores(found.values, point)
        except UndefinedError:
            state = TrialState.PRUNED if excesses and found.values else TrialState.FAIL
            self._study.tell(trial, state=state)
            return
        self._study.tell(trial, scores)


def _study(questions: Questions, search: Search) -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("a search needs Optuna; install podscope[explore]") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an option is experimental
        if search.sampler == "tpe":
            sampler: Any = optuna.samplers.TPESampler(
                seed=search.seed, multivariate=True, constant_liar=True
            )
        else:
            sampler = optuna.samplers.NSGAIISampler(seed=search.seed)
    return optuna.create_study(sampler=sampler, directions=["minimize"] * len(questions.objectives))


def _suggested(trial: Any, axis: Axis) -> Any:
    """What the trial chooses on an axis: a number in a range, or the place in a list, which has an
    order or has none."""
    if axis.span is not None:
        span, log = axis.span, axis.span.scale == "log"
        if isinstance(span.low, int) and isinstance(span.high, int):
            return trial.suggest_int(axis.name, span.low, span.high, log=log)
        low, high = quantity(span.low)[0], quantity(span.high)[0]
        return trial.suggest_float(axis.name, low, high, log=log)
    last = len(axis.options) - 1
    if axis.ordered:
        return trial.suggest_int(axis.name, 0, last)
    return trial.suggest_categorical(axis.name, list(range(last + 1)))


def _value(axis: Axis, chosen: Any) -> Mapping[str, Any]:
    """The keys of an axis at what was chosen."""
    if axis.span is None:
        return axis.options[chosen]
    whole = isinstance(chosen, int)
    return {axis.keys[0]: chosen if whole else scaled(chosen, axis.span.low)}
