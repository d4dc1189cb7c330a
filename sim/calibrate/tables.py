"""Measured collectives as rows: readers of the tables that people publish."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

KINDS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
}


class Measured(NamedTuple):
    """One collective, timed.  `nbytes` as our plans count it: the whole buffer of a rank."""

    kind: str
    ranks: int
    nbytes: int
    seconds: float


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column."""
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def parquet_rows(path: Path, filters: list[tuple[str, str, object]]) -> list[dict[str, Any]]:
    """The rows of a Parquet file that meet all of `filters`; ValueError without pyarrow."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(
            f"{path.name} is a Parquet file; install podscope[parquet] to read it"
        ) from None
    rows: list[dict[str, Any]] = parquet.read_table(path, filters=filters).to_pylist()
    return rows


def aiconfigurator(path: Path, dtype: str = "half") -> list[Measured]:
    """Rows of an aiconfigurator NCCL table (Parquet; needs pyarrow): elements and ms."""
    width = {"half": 2, "int8": 1}[dtype]
    return sorted(
        Measured(
            KINDS[row["op_name"]],
            int(row["num_gpus"]),
            int(row["message_size"]) * width,
            row["latency"] * 1e-3,
        )
        for row in parquet_rows(path, [("nccl_dtype", "=", dtype)])
    )


def nccl_tests(path: Path, source: str, section: str, ranks: int) -> list[Measured]:
    """All-reduce rows of nccl-tests logs as CSV: bytes and out-of-place time_us of the first block
    of a section."""
    rows = [row for row in csv_rows(path) if row["source"] == source and section in row["section"]]
    return sorted(
        Measured("all_reduce", ranks, int(row["bytes"]), float(row["time_us"]) * 1e-6)
        for row in rows
        if row["block"] == rows[0]["block"]
    )
