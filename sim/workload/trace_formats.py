"""The file formats of request traces.  Adding one is one line in `FORMATS`, and a function if its clock is a new one.

A format says which columns hold arrival, prompt and output length, and how its clock is written. Times stay in the unit
of the file until the first one is subtracted: integers where the file counts, so that seven decimals of a date survive.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

Row = tuple[float, int, int]  # arrival in the unit of the format, prompt tokens, output tokens


class Parser(NamedTuple):
    """How to read one file: `row` turns a line into a Row or raises ValueError; `example` is a right row of it."""

    row: Callable[[str], Row]
    example: str


@dataclass(frozen=True)
class TraceFormat:
    """One file format of request traces: CSV with a header, or one JSON object a line (`json_lines`).

    `columns` name arrival, prompt tokens and output tokens, in that order; other columns are ignored. `unlike` are
    columns that such a file never has: their presence tells another format with the same names but another clock.
    """

    columns: tuple[str, str, str]
    example: tuple[str, str, str]  # a right value of each column, as written in the file
    time: Callable[[object, str], float]  # (value, column) -> time in the unit of the file, or ValueError
    per_s: float  # that unit in a second
    json_lines: bool = False
    tick_s: float = 0.0  # the recorder rounded arrivals to multiples of this; 0: it did not
    unlike: tuple[str, ...] = ()

    def sniff(self, first_line: str) -> float:
        """How well a file that begins so fits: the share of the columns it has, a nearly right name counting half."""
        if self.json_lines != first_line.lstrip().startswith("{"):
            return 0.0
        names = list(_json_object(first_line) or ()) if self.json_lines else _split(first_line)
        names = [name.strip() for name in names]
        if any(name in names for name in self.unlike):
            return 0.0
        exact = sum(column in names for column in self.columns)
        near = sum(column not in names and _nearest(column, names) is not None for column in self.columns)
        return (exact + near / 2) / len(self.columns)

    def parser(self, number: int, first_line: str) -> Parser:
        """The parser for a file whose first line is `first_line`, row `number`; ValueError if a column is missing.

        A JSON Lines file has no header; there a missing key is the fault of its row.
        """
        if self.json_lines:
            return Parser(self._json_row, _dumps(self.columns, self.example))
        names = [name.strip() for name in _split(first_line)]
        faults = [f"missing column {_near(column, names)}" for column in self.columns if column not in names]
        faults += [f"column {column!r} is there twice" for column in self.columns if names.count(column) > 1]
        if faults:
            found = f"columns found: {', '.join(names)[:200]}; a right header: {self.first_line()}"
            raise ValueError(f"row {number}: {'; '.join(faults)}; {found}")
        at_time, at_prompt, at_output = (names.index(column) for column in self.columns)
        width, (_, prompt, output), time = len(names), self.columns, self.time

        def row(line: str) -> Row:
            fields = _split(line)
            if len(fields) != width:
                raise ValueError(f"has {len(fields)} fields, not {width}")
            return (
                time(fields[at_time], self.columns[0]),
                _tokens(fields[at_prompt], prompt),
                _tokens(fields[at_output], output),
            )

        right = dict(zip(self.columns, self.example))
        return Parser(row, ",".join(right.get(name, "...") for name in names))

    def first_line(self) -> str:
        """What the first line of such a file looks like."""
        return _dumps(self.columns, self.example) if self.json_lines else ",".join(self.columns)

    def _json_row(self, line: str) -> Row:
        found = _json_object(line)
        if found is None:
            raise ValueError(f"is not a JSON object: {line.strip()[:60]!r}")
        if missing := [_near(column, list(found)) for column in self.columns if column not in found]:
            raise ValueError(f"missing key {', '.join(missing)}")
        time, prompt, output = self.columns
        return self.time(found[time], time), _tokens(found[prompt], prompt), _tokens(found[output], output)


def detect(first_line: str) -> str:
    """Name of the format that a file beginning with this line is in; ValueError if it is like none of them."""
    scores = {name: form.sniff(first_line) for name, form in FORMATS.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < 0.5:
        known = "; ".join(f"{name}: {form.first_line()}" for name, form in FORMATS.items())
        raise ValueError(f"unknown format, the first line is {first_line.strip()[:80]!r}; known first lines: {known}")
    return best


def _split(line: str) -> list[str]:
    """Fields of a CSV line.  Not read: fields with a line end inside."""
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}") from None


def _json_object(line: str) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _dumps(columns: Sequence[str], values: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{column}": {value}' for column, value in zip(columns, values)) + "}"


def _nearest(column: str, names: Sequence[str]) -> str | None:
    """The name in the file that looks most like `column`, if any does; capitals do not matter."""
    written = {name[:80].lower(): name for name in names[:100]}
    return next((written[close] for close in difflib.get_close_matches(column.lower(), written, 1)), None)


def _near(column: str, names: Sequence[str]) -> str:
    nearest = _nearest(column, names)
    return f"{column!r}, nearest {nearest!r}" if nearest else repr(column)


def _number(value: object, column: str) -> float:
    """A finite number as written in CSV or JSON, or ValueError."""
    if isinstance(value, str):
        # float() also reads "1_000" and digits of other scripts, which no recorder writes.
        text = value.strip()
        if not text:
            raise ValueError(f"{column} is empty")
        try:
            number = float(text) if text.isascii() and "_" not in text else None
        except ValueError:
            number = None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        number = None
    if number is None:
        raise ValueError(f"{column} is not a number ({str(value)[:40]!r})")
    if not math.isfinite(number):
        raise ValueError(f"{column} is not finite ({str(value)[:40]})")
    return number


def _tokens(value: object, column: str) -> int:
    """A number of tokens, zero included.  A whole number may carry decimals ("374.0"), as tables with gaps write it."""
    if type(value) is str and len(value) < 16 and value.isascii() and value.isdigit():
        return int(value)
    if type(value) is int and 0 <= value < 10**15:
        return value
    number = _number(value, column)
    if number < 0:
        raise ValueError(f"{column} is negative ({str(value).strip()[:40]})")
    if number != int(number):
        raise ValueError(f"{column} is not a whole number ({str(value).strip()[:40]})")
    return int(number)


def _elapsed(value: object, column: str) -> float:
    """A clock that counts up from the start of the recording."""
    if type(value) is str and value.isascii() and "_" not in value:  # the fast way through for nearly every row
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if 0 <= number < math.inf:
            return number
    number = _number(value, column)
    if number < 0:
        raise ValueError(f"{column} is negative ({str(value).strip()[:40]})")
    return number


_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def _date(value: object, column: str) -> int:
    """A date and time of day, in nanoseconds since 1970; without an offset it is UTC."""
    text = str(value).strip()
    match = _DATE.fullmatch(text)
    if not match:
        raise ValueError(f"{column} is not a time like 2023-11-16 18:15:46.6805900 ({text[:40]!r})")
    try:
        seconds = int(datetime.fromisoformat(match[1] + (match[3] or "Z")).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{column} is no time of any calendar ({text[:40]!r})") from None
    return seconds * 10**9 + int((match[2] or "").ljust(9, "0"))


FORMATS: dict[str, TraceFormat] = {
    # Written by hand, by the generator and by converters.
    "plain": TraceFormat(
        ("arrival_s", "prompt_tokens", "output_tokens"), ("0.25", "374", "44"), time=_elapsed, per_s=1.0
    ),
    # Azure public dataset, AzureLLMInferenceDataset2023 and 2024: the later files add an offset of +00:00 to the times.
    "azure": TraceFormat(
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        ("2023-11-16 18:15:46.6805900", "374", "44"),
        time=_date,
        per_s=1e9,
    ),
    # Mooncake's open traces (FAST 2025): milliseconds, recorded in ticks of three seconds. Files with `chat_id` use the
    # same names with the timestamp in seconds. hash_ids are not read yet.
    "mooncake": TraceFormat(
        ("timestamp", "input_length", "output_length"),
        ("3000", "6758", "500"),
        time=_elapsed,
        per_s=1e3,
        json_lines=True,
        tick_s=3.0,
        unlike=("chat_id",),
    ),
}
