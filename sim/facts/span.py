"""Facts with a start and an end, which the engine writes down."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

BOUNDS = ("compute", "HBM", "L2", "link", "latency")


class Span(NamedTuple):
    """One op on one stream.  Spans of one track never overlap."""

    track: str  # "rank 0/compute"
    name: str  # "layer 3.qkv"
    kind: str  # the op's kind
    start_s: float
    end_s: float
    hbm_bytes: float = 0.0
    l2_bytes: float = 0.0
    link_bytes: float = 0.0
    flop: float = 0.0
    # One of BOUNDS: what a faster machine would have to improve. "" of a lane above the ops.
    bound: str = "latency"
    note: str = ""


class Use(NamedTuple):
    """A stretch of time in which one flow crossed one capacity at a constant rate.  Uses of a
    capacity add up."""

    capacity: str  # "rank 0/HBM"
    start_s: float
    end_s: float
    bytes_per_s: float


def digest(seconds: Iterable[float]) -> str:
    """Equal for equal lists of times, rounded to 1 ps to absorb float noise."""
    return hashlib.sha256(" ".join(str(round(t * 1e12)) for t in seconds).encode()).hexdigest()[:12]


def fingerprint(spans: Iterable[Span]) -> str:
    """Equal for equal trajectories; times are rounded to 1 ps to absorb float noise."""
    lines = (f"{s.track} {s.name} {round(s.start_s * 1e12)} {round(s.end_s * 1e12)}" for s in spans)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
