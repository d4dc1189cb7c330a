"""How full a capacity is over time: the flows that cross it, added up."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sim.facts.span import Use

MOST_STEPS = 20_000  # of a lane: a page and a trace of more open slowly, and show no more
_NOISE = 1e-12  # what is left of a sum of rates once every flow has ended


def utilisation(
    uses: Iterable[Use], capacity: str, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of `rate` (bytes/s) in use on `capacity`, as steps: `share[i]` holds from `times[i]` to
    `times[i + 1]`.

    A sweep over starts and ends, O(n log n). Times are in seconds, ascending and distinct; the last
    share is zero. Neighbouring steps of equal height are one step. No uses: two empty arrays. Of
    more than `MOST_STEPS` steps there are means over so many equal bins: the areas stay.
    """
    rows = [
        (u.start_s, u.end_s, u.bytes_per_s)
        for u in uses
        if u.capacity == capacity and u.end_s > u.start_s
    ]
    if not rows:
        return np.empty(0), np.empty(0)
    starts, ends, rates = np.array(rows).T
    times, at = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    change = np.zeros(len(times))
    np.add.at(change, at, np.concatenate([rates, -rates]))
    share = np.cumsum(change) / rate
    share[np.abs(share) < _NOISE * max(1.0, float(np.max(np.abs(share))))] = 0.0
    keep = np.concatenate([[True], np.abs(np.diff(share)) > _NOISE])
    keep[-1] = True
    times, share = times[keep], share[keep]
    if len(times) > MOST_STEPS:
        edges = np.linspace(times[0], times[-1], MOST_STEPS + 1)
        return edges, np.append(binned(times, share, edges), 0.0)
    return times, share


def binned(
    times: NDArray[np.float64], share: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean share between each two `edges`: areas stay, however many steps fall into a bin."""
    if not len(times):
        return np.zeros(len(edges) - 1)
    area = np.concatenate([[0.0], np.cumsum(share[:-1] * np.diff(times))])
    return np.diff(np.interp(edges, times, area)) / np.diff(edges)
