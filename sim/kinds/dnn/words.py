"""DNNs on an array as a person reads them: a section of the report, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.array import FAR, ArrayRun
from sim.facts.outcome import Outcome
from sim.kinds.dnn.facts import AT_POWER, NETWORKS, THROUGHPUT, networks
from sim.results import charts
from sim.results.metric import seconds_text
from sim.results.palette import escaped
from sim.results.parts_page import parts_table
from sim.results.table import Numbers

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
PARTS = {
    "macs": ("all cells multiply", "#0072B2"),
    "small_tiles": ("cells that a small tile leaves empty", "#56B4E9"),
    "waiting": ("pods wait in rounds", "#E69F00"),
    "idle": ("pods without a tile", "#C9CDD3"),
    "memory": ("all wait for memory", "#D55E00"),
    "ends": ("warm-up and drain", "#8C7B6B"),
}
_MOST_BARS = 40


def networks_section(outcomes: Mapping[str, Outcome]) -> str:
    """What each network got, and where the time of each schedule went."""
    power = " and ".join(sorted({f"{o.part.power_w:,.4g} W" for o in outcomes.values()}))
    text = (
        "Throughput is of two operations a MAC; scaled to the power: x "
        + escaped(power)
        + " / peak power."
    )
    if any(outcome.part.sharing != "alone" for outcome in outcomes.values()):
        text += " Slowdown: time until the answer over the same with the whole array to itself."
    found = {variant: networks(outcome) for variant, outcome in outcomes.items()}
    tips = {
        (variant, each.name): f"{each.what}, {each.pods} pods"
        for variant, outcome in outcomes.items()
        for each in outcome.part.networks
    }
    grid = parts_table(NETWORKS, found, _SHOWN, "Network", tips)
    return (
        f'<h2>Networks</h2><p class="soft">{text}</p>{grid}'
        f"<h2>Where the time of the array goes</h2>{_bars(outcomes)}"
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
    """The schedules of a variant by title: the variant, and its DNNs if it has several."""
    runs = outcome.part.runs
    return [
        (f"{variant} · {' + '.join(run.names)}" if len(runs) > 1 else variant, run) for run in runs
    ]


def verdict(outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers) -> str:
    """Which array does most, for the same power where all take about as much, or what sharing one
    buys and whom it slows down."""
    alone = [name for name, outcome in outcomes.items() if outcome.part.sharing == "alone"]
    said = []
    if alone:
        arrays = [outcomes[name].part for name in alone]
        level = all(abs(a.peak_power_w / a.power_w - 1) <= FAR for a in arrays)
        row = AT_POWER if level else THROUGHPUT
        speed = {name: metrics[name][row.name] for name in alone}
        best, base = max(speed, key=lambda name: speed[name]), alone[0]
        at = outcomes[best].part
        text = f"{best} does {row.text(speed[best])} " + (
            f"scaled to {at.power_w:,.4g} W" if level else f"with {at.peak_power_w:,.4g} W"
        )
        share = f"{100 * metrics[best]['array_utilisation']:.0f} % of its peak"
        worst = min(speed, key=lambda name: speed[name])
        other = base if best != base else worst
        said.append(
            f"{text}, {share}"
            + (f", {speed[best] / speed[other]:.2f}x as much as {other}" if other != best else "")
        )
    for variant, outcome in outcomes.items():
        if variant in alone:
            continue
        each = {name: mine["slowdown"] for name, mine in networks(outcome).items()}
        slow = " and ".join(f"{name} {ratio:.2f}x" for name, ratio in each.items())
        if len(each) > 3:
            worst = max(each, key=lambda name: each[name])
            slow = f"{worst}, the worst off, {each[worst]:.2f}x"
        gain = metrics[variant].get("sharing_gain")
        done = "" if gain is None else f"all done {gain:.2f}x as soon as one after the other, "
        said.append(f"{variant}: {done}{slow} as slow as alone")
    return f"{'; '.join(said)}."
