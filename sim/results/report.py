"""The one page an architect reads: question, answer, comparison, where the time goes, and what all
of it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.span import BOUNDS
from sim.results import charts
from sim.results.arrays import OF_NETWORKS
from sim.results.arrays_page import grid_section, networks_section
from sim.results.jobs import OF_JOBS
from sim.results.jobs_page import jobs_section, links_section
from sim.results.metrics import DEFINITIONS, exposed_s, pretty, seconds_text
from sim.results.over_time import over_time_section
from sim.results.palette import (
    BOUND_COLOURS,
    BUBBLES,
    ENGINE,
    EXPOSED,
    IDLE,
    escaped,
    kind_colour,
    kind_order,
    variant_colours,
    words,
)
from sim.results.statistics import latencies
from sim.results.table import best, label, ratio_text, rows
from sim.results.tenants import OF_TENANTS, by_tenant, requests_by_tenant
from sim.results.tenants_page import tenants_section

_TAGS = {
    "READ": "read in a public source",
    "CHECKED": "re-derived here and equal to the source",
    "INFER": "derived by us; the arithmetic is in the source",
    "FITTED": "chosen so that the model meets a published number",
    "RECALLED": "from memory, not verified",
}
_CURVES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "e2e": "End-to-end latency",
    "queue": "Queueing before the first iteration",
}
_CAREFUL = {"FITTED", "INFER", "RECALLED"}

_STYLE = """
:root { --ink:#1d2430; --soft:#5a6473; --paper:#fff; --line:#d9dee5; --good:#0a7a55; --bad:#b3261e;
  --warn:#8a5a00; --warnpaper:#fff4dc; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa4b2; --paper:#14181f; --line:#343c48;
  --good:#4fc79a; --bad:#ff8a80; --warn:#ffcf70; --warnpaper:#3a2f14; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif }
main { max-width:940px; margin:0 auto; padding:36px 28px 60px }
h1 { font-size:26px; line-height:1.25; margin:0 0 12px }
h2 { font-size:17px; margin:38px 0 8px }
.lead { font-size:18px; border-left:4px solid var(--good); padding:2px 0 2px 14px; margin:0 0 10px }
.soft, small { color:var(--soft) } p { margin:6px 0 }
svg { max-width:100%; height:auto; display:block; font-size:12px }
svg text { fill:var(--ink) } svg .soft { fill:var(--soft) } svg text.name { font-size:13px }
svg text.in[fill="#fff"] { fill:#fff }
svg text.in[fill="#111"] { fill:#111 } svg .grid { stroke:var(--line); stroke-width:1 }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th, td { text-align:left; padding:5px 10px 5px 0; border-bottom:1px solid var(--line); vertical-align:top }
th { font-weight:600 } .num { text-align:right; white-space:nowrap } .ratio { color:var(--soft); white-space:nowrap }
.best { color:var(--good); font-weight:600 } .ok { color:var(--good); font-weight:600 }
.failed { color:var(--bad); font-weight:700 } .mark { width:80px }
.legend { display:flex; flex-wrap:wrap; gap:4px 16px; color:var(--soft); font-size:13px }
.legend i { display:inline-block; width:11px; height:11px; border-radius:2px; margin-right:6px }
.tag { font-size:12px; padding:1px 7px; border-radius:9px; border:1px solid var(--line); white-space:nowrap }
.tag.careful { background:var(--warnpaper); color:var(--warn); border-color:var(--warn); font-weight:600 }
.pair { display:flex; flex-wrap:wrap; gap:16px } .wide { overflow-x:auto } summary { cursor:pointer; font-weight:600 }
.warnings li { color:var(--warn) } a { color:inherit } td code { font-size:13px }
td:last-child { overflow-wrap:anywhere }
.dense { font-size:13px } .dense td, .dense th { padding-right:8px }
.jobs td, .jobs th { white-space:nowrap }
.meter { display:inline-block; width:110px; height:9px; border-radius:3px; background:var(--line); overflow:hidden }
.heat { width:auto; margin:4px 0 14px } .heat td, .heat th { padding:5px 14px }
.meter i { display:block; height:100%; background:#D55E00 } details { margin:6px 0 }
@media print { main { max-width:none; padding:0 } h2 { break-after:avoid } tr, svg, .legend { break-inside:avoid }
  .screen { display:none } .pair svg { width:calc(50% - 8px) } h2 + p, h2 + p + .legend { break-after:avoid }
  * { -webkit-print-color-adjust:exact; print-color-adjust:exact } }
"""


def report(
    *,
    scenario: str,
    question: str,
    verdict: str,
    version: str,
    seed: int,
    fingerprint: str,
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
    expect: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
) -> str:
    """The page as HTML: one file, no script, no network.  Every name is escaped: they come from the
    user's YAML."""
    title = escaped(question or scenario)
    each = by_tenant(outcomes)
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{escaped(verdict)}</p>',
        f'<p class="soft">{escaped(scenario)}, podscope {escaped(version)}, seed {seed}, '
        f"fingerprint {escaped(fingerprint)}."
        f"{_links(outcomes)}</p>",
        _warnings(warnings),
        _expectations(expect),
        _comparison(metrics, comparison),
        tenants_section(outcomes),
        networks_section(outcomes),
        grid_section(outcomes),
        _where_time_goes(each),
        jobs_section(outcomes),
        links_section(outcomes),
        _bounds(each),
        over_time_section(each),
        _latency_curves(outcomes),
        _assumptions(outcomes),
        _definitions(metrics, comparison),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" '
        f'href="data:,"><title>{title}</title><style>{_STYLE}</style></head>\n<body><main>\n'
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _links(outcomes: Mapping[str, Outcome]) -> str:
    pages = (
        {"timeline": "timeline.html"}
        if any(o.timeline.spans or not o.grid for o in outcomes.values())
        else {}
    )
    pages |= (
        {"figures": "figures.html"} if any(o.array or o.grid for o in outcomes.values()) else {}
    )
    return "".join(
        f' <a class="screen" href="{page}">Open the {what}</a>' for what, page in pages.items()
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return (
        '<h2>Warnings</h2><ul class="warnings">'
        + "".join(f"<li>{escaped(w)}</li>" for w in warnings)
        + "</ul>"
    )


def _expectations(expect: Sequence[Mapping[str, Any]]) -> str:
    if not expect:
        return ""
    lines = []
    for row in expect:
        mark = '<span class="ok">ok</span>' if row["ok"] else '<span class="failed">FAILED</span>'
        lines.append(
            f"<tr><td>{mark}</td><td><code>{escaped(row['text'])}</code></td><td "
            f"class=num>{row['value']:.6g}</td></tr>"
        )
    head = "<tr><th class=mark></th><th>The scenario expects</th><th class=num>found</th></tr>"
    return f"<h2>Expectations</h2><table>{head}{''.join(lines)}</table>"


def _comparison(
    metrics: Mapping[str, Mapping[str, float]], comparison: Mapping[str, Mapping[str, float]]
) -> str:
    base = next(iter(metrics))
    head = "".join(
        f'<th class="num">{escaped(v)}</th>{"" if v == base else "<th></th>"}' for v in metrics
    )
    lines = []
    if len(metrics) > 1:
        winners = best("speedup", comparison)
        cells = "".join(
            _cells("speedup", v, comparison[v], {}, v == base, winners) for v in metrics
        )
        lines.append(f"<tr><th>{escaped(label('speedup'))}</th>{cells}</tr>")
    for name in rows(metrics):
        winners = best(name, metrics)
        cells = "".join(
            _cells(name, v, mine, comparison[v], v == base, winners) for v, mine in metrics.items()
        )
        lines.append(
            "<tr><td "
            f'title="{escaped(DEFINITIONS.get(name, ""))}">{escaped(label(name))}</td>{cells}</tr>'
        )
    note = (
        ""
        if len(metrics) < 2
        else f'<p class="soft">x: ratio to {escaped(base)}. The best of a row is green.</p>'
    )
    return (
        "<h2>Comparison</h2><div "
        f'class="wide"><table><tr><th></th>{head}</tr>{"".join(lines)}</table></div>{note}'
    )


def _cells(
    name: str,
    variant: str,
    mine: Mapping[str, float],
    ratios: Mapping[str, float],
    is_base: bool,
    winners: set[str],
) -> str:
    good = " best" if variant in winners else ""
    cell = f'<td class="num{good}">{escaped(pretty(name, mine[name])) if name in mine else ""}</td>'
    return cell if is_base else f'{cell}<td class="ratio">{ratio_text(ratios.get(name))}</td>'


def _where_time_goes(outcomes: Mapping[str, Outcome]) -> str:
    bars, texts = {}, {}
    if any(outcome.jobs or outcome.array or outcome.grid for outcome in outcomes.values()):
        return ""
    for name, outcome in outcomes.items():
        kinds = outcome.totals.span_s.get("compute", {})
        parts = [(words(k), kind_colour(k), kinds[k]) for k in sorted(kinds, key=kind_order)]
        bars[name] = _of_one([*parts, *_waiting(outcome)], outcome)
        texts[name] = seconds_text(outcome.totals.seconds / outcome.replicas)
    figure = charts.stacked_bars(
        bars, "Wall time of each variant by what the compute stream does", texts
    )
    return (
        "<h2>Where the time goes</h2>"
        '<p class="soft">Wall time of one rank by what its compute stream does; nothing '
        "computes while "
        f"communication is exposed.{_mean(outcomes)}</p>{figure}"
    )


def _of_one(parts: list[tuple[str, str, float]], outcome: Outcome) -> list[tuple[str, str, float]]:
    """The mean of the replicas, from their sum: variants with more of them stand on the same
    scale."""
    return [(name, colour, seconds / outcome.replicas) for name, colour, seconds in parts]


def _waiting(outcome: Outcome) -> list[tuple[str, str, float]]:
    return [
        ("exposed communication", EXPOSED, max(0.0, exposed_s(outcome.totals))),
        ("engine", ENGINE, outcome.totals.engine_s),
        ("bubbles", BUBBLES, outcome.totals.bubble_s),
        ("idle", IDLE, outcome.totals.idle_s),
    ]


def _bounds(outcomes: Mapping[str, Outcome]) -> str:
    if not any(outcome.totals.bound_s for outcome in outcomes.values()):
        return ""
    bars, texts = {}, {}
    for name, outcome in outcomes.items():
        bound_s = outcome.totals.bound_s
        bars[name] = _of_one(
            [(f"limited by {b}", BOUND_COLOURS[b], bound_s.get(b, 0.0)) for b in BOUNDS], outcome
        )
        texts[name] = seconds_text(sum(bound_s.values()) / outcome.replicas)
    figure = charts.stacked_bars(
        bars, "Time on the compute stream of each variant by what limits it", texts
    )
    return (
        "<h2>What limits the kernels</h2>"
        '<p class="soft">Time on the compute stream by what a faster machine would have to '
        "improve; latency is launch "
        f"overhead.{_mean(outcomes)}</p>{figure}"
    )


def _mean(outcomes: Mapping[str, Outcome]) -> str:
    stages = (
        " Mean of the pipeline stages." if any(o.totals.bubble_s for o in outcomes.values()) else ""
    )
    return stages + (
        " Mean of the replicas." if any(o.replicas > 1 for o in outcomes.values()) else ""
    )


def _latency_curves(outcomes: Mapping[str, Outcome]) -> str:
    asked = {
        f"{variant} · {tenant}" if tenant else variant: latencies(requests.finished())
        for variant, outcome in outcomes.items()
        for tenant, requests in requests_by_tenant(outcome).items()
    }
    found = {name: mine for name, mine in asked.items() if len(mine["e2e"])}
    if not found:
        return ""
    colours = variant_colours(asked)
    figures = []
    for key, title in _CURVES.items():
        points = {
            name: charts.quantiles(mine[key])
            for name, mine in found.items()
            if len(mine.get(key, ()))
        }
        figures.append(_curves(points, colours, title, "requests") if points else "")
    gaps = {
        name: charts.histogram_quantiles(o.serving.gap_ends_s, o.serving.gaps)
        for name, o in by_tenant(outcomes).items()
        if o.serving and o.serving.gaps.any()
    }
    figures.append(
        _curves(gaps, colours, "Inter-token latency", "gaps between tokens") if gaps else ""
    )
    names = charts.legend([(name, colours[name]) for name in found])
    tokens = (
        "; of the inter-token latency, share of the times between two tokens of an answer"
        if gaps
        else ""
    )
    return (
        '<h2>Latency of the requests</h2><p class="soft">Share of finished requests that took '
        f"no longer{tokens}.</p>"
        f'{names}<div class="pair">{"".join(figures)}</div>'
    )


def _curves(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    title: str,
    what: str,
) -> str:
    slowest = max((float(values[-1]) for values, _ in points.values()), default=0.0)
    unit, scale = ("s", 1.0) if slowest >= 2 else ("ms", 1e3) if slowest >= 2e-3 else ("µs", 1e6)
    return charts.cdf(
        {n: charts.Line(colours[n], *line) for n, line in points.items()}, title, unit, scale, what
    )


def _assumptions(outcomes: Mapping[str, Outcome]) -> str:
    held: dict[tuple[str, str, str, str], list[str]] = {}
    for name, outcome in outcomes.items():
        for row in dict.fromkeys(outcome.assumptions):
            held.setdefault(row, []).append(name)
    if not held:
        return ""
    lines = []
    for (what, value, tag, source), names in held.items():
        only = (
            ""
            if len(names) == len(outcomes)
            else f" <small>({escaped(', '.join(names))} only)</small>"
        )
        careful = " careful" if tag in _CAREFUL else ""
        mark = (
            f'<span class="tag{careful}" '
            f'title="{escaped(_TAGS.get(tag, ""))}">{escaped(tag)}</span>'
        )
        lines.append(
            f"<tr><td>{escaped(what)}{only}</td><td>{escaped(value)}</td><td>{mark}</td><td>{escaped(source)}</td></tr>"
        )
    used = dict.fromkeys(tag for _, _, tag, _ in held)
    key = "; ".join(f"{escaped(tag)}: {escaped(_TAGS[tag])}" for tag in used if tag in _TAGS)
    head = "<tr><th>What</th><th>Value</th><th>Kind</th><th>Source</th></tr>"
    grid = f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'
    return f'<h2>What this rests on</h2>{grid}<p class="soft">{key}.</p>'


def _defined(used: set[str]) -> dict[str, str]:
    """The definitions of the metrics used, and of those of jobs or tenants where there are any."""
    of_parts = {"busiest_link_utilisation": OF_JOBS, "rounds": OF_NETWORKS, "fairness": OF_TENANTS}
    more = next((texts for name, texts in of_parts.items() if name in used), {})
    return {name: text for name, text in DEFINITIONS.items() if name in used} | more


def _definitions(
    metrics: Mapping[str, Mapping[str, float]], comparison: Mapping[str, Mapping[str, float]]
) -> str:
    used = {name for mine in metrics.values() for name in mine} | {
        name for mine in comparison.values() for name in mine
    }
    lines = "".join(
        f"<tr><td><code>{n}</code></td><td>{escaped(text)}</td></tr>"
        for n, text in _defined(used).items()
    )
    return (
        "<h2>Definitions</h2><details><summary>How each metric is "
        f"computed</summary><table>{lines}</table></details>"
    )
