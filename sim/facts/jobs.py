"""What jobs of collectives and the links under them did."""

from __future__ import annotations

from typing import NamedTuple


class LinkUse(NamedTuple):
    """What one capacity (a direction of a link, the core of a switch) carried over a run."""

    name: str
    bytes_per_s: float
    moved_bytes: float
    busy_s: float  # time with at least one flow on it
    most_flows: int  # that were on it at once


class Instance(NamedTuple):
    """One collective of a job: when it began, when its first rank was done with it, and when its
    last was."""

    start_s: float
    first_end_s: float
    end_s: float


class JobRecord(NamedTuple):
    """A job's collectives, one after the other, and what each would take with the healthy pod to
    itself."""

    name: str
    collective: str
    algorithm: str
    rounds: int
    ranks: int
    nbytes: float  # the buffer of one rank
    background: bool
    idle_s: float
    exact: bool  # `idle_s` is the closed form; else one instance played alone
    instances: list[Instance]  # those that ended within the run


class Traffic(NamedTuple):
    """Jobs, and the links under them that carried anything, fullest first."""

    jobs: list[JobRecord]
    links: list[LinkUse]
