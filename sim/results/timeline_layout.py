"""The frame of a timeline: axes, titles and empty traces, in Plotly's own JSON, for the figure and
the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.results.palette import escaped, kind_colours, words
from sim.results.panels import Area, Panel

_ROW_PX, _AREA_PX, _GAP_PX, _HEAD_PX = 34, 46, 12, 44
_MARGIN = {"l": 120, "r": 24, "t": 28, "b": 60}


def skeleton(
    panels: Sequence[Panel], kinds: Sequence[str], unit: str, window: tuple[float, float]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Empty traces, first a bar trace for each panel and kind, then an area each; and the layout
    around them."""
    layout: dict[str, Any] = {
        "barmode": "overlay",
        "bargap": 0,
        "dragmode": "pan",
        "hovermode": "closest",
        "template": "none",
        "font": {
            "family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif",
            "size": 12,
        },
        "margin": {**_MARGIN, "l": _left_px(panels)},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "groupclick": "togglegroup",
        },
        "hoverlabel": {"align": "left"},
        "annotations": [],
        "shapes": [],
    }
    bars, areas, top_px, axes = [], [], 0.0, 0
    colours = kind_colours(kinds)
    spots: list[tuple[str, float, float]] = []  # axis, top and bottom in pixels from the top
    seen: set[str] = set()
    for panel in panels:
        axes += 1
        bar_axis = f"y{axes if axes > 1 else ''}"
        top_px += _HEAD_PX
        bottom_px = top_px + _ROW_PX * max(1, len(panel.tracks))
        spots.append((bar_axis, top_px, bottom_px))
        layout["annotations"].append(_heading(panel.title, bar_axis))
        layout[bar_axis.replace("y", "yaxis")] = {
            "range": [max(1, len(panel.tracks)) - 0.5, -0.5],
            "tickvals": list(range(len(panel.tracks))),
            "ticktext": [t.label for t in panel.tracks],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "ticks": "",
            "ticklabelstandoff": 8,
        }
        for kind in kinds:
            here = any(s.kind == kind for t in panel.tracks for s in t.spans)
            bars.append(_bar(kind, colours[kind], bar_axis, show_legend=here and kind not in seen))
            seen |= {kind} if here else set()
        for area in panel.areas:
            axes += 1
            axis = f"y{axes}"
            top_px, bottom_px = bottom_px + _GAP_PX, bottom_px + _GAP_PX + _AREA_PX
            spots.append((axis, top_px, bottom_px))
            layout[axis.replace("y", "yaxis")] = {
                "range": [0, 104],
                "tickvals": [0, 100],
                "ticktext": ["0", "100 %"],
                "tickfont": {"size": 10},
                "fixedrange": True,
                "showgrid": False,
                "zeroline": False,
                "ticks": "",
            }
            layout["annotations"].append(_area_name(area.label, axis))
            areas.append(_area(area, axis))
        top_px = bottom_px
    for axis, top, bottom in spots:
        layout[axis.replace("y", "yaxis")]["domain"] = [1 - bottom / top_px, 1 - top / top_px]
    layout["height"] = round(top_px + _MARGIN["t"] + _MARGIN["b"])
    layout["xaxis"] = {
        "title": {"text": f"time in {unit}"},
        "range": list(window),
        "anchor": spots[-1][0] if spots else "y",
        "showgrid": True,
        "gridcolor": "rgba(128,128,128,0.18)",
        "zeroline": False,
        "separatethousands": True,
        "exponentformat": "none",
        "showspikes": True,
        "spikemode": "across",
        "spikesnap": "cursor",
        "spikethickness": 1,
        "spikedash": "solid",
        "spikecolor": "rgba(128,128,128,0.6)",
    }
    return bars + areas, layout


def _left_px(panels: Sequence[Panel]) -> int:
    """Room for the longest name at the left; those of areas stand left of their axis."""
    names = [26 + 7.0 * len(track.label) for panel in panels for track in panel.tracks]
    names += [56 + 6.4 * len(area.label) for panel in panels for area in panel.areas]
    return round(min(max([_MARGIN["l"], *names]), 560))


def _heading(text: str, axis: str) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "yref": f"{axis} domain",
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 4,
        "showarrow": False,
        "font": {"size": 14},
    }


def _area_name(text: str, axis: str) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "yref": f"{axis} domain",
        "x": 0,
        "y": 0.5,
        "xanchor": "right",
        "yanchor": "middle",
        "xshift": -48,
        "showarrow": False,
    }


def _bar(kind: str, colour: str, axis: str, *, show_legend: bool) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": escaped(words(kind)),
        "legendgroup": escaped(kind),
        "showlegend": show_legend,
        "yaxis": axis,
        "width": 0.82,
        "base": [],
        "x": [],
        "y": [],
        "customdata": [],
        "text": [],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"size": 11},
        "cliponaxis": True,
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "color": colour,
            "opacity": [],
            "line": {"color": "rgba(255,255,255,0.9)", "width": []},
        },
    }


def _area(area: Area, axis: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": area.label,
        "showlegend": False,
        "yaxis": axis,
        "x": [],
        "y": [],
        "line": {"shape": "hv", "width": 1, "color": area.colour, "simplify": False},
        "fill": "tozeroy",
        "fillcolor": _faint(area.colour),
        "hovertemplate": f"{area.label.replace('%', '&#37;')} %{{y:.0f}} % in use<extra></extra>",
    }


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"
