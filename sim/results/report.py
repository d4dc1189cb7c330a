"""The one page an architect reads: question, answer, comparison, where the time goes, and what all
of it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.facts.outcome import Outcome
from sim.results.difference import SMALL, Part
from sim.results.latency import latency_section
from sim.results.metric import Metric, seconds_text
from sim.results.metrics import SPEEDUP, by_kind, part_rows_of, rows_of, rows_of_all
from sim.results.palette import escaped
from sim.results.requests import owners_of
from sim.results.table import Numbers, best, cell, ratio_text, shown

_TAGS = {
    "READ": "read in a public source",
    "CHECKED": "re-derived here and equal to the source",
    "INFER": "derived by us; the arithmetic is in the source",
    "FITTED": "chosen so that the model meets a published number",
    "RECALLED": "from memory, not verified",
}
_CAREFUL = {"FITTED", "INFER", "RECALLED"}

_STYLE = """
:root { --ink:#1d2430; --soft:#5a6473; --paper:#fff; --line:#d9dee5; --good:#0a7a55; --bad:#b3261e;
  --warn:#8a5a00; --warnpaper:#fff4dc; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa4b2; --paper:#14181f;
  --line:#343c48; --good:#4fc79a; --bad:#ff8a80; --warn:#ffcf70; --warnpaper:#3a2f14; } }
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
th, td { text-align:left; padding:5px 10px 5px 0; border-bottom:1px solid var(--line);
  vertical-align:top }
th { font-weight:600 } .num { text-align:right; white-space:nowrap }
.ratio { color:var(--soft); white-space:nowrap }
.best { color:var(--good); font-weight:600 } .ok { color:var(--good); font-weight:600 }
.failed { color:var(--bad); font-weight:700 } .mark { width:80px }
.legend { display:flex; flex-wrap:wrap; gap:4px 16px; color:var(--soft); font-size:13px }
.legend i { display:inline-block; width:11px; height:11px; border-radius:2px; margin-right:6px }
.tag { font-size:12px; padding:1px 7px; border-radius:9px; border:1px solid var(--line);
  white-space:nowrap }
.tag.careful { background:var(--warnpaper); color:var(--warn); border-color:var(--warn);
  font-weight:600 }
.pair { display:flex; flex-wrap:wrap; gap:16px } .wide { overflow-x:auto }
summary { cursor:pointer; font-weight:600 }
.warnings li { color:var(--warn) } a { color:inherit } td code { font-size:13px }
td:last-child { overflow-wrap:anywhere }
.dense { font-size:13px } .dense td, .dense th { padding-right:8px }
.jobs td, .jobs th { white-space:nowrap }
.meter { display:inline-block; width:110px; height:9px; border-radius:3px; background:var(--line);
  overflow:hidden }
.heat { width:auto; margin:4px 0 14px } .heat td, .heat th { padding:5px 14px }
.meter i { display:block; height:100%; background:#D55E00 } details { margin:6px 0 }
@media print { main { max-width:none; padding:0 } h2 { break-after:avoid }
  tr, svg, .legend { break-inside:avoid }
  .screen { display:none } .pair svg { width:calc(50% - 8px) }
  h2 + p, h2 + p + .legend { break-after:avoid }
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
    kinds: Mapping[str, Any],
    metrics: Numbers,
    comparison: Numbers,
    differences: Mapping[str, Sequence[Part]],
    expect: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
) -> str:
    """The page as HTML: one file, no script, no network.

    Every name is escaped: they come from the user's YAML. The sections in the middle are those of
    the `kinds` of work that the outcomes are of.
    """
    title = escaped(question or scenario)
    used = by_kind(outcomes)
    owners = owners_of(outcomes, kinds)
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{escaped(verdict)}</p>',
        f'<p class="soft">{escaped(scenario)}, podscope {escaped(version)}, seed {seed}, '
        f"fingerprint {escaped(fingerprint)}."
        f"{''.join(_links([kinds[kind] for kind in used]))}</p>",
        _warnings(warnings),
        _expectations(expect),
        _comparison(rows_of_all(kinds, outcomes), metrics, comparison),
        _differences(differences),
        *(section(mine) for kind, mine in used.items() for section in kinds[kind].sections),
        latency_section(owners),
        _assumptions(outcomes),
        _definitions([kinds[kind] for kind in used], metrics, comparison),
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


def _links(kinds: Sequence[Any]) -> Iterator[str]:
    pages = {title: file for kind in kinds for title, file, _ in kind.pages}
    for title, file in pages.items():
        yield f' <a class="screen" href="{file}">Open the {title}</a>'


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


def _differences(differences: Mapping[str, Sequence[Part]]) -> str:
    """What each variant has more or less of than the baseline, the largest parts first."""
    told = {}
    for name, parts in differences.items():
        least = SMALL * sum(abs(part.seconds) for part in parts)
        told[name] = [part for part in parts if abs(part.seconds) > least]
    lines = [
        f"<tr><td>{escaped(name) if not place else ''}</td><td>{escaped(part.what)}</td>"
        f"<td>{escaped(part.cause)}</td><td class=num>{'-' if part.seconds < 0 else '+'}"
        f"{seconds_text(abs(part.seconds))}</td></tr>"
        for name, parts in told.items()
        for place, part in enumerate(parts)
    ]
    if not lines:
        return ""
    return (
        '<h2>What the differences are made of</h2><p class="soft">Against the baseline, in the '
        "metric that the speed-up is of; parts below half a per cent are left out, result.json "
        f"has all.</p><table>{''.join(lines)}</table>"
    )


def _comparison(rows: Mapping[str, Metric], metrics: Numbers, comparison: Numbers) -> str:
    base = next(iter(metrics))
    head = "".join(
        f'<th class="num">{escaped(v)}</th>{"" if v == base else "<th></th>"}' for v in metrics
    )
    lines = []
    if len(metrics) > 1:
        winners = best(SPEEDUP, comparison)
        cells = "".join(_cells(SPEEDUP, v, comparison[v], {}, v == base, winners) for v in metrics)
        lines.append(f"<tr><th>{escaped(SPEEDUP.label)}</th>{cells}</tr>")
    for row in shown(rows, metrics):
        winners = best(row, metrics)
        cells = "".join(
            _cells(row, v, mine, comparison[v], v == base, winners) for v, mine in metrics.items()
        )
        tip = f'<td title="{escaped(row.of)}">{escaped(row.label)}</td>'
        lines.append(f"<tr>{tip}{cells}</tr>")
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
    row: Metric,
    variant: str,
    mine: Mapping[str, float],
    ratios: Mapping[str, float],
    is_base: bool,
    winners: set[str],
) -> str:
    good = " best" if variant in winners else ""
    value = f'<td class="num{good}">{escaped(cell(row, mine))}</td>'
    ratio = ratio_text(ratios.get(row.name))
    return value if is_base else f'{value}<td class="ratio">{ratio}</td>'


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
            f"<tr><td>{escaped(what)}{only}</td><td>{escaped(value)}</td><td>{mark}</td>"
            f"<td>{escaped(source)}</td></tr>"
        )
    used = dict.fromkeys(tag for _, _, tag, _ in held)
    key = "; ".join(f"{escaped(tag)}: {escaped(_TAGS[tag])}" for tag in used if tag in _TAGS)
    head = "<tr><th>What</th><th>Value</th><th>Kind</th><th>Source</th></tr>"
    grid = f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'
    return f'<h2>What this rests on</h2>{grid}<p class="soft">{key}.</p>'


def _definitions(kinds: Sequence[Any], metrics: Numbers, comparison: Numbers) -> str:
    """The definitions of the metrics that some variant has, and of those of its parts."""
    used = {name for each in (metrics, comparison) for mine in each.values() for name in mine}
    rows = {SPEEDUP.name: SPEEDUP}
    parts: dict[str, Metric] = {}
    for kind in kinds:
        rows |= rows_of(kind)
        parts |= part_rows_of(kind)
    found = {name: row.of for name, row in rows.items() if name in used}
    found |= {name: row.of for name, row in parts.items() if name not in found}
    lines = "".join(
        f"<tr><td><code>{name}</code></td><td>{escaped(text)}</td></tr>"
        for name, text in found.items()
    )
    return (
        "<h2>Definitions</h2><details><summary>How each metric is "
        f"computed</summary><table>{lines}</table></details>"
    )
