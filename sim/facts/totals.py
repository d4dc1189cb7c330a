"""Sums over a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Totals:
    """Sums over a whole run on one rank, kept whether or not spans are recorded.

    `span_s[stream][kind]` is the time ops of that kind occupied the stream; `limit_s[kind][bound]`
    is compute-stream time by kind of op and what limited it. `seconds` is the wall time;
    `idle_s` the part of it in which no iteration was running, `engine_s` that in which one was but
    none of its ops: the engine's own time, swapping, a slow replica's delay, work lost in a
    failure; `bubble_s` that in which a pipeline stage waited for others. Of pipeline stages all is
    the mean over them. Of several replicas all sums are over the replicas, wall time too.
    """

    seconds: float = 0.0
    idle_s: float = 0.0
    engine_s: float = 0.0
    bubble_s: float = 0.0
    steps: float = 0.0
    ops: float = 0.0
    flop: float = 0.0
    matrix_flop: float = 0.0
    span_s: dict[str, dict[str, float]] = field(default_factory=dict)
    limit_s: dict[str, dict[str, float]] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)  # by capacity: "HBM", "L2", "link"
    asked_bytes: float = 0.0  # bytes the graph's kernels read
    prefetched_bytes: float = 0.0
    unused_prefetch_bytes: float = 0.0  # fetched into L2 and evicted, or never read

    @property
    def bound_s(self) -> dict[str, float]:
        """Compute-stream time by what limited it."""
        found: dict[str, float] = {}
        for limits in self.limit_s.values():
            for bound, seconds in limits.items():
                found[bound] = found.get(bound, 0.0) + seconds
        return found
