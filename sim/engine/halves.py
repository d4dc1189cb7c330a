"""Ranges of whole numbers, cut until something is a straight line over each piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

Range = tuple[int, int]


def halves(ranges: list[Range], straight: Callable[[int, int, int], bool]) -> Iterator[Range]:
    """The pieces of `ranges`, in order: each is halved until it is `straight` by its ends and its
    middle, or has nothing in between."""
    todo = ranges[::-1]
    while todo:
        low, high = todo.pop()
        middle = (low + high) // 2
        if high - low < 2 or straight(low, middle, high):
            yield low, high
        else:
            todo += [(middle, high), (low, middle)]


def doublings(most: int) -> list[Range]:
    """From 0 to `most` by powers of two, so that a longer table begins as a shorter one does."""
    edges = [0, *(1 << bit for bit in range(most.bit_length()) if 1 << bit < most), most]
    return [*pairwise(edges)]
