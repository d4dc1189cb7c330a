"""Lines of a trace file judged under one rule for rows that are not right, and turned into columns.

The rows of a CSV file are read many at a time where every field is plain digits; any other row, and
each row of JSON, is read on its own by the parser of its format, which also finds what is wrong
with it.
"""

from __future__ import annotations

import math

import numpy as np

from sim.text.outside import MOST_S, UNFORESEEN, unforeseen
from sim.traces.columns import Array, Columns
from sim.traces.digits import date, decimal, whole
from sim.traces.formats import Parser, Row, TraceFormat
from sim.traces.lines import Lines
from sim.traces.parquet import Table
from sim.traces.sessions import Sessions

CLOCKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # units in a second
_LATEST_S = 1e11  # since 1970: the year 5138
_LONGEST_S = 3.2e8  # between two requests: ten years


def _finer(form: TraceFormat, seconds: float, most_s: float) -> str:
    """Which clock makes `most_s` at most of so many seconds of the format's."""
    units = {name: per_s / form.per_s for name, per_s in CLOCKS.items() if per_s > form.per_s}
    unit = next((name for name, more in units.items() if seconds / more <= most_s), "ns")
    return f"is it in {unit}? Say so with clock: {unit} (clock: {unit_of(form)}, if it is right)"


def unit_of(form: TraceFormat) -> str:
    """The name of a format's unit of time."""
    return next((name for name, per_s in CLOCKS.items() if per_s == form.per_s), "s")


class Judge:
    """Reads rows of one file and keeps the tally of faults; the rules are those of `read_trace`.

    Errors are ValueErrors that name the row, not the file.
    """

    def __init__(
        self,
        parser: Parser,
        form: TraceFormat,
        skip: bool,
        max_tokens: int,
        fast: bool = True,
        told: bool = False,
    ):
        self.told = told  # the unit of the clock was said, not guessed
        self.parser, self.form, self.skip, self.max_tokens = parser, form, skip, max_tokens
        self.fast = fast
        self.sessions = Sessions(parser.extras, form.per_s, parser.sure)
        self.notes: list[str] = []  # faults of the file as a whole
        self.assumed: list[str] = []
        self._bad, self._bad_rows = 0, list[str]()  # counts, and the first three
        self._failed, self._failed_rows = 0, list[str]()
        self._latest, self._early, self._early_row = -math.inf, 0, 0
        self._first: float = math.inf  # of the times, in the format's unit
        self.fault: ValueError | None = None  # of the row after the last that was given

    def columns(self, lines: Lines | Table) -> tuple[Columns, Array]:
        """The rows that can be served, in file order, times in the format's unit; and numbers.

        Unless rows may be skipped, those before the first that is not right, of which `fault` says
        what it deserves: so what comes before it is judged alike in blocks of any size.
        """
        time, prompt, output, kept = self._plain_rows(lines)
        if (
            self.fast
            and kept.all()
            and isinstance(lines, Table)
            and (told := lines.told(self.parser.told)) is not None
        ):
            right = self._order(time, lines.number)
            added = self.sessions.added_columns(Columns(time, prompt, output), told)
            return added[:right], lines.number[:right]
        if self.parser.extras:
            kept[:] = False  # these are read row by row
        extras: list[Row] = []
        for index in np.flatnonzero(~kept).tolist():
            row_number = int(lines.number[index])
            try:
                row = self._check(lines.line(index))
            except ValueError as error:
                if not self.skip:
                    kept[index:] = False
                    self.fault = ValueError(
                        f"row {row_number}: {error}; a right row: {self.parser.example}"
                    )
                    break
                self._bad += 1
                if self._bad <= 3:
                    self._bad_rows.append(f"row {row_number}: {error}")
                continue
            if row is None:
                self._failed += 1
                if self._failed <= 3:
                    self._failed_rows.append(str(row_number))
                continue
            time[index], prompt[index], output[index] = row[:3]
            kept[index] = True
            extras.append(row)
        number = lines.number
        if not kept.all():
            time, prompt, output, number = time[kept], prompt[kept], output[kept], number[kept]
        right = self._order(time, number)
        return self.sessions.added(Columns(time, prompt, output), extras)[:right], number[:right]

    def _within(self, time: Array, number: Array) -> None:
        """ValueError if one clock cannot tell all of these times apart; of a clock that nobody
        told, if a finer one is likelier."""
        self._first = min(self._first, float(time.min()))
        since_s = (time.astype(np.float64) - self._first) / self.form.per_s
        guessed = not (self.told or self.form.whole_time)
        column = self.form.columns[0]
        if guessed and (first_s := self._first / self.form.per_s) > _LATEST_S:
            raise ValueError(
                f"row {number[np.argmin(time)]}: {column} begins at {first_s:.3g} s, which no "
                f"recording does; {_finer(self.form, first_s, _LATEST_S)}"
            )
        if not (beyond := since_s > (_LONGEST_S if guessed else MOST_S)).any():
            return
        at = int(np.argmax(beyond))
        what = f"row {number[at]}: {column} spans {since_s[at]:.3g} s, "
        if not guessed or since_s[at] / 1e9 > MOST_S:
            raise ValueError(
                f"{what}more than a clock resolves that has requests to tell apart; at most "
                f"{MOST_S:.0e} s"
            )
        hint = _finer(self.form, since_s[at], _LONGEST_S)
        raise ValueError(f"{what}which no recording does; {hint}")

    def times(self, lines: Lines | Table) -> Array:
        """Times of rows outside the slice that would be served; others' faults are not told."""
        time, _, _, kept = self._plain_rows(lines)
        for index in np.flatnonzero(~kept).tolist():
            try:
                row = self._check(lines.line(index))
            except ValueError:
                continue
            if row is not None:
                time[index], kept[index] = row[0], True
        return time[kept]

    def warnings(self) -> list[str]:
        """One line for each kind of fault, with a count and the first three rows."""
        kinds = (
            (
                self._bad,
                f"{_rows(self._bad)} skipped: {'; '.join(self._bad_rows)}{_more(self._bad)}",
            ),
            (
                self._failed,
                f"{_rows(self._failed)} skipped, failed requests without output to serve: "
                f"row{'s' if self._failed > 1 else ''} "
                f"{', '.join(self._failed_rows)}{_more(self._failed)}",
            ),
            *((1, note) for note in self.notes),
            (
                self._early,
                f"sorted by arrival: {_rows(self._early)} arrived before one above, the first "
                f"is row {self._early_row}",
            ),
        )
        told = [warning for count, warning in kinds if count]
        return told + self.assumed + self.sessions.notes()

    def nothing(self, first: int, passed: int) -> str:
        """Why there is no request to serve, after so many rows were passed."""
        if warnings := self.warnings():
            return (
                f"no row can be served: {'; '.join(warnings)}; a right row: {self.parser.example}"
            )
        if passed:
            return f"has {_rows(passed)} of data, so none from first={first} on"
        return f"has a header but no rows; a right row: {self.parser.example}"

    def _order(self, time: Array, number: Array) -> int:
        """Counts the rows that arrive before one above them, or refuses the first; how many rows
        come before that one."""
        if not len(time):
            return 0
        self._within(time, number)
        latest = np.maximum.accumulate(time)
        before = np.concatenate(([time[0]], latest[:-1]))
        if self._latest > -math.inf:
            before = np.maximum(before, np.asarray(self._latest, time.dtype))
        self._latest = max(self._latest, latest[-1].item())
        early = time < before
        if not early.any():
            return len(time)
        first = int(number[np.argmax(early)])
        if not self.skip:
            fault = f"{self.form.columns[0]} is before that of the row above; sort the file by it"
            self.fault = ValueError(f"row {first}: {fault}; a right row: {self.parser.example}")
            return int(np.argmax(early))
        self._early += int(early.sum())
        self._early_row = self._early_row or first
        return len(time)

    def _plain_rows(self, lines: Lines | Table) -> tuple[Array, Array, Array, Array]:
        """Time, prompt and output of each row, and which of them were read; the others are zero."""
        count = len(lines)
        time = np.zeros(count, np.int64 if self.form.whole_time else np.float64)
        prompt, output, kept = (
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, bool),
        )
        if isinstance(lines, Table):
            return lines.plain_rows(self.max_tokens) if self.fast else (time, prompt, output, kept)
        if not (self.fast and count and self.parser.places) or self.parser.extras:
            return time, prompt, output, kept
        text, width = lines.text, self.parser.width
        begin = int(lines.start[0])
        used = text.data[begin : int(lines.end[-1])]
        commas = np.flatnonzero(used == ord(self.parser.comma)) + begin
        regular = np.arange(count)
        if len(commas) != count * (width - 1) or not _in_lines(commas, lines, width):
            upto = np.searchsorted(commas, lines.start)
            regular = np.flatnonzero(np.searchsorted(commas, lines.end) - upto == width - 1)
            commas = commas[(upto[regular][:, None] + np.arange(width - 1)).ravel()]
        between = commas.reshape(-1, width - 1)
        end = lines.end[regular]
        end = end - (text.data[end - 1] == ord("\r"))

        def field(at: int) -> tuple[Array, Array]:
            return (
                between[:, at - 1] + 1 if at else lines.start[regular],
                between[:, at] if at < width - 1 else end,
            )

        at_time, at_prompt, at_output = self.parser.places
        prompts, sound = whole(text, *field(at_prompt))
        outputs, more = whole(text, *field(at_output))
        sound &= (
            more
            & (prompts > 0)
            & (prompts <= self.max_tokens)
            & (outputs > 0)
            & (outputs <= self.max_tokens)
        )
        if at_time < 0:
            times, more = time[regular], sound
        elif self.form.whole_time:
            times, more = date(text, *field(at_time))
        else:
            dots = np.flatnonzero(used == ord(".")) + begin
            times, more = decimal(text, *field(at_time), dots)
        sound &= more
        quotes = np.flatnonzero(used == ord('"')) + begin
        if len(quotes):  # a comma within quotes ends no field
            sound &= np.searchsorted(quotes, lines.start[regular]) == np.searchsorted(
                quotes, lines.end[regular]
            )
        if len(regular) == count and sound.all():
            return times, prompts, outputs, sound
        rows = regular[sound]
        time[rows], prompt[rows], output[rows], kept[rows] = (
            times[sound],
            prompts[sound],
            outputs[sound],
            True,
        )
        return time, prompt, output, kept

    def _check(self, line: str) -> Row | None:
        """The row of a line, None if it has no output to serve, or ValueError."""
        try:
            try:
                row = self.parser.row(line)
            except UNFORESEEN as error:  # not a context manager: there are millions of rows
                raise unforeseen("", error) from error
            prompt, output = row[1], row[2]
            if not output:
                return None
            if not prompt:
                raise ValueError(f"{self.form.columns[1]} is zero")
            self._fits(row)
            if prompt > self.max_tokens or output > self.max_tokens:
                column = self.form.columns[1 if prompt > self.max_tokens else 2]
                most = prompt if prompt > self.max_tokens else output
                raise ValueError(f"{column} is {most}, above the limit of {self.max_tokens}")
        except ValueError as error:
            if line.endswith(("\n", "\r")):
                raise
            raise ValueError(
                f"{error}; the row has no line end: was the file cut off here?"
            ) from None
        return row

    def _fits(self, row: Row) -> None:
        """ValueError if a row has more prefix blocks than its prompt, or fewer where a format names
        all."""
        at, size = self.sessions.at.get("blocks"), self.parser.block_tokens
        if at is None or not row[at]:
            return
        count, prompt = len(row[at]), row[1]
        if prompt // size * bool(self.form.block_tokens) <= count <= -(-prompt // size):
            return
        others = [other for other in _SIZES if prompt // other <= count <= -(-prompt // other)]
        hint = f"; in blocks of {others[0]} they are right: say block_tokens" if others else ""
        raise ValueError(
            f"{self.parser.told['blocks']} names {count} blocks, which a prompt of {prompt} tokens "
            f"has not in blocks of {size}{hint}"
        )


_SIZES = (16, 32, 64, 128, 256, 512, 1024)  # of prefix blocks that engines and recorders have


def _in_lines(commas: Array, lines: Lines, width: int) -> bool:
    """Whether each line has its share of the commas."""
    each = commas.reshape(-1, width - 1)
    return bool((each[:, 0] >= lines.start).all() and (each[:, -1] < lines.end).all())


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _more(count: int) -> str:
    return f" and {count - 3} more" if count > 3 else ""
