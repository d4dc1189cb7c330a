"""The one page an architect reads: question, answer, comparison, where the time goes, and what all
of it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.results.difference import SMALL, Part
from sim.results.latency import latency_section
from sim.results.metric import Metric, seconds_text
from sim.results.metrics import SPEEDUP, by_kind, part_rows_of, rows_of, rows_of_all
from sim.results.page import page
from sim.results.palette import escaped
from sim.results.requests import owners_of
from sim.results.table import Numbers, best, cell, ratio_text, shown
from sim.text.units import show_field

_TAGS = {
    "READ": "read in a public source",
    "CHECKED": "re-derived here and equal to the source",
    "INFER": "derived by us; the arithmetic is in the source",
    "FITTED": "chosen so that the model meets a published number",
    "RECALLED": "from memory, not verified",
    "OWN": "the word of whoever wrote the file",
}
_CAREFUL = {"FITTED", "INFER", "RECALLED", "OWN"}


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
    sure: str = "",
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
        sure,
        _comparison(rows_of_all(kinds, outcomes), metrics, comparison),
        _differences(differences),
        *(section(mine) for kind, mine in used.items() for section in kinds[kind].sections),
        latency_section(owners),
        _assumptions(outcomes),
        _definitions([kinds[kind] for kind in used], metrics, comparison),
    ]
    return page(title, body)


def short(
    verdict: str,
    outcomes: Mapping[str, Outcome],
    kinds: Mapping[str, Any],
    metrics: Numbers,
    comparison: Numbers,
) -> str:
    """What a notebook shows: the answer and the comparison."""
    rows = rows_of_all(kinds, outcomes)
    return f"<p><b>{escaped(verdict)}</b></p>{_comparison(rows, metrics, comparison)}"


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
    held: dict[Assumption, list[str]] = {}
    for name, outcome in outcomes.items():
        for row in dict.fromkeys(outcome.assumptions):
            held.setdefault(row, []).append(name)
    if not held:
        return ""
    lines = []
    for row, names in held.items():
        only = (
            ""
            if len(names) == len(outcomes)
            else f" <small>({escaped(', '.join(names))} only)</small>"
        )
        careful = " careful" if row.tag in _CAREFUL else ""
        mark = (
            f'<span class="tag{careful}" '
            f'title="{escaped(_TAGS.get(row.tag, ""))}">{escaped(row.tag)}</span>'
        )
        lines.append(
            f"<tr><td>{escaped(row.what)}{only}</td><td>{escaped(row.value)}</td><td>{mark}</td>"
            f"{_known(row)}<td>{escaped(row.source)}</td></tr>"
        )
    used = dict.fromkeys(row.tag for row in held)
    key = "; ".join(f"{escaped(tag)}: {escaped(_TAGS[tag])}" for tag in used if tag in _TAGS)
    head = "<tr><th>What</th><th>Value</th><th>Kind</th><th>Known to</th><th>Source</th></tr>"
    grid = f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'
    return f'<h2>What this rests on</h2>{grid}<p class="soft">{key}.</p>'


def _known(row: Assumption) -> str:
    """The cell of a constant's range: where from is its tip."""
    known = row.range
    if known is None or known.low == known.high:
        return "<td></td>"
    ends = " to ".join(show_field(row.what, end) for end in (known.low, known.high))
    return f'<td title="{escaped(known.source)}">{escaped(ends)}</td>'


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
