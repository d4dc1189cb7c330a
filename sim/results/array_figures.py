"""The figures of arrays as one interactive page: which pod was at which layer, bars and studies of
variants, the grid of sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from sim.facts.array import ArrayRun, GridRecord
from sim.facts.outcome import Outcome
from sim.results.arrays import array_metrics, grid_metrics, network_metrics
from sim.results.arrays_page import titled
from sim.results.palette import VARIANT_COLOURS, escaped, inside_script, packed, variant_colours

_MOST_RUNS = 40  # whose pods are drawn
_MOST_COLUMNS, _MOST_PODS = 800, 256  # of such a figure: as many as one can see
_FONT = {"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 12}
_NUMERIC = ("rows", "cols", "pods", "bank", "partition", "memory", "batch")
_UNITS = {"bank": "KiB", "memory": "GB/s"}


def figures_page(outcomes: Mapping[str, Outcome], title: str) -> str:
    """The page as HTML: one file that needs no network.  Every name is escaped."""
    from plotly.offline import get_plotlyjs

    figures: list[dict[str, Any] | None] = []
    grids = {name: outcome.grid for name, outcome in outcomes.items() if outcome.grid}
    figures += [_grid(name, grid) for name, grid in grids.items()]
    on_arrays = {name: outcome for name, outcome in outcomes.items() if outcome.array}
    if on_arrays:
        figures += [_study(on_arrays), _bars(on_arrays)]
    runs = [
        each
        for variant, outcome in on_arrays.items()
        for each in titled(variant, outcome)
        if each[1].tiles
    ]
    data = {
        "figures": [figure for figure in figures if figure],
        "runs": [_run(name, run) for name, run in runs[:_MOST_RUNS]],
        "left_out": max(len(runs) - _MOST_RUNS, 0),
        "font": _FONT,
    }
    here = resources.files("sim.results")
    return (
        (here / "array_figures.html")
        .read_text("utf-8")
        .replace("{{title}}", escaped(title))
        .replace("{{timeline}}", ' · <a href="timeline.html">Timeline</a>' if on_arrays else "")
        .replace("{{data}}", inside_script(json.dumps(data, ensure_ascii=False, allow_nan=False)))
        .replace("{{script}}", (here / "array_figures.js").read_text("utf-8"))
        .replace("{{plotly}}", get_plotlyjs())
    )


def _figure(
    heading: str, text: str, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]
) -> dict[str, Any]:
    base = {
        "template": "none",
        "font": _FONT,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "height": 420,
    }
    return {
        "heading": escaped(heading),
        "text": escaped(text),
        "traces": traces,
        "layout": base | dict(layout),
    }


def _bars(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Throughput at the same power, by network and variant."""
    colours = variant_colours(outcomes)
    traces = []
    power_w = 0.0
    for variant, outcome in outcomes.items():
        assert outcome.array is not None
        power_w = outcome.array.power_w
        each = network_metrics(outcome, outcome.array)
        whole = array_metrics(outcome, outcome.array)
        last = "harmonic mean" if outcome.sharing == "alone" else "all together"
        named = {**each, last: whole} if len(each) > 1 else each
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
    return _figure(
        f"Throughput at {power_w:,.4g} W",
        "Effective throughput, scaled to the same power.",
        traces,
        layout,
    )


def _study(outcomes: Mapping[str, Outcome]) -> dict[str, Any] | None:
    """Throughput along the one number in which variants differ, or against power where it is no
    number."""
    arrays = {name: outcome.array for name, outcome in outcomes.items() if outcome.array}
    if len(arrays) < 3 or len({outcome.sharing for outcome in outcomes.values()}) > 1:
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
        assert outcome.array is not None
        x = float(outcome.array.settings[key])
        whole = array_metrics(outcome, outcome.array)["effective_ops_per_s"]
        last = "harmonic mean" if outcome.sharing == "alone" else "all together"
        each = network_metrics(outcome, outcome.array)
        for name, value in {
            last: whole,
            **{n: m["effective_ops_per_s"] for n, m in each.items()},
        }.items():
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
    return _figure(
        f"Throughput by {key}", "Effective throughput as it is, not scaled.", traces, layout
    )


def _pareto(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Throughput against peak power, and the variants that no other beats in both."""
    spots = []
    for variant, outcome in outcomes.items():
        assert outcome.array is not None
        speed = array_metrics(outcome, outcome.array)["effective_ops_per_s"] / 1e12
        spots.append((outcome.array.peak_power_w, speed, variant))
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
    return _figure(
        "Throughput against power", "Effective throughput as it is, not scaled.", traces, layout
    )


def _grid(variant: str, grid: GridRecord) -> dict[str, Any]:
    """A heat map for each family and for all, the best size marked, and the array at hand."""
    maps = (
        {**grid.families, "all": grid.ops_per_joule}
        if len(grid.families) > 1
        else dict(grid.families)
    )
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "showlegend": False, "height": 460}
    top = max(float(values.max()) for values in maps.values()) / 1e12
    wide = 1.0 / len(maps)
    rows, cols = grid.rows.tolist(), grid.cols.tolist()
    for number, (family, values) in enumerate(maps.items()):
        axis = "" if number == 0 else str(number + 1)
        best = grid_metrics(grid, "" if family == "all" and family not in grid.families else family)
        traces.append(
            {
                "type": "heatmap",
                "x": cols,
                "y": rows,
                "z": packed((values / 1e12).astype("<f4")),
                "zmin": 0,
                "zmax": top,
                "colorscale": "Viridis",
                "showscale": number == len(maps) - 1,
                "xaxis": f"x{axis}",
                "yaxis": f"y{axis}",
                "colorbar": {"title": {"text": "TOPS/W"}},
                "hovertemplate": "%{y} x %{x}<br>%{z:.4f} TOPS/W<extra></extra>",
            }
        )
        for mark, (r, c), colour, text in (
            ("star", (best["best_rows"], best["best_cols"]), "#ffffff", "best"),
            ("circle-open", grid.here, "#ffb000", "this array"),
        ):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [c],
                    "y": [r],
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "marker": {
                        "symbol": mark,
                        "size": 13,
                        "color": colour,
                        "line": {"color": "#111", "width": 1.5},
                    },
                    "hovertemplate": f"{text}: %{{y}} x %{{x}}<extra></extra>",
                }
            )
        domain = [number * wide + (0.06 if number else 0), (number + 1) * wide - 0.01]
        layout[f"xaxis{axis}"] = {
            "domain": domain,
            "anchor": f"y{axis}",
            "title": {"text": "columns"},
            "range": [cols[0], cols[-1]],
        }
        layout[f"yaxis{axis}"] = {
            "anchor": f"x{axis}",
            "title": {"text": "rows" if number == 0 else ""},
            "range": [rows[0], rows[-1]],
        }
        layout["annotations"].append(
            {
                "text": f"{escaped(family)}: {best['best_rows']:.0f} x {best['best_cols']:.0f}",
                "xref": "paper",
                "yref": "paper",
                "x": sum(domain) / 2,
                "y": 1.07,
                "showarrow": False,
                "font": {"size": 14},
            }
        )
    layout["margin"] = {"l": 70, "r": 20, "t": 50, "b": 60}
    text = (
        "Operations a joule by rows and columns of an array. Star: the best size; ring: the "
        "array of the scenario."
    )
    return _figure(f"{variant}: how large should an array be?", text, traces, layout)


def _run(title: str, run: ArrayRun) -> dict[str, Any]:
    """Which pod was at which layer: a picture of so many columns of time, each what was there at
    its middle."""
    tiles = run.tiles
    assert tiles is not None
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
