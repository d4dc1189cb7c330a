"""Rows of `podscope reproduce`: as a table, as JSON, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sim.cli.listing import Row, finite, grid

if TYPE_CHECKING:
    from rich.table import Table


def table(system: str, found: Iterable[Mapping[str, Any]]) -> Table:
    """Rows of `podscope reproduce` as a table."""
    from rich.markup import escape

    made = grid(f"reproduce {system}")
    for heading in ("id", "what", "published", "simulated", "tolerance", "", "fitted", "note"):
        number = heading in ("published", "simulated", "tolerance")
        made.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in found:
        mark = "" if row["ok"] is None else "[green]ok[/]" if row["ok"] else "[red]NO[/]"
        told = {**row, "simulated": "not run"} if _unrun(row) else row
        cells = [
            escape(_number(told[key]))
            for key in ("id", "what", "published", "simulated", "tolerance")
        ]
        made.add_row(*cells, mark, escape(row["fitted"]), escape(row["note"]))
    return made


def tally(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many rows are met, failed, only to be read, and not run; and what those need, and from
    where, a line each."""
    from sim.reproduce.origins import ORIGINS

    unrun = [row for row in found if _unrun(row)]
    end = " is not there"
    needs = sorted({row["note"].removesuffix(end) for row in unrun if row["note"].endswith(end)})
    counts = (
        (sum(row["ok"] is True for row in found), "met"),
        (sum(row["ok"] is False for row in found), "failed"),
        (sum(row["ok"] is None for row in found) - len(unrun), "to be read beside"),
        (len(unrun), "not run"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count or what != "not run")
    origins = ((need, ORIGINS.get(PurePath(need).name, "")) for need in needs)
    wants = [f"not there: {need}" + f" ({origin})" * bool(origin) for need, origin in origins]
    return [*wants, f"{len(found)} rows: {told}"]


def _unrun(row: Mapping[str, Any]) -> bool:
    return row["simulated"] is None and row["ok"] is None


def record(row: Mapping[str, Any]) -> Row:
    """A row of a reproduction as JSON has it: published and simulated are numbers or null."""
    plain: Row = finite(row)
    for key in ("published", "simulated"):
        assert plain[key] is None or type(plain[key]) in (int, float), f"{key} of {row} is a text"
    return plain


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
