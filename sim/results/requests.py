"""The requests of every variant as one table, in CSV, or in Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.requests import Requests

_FACTS = tuple(field.name for field in fields(Requests))
COLUMNS = ("variant", *_FACTS, "ttft_s", "tpot_s", "e2e_s", "queue_s")
_ROWS = 65_536  # in a piece


Owners = Mapping[tuple[str, str], Requests]  # by variant, and by tenant where a pod is shared


def owners_of(
    outcomes: Mapping[str, Outcome], kinds: Mapping[str, Any]
) -> dict[tuple[str, str], Outcome]:
    """Whose requests there are, as kinds of work tell them apart."""
    return {
        (variant, part): one
        for variant, outcome in outcomes.items()
        if kinds[outcome.kind].requests
        for part, one in kinds[outcome.kind].requests(outcome).items()
    }


def requests_file(owners: Owners) -> dict[str, bytes]:
    """Name and content of the table, one row a request and owner; nothing where there are no
    requests.

    Times are empty for a request that was turned away, `tpot_s` also for one of a single output
    token.
    """
    if not any(map(len, owners.values())):
        return {}
    if find_spec("pyarrow"):
        return {"requests.parquet": _parquet(owners)}
    return {"requests.csv": _csv(owners)}


def _names(owners: Owners) -> list[str]:
    """What names a row: its variant, and its tenant where a pod is shared."""
    return ["variant", "tenant"] if any(part for _, part in owners) else ["variant"]


def _pieces(owners: Owners) -> Iterator[tuple[tuple[str, ...], dict[str, np.ndarray]]]:
    """(variant and tenant, columns), a stretch of requests at a time."""
    width = len(_names(owners))
    for owner, requests in owners.items():
        name = owner[:width]
        for first in range(0, len(requests), _ROWS):
            held = {fact: getattr(requests, fact)[first : first + _ROWS] for fact in _FACTS}
            arrival_s, first_s, last_s = (
                held["arrival_s"],
                held["first_token_s"],
                held["last_token_s"],
            )
            gaps = held["output_tokens"] - 1
            yield (
                name,
                held
                | {
                    "ttft_s": first_s - arrival_s,
                    "tpot_s": np.where(gaps > 0, (last_s - first_s) / np.maximum(gaps, 1), np.nan),
                    "e2e_s": last_s - arrival_s,
                    "queue_s": held["scheduled_s"] - arrival_s,
                },
            )


def _csv(owners: Owners) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_names(owners), *COLUMNS[1:]])
    for name, held in _pieces(owners):
        columns = [
            ["" if value != value else value for value in column.tolist()]
            for column in (held[c] for c in COLUMNS[1:])
        ]
        writer.writerows(zip(*([each] * len(columns[0]) for each in name), *columns))
    return text.getvalue().encode()


def _parquet(owners: Owners) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink, writer = io.BytesIO(), None
    for name, held in _pieces(owners):
        names = [pyarrow.repeat(each, len(held["id"])) for each in name]
        columns = [
            *names,
            *(pyarrow.array(held[column], from_pandas=True) for column in COLUMNS[1:]),
        ]
        piece = pyarrow.table(dict(zip([*_names(owners), *COLUMNS[1:]], columns)))
        writer = writer or pyarrow.parquet.ParquetWriter(sink, piece.schema)
        writer.write_table(piece)
    assert writer is not None
    writer.close()
    return sink.getvalue()
