"""Requests: what users asked of a service, read from a recording or made by a generator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sim.traces.formats import FORMATS
from sim.traces.lines import TraceError
from sim.traces.reading import open_trace

__all__ = ["Request", "Trace", "TraceError", "read_trace", "write_trace"]


class Request(NamedTuple):
    """One request.  `arrival_s` counts from the first request of the trace."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


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
    spread_ticks: bool = True,
) -> Trace:
    """Requests of a trace file, plain or gzipped: `limit` rows from `first` (0: after the header).

    `format` is a name in `sim.traces.formats.FORMATS`, or "auto": told by the first line. Ids count
    the requests from 0. The first request arrives at 0, the others as long after it as recorded,
    divided by `speed`. The file is read as a stream, no further than asked (with ticks: to the end
    of the last tick), so memory follows `limit`; what lies outside the slice is not checked.
    `first` and `limit` count rows of the file, so that slices tile it; a skipped row is not made up
    for. Row numbers in messages count lines of the uncompressed file from 1, header included.

    What happens to a row that is not right:

    * no output token (a failed request): always skipped, with a counted warning, since there is
      nothing to serve;
    * unreadable, missing, negative, not finite or fractional value, zero prompt, more than
      `max_tokens` (pass the
      longest context of the model) in prompt or output: TraceError; under `bad_rows="skip"`
      skipped, with a counted
      warning;
    * arrives before the row above it: TraceError; under "skip" the rows are sorted by arrival, with
      a counted warning.
      None is dropped, since one row far too late would make every row after it look early;
    * gzip or zstd data that end early: TraceError; under "skip" the whole rows before the cut are
      kept, with a warning.
      Corrupt data are an error always: nothing says which rows to believe.

    A format that rounds arrivals to ticks (Mooncake: 3 s) would send bursts that no user sent. With
    `spread_ticks` the requests of a tick are spread evenly over it, in file order, as though the
    slice had been cut out after spreading; a tick ends at the next one at the latest. This is an
    assumption, so it is a warning as well.

    Errors: TraceError for the file, ValueError for an argument.
    """
    stream = open_trace(
        path,
        format=format,
        first=first,
        limit=limit,
        speed=speed,
        bad_rows=bad_rows,
        max_tokens=max_tokens,
        spread_ticks=spread_ticks,
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


def write_trace(path: str | Path, requests: Sequence[Request]) -> None:
    """Write requests as plain CSV, replacing the file whole; they read back equal if begun at 0."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="ascii", newline="\n") as file:
        file.write(",".join(FORMATS["plain"].columns) + "\n")
        file.writelines(f"{r.arrival_s!r},{r.prompt_tokens},{r.output_tokens}\n" for r in requests)
    os.replace(partial, path)
