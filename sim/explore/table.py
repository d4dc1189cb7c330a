"""The table of a sweep: a row a point, in the order of the points, whoever computed them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sim.explore.measure import DONE
from sim.explore.plan import Plan
from sim.explore.space import number
from sim.explore.store import Row
from sim.text.replacing import replacing

_PIECE = 4096  # rows that are written at once


def columns(plan: Plan, rows: Iterable[Row]) -> dict[str, type]:
    """Names of the columns, and whether they hold numbers or text."""
    metrics: set[str] = set()
    for row in rows:
        if row.result is not None:
            metrics.update(row.result.values)
    place = {name: i for i, name in enumerate(plan.questions.variants)}
    ordered = sorted(metrics, key=lambda name: (place[name.split(".")[0]], name))
    found: dict[str, type] = {"point": int, "status": str}
    for axis in plan.space.axes:
        for key in axis.keys:
            given = [axis.span.low] if axis.span else [o[key] for o in axis.options if key in o]
            bare = all(type(one) in (int, float) for one in given)
            found[key] = float if bare else str
            if any(isinstance(one, str) and number(one) is not None for one in given):
                found[f"{key} (SI)"] = float
    found |= dict.fromkeys([*plan.questions.derived], float)
    found |= {one.text: float for one in plan.questions.objectives}
    return found | {"feasible": str} | dict.fromkeys(ordered, float) | {"error": str}


def records(plan: Plan, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Each row as a mapping from columns to values; what it has not is left out."""
    kinds = columns(plan, ())
    for row in rows:
        result = row.result
        found: dict[str, Any] = {"point": row.number}
        for key, value in row.point.items():
            bare = isinstance(value, str) or kinds[key] is float
            found[key] = value if bare else json.dumps(value, ensure_ascii=False)
            if f"{key} (SI)" in kinds and (at := number(value)) is not None:
                found[f"{key} (SI)"] = at
        found["status"] = "missing" if result is None else result.status
        if result is not None:
            answers = plan.questions.answers(result.values, row.point)
            found |= {name: value for name, value in answers.items() if value is not None}
            found |= result.values
            found["error"] = result.error
            if result.status == DONE:
                excesses = plan.questions.excesses(result.values, row.point).values()
                good = all(excess is not None and excess <= 0 for excess in excesses)
                found["feasible"] = "yes" if good else "no"
        yield found


def write_csv(path: Path, names: Mapping[str, type], found: Iterable[Mapping[str, Any]]) -> None:
    """The table as CSV, whole or not at all; equal sweeps give equal bytes."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*names], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def write_parquet(
    path: Path, names: Mapping[str, type], found: Iterable[Mapping[str, Any]]
) -> bool:
    """The same as Parquet, where pyarrow is installed; whether it is."""
    if not find_spec("pyarrow"):
        return False
    import pyarrow
    import pyarrow.parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in names.items()])
    with replacing(path) as beside, pyarrow.parquet.ParquetWriter(beside, schema) as writer:
        piece: list[Mapping[str, Any]] = []
        for record in found:
            piece.append(record)
            if len(piece) == _PIECE:
                writer.write_table(pyarrow.Table.from_pylist(piece, schema))
                piece = []
        if piece:
            writer.write_table(pyarrow.Table.from_pylist(piece, schema))
    return True
