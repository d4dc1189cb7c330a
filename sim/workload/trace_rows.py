"""A slice of rows from the lines of a trace file, under one rule for rows that are not right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from sim.workload.trace_formats import Parser, Row, TraceFormat
from sim.workload.trace_lines import CutShortError

Lines = Iterator[tuple[int, str]]


class RowReader:
    """Reads rows of one file and keeps the tally of what was not right; the rules are those of `read_trace`.

    Errors are ValueErrors that name the row, not the file.
    """

    def __init__(self, parser: Parser, form: TraceFormat, skip: bool, max_tokens: int):
        self.parser, self.form, self.skip, self.max_tokens = parser, form, skip, max_tokens
        self._passed = 0  # data rows read, in the slice or before it
        self._bad, self._bad_rows = 0, list[str]()  # counts, and the first three
        self._failed, self._failed_rows = 0, list[str]()
        self._notes: list[str] = []

    def slice(self, lines: Lines, first: int, limit: int | None) -> list[Row]:
        """`limit` rows from row `first`, less those that cannot be served, by arrival; not read further."""
        for _ in itertools.islice(lines, first):
            self._passed += 1
        return self._sorted(itertools.islice(lines, limit))

    def slice_spread(self, lines: Lines, first: int, limit: int | None) -> list[Row]:
        """The same, with the rows of a tick spread evenly over it, as though the slice were cut out after spreading.

        So the ticks at both edges are counted in full: the rows before the slice are parsed, and those after it up to
        the next tick. Faults there are not reported, as they were not asked for.
        """
        tick, mates = math.nan, 0  # of the last row before the slice, and how many rows it holds
        for _, line in itertools.islice(lines, first):
            self._passed += 1
            if (time := self._time(line)) is not None:
                tick, mates = time, mates + 1 if time == tick else 1
        rows = self._sorted(itertools.islice(lines, limit))
        if not rows:
            return rows
        before = mates if tick == rows[0][0] else 0
        after, end = self._rest_of_tick(lines, rows[-1][0])
        self._notes.append(
            f"arrivals were recorded in ticks of {self.form.tick_s:g} s; those of one tick are spread evenly over it"
        )
        return _spread(rows, before, after, end, self.form.tick_s * self.form.per_s)

    def warnings(self) -> list[str]:
        """One line for each kind of thing that was not right, with a count and the first three rows."""
        lines = []
        if self._bad:
            lines.append(f"{_rows(self._bad)} skipped: {'; '.join(self._bad_rows)}{_more(self._bad)}")
        if self._failed:
            where = f"row{'s' if self._failed > 1 else ''} {', '.join(self._failed_rows)}{_more(self._failed)}"
            lines.append(f"{_rows(self._failed)} skipped, failed requests without output to serve: {where}")
        return lines + self._notes

    def nothing(self, first: int) -> str:
        """Why there is no request to serve."""
        if warnings := self.warnings():
            return f"no row can be served: {'; '.join(warnings)}; a right row: {self.parser.example}"
        if self._passed:
            return f"has {_rows(self._passed)} of data, so none from first={first} on"
        return f"has a header but no rows; a right row: {self.parser.example}"

    def _sorted(self, lines: Lines) -> list[Row]:
        rows: list[Row] = []
        latest, early, early_row = -math.inf, 0, 0
        check = self._check
        try:
            for number, line in lines:
                self._passed += 1
                try:
                    row = check(line)
                    if row is not None and row[0] < latest and not self.skip:
                        raise ValueError(f"{self.form.columns[0]} is before that of the row above; sort the file by it")
                except ValueError as error:
                    if not self.skip:
                        raise ValueError(f"row {number}: {error}; a right row: {self.parser.example}") from None
                    self._bad += 1
                    if self._bad <= 3:
                        self._bad_rows.append(f"row {number}: {error}")
                    continue
                if row is None:
                    self._failed += 1
                    if self._failed <= 3:
                        self._failed_rows.append(str(number))
                    continue
                if row[0] < latest:
                    early, early_row = early + 1, early_row or number
                else:
                    latest = row[0]
                rows.append(row)
        except CutShortError as error:
            if not self.skip:
                raise
            self._notes.append(f"{error}; the rows before are kept")
        if early:
            rows.sort(key=lambda row: row[0])  # stable: rows of one instant stay in file order
            self._notes.append(
                f"sorted by arrival: {_rows(early)} arrived before one above, the first is row {early_row}"
            )
        return rows

    def _check(self, line: str) -> Row | None:
        """The row of a line, None if it has no output to serve, or ValueError."""
        try:
            row = self.parser.row(line)
            _, prompt, output = row
            if not output:
                return None
            if not 0 < prompt <= self.max_tokens:
                raise ValueError(self._out_of_range(self.form.columns[1], prompt))
            if output > self.max_tokens:
                raise ValueError(self._out_of_range(self.form.columns[2], output))
        except ValueError as error:
            cut = "" if line.endswith(("\n", "\r")) else "; the row has no line end: was the file cut off here?"
            raise ValueError(f"{error}{cut}") from None
        return row

    def _out_of_range(self, column: str, tokens: int) -> str:
        return f"{column} is {tokens}, above the limit of {self.max_tokens}" if tokens else f"{column} is zero"

    def _time(self, line: str) -> float | None:
        """Arrival of a row outside the slice; None if it would not be served, whatever the reason."""
        try:
            row = self._check(line)
        except ValueError:
            return None
        return row[0] if row else None

    def _rest_of_tick(self, lines: Lines, tick: float) -> tuple[int, float]:
        """How many more rows have the time `tick`, and the time of the next one after them (infinite: none)."""
        after = 0
        try:
            for _, line in lines:
                time = self._time(line)
                if time is not None and time != tick:
                    return after, time if time > tick else math.inf
                after += time is not None
        except CutShortError:
            if not self.skip:
                raise
        return after, math.inf


def _spread(rows: list[Row], before: int, after: int, end: float, width: float) -> list[Row]:
    """Rows of equal time spread over `width`, or up to the next tick if that is nearer.

    `before` and `after` are the rows outside the slice in its first and last tick, `end` the time of the tick after it.
    """
    ticks = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    starts = [group[0][0] for group in ticks]
    spread: list[Row] = []
    for group, start, following in zip(ticks, starts, [*starts[1:], end]):
        at = before if start == starts[0] else 0
        step = min(width, following - start) / (at + len(group) + (after if start == starts[-1] else 0))
        spread += [(start + step * k, row[1], row[2]) for k, row in enumerate(group, at)]
    return spread


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _more(count: int) -> str:
    return f" and {count - 3} more" if count > 3 else ""
