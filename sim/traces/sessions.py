"""What rows tell beside arrival and lengths, as columns: sessions, think times, tenants, blocks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from sim.text.outside import MOST
from sim.traces.columns import Array, Columns
from sim.traces.formats import Row

MOST_CHATS = (
    1_000_000  # turns that a later turn may name as its parent: the last so many of the file
)


class Sessions:
    """Numbers what it is given in order of appearance, over all chunks of one file.

    Think time is that of the file where it has one; else the gap between a turn and the end of the
    answer before it, where the file has that; else the gap between the two arrivals, which contains
    the answer, as a note then says. Kept in memory: a number for each session, the last MOST_CHATS
    turns that may be named as parents, and 8 bytes a block id (none where the file's ids are in
    order of appearance already, as Mooncake's are).
    """

    def __init__(self, extras: Sequence[str], per_s: float, sure: bool = True):
        self.at = {kind: place for place, kind in enumerate(extras, 3)}
        self.sure = sure  # every row has all extras
        self.per_s = per_s
        self.tenants: dict[str, int] = {}  # name -> number
        self._session_numbers: dict[Hashable, int] = {}
        self._session_count = 0
        self._ends: dict[int, float] = {}  # of the last answer of each session, as far as known
        self._chats: dict[str, tuple[int, float]] = {}  # a turn's session and arrival
        self._blocks = Numbering()
        self._gaps, self._orphans = 0, 0

    def added(self, columns: Columns, rows: Sequence[Row]) -> Columns:
        """The columns with what `rows`, the same requests, tell beside them."""
        told = {kind for kind, at in self.at.items() if self.sure or _some(rows, at)}
        more: dict[str, Array] = {}
        if "tenant" in told:
            more["tenant"] = np.array(
                [self._tenant(row[self.at["tenant"]] or "") for row in rows], np.int64
            )
        if "blocks" in told:
            ids = [row[self.at["blocks"]] for row in rows]
            more |= self._numbered([len(each) for each in ids], list(chain.from_iterable(ids)))
        if "chat" in told or "session" in told:
            turns = [self._chat_turn(row) if "chat" in self.at else self._turn(row) for row in rows]
            more["session"] = np.array([turn[0] for turn in turns], np.int64)
            more["think_s"] = np.array([turn[1] for turn in turns], np.float64)
        return replace(columns, **more)

    def added_columns(self, columns: Columns, told: Mapping[str, Any]) -> Columns:
        """The same from columns: tenants as names and a number a row, blocks as counts and ids."""
        more: dict[str, Array] = {}
        if "tenant" in told:
            names, which = told["tenant"]
            first = np.sort(np.unique(which, return_index=True)[1])
            numbers = np.full(len(names), -1)
            for at in which[first].tolist():  # numbered in order of appearance
                numbers[at] = self._tenant(names[at].strip())
            more["tenant"] = numbers[which]
        if "blocks" in told:
            more |= self._numbered(*told["blocks"])
        if "session" in told:
            given = told["session"]
            owner = more.get("tenant", np.zeros(len(given), np.int64))
            pairs, first, which = np.unique(
                np.stack((given, owner)), axis=1, return_index=True, return_inverse=True
            )
            numbers = np.full(len(first), -1)
            tenants, known = list(self.tenants), self._session_numbers
            for at in np.argsort(first).tolist():
                session, tenant = pairs[:, at].tolist()
                own = str(session)
                key = (own, tenants[tenant]) if "tenant" in told and tenants[tenant] else own
                if session >= 0:
                    numbers[at] = known.setdefault(key, len(known))
            more["session"] = numbers[which.ravel()]
            more["think_s"] = told["think_s"] if "think_s" in told else np.full(len(given), np.nan)
        return replace(columns, **more)

    def notes(self) -> list[str]:
        """What was assumed, for the user to know."""
        notes = (
            (
                self._gaps,
                f"think times of {self._gaps} turns are gaps between arrivals: the file does not "
                "tell when an answer ended, so they contain it",
            ),
            (
                self._orphans,
                f"{self._orphans} turns name a turn before them that is not in what was read; "
                "each begins a session",
            ),
        )
        return [note for count, note in notes if count]

    def _tenant(self, name: str) -> int:
        return self.tenants.setdefault(name, len(self.tenants))

    def _numbered(self, counts: Sequence[int] | Array, ids: list[Any] | Array) -> dict[str, Array]:
        """The columns of blocks, of so many in each row."""
        block_from = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return {"block_from": block_from, "blocks": self._blocks.numbers(ids)}

    def _turn(self, row: Row) -> tuple[int, float]:
        key = row[self.at["session"]]
        given = row[self.at["think_s"]] if "think_s" in self.at else math.nan
        if key is None:
            return -1, given
        if "tenant" in self.at and row[self.at["tenant"]]:
            key = key, row[self.at["tenant"]]  # customers count theirs each for themselves
        number = self._session_numbers.setdefault(key, len(self._session_numbers))
        if "think_s" in self.at and (self.sure or not math.isnan(given)):
            return number, given
        arrival = row[0] / self.per_s
        elapsed = row[self.at["elapsed_s"]] if "elapsed_s" in self.at else math.nan
        before = self._ends.get(number)
        self._ends[number] = arrival + (0.0 if math.isnan(elapsed) else elapsed)
        self._gaps += before is not None and math.isnan(elapsed)
        return number, math.nan if before is None else max(0.0, arrival - before)

    def _chat_turn(self, row: Row) -> tuple[int, float]:
        chat = row[self.at["chat"]]
        parent = row[self.at["parent"]] if "parent" in self.at else None
        arrival = row[0] / self.per_s
        before = None if parent in (None, "-1") else self._chats.get(parent)
        if before is None:
            self._orphans += parent not in (None, "-1")
            number, think_s = self._session_count, math.nan
            self._session_count += 1
        else:
            number, think_s = before[0], max(0.0, arrival - before[1])
            self._gaps += 1
        if chat is not None:
            self._chats.pop(chat, None)
            self._chats[chat] = number, arrival
            if len(self._chats) > MOST_CHATS:
                del self._chats[next(iter(self._chats))]
        return number, think_s


def _some(rows: Sequence[Row], at: int) -> bool:
    """Whether any of the rows tells the extra at that place: not None, NaN or an empty list."""
    return any(row[at] and row[at] == row[at] for row in rows)


class Numbering:
    """Ids numbered from 0 in order of appearance.

    Three ways, as the ids allow: as they are, while they appear in that order already; through a
    table, while they are small integers; through a dictionary.
    """

    def __init__(self) -> None:
        self.count = 0
        self._table: Array | None = None  # -1: not seen
        self._names: dict[Hashable, int] | None = None

    def numbers(self, ids: list[Any] | Array) -> Array:
        """The numbers of these ids, in their order."""
        if self._names is None:
            try:
                given = np.asarray(ids) if len(ids) else np.zeros(0, np.int64)
            except (ValueError, OverflowError):
                given = np.zeros(0, object)
            most = MOST["block id"].most + 8 * self.count
            if given.dtype.kind == "i" and ((given >= 0) & (given < most)).all():
                return self._small(given)
            self._names = dict(self._seen())
            self._table = None
        names = self._names
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return np.array([names.setdefault(each, len(names)) for each in ids], np.int64)

    def _small(self, ids: Array) -> Array:
        if self._table is None:
            reached = np.maximum.accumulate(np.concatenate(([self.count - 1], ids)))
            if (np.diff(reached) <= 1).all():
                self.count = int(reached[-1]) + 1
                return ids
            self._table = np.arange(self.count)
        if len(ids) and ids.max() >= len(self._table):
            more = np.full(max(int(ids.max()) + 1, 2 * len(self._table)) - len(self._table), -1)
            self._table = np.concatenate((self._table, more))
        distinct, first = np.unique(ids, return_index=True)
        new = self._table[distinct] < 0
        in_order = distinct[new][np.argsort(first[new])]
        self._table[in_order] = np.arange(self.count, self.count + len(in_order))
        self.count += len(in_order)
        return self._table[ids]

    def _seen(self) -> list[tuple[Hashable, int]]:
        table = np.arange(self.count) if self._table is None else self._table
        return [(each, number) for each, number in enumerate(table.tolist()) if number >= 0]
