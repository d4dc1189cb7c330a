"""The comparison as a table: the metrics that matter for this kind of run, one column a variant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.results.metric import Metric, row_of
from sim.results.metrics import SPEEDUP

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

Numbers = Mapping[str, Mapping[str, float]]  # metric to value, by variant or by part


def shown(rows: Mapping[str, Metric], metrics: Numbers) -> list[Metric]:
    """The metrics worth a row: those that some variant has and that are not zero everywhere."""
    return [
        row
        for row in rows.values()
        if row.shown and any(mine.get(row.name) for mine in metrics.values())
    ]


def best(row: Metric, metrics: Numbers) -> set[str]:
    """The variants that are best in this metric; none where all are equal or none is better."""
    values = {variant: mine[row.name] for variant, mine in metrics.items() if row.name in mine}
    if len(values) < 2 or len(set(values.values())) == 1 or not row.better:
        return set()
    top = (min if row.better == "lower" else max)(values.values())
    return {variant for variant, value in values.items() if value == top}


def ratio_text(ratio: float | None) -> str:
    """A ratio to the baseline, short: "x0.79"."""
    return "" if ratio is None else f"x{ratio:.2f}" if 0.01 <= ratio < 100 else f"x{ratio:.2g}"


class Comparison:
    """Rows of metrics with the ratio to the baseline, the best in green.

    Where the variants are too many for the width, as several tables, each with the baseline.
    """

    def __init__(self, rows: Mapping[str, Metric], metrics: Numbers, comparison: Numbers) -> None:
        self.rows, self.metrics, self.comparison = rows, metrics, comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        _, *others = self.metrics
        free = options.update_width(10_000)  # a measure is cut at the width it is asked with
        for most in range(max(len(others), 1), 0, -1):
            parts = [others[i : i + most] for i in range(0, len(others), most)] or [[]]
            tables = [self._table(part) for part in parts]
            wide = max(console.measure(table, options=free).maximum for table in tables)
            if wide <= options.max_width:
                break
        yield from tables

    def _table(self, others: Sequence[str]) -> Table:
        from rich.text import Text

        base = next(iter(self.metrics))
        grid = grid_of()
        grid.add_column("")
        grid.add_column(Text(base), justify="right")
        for name in others:
            grid.add_column(Text(name), justify="right")
            grid.add_column("", justify="left", style="dim")
        if others:
            cells: list[Text] = [Text(SPEEDUP.label, style="bold"), Text("1.00x")]
            speeds = {name: mine.get(SPEEDUP.name) for name, mine in self.comparison.items()}
            top = max((s for s in speeds.values() if s), default=1.0)
            for name in others:
                speed = speeds[name]
                style = "bold green" if speed and speed == top and speed > 1 else "bold"
                cells += [Text("" if speed is None else SPEEDUP.text(speed), style=style), Text("")]
            grid.add_row(*cells)
        for row in shown(self.rows, self.metrics):
            winners = best(row, self.metrics)
            cells = [Text(row.label)]
            for variant in (base, *others):
                style = "green" if variant in winners else ""
                cells.append(Text(cell(row, self.metrics[variant]), style=style))
                if variant != base:
                    cells.append(Text(ratio_text(self.comparison[variant].get(row.name))))
            grid.add_row(*cells)
        return grid


def grid_of() -> Table:
    """An empty table as all on the terminal are."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def cell(row: Metric, mine: Mapping[str, float]) -> str:
    """The value of a metric as text; '' where there is none."""
    return row.text(mine[row.name]) if row.name in mine else ""


def columns(
    rows: Mapping[str, Metric], found: Mapping[str, Numbers], wanted: Iterable[str]
) -> list[Metric]:
    """The wanted metrics that any part of any variant has."""
    named = [row_of(rows, name) for name in wanted]
    return [
        row
        for row in named
        if row and any(row.name in mine for each in found.values() for mine in each.values())
    ]


def part_grid(
    rows: Mapping[str, Metric], found: Mapping[str, Numbers], noun: str, wanted: Sequence[str]
) -> RenderableType:
    """A table with a row a variant and part: those wanted metrics that any part has."""
    from rich.text import Text

    some = columns(rows, found, wanted)
    grid = grid_of()
    grid.add_column("")
    grid.add_column(noun)
    for row in some:
        grid.add_column(row.label, justify="right")
    for variant, each in found.items():
        for number, (part, mine) in enumerate(each.items()):
            cells = [cell(row, mine) for row in some]
            grid.add_row(Text("" if number else variant), Text(part), *map(Text, cells))
    return grid


def closing(verdict: str, expect: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The lines under the table: the answer, and whether each claim holds."""
    from rich.text import Text

    lines: list[RenderableType] = [Text(verdict, style="bold")]
    for row in expect:
        mark = Text("ok      ", style="green") if row["ok"] else Text("FAILED  ", style="bold red")
        why = f"; {row['why']}" if "why" in row else ""
        lines.append(mark + Text(f"{row['text']}  (found {row['value']:.6g}{why})"))
    return lines
