"""The figure of a grid of sizes of an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.facts.array import GridRecord
from sim.facts.outcome import Outcome
from sim.kinds.array_grid.facts import best
from sim.results.array_figures import figure, figures_page
from sim.results.palette import escaped, packed


def page(outcomes: Mapping[str, Outcome], title: str) -> str:
    """The figures of grids of sizes."""
    return figures_page(title, [_grid(name, outcome.part) for name, outcome in outcomes.items()])


def _grid(variant: str, grid: GridRecord) -> dict[str, Any]:
    """A heat map for each family and for all, the best size marked, and the array at hand."""
    maps = grid.families | ({"all": grid.ops_per_joule} if len(grid.families) > 1 else {})
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "annotations": [],
        "showlegend": False,
        "height": 460,
        "margin": {"l": 70, "r": 20, "t": 50, "b": 60},
    }
    top = max(float(values.max()) for values in maps.values()) / 1e12
    wide = 1.0 / len(maps)
    rows, cols = grid.rows.tolist(), grid.cols.tolist()
    for number, (family, values) in enumerate(maps.items()):
        axis = "" if number == 0 else str(number + 1)
        top_of = best(grid, "" if family == "all" and family not in grid.families else family)
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
            ("star", (top_of.rows, top_of.cols), "#ffffff", "best"),
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
                "text": f"{escaped(family)}: {top_of.rows:.0f} x {top_of.cols:.0f}",
                "xref": "paper",
                "yref": "paper",
                "x": sum(domain) / 2,
                "y": 1.07,
                "showarrow": False,
                "font": {"size": 14},
            }
        )
    text = (
        "Operations a joule by rows and columns of an array. Star: the best size; ring: the array "
        "of the scenario."
    )
    return figure(f"{variant}: how large should an array be?", text, traces, layout)
