"""Where a sweep keeps what it found: one SQLite file, written durably, one sweep at a time.

A result is kept by what its scenario comes to, so that two points that are the same are computed
once, also by a later sweep in this file. Points are kept by number, each with its result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sim.explore.measure import Measured
from sim.explore.space import Point

FORM = 1  # of the tables
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE results (
    digest TEXT PRIMARY KEY, status TEXT NOT NULL, found TEXT NOT NULL, warnings TEXT NOT NULL,
    error TEXT NOT NULL, seconds REAL NOT NULL, own_s REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE points (point INTEGER PRIMARY KEY, keys TEXT NOT NULL, digest TEXT NOT NULL);
CREATE INDEX points_by_digest ON points (digest);
"""


class Row(NamedTuple):
    """A point of the sweep and what it came to; `result` None while that is not known."""

    number: int
    point: Point
    digest: str
    result: Measured | None


class Store:
    """The file at `path`, of this `program` (`sim.explore.identity.program`).

    ValueError, and nothing is changed, where another sweep has it open, it is of another program or
    no such file, or it holds results and `resume` is false.
    """

    def __init__(self, path: Path, program: str, *, resume: bool) -> None:
        self.path = path
        new = not path.exists()
        try:
            self._open(path)
            with self.writing():
                if new:
                    self._make(program)
                self._check(program, resume=resume)
            self._fill()
        except sqlite3.DatabaseError as error:
            self._shut()
            if new:
                path.unlink(missing_ok=True)
            locked = "locked" in str(error)
            why = "another sweep has it open" if locked else f"it cannot be read: {error}"
            raise ValueError(f"{path}: {why}") from None
        except BaseException:
            self._shut()
            raise

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # for as long as it is open

    def _make(self, program: str) -> None:
        for statement in _TABLES.split(";")[:-1]:
            self._db.execute(statement)
        about = {"form": str(FORM), "program": program}
        self._db.executemany("INSERT INTO about VALUES (?, ?)", about.items())

    def _fill(self) -> None:
        """From now on it is written to: as a log ahead of the file, quicker than a journal, which
        in the exclusive mode needs no memory shared between processes, so works on a network."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("DELETE FROM points")

    def _check(self, program: str, *, resume: bool) -> None:
        about = dict(self._db.execute("SELECT key, value FROM about"))
        if about.get("form") != str(FORM) or about.get("program") != program:
            raise ValueError(
                f"{self.path} is of {about.get('program', 'another program')}, this is {program}: "
                "results of two versions are not mixed; name another folder with --out"
            )
        if (held := self.count()) and not resume:
            raise ValueError(
                f"{self.path} holds {held} results of an earlier sweep; --resume goes on with "
                "them, --out names another folder"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is written within is written whole and durably, or not at all; OSError, and what was
        written before stays, where the disk is full."""
        self._db.execute("BEGIN EXCLUSIVE")
        try:
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(
                f"{self.path} cannot be written: {error}; what is in it stays, and --resume goes "
                "on from there"
            ) from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def add_point(self, number: int, point: Point, digest: str) -> None:
        """Note which point has which number in this sweep."""
        text = json.dumps(point, ensure_ascii=False)
        self._db.execute("INSERT OR REPLACE INTO points VALUES (?, ?, ?)", (number, text, digest))

    def asked(self, digest: str) -> bool:
        """Whether this sweep has a point of that digest."""
        query = "SELECT 1 FROM points WHERE digest = ? LIMIT 1"
        return self._db.execute(query, (digest,)).fetchone() is not None

    def put(self, digest: str, found: Measured) -> None:
        """Keep a result, in place of an earlier one of that digest."""
        row = (
            digest,
            found.status,
            json.dumps(dict(found.values)),
            json.dumps(found.warnings, ensure_ascii=False),
            found.error,
            found.seconds,
            found.own_s,
        )
        self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def get(self, digest: str) -> Measured | None:
        """The result of that digest; None if there is none."""
        query = (
            "SELECT status, found, warnings, error, seconds, own_s FROM results WHERE digest = ?"
        )
        row = self._db.execute(query, (digest,)).fetchone()
        return None if row is None else _measured(row)

    def count(self) -> int:
        """How many results there are, of this sweep and of earlier ones."""
        found: int = self._db.execute("SELECT count(*) FROM results").fetchone()[0]
        return found

    def close(self) -> None:
        """Give the file free, as one file."""
        with suppress(sqlite3.OperationalError):  # the disk is full: the log then stays beside it
            self._db.execute("PRAGMA journal_mode = DELETE")
        self._shut()

    def _shut(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()


def kept_rows(path: Path) -> Iterator[Row]:
    """The points of the last sweep in a file by number, each with its result."""
    query = """
        SELECT point, keys, points.digest, status, found, warnings, error, seconds, own_s
        FROM points LEFT JOIN results ON results.digest = points.digest ORDER BY point"""
    with closing(sqlite3.connect(path)) as db:
        for number, keys, digest, *row in db.execute(query):
            yield Row(number, json.loads(keys), digest, _measured(row) if row[0] else None)


def _measured(row: Any) -> Measured:
    status, found, warnings, error, seconds, own_s = row
    return Measured(status, json.loads(found), tuple(json.loads(warnings)), error, seconds, own_s)
