"""The requests of every variant as one table, in CSV, or in Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from sim.spans import Outcome, RequestRecord

COLUMNS = ("variant", *RequestRecord._fields, "ttft_s", "tpot_s", "e2e_s", "queue_s")


def requests_file(outcomes: Mapping[str, Outcome]) -> tuple[str, bytes] | None:
    """Name and content of the table, one row a request and variant; None where no variant has requests.

    `tpot_s` is empty for requests of one output token, which have none.
    """
    rows = [_row(name, r) for name, outcome in outcomes.items() for r in outcome.requests]
    if not rows:
        return None
    return ("requests.parquet", _parquet(rows)) if find_spec("pyarrow") else ("requests.csv", _csv(rows))


def _row(variant: str, r: RequestRecord) -> tuple[Any, ...]:
    tpot_s = (r.last_token_s - r.first_token_s) / (r.output_tokens - 1) if r.output_tokens > 1 else None
    derived = (r.first_token_s - r.arrival_s, tpot_s, r.last_token_s - r.arrival_s, r.scheduled_s - r.arrival_s)
    return (variant, *r, *derived)


def _csv(rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: list[tuple[Any, ...]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    whole = {"id", "prompt_tokens", "output_tokens"}
    types = [pyarrow.string(), *(pyarrow.int64() if c in whole else pyarrow.float64() for c in COLUMNS[1:])]
    columns = [pyarrow.array(values, kind) for values, kind in zip(zip(*rows), types)]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(COLUMNS, columns))), sink)
    return sink.getvalue()
