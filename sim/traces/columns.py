"""Requests as columns: what a trace of millions is read into, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
# What means "not said" in a column, and its type.
_UNSAID: dict[str, tuple[float, type]] = {
    "session": (-1, np.int64),
    "think_s": (np.nan, np.float64),
    "tenant": (0, np.int64),
}


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Requests in order of arrival, one array a fact; None where the trace does not say.

    `blocks` are the ids of the prompt's prefix blocks, those of request i in
    `blocks[block_from[i]:block_from[i + 1]]`; equal ids mean an equal prefix up to and with that
    block. Ids of blocks, sessions and tenants count from 0 (in a file, in order of appearance),
    without gaps save for those of rows left out. The tokens of a block and the names of tenants are
    facts of the trace, not of a chunk.
    """

    arrival_s: Array  # f8, from the first request of the trace
    prompt_tokens: Array  # i8
    output_tokens: Array  # i8
    session: Array | None = None  # i8; -1: a request on its own
    # f8, from the answer to the turn before to this turn; NaN in the first turn
    think_s: Array | None = None
    tenant: Array | None = None  # i8
    block_from: Array | None = None  # i8, one more than there are requests; starts at 0
    blocks: Array | None = None  # i8

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, part: slice) -> Columns:
        start, stop, step = part.indices(len(self))
        if step != 1:
            return taken(self, np.arange(start, stop, step))
        stop = max(start, stop)
        cut = {name: each[start:stop] for name, each in row_columns(self)}
        if self.block_from is not None and self.blocks is not None:
            begin = self.block_from[start : stop + 1]
            cut |= {"block_from": begin - begin[0], "blocks": self.blocks[begin[0] : begin[-1]]}
        return Columns(**cut)


def row_columns(columns: Columns) -> Iterator[tuple[str, Array]]:
    """(name, array) of the columns that are there with one value a request: all but blocks."""
    for field in fields(Columns)[:6]:
        each = getattr(columns, field.name)
        if each is not None:
            yield field.name, each


def taken(columns: Columns, rows: Array) -> Columns:
    """The requests with these row numbers, in this order."""
    cut = {name: each[rows] for name, each in row_columns(columns)}
    if columns.block_from is not None and columns.blocks is not None:
        begin, count = columns.block_from[rows], np.diff(columns.block_from)[rows]
        block_from = np.concatenate(([0], np.cumsum(count)))
        within = np.arange(block_from[-1]) - np.repeat(block_from[:-1], count)
        cut |= {
            "block_from": block_from,
            "blocks": columns.blocks[np.repeat(begin, count) + within],
        }
    return Columns(**cut)


def by_arrival(columns: Columns) -> Columns:
    """The same requests in order of arrival, those of one instant in the order they had."""
    if (np.diff(columns.arrival_s) >= 0).all():
        return columns
    return taken(columns, np.argsort(columns.arrival_s, kind="stable"))


def joined(parts: Sequence[Columns]) -> Columns:
    """One after the other.

    A column that some part lacks gets what means "not said" there: -1, NaN, tenant 0.
    """
    parts = [part for part in parts if len(part)] or list(parts[:1])  # an empty part says nothing
    if not parts:
        return Columns(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    if len(parts) == 1:
        return parts[0]
    told = [dict(row_columns(part)) for part in parts]
    names = dict.fromkeys(chain.from_iterable(told))
    cut = {
        name: np.concatenate(
            [
                each[name] if name in each else np.full(len(part), *_UNSAID[name])
                for each, part in zip(told, parts)
            ]
        )
        for name in names
    }
    if any(part.block_from is not None for part in parts):
        counts = [
            np.zeros(len(p), np.int64) if p.block_from is None else np.diff(p.block_from)
            for p in parts
        ]
        cut["block_from"] = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
        cut["blocks"] = np.concatenate([part.blocks for part in parts if part.blocks is not None])
    return Columns(**cut)


def rechunked(chunks: Iterable[Columns], rows: int) -> Iterator[Columns]:
    """The same requests in chunks of `rows`, the last one maybe shorter."""
    held: list[Columns] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count >= rows:
            whole = joined(held)
            for start in range(0, count - count % rows, rows):
                yield whole[start : start + rows]
            count %= rows
            held = [whole[len(whole) - count :]]
    if count:
        yield joined(held)
