"""The timeline: what each stream did and how full HBM, L2 and links were, on one time axis.

A screen is some 1500 pixels wide, so no more boxes than that can be seen in a row. What is drawn is therefore a *view*: ops
of two pixels or more as boxes, shorter ones gathered into blocks that are as opaque as they are busy. The page written to a
run folder carries every span and makes a new view at each zoom; a Figure in a notebook holds one view, of the whole run or of
the window asked for. On 50,000 spans this is several times faster than a box per span, and than WebGL without a GPU.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.results.metrics import seconds_text
from sim.results.palette import CAPACITY_COLOURS, escaped, kind_colour, kind_order, words
from sim.results.utilisation import binned, utilisation
from sim.spans import Outcome, Span
from sim.units import show

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WIDTH_PX = 1200  # of the plot area, assumed where no browser says
_BUDGET = 3000  # boxes in one view, over all tracks
_ROW_PX, _AREA_PX, _GAP_PX, _HEAD_PX = 34, 46, 12, 44
_MARGIN = {"l": 120, "r": 24, "t": 28, "b": 60}
_STREAMS = ("compute", "communication", "prefetch")
_CAPACITIES = ("HBM", "L2", "link")


@dataclass(frozen=True)
class _Track:
    """One row: its spans in order of time, in units of the axis."""

    label: str
    spans: list[Span]
    start: NDArray[np.float64]
    duration: NDArray[np.float64]


@dataclass(frozen=True)
class _Area:
    """How full one kind of capacity was, as steps in units of the axis; `share` in percent."""

    label: str
    colour: str
    times: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(frozen=True)
class _Panel:
    """What one variant shows: a row for each track, then an area for each kind of capacity."""

    title: str
    tracks: list[_Track]
    areas: list[_Area]


def timeline(outcomes: Mapping[str, Outcome], *, start_s: float = 0.0, end_s: float | None = None) -> Figure:
    """Every variant below the other on one time axis, drawn for the window from `start_s` to `end_s` (seconds).

    In a window of the whole run short ops are gathered; ask for a shorter window, or open `timeline.html`, to see each.
    """
    import plotly.graph_objects as go

    unit, scale = _unit(outcomes)
    last_s = max((s.end_s for o in outcomes.values() for s in o.timeline.spans), default=0.0)
    window = (start_s * scale, (last_s if end_s is None else end_s) * scale)
    if not window[1] > window[0]:
        window = (window[0], window[0] + 1.0)
    panels = [_panel(name, outcome, scale) for name, outcome in outcomes.items()]
    kinds = _kinds(outcomes)
    traces, layout = _skeleton(panels, kinds, unit, window)
    tracks = sum(len(p.tracks) for p in panels)
    for p, panel in enumerate(panels):
        _fill_boxes(traces[p * len(kinds) : (p + 1) * len(kinds)], panel, kinds, unit, window, tracks)
    areas = iter(traces[len(panels) * len(kinds) :])
    for panel in panels:
        for area in panel.areas:
            _fill_area(next(areas), area, window)
    return go.Figure(data=traces, layout=layout)


def timeline_page(outcomes: Mapping[str, Outcome], title: str = "Timeline") -> str:
    """The timeline as one HTML page with plotly.js inside: needs no network, and zooms down to every single op."""
    from plotly.offline import get_plotlyjs

    unit, scale = _unit(outcomes)
    last_s = max((s.end_s for o in outcomes.values() for s in o.timeline.spans), default=0.0)
    panels = [_panel(name, outcome, scale) for name, outcome in outcomes.items()]
    kinds = _kinds(outcomes)
    traces, layout = _skeleton(panels, kinds, unit, (0.0, last_s * scale or 1.0))
    data = {
        "unit": unit,
        "end": last_s * scale or 1.0,
        "budget": _BUDGET,
        "kinds": [escaped(words(k)) for k in kinds],
        "traces": traces,
        "layout": layout,
        "panels": [_packed(panel, kinds) for panel in panels],
    }
    left_out = sum(o.timeline.truncated for o in outcomes.values())
    note = f" {left_out:,} later ops were played but not recorded." if left_out else ""
    ops = sum(len(o.timeline.spans) for o in outcomes.values())
    here = resources.files("sim.results")
    return (
        (here / "timeline.html")
        .read_text("utf-8")
        .replace("{{title}}", escaped(title))
        .replace("{{summary}}", escaped(f"{ops:,} ops in {seconds_text(last_s)}.{note}"))
        .replace("{{data}}", _inside_script(json.dumps(data, ensure_ascii=False, allow_nan=False)))
        .replace("{{script}}", (here / "timeline.js").read_text("utf-8"))
        .replace("{{plotly}}", get_plotlyjs())
    )


def _inside_script(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")


def _unit(outcomes: Mapping[str, Outcome]) -> tuple[str, float]:
    """The unit of the time axis, and how many of it a second has."""
    last_s = max((s.end_s for o in outcomes.values() for s in o.timeline.spans), default=0.0)
    return ("µs", 1e6) if last_s < 2e-3 else ("ms", 1e3) if last_s < 10 else ("s", 1.0)


def _kinds(outcomes: Mapping[str, Outcome]) -> list[str]:
    return sorted({s.kind for o in outcomes.values() for s in o.timeline.spans}, key=kind_order)


def _panel(name: str, outcome: Outcome, scale: float) -> _Panel:
    by_track: dict[str, list[Span]] = {}
    for span in outcome.timeline.spans:
        by_track.setdefault(span.track, []).append(span)
    owners = list(dict.fromkeys(track.rpartition("/")[0] for track in by_track))
    tracks = []
    for track in sorted(by_track, key=lambda t: (owners.index(t.rpartition("/")[0]), _stream_order(t))):
        spans = sorted(by_track[track], key=lambda s: (s.start_s, s.end_s))
        owner, _, stream = track.rpartition("/")
        label = f"{owner} {stream}" if len(owners) > 1 and owner else stream
        start = np.array([s.start_s for s in spans]) * scale
        end = np.array([s.end_s for s in spans]) * scale
        tracks.append(_Track(escaped(label), spans, start, end - start))
    title = f"<b>{escaped(name)}</b>  {escaped(seconds_text(outcome.totals.seconds))}"
    return _Panel(title, tracks, _areas(outcome, scale))


def _stream_order(track: str) -> tuple[int, str]:
    stream = track.rpartition("/")[2]
    return (_STREAMS.index(stream) if stream in _STREAMS else len(_STREAMS), track)


def _areas(outcome: Outcome, scale: float) -> list[_Area]:
    """One area for each kind of capacity: over several ranks or links, the share of all their rates together."""
    rates: dict[str, float] = {}
    for capacity, rate in outcome.timeline.capacities.items():
        kind = capacity.rpartition("/")[2]
        rates[kind] = rates.get(kind, 0.0) + rate
    found = []
    for kind in sorted(rates, key=lambda k: (_CAPACITIES.index(k) if k in _CAPACITIES else len(_CAPACITIES), k)):
        uses = [u._replace(capacity=kind) for u in outcome.timeline.uses if u.capacity.rpartition("/")[2] == kind]
        times, share = utilisation(uses, kind, rates[kind])
        found.append(_Area(escaped(kind), CAPACITY_COLOURS.get(kind, "#7B5EA7"), times * scale, share * 100))
    return found


def _skeleton(
    panels: Sequence[_Panel], kinds: Sequence[str], unit: str, window: tuple[float, float]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Empty traces, first a bar trace for each panel and kind, then an area each; and the layout around them."""
    layout: dict[str, Any] = {
        "barmode": "overlay",
        "bargap": 0,
        "dragmode": "pan",
        "hovermode": "closest",
        "template": "none",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 12},
        "margin": _MARGIN,
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
            bars.append(_bar(kind, bar_axis, show_legend=here and kind not in seen))
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


def _bar(kind: str, axis: str, *, show_legend: bool) -> dict[str, Any]:
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
        "marker": {"color": kind_colour(kind), "opacity": [], "line": {"color": "rgba(255,255,255,0.9)", "width": []}},
    }


def _area(area: _Area, axis: str) -> dict[str, Any]:
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


def _detail(span: Span) -> str:
    """The lines of the hover that do not depend on when the op ran."""
    moved = [("HBM", span.hbm_bytes), ("L2", span.l2_bytes), ("link", span.link_bytes)]
    lines = [" · ".join(f"{name} {show(nbytes, 'B')}" for name, nbytes in moved if nbytes) or "no bytes"]
    lines += [show(span.flop, "FLOP")] if span.flop else []
    lines += [f"limited by {escaped(span.bound)}"]
    lines += [escaped(span.note)] if span.note else []
    return "<br>".join(lines)


def _hover(span: Span, start: float, duration: float, unit: str) -> str:
    """What pops up over one box; the page's script composes the same."""
    when = f"{words(span.kind)}, {duration:.6g} {unit} from {start:.9g} {unit}"
    return f"<b>{escaped(span.name)}</b><br>{escaped(when)}<br>{_detail(span)}"


def _label(span: Span, width_px: float) -> str:
    """The longest name of an op that fits into a box `width_px` wide."""
    short = span.name.rpartition(".")[2]
    for text in (span.name, short, short.rpartition(" ")[2], words(span.kind)):
        if len(text) * 6.6 + 8 <= width_px:
            return escaped(text)
    return ""


def _fill_boxes(
    traces: Sequence[dict[str, Any]],
    panel: _Panel,
    kinds: Sequence[str],
    unit: str,
    window: tuple[float, float],
    tracks: int,
) -> None:
    """Puts the boxes of `window` into the bar traces of one panel, one trace a kind; the script does the same at a zoom."""
    from_, to = window
    pixel = (to - from_) / _WIDTH_PX
    least = pixel * max(2.0, _WIDTH_PX * tracks / _BUDGET)
    place = {kind: trace for kind, trace in zip(kinds, traces)}

    def put(kind: str, row: int, at: float, wide: float, hover: str, text: str, opacity: float) -> None:
        trace = place[kind]
        values = {"base": at, "x": wide, "y": row, "customdata": hover, "text": text}
        for key, value in values.items():
            trace[key].append(value)
        trace["marker"]["opacity"].append(opacity)
        trace["marker"]["line"]["width"].append(1 if wide > 6 * pixel else 0)

    def put_block(row: int, track: _Track, first: int, last: int, until: float, owed: dict[str, float]) -> None:
        busy = 0.0
        for i in range(first, last):
            owed[track.spans[i].kind] = owed.get(track.spans[i].kind, 0.0) + float(track.duration[i])
            busy += float(track.duration[i])
        kind = max(owed, key=lambda k: owed[k])
        owed[kind] -= busy
        at = float(track.start[first])
        wide = until - at
        share = min(1.0, busy / wide) if wide > 0 else 1.0
        hover = f"{last - first} ops in {wide:.4g} {unit}, {100 * share:.0f} % busy<br>zoom in to see them"
        put(kind, row, at, wide, hover, "", 0.25 + 0.75 * share)

    for row, track in enumerate(panel.tracks):
        end = track.start + track.duration
        first = int(np.searchsorted(end, from_, side="right"))
        last = int(np.searchsorted(track.start, to, side="left"))
        block = -1  # where the open block of short ops began
        owed: dict[str, float] = {}  # time of each kind not yet shown: colours come in their true proportions
        for i in range(first, last):
            start, wide = float(track.start[i]), float(track.duration[i])
            gap = start - float(end[i - 1]) if block >= 0 else 0.0
            if block >= 0 and (wide >= least or gap > least or start - track.start[block] >= least):
                put_block(row, track, block, i, float(end[i - 1]) if gap > least else start, owed)
                block = -1
            if wide >= least:
                span = track.spans[i]
                put(span.kind, row, start, wide, _hover(span, start, wide, unit), _label(span, wide / pixel), 1.0)
            elif block < 0:
                block = i
        if block >= 0:
            put_block(row, track, block, last, float(end[last - 1]), owed)


def _fill_area(trace: dict[str, Any], area: _Area, window: tuple[float, float]) -> None:
    """Steps as they are while they can be told apart, means over a pixel or so where they cannot."""
    from_, to = window
    inside = (area.times >= from_) & (area.times <= to)
    if np.count_nonzero(inside) <= _WIDTH_PX:
        before = float(area.share[inside][0]) if inside.any() and area.times[0] >= from_ else 0.0
        index = int(np.searchsorted(area.times, from_, side="right")) - 1
        before = float(area.share[index]) if index >= 0 else before * 0.0
        x = [from_, *area.times[inside].tolist(), to]
        y = [before, *area.share[inside].tolist()]
        trace["x"], trace["y"] = x, [*y, y[-1]]
        return
    edges = np.linspace(from_, to, _WIDTH_PX + 1)
    share = binned(area.times, area.share, edges)
    trace["x"], trace["y"] = edges.tolist(), [*share.tolist(), float(share[-1])]


def _packed(panel: _Panel, kinds: Sequence[str]) -> dict[str, Any]:
    """A panel's spans as columns in base64, names and hover lines once each: some 30 bytes a span."""
    names: dict[str, int] = {}
    details: dict[tuple[object, ...], int] = {}
    texts: list[str] = []
    place = {kind: i for i, kind in enumerate(kinds)}
    columns: dict[str, list[NDArray[Any]]] = {"start": [], "duration": [], "kind": [], "name": [], "detail": []}
    rows = []
    for track in panel.tracks:
        rows.append(len(track.spans))
        detail = []
        for s in track.spans:
            key = (s.hbm_bytes, s.l2_bytes, s.link_bytes, s.flop, s.bound, s.note)
            at = details.setdefault(key, len(details))
            if at == len(texts):
                texts.append(_detail(s))
            detail.append(at)
        columns["start"].append(track.start.astype("<f8"))
        columns["duration"].append(track.duration.astype("<f4"))
        columns["kind"].append(np.array([place[s.kind] for s in track.spans], "<u2"))
        columns["name"].append(np.array([names.setdefault(s.name, len(names)) for s in track.spans], "<u4"))
        columns["detail"].append(np.array(detail, "<u4"))
    return {
        "rows": rows,
        "names": [escaped(n) for n in names],
        "details": texts,
        "columns": {key: _base64(parts) for key, parts in columns.items()},
        "areas": [
            {"times": _base64([a.times.astype("<f8")]), "share": _base64([a.share.astype("<f4")])} for a in panel.areas
        ],
    }


def _base64(parts: Sequence[NDArray[Any]]) -> str:
    return base64.b64encode(b"".join(p.tobytes() for p in parts)).decode("ascii")
