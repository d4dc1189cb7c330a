"""The one page of a sweep: the best point and what it changes, the front, and what does how
much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sim.explore import figures
from sim.explore.identity import program
from sim.explore.questions import flat
from sim.explore.summary import shortened, text_of
from sim.results.charts import legend
from sim.results.page import page
from sim.results.palette import escaped

_ROWS = 20  # of a table
_MAPS = 6  # heat maps
_ERRORS = 12


def report(result: Any) -> str:
    """The page of a SweepResult as HTML; names are escaped, for they come from the user's YAML."""
    plan, found = result.plan, result.summary
    title = escaped(plan.scenario.question or plan.scenario.name)
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{escaped(result.verdict)}</p>',
        f'<p class="soft">{escaped(plan.scenario.name)}, {result.tally.ended:,} points over '
        f"{len(plan.space.keys)} keys, {escaped(program())}, seed {plan.scenario.seed}.</p>",
        _warnings(result.warnings),
        _change(result),
        _table(result),
        _clouds(result),
        _effects(result),
        _errors(result),
        _questions(result),
    ]
    if found.best is None and plan.questions.objectives:
        body.insert(3, "<p>No point is feasible: below are the reasons.</p>")
    return page(title, body)


def short(result: Any) -> str:
    """What a notebook shows."""
    return f"<p><b>{escaped(result.verdict)}</b></p>{_grid(*result.shown(_ROWS))}"


def _warnings(warnings: Sequence[str]) -> str:
    lines = "".join(f"<li>{escaped(text)}</li>" for text in warnings)
    return f'<h2>Warnings</h2><ul class="warnings">{lines}</ul>' if lines else ""


def _change(result: Any) -> str:
    """What the best point changes of the scenario as it stands, and what that does."""
    best, baseline = result.summary.best, result.baseline
    if best is None:
        return ""
    assert best.row.result is not None
    written = {key: text_of(value) for key, value in result.as_written.items()}
    keys = "".join(
        f"<tr><td><code>{escaped(key)}</code></td><td class=num>"
        f"{escaped(written.get(key, 'not set'))}</td>"
        f"<td class=num>{escaped(text_of(value))}</td></tr>"
        for key, value in best.row.point.items()
    )
    head = "<tr><th>Key</th><th class=num>as written</th><th class=num>best</th></tr>"
    before = flat(baseline) if baseline is not None else {}
    after, questions = best.row.result.values, result.plan.questions
    asked = questions.answers(after, best.row.point)
    as_it_is = questions.answers(before, result.as_written)
    top = "".join(_number_line(name, as_it_is[name], asked[name]) for name in asked)
    rest = "".join(_number_line(name, before.get(name), after[name]) for name in sorted(after))
    row = (
        "<tr><th>Number</th><th class=num>as written</th><th class=num>best</th>"
        "<th class=num>ratio</th></tr>"
    )
    numbers = (
        f"<table>{row}{top}</table><details><summary>All metrics</summary>"
        f"<table>{row}{rest}</table></details>"
    )
    if baseline is None:
        numbers = f"<p>The scenario as written cannot be run.</p>{numbers}"
    links = " and ".join(
        f'<a href="{name}/report.html">{what}</a>'
        for name, what in (("best", "the best point"), ("baseline", "the scenario as written"))
        if (result.folder / name / "report.html").is_file()
    )
    linked = f'<p class="screen">Run folders: {links}.</p>' if links else ""
    return (
        f"<h2>The best point against the scenario as written</h2><table>{head}{keys}</table>"
        f"{numbers}{linked}"
    )


def _number_line(name: str, before: float | None, after: float | None) -> str:
    both = before is not None and after is not None and before != 0
    ratio = f"x{after / before:.3g}" if both else ""  # type: ignore[operator]
    cells = "".join(
        f"<td class=num>{'' if value is None else f'{value:.6g}'}</td>" for value in (before, after)
    )
    return f"<tr><td><code>{escaped(name)}</code></td>{cells}<td class=num>{ratio}</td></tr>"


def _grid(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th class=num>{escaped(name)}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td class=num>{escaped(cell)}</td>" for cell in cells) + "</tr>"
        for cells in lines
    )
    return f'<div class="wide"><table class="dense"><tr>{head}</tr>{rows}</table></div>'


def _table(result: Any) -> str:
    names, lines = result.shown(_ROWS)
    objectives = result.plan.questions.objectives
    if not objectives:
        title = "The first points"
    elif len(objectives) > 1:
        title = f"The front: {len(result.summary.front):,} points that no other betters in all"
    else:
        title = "The best points"
    rest = " points.csv has all, with every metric."
    return f'<h2>{title}</h2>{_grid(names, lines)}<p class="soft">{rest}</p>'


def _clouds(result: Any) -> str:
    found, objectives = result.summary, result.plan.questions.objectives
    if found.best is None or not found.drawn:
        return ""
    names, signs = [one.text for one in objectives], [one.sign for one in objectives]
    few = len(found.drawn) < found.feasible
    some = f" {len(found.drawn):,} of {found.feasible:,} feasible points are drawn." if few else ""
    brief = shortened(result.plan.space.keys)
    front = ""
    if len(objectives) > 1:
        parts = [("a point", "#9AA4B2"), ("the front", "#0072B2"), ("the best", "#D55E00")]
        cloud = figures.cloud(found.drawn, found.front, found.best, names, signs)
        wants = ", ".join(f"{one.way} {one.text}" for one in objectives)
        more = " The first two of them are drawn." if len(objectives) > 2 else ""
        front = (
            f'<h2>Pareto front</h2><p class="soft">{escaped(wants)}.{more}{some}</p>'
            f"{legend(parts)}{cloud}"
        )
    lines = figures.parallel(
        found.drawn, found.best, [effect.levels[0] for effect in found.effects], names, signs, brief
    )
    note = (
        f"A line a point, from blue (the best in {escaped(names[0])}) to yellow; the best point is "
        f"drawn in orange.{some}"
    )
    return f'{front}<h2>All points</h2><p class="soft">{note}</p>{lines}'


def _effects(result: Any) -> str:
    found, objectives = result.summary, result.plan.questions.objectives
    if not found.effects:
        return ""
    first, brief = objectives[0], shortened(result.plan.space.keys)
    ordered = sorted(found.effects, key=lambda effect: -effect.share)
    drawn = "".join(figures.main_effect(effect, first.text, brief) for effect in ordered)
    left = 1 - math.fsum(effect.share for effect in [*found.effects, *found.interactions])
    complete = result.plan.space.draws is None and result.plan.search is None
    told = (
        f" Keys by themselves and in pairs explain {100 * (1 - left):.0f} % of it."
        if complete and found.feasible == result.tally.ended
        else " Points are not every combination, so that shares of different keys overlap."
    )
    maps = "".join(
        figures.heat_map(effect, first.text, first.sign, brief)
        for effect in found.interactions[:_MAPS]
    )
    key = legend([("mean of all points", "#9AA4B2"), ("best of them", "#0072B2")])
    pairs = (
        f'<h2>Pairs of keys</h2><p class="soft">The best {escaped(first.text)} of the points in '
        f"each cell; blue is good. Those that interact the most come first.</p>{maps}"
        if maps
        else ""
    )
    return (
        f'<h2>What each key does</h2><p class="soft">{escaped(first.text)} over the values of each '
        f"key, the others being whatever they are.{told}</p>{key}"
        f'<div class="pair">{drawn}</div>{pairs}'
    )


def _errors(result: Any) -> str:
    errors = result.summary.errors.most_common(_ERRORS)
    lines = "".join(
        f"<tr><td class=num>{count:,}</td><td>{escaped(text)}</td></tr>" for text, count in errors
    )
    more = len(result.summary.errors) - len(errors)
    rest = f"<p>{more:,} more in points.csv.</p>" if more > 0 else ""
    return f"<h2>Points without an answer</h2><table>{lines}</table>{rest}" if lines else ""


def _questions(result: Any) -> str:
    """What was asked, and how the points were chosen."""
    plan = result.plan
    asked: list[tuple[str, str]] = [
        *((one.way, one.text) for one in plan.questions.objectives),
        *(("constraint", bound.text) for bound in plan.questions.constraints),
        *((name, expression.text) for name, expression in plan.questions.derived.items()),
    ]
    lines = "".join(
        f"<tr><td>{escaped(what)}</td><td><code>{escaped(text)}</code></td></tr>"
        for what, text in asked
    )
    if plan.search:
        how = f"Optuna's {plan.search.sampler} sampler chose them, seed {plan.search.seed}"
    elif plan.space.draws is not None:
        how = f"drawn at random, seed {plan.space.seed}"
    else:
        how = "every combination"
    all_s, own_s = result.summary.seconds, result.summary.own_s
    return (
        f"<h2>How it was made</h2><p>Points: {how}. Workers took {all_s:,.3g} s, of which "
        f"{own_s:,.3g} s were simulation; timelines were not recorded.</p>"
        f"<table>{lines}</table>"
    )
