"""A trace file as a stream of columns: read in blocks, judged, sorted, spread, begun at 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from sim.traces.arrivals import Arrivals, times
from sim.traces.columns import Array, Columns, by_arrival, joined, rechunked
from sim.traces.formats import FORMATS, Parser, TraceFormat, detect
from sim.traces.lines import BLOCK_BYTES, CutShortError, Lines, TraceError, blocks
from sim.traces.parquet import Table, is_parquet, tables
from sim.traces.rows import Judge
from sim.traces.servegen import is_servegen, open_servegen
from sim.traces.stream import CHUNK_ROWS, TraceStream, cut, from_start

# how far out of order a row may be under bad_rows="skip", in a file that is not read at once
SORT_ROWS = 262_144


def open_trace(
    path: str | Path,
    *,
    format: str = "auto",
    first: int = 0,
    limit: int | None = None,
    speed: float = 1.0,
    bad_rows: Literal["error", "skip"] = "error",
    max_tokens: int = 1_000_000,
    spread_ticks: bool = True,
    chunk_rows: int = CHUNK_ROWS,
    sort_rows: int | None = SORT_ROWS,
    arrivals: Arrivals | None = None,
    seed: int = 0,
    fast: bool = True,
) -> TraceStream:
    """The requests of a trace file, plain or packed, to be taken in chunks of `chunk_rows`.

    `format` is a name in `sim.traces.formats.FORMATS`, or "auto": told by the first line. `limit`
    rows from `first` (0: after the header) are read, counted in rows of the file, so that slices
    tile it. The first request arrives at 0, the others as long after it as recorded, divided by
    `speed`. Row numbers in messages count lines of the uncompressed file from 1, header included.

    What happens to a row that is not right:

    * no output token (a failed request): always skipped, with a counted warning, since there is
      nothing to serve;
    * unreadable, missing, negative, not finite or fractional value, zero prompt, more than
      `max_tokens` in prompt or output: TraceError; under `bad_rows="skip"` skipped, with a counted
      warning;
    * arrives before the row above it: TraceError; under "skip" the rows are sorted by arrival, with
      a counted warning. None is dropped: one row far too late would make all after it look early;
    * gzip or zstd data that end early: TraceError; under "skip" the whole rows before the cut are
      kept, with a warning. Corrupt data are an error always: nothing says which rows to believe.

    A format that rounds arrivals to ticks (Mooncake: 3 s) would send bursts that no user sent. With
    `spread_ticks` the requests of a tick are spread evenly over it, in file order; a tick ends at
    the next one at the latest. This is an assumption, so it is a warning as well.

    Only the first line is read here, so a wrong row shows when its chunk is taken. Memory follows
    the chunk, with three exceptions: under `bad_rows="skip"` up to twice `sort_rows` rows are held
    to sort them, and a row that arrives further out of order is an error (None: all rows are held);
    requests of one tick are held together; and sessions and prefix blocks need a few bytes each
    (see `sim.traces.sessions`).

    `arrivals` replaces the times of the file, in the order of the file once sorted; a format
    without times needs it. `seed` is that of these arrivals, and of what is drawn from a ServeGen
    folder, where `path` is one.

    `fast=False` reads each row on its own: the same rows, warnings and errors, for tests. Errors:
    TraceError for the file, ValueError for an argument.
    """
    rules = (
        (
            format in ("auto", "servegen", *FORMATS),
            f"no trace format {format!r}; choose one of auto, {', '.join(FORMATS)}, servegen",
        ),
        (
            first >= 0 and (limit is None or limit >= 1) and max_tokens >= 1,
            f"first ({first}) must be 0 or more, limit ({limit}) and max_tokens ({max_tokens}) "
            "1 or more",
        ),
        (
            0 < speed < math.inf,
            f"speed ({speed}) must be a positive number; 2.0 sends the requests twice as fast",
        ),
        (bad_rows in ("error", "skip"), f"bad_rows ({bad_rows!r}) must be 'error' or 'skip'"),
        (
            chunk_rows >= 1 and (sort_rows is None or sort_rows >= 1),
            f"chunk_rows ({chunk_rows}) and sort_rows ({sort_rows}) must be 1 or more",
        ),
        (seed >= 0, f"seed ({seed}) must be 0 or more"),
    )
    if wrong := [what for met, what in rules if not met]:
        raise ValueError(wrong[0])
    path = Path(path)
    if format == "servegen" or is_servegen(path):
        drawn = cut(open_servegen(path, seed, max_tokens, chunk_rows), first, limit, speed)
        return drawn if arrivals is None else with_times(drawn, arrivals, seed)
    # Of a short slice no more is read than about it.
    block_bytes = BLOCK_BYTES if limit is None else min(BLOCK_BYTES, max(2**16, 64 * limit))
    try:
        opened = [_opened(path, format, block_bytes)]  # used once, so that a pipe can be read
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None

    name, _, parser, _ = opened[0]

    def source(out: TraceStream) -> Iterator[Columns]:
        try:
            _, form, parser, lines = opened.pop() if opened else _opened(path, format, block_bytes)
            judge = Judge(parser, form, bad_rows == "skip", max_tokens, fast)
            rows = _Slice(
                judge, lines, first, limit, spread_ticks and arrivals is None, arrivals is None
            )
            chunks = (
                _sorted(rows.columns(), sort_rows)
                if bad_rows == "skip"
                else (c for c, _ in rows.columns())
            )
            if rows.spread:
                chunks = _spread(chunks, rows)
            for chunk in rechunked(from_start(chunks, form.per_s, speed), chunk_rows):
                if not math.isfinite(chunk.arrival_s[-1]):
                    raise _TooSlowError(
                        f"speed ({speed}) is so small that the last request of {path} would never "
                        "arrive"
                    )
                out.tenants[:] = judge.sessions.tenants
                yield chunk
        except _TooSlowError as error:
            raise ValueError(str(error)) from None
        except ValueError as error:
            raise TraceError(f"{path}: {error}") from None
        out.tenants[:] = judge.sessions.tenants
        out.warnings += judge.warnings()

    stream = TraceStream(path.name, name, source, parser.block_tokens)
    return stream if arrivals is None else with_times(stream, arrivals, seed)


def with_times(stream: TraceStream, arrivals: Arrivals, seed: int) -> TraceStream:
    """The same requests in the same order, at other times."""

    def source(out: TraceStream) -> Iterator[Columns]:
        clock = times(arrivals, seed)
        ahead = next(clock)
        for chunk in stream.chunks():
            while len(ahead) < len(chunk):
                ahead = np.concatenate((ahead, next(clock)))
            yield replace(chunk, arrival_s=ahead[: len(chunk)])
            ahead = ahead[len(chunk) :]
            out.tenants[:] = stream.tenants
        out.warnings += stream.warnings

    return TraceStream(stream.name, stream.format, source, stream.block_tokens)


class _TooSlowError(ValueError):
    """Not the file is wrong but the argument."""


def _opened(
    path: Path, format: str, block_bytes: int
) -> tuple[str, TraceFormat, Parser, Iterator[Lines | Table]]:
    """Name of the format, the format, the parser, and the lines of data of a file."""
    if is_parquet(path):
        return "parquet", *tables(path)
    source: Iterator[Lines | Table] = blocks(path, block_bytes)
    lines = next((lines for lines in source if len(lines)), None)
    if lines is None:
        raise ValueError("the file is empty")
    head = lines.line(0)
    name = detect(head) if format == "auto" else format
    form = FORMATS[name]
    parser = form.parser(int(lines.number[0]), head)
    return (
        name,
        form,
        parser,
        chain([lines if form.json_lines else lines.part(1, len(lines))], source),
    )


class _Slice:
    """The rows `first` to `first + limit - 1`; with ticks to spread also the rest of those.

    So the rows before the slice are parsed, and those after it up to the next tick. Faults there
    are not reported, as they were not asked for.
    """

    def __init__(
        self,
        judge: Judge,
        lines: Iterator[Lines | Table],
        first: int,
        limit: int | None,
        spread_ticks: bool,
        timed: bool,
    ):
        self.timed = timed  # the times of the file are used
        self.judge, self.lines, self.first, self.limit = judge, lines, first, limit
        self.spread = spread_ticks and judge.form.tick_s > 0
        self.tick, self.mates = (
            math.nan,
            0,
        )  # of the last row before the slice, and how many rows it holds
        self._rest: Lines | Table | None = None

    def columns(self) -> Iterator[tuple[Columns, Array]]:
        """Rows that can be served, in file order and in the time of the file, and their numbers."""
        passed, before, left = 0, self.first, self.limit
        some = False
        try:
            for lines in self.lines:
                skipped = min(before, len(lines))
                if skipped and self.spread:
                    self._pass(self.judge.times(lines.part(0, skipped)))
                before -= skipped
                stop = len(lines) if left is None else min(len(lines), skipped + left)
                passed += stop
                if stop > skipped:
                    columns, numbers = self.judge.columns(lines.part(skipped, stop))
                    if len(columns):
                        some = True
                        yield columns, numbers
                    if left is not None:
                        left -= stop - skipped
                if left == 0:
                    self._rest = lines.part(stop, len(lines))
                    break
        except CutShortError as error:
            if before or not self.judge.skip:
                raise
            self.judge.notes.append(f"{error}; the rows before are kept")
        if not some:
            raise ValueError(self.judge.nothing(self.first, passed))
        form = self.judge.form
        if self.spread:
            self.judge.assumed.append(
                f"arrivals were recorded in ticks of {form.tick_s:g} s; those of one tick are "
                "spread evenly over it"
            )
        if self.timed and not form.columns[0]:
            self.judge.assumed.append(
                "the file has no times, so all requests arrive at 0; give them arrivals"
            )

    def rest_of_tick(self, tick: float) -> tuple[int, float]:
        """How many rows after the slice have the time `tick`, and the next (infinite: none)."""
        after = 0
        try:
            for lines in chain([self._rest] if self._rest else [], self.lines):
                times = self.judge.times(lines)
                others = np.flatnonzero(times != tick)
                if len(others):
                    following = float(times[others[0]])
                    return after + int(others[0]), following if following > tick else math.inf
                after += len(times)
        except CutShortError:
            if not self.judge.skip:
                raise
        return after, math.inf

    def _pass(self, times: Array) -> None:
        if not len(times):
            return
        others = np.flatnonzero(times != times[-1])
        run = len(times) - (int(others[-1]) + 1 if len(others) else 0)
        self.mates = run + (self.mates if run == len(times) and self.tick == times[-1] else 0)
        self.tick = float(times[-1])


def _sorted(rows: Iterable[tuple[Columns, Array]], sort_rows: int | None) -> Iterator[Columns]:
    """The same rows by arrival, those of one instant in file order."""
    held: list[Columns] = []
    count, sent = 0, -math.inf
    for columns, numbers in rows:
        if sent > -math.inf and (late := np.flatnonzero(columns.arrival_s < sent)).size:
            raise ValueError(
                f"row {numbers[late[0]]} arrives before one more than {sort_rows} rows above "
                "it; sort the file"
            )
        held.append(columns)
        count += len(columns)
        if sort_rows is not None and count > 2 * sort_rows:
            whole = by_arrival(joined(held))
            yield whole[: count - sort_rows]
            sent = whole.arrival_s[count - sort_rows - 1].item()
            held, count = [whole[count - sort_rows :]], sort_rows
    if held:
        yield by_arrival(joined(held))


def _spread(chunks: Iterable[Columns], rows: _Slice) -> Iterator[Columns]:
    """Rows of equal time spread evenly over the tick, or up to the next tick if that is nearer."""
    width = rows.judge.form.tick_s * rows.judge.form.per_s
    held: list[Columns] = []
    before = None  # rows of the first tick that are before the slice
    for chunk in chunks:
        if before is None:
            before = rows.mates if rows.tick == chunk.arrival_s[0] else 0
        held.append(chunk)
        if chunk.arrival_s[-1] == held[0].arrival_s[0]:
            continue  # one tick so far
        whole = joined(held)
        last = int(np.searchsorted(whole.arrival_s, whole.arrival_s[-1]))
        yield _spread_ticks(whole[:last], before, 0, float(whole.arrival_s[-1]), width)
        held, before = [whole[last:]], 0
    if held:
        whole = joined(held)
        after, end = rows.rest_of_tick(float(whole.arrival_s[-1]))
        yield _spread_ticks(whole, before or 0, after, end, width)


def _spread_ticks(columns: Columns, before: int, after: int, end: float, width: float) -> Columns:
    """Whole ticks.

    `before` and `after` are rows outside in the first and the last one, `end` the tick after them.
    """
    times = columns.arrival_s
    first = np.concatenate(([0], np.flatnonzero(np.diff(times)) + 1))
    counts = np.diff(np.append(first, len(times)))
    starts = times[first]
    lead = np.zeros(len(first), np.int64)
    lead[0] = before
    shared = counts + lead
    shared[-1] += after
    step = np.minimum(width, np.append(starts[1:], end) - starts) / shared
    place = np.arange(len(times)) - np.repeat(first - lead, counts)
    return replace(columns, arrival_s=np.repeat(starts, counts) + np.repeat(step, counts) * place)
