"""A Result: what a run says, ready to print, draw, save and compare."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import compiled
from sim.facts.outcome import Outcome
from sim.results.array_figures import figures_page
from sim.results.expect import check, parse
from sim.results.folder import write_folder
from sim.results.jobs import links_csv
from sim.results.jobs import tenants as job_metrics
from sim.results.jobs_page import jobs_table
from sim.results.metrics import metrics
from sim.results.perfetto import trace_gz
from sim.results.report import report
from sim.results.requests import requests_file
from sim.results.table import table
from sim.results.tenants import shared_metrics, tenants
from sim.results.timeline import timeline, timeline_page
from sim.results.verdict import verdict

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from rich.console import RenderableType


@dataclass
class Result:
    """Every variant of one scenario, compared.  The first variant is the baseline.

    `variants[name]["metrics"]` maps a metric to its value (units in the names, definitions in
    `DEFINITIONS`), `variants[name]["tenants"]` a job or a tenant to its own (`OF_JOBS`,
    `OF_TENANTS`, `OF_NETWORKS`), `comparison[name]` a metric to its ratio to the baseline and
    `speedup`, `expect` has a row {"text", "value", "ok"} for each claim of the scenario. `outcomes`
    are the facts that all of it is derived from.
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
    partial: bool = False  # interrupted: some variants are missing, or one ends before its time
    ran: tuple[str, ...] = ()  # which loops were compiled and which plain Python, and why

    @property
    def ok(self) -> bool:
        """Whether every claim of the scenario holds."""
        return all(row["ok"] for row in self.expect)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        found = verdict(self.outcomes, self._metrics(), self.comparison)
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
            "expect": self.expect,
            "warnings": self.warnings,
        }
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def table(self) -> RenderableType:
        """The comparison for the terminal: `rich.print(result.table())`."""
        draw = jobs_table if any(outcome.jobs for outcome in self.outcomes.values()) else table
        return draw(self.outcomes, self._metrics(), self.comparison, self.verdict, self.expect)

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
        chosen = self.outcomes if variant is None else {variant: self.outcomes[variant]}
        return timeline(chosen, start_s=start_s, end_s=end_s)

    def report(self) -> str:
        """The one-page answer as HTML that needs no network."""
        return report(
            scenario=self.scenario,
            question=self.question,
            verdict=self.verdict,
            version=self.version,
            seed=self.seed,
            fingerprint=self.fingerprint,
            outcomes=self.outcomes,
            metrics=self._metrics(),
            comparison=self.comparison,
            expect=self.expect,
            warnings=self.warnings,
        )

    def files(self, log: str = "") -> dict[str, bytes]:
        """Name and content of every file of the run folder; `log` is put before the summary in
        `log.txt`."""
        texts = {
            "result.json": self.to_json(),
            "timeline.html": timeline_page(self.outcomes, self.question or self.scenario),
            "report.html": self.report(),
            "scenario.yaml": self.resolved,
            "log.txt": log + self._log(),
        }
        found = {name: text.encode() for name, text in texts.items()}
        if any(outcome.array or outcome.grid for outcome in self.outcomes.values()):
            found["figures.html"] = figures_page(
                self.outcomes, self.question or self.scenario
            ).encode()
        found["trace.json.gz"] = trace_gz(self.outcomes)
        links = links_csv(self.outcomes)
        found |= {"links.csv": links} if links else {}
        requests = requests_file(self.outcomes)
        return found | ({requests[0]: requests[1]} if requests else {})

    def save(self, folder: str | os.PathLike[str], log: str = "") -> Path:
        """Writes the run folder whole or not at all; ValueError if `folder` holds something that is
        no earlier run."""
        return write_folder(folder, self.files(log))

    def _metrics(self) -> dict[str, dict[str, float]]:
        return {name: variant["metrics"] for name, variant in self.variants.items()}

    def _log(self) -> str:
        lines = [
            f"podscope {self.version}",
            f"scenario {self.scenario}, seed {self.seed}, {self.fingerprint}",
        ]
        lines += [
            f"variant {name}: {o.totals.ops:,.0f} ops, fingerprint {o.fingerprint}"
            for name, o in self.outcomes.items()
        ]
        lines += [
            f"expect {'ok    ' if row['ok'] else 'FAILED'} {row['text']} (found {row['value']!r})"
            for row in self.expect
        ]
        lines += [f"warning {text}" for text in self.warnings]
        lines += [f"loop {text}" for text in self.ran]
        return "\n".join([*lines, self.verdict]) + "\n"


def build(
    *,
    scenario: str,
    question: str,
    version: str,
    seed: int,
    outcomes: Mapping[str, Outcome],
    expect: Sequence[str],
    resolved: str,
    warnings: Iterable[str] = (),
    partial: bool = False,
) -> Result:
    """The Result of the outcomes of all variants, the baseline first; ValueError if there is none
    or a claim is wrong.

    `resolved` is the scenario as YAML text; `warnings` are those of the loader, before those of the
    variants.
    """
    if not outcomes:
        raise ValueError("a run needs at least one variant")
    found = {
        name: shared_metrics(outcome) if outcome.tenants else metrics(outcome)
        for name, outcome in outcomes.items()
    }
    base = found[next(iter(found))]
    jobs = {name: job_metrics(outcome) | tenants(outcome) for name, outcome in outcomes.items()}
    comparison = {name: _ratios(mine, base) for name, mine in found.items()}
    prints = "\n".join(f"{name} {outcome.fingerprint}" for name, outcome in outcomes.items())
    return Result(
        scenario=scenario,
        question=question,
        version=version,
        seed=seed,
        fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:12],
        variants={name: {"metrics": mine, "tenants": jobs[name]} for name, mine in found.items()},
        comparison=comparison,
        expect=check(map(parse, expect), found, comparison, jobs),
        warnings=[*dict.fromkeys([*warnings, *_said(outcomes)])],
        resolved=resolved,
        outcomes=dict(outcomes),
        partial=partial,
        ran=tuple(compiled.ran()),
    )


def _said(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Each warning once, and whose it is, where not all variants have it."""
    whose: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for text in dict.fromkeys(outcome.warnings):
            whose.setdefault(text, []).append(name)
    for text, names in whose.items():
        yield text if len(names) == len(outcomes) else f"{', '.join(names)}: {text}"


def _ratios(mine: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """Each metric over the baseline's, where that is not zero; and the speed-up."""
    ratios = {name: value / base[name] for name, value in mine.items() if base.get(name)}
    key = "e2e_mean_s" if "e2e_mean_s" in base else "makespan_s"
    if mine.get(key) and base.get(key):
        ratios["speedup"] = base[key] / mine[key]
    return ratios


def _sorted(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _sorted(value) if isinstance(value, Mapping) else value
        for key, value in sorted(data.items())
    }
