"""A Result: what a run says, ready to print, draw, save and compare."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.facts.outcome import Outcome
from sim.results.difference import Part, difference
from sim.results.expect import check, parse
from sim.results.folder import listing, write_folder
from sim.results.metric import row_of
from sim.results.metrics import SPEEDUP, by_kind, metrics, part_rows_of, rows_of
from sim.results.pareto import pareto_sentence
from sim.results.requests import owners_of, requests_file
from sim.results.statistics import survivors
from sim.results.sure import Sure
from sim.results.table import Comparison, closing, part_grid
from sim.results.verdict import paying

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from rich.console import RenderableType


@dataclass
class Result:
    """Every variant of one scenario, compared.  The first variant is the baseline.

    `variants[name]["metrics"]` maps a metric to its value (units in the names),
    `variants[name]["tenants"]` a job, a tenant or a network to its own, `comparison[name]` a metric
    to its ratio to the baseline and `speedup`; `expect` has a row {"text", "value", "ok"} for each
    claim of the scenario. `outcomes` are the facts that all of it is derived from.
    """

    scenario: str
    question: str
    version: str
    seed: int
    fingerprint: str
    variants: dict[str, dict[str, Any]]
    comparison: dict[str, dict[str, float]]
    expect: list[dict[str, Any]]
    warnings: list[str]
    resolved: str  # the scenario as YAML, with every default filled in
    outcomes: dict[str, Outcome] = field(repr=False)
    kinds: Mapping[str, Any] = field(repr=False)  # the rows of `sim.kinds`
    partial: bool = False  # interrupted: some variants are missing, or one ends before its time
    # By variant, the parts of its difference from the baseline, the largest first.
    differences: Mapping[str, list[Part]] = field(default_factory=dict)
    sure: Sure | None = None  # how sure the verdict is, if that was asked
    ran: tuple[str, ...] = ()  # which loops were compiled and which plain Python, and why

    @property
    def ok(self) -> bool:
        """Whether every claim of the scenario holds."""
        return all(row["ok"] for row in self.expect)

    @property
    def verdict(self) -> str:
        """The answer in one sentence for each kind of work."""
        idle = [f"{name}: {text}. " for name, one in self.outcomes.items() for text in one.idle]
        found = (
            "".join(idle)
            + survivors(self._metrics())
            + " ".join(
                self.kinds[kind].verdict(mine, self._metrics(), self.comparison)
                for kind, mine in by_kind(self.outcomes).items()
            )
        )
        told = pareto_sentence(self.outcomes), paying(self.outcomes.values())
        sure = self.sure.sentence if self.sure else ""
        found = " ".join([found, *filter(None, (*told, sure))])
        return f"Interrupted, so this is no answer yet: {found}" if self.partial else found

    def to_json(self) -> str:
        """The text of `result.json`: equal runs give equal bytes.  Variants keep their order,
        metrics are sorted."""
        data = {
            "scenario": self.scenario,
            "version": self.version,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "partial": self.partial,
            "variants": {name: _sorted(variant) for name, variant in self.variants.items()},
            "comparison": {name: _sorted(ratios) for name, ratios in self.comparison.items()},
            "difference": {
                name: [part._asdict() for part in parts] for name, parts in self.differences.items()
            },
            "expect": self.expect,
            "warnings": self.warnings,
        } | ({"range": self.sure.to_json()} if self.sure else {})
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def table(self) -> RenderableType:
        """The comparison for the terminal: `rich.print(result.table())`."""
        from rich.console import Group

        above: list[RenderableType] = []
        below: list[RenderableType] = []
        for kind, mine in by_kind(self.outcomes).items():
            row, found = self.kinds[kind], {name: self.variants[name]["metrics"] for name in mine}
            if row.table:
                above.append(row.table(mine, found, self.comparison))
            else:
                above.append(Comparison(rows_of(row), found, self.comparison))
            if row.part_shown:
                parts = {name: self.variants[name]["tenants"] for name in mine}
                below.append(part_grid(part_rows_of(row), parts, row.part, row.part_shown))
        sure = [self.sure.table()] if self.sure and self.sure.swings else []
        return Group(*above, *below, *sure, *closing(self.verdict, self.expect))

    def to_pandas(self) -> Any:
        """One row a metric of a variant, or of a part of one, in a DataFrame; ImportError without
        pandas."""
        from sim.results.frame import frame

        records = []
        for variant, found in self.variants.items():
            kind = self.kinds[self.outcomes[variant].kind]
            parts = {"": found["metrics"], **found["tenants"]}
            for part, mine in parts.items():
                rows = part_rows_of(kind) if part else rows_of(kind)
                for metric, value in mine.items():
                    row = row_of(rows, metric)
                    records.append((variant, part, metric, row.unit if row else "", value))
        columns = ("variant", "part", "metric", "unit", "value")
        return frame([dict(zip(columns, record)) for record in records], columns)

    def _repr_html_(self) -> str:
        from sim.results.report import short

        metrics = self._metrics()
        return short(self.verdict, self.outcomes, self.kinds, metrics, self.comparison)

    def timeline(
        self,
        variant: str | None = None,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> Figure:
        """The recorded window as a Plotly figure: one variant, or all below each other; times in
        seconds.

        KeyError if there is no such variant. Short ops are gathered into blocks: narrow the window
        to see each of them.
        """
        from sim.results.timeline import timeline

        chosen = self.outcomes if variant is None else {variant: self.outcomes[variant]}
        return timeline(chosen, start_s=start_s, end_s=end_s)

    def report(self) -> str:
        """The one-page answer as HTML that needs no network."""
        from sim.results.report import report

        return report(
            scenario=self.scenario,
            question=self.question,
            verdict=self.verdict,
            version=self.version,
            seed=self.seed,
            fingerprint=self.fingerprint,
            outcomes=self.outcomes,
            kinds=self.kinds,
            metrics=self._metrics(),
            comparison=self.comparison,
            differences=self.differences,
            expect=self.expect,
            warnings=self.warnings,
            sure=self.sure.section() if self.sure else "",
        )

    def files(self, log: str = "") -> dict[str, bytes]:
        """Name and content of every file of the run folder; `log` is put before the summary in
        `log.txt`."""
        from sim.results.perfetto import trace_gz
        from sim.results.timeline import timeline_page

        title = self.question or self.scenario
        texts = {
            "result.json": self.to_json(),
            "timeline.html": timeline_page(self.outcomes, title),
            "report.html": self.report(),
            "scenario.yaml": self.resolved,
        }
        found = {name: text.encode() for name, text in texts.items()}
        found["trace.json.gz"] = trace_gz(self.outcomes)
        owners = owners_of(self.outcomes, self.kinds)
        found |= requests_file({owner: one.requests for owner, one in owners.items()})
        for kind, mine in by_kind(self.outcomes).items():
            for _, file, page in self.kinds[kind].pages:
                found |= {file: page(mine, title).encode()} if page else {}
            for files in self.kinds[kind].files:
                found |= files(mine)
        found["log.txt"] = (log + self._log() + listing([*found, "log.txt"])).encode()
        return found

    def save(self, folder: str | os.PathLike[str], log: str = "") -> Path:
        """Writes the run folder whole or not at all; ValueError if `folder` holds something that is
        no earlier run."""
        return write_folder(folder, self.files(log))

    def _metrics(self) -> dict[str, dict[str, float]]:
        return {name: variant["metrics"] for name, variant in self.variants.items()}

    def _log(self) -> str:
        claims = ((f"{row['text']} (found {row['value']!r})", row["ok"]) for row in self.expect)
        lines = [
            f"podscope {self.version}",
            f"scenario {self.scenario}, seed {self.seed}, {self.fingerprint}",
            *(
                f"variant {name}: {o.totals.ops:,.0f} ops, fingerprint {o.fingerprint}"
                for name, o in self.outcomes.items()
            ),
            *(f"expect {'ok    ' if ok else 'FAILED'} {text}" for text, ok in claims),
            *(f"warning {text}" for text in self.warnings),
            *(f"loop {text}" for text in self.ran),
            self.verdict,
        ]
        return "\n".join(lines) + "\n"


def build(
    *,
    scenario: str,
    question: str,
    version: str,
    seed: int,
    outcomes: Mapping[str, Outcome],
    kinds: Mapping[str, Any],
    expect: Sequence[str],
    resolved: str,
    warnings: Iterable[str] = (),
    partial: bool = False,
) -> Result:
    """The Result of the outcomes of all variants, the baseline first; ValueError if there is none
    or a claim is wrong.

    `kinds` are the rows of `sim.kinds`; `resolved` is the scenario as YAML text; `warnings` are
    those of the loader, before those of the variants.
    """
    if not outcomes:
        raise ValueError("a run needs at least one variant")
    rows = {name: kinds[outcome.kind] for name, outcome in outcomes.items()}
    found = {name: metrics(one, rows[name]) for name, one in outcomes.items()}
    parts = {
        name: rows[name].parts(one) if rows[name].parts else {} for name, one in outcomes.items()
    }
    first = next(iter(found))
    judged = next((key for key in rows[first].judged if found[first].get(key)), "")
    comparison = {name: _ratios(mine, found[first], judged) for name, mine in found.items()}
    apart = {
        name: difference(
            rows[first].judged[judged](outcomes[first]), rows[name].judged[judged](one)
        )
        for name, one in outcomes.items()
        if name != first and judged in rows[name].judged
    }
    prints = "\n".join(f"{name} {outcome.fingerprint}" for name, outcome in outcomes.items())
    return Result(
        scenario=scenario,
        question=question,
        version=version,
        seed=seed,
        fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:12],
        variants={name: {"metrics": mine, "tenants": parts[name]} for name, mine in found.items()},
        comparison=comparison,
        expect=check(map(parse, expect), found, comparison, parts, _of_finished(rows.values())),
        warnings=[*dict.fromkeys([*warnings, *_said(outcomes)])],
        resolved=resolved,
        outcomes=dict(outcomes),
        kinds=kinds,
        partial=partial,
        differences=apart,
        ran=tuple(sorted({line for outcome in outcomes.values() for line in outcome.ran})),
    )


def _of_finished(kinds: Iterable[Any]) -> set[str]:
    """Metrics that say nothing of requests without an answer."""
    judged = {SPEEDUP.name for kind in kinds if "e2e_mean_s" in kind.judged}
    tables = [table for kind in kinds for table in (rows_of(kind), part_rows_of(kind))]
    return judged | {row.name for table in tables for row in table.values() if row.finished}


def _said(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Each warning once, and whose it is, where not all variants have it."""
    whose: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for text in dict.fromkeys(outcome.warnings):
            whose.setdefault(text, []).append(name)
    for text, names in whose.items():
        yield text if len(names) == len(outcomes) else f"{', '.join(names)}: {text}"


def _ratios(mine: Mapping[str, float], base: Mapping[str, float], judged: str) -> dict[str, float]:
    """Each metric over the baseline's, where that is not zero; and the speed-up, by the metric that
    is judged."""
    ratios = {name: value / base[name] for name, value in mine.items() if base.get(name)}
    if mine.get(judged):
        ratios[SPEEDUP.name] = base[judged] / mine[judged]
    return ratios


def _sorted(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _sorted(value) if isinstance(value, Mapping) else value
        for key, value in sorted(data.items())
    }
