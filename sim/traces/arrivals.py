"""When requests come: a renewal process with Gamma gaps, run at a rate that may change over time.

Gaps are drawn at a rate of one and their sum is read through the inverse of the rate's integral, so
a burst or a night stretches and squeezes them: of any length of time the number of requests is what
the rate says, and within a stretch of constant rate the gaps keep their coefficient of variation
(CV; 1: Poisson, 0: a metronome).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sim.traces.columns import Array

# rows drawn at once, whatever the chunk that is asked for, so that the chunk changes no number
BATCH = 65_536


@dataclass(frozen=True)
class Windows:
    """Rates that change at fixed times, over and over: those of a day, or of a recorded hour."""

    window_s: float
    rates_per_s: tuple[float, ...]


@dataclass(frozen=True)
class OnOff:
    """A busy and a quiet rate that take turns, each for an exponentially distributed time."""

    on_per_s: float
    off_per_s: float
    mean_on_s: float
    mean_off_s: float


@dataclass(frozen=True)
class Arrivals:
    """A stream of arrivals: its rate, and the CV of the gaps within a stretch of constant rate.

    A CV of 1 is that of independent users; above it gaps make bursts, below it regularity.
    """

    rate: float | Windows | OnOff
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.cv < math.inf):
            raise ValueError(f"the CV of gaps ({self.cv}) must not be negative")
        rate = self.rate
        if isinstance(rate, OnOff):
            positive = (rate.on_per_s, rate.mean_on_s, rate.mean_off_s)
            if not (
                all(0 < number < math.inf for number in positive) and 0 <= rate.off_per_s < math.inf
            ):
                raise ValueError(
                    f"{rate}: the rate when on and both times must be positive, the other not "
                    "negative"
                )
        elif isinstance(rate, Windows):
            if not (
                0 < rate.window_s < math.inf
                and all(0 <= each < math.inf for each in rate.rates_per_s)
            ):
                raise ValueError(
                    f"windows of {rate.window_s} s: their length must be positive, no rate negative"
                )
            if not sum(rate.rates_per_s) > 0:
                raise ValueError("a rate of zero in all windows: nothing would ever arrive")
        elif not 0 < rate < math.inf:
            raise ValueError(f"the rate ({rate}) must be positive")


def on_off(
    rate_per_s: float, on_share: float, mean_on_s: float, off_per_s: float = 0.0, cv: float = 1.0
) -> Arrivals:
    """Bursts of `mean_on_s` for `on_share` of the time, so dense that the mean is `rate_per_s`."""
    if not 0 < on_share < 1:
        raise ValueError(f"the share of the time that is on ({on_share}) must lie between 0 and 1")
    on_per_s = (rate_per_s - off_per_s * (1 - on_share)) / on_share
    return Arrivals(
        OnOff(on_per_s, off_per_s, mean_on_s, mean_on_s * (1 - on_share) / on_share), cv
    )


def diurnal(
    rate_per_s: float,
    swing: float,
    period_s: float = 86_400.0,
    peak_s: float = 50_400.0,
    cv: float = 1.0,
) -> Arrivals:
    """A day: a cosine around `rate_per_s`, up by the share `swing` at `peak_s`, in 288 steps."""
    if not 0 <= swing <= 1:
        raise ValueError(f"the swing of the day ({swing}) must lie between 0 and 1")
    middle = (np.arange(288) + 0.5) / 288 - peak_s / period_s
    rates = rate_per_s * (1 + swing * np.cos(2 * np.pi * middle))
    return Arrivals(Windows(period_s / 288, tuple(rates.round(12).tolist())), cv)


def histogram(window_s: float, counts: Sequence[float], cv: float = 1.0) -> Arrivals:
    """The rate over time of a recording, by windows of `window_s`; it begins again at its end."""
    if not window_s > 0:
        raise ValueError(f"the windows of a histogram ({window_s} s) must be longer than nothing")
    return Arrivals(Windows(window_s, tuple(count / window_s for count in counts)), cv)


def times(law: Arrivals, seed: int) -> Iterator[Array]:
    """Arrival times in seconds without end, BATCH at a time, the first at 0, in whole microseconds.

    Microseconds, so that the last bit of a logarithm, which differs between processors, does not
    show.
    """
    clock_s = _clock(law.rate, seed)
    reached, start = 0.0, None
    for batch in itertools.count():
        sums = reached + np.cumsum(_unit_gaps(law.cv, dice(seed, 0, batch)))
        reached = float(sums[-1])
        at_s = clock_s(sums)
        start = float(at_s[0]) if start is None else start
        yield (at_s - start).round(6)


def dice(seed: int, purpose: int, batch: int) -> np.random.Generator:
    """A generator for one purpose and one batch of rows."""
    if seed < 0:
        raise ValueError(f"seed ({seed}) must be 0 or more")
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, batch)))
    )


def _unit_gaps(cv: float, random: np.random.Generator) -> Array:
    if cv < 1e-7:  # no more than rounding
        return np.ones(BATCH)
    return random.exponential(1.0, BATCH) if cv == 1 else random.gamma(cv**-2, cv**2, BATCH)


def _clock(rate: float | Windows | OnOff, seed: int) -> Callable[[Array], Array]:
    """What tells when the integral of a rate reaches given sums; asked for rising ones."""
    if isinstance(rate, Windows):
        return partial(_cycle_s, rate)
    return _Switching(rate, seed).at_s if isinstance(rate, OnOff) else lambda sums: sums / rate


def _cycle_s(rate: Windows, sums: Array) -> Array:
    ends_s = rate.window_s * np.arange(len(rate.rates_per_s) + 1)
    integral = np.concatenate(([0.0], np.cumsum(rate.window_s * np.array(rate.rates_per_s))))
    rounds, rest = np.divmod(sums, integral[-1])
    return rounds * ends_s[-1] + np.interp(rest, integral, ends_s)


class _Switching:
    def __init__(self, rate: OnOff, seed: int):
        self.rate, self.seed, self.batch = rate, seed, 0
        self.ends_s, self.integral = np.zeros(1), np.zeros(1)

    def at_s(self, sums: Array) -> Array:
        while self.integral[-1] <= sums[-1]:
            spans_s = dice(self.seed, 1, self.batch).exponential(1.0, (1024, 2))
            self.batch += 1
            spans_s *= (self.rate.mean_on_s, self.rate.mean_off_s)
            grown = spans_s * (self.rate.on_per_s, self.rate.off_per_s)
            self.ends_s = np.concatenate((self.ends_s, self.ends_s[-1] + np.cumsum(spans_s)))
            self.integral = np.concatenate((self.integral, self.integral[-1] + np.cumsum(grown)))
        at_s = np.interp(sums, self.integral, self.ends_s)
        passed = max(0, int(np.searchsorted(self.integral, sums[-1])) - 1)
        self.ends_s, self.integral = self.ends_s[passed:], self.integral[passed:]
        return at_s
