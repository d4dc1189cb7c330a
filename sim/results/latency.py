"""How long requests took: a section of the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.serving import Serving
from sim.results import charts
from sim.results.palette import variant_colours
from sim.results.statistics import latencies

_CURVES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "e2e": "End-to-end latency",
    "queue": "Queueing before the first iteration",
}


def latency_section(owners: Mapping[tuple[str, str], Outcome]) -> str:
    """Curves of the latencies of requests, by variant, and by tenant where a pod is shared; nothing
    where there are no requests."""
    named = {" · ".join(filter(None, owner)): outcome for owner, outcome in owners.items()}
    asked = {name: latencies(outcome.requests.finished()) for name, outcome in named.items()}
    found = {name: mine for name, mine in asked.items() if len(mine["e2e"])}
    if not found:
        return ""
    colours = variant_colours(asked)
    figures = [
        _curves(
            {n: charts.quantiles(mine[key]) for n, mine in found.items() if len(mine.get(key, ()))},
            colours,
            title,
            "requests",
        )
        for key, title in _CURVES.items()
    ]
    gaps = {
        name: charts.histogram_quantiles(outcome.part.gap_ends_s, outcome.part.gaps)
        for name, outcome in named.items()
        if isinstance(outcome.part, Serving) and outcome.part.gaps.any()
    }
    figures.append(_curves(gaps, colours, "Inter-token latency", "gaps between tokens"))
    names = charts.legend([(name, colours[name]) for name in found])
    tokens = "; of the inter-token latency, share of the times between two tokens of an answer"
    return (
        '<h2>Latency of the requests</h2><p class="soft">Share of finished requests that took '
        f"no longer{tokens if gaps else ''}.</p>"
        f'{names}<div class="pair">{"".join(figures)}</div>'
    )


def _curves(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    title: str,
    what: str,
) -> str:
    slowest = max((float(values[-1]) for values, _ in points.values()), default=0.0)
    unit, scale = ("s", 1.0) if slowest >= 2 else ("ms", 1e3) if slowest >= 2e-3 else ("µs", 1e6)
    lines = {name: charts.Line(colours[name], *line) for name, line in points.items()}
    return charts.cdf(lines, title, unit, scale, what)
