"""Run folders side by side: their metrics as one table, and their latencies on one axis."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results import charts
from sim.results.folder import MARK
from sim.results.metric import Metric, row_of, seconds_text
from sim.results.metrics import SPEEDUP, rows_of
from sim.results.page import page
from sim.results.palette import escaped, variant_colours
from sim.results.table import Comparison, cell, ratio_text
from sim.text import strict_json
from sim.text.strict_yaml import nearest

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST = 12  # columns of a figure that can still be told apart
_CURVES = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "e2e_s": "End-to-end latency",
}


@dataclass(frozen=True)
class Compared:
    """The variants of several runs; the first variant of the first run is the baseline."""

    metrics: dict[str, dict[str, float]]  # by "run: variant"
    ratios: dict[str, dict[str, float]]
    rows: Mapping[str, Metric]
    judged: str  # the metric that the speed-up is of, or ""
    latencies: Mapping[str, Mapping[str, np.ndarray]]  # seconds, by column of the requests
    warnings: list[str]

    def table(self) -> RenderableType:
        """For the terminal."""
        return Comparison(self.rows, self.metrics, self.ratios)

    def page(self) -> str:
        """Table and figures as HTML that needs no network."""
        base = next(iter(self.metrics))
        head = "".join(f"<th class=num>{escaped(name)}</th>" for name in self.metrics)
        lines = []
        for row in self.rows.values():
            cells = "".join(
                f"<td class=num>{escaped(cell(row, mine))} <span class=ratio>"
                f"{'' if name == base else ratio_text(self.ratios[name].get(row.name))}"
                "</span></td>"
                for name, mine in self.metrics.items()
            )
            tip = f'<td title="{escaped(row.of)}">{escaped(row.label)}</td>'
            lines.append(f"<tr>{tip}{cells}</tr>")
        said = "".join(f"<li>{escaped(text)}</li>" for text in self.warnings)
        return page(
            "Runs side by side",
            [
                "<h1>Runs side by side</h1>",
                f'<p class="soft">x: ratio to {escaped(base)}.</p>',
                f'<h2>Warnings</h2><ul class="warnings">{said}</ul>' if said else "",
                self._bars(),
                self._curves(),
                f'<h2>Metrics</h2><div class="wide"><table class="dense"><tr><th></th>{head}</tr>'
                f"{''.join(lines)}</table></div>",
            ],
        )

    def _bars(self) -> str:
        row = row_of(self.rows, self.judged)
        values = {name: mine.get(self.judged, 0.0) for name, mine in self.metrics.items()}
        if row is None or not any(values.values()):
            return ""
        colours = variant_colours(values)
        bars = {name: [(name, colours[name], value)] for name, value in values.items()}
        texts = {name: seconds_text(value) for name, value in values.items()}
        return f"<h2>{escaped(row.label)}</h2>{charts.stacked_bars(bars, row.label, texts)}"

    def _curves(self) -> str:
        named = dict(list(self.latencies.items())[:_MOST])
        colours = variant_colours(named)
        figures = []
        for key, title in _CURVES.items():
            found = {n: mine[key] for n, mine in named.items() if len(mine.get(key, ()))}
            slowest = max((float(values.max()) for values in found.values()), default=0.0)
            unit, scale = ("s", 1.0) if slowest >= 2 else ("ms", 1e3)
            lines = {
                name: charts.Line(colours[name], *charts.quantiles(values))
                for name, values in found.items()
            }
            figures.append(charts.cdf(lines, title, unit, scale))
        if not any(figures):
            return ""
        names = charts.legend([(name, colours[name]) for name in named])
        left_out = len(self.latencies) - len(named)
        more = f" {left_out} more are not drawn." if left_out > 0 else ""
        return (
            '<h2>Latency of the requests</h2><p class="soft">Share of finished requests that took '
            f'no longer.{more}</p>{names}<div class="pair">{"".join(figures)}</div>'
        )


def compared(
    folders: Sequence[str], kinds: Mapping[str, Any], *, everything: bool = False
) -> Compared:
    """The runs in `folders`; ValueError, naming the folder, for one that holds no run.

    `kinds` are the rows of `sim.kinds`; with `everything`, metrics that a run does not show are
    there too.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice; there is nothing to compare it with")
    runs = {name: _run(Path(folder)) for name, folder in zip(_names(folders), folders)}
    rows: dict[str, Metric] = {}
    for kind in kinds.values():
        rows |= {name: row for name, row in rows_of(kind).items() if name not in rows}
    metrics, latencies = dict[str, dict[str, float]](), dict[str, Mapping[str, np.ndarray]]()
    for (name, run), folder in zip(runs.items(), folders):
        asked = _latencies(Path(folder))
        for variant, mine in run["variants"].items():
            title = f"{name}: {variant}" if len(run["variants"]) > 1 else name
            metrics[title] = mine["metrics"]
            if variant in asked:
                latencies[title] = asked[variant]
    base = metrics[next(iter(metrics))]
    wanted = [
        row
        for row in rows.values()
        if (row.shown or everything) and any(mine.get(row.name) for mine in metrics.values())
    ]
    judged = next((name for kind in kinds.values() for name in kind.judged if base.get(name)), "")
    if base.get("e2e_mean_s"):
        judged = "e2e_mean_s"
    ratios = {name: _ratios(mine, base, judged) for name, mine in metrics.items()}
    return Compared(
        metrics=metrics,
        ratios=ratios,
        rows={row.name: row._replace(shown=True) for row in wanted},
        judged=judged,
        latencies=latencies,
        warnings=[*_said(runs)],
    )


def _names(folders: Sequence[str]) -> list[str]:
    """Each folder by its last name, or as it was given where two have the same."""
    last = [Path(folder).resolve().name for folder in folders]
    return [folder if last.count(name) > 1 else name for name, folder in zip(last, folders)]


def _run(folder: Path) -> dict[str, Any]:
    file = folder / MARK
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise ValueError(f"{folder}: no such folder{nearest(folder.name, beside)}")
    if not file.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no {MARK}")
    try:
        found = strict_json.loads(file.read_text(encoding="utf-8"))
        variants = found["variants"]
        assert variants
        for variant in variants.values():
            numbers = variant["metrics"]
            assert all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers.values())
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise ValueError(f"{file} is not what `podscope run` writes") from None
    assert isinstance(found, dict)
    return found


def _ratios(mine: Mapping[str, float], base: Mapping[str, float], judged: str) -> dict[str, float]:
    found = {name: value / base[name] for name, value in mine.items() if base.get(name)}
    if mine.get(judged):
        found[SPEEDUP.name] = base[judged] / mine[judged]
    return found


def _said(runs: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """What tells the runs apart beside their metrics."""
    for key, what in (
        ("version", "versions of podscope"),
        ("scenario", "scenarios"),
        ("seed", "seeds"),
    ):
        values = {name: run.get(key) for name, run in runs.items()}
        if len({*map(str, values.values())}) > 1:
            each = ", ".join(f"{name} {value}" for name, value in values.items())
            yield f"these are runs of different {what}: {each}"
    for name, run in runs.items():
        if run.get("partial"):
            yield f"{name} was interrupted: its numbers are of a part of the run"


def _latencies(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of finished requests by variant and column; nothing where there are no requests."""
    if (folder / "requests.csv").is_file():
        with (folder / "requests.csv").open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        columns = {key: [row.get(key) or "nan" for row in read] for key in ("variant", *_CURVES)}
    elif (folder / "requests.parquet").is_file():
        try:
            import pyarrow.parquet
        except ImportError:
            return {}
        names = ["variant", *_CURVES]
        columns = pyarrow.parquet.read_table(folder / "requests.parquet", columns=names).to_pydict()
    else:
        return {}
    owner = np.array(columns["variant"])
    found: dict[str, dict[str, np.ndarray]] = {}
    for variant in dict.fromkeys(columns["variant"]):
        mine = {}
        for key in _CURVES:
            values = np.array(columns[key], float)[owner == variant]
            mine[key] = values[np.isfinite(values)]
        found[variant] = mine
    return found
