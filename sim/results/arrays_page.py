"""Networks on an array as a person reads them: lines under the table on the terminal, sections of
the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.facts.array import ArrayRun
from sim.facts.outcome import Outcome
from sim.results import charts
from sim.results.metrics import pretty, seconds_text
from sim.results.palette import escaped
from sim.results.table import label
from sim.results.tenants import tenants
from sim.results.tenants_page import part_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = (
    "inference_s",
    "alone_s",
    "slowdown",
    "slowdown_p99",
    "requests",
    "requests_per_s",
    "e2e_mean_s",
    "e2e_p99_s",
    "queue_p99_s",
    "effective_ops_per_s",
    "effective_ops_per_s_at_power",
    "array_utilisation",
)
_ON_TERMINAL = (
    "inference_s",
    "slowdown",
    "e2e_mean_s",
    "e2e_p99_s",
    "effective_ops_per_s_at_power",
    "array_utilisation",
)
_OF_GRID = (
    "best_rows",
    "best_cols",
    "best_pods",
    "best_ops_per_joule",
    "ops_per_joule",
    "share_of_best",
)
PARTS = {
    "macs": ("all cells multiply", "#0072B2"),
    "small_tiles": ("cells that a small tile leaves empty", "#56B4E9"),
    "waiting": ("pods wait in rounds", "#E69F00"),
    "idle": ("pods without a tile", "#C9CDD3"),
    "memory": ("all wait for memory", "#D55E00"),
    "ends": ("warm-up and drain", "#8C7B6B"),
}
_MOST_BARS = 40


def networks_lines(outcomes: Mapping[str, Outcome]) -> list[RenderableType]:
    """A rich table with a row for each variant and network, or family; nothing where there is no
    array."""
    noun = "family" if any(outcome.grid for outcome in outcomes.values()) else "network"
    return part_lines(_found(outcomes), noun, (*_ON_TERMINAL, *_OF_GRID))


def networks_section(outcomes: Mapping[str, Outcome]) -> str:
    """What each network got, and where the time of each schedule went."""
    on_arrays = {variant: outcome for variant, outcome in outcomes.items() if outcome.array}
    if not on_arrays:
        return ""
    power = " and ".join(
        sorted({f"{o.array.power_w:,.4g} W" for o in on_arrays.values() if o.array})
    )
    text = (
        "Throughput is of two operations a MAC; scaled to the power: x "
        + escaped(power)
        + " / peak power."
    )
    if any(outcome.sharing != "alone" for outcome in on_arrays.values()):
        text += " Slowdown: time until the answer over the same with the whole array to itself."
    return (
        f'<h2>Networks</h2><p class="soft">{text}</p>{_table(on_arrays, _SHOWN, "Network")}'
        f"<h2>Where the time of the array goes</h2>{_bars(on_arrays)}"
    )


def grid_section(outcomes: Mapping[str, Outcome]) -> str:
    """The best size of an array for each family, and what the one at hand is beside it."""
    grids = {variant: outcome for variant, outcome in outcomes.items() if outcome.grid}
    if not grids:
        return ""
    text = (
        "Harmonic means, by the closed form that has no schedule: all tiles that fit run at once."
    )
    return f'<h2>Families</h2><p class="soft">{text}</p>{_table(grids, _OF_GRID, "Family")}'


def _found(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: tenants(outcome)
        for name, outcome in outcomes.items()
        if outcome.array or outcome.grid
    }


def _columns(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], wanted: tuple[str, ...]
) -> list[str]:
    return [
        name
        for name in wanted
        if any(name in mine for each in found.values() for mine in each.values())
    ]


def _table(outcomes: Mapping[str, Outcome], wanted: tuple[str, ...], noun: str) -> str:
    found = _found(outcomes)
    shown = _columns(found, wanted)
    head = "".join(f"<th class=num>{escaped(label(name))}</th>" for name in shown)
    lines = []
    for variant, each in found.items():
        array = outcomes[variant].array
        what = (
            {network.name: f"{network.what}, {network.pods} pods" for network in array.networks}
            if array
            else {}
        )
        for name, mine in each.items():
            cells = "".join(
                f"<td class=num>{escaped(pretty(key, mine[key])) if key in mine else ''}</td>"
                for key in shown
            )
            tip = f' title="{escaped(what[name])}"' if name in what else ""
            lines.append(
                f"<tr><td>{escaped(variant)}</td><td{tip}>{escaped(name)}</td>{cells}</tr>"
            )
    return (
        '<div class="wide"><table class="dense '
        f'jobs"><tr><th>Variant</th><th>{noun}</th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )


def _bars(outcomes: Mapping[str, Outcome]) -> str:
    runs = {
        title: run
        for variant, outcome in outcomes.items()
        for title, run in titled(variant, outcome)
    }
    bars = {
        title: [
            (PARTS[part][0], PARTS[part][1], max(seconds, 0.0))
            for part, seconds in run.parts_s.items()
        ]
        for title, run in list(runs.items())[:_MOST_BARS]
    }
    texts = {
        title: seconds_text(run.seconds) + (f", {run.times:,} times" if run.times > 1 else "")
        for title, run in runs.items()
    }
    more = f" The first {_MOST_BARS} of {len(runs)} schedules." if len(runs) > _MOST_BARS else ""
    figure = charts.stacked_bars(bars, "Time of each schedule by what the pods do", texts)
    return f'<p class="soft">Time of each schedule, mean over its pods.{more}</p>{figure}'


def titled(variant: str, outcome: Outcome) -> list[tuple[str, ArrayRun]]:
    """The schedules of a variant with a title each: the variant and, if it has several, their
    networks."""
    runs = outcome.array.runs if outcome.array else []
    return [
        (f"{variant} · {' + '.join(run.names)}" if len(runs) > 1 else variant, run) for run in runs
    ]
