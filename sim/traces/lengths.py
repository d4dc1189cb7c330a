"""How long prompts and answers are: laws for one length, and for both together."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sim.traces.columns import Array

# (probability, tokens) points, from probability 0 to probability 1
Quantiles = tuple[tuple[float, float], ...]


class Lognormal(NamedTuple):
    """Lengths whose logarithm is normal: their median in tokens, and its standard deviation."""

    median_tokens: float
    sigma: float


@dataclass(frozen=True)
class Mixture:
    """Requests of several kinds: (weight, law) of each; the weights need not add up to 1."""

    parts: tuple[tuple[float, Quantiles | Lognormal | Mixture], ...]


Law = Quantiles | Lognormal | Mixture


@dataclass(frozen=True, eq=False)
class Joint:
    """Recorded pairs of prompt and output length, so that what goes together stays together.

    They are dealt like cards: each once, in random order, then all again in another order. So
    already one round has the very quantiles of the recording.
    """

    prompt_tokens: Array
    output_tokens: Array


def drawn(law: Law, count: int, random: np.random.Generator) -> Array:
    """Whole numbers of tokens, at least one.

    Between two quantile points the logarithm of the length is linear in the probability, so that
    every point is met.
    """
    if isinstance(law, Mixture):
        weights = np.cumsum([weight for weight, _ in law.parts])
        which = np.searchsorted(weights / weights[-1], random.random(count), side="right")
        each = np.stack([drawn(part, count, random) for _, part in law.parts])
        return each[np.minimum(which, len(law.parts) - 1), np.arange(count)]
    if isinstance(law, Lognormal):
        logarithms = math.log(law.median_tokens) + law.sigma * random.standard_normal(count)
    else:
        probabilities, tokens = zip(*law)
        logarithms = np.interp(random.random(count), probabilities, np.log(tokens))
    return np.maximum(np.rint(np.exp(logarithms)), 1).astype(np.int64)


def dealt(joint: Joint, shuffles: Iterator[np.random.Generator]) -> Generator[Joint, int, None]:
    """A coroutine: send it a number of pairs, it gives as many.

    Each round has its own dice. Sent 0 at first.
    """
    cards = np.zeros(0, np.int64)
    wanted = yield joint
    while True:
        hand = [cards]
        while sum(map(len, hand)) < wanted:
            hand.append(next(shuffles).permutation(len(joint.prompt_tokens)))
        cards = np.concatenate(hand)
        rows, cards = cards[:wanted], cards[wanted:]
        wanted = yield Joint(joint.prompt_tokens[rows], joint.output_tokens[rows])


def check(where: str, law: Law) -> None:
    """ValueError, beginning with `where`, if no length can be drawn from the law."""
    if isinstance(law, Mixture):
        if not law.parts or not all(0 < weight < math.inf for weight, _ in law.parts):
            raise ValueError(f"{where}: a mixture needs parts, each with a positive weight")
        for number, (_, part) in enumerate(law.parts, 1):
            check(f"{where}, part {number}", part)
    elif isinstance(law, Lognormal):
        if not (0 < law.median_tokens < math.inf and 0 <= law.sigma < math.inf):
            raise ValueError(
                f"{where}: the median {law.median_tokens} must be positive, sigma {law.sigma} "
                "not negative"
            )
    elif len(law) < 2 or law[0][0] != 0 or law[-1][0] != 1:
        raise ValueError(f"{where}: quantile points must run from probability 0 to probability 1")
    elif not all(p < q and 0 < a <= b < math.inf for (p, a), (q, b) in pairwise(law)):
        raise ValueError(f"{where}: quantile points must rise, and their tokens be positive")


def law_of(text: str) -> Law:
    """The law that a text names; ValueError if it names none.

    >>> law_of("lognormal:1000:0.8"), law_of("fixed:512")
    (Lognormal(median_tokens=1000.0, sigma=0.8), ((0.0, 512.0), (1.0, 512.0)))
    >>> law_of("0.7*fixed:100 + 0.3*quantiles:0=10,0.5=20,1=90").parts[1]
    (0.3, ((0.0, 10.0), (0.5, 20.0), (1.0, 90.0)))
    """
    try:
        law: Law
        if " + " in text or "*" in text:
            pairs = [part.split("*", 1) for part in text.split(" + ")]
            law = Mixture(tuple((float(weight), _one_law(part)) for weight, part in pairs))
        else:
            law = _one_law(text)
    except (ValueError, IndexError):
        raise ValueError(
            f"{text!r} is no law of lengths; write lognormal:MEDIAN:SIGMA, fixed:TOKENS, "
            "quantiles:0=1,0.5=20,1=90, or a mixture: 0.7*lognormal:100:1 + 0.3*fixed:4000"
        ) from None
    check(repr(text), law)
    return law


def _one_law(text: str) -> Quantiles | Lognormal:
    kind, _, numbers = text.strip().partition(":")
    if kind == "lognormal":
        median, sigma = numbers.split(":")
        return Lognormal(float(median), float(sigma))
    if kind == "fixed":
        return (0.0, float(numbers)), (1.0, float(numbers))
    if kind == "quantiles":
        return tuple(
            (float(p), float(tokens))
            for p, tokens in (point.split("=") for point in numbers.split(","))
        )
    raise ValueError(kind)
