"""Replicas that know nothing of each other, served in shares: who goes where, and the sums put
together again.

Every sum of floats is kept by replica and added in their order, so the answer is the same bytes for
any number of shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.serving.fleet import NONE, Arrivals, Fleet, Rules
from sim.serving.router import ROUTERS

_BY_REPLICA = ("replicas", "sums", "row_sums", "series", "gaps", "bin_s", "stage_busy_s")
_BY_KIND = ("of_tokens", "of_logits", "of_lone")


class Part(NamedTuple):
    """What some of the replicas did: records, and the fleet's sums without its state."""

    records: np.recarray
    fleet: Fleet
    stopped_s: float | None  # interrupted at this simulated time


class Spread(NamedTuple):
    """Other processes: `begin(share, shares)` has one of them serve a share, and returns who waits
    for its part."""

    shares: int
    least: int  # requests: below, other processes cost more than they save
    begin: Callable[[int, int], Callable[[], Part]]


def of_share(
    chunks: Iterable[Arrivals], rules: Rules, replicas: int, mine: range
) -> Iterator[Arrivals]:
    """Those who are routed to some of the replicas, each to the pool of its own."""
    turn, choose = 0, [*ROUTERS.values()][rules.router].at_once
    assert choose is not None, "the router asks how the replicas are"
    for asked in chunks:
        to = choose(asked.session, turn, replicas, rules.seed)
        turn += len(asked.id)
        yield rows_of(
            asked._replace(pool=to - mine.start),
            np.flatnonzero((to >= mine.start) & (to < mine.stop)),
        )


def rows_of(asked: Arrivals, rows: np.ndarray) -> Arrivals:
    """These rows, with their blocks; `next` is left as it is."""
    begin, size = asked.block_from[:-1][rows], np.diff(asked.block_from)[rows]
    edges = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    blocks = asked.blocks[
        np.arange(edges[-1]) - np.repeat(edges[:-1], size) + np.repeat(begin, size)
    ]
    columns = {
        name: getattr(asked, name)[rows]
        for name in asked._fields
        if name not in ("block_from", "blocks")
    }
    return Arrivals(**columns, block_from=edges, blocks=blocks)


def in_order(asked: Arrivals, order: np.ndarray) -> Arrivals:
    """All rows in another order; `next` follows."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    following = np.where(asked.next == NONE, NONE, place[asked.next])
    return rows_of(asked._replace(next=following), order)


def sums_only(fleet: Fleet) -> Fleet:
    """The fleet without its state, to be sent."""
    none = {name: np.zeros(0) for name in fleet._fields if name not in (*_BY_REPLICA, *_BY_KIND)}
    return fleet._replace(**none)  # type: ignore[arg-type]


def whole(fleets: Sequence[Fleet]) -> Fleet:
    """The sums of all replicas, in their order."""
    if len(fleets) == 1:
        return fleets[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(fleet, name) for fleet in fleets]) for name in _BY_REPLICA
    }
    columns["replicas"] = columns["replicas"].view(np.recarray)
    for name in _BY_KIND:
        parts = [getattr(fleet, name) for fleet in fleets]
        size = max(part.shape[1] for part in parts)
        columns[name] = np.sum(
            [np.pad(part, [(0, 0), (0, size - part.shape[1])]) for part in parts], axis=0
        )
    return fleets[0]._replace(**columns)
