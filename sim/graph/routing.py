"""Which experts tokens go to: how popular each is, and what that means for the rank that has most
to do.

Popularity is even, drawn by a seed from a power law, or recorded, for all layers alike or for each.
Ranks wait for each other at every layer, so what counts is the rank with the most to do: the most
pairs, and the most experts met, which may not be the same rank's. Layers of different popularity
are taken as so many equal ones that have the mean of the layers' busiest ranks. Not modelled:
chance within a step (tokens choose by popularity, exactly), group-limited routing, copies of
popular experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.text.outside import read_text
from sim.text.strict_json import loads as json_of


@dataclass(frozen=True)
class Routing:
    """`counts`: recorded tokens of each expert, a row a layer or one for all; else a power law,
    expert of rank i drawing i^-skew, in an order drawn by `seed`; a skew of 0 is even."""

    skew: float = 0.0
    seed: int = 0
    counts: tuple[tuple[float, ...], ...] = ()


EVEN = Routing()


class Load(NamedTuple):
    """What the busiest of the ranks has of a layer's experts, mean over the layers.

    `chance` [layer, rank, expert]: that a token goes there. `pairs`: (token, expert) pairs on the
    rank with the most, for each token in the whole batch. `copies`: ranks that a token is sent to,
    on average, its own included.
    """

    chance: np.ndarray
    pairs: float
    copies: float

    def met(self, tokens: float) -> float:
        """Experts that at least one of `tokens` goes to, on average, on the rank with the most of
        them."""
        met = 1.0 - np.power(1.0 - self.chance, tokens)
        return float(met.sum(axis=-1).max(axis=-1).mean())


def recorded(file: str | Path) -> tuple[tuple[float, ...], ...]:
    """Counts in a file: in JSON a list, or one for each layer, in order or by its number; in text a
    number a line, or a line for each layer.  ValueError naming the place that is none."""
    try:
        text = read_text(file, "table bytes")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if Path(file).suffix == ".json":
        try:
            found: Any = json_of(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not valid JSON: {error}") from None
        rows = [*found.values()] if isinstance(found, dict) else found
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{file}: a list of counts is due, or one for each layer")
        rows = rows if isinstance(rows[0], list) else [rows]
        what = "list"
    else:
        lines = [line.replace(",", " ").split() for line in text.splitlines()]
        single = all(len(line) < 2 for line in lines)
        rows, what = lines, "line"
    counts = [
        [_count(value, f"{file}, {what} {number}") for value in (row or [""])]
        for number, row in enumerate(rows, 1)
    ]
    if what == "line" and single:
        counts = [[value for row in counts for value in row]]
    if len({*map(len, counts)}) > 1:
        sizes = " and ".join(map(str, sorted({*map(len, counts)})))
        raise ValueError(f"{file}: every layer has as many experts, not {sizes}")
    return tuple(map(tuple, counts))


def _count(value: Any, where: str) -> float:
    try:
        count = float(value)
    except (TypeError, ValueError):
        count = -1.0
    if not 0 <= count < math.inf:
        raise ValueError(f"{where}: a count of tokens is due, not {str(value)[:40]!r}")
    return count


@lru_cache(maxsize=64)
def loads(routed: int, chosen: int, ranks: int, routing: Routing) -> Load:
    """The busiest of `ranks` ranks, which hold equal runs of the experts in their order.

    ValueError if the recording is of another number of experts.
    """
    rows = [chances(routed, chosen, routing, layer) for layer in range(max(len(routing.counts), 1))]
    chance = np.array(rows).reshape(len(rows), ranks, routed // ranks)
    # A rank gets a token once, however many of its experts are to see it: not if none of them was
    # chosen.
    copies = (
        float((1.0 - np.prod(1.0 - chance, axis=-1)).sum(axis=-1).mean())
        if routing.skew or routing.counts
        else _distinct(routed, chosen, ranks)
    )
    return Load(chance, float(chance.sum(axis=-1).max(axis=-1).mean()), copies)


def chances(routed: int, chosen: int, routing: Routing, layer: int = 0) -> np.ndarray:
    """By expert, the chance that a token goes to it; they add up to `chosen`."""
    if routing.counts:
        if len(routing.counts[layer]) != routed:
            raise ValueError(
                f"the recording counts {len(routing.counts[layer])} experts, and the model has "
                f"{routed}"
            )
        weight = np.array(routing.counts[layer])
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
