"""The figures of networks on arrays: which pod was at which layer, bars and studies of variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sim.facts.array import ArrayRun, Tiles
from sim.facts.outcome import Outcome
from sim.kinds.dnn.facts import ARRAY, THROUGHPUT, networks
from sim.kinds.dnn.words import titled
from sim.results.array_figures import figure, figures_page
from sim.results.metric import measured
from sim.results.palette import VARIANT_COLOURS, escaped, packed, variant_colours

_MOST_RUNS = 40  # whose pods are drawn
_MOST_COLUMNS, _MOST_PODS = 800, 256  # of such a figure: as many as one can see
_NUMERIC = ("rows", "cols", "pods", "bank", "partition", "memory", "batch")
_UNITS = {"bank": "KiB", "memory": "GB/s"}


def page(outcomes: Mapping[str, Outcome], title: str) -> str:
    """The figures of networks on arrays."""
    runs = [
        (name, run, run.tiles)
        for variant, outcome in outcomes.items()
        for name, run in titled(variant, outcome)
        if run.tiles
    ]
    study = _study(outcomes)
    return figures_page(
        title,
        [*([study] if study else []), _bars(outcomes)],
        [_run(*each) for each in runs[:_MOST_RUNS]],
        max(len(runs) - _MOST_RUNS, 0),
        pages=("report", "timeline"),
    )


def _bars(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Throughput at the same power, by network and variant."""
    colours = variant_colours(outcomes)
    traces = []
    power_w = 0.0
    for variant, outcome in outcomes.items():
        power_w = outcome.part.power_w
        each, whole = networks(outcome), measured(ARRAY, outcome)
        named = {**each, _whole(outcome): whole} if len(each) > 1 else each
        traces.append(
            {
                "type": "bar",
                "name": escaped(variant),
                "x": [escaped(name) for name in named],
                "y": [mine["effective_ops_per_s_at_power"] / 1e12 for mine in named.values()],
                "customdata": [
                    [mine["effective_ops_per_s"] / 1e12, 100 * mine["array_utilisation"]]
                    for mine in named.values()
                ],
                "marker": {"color": colours[variant]},
                "hovertemplate": "%{x}<br>%{y:.1f} TOPS scaled, %{customdata[0]:.1f} as it is, "
                "%{customdata[1]:.1f} % of the peak<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "barmode": "group",
        "legend": {"orientation": "h", "y": 1.12},
        "yaxis": {"title": {"text": "TOPS"}},
        "xaxis": {"automargin": True},
        "margin": {"l": 70, "r": 20, "t": 40, "b": 60},
    }
    return figure(
        f"Throughput at {power_w:,.4g} W",
        "Effective throughput, scaled to the same power.",
        traces,
        layout,
    )


def _whole(outcome: Outcome) -> str:
    """What stands for all networks of a variant."""
    return "harmonic mean" if outcome.part.sharing == "alone" else "all together"


def _study(outcomes: Mapping[str, Outcome]) -> dict[str, Any] | None:
    """Throughput along the number in which variants differ, or against power where it is none."""
    arrays = {name: outcome.part for name, outcome in outcomes.items()}
    if len(arrays) < 3 or len({outcome.part.sharing for outcome in outcomes.values()}) > 1:
        return None
    differ = [
        key
        for key in next(iter(arrays.values())).settings
        if len({array.settings[key] for array in arrays.values()}) > 1
    ]
    if len(differ) == 1 and differ[0] in _NUMERIC:
        return _along(differ[0], outcomes)
    return _pareto(outcomes)


def _along(key: str, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Lines over a setting: each network, and all of them thick."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for variant, outcome in outcomes.items():
        x = float(outcome.part.settings[key])
        each = {n: mine["effective_ops_per_s"] for n, mine in networks(outcome).items()}
        for name, value in {_whole(outcome): THROUGHPUT.value(outcome), **each}.items():
            points.setdefault(name, []).append((x, value / 1e12, variant))
    traces = []
    for number, (name, line) in enumerate(points.items()):
        line.sort()
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escaped(name),
                "x": [x for x, _, _ in line],
                "y": [y for _, y, _ in line],
                "text": [escaped(variant) for _, _, variant in line],
                "line": {
                    "width": 3 if number == 0 else 1.2,
                    "color": "#1d2430"
                    if number == 0
                    else VARIANT_COLOURS[number % len(VARIANT_COLOURS)],
                },
                "hovertemplate": "%{text}<br>%{y:.1f} TOPS<extra>%{fullData.name}</extra>",
            }
        )
    ticks = sorted({x for line in points.values() for x, _, _ in line})
    unit = f" ({_UNITS[key]})" if key in _UNITS else ""
    layout = {
        "xaxis": {
            "type": "log",
            "tickvals": ticks,
            "ticktext": [f"{x:,.6g}" for x in ticks],
            "title": {"text": f"{key}{unit}"},
        },
        "yaxis": {"title": {"text": "TOPS"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.15},
        "margin": {"l": 70, "r": 20, "t": 40, "b": 60},
    }
    return figure(
        f"Throughput by {key}", "Effective throughput as it is, not scaled.", traces, layout
    )


def _pareto(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Throughput against peak power, and the variants that no other beats in both."""
    spots = [
        (outcome.part.peak_power_w, THROUGHPUT.value(outcome) / 1e12, variant)
        for variant, outcome in outcomes.items()
    ]
    colours = variant_colours(outcomes)
    front: list[tuple[float, float, str]] = []
    for spot in sorted(spots, key=lambda s: (s[0], -s[1])):
        if not front or spot[1] > front[-1][1]:
            front.append(spot)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "nothing is better in both",
            "line": {"dash": "dot", "color": "#8A8F98", "shape": "hv"},
            "x": [x for x, _, _ in front],
            "y": [y for _, y, _ in front],
            "hoverinfo": "skip",
        },
        *(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(variant),
                "x": [watts],
                "y": [speed],
                "marker": {"size": 12, "color": colours[variant]},
                "hovertemplate": "%{y:.1f} TOPS at %{x:,.0f} W<extra>%{fullData.name}</extra>",
            }
            for watts, speed, variant in spots
        ),
    ]
    layout = {
        "xaxis": {"title": {"text": "peak power (W)"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.1},
        "yaxis": {"title": {"text": "TOPS"}, "rangemode": "tozero"},
        "margin": {"l": 70, "r": 20, "t": 40, "b": 60},
    }
    return figure(
        "Throughput against power", "Effective throughput as it is, not scaled.", traces, layout
    )


def _run(title: str, run: ArrayRun, tiles: Tiles) -> dict[str, Any]:
    """Which pod was at which layer: a picture of so many columns of time, each as at its middle."""
    rounds = len(tiles.start_s)
    columns = min(_MOST_COLUMNS, 4 * rounds)
    edges = np.linspace(0.0, run.seconds, columns + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    at = np.clip(np.searchsorted(tiles.start_s, middle, side="right") - 1, 0, rounds - 1)
    within = (middle >= tiles.start_s[at]) & (middle < tiles.end_s[at])
    step = -(-run.pods // _MOST_PODS)
    shown = np.where(within[None, :], tiles.layer[::step][:, at], 0)
    return {
        "title": escaped(title),
        "networks": [escaped(name) for name in run.names],
        "layers": [[of, escaped(layer)] for of, layer in tiles.layers],
        "pods": list(range(run.first_pod, run.first_pod + run.pods, step)),
        "seconds": run.seconds,
        "rounds": np.where(within, at, -1).tolist(),
        "layer": packed(shown.astype("<u2")),
    }
