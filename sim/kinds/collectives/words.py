"""Jobs and links as a person reads them: a table on the terminal, sections of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.facts.jobs import JobRecord
from sim.facts.outcome import Outcome
from sim.kinds.collectives.facts import busiest, jobs, share
from sim.results import charts
from sim.results.metric import seconds_text
from sim.results.metrics import SPEEDUP
from sim.results.palette import EXPOSED, escaped, words
from sim.results.table import Numbers, grid_of
from sim.text.units import show

if TYPE_CHECKING:
    from rich.console import RenderableType

_ACROSS = 3  # jobs that stand side by side; more stand one below the other
_LINKS_SHOWN = 12
_ALONE = "#0072B2"


def jobs_table(
    outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers
) -> RenderableType:
    """A row a variant: wall time, each job's mean and slow-down, the fullest link."""
    from rich.text import Text

    names = list(
        dict.fromkeys(job.name for outcome in outcomes.values() for job in outcome.part.jobs)
    )
    wide = len(names) <= _ACROSS
    grid = grid_of()
    grid.add_column("")
    for title in ("wall time", *(["speed-up"] if len(outcomes) > 1 else [])):
        grid.add_column(title, justify="right")
    for title in (
        [part for job in names for part in (job, "slow-down")]
        if wide
        else ["job", "mean", "slow-down"]
    ):
        grid.add_column(Text(title), justify="left" if title == "job" else "right")
    grid.add_column("busiest link", overflow="fold")
    for variant, outcome in outcomes.items():
        mine, found = metrics[variant], jobs(outcome)
        cells = [Text(variant), Text(seconds_text(mine["makespan_s"]))]
        if len(outcomes) > 1:
            cells.append(Text(SPEEDUP.text(comparison[variant].get("speedup", 1.0)), style="bold"))
        rows = (
            [[cell for job in names for cell in _cells(found.get(job, {}))]]
            if wide
            else [[job, *_cells(found[job])] for job in found]
        )
        for number, row in enumerate(rows):
            head = cells if not number else [Text("")] * len(cells)
            grid.add_row(*head, *map(Text, row), Text(busiest(outcome) if not number else ""))
    return grid


def _cells(job: Mapping[str, float]) -> list[str]:
    if "mean_s" not in job:
        return ["", ""]
    return [seconds_text(job["mean_s"]), _times(job["slowdown"])]


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 1000 else f"{ratio:,.0f}x"


def jobs_section(outcomes: Mapping[str, Outcome]) -> str:
    """What each job's collectives took, beside what one takes alone."""
    bars: dict[str, list[tuple[str, str, float]]] = {}
    texts, lines = {}, []
    for variant, outcome in outcomes.items():
        numbers = jobs(outcome)
        for job in outcome.part.jobs:
            mine = numbers[job.name]
            lines.append(_job_row(variant, job, mine))
            if "mean_s" in mine:
                name = variant if len(outcome.part.jobs) == 1 else f"{variant} · {job.name}"
                more_s = max(mine["mean_s"] - job.idle_s, 0.0)
                alone_s = min(mine["mean_s"], job.idle_s)
                bars[name] = [
                    ("alone on the healthy pod", _ALONE, alone_s),
                    ("more than that", EXPOSED, more_s),
                ]
                texts[name] = f"{seconds_text(mine['mean_s'])}, {_times(mine['slowdown'])}"
    figure = charts.stacked_bars(bars, "Mean time of a collective, by variant and job", texts)
    heads = (
        "Variant",
        "Job",
        "Collective",
        "Algorithm",
        "Rounds",
        "Chips",
        "Bytes",
        "Times",
        "Mean",
        "Alone",
        "Slow-down",
        "Bus bandwidth",
    )
    head = "".join(
        f"<th{' class=num' if i > 3 else ''}>{name}</th>" for i, name in enumerate(heads)
    )
    return (
        '<h2>Jobs</h2><p class="soft">Mean time of one collective: what it takes with the '
        f"healthy pod to itself, and what faults, stragglers and other jobs add.</p>{figure}"
        f'<div class="wide"><table class="dense jobs"><tr>{head}</tr>{"".join(lines)}</table></div>'
        '<p class="soft">Alone: the closed form where all ranks go in step (=), else one '
        "collective played (~).</p>"
    )


def _job_row(variant: str, job: JobRecord, mine: Mapping[str, float]) -> str:
    name = f"{job.name} (background)" if job.background else job.name
    texts = [variant, name, words(job.collective), job.algorithm.replace("_", " ")]
    bus = mine.get("bus_bandwidth_bytes_per_s")
    numbers = [
        f"{job.rounds:,}",
        f"{job.ranks:,}",
        show(job.nbytes, "B"),
        f"{len(job.instances):,}",
        seconds_text(mine["mean_s"]) if "mean_s" in mine else "",
        f"{'=' if job.exact else '~'} {seconds_text(job.idle_s)}",
        _times(mine["slowdown"]) if "slowdown" in mine else "",
        show(bus, "B/s") if bus else "",
    ]
    left = "".join(f"<td>{escaped(text)}</td>" for text in texts)
    return f"<tr>{left}{''.join(f'<td class=num>{escaped(text)}</td>' for text in numbers)}</tr>"


def links_section(outcomes: Mapping[str, Outcome]) -> str:
    """The fullest links of each variant: the first is what a faster one would have to be."""
    parts: list[str] = []
    for variant, outcome in outcomes.items():
        wall_s, lines = outcome.totals.seconds, []
        if not outcome.part.links or not wall_s:
            continue
        top = share(outcome.part.links[0], wall_s)
        for link in outcome.part.links[:_LINKS_SHOWN]:
            used, busy = share(link, wall_s), link.busy_s / wall_s
            mark = ' <span class="tag">bottleneck</span>' if used > top * (1 - 1e-6) else ""
            meter = f'<i class="meter"><i style="width:{100 * min(used, 1.0):.1f}%"></i></i>'
            lines.append(
                f"<tr><td>{escaped(link.name)}{mark}</td><td "
                f"class=num>{escaped(show(link.bytes_per_s, 'B/s'))}</td>"
                f"<td class=num>{escaped(show(link.moved_bytes, 'B'))}</td><td>{meter}</td>"
                f"<td class=num>{100 * used:.1f} %</td><td class=num>{100 * busy:.1f} %</td>"
                f"<td class=num>{link.most_flows:,}</td></tr>"
            )
        more = len(outcome.part.links) - _LINKS_SHOWN
        rest = (
            f'<p class="soft">{more:,} more that carried anything are in links.csv.</p>'
            if more > 0
            else ""
        )
        parts.append(
            f"<details{' open' if not parts else ''}><summary>{escaped(variant)}: "
            f"{escaped(busiest(outcome))}"
            '</summary><div class="wide"><table class="dense"><tr><th>Link</th><th '
            "class=num>Rate</th><th class=num>Bytes</th><th></th><th class=num>Share of "
            "rate</th><th class=num>Busy</th><th class=num>Most messages at "
            f"once</th></tr>{''.join(lines)}</table></div>{rest}</details>"
        )
    if not parts:
        return ""
    return (
        '<h2>Links</h2><p class="soft">Bytes over each link against what it could have carried '
        f"in the wall time, fullest first. Busy: at least one message on it.</p>{''.join(parts)}"
    )


def verdict(outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers) -> str:
    """Which variant is the quickest, which the slowest, and the link that limits it."""
    wall_s = {name: mine["makespan_s"] for name, mine in metrics.items() if name in outcomes}
    quick, slow = (
        min(wall_s, key=lambda name: wall_s[name]),
        max(wall_s, key=lambda name: wall_s[name]),
    )
    full, most = busiest(outcomes[slow]), metrics[slow].get("busiest_link_utilisation", 0.0)
    where = f"; its busiest link: {full} in use" if full else ""
    if 0 < most < 0.5:
        where = f"; there, no link is more than {100 * most:.0f} % in use"
    if len(wall_s) == 1:
        return f"{slow} takes {seconds_text(wall_s[slow])}{where}."
    if wall_s[slow] < 1.005 * wall_s[quick]:
        return (
            "All variants take as long, within half a percent: "
            f"{seconds_text(wall_s[slow])}{where}."
        )
    ratio = f"{wall_s[slow] / wall_s[quick]:.2f}"
    return f"{quick} takes {seconds_text(wall_s[quick])}, {slow} {ratio}x as long{where}."
