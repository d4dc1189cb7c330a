"""Tenants of a pod as a person reads them: the lines under the table on the terminal, and a section
of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sim.facts.outcome import Outcome
from sim.results.metrics import pretty
from sim.results.palette import escaped
from sim.results.table import label
from sim.results.tenants import tenants

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = (
    "slowdown",
    "slowdown_p99",
    "busy_share",
    "requests",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "e2e_p99_s",
    "output_tokens_per_s",
    "slo_attainment",
    "goodput_per_s",
)
_ON_TERMINAL = (
    "slowdown",
    "busy_share",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "goodput_per_s",
)
_HOT = 3.0  # a slowdown from which on a cell is as dark as it gets


def tenants_lines(outcomes: Mapping[str, Outcome]) -> list[RenderableType]:
    """A rich table with a row for each variant and tenant; nothing where no pod is shared."""
    return part_lines(
        {v: tenants(o) for v, o in outcomes.items() if o.tenants}, "tenant", _ON_TERMINAL
    )


def part_lines(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], noun: str, wanted: Sequence[str]
) -> list[RenderableType]:
    """The same of whatever variants are made of: those of the wanted metrics that any part has."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not found:
        return []
    shown = [
        name
        for name in wanted
        if any(name in mine for each in found.values() for mine in each.values())
    ]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    grid.add_column("")
    grid.add_column(noun)
    for name in shown:
        grid.add_column(label(name), justify="right")
    for variant, each in found.items():
        for number, (part, mine) in enumerate(each.items()):
            cells = [pretty(name, mine[name]) if name in mine else "" for name in shown]
            grid.add_row(Text("" if number else variant), Text(part), *map(Text, cells))
    return [grid]


def tenants_section(outcomes: Mapping[str, Outcome]) -> str:
    """What each tenant got, and what each costs the others."""
    shared = {variant: outcome for variant, outcome in outcomes.items() if outcome.tenants}
    if not shared:
        return ""
    found = {variant: tenants(outcome) for variant, outcome in shared.items()}
    shown = [
        name
        for name in _SHOWN
        if any(name in mine for each in found.values() for mine in each.values())
    ]
    head = "".join(f"<th class=num>{escaped(label(name))}</th>" for name in shown)
    lines = [
        _row(shared[variant], variant, tenant, mine, shown)
        for variant, each in found.items()
        for tenant, mine in each.items()
    ]
    grid = (
        '<div class="wide"><table class="dense '
        f'jobs"><tr><th>Variant</th><th>Tenant</th><th>Chips</th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )
    heat = "".join(_matrix(variant, each) for variant, each in found.items() if len(each) > 1)
    return (
        '<h2>Tenants</h2><p class="soft">Slowdown: mean over a tenant\'s requests of the '
        "end-to-end latency over the "
        f"same with its chips to itself.</p>{grid}{heat}"
    )


def _row(
    outcome: Outcome, variant: str, tenant: str, mine: Mapping[str, float], shown: list[str]
) -> str:
    record = next(each for each in outcome.tenants if each.name == tenant)
    how = outcome.sharing.replace("_", " ").replace("co ", "co-")
    chips = f"{record.chips} {'of its own' if outcome.sharing == 'partitioned' else how}"
    if outcome.sharing != "partitioned":
        chips += f", weight {record.weight:g}" + (
            f", priority {record.priority}" if record.priority else ""
        )
    cells = "".join(
        f"<td class=num>{escaped(pretty(name, mine[name])) if name in mine else ''}</td>"
        for name in shown
    )
    return f"<tr><td>{escaped(variant)}</td><td>{escaped(tenant)}</td><td>{escaped(chips)}</td>{cells}</tr>"


def _matrix(variant: str, each: Mapping[str, Mapping[str, float]]) -> str:
    """Slowdown of the tenant of a row beside that of a column alone, the darker the more."""
    known = any(f"slowdown_beside_{other}" in mine for mine in each.values() for other in each)
    if not known:
        return ""
    head = "".join(f"<th class=num>{escaped(other)}</th>" for other in each)
    lines = ""
    for tenant, mine in each.items():
        cells = "".join(
            _cell(1.0 if other == tenant else mine.get(f"slowdown_beside_{other}"))
            for other in each
        )
        all_of_them = _cell(mine.get("slowdown")) if len(each) > 2 else ""
        lines += f"<tr><th>{escaped(tenant)}</th>{cells}{all_of_them}</tr>"
    last = "<th class=num>all</th>" if len(each) > 2 else ""
    return (
        f'<p class="soft">{escaped(variant)}: how much slower the tenant of a row is with only '
        "that of a column beside "
        f'it.</p><table class="heat"><tr><th></th>{head}{last}</tr>{lines}</table>'
    )


def _cell(slowdown: float | None) -> str:
    if slowdown is None:
        return "<td></td>"
    heat = min(max((slowdown - 1) / (_HOT - 1), 0.0), 1.0)
    return f'<td class=num style="background:rgba(213,94,0,{0.75 * heat:.2f})">{slowdown:.2f}x</td>'
