"""Who is admitted next of those at the heads of a replica's queues, one queue a class.

An order is a row of `ORDERS`: a function of what it may see.  One that is added from outside runs
in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Head(NamedTuple):
    """What an order may know of a request at the head of its queue."""

    rank: int  # its class, 0 the most urgent
    arrival_s: float
    deadline_s: float  # of its first token


class Order(NamedTuple):
    """`sooner(a, b)` says whether a goes before b, which is of a more urgent class.  `by_class`: a
    sequence of the least urgent class is preempted first."""

    name: str
    summary: str
    sooner: Callable[[Head, Head], bool]
    by_class: bool = True


def sooner(order: int, a: Head, b: Head) -> bool:
    """Whether a goes before b."""
    return [*ORDERS.values()][order].sooner(a, b)


def by_class(order: int) -> bool:
    """Whether classes count when somebody is preempted."""
    return [*ORDERS.values()][order].by_class


def _never(a: Head, b: Head) -> bool:
    return False


def _by_deadline(a: Head, b: Head) -> bool:
    return a.deadline_s < b.deadline_s


ORDERS = {
    row.name: row
    for row in (
        Order("arrival", "first come, first served", _never, by_class=False),
        Order("priority", "the most urgent class first", _never),
        Order("deadline", "the earliest deadline of a first token first", _by_deadline),
    )
}
