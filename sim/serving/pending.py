"""What is to come at a known time: a heap in arrays, by time and then by the order in which it was
put there."""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import PENDING, PUSHED, Fleet


def next_s(fleet: Fleet) -> float:
    """When the first is due."""
    return fleet.pending_s[0] if fleet.cursor[PENDING] > 0 else np.inf


def push(fleet: Fleet, at_s: float, slot: int, row: int) -> None:
    """Put a slot or a row of the arrivals; there is room."""
    order, at = fleet.cursor[PUSHED], fleet.cursor[PENDING]
    fleet.cursor[PENDING] += 1
    fleet.cursor[PUSHED] += 1
    while at > 0:
        above = (at - 1) // 2
        if fleet.pending_s[above] <= at_s:
            break
        _move(fleet, above, at)
        at = above
    _set(fleet, at, at_s, order, slot, row)


def pop(fleet: Fleet) -> tuple[int, int]:
    """Take the first off: (slot, row), one of which is NONE."""
    slot, row = fleet.pending[0, 1], fleet.pending[0, 2]
    fleet.cursor[PENDING] -= 1
    size = fleet.cursor[PENDING]
    at_s, order = fleet.pending_s[size], fleet.pending[size, 0]
    last_slot, last_row = fleet.pending[size, 1], fleet.pending[size, 2]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _before(
            fleet, below + 1, fleet.pending_s[below], fleet.pending[below, 0]
        ):
            below += 1
        if not _before(fleet, below, at_s, order):
            break
        _move(fleet, below, at)
        at = below
    _set(fleet, at, at_s, order, last_slot, last_row)
    return slot, row


def _before(fleet: Fleet, place: int, at_s: float, order: int) -> bool:
    return fleet.pending_s[place] < at_s or (
        fleet.pending_s[place] == at_s and fleet.pending[place, 0] < order
    )


def _move(fleet: Fleet, source: int, to: int) -> None:
    _set(
        fleet,
        to,
        fleet.pending_s[source],
        fleet.pending[source, 0],
        fleet.pending[source, 1],
        fleet.pending[source, 2],
    )


def _set(fleet: Fleet, at: int, at_s: float, order: int, slot: int, row: int) -> None:
    fleet.pending_s[at] = at_s
    fleet.pending[at, 0], fleet.pending[at, 1], fleet.pending[at, 2] = order, slot, row
