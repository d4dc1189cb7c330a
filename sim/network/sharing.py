"""Weighted max-min fair sharing: how concurrent flows divide the capacities they cross.  No clock."""

from __future__ import annotations

from collections.abc import Sequence


def max_min(
    routes: Sequence[Sequence[int]], capacities: Sequence[float], weights: Sequence[float], limits: Sequence[float]
) -> list[float]:
    """Rate of each flow, in the unit of `capacities`.

    `routes[f]` are the capacities that flow f crosses, `limits[f]` its own ceiling (inf: none). Progressive filling:
    raise all rates in proportion to weight until a capacity or a limit is full, freeze the flows it holds, go on with
    the rest.

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
