"""The file formats of request traces.

Adding one is one entry in `FORMATS`, and a function if its clock is a new one.

A format says which columns hold arrival, prompt and output length, and how its clock is written.
Times stay in the unit of the file until the first one is subtracted: integers where the file
counts, so that seven decimals of a date survive.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from sim.traces.peers import peer
from sim.traces.values import (
    EXTRAS,
    comma_of,
    csv_fields,
    date_ns,
    elapsed,
    json_object,
    key_names,
    lifted,
    log_time_s,
    no_time,
    token_count,
)

# Arrival in the unit of the format, prompt tokens, output tokens, and then a value for each of
# `Parser.extras`.
Row = tuple[Any, ...]


class Parser(NamedTuple):
    """How to read one file: `row` makes a line a Row, or raises ValueError; `example` is one.

    `places` are the fields of a CSV line that hold arrival (-1: none), prompt and output tokens,
    out of `width`.
    """

    row: Callable[[str], Row]
    example: str
    told: Mapping[str, str] = MappingProxyType(
        {}
    )  # kinds of extras that the file has, and their columns
    block_tokens: int = 0
    places: tuple[int, int, int] | None = None
    width: int = 0
    comma: str = ","
    sure: bool = True  # every row has the extras; else any may lack them, as in JSON Lines

    @property
    def extras(self) -> tuple[str, ...]:
        """The kinds of the values that a Row holds after the first three."""
        return tuple(self.told)


@dataclass(frozen=True)
class TraceFormat:
    """One file format of request traces: CSV with a header, or (`json_lines`) an object a line.

    `columns` name arrival, prompt tokens and output tokens, in that order; other columns are
    ignored. In JSON a dotted name is a key within a key. `unlike` are columns that such a file
    never has: their presence tells another format with the same names but another clock.

    `extras` are columns that the file may have beside those: what they tell (a key of `EXTRAS`) and
    their name.
    """

    columns: tuple[str, str, str]  # arrival "": the file has no times
    example: tuple[str, str, str]  # a right value of each column, as written in the file
    time: Callable[
        [object, str], float
    ]  # (value, column) -> time in the unit of the file, or ValueError
    per_s: float  # that unit in a second
    json_lines: bool = False
    tick_s: float = 0.0  # the recorder rounded arrivals to multiples of this; 0: it did not
    unlike: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(
        default_factory=dict
    )  # columns it is known by, with a right value
    extras: Mapping[str, str] = field(default_factory=dict)
    block_tokens: int = 0
    whole_time: bool = False  # times are integers

    def sniff(self, first_line: str) -> float:
        """How well a file that begins so fits: its share of the columns; a near name is a half."""
        if self.json_lines != first_line.lstrip().startswith("{"):
            return 0.0
        listed = (
            key_names(json_object(first_line) or {})
            if self.json_lines
            else csv_fields(first_line, comma_of(first_line))
        )
        names = [name.strip() for name in listed]
        if any(name in names for name in self.unlike) or any(
            name not in names for name in self.needs
        ):
            return 0.0
        wanted = [column for column in self.columns if column]
        exact = sum(column in names for column in wanted)
        near = sum(column not in names and _nearest(column, names) is not None for column in wanted)
        return (exact + near / 2) / len(wanted)

    def parser(self, number: int, first_line: str, sure: bool = False) -> Parser:
        """The parser for a file whose first line is this, row `number`; ValueError if columns lack.

        A JSON Lines file has no header; there a missing key is the fault of its row, and any row
        may be the first with an optional key, unless it is `sure` that the first line has all.
        """
        if self.json_lines:
            names = key_names(json_object(first_line) or {})
            if not sure:
                names += [name for name in self.extras.values() if not name.endswith("*")]
            extras, block_tokens = self._extras(names)
            of_line = self._json_row(extras)
            return Parser(of_line, self.first_line(), extras, block_tokens, sure=sure)
        comma = comma_of(first_line)
        names = [name.strip() for name in csv_fields(first_line, comma)]
        wanted = [column for column in self.columns if column]
        faults = [
            f"missing column {_near(column, names)}" for column in wanted if column not in names
        ]
        faults += [
            f"column {column!r} is there twice" for column in wanted if names.count(column) > 1
        ]
        if faults:
            raise ValueError(
                f"row {number}: {'; '.join(faults)}; columns found: {', '.join(names)[:200]}; "
                f"a right header: {self.first_line()}"
            )
        width, (extras, block_tokens) = len(names), self._extras(names)
        readers = [
            (read, names.index(name) if name else -1, name) for read, name in self._readers(extras)
        ]

        def row(line: str) -> Row:
            fields = csv_fields(line, comma)
            if len(fields) != width:
                raise ValueError(f"has {len(fields)} fields, not {width}")
            return tuple([read(fields[at], name) for read, at, name in readers])

        right = dict(zip(self.columns, self.example))
        example = comma.join(right.get(name, "...") for name in names)
        time, prompt, output = (at for _, at, _ in readers[:3])
        return Parser(row, example, extras, block_tokens, (time, prompt, output), width, comma)

    def first_line(self) -> str:
        """What the first line of such a file looks like."""
        if self.json_lines:
            named = {name: value for name, value in zip(self.columns, self.example) if name}
            right = {**self.needs, **named}
            return "{" + ", ".join(f'"{name}": {value}' for name, value in right.items()) + "}"
        return ",".join(column for column in self.columns if column)

    def _extras(self, names: Sequence[str]) -> tuple[dict[str, str], int]:
        """Which extras a file with these columns has, by kind, and the tokens of a prefix block."""
        found = {}
        block_tokens = self.block_tokens
        for kind, name in self.extras.items():
            if name.endswith("*"):  # the name says how many tokens a block has
                sized = [
                    (n, int(n[len(name) - 1 :]))
                    for n in names
                    if re.fullmatch(f"{name[:-1]}[1-9][0-9]{{0,8}}", n)
                ]
                if sized:
                    found[kind], block_tokens = sized[0]
            elif name in names:
                found[kind] = name
        return found, block_tokens

    def _json_row(self, extras: Mapping[str, str]) -> Callable[[str], Row]:
        columns, readers = self.columns, self._readers(extras)
        needed = frozenset(columns) - {""}
        dotted = [name for _, name in readers if "." in name]
        stems = [
            name[:-1]
            for kind, name in self.extras.items()
            if name.endswith("*") and kind not in extras
        ]

        def row(line: str) -> Row:
            found = json_object(line)
            if found is None:
                raise ValueError(f"is not a JSON object: {line.strip()[:60]!r}")
            for name in dotted:
                found = lifted(found, name)
            if not needed <= found.keys():
                names = key_names(found)
                missing = (_near(each, names) for each in columns if each and each not in found)
                raise ValueError(f"missing key {', '.join(missing)}")
            for stem in stems:
                if late := [key for key in found if key.startswith(stem)]:
                    raise ValueError(f"{late[0]} is not in the first row, which has to name it")
            return tuple([read(found.get(name), name) for read, name in readers])

        return row

    def _readers(self, extras: Mapping[str, str]) -> list[tuple[Callable[[object, str], Any], str]]:
        """What reads each value of a Row, and the column it is in."""
        three = zip((self.time, token_count, token_count), self.columns)
        return [*three, *((EXTRAS[kind], name) for kind, name in extras.items())]


def detect(first_line: str) -> str:
    """Name of the format of a file that begins with this line; ValueError if it is like none."""
    if first_line.count("\0") * 3 > len(first_line):
        raise ValueError("is not UTF-8 text but, it seems, UTF-16; save it as UTF-8 or CSV UTF-8")
    if "\r" in first_line.rstrip("\r\n"):
        raise ValueError("ends its lines by CR alone; save it with the line ends LF or CR LF")
    scores = {name: form.sniff(first_line) for name, form in FORMATS.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < 0.5:
        talks = [
            key for key in _TALKS if isinstance((json_object(first_line) or {}).get(key), list)
        ]
        if talks:
            raise ValueError(
                f"a row holds a whole conversation ({talks[0]}); a trace has one turn a row, with "
                f"arrival, lengths and a session: {FORMATS['plain_jsonl'].first_line()}"
            )
        if whose := peer(json_object(first_line) or {}):
            raise ValueError(whose)
        known = "; ".join(f"{name}: {form.first_line()}" for name, form in FORMATS.items())
        raise ValueError(
            f"unknown format, the first line is {first_line.strip()[:80]!r}; known first "
            f"lines: {known}"
        )
    return best


_TALKS = ("turns", "conversations", "conversation", "messages")


def _nearest(column: str, names: Sequence[str]) -> str | None:
    """The name in the file that looks most like `column`, if any does; capitals do not matter."""
    written = {name[:80].lower(): name for name in names[:100]}
    return next(
        (written[close] for close in difflib.get_close_matches(column.lower(), written, 1)), None
    )


def _near(column: str, names: Sequence[str]) -> str:
    nearest = _nearest(column, names)
    return f"{column!r}, nearest {nearest!r}" if nearest else repr(column)


_PLAIN = ("arrival_s", "prompt_tokens", "output_tokens")
_PLAIN_EXTRAS = {
    "session": "session",
    "think_s": "think_s",
    "tenant": "tenant",
    "blocks": "blocks_*",
}
_LENGTHS = ("input_length", "output_length")

FORMATS: dict[str, TraceFormat] = {
    # Written by hand, by the generator and by converters.
    "plain": TraceFormat(
        _PLAIN, ("0.25", "374", "44"), time=elapsed, per_s=1.0, extras=_PLAIN_EXTRAS
    ),
    "plain_jsonl": TraceFormat(
        _PLAIN,
        ("0.25", "374", "44"),
        time=elapsed,
        per_s=1.0,
        json_lines=True,
        extras=_PLAIN_EXTRAS,
    ),
    # Results of benchmarks (vLLM's, SGLang's) that do not keep when requests began, a row for each.
    "benchmark": TraceFormat(
        ("", "prompt_tokens", "output_tokens"),
        ("", "374", "44"),
        time=no_time,
        per_s=1.0,
        json_lines=True,
        unlike=("arrival_s",),
        needs={"start_time": "null"},
    ),
    # Azure public dataset, AzureLLMInferenceDataset2023 and 2024: the later files add an offset of
    # +00:00 to the times.
    "azure": TraceFormat(
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        ("2023-11-16 18:15:46.6805900", "374", "44"),
        time=date_ns,
        per_s=1e9,
        whole_time=True,
    ),
    # Mooncake's open traces (FAST 2025): milliseconds, recorded in ticks of three seconds; blocks
    # of 512 tokens, an id for the last, partial one too. Files with `chat_id` use the same names
    # with the timestamp in seconds.
    "mooncake": TraceFormat(
        ("timestamp", *_LENGTHS),
        ("3000", "6758", "500"),
        time=elapsed,
        per_s=1e3,
        json_lines=True,
        tick_s=3.0,
        unlike=("chat_id",),
        extras={"blocks": "hash_ids"},
        block_tokens=512,
    ),
    # Qwen usage traces of Alibaba's Bailian: seconds, blocks of 16 tokens, turns that name the turn
    # before them.
    "bailian": TraceFormat(
        ("timestamp", *_LENGTHS),
        ("61.114", "521", "132"),
        time=elapsed,
        per_s=1.0,
        json_lines=True,
        needs={"chat_id": "159"},
        extras={"chat": "chat_id", "parent": "parent_chat_id", "blocks": "hash_ids"},
        block_tokens=16,
    ),
    # BurstGPT (Azure OpenAI at a university): whole seconds in most files, left as they are.
    # `Elapsed time` is that of the whole answer; only conversations have a `Session ID`.
    "burstgpt": TraceFormat(
        ("Timestamp", "Request tokens", "Response tokens"),
        ("5", "472", "18"),
        time=elapsed,
        per_s=1.0,
        extras={"session": "Session ID", "elapsed_s": "Elapsed time"},
    ),
    # Vidur: requests with times, and lengths alone.
    "vidur": TraceFormat(
        ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
        ("0.25", "374", "44"),
        time=elapsed,
        per_s=1.0,
    ),
    "vidur_lengths": TraceFormat(
        ("", "num_prefill_tokens", "num_decode_tokens"),
        ("", "374", "44"),
        time=no_time,
        per_s=1.0,
        unlike=("arrived_at",),
    ),
    # APEX: nanoseconds from the start.
    "apex": TraceFormat(
        ("start_time_offset_ns", "context_tokens", "generated_tokens"),
        ("197890289", "156", "67"),
        elapsed,
        1e9,
    ),
    # LLMServingSim: ShareGPT conversations as lengths, with blocks of 16 tokens.
    "llmservingsim": TraceFormat(
        ("arrival_time_ns", *_LENGTHS),
        ("46926808", "2358", "531"),
        time=elapsed,
        per_s=1e9,
        json_lines=True,
        extras={"blocks": "hash_ids_blk16"},
        block_tokens=16,
    ),
    # Request log of a vLLM benchmark: seconds since 1970.
    "vllm_log": TraceFormat(
        ("arrival_time", "input_toks", "output_toks"),
        ("1777142838.338653", "2358", "531"),
        time=elapsed,
        per_s=1.0,
        json_lines=True,
    ),
    # Access logs that keep the body of OpenAI-style answers: whole seconds where `created` is the
    # only time.
    "openai": TraceFormat(
        ("created", "usage.prompt_tokens", "usage.completion_tokens"),
        ("1700000000", "374", "44"),
        time=log_time_s,
        per_s=1.0,
        json_lines=True,
        tick_s=1.0,
        extras={"tenant": "model", "session": "session_id"},
    ),
    "openai_log": TraceFormat(
        ("timestamp", "response.usage.prompt_tokens", "response.usage.completion_tokens"),
        ("1700000000.25", "374", "44"),
        time=log_time_s,
        per_s=1.0,
        json_lines=True,
        extras={"tenant": "response.model", "session": "session_id"},
    ),
}
