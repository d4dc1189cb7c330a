"""Weighted max-min fair sharing: how concurrent flows divide the capacities they cross.  No clock.

`fill` shares the many flows of a fabric, on arrays; the few on one port of a chip are shared by
`sim.engine.flows`. A test holds both to the rule written out on lists.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, NamedTuple

import numpy as np

from sim.compiled import Loops

Ints = np.ndarray
Floats = np.ndarray


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


class Room(NamedTuple):
    """What filling works with, for compiled code, which allocates nothing.  There may be more of it
    than is needed."""

    left: Floats  # [capacity], of it
    load: Floats  # [capacity], weights of those that grow
    off: Floats  # [capacity], weights of those frozen now
    loaded: Ints  # [place], capacities with a load
    frozen: Ints  # [place], flows frozen now
    state: Ints  # [flow]: 1 it grows, 2 frozen now, 0 neither


def crossings(first: Ints, capacity: Ints, share: Floats, capacities: int) -> Crossings:
    """The table of flows given in compressed rows; every flow has at least one crossing."""
    if (native := LOOPS.native(_PASS + len(capacity))) is not None:
        start, end = np.zeros((2, capacities + 1), np.int64)
        flow = np.empty(len(capacity), np.int64)
        native["_turned"](first, capacity, start, end, flow)
        return Crossings(first, capacity, share, start, flow)
    flow = np.repeat(np.arange(len(first) - 1), np.diff(first))
    start = np.zeros(capacities + 1, dtype=np.int64)
    np.cumsum(np.bincount(capacity, minlength=capacities), out=start[1:])
    flow = flow[np.argsort(capacity, kind="stable")]
    return Crossings(first, capacity, share, start, flow)


def fill(
    table: Crossings, capacities: Floats, weights: Floats, rates: Floats | None = None
) -> Floats:
    """Rates of many flows at once, in the unit of `capacities`, written into `rates` if given; a
    flow of weight 0 is as if it were not there.

    Links that are full at one level are frozen together, so a symmetric pattern takes one pass
    however many flows it has.
    """
    if rates is None:
        rates = np.zeros(len(weights))
    rates[:] = 0.0
    if (native := LOOPS.native(_PASS + len(table.flow))) is not None:
        native["_fill"](_room(len(weights), len(capacities)), table, capacities, weights, rates)
        return rates
    first, capacity, share, start, by_capacity = table
    passes = 0
    left = capacities.astype(float)
    demand = share * np.repeat(weights, np.diff(first))
    load = np.bincount(capacity, demand, minlength=len(left))
    growing = weights > 0
    remaining = np.count_nonzero(growing)
    level = np.where(load > 0, left / np.where(load > 0, load, 1.0), np.inf)
    while remaining:
        passes += 1
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
    LOOPS.native(_PASS * passes)  # how many there would be was not known before
    return rates


_ONE_LEVEL = 1 + 1e-12  # levels that differ by rounding only are one
_NOTHING = 1e-9  # weight left on a link by rounding
_PASS = 100  # crossings that take as long as a pass by itself, in plain Python


_MINE = threading.local()  # room of a thread's own: compiled code runs without Python's lock


def _room(flows: int, capacities: int) -> Room:
    """The same as long as it is enough: what is passed again is laid out once."""
    room: Room | None = getattr(_MINE, "room", None)
    if room is None or len(room.left) < capacities or len(room.state) < flows:
        size = 1 << max(flows, capacities).bit_length()
        floats, ints = np.zeros((3, size)), np.zeros((3, size), np.int64)
        room = _MINE.room = Room(*floats, *ints)
    return room


def _turned(first: Ints, capacity: Ints, start: Ints, end: Ints, flow: Ints) -> int:
    """The other half of `crossings` written out for a compiler."""
    for c in capacity:
        start[c + 1] += 1
    for c in range(len(start) - 1):
        start[c + 1] += start[c]
        end[c] = start[c]
    for f in range(len(first) - 1):
        for k in range(first[f], first[f + 1]):
            flow[end[capacity[k]]] = f
            end[capacity[k]] += 1
    return 0


def _fill(room: Room, table: Crossings, capacities: Floats, weights: Floats, rates: Floats) -> int:
    """`fill` written out for a compiler: the same steps in the same order."""
    first, capacity, share, start, flow = table
    left, load, off, loaded, frozen, state = room
    remaining = kept = 0
    for c in range(len(capacities)):
        load[c] = off[c] = 0.0
    for f in range(len(weights)):
        if weights[f] > 0:
            remaining += 1
            state[f] = 1
            for k in range(first[f], first[f + 1]):
                load[capacity[k]] += share[k] * weights[f]
    for c in range(len(capacities)):
        left[c] = capacities[c]
        if load[c] > 0:
            loaded[kept] = c
            kept += 1
    while remaining > 0:
        lowest = np.inf
        for i in range(kept):
            lowest = min(lowest, left[loaded[i]] / load[loaded[i]])
        count = tight = 0
        for i in range(kept):
            c = loaded[i]
            if left[c] / load[c] <= lowest * _ONE_LEVEL:
                tight += 1
                for j in range(start[c], start[c + 1]):
                    f = flow[j]
                    if state[f] == 1:
                        state[f] = 2
                        frozen[count] = f
                        count += 1
        if tight > 1:  # sums run in the order of flows, as in `fill`
            _in_order(frozen, count, state, len(weights))
        for i in range(count):
            f = frozen[i]
            state[f] = 0
            rates[f] = lowest * weights[f]
            for k in range(first[f], first[f + 1]):
                off[capacity[k]] += share[k] * weights[f]
        remaining -= count
        links, kept = kept, 0
        for i in range(links):
            c = loaded[i]
            full = left[c] / load[c] <= lowest * _ONE_LEVEL
            left[c] -= lowest * off[c]
            load[c] -= off[c]
            off[c] = 0.0
            if not full and load[c] > _NOTHING:
                loaded[kept] = c
                kept += 1
    return 0


def _in_order(frozen: Ints, count: int, state: Ints, flows: int) -> None:
    """Sort those frozen now: a few by insertion, many by looking through all."""
    if count * count > flows:
        at = 0
        for f in range(flows):
            if state[f] == 2:
                frozen[at] = f
                at += 1
        return
    for i in range(1, count):
        f, at = frozen[i], i
        while at > 0 and frozen[at - 1] > f:
            frozen[at] = frozen[at - 1]
            at -= 1
        frozen[at] = f


def _samples() -> dict[Any, tuple[Any, ...]]:
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    room = Room(floats, floats, floats, ints, ints, ints)
    table = Crossings(ints, ints, floats, ints, ints)
    return {
        _turned: (ints, ints, ints, ints, ints),
        _fill: (room, table, floats, floats, floats),
    }


def _ranges(start: Ints, stop: Ints) -> Ints:
    """All whole numbers of several half-open ranges, one after the other."""
    lengths = stop - start
    ends = np.cumsum(lengths)
    return np.repeat(stop - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)


LOOPS = Loops("sharing", (sys.modules[__name__],), _samples, plain_s=1e-6, compile_s=2)
