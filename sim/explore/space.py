"""The points of a sweep: axes, every combination of them, or some drawn at random. No point is
held: a million of them take no memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from sim.scenario.sweep import Range, Sweep
from sim.text.units import quantity, scaled

Point = dict[str, Any]  # dotted key -> value, as a file would have it


class Axis(NamedTuple):
    """Keys that vary together: `options` are what they may be; or one key over all of a range."""

    keys: tuple[str, ...]
    options: tuple[Point, ...] = ()
    span: Range | None = None

    @property
    def name(self) -> str:
        """As a figure calls it."""
        return " & ".join(self.keys)

    @property
    def ordered(self) -> bool:
        """Whether the options are numbers, or quantities, that rise or fall from first to last."""
        if len(self.keys) != 1:
            return False
        at = [number(option[self.keys[0]]) for option in self.options]
        if any(value is None for value in at):
            return False
        rises = [b > a for a, b in pairwise(at)]  # type: ignore[operator]
        return len(set(at)) == len(at) and len(set(rises)) < 2

    def drawn(self, share: float) -> Point:
        """Its value at a share, in [0, 1), of all of it."""
        if self.span is None:
            return self.options[int(share * len(self.options))]
        return {self.keys[0]: between(self.span, share)}


def number(value: Any) -> float | None:
    """A value as a number, in SI; None if it is no number and no quantity."""
    try:
        return quantity(value)[0]
    except ValueError:
        return None


def between(span: Range, share: float) -> Any:
    """The value at a share of a range, written as its low end is."""
    low, high = quantity(span.low)[0], quantity(span.high)[0]
    if isinstance(span.low, int) and isinstance(span.high, int):
        high += 1  # each whole number has its room
        log = span.scale == "log"
        found = low * (high / low) ** share if log else low + share * (high - low)
        return min(math.floor(found), span.high)
    if span.scale == "log":
        return scaled(low * (high / low) ** share, span.low)
    return scaled(low + share * (high - low), span.low)


def steps(span: Range) -> list[Any]:
    """The `count` values of a range, ends included; whole ones once each."""
    assert span.count is not None
    low, high = quantity(span.low)[0], quantity(span.high)[0]
    found: list[Any] = []
    for place in range(span.count):
        share = place / (span.count - 1)
        value = low * (high / low) ** share if span.scale == "log" else low + share * (high - low)
        whole = isinstance(span.low, int) and isinstance(span.high, int)
        found.append(round(value) if whole else scaled(value, span.low))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Space:
    """Axes, and which of their combinations are points."""

    axes: tuple[Axis, ...]
    draws: int | None = None  # so many at random
    seed: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that vary, in order."""
        return tuple(key for axis in self.axes for key in axis.keys)

    @property
    def combinations(self) -> int | None:
        """How many there are; None where a range has any number."""
        if any(axis.span for axis in self.axes):
            return None
        return math.prod(len(axis.options) for axis in self.axes)

    @property
    def size(self) -> int | None:
        """How many points there are."""
        return self.combinations if self.draws is None else self.draws

    def points(self) -> Iterator[Point]:
        """One after the other, the last axis fastest."""
        if self.draws is None:
            for options in product(*(axis.options for axis in self.axes)):
                yield joined(options)
            return
        for place in range(self.draws):
            dice = np.random.default_rng([self.seed, place])
            shares = dice.random(len(self.axes)).tolist()
            yield joined([axis.drawn(share) for axis, share in zip(self.axes, shares)])


def joined(parts: Sequence[Mapping[str, Any]]) -> Point:
    """One point of the parts that its axes give."""
    return {key: value for part in parts for key, value in part.items()}


def axes_of(sweep: Sweep) -> tuple[Axis, ...]:
    """The axes that a section names; ValueError where a key stands in two of them."""
    axes = []
    for key, values in sweep.over.items():
        if isinstance(values, Range):
            stepped = () if values.count is None else tuple({key: v} for v in steps(values))
            axes.append(Axis((key,), stepped, values if values.count is None else None))
        else:
            axes.append(Axis((key,), tuple({key: value} for value in values)))
    if sweep.zip:
        rows = zip(*sweep.zip.values(), strict=True)
        axes.append(Axis(tuple(sweep.zip), tuple(dict(zip(sweep.zip, row)) for row in rows)))
    if sweep.list:
        keys = tuple(dict.fromkeys(key for point in sweep.list for key in point))
        axes.append(Axis(keys, tuple(sweep.list)))
    every = [key for axis in axes for key in axis.keys]
    twice = next((key for key in every if every.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} varies in two places")
    return tuple(axes)


def as_overrides(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as overrides, whose texts are read as YAML: text stays text."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value
        for key, value in point.items()
    }
