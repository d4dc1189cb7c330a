"""A row of a table by its name, and what is said where there is none of that name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Row = TypeVar("Row")


def pick(table: Mapping[Key, Row], name: Key, noun: str) -> Row:
    """The row `name`; ValueError, which says what rows there are.

    >>> pick({"bus": 1, "mesh": 2}, "ring", "interconnect")
    Traceback (most recent call last):
    ValueError: no interconnect 'ring' here; choose one of bus, mesh
    """
    if name not in table:
        raise ValueError(f"no {noun} {name!r} here; choose one of {', '.join(map(str, table))}")
    return table[name]


def closest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Which of the known names is the most like `name`; `otherwise` where none is near."""
    close = get_close_matches(name[:80], list(islice(known, 1000)), 1)  # it takes its time
    return f"; nearest is {close[0]!r}" if close else otherwise
