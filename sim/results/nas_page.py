"""Figures of searched networks as one page: fronts, cells, widths, utilisation by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.dnn.found import EDGES, Found, edge_name, placed
from sim.results.array_figures import figure, figures_page
from sim.results.palette import escaped
from sim.systolic.pod_array import PodArray
from sim.systolic.utilisation import LAYERS, utilisation

# where the nodes of a cell are drawn
_NODES = {"near": (0, 1), "far": (0, -1), "t1": (1, 0), "t2": (2, 0.7), "t3": (3, -0.2)}


def nas_page(
    title: str,
    cards: Sequence[tuple[Mapping[str, Any], Found]],
    log: Sequence[Mapping[str, Any]],
    array: PodArray,
) -> str:
    """The page as HTML, of cards as JSON has them and their networks; `log` is that of one
    search."""
    figures = [_front([card for card, _ in cards])] if len(cards) > 1 else []
    figures.append(_histogram(cards))
    if widths := [row for row in log if row["stage"] == "channels"]:
        figures.append(_over_epochs(widths))
    figures += [_layers(cards[0][1], array), _cell(cards[0][0])]
    return figures_page(title, figures, pages=())


def _front(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by: dict[str, list[Mapping[str, Any]]] = {}
    for card in cards:
        by.setdefault(f"{card['method']}, {card['widths']} range", []).append(card)
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": escaped(name),
            "x": [card["simulated"]["cycles"] for card in some],
            "y": [card["accuracy"] for card in some],
            "text": [escaped(card["name"]) for card in some],
            "hovertemplate": "%{text}<br>%{x:,} cycles, %{y:.1f} %<extra></extra>",
        }
        for name, some in by.items()
    ]
    axes = {
        "xaxis": {"title": {"text": "cycles of an image"}, "type": "log"},
        "yaxis": {"title": {"text": "accuracy, %"}},
        "legend": {"orientation": "h", "y": 1.12},
    }
    text = "Each network on the array that it was searched for, through the array simulator."
    return figure("Accuracy against latency", text, traces, axes)


def _histogram(cards: Sequence[tuple[Mapping[str, Any], Found]]) -> dict[str, Any]:
    by: dict[str, list[float]] = {}
    for card, found in cards:
        widths = [width for cell in found.cells for width in cell.widths.values()]
        by.setdefault(card["method"], []).extend(width / card["array"]["cols"] for width in widths)
    traces = [
        {
            "type": "histogram",
            "name": escaped(name),
            "x": values,
            "xbins": {"start": 0, "size": 1 / 16, "end": max(map(max, by.values())) + 1 / 16},
            "histnorm": "probability",
        }
        for name, values in by.items()
    ]
    axes = {
        "barmode": "group",
        "xaxis": {"title": {"text": "channels over columns of the array"}},
        "yaxis": {"title": {"text": "share of convolutions"}},
        "legend": {"orientation": "h", "y": 1.12},
    }
    return figure("Chosen widths", "At 1 and 2 all columns work.", traces, axes)


def _over_epochs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    epochs = [row["epoch"] for row in rows]
    traces = []
    for key, dash in (("widths", "solid"), ("allocated", "dot")):
        values = np.array([row[key] for row in rows])
        for at, column in enumerate(values.T):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": epochs,
                    "y": column.tolist(),
                    "name": "likeliest" if key == "widths" else "allocated",
                    "legendgroup": key,
                    "showlegend": at == 0,
                    "line": {"dash": dash, "width": 1},
                    "hovertemplate": f"convolution {at + 1}: %{{y}} channels<extra></extra>",
                }
            )
    axes = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "channels"}, "rangemode": "tozero"},
    }
    return figure("Widths while they are searched", "A line a convolution.", traces, axes)


def _layers(found: Found, array: PodArray) -> dict[str, Any]:
    layers = list(placed(found))
    used = [
        float(utilisation(LAYERS[op.kind](op.area, positions, channels, filters), array))
        for _, op, positions, channels, filters, _ in layers
    ]
    trace = {
        "type": "bar",
        "x": [escaped(layer.name) for layer in layers],
        "y": used,
        "customdata": [[layer.channels, layer.filters, layer.operation.kind] for layer in layers],
        "hovertemplate": "%{x}: %{customdata[2]}, %{customdata[0]} to %{customdata[1]}<br>"
        "%{y:.3f}<extra></extra>",
    }
    axes = {
        "xaxis": {"automargin": True},
        "yaxis": {"title": {"text": "utilisation"}, "range": [0, 1]},
    }
    text = f"By the model, on {array.rows} x {array.cols} cells: without fill, loading, memory."
    return figure(f"Utilisation by layer, {found.name}", text, [trace], axes)


def _cell(card: Mapping[str, Any]) -> dict[str, Any]:
    """The first cell as a graph; zeros are not drawn."""
    operations = card["cells"][0]["operations"]
    widths = card["cells"][0]["widths"]
    traces: list[dict[str, Any]] = []
    notes = []
    for edge in EDGES:
        name = edge_name(edge)
        if operations[name] == "zero":
            continue
        (x0, y0), (x1, y1) = (_NODES[node] for node in edge)
        unused = operations[name] != "identity" and name not in widths
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x0, x1],
                "y": [y0, y1],
                "line": {"width": 1 if unused else 2, "dash": "dot" if unused else "solid"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
        wide = f", {widths[name]}" if name in widths else ""
        notes.append(
            {
                "x": x0 + 0.62 * (x1 - x0),
                "y": y0 + 0.62 * (y1 - y0),
                "text": escaped(f"{operations[name]}{wide}"),
                "showarrow": False,
                "bgcolor": "rgba(255,255,255,0.8)",
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [x for x, _ in _NODES.values()],
            "y": [y for _, y in _NODES.values()],
            "text": [*_NODES],
            "textposition": "top center",
            "marker": {"size": 14},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    hidden = {"visible": False}
    text = "Operations and channels of the first cell; dotted: leads nowhere, and is left out."
    return figure(
        "The found cell", text, traces, {"annotations": notes, "xaxis": hidden, "yaxis": hidden}
    )
