"""Requests as columns: what a trace of millions is read into, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


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
    think_s: Array | None = (
        None  # f8, from the answer to the turn before to this turn; NaN in the first turn
    )
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


def empty() -> Columns:
    """No requests."""
    return Columns(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


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


def joined(parts: Sequence[Columns]) -> Columns:
    """One after the other.

    A column that some part lacks gets what means "not said" there: -1, NaN, tenant 0.
    """
    parts = [part for part in parts if len(part)] or list(parts[:1])  # an empty part says nothing
    if len(parts) < 2:
        return parts[0] if parts else empty()
    names = [
        f.name
        for f in fields(Columns)[:6]
        if any(getattr(part, f.name) is not None for part in parts)
    ]
    cut = {name: np.concatenate([_or_unsaid(part, name) for part in parts]) for name in names}
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


def with_arrivals(columns: Columns, arrival_s: Array) -> Columns:
    """The same requests at other times."""
    return replace(columns, arrival_s=arrival_s)


def same(a: Columns, b: Columns) -> bool:
    """Whether both hold the same columns with the same bits; NaN equals NaN."""
    for field in fields(Columns):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if (one is None) != (other is None):
            return False
        if one is not None and not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            return False
    return True


def _or_unsaid(part: Columns, name: str) -> Array:
    each = getattr(part, name)
    if each is not None:
        return each
    return {
        "session": np.full(len(part), -1, np.int64),
        "think_s": np.full(len(part), np.nan),
        "tenant": np.zeros(len(part), np.int64),
    }[name]
