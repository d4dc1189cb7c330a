"""A trace file as a stream of columns: read in blocks, judged, sorted, spread, begun at 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim.text.outside import MOST, MOST_S
from sim.traces.arrivals import Arrivals, times
from sim.traces.columns import Array, Columns, by_arrival, joined, rechunked
from sim.traces.documents import in_one
from sim.traces.formats import FORMATS, Parser, TraceFormat, detect
from sim.traces.lines import BLOCK_BYTES, CutShortError, Lines, TraceError, blocks
from sim.traces.parquet import Table, is_parquet, tables
from sim.traces.rows import CLOCKS, Judge, unit_of
from sim.traces.servegen import is_servegen, open_servegen
from sim.traces.stream import CHUNK_ROWS, TraceStream, cut, from_start

# how far out of order a row may be under bad_rows="skip", in a file that is not read at once
SORT_ROWS = 262_144
MOST_TOKENS = MOST["tokens"].most  # of a prompt or an answer
TICK_ROWS = 4096  # in which a tick shows
_FEW_TICKS = 3  # different ones, at the least
_JITTER = 0.002  # of a tick, by which a stamp may miss it: Mooncake's do by up to 3 ms


def open_trace(
    path: str | Path,
    *,
    format: str = "auto",
    first: int = 0,
    limit: int | None = None,
    speed: float = 1.0,
    bad_rows: Literal["error", "skip"] = "error",
    max_tokens: int = MOST_TOKENS,
    ticks: bool | float = True,
    block_tokens: int | None = None,
    clock: str | None = None,
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

    A recorder that rounds arrivals to ticks (Mooncake's: 3 s) would send bursts that no user sent.
    With `ticks` the requests of a tick are spread evenly over it, in file order; a tick ends at the
    next one at the latest. This is an assumption, so it is a warning as well, and made only where
    the first rows of the file, several thousand, are all at multiples of the format's tick; `ticks`
    in seconds is one that the file has in any case, and False none.

    `block_tokens` are the tokens of a prefix block, where they are others than the format's;
    `clock` is the unit of the times (s, ms, us, ns), likewise.

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
        (
            arrivals is None or speed == 1.0,
            f"speed ({speed}) is that of the recorded times, which a rate replaces; leave one out",
        ),
        (
            arrivals is None or isinstance(ticks, bool),
            f"a tick of {ticks} s is of the recorded times, which a rate replaces; leave one out",
        ),
        (bad_rows in ("error", "skip"), f"bad_rows ({bad_rows!r}) must be 'error' or 'skip'"),
        (
            chunk_rows >= 1 and (sort_rows is None or sort_rows >= 1),
            f"chunk_rows ({chunk_rows}) and sort_rows ({sort_rows}) must be 1 or more",
        ),
        (seed >= 0, f"seed ({seed}) must be 0 or more"),
        (0 <= ticks < math.inf, f"a tick of {ticks} s must be positive"),
        (
            block_tokens is None or block_tokens >= 1,
            f"block_tokens ({block_tokens}) must be 1 or more",
        ),
        (
            clock is None or clock in CLOCKS,
            f"no clock {clock!r}; choose one of {', '.join(CLOCKS)}",
        ),
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
        # Used once, so that a pipe can be read.
        how = format, block_bytes, block_tokens, clock
        opened = [_opened(path, *how)]
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None

    name, _, parser, _ = opened[0]

    def source(out: TraceStream) -> Iterator[Columns]:
        try:
            _, form, parser, lines = opened.pop() if opened else _opened(path, *how)
            judge = Judge(parser, form, bad_rows == "skip", max_tokens, fast, clock is not None)
            tick_s, lines = _tick(judge, lines, ticks if arrivals is None else False)
            rows = _Slice(judge, lines, first, limit, tick_s, arrivals is None)
            chunks = (
                _sorted(rows.columns(), sort_rows)
                if bad_rows == "skip"
                else (c for c, _ in rows.columns())
            )
            if rows.spread:
                chunks = _spread(chunks, rows)
            if clock is None and not form.whole_time:
                chunks = _believed(chunks, form)
            for chunk in rechunked(from_start(chunks, form.per_s, speed), chunk_rows):
                if not chunk.arrival_s[-1] <= MOST_S:
                    raise _TooSlowError(
                        f"speed ({speed}) is so small that a request of {path} would arrive "
                        f"later than a clock resolves; at most {MOST_S:.0e} s"
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
            out.tenants[:] = stream.tenants
            yield replace(chunk, arrival_s=ahead[: len(chunk)])
            ahead = ahead[len(chunk) :]
        out.warnings += stream.warnings

    return TraceStream(stream.name, stream.format, source, stream.block_tokens)


class _TooSlowError(ValueError):
    """Not the file is wrong but the argument."""


def _opened(
    path: Path,
    format: str,
    block_bytes: int,
    block_tokens: int | None,
    clock: str | None,
) -> tuple[str, TraceFormat, Parser, Iterator[Lines | Table]]:
    """Name of the format, the format, the parser, and the lines of data of a file, its clock and
    the size of its prefix blocks as they are told."""
    name, form, parser, lines = _found(path, format, block_bytes)
    if clock is not None and form.whole_time:
        raise ValueError(f"the times are dates, which no clock ({clock}) has a unit of")
    if block_tokens is not None and "blocks" not in parser.extras:
        raise ValueError(f"there are no prefix blocks, of {block_tokens} tokens or any")
    form = form if clock is None else replace(form, per_s=CLOCKS[clock])
    return name, form, parser._replace(block_tokens=block_tokens or parser.block_tokens), lines


def _found(
    path: Path, format: str, block_bytes: int
) -> tuple[str, TraceFormat, Parser, Iterator[Lines | Table]]:
    if is_parquet(path):
        return "parquet", *tables(path)
    source: Iterator[Lines | Table] = blocks(path, block_bytes)
    lines = next((lines for lines in source if len(lines)), None)
    if lines is None:
        raise ValueError("the file is empty")
    head = lines.line(0)
    if format == "auto" and (rows := in_one(head, chain([lines], source))) is not None:
        name, lines = rows
        head, source = lines.line(0), iter(())
        format = name if name in FORMATS else detect(head)
    name = detect(head) if format == "auto" else format
    form = FORMATS[name]
    parser = form.parser(int(lines.number[0]), head)
    return (
        name,
        form,
        parser,
        chain([lines if form.json_lines else lines.part(1, len(lines))], source),
    )


def _tick(
    judge: Judge, lines: Iterator[Lines | Table], asked: bool | float
) -> tuple[float, Iterator[Lines | Table]]:
    """Seconds of the file's ticks, 0 if it has none; and its lines, of which the first were looked
    at."""
    tick = judge.form.tick_s if asked is True else float(asked)
    if asked is not True or not tick:
        return tick, lines
    held: list[Lines | Table] = []
    seen = np.zeros(0)
    fault: list[ValueError] = []
    try:
        for part in lines:
            held.append(part)
            seen = np.concatenate((seen, judge.times(part) / judge.form.per_s / tick))
            if len(seen) >= TICK_ROWS:
                break
    except ValueError as error:  # whoever comes to that place will meet it
        fault.append(error)
    seen = seen[:TICK_ROWS]
    whole = np.round(seen)
    sure = len(np.unique(whole)) >= _FEW_TICKS and np.abs(seen - whole).max() <= _JITTER
    return tick if sure else 0.0, chain(held, _raising(fault), lines)


def _raising(faults: list[ValueError]) -> Iterator[Any]:
    for fault in faults:
        raise fault
    yield from ()


def _believed(chunks: Iterable[Columns], form: TraceFormat) -> Iterator[Columns]:
    """The same; ValueError if their times, in the unit of the format, are those of a coarser
    clock."""
    begun = False
    for chunk in chunks:
        if not begun:
            begun = True
            _no_coarser(chunk, form)
        yield chunk


_EPOCH_S = 9e8, 2.3e9  # seconds since 1970 of a recording: 1998 to 2042
_FEWEST_MS = 10.0  # between two requests, on average, told in fractions of that unit


def _no_coarser(chunk: Columns, form: TraceFormat) -> None:
    """ValueError if the first times are those of a coarser clock than the format's."""
    seen = chunk.arrival_s
    if form.per_s < 1e3:
        return
    # Of a finer clock these are the first seconds of a recording.
    since = form.per_s == 1e3 and _EPOCH_S[0] <= seen[0] <= seen[-1] <= _EPOCH_S[1]
    gap = (seen[-1] - seen[0]) / max(len(seen) - 1, 1)
    parts = 0 < gap < _FEWEST_MS and bool((seen != np.floor(seen)).any())
    if since or parts:
        unit = unit_of(form)
        what = "are, taken as seconds, of these years" if since else f"are fractions of a {unit}"
        raise ValueError(
            f"times in {form.columns[0]} {what}, where {unit} are due; are they in s? Say so with "
            f"clock: s (clock: {unit}, if it is right)"
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
        tick_s: float,
        timed: bool,
    ):
        self.timed = timed  # the times of the file are used
        self.judge, self.lines, self.first, self.limit = judge, lines, first, limit
        self.tick_s, self.spread = tick_s, tick_s > 0
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
                    if self.judge.fault:
                        raise self.judge.fault
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
    width = rows.tick_s * rows.judge.form.per_s
    moved = False
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
        apart = _spread_ticks(whole[:last], before, 0, float(whole.arrival_s[-1]), width)
        moved = moved or (apart.arrival_s != whole.arrival_s[:last]).any()
        yield apart
        held, before = [whole[last:]], 0
    if held:
        whole = joined(held)
        after, end = rows.rest_of_tick(float(whole.arrival_s[-1]))
        apart = _spread_ticks(whole, before or 0, after, end, width)
        moved = moved or (apart.arrival_s != whole.arrival_s).any()
        yield apart
    if moved:
        rows.judge.assumed.append(
            f"arrivals were recorded in ticks of {rows.tick_s:g} s; those of one tick are spread "
            "evenly over it"
        )


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
