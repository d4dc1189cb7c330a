"""What the author of a scenario claims: lines like `preserve.speedup >= 1.2`, parsed before a run,
checked after."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sim.results.metric import row_of
from sim.results.metrics import SPEEDUP, part_rows_of, rows_of
from sim.results.statistics import LOST, lost
from sim.text.pick import closest

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NAME = r"[\w-]+(?:\.[\w-]+)*\.\w+"
_LINE = re.compile(
    rf"(?P<variant>\S.*)\.(?P<metric>\w+)\s*(?P<op>>=|<=|==|>|<)\s*"
    rf"(?:(?P<value>{_NUMBER})(?:\s*\*\s*(?P<than>{_NAME}))?|(?P<alone>{_NAME}))"
    rf"(?:\s*(?:±|\+/?-)\s*(?P<tolerance>{_NUMBER}))?"
    rf"(?:\s+with\s+rejected\s*<=\s*(?P<lost>{_NUMBER})\s*%)?"
)
_EXAMPLES = (
    "write it like 'preserve.speedup >= 1.2', 'preserve.ttft_p99_s == 0.35 ± 0.02', or, of a job "
    "or a tenant against that of another variant, "
    "'both.training.mean_s > 1.5 * alone.training.mean_s'"
)
_EXACT = 1e-9  # relative: how far `==` without a tolerance may be off


class Expect(NamedTuple):
    """One claim: `variant`'s `metric` stands in relation `op` to `value`; `tolerance` belongs to
    `==` only.

    `variant` may be `variant.job`. `than` names another number, of which `value` is the multiple
    meant. `lost` is the share of requests that may have no answer, where the metric is one of those
    that have.
    """

    variant: str
    metric: str
    op: str
    value: float
    tolerance: float | None = None
    text: str = ""
    than: str = ""
    lost: float = LOST

    def holds(self, found: float, than: float = 1.0) -> bool:
        """Whether `found` satisfies the claim.  `==` without a tolerance allows a relative 1e-9 for
        rounding."""
        due = self.value * than
        if self.op == "==":
            allowed = (
                self.tolerance if self.tolerance is not None else _EXACT * max(abs(due), abs(found))
            )
            return abs(found - due) <= allowed * (1 + 1e-12)
        return {">=": found >= due, "<=": found <= due, ">": found > due, "<": found < due}[self.op]


def parse(text: str) -> Expect:
    """The claim in `text`; ValueError with an example if it is not one.

    The grammar is `variant.metric OP number` with OP one of >= <= > < ==, and `variant.metric ==
    number ± tolerance` (also written `+-`). In place of a number, another variant's metric will do,
    or `number * variant.metric`. A latency says nothing of requests that have no answer: above 1 %
    of them the claim does not hold, unless it ends with, say, `with rejected <= 5 %`. A job's
    metric is `variant.job.metric`. Times are in seconds, as the metric's name says. A ratio to the
    baseline is `metric_ratio`.

    >>> parse("preserve.speedup == 1.61 ± 0.10")[:5]
    ('preserve', 'speedup', '==', 1.61, 0.1)
    """
    match = _LINE.fullmatch(text.strip()) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is not an expectation; {_EXAMPLES}")
    tolerance = None if match["tolerance"] is None else float(match["tolerance"])
    if tolerance is not None and match["op"] != "==":
        raise ValueError(f"{text!r}: a tolerance goes with '==' only; {_EXAMPLES}")
    value = float(match["value"] or 1.0)
    if (tolerance is not None and tolerance < 0) or not all(
        map(math.isfinite, (value, tolerance or 0.0))
    ):
        raise ValueError(
            f"{text!r}: numbers must be finite and a tolerance at least zero; {_EXAMPLES}"
        )
    return Expect(
        variant=match["variant"],
        metric=match["metric"],
        op=match["op"],
        value=value,
        tolerance=tolerance,
        text=text.strip(),
        than=match["than"] or match["alone"] or "",
        lost=LOST if match["lost"] is None else float(match["lost"]) / 100,
    )


def unknown_metric(metric: str, kind: Any, *, of_part: bool = False) -> str:
    """What is wrong with the name of a metric of a `kind` of work, before anything has run; '' if
    nothing is."""
    rows = part_rows_of(kind) if of_part else rows_of(kind) | {SPEEDUP.name: SPEEDUP}
    plain = metric.removesuffix("_ratio")
    if row_of(rows, metric) or (row_of(rows, plain) and plain != SPEEDUP.name):
        return ""
    names = [*rows, *(f"{name}_ratio" for name in rows)]
    what = f"a {kind.part or 'part'} in a workload" if of_part else "a workload"
    return f"{metric!r} is not a metric of {what} of {kind.name}{_nearest(metric, names)}"


def check(
    expects: Iterable[Expect],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
    tenants: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    finished: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Each claim with the value found and whether it holds: [{"text", "value", "ok"}], and `why`
    not if that is not its value.

    `metrics[variant][metric]` are the absolute numbers, `comparison[variant][metric]` the ratios to
    the baseline: `speedup` and any `<metric>_ratio` are looked up there.
    `tenants[variant][job][metric]` are those of jobs, whose ratios are to the same job of the first
    variant. `finished` are metrics of requests that have an answer. ValueError, with the nearest
    name, for what is not there.
    """
    rows = []
    for e in expects:
        value = _found(e.variant, e.metric, metrics, comparison, tenants or {})
        owner, _, metric = e.than.rpartition(".")
        than = _found(owner, metric, metrics, comparison, tenants or {}) if e.than else 1.0
        row = {"text": e.text, "value": value, "ok": e.holds(value, than)}
        if e.metric.removesuffix("_ratio") in finished:
            named = {e.variant, owner or e.variant}
            if e.metric == SPEEDUP.name or e.metric.endswith("_ratio"):
                named.add(next(iter(metrics)))
            worst = max(lost(_of(each, metrics, tenants or {})) for each in named)
            if worst > e.lost:
                row |= {"ok": False, "why": f"{worst:.1%} of the requests have no answer"}
        rows.append(row)
    return rows


def _of(
    owner: str,
    metrics: Mapping[str, Mapping[str, float]],
    tenants: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Mapping[str, float]:
    """The metrics of a variant, or of a part of it."""
    variant, _, job = owner.rpartition(".")
    return metrics.get(owner) or tenants.get(variant, {}).get(job, {})


def _found(
    owner: str,
    metric: str,
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
    tenants: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> float:
    """The number that a claim names."""
    variant, _, job = (owner, "", "") if owner in metrics else owner.rpartition(".")
    if variant not in metrics:
        raise ValueError(f"expect: no variant {owner!r}{_nearest(owner, metrics)}")
    if job:
        jobs = tenants.get(variant, {})
        if job not in jobs:
            raise ValueError(f"expect: no part {job!r} in {variant!r}{_nearest(job, jobs)}")
        base = tenants[next(iter(metrics))].get(job, {})
        known = {**jobs[job]} | {
            f"{name}_ratio": value / base[name]
            for name, value in jobs[job].items()
            if base.get(name)
        }
    else:
        known = {**metrics[variant]} | {
            name if name == SPEEDUP.name else f"{name}_ratio": ratio
            for name, ratio in comparison.get(variant, {}).items()
        }
    if metric not in known:
        raise ValueError(
            f"expect: {metric!r} of {owner!r} has no value in this run{_nearest(metric, known)}"
        )
    return known[metric]


def _nearest(name: str, known: Collection[str]) -> str:
    shown = ", ".join(n for n in known if not n.endswith("_ratio"))
    return closest(name, known, f"; choose one of {shown}")
