"""Edges and a cloud as a person reads them: the verdict, and sections of the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.training import TrainingRecord
from sim.kinds.training.facts import CUTS, wall_parts
from sim.kinds.training.methods import METHODS
from sim.results import charts
from sim.results.difference import difference, told
from sim.results.metric import seconds_text
from sim.results.palette import escaped, variant_colours
from sim.results.table import Numbers
from sim.text.units import show

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D3B", "#7F3FBF")
_FEW = 1.005


def verdict(outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers) -> str:
    """What the quickest variant gains over the first, of what the difference is made, and where its
    cut turns into a loss."""
    names = list(outcomes)
    base, *others = names
    took = {name: metrics[name]["makespan_s"] for name in names}
    if not others:
        record = outcomes[base].part
        return f"{base} takes {seconds_text(took[base])}{_at(record)}.{_crossing(record)}"
    best = min(others, key=lambda name: took[name])
    ratio = took[best] / took[base]
    why = told(difference(wall_parts(outcomes[base]), wall_parts(outcomes[best])))
    record = outcomes[best].part
    if abs(ratio - 1) < _FEW - 1:
        return f"{best} takes as long as {base}, within half a percent.{_crossing(record)}"
    if ratio > 1:
        more = f"{100 * (ratio - 1):.0f} %"
        return f"no variant is quicker than {base}: {best} takes {more} more: {why}."
    return (
        f"{best}{_at(record)} takes {100 * (1 - ratio):.0f} % less time than {base}: {why}."
        f"{_crossing(record)}"
    )


def _at(record: TrainingRecord) -> str:
    if not record.cut:
        return ""
    return f", cut after {record.cut}{' (chosen)' if record.chosen else ''},"


def crossing(record: TrainingRecord, cut: str) -> float | None:
    """The rate up, bytes/s, at which a cut stops to pay against the cloud alone, on a straight line
    between the rates that were looked at; None where it pays everywhere or nowhere."""
    if cut not in record.curves or "cloud only" not in record.curves:
        return None
    rates, mine = record.curves[cut]
    gain = np.log(record.curves["cloud only"][1] / mine)
    turns = np.flatnonzero((gain[:-1] > 0) & (gain[1:] <= 0))
    if not len(turns):
        return None
    i = int(turns[-1])
    share = gain[i] / (gain[i] - gain[i + 1])
    return float(np.exp(np.log(rates[i]) + share * np.log(rates[i + 1] / rates[i])))


def _crossing(record: TrainingRecord) -> str:
    found = crossing(record, record.cut) if METHODS[record.method].at == "cut" else None
    if found is None:
        return ""
    return f" With one edge, {record.cut} pays below {show(found * 8, 'b/s')} up."


def cuts_section(outcomes: Mapping[str, Outcome]) -> str:
    """The ranking of cuts, and their times over the rate of the way up."""
    parts: dict[str, list[str]] = {}  # variants by what is said of them
    for variant, outcome in outcomes.items():
        if outcome.part.cuts:
            parts.setdefault(_ranking(outcome.part), []).append(variant)
    if not parts:
        return ""
    return (
        '<h2>Where to cut</h2><p class="soft">One synchronous batch of every edge, the quickest '
        "first. The figure is of one edge alone on the first group's channel, with another rate "
        "up; a cut pays below the rate at which it meets the cloud alone.</p>"
        + "".join(f"<h3>{escaped(', '.join(who))}</h3>{said}" for said, who in parts.items())
    )


def _ranking(record: TrainingRecord) -> str:
    """A table of cuts, and the figure of their times."""
    rows = [row for row in CUTS.values() if any(row.value(cut) is not None for cut in record.cuts)]
    turns = {cut.name: crossing(record, cut.name) for cut in record.cuts}
    head = "".join(f"<th class=num>{escaped(row.label)}</th>" for row in rows)
    head += "<th class=num>pays below</th>" if any(turns.values()) else ""
    head += "<th>cannot be</th>" if any(cut.why_not for cut in record.cuts) else ""
    lines = ""
    for cut in sorted(record.cuts, key=lambda cut: (bool(cut.why_not), cut.batch_s)):
        values = [row.value(cut) for row in rows]
        cells = [row.text(v) if v is not None else "" for row, v in zip(rows, values)]
        if any(turns.values()):
            turn = turns[cut.name]
            cells.append(show(turn * 8, "b/s") if turn else "")
        mark = ' <span class="tag">used</span>' if cut.name == record.cut else ""
        lines += f"<tr><td>{escaped(cut.name)}{mark}</td>"
        lines += "".join(f"<td class=num>{escaped(cell)}</td>" for cell in cells)
        lines += f"<td>{escaped(cut.why_not)}</td></tr>" if cut.why_not else "</tr>"
    return (
        f'<div class="wide"><table class="dense jobs"><tr><th>Cut after</th>{head}</tr>{lines}'
        f"</table></div>{_curves(record)}"
    )


def _curves(record: TrainingRecord) -> str:
    if not record.curves:
        return ""
    shown = ["cloud only"] if "cloud only" in record.curves else []
    shown += [cut.name for cut in sorted(record.cuts, key=lambda cut: cut.batch_s)][:7]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(shown)}
    lines = {
        name: charts.Line(colours[name], record.curves[name][0] * 8 / 1e6, record.curves[name][1])
        for name in shown
    }
    figure = charts.curves(
        lines, "Time of a batch over the rate up", "s", "Mb/s", at=record.up_rate * 8 / 1e6
    )
    return charts.legend([(name, colours[name]) for name in shown]) + figure


def traffic_section(outcomes: Mapping[str, Outcome]) -> str:
    """Bytes over time, up and down, as areas."""
    colours = variant_colours(outcomes)
    figures = []
    longest = max(outcome.totals.seconds for outcome in outcomes.values())
    unit, scale = ("ms", 1e3) if longest < 2 else ("s", 1.0) if longest < 7200 else ("h", 1 / 3600)
    for title, way in (("Up", "up"), ("Down", "down")):
        lines = {}
        for name, outcome in outcomes.items():
            played = outcome.part.played
            if getattr(played, f"{way}_bytes"):
                edges, rates = getattr(played, way).rates(outcome.totals.seconds)
                lines[name] = charts.Line(colours[name], edges, rates * 8 / 1e6)
        if lines:
            figures.append(charts.time_series(lines, title, "Mb/s", unit, scale, area=True))
    if not figures:
        return ""
    names = charts.legend([(name, colours[name]) for name in outcomes])
    return (
        '<h2>Traffic</h2><p class="soft">What all edges send and receive together, means over '
        f'equal stretches.</p>{names}<div class="pair">{"".join(figures)}</div>'
    )


def edges_section(outcomes: Mapping[str, Outcome]) -> str:
    """A row for each group of edges."""
    lines = ""
    for variant, outcome in outcomes.items():
        edges = outcome.part.played.edges
        groups = np.array(edges.group)
        for group in dict.fromkeys(edges.group):
            mine = groups == group
            cells = [
                f"{mine.sum():,}",
                seconds_text(float(edges.end_s[mine].max())),
                seconds_text(float(edges.busy_s[mine].mean())),
                seconds_text(float(edges.sending_s[mine].mean())),
                f"{edges.joules[mine].mean():.3g} J",
                *(f"{getattr(edges, of)[mine].sum():,.0f}" for of in ("done", "alone", "late")),
                f"{edges.absent[mine].sum():,.0f}",
            ]
            row = "".join(f"<td class=num>{escaped(cell)}</td>" for cell in cells)
            lines += f"<tr><td>{escaped(variant)}</td><td>{escaped(group)}</td>{row}</tr>"
    heads = ("Edges", "Last ends", "Computing", "Sending", "Energy", "Done", "Alone", "Late")
    head = "".join(f"<th class=num>{name}</th>" for name in (*heads, "Absent"))
    return (
        '<h2>Edges</h2><p class="soft">By group: when its last edge was done, and means of its '
        "edges; batches and rounds are sums. edges.csv has a row an edge.</p>"
        f'<div class="wide"><table class="dense jobs"><tr><th>Variant</th><th>Group</th>{head}</tr>'
        f"{lines}</table></div>"
    )
