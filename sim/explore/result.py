"""What a sweep found: rows, the best, the front; as a table, a page, a DataFrame, a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.explore import table as tables
from sim.explore.drive import Tally
from sim.explore.measure import DONE, FAILED, LOST, PRUNED
from sim.explore.plan import Plan
from sim.explore.questions import flat
from sim.explore.space import Point
from sim.explore.store import Row, kept_rows
from sim.explore.summary import Scored, Summary, shortened, summarised, text_of
from sim.results import Result
from sim.run import load, play, prepare, result_of
from sim.scenario import ScenarioError
from sim.scenario.layers import nearest_node, plain
from sim.text.replacing import replacing

if TYPE_CHECKING:
    from rich.console import RenderableType

STORE = "points.sqlite"  # what makes a folder that of a sweep
_SHOWN = 10  # points on the terminal
_ERRORS = 3  # that are said there, the most frequent first


@dataclass
class SweepResult:
    """The points of a sweep, which stand in `folder`.

    `best` is the feasible point that is best in the first objective (then the second, ...), `front`
    those that no other betters in all objectives; both only where there are objectives.
    """

    plan: Plan
    folder: Path
    tally: Tally
    said: list[str] = field(default_factory=list)  # of the workers
    kept: Any = field(default=None, repr=False)  # a folder that goes with this object

    def rows(self) -> Iterator[Row]:
        """Every point by number, with what it came to."""
        yield from kept_rows(self.folder / STORE)  # and holds on to a folder that goes with this

    def records(self) -> Iterator[dict[str, Any]]:
        """Every point as a mapping: keys, derived metrics, objectives, metrics."""
        return tables.records(self.plan, self.rows())

    @cached_property
    def summary(self) -> Summary:
        """Counts, the best, the front and the effects."""
        return summarised(self.plan, self.rows())

    @property
    def best(self) -> dict[str, Any] | None:
        """The best point as a mapping, as `records`; None where none is feasible."""
        found = self.summary.best
        return None if found is None else next(tables.records(self.plan, [found.row]))

    @property
    def front(self) -> list[dict[str, Any]]:
        """The points of the Pareto front, as `records`, the best in the first objective first."""
        rows = [scored.row for scored in self.ranked()]
        return list(tables.records(self.plan, rows))

    def ranked(self) -> list[Scored]:
        """The front, the best in the first objective first."""
        return sorted(self.summary.front, key=lambda one: (one.scores, one.row.number))

    @property
    def warnings(self) -> list[str]:
        """What should be known of the points, and of how many of them."""
        counts, n = self.summary.counts, self.tally.ended
        found = list(self.said)
        for status, what in (
            (FAILED, "failed"),
            (LOST, "were lost with their worker, or given up; --resume tries them again"),
            (PRUNED, "break a constraint before all variants were run, and were left there"),
            ("infeasible", "break a constraint, or cannot be told not to"),
            ("undefined", "have no value of an objective"),
        ):
            if counts[status]:
                found.append(f"{counts[status]:,} of {n:,} points {what}")
        left = len(self.summary.errors) - _ERRORS
        for text, count in self.summary.errors.most_common(_ERRORS):
            found.append(f"{count:,} points: {text}")
        if left > 0:
            found.append(f"{left:,} more errors stand in points.csv")
        found += [
            text if count == counts[DONE] + counts[PRUNED] else f"{count:,} points: {text}"
            for text, count in sorted(self.summary.warnings.items())
        ]
        return found

    @property
    def as_written(self) -> Point:
        """The keys that vary as the scenario itself sets them, those that it sets."""
        found: Point = {}
        first, *_ = merged = self.plan.scenario.merged
        for key in self.plan.space.keys:
            path = key.split(".")
            variant, path = (path[1], path[2:]) if path[0] == "variants" else (first, path)
            node, below = nearest_node(merged[variant], tuple(path))
            if not below:
                found[key] = plain(node)
        return found

    @cached_property
    def baseline(self) -> Result | None:
        """The scenario as it is written, run; None if it cannot be."""
        return self._run({})

    @cached_property
    def best_run(self) -> Result | None:
        """The best point, run again, with its timeline; None where there is none."""
        found = self.summary.best
        return None if found is None else self._run(found.row.point)

    def _run(self, point: Point) -> Result | None:
        try:
            scenario = load(self.plan.source, self.plan.of(point))
            plans = prepare(scenario)
        except ScenarioError:
            return None
        outcomes = {name: play(plan) for name, plan in plans.items()}
        # Claims are of the scenario as it stands.
        return result_of(scenario if not point else replace(scenario, expect=[]), outcomes)

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        objectives, found = self.plan.questions.objectives, self.summary
        points = f"{self.tally.ended:,} points"
        if not objectives:
            return f"{points}, {found.counts[DONE]:,} done; nothing was asked to be low or high."
        if found.best is None:
            return f"{points}, none of which meets what was asked."
        brief = shortened(self.plan.space.keys)
        keys = ", ".join(
            f"{brief[key]} {text_of(value)}" for key, value in found.best.row.point.items()
        )
        scores = ", ".join(
            f"{one.text} = {one.sign * score:.6g}"
            for one, score in zip(objectives, found.best.scores)
        )
        first = f" (the best in {objectives[0].text})" if len(objectives) > 1 else ""
        front = f" {len(found.front):,} points are on the front." if len(objectives) > 1 else ""
        return f"Of {points} the best{first}: {scores} at {keys}.{front}"

    def table(self) -> RenderableType:
        """The front, or the first points, for the terminal."""
        from rich.console import Group
        from rich.text import Text

        from sim.results.table import grid_of

        names, lines = self.shown(_SHOWN)
        grid = grid_of()
        for name in names:
            grid.add_column(Text(name), justify="right")
        for cells in lines:
            grid.add_row(*map(Text, cells))
        return Group(grid, Text(self.verdict, style="bold"))

    def shown(self, most: int) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of a short table: the best points where there are objectives, else the
        first."""
        questions = self.plan.questions
        asked = dict.fromkeys([*(one.text for one in questions.objectives), *questions.derived])
        names, brief = [*self.plan.space.keys, *asked], shortened(self.plan.space.keys)
        if questions.objectives:
            rows = [one.row for one in self.ranked()] if len(questions.objectives) > 1 else []
            rows = rows or [one.row for one in self._top(most)]
        else:
            rows = [row for row, _ in zip(self.rows(), range(most))]
        lines = []
        for row in rows[:most]:
            found = dict(row.point)
            if row.result is not None:
                found |= questions.answers(row.result.values, row.point)
            cells = [text_of(found[name]) if name in found else "" for name in names]
            lines.append([str(row.number), *cells])
        return ["point", *(brief.get(name, name) for name in names)], lines

    def _top(self, most: int) -> list[Scored]:
        """The best of the points that the summary drew, and of the front."""
        drawn = {one.row.number: one for one in [*self.summary.drawn, *self.summary.front]}
        return sorted(drawn.values(), key=lambda one: (one.scores, one.row.number))[:most]

    def to_pandas(self) -> Any:
        """One row a point, in a DataFrame; ImportError without pandas."""
        from sim.results.frame import frame

        return frame(list(self.records()), list(tables.columns(self.plan, self.rows())))

    def _repr_html_(self) -> str:
        from sim.explore.report import short

        return short(self)

    def report(self) -> str:
        """The page as HTML that needs no network."""
        from sim.explore.report import report

        return report(self)

    def save(self) -> list[Path]:
        """Write the table, the report, and the run folders of the best point and of the scenario as
        it is written beside the store, each whole or not at all; their paths."""
        names = tables.columns(self.plan, self.rows())
        files = [self.folder / "points.csv"]
        tables.write_csv(files[0], names, self.records())
        parquet = self.folder / "points.parquet"
        if tables.write_parquet(parquet, names, self.records()):
            files.append(parquet)
        again, best = self.best_run, self.summary.best
        before = best.row.result.values if best and best.row.result else {}
        if again is not None and flat(again) != before:
            self.said.append("the best point, run again, gives other numbers than before")
        for name, run in (("best", again), ("baseline", self.baseline)):
            if run is not None and self.summary.best is not None:
                files.append(run.save(self.folder / name))
        for name, text in (
            ("scenario.yaml", self.plan.scenario.resolved),
            ("report.html", self.report()),
        ):
            with replacing(self.folder / name) as beside:
                beside.write_text(text, encoding="utf-8")
            files.append(self.folder / name)
        return files
