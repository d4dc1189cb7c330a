"""Where the time of a rank goes: two sections of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sim.facts.outcome import Outcome
from sim.facts.span import BOUNDS
from sim.facts.totals import Totals
from sim.results import charts
from sim.results.metric import seconds_text
from sim.results.metrics import exposed_s
from sim.results.palette import (
    BOUND_COLOURS,
    BUBBLES,
    ENGINE,
    EXPOSED,
    IDLE,
    kind_colour,
    kind_order,
    words,
)


def where_time_goes(outcomes: Mapping[str, Outcome]) -> str:
    """Wall time by what the compute stream does."""
    figure = _bars(
        outcomes,
        "Wall time of each variant by what the compute stream does",
        _streams,
        lambda totals: totals.seconds,
    )
    return (
        "<h2>Where the time goes</h2>"
        '<p class="soft">Wall time of one rank by what its compute stream does; nothing computes '
        f"while communication is exposed.{_mean(outcomes)}</p>{figure}"
    )


def _streams(totals: Totals) -> charts.Parts:
    kinds = totals.span_s.get("compute", {})
    return [
        *((words(k), kind_colour(k), kinds[k]) for k in sorted(kinds, key=kind_order)),
        ("exposed communication", EXPOSED, max(0.0, exposed_s(totals))),
        ("engine", ENGINE, totals.engine_s),
        ("bubbles", BUBBLES, totals.bubble_s),
        ("idle", IDLE, totals.idle_s),
    ]


def _bars(
    outcomes: Mapping[str, Outcome],
    text: str,
    parts: Callable[[Totals], charts.Parts],
    whole: Callable[[Totals], float],
) -> str:
    """A bar for each variant: the mean of its replicas, so that all stand on the same scale."""
    bars = {
        name: [(what, colour, seconds / o.replicas) for what, colour, seconds in parts(o.totals)]
        for name, o in outcomes.items()
    }
    texts = {name: seconds_text(whole(o.totals) / o.replicas) for name, o in outcomes.items()}
    return charts.stacked_bars(bars, text, texts)


def what_limits(outcomes: Mapping[str, Outcome]) -> str:
    """Time on the compute stream by what a faster machine would have to improve."""
    if not any(outcome.totals.bound_s for outcome in outcomes.values()):
        return ""
    figure = _bars(
        outcomes,
        "Time on the compute stream of each variant by what limits it",
        lambda t: [(f"limited by {b}", BOUND_COLOURS[b], t.bound_s.get(b, 0.0)) for b in BOUNDS],
        lambda totals: sum(totals.bound_s.values()),
    )
    return (
        "<h2>What limits the kernels</h2>"
        '<p class="soft">Time on the compute stream by what a faster machine would have to '
        f"improve; latency is launch overhead.{_mean(outcomes)}</p>{figure}"
    )


def _mean(outcomes: Mapping[str, Outcome]) -> str:
    staged = any(o.totals.bubble_s for o in outcomes.values())
    several = any(o.replicas > 1 for o in outcomes.values())
    return " Mean of the pipeline stages." * staged + " Mean of the replicas." * several
