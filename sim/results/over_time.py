"""What the replicas did over the time of a run: time series from the bins that the engine summed,
drawn for the report.

Bins are summed while the run goes on, so a run of any length has a few hundred of them; what is
drawn between two edges is the mean there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.facts.serving import Serving
from sim.results import charts
from sim.results.palette import variant_colours

MOST_BINS = 256  # of a line; a figure is not twice as many pixels wide
_ROWS = 65_536  # requests looked at in one go
_LINES = {
    "running": ("Running requests", "in the batches"),
    "waiting": ("Waiting requests", "not begun"),
    "output": ("Output tokens", "tokens/s"),
    "prompt": ("Prompt tokens", "tokens/s"),
    "kv": ("KV-cache in use", "%"),
    "busy": ("Replicas busy", "%"),
}


def over_time(
    serving: Serving, requests: Requests, makespan_s: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Edges of the bins in seconds, and by name the mean of each bin, over its part of the run.

    "running" and "waiting" are numbers of requests on all replicas together, "output" and "prompt"
    tokens per second of all, "kv" and "busy" shares, means of the replicas.
    """
    sums = {name: values.astype(float) for name, values in serving.series.items()}
    edges = np.minimum(np.arange(len(sums["busy_s"]) + 1) * serving.bin_s, makespan_s)
    while len(edges) - 1 > MOST_BINS:
        odd = len(edges) % 2 == 0  # a last bin without a neighbour stays as it is
        sums = {
            name: np.add.reduceat(values, np.arange(0, len(values), 2))
            for name, values in sums.items()
        }
        edges = np.append(edges[::2], edges[-1:]) if odd else edges[::2]
    if len(edges) > 2 and edges[-1] - edges[-2] < 0.1 * (edges[1] - edges[0]):
        edges = np.delete(
            edges, -2
        )  # the end of the run cuts the last bin: nothing could be read off a sliver
        sums = {name: np.append(values[:-2], values[-2:].sum()) for name, values in sums.items()}
    wide_s = np.maximum(np.diff(edges), 1e-12)
    return edges, {
        "running": sums["sequences_s"] / wide_s,
        "waiting": waiting_s(requests, edges) / wide_s,
        "output": sums["output_tokens"] / wide_s,
        "prompt": sums["prompt_tokens"] / wide_s,
        "kv": sums["kv_s"] / wide_s / serving.replicas,
        "busy": sums["busy_s"] / wide_s / serving.replicas,
    }


def waiting_s(requests: Requests, edges: np.ndarray) -> np.ndarray:
    """Integral over each bin of the number of requests that have arrived and are in no iteration
    yet.

    Those turned away do not wait here. What it needs beside the requests is a few numbers a bin.
    """
    wide_s, bins = np.diff(edges), len(edges) - 1
    change, part_s = np.zeros(bins), np.zeros(bins)
    for first in range(0, len(requests), _ROWS):
        rows = slice(first, first + _ROWS)
        served = requests.replica[rows] >= 0
        for sign, times_s in (
            (1, requests.arrival_s[rows][served]),
            (-1, requests.scheduled_s[rows][served]),
        ):
            place = np.clip(np.searchsorted(edges, times_s, side="right") - 1, 0, bins - 1)
            change += sign * np.bincount(place, minlength=bins)
            part_s += sign * np.bincount(place, weights=edges[place + 1] - times_s, minlength=bins)
    found = (np.cumsum(change) - change) * wide_s + part_s
    return np.where(found < 1e-9 * wide_s, 0.0, found)  # rounding of what cancels


def over_time_section(outcomes: Mapping[str, Outcome]) -> str:
    """The section of the report of fleets (`part` is a Serving); nothing where no replica ran."""
    colours = variant_colours(outcomes)
    found = {
        name: over_time(o.part, o.requests, o.totals.seconds / o.replicas)
        for name, o in outcomes.items()
        if len(o.part.series["busy_s"])
    }
    if not found:
        return ""
    unit, scale = _time_unit(max(float(edges[-1]) for edges, _ in found.values()))
    lines = {
        key: {n: charts.Line(colours[n], edges, means[key]) for n, (edges, means) in found.items()}
        for key in _LINES
    }
    figures = [
        charts.time_series(lines[key], title, of, unit, scale)
        for key, (title, of) in _LINES.items()
    ]
    names = charts.legend([(name, colours[name]) for name in found])
    several = (
        " All replicas together; shares are their mean."
        if any(o.replicas > 1 for o in outcomes.values())
        else ""
    )
    return (
        f'<h2>Over time</h2><p class="soft">Means over at most {MOST_BINS} equal stretches of '
        f"the run.{several} A request waits until an iteration first works on it. Prompt tokens "
        "are those computed: not what the prefix cache had, but again what a preemption threw "
        f'away.</p>{names}<div class="pair">{"".join(figures)}</div>'
    )


def _time_unit(last_s: float) -> tuple[str, float]:
    """The unit of the time axis, and how many of it a second has."""
    steps = (
        (2.0, "ms", 1e3),
        (600.0, "s", 1.0),
        (7200.0, "min", 1 / 60),
        (3 * 86400.0, "h", 1 / 3600),
    )
    return next(
        ((unit, scale) for most_s, unit, scale in steps if last_s < most_s), ("days", 1 / 86400)
    )
