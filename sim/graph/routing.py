"""Which experts tokens go to: how popular each is, and what that means for the rank that has most
to do.

Popularity is even, drawn by a seed from a power law, or recorded. Ranks wait for each other at
every layer, so what counts is the rank with the most to do: the most pairs, and the most experts
met, which may not be the same rank's. Not modelled: chance within a step (tokens choose by
popularity, exactly), layers of different popularity, group-limited routing, copies of popular
experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Routing:
    """`counts`: recorded tokens of each expert; else a power law, expert of rank i drawing i^-skew,
    in an order drawn by `seed`; a skew of 0 is even."""

    skew: float = 0.0
    seed: int = 0
    counts: tuple[float, ...] = ()


EVEN = Routing()


class Load(NamedTuple):
    """What the busiest of the ranks has of a layer's experts.

    `chance` [rank, expert]: that a token goes there. `pairs`: (token, expert) pairs on the rank
    with the most, for each token in the whole batch. `copies`: ranks that a token is sent to, on
    average, its own included.
    """

    chance: np.ndarray
    pairs: float
    copies: float

    def met(self, tokens: float) -> float:
        """Experts that at least one of `tokens` goes to, on average, on the rank with the most of
        them."""
        return float((1.0 - np.power(1.0 - self.chance, tokens)).sum(axis=1).max())


def recorded(file: str) -> tuple[float, ...]:
    """Counts in a text file, one a line; ValueError naming the line that is none."""
    counts = []
    for number, line in enumerate(Path(file).read_text().splitlines(), 1):
        try:
            count = float(line)
        except ValueError:
            count = -1.0
        if not 0 <= count < math.inf:
            raise ValueError(f"{file}, line {number}: a count of tokens is due, not {line[:40]!r}")
        counts.append(count)
    return tuple(counts)


@lru_cache(maxsize=64)
def loads(routed: int, chosen: int, ranks: int, routing: Routing) -> Load:
    """The busiest of `ranks` ranks, which hold equal runs of the experts in their order.

    ValueError if the recording is of another number of experts.
    """
    chance = chances(routed, chosen, routing).reshape(ranks, routed // ranks)
    # A rank gets a token once, however many of its experts are to see it: not if none of them was
    # chosen.
    copies = (
        float((1.0 - np.prod(1.0 - chance, axis=1)).sum())
        if routing.skew or routing.counts
        else _distinct(routed, chosen, ranks)
    )
    return Load(chance, float(chance.sum(axis=1).max()), copies)


def chances(routed: int, chosen: int, routing: Routing) -> np.ndarray:
    """By expert, the chance that a token goes to it; they add up to `chosen`."""
    if routing.counts:
        if len(routing.counts) != routed:
            raise ValueError(
                f"the recording counts {len(routing.counts)} experts, and the model has {routed}"
            )
        weight = np.array(routing.counts)
    else:
        weight = np.arange(1.0, routed + 1) ** -routing.skew
        weight = np.random.default_rng(routing.seed).permutation(weight) if routing.skew else weight
    if np.count_nonzero(weight) < chosen:
        raise ValueError(
            f"{chosen} experts are chosen, and only {np.count_nonzero(weight)} are ever met"
        )
    # No expert can be chosen twice by a token: what one has too much goes to the others, by their
    # weight.
    sure = np.zeros(routed, dtype=bool)
    while True:
        rest = chosen - sure.sum()
        chance = np.where(sure, 1.0, weight * (rest / weight[~sure].sum() if rest else 0.0))
        over = (chance > 1.0) & ~sure
        if not over.any():
            return chance
        sure |= over


def _distinct(routed: int, chosen: int, ranks: int) -> float:
    """Ranks among which `chosen` different experts, drawn evenly, lie on average: E ranks times 1 -
    C(E - n, k) / C(E, k), n experts a rank."""
    each = routed // ranks
    left = np.arange(chosen)
    none = np.prod(np.maximum(routed - each - left, 0) / (routed - left))
    return float(ranks * (1.0 - none))
