"""The recorded requests that a scenario names."""

from __future__ import annotations

import itertools
from pathlib import Path

from sim import compiled
from sim.scenario.trace import Trace
from sim.traces.arrivals import Arrivals
from sim.traces.reading import open_trace
from sim.traces.stream import TraceStream


def trace_of(t: Trace, seed: int) -> tuple[TraceStream, list[str]]:
    """The recorded trace, or the fallback with a warning that says so."""
    file, warning = t.file, []
    if not Path(file).exists() and t.fallback:
        file, warning = (
            t.fallback,
            [
                f"{t.file} is not there; replaying the generated trace {Path(t.fallback).name} "
                "instead"
            ],
        )
    stream = open_trace(
        file,
        format=t.format,
        first=t.first,
        limit=t.limit,
        speed=t.speed,
        bad_rows=t.bad_rows,
        ticks=t.ticks == "auto" if isinstance(t.ticks, str) else t.ticks,
        block_tokens=t.block_tokens,
        clock=t.clock,
        arrivals=None if t.rate is None else Arrivals(t.rate),
        seed=seed,
    )
    # What is wrong with the beginning is told before anything runs.
    for chunk in itertools.islice(stream.chunks(), 1):
        compiled.foresee("serving", len(chunk))
    return stream, warning
