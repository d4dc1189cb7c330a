"""Weighted max-min fair sharing: how concurrent flows divide the capacities they cross.  No clock.

Two forms of one rule: `max_min` on lists, for the few flows of a chip, and `fill` on arrays, for
the many of a fabric. A test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

Ints = np.ndarray
Floats = np.ndarray


def max_min(
    routes: Sequence[Sequence[int]],
    capacities: Sequence[float],
    weights: Sequence[float],
    limits: Sequence[float],
) -> list[float]:
    """Rate of each flow, in the unit of `capacities`.

    `routes[f]` are the capacities that flow f crosses, `limits[f]` its own ceiling (inf: none).
    Progressive filling: raise all rates in proportion to weight until a capacity or a limit is
    full, freeze the flows it holds, go on with the rest.

    >>> max_min([[0], [0, 1], [1]], [10.0, 4.0], [1, 1, 1], [float("inf")] * 3)
    [8.0, 2.0, 2.0]
    """
    rates = [0.0] * len(routes)
    left = list(capacities)
    growing = [f for f in range(len(routes)) if routes[f]]
    for f in range(len(routes)):
        if not routes[f]:
            rates[f] = limits[f]
    while growing:
        load = [0.0] * len(left)
        for f in growing:
            for c in routes[f]:
                load[c] += weights[f]
        level = min(left[c] / load[c] for c in range(len(left)) if load[c] > 0)
        own = min(limits[f] / weights[f] for f in growing)
        if own <= level:
            full = [f for f in growing if limits[f] / weights[f] <= own]
            level = own
        else:
            tight = {c for c in range(len(left)) if load[c] > 0 and left[c] / load[c] <= level}
            full = [f for f in growing if any(c in tight for c in routes[f])]
        for f in full:
            rates[f] = level * weights[f]
            for c in routes[f]:
                left[c] -= rates[f]
        frozen = set(full)
        growing = [f for f in growing if f not in frozen]
    return rates


class Crossings(NamedTuple):
    """Which flow crosses which capacity, to be looked up either way.

    Flow f crosses `capacity[first[f]:first[f + 1]]`, with `share` of its rate on each; capacity c
    is crossed by `flow[start[c]:start[c + 1]]`.
    """

    first: Ints
    capacity: Ints
    share: Floats
    start: Ints
    flow: Ints


def crossings(first: Ints, capacity: Ints, share: Floats, capacities: int) -> Crossings:
    """The table of flows given in compressed rows; every flow has at least one crossing."""
    if len(first) > COMPILED_FROM and (compiled := _compiled(_turned)) is not None:
        return Crossings(first, capacity, share, *compiled(first, capacity, capacities))
    flow = np.repeat(np.arange(len(first) - 1), np.diff(first))
    start = np.zeros(capacities + 1, dtype=np.int64)
    np.cumsum(np.bincount(capacity, minlength=capacities), out=start[1:])
    return Crossings(first, capacity, share, start, flow[np.argsort(capacity, kind="stable")])


def fill(table: Crossings, capacities: Floats, weights: Floats) -> Floats:
    """Rates of many flows at once, in the unit of `capacities`; a flow of weight 0 is as if it were
    not there.

    Links that are full at one level are frozen together, so a symmetric pattern takes one pass
    however many flows it has. Compiled where numba is installed (the extra `fast`) and there is
    enough to do; the answer is the same to the last bit.
    """
    if len(weights) >= COMPILED_FROM and (compiled := _compiled(_fill)) is not None:
        return compiled(*table, capacities, weights)
    first, capacity, share, start, by_capacity = table
    rates = np.zeros(len(weights))
    left = capacities.astype(float)
    demand = share * np.repeat(weights, np.diff(first))
    load = np.bincount(capacity, demand, minlength=len(left))
    growing = weights > 0
    remaining = np.count_nonzero(growing)
    level = np.where(load > 0, left / np.where(load > 0, load, 1.0), np.inf)
    while remaining:
        lowest = level.min()
        tight = np.flatnonzero(level <= lowest * _ONE_LEVEL)
        full = by_capacity[_ranges(start[tight], start[tight + 1])]
        full = np.unique(full[growing[full]])
        growing[full] = False
        rates[full] = lowest * weights[full]
        remaining -= len(full)
        gone = _ranges(first[full], first[full + 1])
        off = np.bincount(capacity[gone], demand[gone], minlength=len(left))
        left -= lowest * off
        load -= off
        load[tight] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(load > _NOTHING, left / load, np.inf)
    return rates


COMPILED_FROM = 48  # flows: below, loading the compiled form costs more than it saves
_ONE_LEVEL = 1 + 1e-12  # levels that differ by rounding only are one
_NOTHING = 1e-9  # weight left on a link by rounding


@cache
def _compiled(function: Callable) -> Callable | None:
    try:
        from numba import njit
    except ImportError:
        return None
    return njit(cache=True)(function)


def _turned(first: Ints, capacity: Ints, capacities: int) -> tuple[Ints, Ints]:
    """The other half of `crossings` written out for a compiler."""
    start = np.zeros(capacities + 1, np.int64)
    for c in capacity:
        start[c + 1] += 1
    for c in range(capacities):
        start[c + 1] += start[c]
    at, flow = start.copy(), np.empty(len(capacity), np.int64)
    for f in range(len(first) - 1):
        for k in range(first[f], first[f + 1]):
            flow[at[capacity[k]]] = f
            at[capacity[k]] += 1
    return start, flow


def _fill(
    first: Ints,
    capacity: Ints,
    share: Floats,
    start: Ints,
    flow: Ints,
    capacities: Floats,
    weights: Floats,
) -> Floats:
    """`fill` written out for a compiler: the same steps in the same order."""
    flows, links = len(weights), len(capacities)
    rates, left, load, off = np.zeros(flows), capacities.copy(), np.zeros(links), np.zeros(links)
    remaining = 0
    for f in range(flows):
        if weights[f] > 0:
            remaining += 1
            for k in range(first[f], first[f + 1]):
                load[capacity[k]] += share[k] * weights[f]
    growing = weights > 0
    loaded = np.flatnonzero(load > 0)
    frozen = np.empty(flows, np.int64)
    while remaining > 0:
        lowest = np.inf
        for c in loaded:
            lowest = min(lowest, left[c] / load[c])
        count = 0
        for c in loaded:
            if left[c] / load[c] <= lowest * _ONE_LEVEL:
                for j in range(start[c], start[c + 1]):
                    f = flow[j]
                    if growing[f]:
                        growing[f] = False
                        frozen[count] = f
                        count += 1
        if count > 1:
            frozen[:count].sort()  # sums run in the order of flows, as in `fill`
        for i in range(count):
            f = frozen[i]
            rates[f] = lowest * weights[f]
            for k in range(first[f], first[f + 1]):
                off[capacity[k]] += share[k] * weights[f]
        remaining -= count
        kept = 0
        for c in loaded:
            full = left[c] / load[c] <= lowest * _ONE_LEVEL
            left[c] -= lowest * off[c]
            load[c] -= off[c]
            off[c] = 0.0
            if not full and load[c] > _NOTHING:
                loaded[kept] = c
                kept += 1
        loaded = loaded[:kept]
    return rates


def _ranges(start: Ints, stop: Ints) -> Ints:
    """All whole numbers of several half-open ranges, one after the other."""
    lengths = stop - start
    ends = np.cumsum(lengths)
    return np.repeat(stop - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)
