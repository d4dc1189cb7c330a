"""Measured collectives as rows: readers of the tables that people publish."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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


def aiconfigurator(path: Path, dtype: str = "half") -> list[Measured]:
    """Rows of an aiconfigurator NCCL table (Parquet; needs pyarrow): elements and ms."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(
            f"{path.name} is a Parquet file; install podscope[parquet] to read it"
        ) from None
    width = {"half": 2, "int8": 1}[dtype]
    return sorted(
        Measured(
            KINDS[row["op_name"]],
            int(row["num_gpus"]),
            int(row["message_size"]) * width,
            row["latency"] * 1e-3,
        )
        for row in parquet.read_table(path).to_pylist()
        if row["nccl_dtype"] == dtype
    )


def nccl_tests(path: Path, source: str, section: str, ranks: int) -> list[Measured]:
    """All-reduce rows of nccl-tests logs as CSV: bytes and out-of-place time_us of a section."""
    with path.open(newline="") as file:
        return sorted(
            Measured("all_reduce", ranks, int(row["bytes"]), float(row["time_us"]) * 1e-6)
            for row in csv.DictReader(file)
            if row["source"] == source
            and section in row["section"]
            and row["block"] == _first_block(path, source, section)
        )


def apex(paths: Iterable[Path], ranks: int) -> list[Measured]:
    """Rows of the APEX tables, one CSV a collective: size(kb), time(us), half precision."""
    rows = []
    for path in paths:
        kind = KINDS[path.stem.split("__")[1]]
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if (
                    int(row["num_gpus_per_node"]) == ranks
                    and int(row["num_nodes"]) == 1
                    and float(row["size(kb)"]) > 0
                ):
                    rows.append(
                        Measured(
                            kind,
                            ranks,
                            int(float(row["size(kb)"]) * 1024),
                            float(row["time(us)"]) * 1e-6,
                        )
                    )
    return sorted(rows)


def _first_block(path: Path, source: str, section: str) -> str:
    with path.open(newline="") as file:
        return next(
            row["block"]
            for row in csv.DictReader(file)
            if row["source"] == source and section in row["section"]
        )
