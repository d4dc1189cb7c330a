"""Recordings as lists of records, which tests can compare and print."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sim.traces.columns import Columns
from sim.traces.lines import TraceError
from sim.traces.reading import open_trace
from traces.azure_conv_like import Request


class Trace(NamedTuple):
    """Requests in order of arrival, their file and format, and what was done to them on the way."""

    requests: list[Request]
    name: str
    format: str
    warnings: list[str]


def read_trace(
    path: str | Path,
    *,
    format: str = "auto",
    first: int = 0,
    limit: int | None = None,
    speed: float = 1.0,
    bad_rows: Literal["error", "skip"] = "error",
    max_tokens: int = 1_000_000,
    ticks: bool = True,
    clock: str | None = None,
) -> Trace:
    """Requests of a trace file as records, all held, however far out of order its rows are."""
    stream = open_trace(
        path,
        format=format,
        first=first,
        limit=limit,
        speed=speed,
        bad_rows=bad_rows,
        max_tokens=max_tokens,
        ticks=ticks,
        clock=clock,
        sort_rows=None,
    )
    requests: list[Request] = []
    for chunk in stream.chunks():
        columns = (
            chunk.arrival_s.tolist(),
            chunk.prompt_tokens.tolist(),
            chunk.output_tokens.tolist(),
        )
        requests.extend(map(Request, range(len(requests), len(requests) + len(chunk)), *columns))
    return Trace(requests, stream.name, stream.format, stream.warnings)


__all__ = ["Request", "Trace", "TraceError", "read_trace"]


def same(a: Columns, b: Columns) -> bool:
    """Whether both hold the same columns with the same bits; NaN equals NaN."""
    for field in fields(Columns):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if (one is None) != (other is None):
            return False
        if one is not None and not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            return False
    return True
