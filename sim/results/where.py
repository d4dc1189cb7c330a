"""Where the time of a rank goes: two sections of the report."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.outcome import Outcome
from sim.facts.span import BOUNDS
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
    bars, texts = {}, {}
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


def what_limits(outcomes: Mapping[str, Outcome]) -> str:
    """Time on the compute stream by what a faster machine would have to improve."""
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
