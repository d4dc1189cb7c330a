"""The highest request rate that a scenario takes before its limits fail, and how sure that is.

A rate is tried by replaying the trace at it. Requests are not independent, so how sure the mean of
a run is comes from the means of twenty equal stretches of it (batch means, Student's t). The
capacity is the rate at which the mean meets the limit; its interval goes from the highest rate that
surely meets it to the highest that may. All three are found by bisection over one set of runs. A
run of few requests may fail at a rate and meet the limit at a higher one: the lowest that fails
counts, looked for in steps of 1 % down to a tenth below what bisection finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

STRETCHES, STUDENT = 20, 2.093  # two-sided, 95 %, of 19 degrees of freedom
LEAST = 200  # requests, below which twenty stretches say nothing
FACTOR = 2.0**12  # how far from the first rate the limit is looked for
CLOSE = 0.005  # of a rate: as near as bisection goes
CORRELATED = 0.5  # of one stretch's mean with the next's: above, the interval is too narrow


class Probe(NamedTuple):
    """A rate that was tried: the mean of what is limited, how far it may be off (95 %), and what is
    to be said of it."""

    rate: float
    mean: float
    half: float
    correlation: float = 0.0
    note: str = ""


class Limit(NamedTuple):
    """What must hold: a mean over requests is at most `most`.  `what` names it, as it is shown."""

    what: str
    most: float


Try = Callable[[float], tuple[np.ndarray, str]]  # rate -> values by request in order, what to say


@dataclass
class Capacity:
    """The answer. `rate` None: no rate that was tried meets the limit, or all do, as `why` says;
    `low` and `high` are the ends of its interval, inf where it is open."""

    limit: Limit
    rate: float | None = None
    low: float = 0.0
    high: float = np.inf
    why: str = ""
    probes: list[Probe] = field(default_factory=list)

    @property
    def width(self) -> float | None:
        """Of the interval, over the rate."""
        return None if not self.rate else (self.high - self.low) / self.rate

    @property
    def at(self) -> Probe | None:
        """The slowest rate that fails."""
        failing = [probe for probe in self.probes if probe.mean > self.limit.most]
        return min(failing, key=lambda probe: probe.rate, default=None)

    @property
    def below(self) -> Probe | None:
        """The fastest rate below it that holds."""
        at = self.at
        held = [
            p for p in self.probes if p.mean <= self.limit.most and (not at or p.rate < at.rate)
        ]
        return max(held, key=lambda probe: probe.rate, default=None)

    @property
    def warnings(self) -> list[str]:
        """What is to be said of how sure it is."""
        said = []
        near = [p for p in (self.below, self.at) if p]
        if any(probe.correlation > CORRELATED for probe in near):
            said.append(
                "stretches of the run follow each other: the trace is short for its load, and the "
                "interval is narrower than it should be"
            )
        at = self.at
        if at and any(p.rate > at.rate and p.mean <= self.limit.most for p in self.probes):
            said.append("some higher rates meet the limit again; the lowest that fails counts")
        return said


def means(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, half of its 95 % interval, and the correlation of one stretch's mean with the next's.
    Values that are 0 or 1 and all alike are no proof: then at least the rule of three holds."""
    count = len(values) // STRETCHES * STRETCHES
    if len(values) < LEAST:
        raise ValueError(f"{len(values):,} requests are too few to say; at least {LEAST} are due")
    if not np.isfinite(values).all():
        return np.inf, 0.0, 0.0
    each = values[:count].reshape(STRETCHES, -1).mean(axis=1)
    mean, spread = float(values.mean()), float(each.std(ddof=1))
    half = STUDENT * spread / STRETCHES**0.5
    if mean in (0.0, 1.0) and set(np.unique(values)) <= {0.0, 1.0}:
        half = max(half, 3.0 / len(values))
    apart = each - each.mean()
    power = float((apart**2).sum())
    following = float((apart[:-1] * apart[1:]).sum()) / power if power else 0.0
    return mean, half, following


def find(attempt: Try, first: float, limit: Limit, close: float = CLOSE) -> Capacity:
    """The capacity of what `attempt` runs, from the rate `first` on.  ValueError for runs of too
    few requests."""
    probes: dict[float, Probe] = {}

    def probe(rate: float) -> Probe:
        rate = float(f"{rate:.6g}")
        if rate not in probes:
            values, note = attempt(rate)
            mean, half, following = means(values)
            probes[rate] = Probe(rate, mean, half, following, note)
        return probes[rate]

    found = Capacity(limit)
    ends = []
    for sign in (0.0, 1.0, -1.0):  # as it is; surely; perhaps

        def holds(one: Probe, sign: float = sign) -> bool:
            return one.mean + sign * one.half <= limit.most

        ends.append(_highest(probe, probes, holds, first, close))
    rate, low, high = ends
    while 0.0 < rate < np.inf:  # does a lower one fail?
        below = [probe(rate * (0.9 + 0.01 * step)) for step in range(10)]
        failing = next((p.rate for p in below if p.mean > limit.most), None)
        if failing is None:
            break
        rate = _between(probe, lambda one: one.mean <= limit.most, failing * 0.99, failing, close)
    found.probes = sorted(probes.values())
    if rate in (0.0, np.inf):
        end = found.probes[0 if rate == 0.0 else -1]
        way = "even at" if rate == 0.0 else "still at"
        found.why = f"{way} {end.rate:.4g}/s {limit.what} is {end.mean:.4g}, limit {limit.most:.4g}"
        return found
    found.rate, found.low, found.high = rate, min(low, rate), max(high, rate)
    return found


def _highest(
    probe: Callable[[float], Probe],
    known: Mapping[float, Probe],
    holds: Callable[[Probe], bool],
    first: float,
    close: float,
) -> float:
    """The highest rate at which it holds; 0 or inf where that is out of reach."""
    failing = min((p.rate for p in known.values() if not holds(p)), default=None)
    below = [p.rate for p in known.values() if holds(p) and (failing is None or p.rate < failing)]
    held = max(below, default=None)
    if held is None and failing is None:
        held, failing = (first, None) if holds(probe(first)) else (None, first)
    while failing is None:
        assert held is not None
        if held > first * FACTOR:
            return np.inf
        held, failing = (2 * held, None) if holds(probe(2 * held)) else (held, 2 * held)
    while held is None:
        if failing < first / FACTOR:
            return 0.0
        held, failing = (failing / 2, failing) if holds(probe(failing / 2)) else (None, failing / 2)
    return _between(probe, holds, held, failing, close)


def _between(
    probe: Callable[[float], Probe],
    holds: Callable[[Probe], bool],
    held: float,
    failing: float,
    close: float,
) -> float:
    """The highest rate that holds, from one that does to one that does not."""
    while failing / held > 1 + close:
        middle = probe((held * failing) ** 0.5)
        if not held < middle.rate < failing:
            break
        held, failing = (middle.rate, failing) if holds(middle) else (held, middle.rate)
    return held
