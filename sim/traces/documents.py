"""Traces that are one JSON document: a list of rows, or a benchmark's result with a list a fact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sim.text.outside import bounded, meeting
from sim.text.strict_json import loads as strictly
from sim.traces.lines import Lines, lines_of
from sim.traces.parquet import Table
from sim.traces.peers import peer
from sim.traces.values import json_object

_LISTS = ("input_lens", "output_lens")  # of a benchmark's result, by request


def in_one(head: str, source: Iterator[Lines | Table]) -> tuple[str, Lines] | None:
    """The rows of a file that is one JSON document, as lines, and the name of their format, "" if
    that is yet to be told; None, and nothing is read, if a file whose first line is `head` is none.

    ValueError if it has no rows.
    """
    begun = head.strip()
    whole = begun == "{" or begun.startswith("[")
    if not whole and not set(_LISTS) <= (json_object(head) or {}).keys():
        return None
    text: list[str] = []
    size = 0
    for lines in source:
        assert isinstance(lines, Lines)
        text.append(lines.joined())
        size += len(text[-1])
        bounded("document bytes", size, "one JSON document")
    try:
        document = strictly("".join(text))
    except ValueError as error:
        raise ValueError(f"is neither rows nor one JSON document: {error}") from None
    if isinstance(document, dict):
        with meeting("one JSON object"):
            rows = _of_result(document)
        name = "plain_jsonl" if document.get("start_times") else "benchmark"
    else:
        rows, name = [row for row in document if isinstance(row, dict)], ""
    if not rows:
        raise ValueError("is one JSON document without rows; an object a line is due")
    return name, lines_of("".join(json.dumps(row) + "\n" for row in rows).encode())


def _of_result(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each request of a benchmark (vLLM's, SGLang's): one that failed has no output.

    Older ones do not keep when requests began: `start_time` is then all that they have of a time.
    """
    lists = [document.get(key) for key in _LISTS]
    if not all(isinstance(each, list) and len(each) == len(lists[0] or ()) for each in lists):
        if whose := peer(document):
            raise ValueError(whose)
        keys = ", ".join(map(str, document))
        raise ValueError(
            f"is one JSON object with the keys {keys[:120]}; a trace is an object a line, and a "
            f"benchmark's result has {' and '.join(_LISTS)}, as long as each other"
        )
    prompts, outputs = lists
    count = len(prompts or ())
    begun = document.get("start_times") or [None] * count
    errors = document.get("errors") or [""] * count
    if not len(begun) == len(errors) == count:
        raise ValueError("start_times and errors of a benchmark's result are due for each request")
    return [
        {
            "start_time" if at is None else "arrival_s": at,
            "prompt_tokens": prompt,
            "output_tokens": 0 if wrong else output,
        }
        for at, prompt, output, wrong in zip(begun, prompts or (), outputs or (), errors)
    ]
