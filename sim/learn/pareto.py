"""Fronts of networks by time and accuracy, and how good a front is: one number, two definitions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """A network: the time of an inference, and its accuracy in per cent."""

    time: float
    accuracy: float


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats in both, by time; of equal ones one.

    ValueError if there is none, or a time or accuracy that cannot be.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.time, -each.accuracy)):
        if not (0 <= point.time < float("inf") and 0 <= point.accuracy <= 100):
            raise ValueError(f"no time and accuracy in per cent: {point.time}, {point.accuracy}")
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    if not found:
        raise ValueError("a front needs at least one point")
    return found


def area_to_ideal(points: Iterable[Point]) -> float:
    """The area between a front and no time at 100 %; lower is better, in time x per cent.

    The "hypervolume" of U-Boost NAS (arXiv 2203.12412): each point's error for the time since the
    one before. A further point of the front can make it worse: before the first point its error
    counts from 0.
    """
    made = front(points)
    times = [0.0, *(point.time for point in made)]
    return sum(
        (t - before) * (100 - point.accuracy) for (before, t), point in zip(pairwise(times), made)
    )


def hypervolume(points: Iterable[Point], worst: Point) -> float:
    """The area that a front dominates, up to the point `worst`; higher is better.

    The standard one (Zitzler and Thiele 1999): a further point never makes it smaller.
    """
    made = [p for p in front(points) if p.time < worst.time and p.accuracy > worst.accuracy]
    times = [*(point.time for point in made), worst.time]
    return sum(
        (after - t) * (point.accuracy - worst.accuracy)
        for (t, after), point in zip(pairwise(times), made)
    )
