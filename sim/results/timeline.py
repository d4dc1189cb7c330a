"""The timeline: what each stream did and how full HBM, L2 and links were, on one time axis.

A screen is some 1500 pixels wide, so no more boxes than that can be seen in a row. What is drawn is
therefore a *view*: ops of two pixels or more as boxes, shorter ones gathered into blocks that are
as opaque as they are busy. The page in a run folder carries every span and makes a new view at each
zoom; a Figure in a notebook holds one view, of the whole run or of the window asked for. On 50,000
spans this zooms several times faster than a box per span, and than WebGL does without a GPU; and it
works where a browser has no WebGL at all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.facts.outcome import Outcome
from sim.facts.span import Span
from sim.results.metric import seconds_text
from sim.results.palette import escaped, inside_script, words
from sim.results.panels import Area, Panel, Track, axis_unit, detail, kinds_of, panel_of, recorded
from sim.results.timeline_layout import skeleton
from sim.results.utilisation import binned

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WIDTH_PX = 1200  # of the plot area, assumed where no browser says
_BUDGET = 3000  # boxes in one view, over all tracks


def timeline(
    outcomes: Mapping[str, Outcome], *, start_s: float | None = None, end_s: float | None = None
) -> Figure:
    """Every variant below the other on one time axis, drawn for the window from `start_s` to
    `end_s` (seconds).

    In a window of the whole run short ops are gathered; ask for a shorter window, or open
    `timeline.html`, to see each.
    """
    import plotly.graph_objects as go

    unit, scale = axis_unit(outcomes)
    first_s, last_s = recorded(outcomes)
    window = (
        (first_s if start_s is None else start_s) * scale,
        (last_s if end_s is None else end_s) * scale,
    )
    if not window[1] > window[0]:
        window = (window[0], window[0] + 1.0)
    panels = [panel_of(name, outcome, scale) for name, outcome in outcomes.items()]
    kinds = kinds_of(outcomes)
    traces, layout = skeleton(panels, kinds, unit, window)
    tracks = sum(len(p.tracks) for p in panels)
    for p, panel in enumerate(panels):
        _fill_boxes(
            traces[p * len(kinds) : (p + 1) * len(kinds)], panel, kinds, unit, window, tracks
        )
    areas = iter(traces[len(panels) * len(kinds) :])
    for panel in panels:
        for area in panel.areas:
            _fill_area(next(areas), area, window)
    return go.Figure(data=traces, layout=layout)


def timeline_page(outcomes: Mapping[str, Outcome], title: str = "Timeline") -> str:
    """The timeline as one HTML page with plotly.js inside: needs no network, and zooms down to
    every single op."""
    from plotly.offline import get_plotlyjs

    unit, scale = axis_unit(outcomes)
    first_s, last_s = recorded(outcomes)
    panels = [panel_of(name, outcome, scale) for name, outcome in outcomes.items()]
    kinds = kinds_of(outcomes)
    traces, layout = skeleton(panels, kinds, unit, (first_s * scale, last_s * scale or 1.0))
    data = {
        "unit": unit,
        "begin": first_s * scale,
        "end": last_s * scale or 1.0,
        "budget": _BUDGET,
        "kinds": [escaped(words(k)) for k in kinds],
        "traces": traces,
        "layout": layout,
        "panels": [_packed(panel, kinds) for panel in panels],
    }
    left_out = sum(o.timeline.truncated for o in outcomes.values())
    chosen = any(o.timeline.chosen for o in outcomes.values())
    note = f" {left_out:,} later ops were played but not recorded." if left_out else ""
    full_s = [o.timeline.full_s for o in outcomes.values() if o.timeline.full_s is not None]
    if full_s:
        note += f" Recording stopped at {min(full_s):.6g} s: `record.max_spans` was reached."
    if chosen:
        note += " Each variant in its busiest stretch; --record FROM..UNTIL shows another."
    ops = sum(len(o.timeline.spans) for o in outcomes.values())
    here = resources.files("sim.results")
    return (
        (here / "timeline.html")
        .read_text("utf-8")
        .replace("{{title}}", escaped(title))
        .replace("{{summary}}", escaped(f"{ops:,} ops {_when(first_s, last_s)}.{note}"))
        .replace("{{data}}", inside_script(json.dumps(data, ensure_ascii=False, allow_nan=False)))
        .replace("{{script}}", (here / "timeline.js").read_text("utf-8"))
        .replace("{{plotly}}", get_plotlyjs())
    )


def _when(first_s: float, last_s: float) -> str:
    return f"from {first_s:.6g} s to {last_s:.6g} s" if first_s else f"in {seconds_text(last_s)}"


def _hover(span: Span, start: float, duration: float, unit: str) -> str:
    """What pops up over one box; the page's script composes the same."""
    when = f"{words(span.kind)}, {duration:.6g} {unit} from {start:.9g} {unit}"
    return f"<b>{escaped(span.name)}</b><br>{escaped(when)}<br>{detail(span)}"


def _label(span: Span, width_px: float) -> str:
    """The longest name of an op that fits into a box `width_px` wide."""
    short = span.name.rpartition(".")[2]
    for text in (span.name, short, short.rpartition(" ")[2], words(span.kind)):
        if len(text) * 6.6 + 8 <= width_px:
            return escaped(text)
    return ""


def _fill_boxes(
    traces: Sequence[dict[str, Any]],
    panel: Panel,
    kinds: Sequence[str],
    unit: str,
    window: tuple[float, float],
    tracks: int,
) -> None:
    """Puts the boxes of `window` into a panel's bar traces, one a kind, as the script does."""
    from_, to = window
    pixel = (to - from_) / _WIDTH_PX
    least = pixel * max(2.0, _WIDTH_PX * tracks / _BUDGET)
    place = dict(zip(kinds, traces))

    def put(
        kind: str, row: int, at: float, wide: float, hover: str, text: str, opacity: float
    ) -> None:
        trace = place[kind]
        values = {"base": at, "x": wide, "y": row, "customdata": hover, "text": text}
        for key, value in values.items():
            trace[key].append(value)
        trace["marker"]["opacity"].append(opacity)
        trace["marker"]["line"]["width"].append(1 if wide > 6 * pixel else 0)

    def put_block(
        row: int, track: Track, first: int, last: int, until: float, owed: dict[str, float]
    ) -> None:
        busy = 0.0
        for i in range(first, last):
            owed[track.spans[i].kind] = owed.get(track.spans[i].kind, 0.0) + float(
                track.duration[i]
            )
            busy += float(track.duration[i])
        kind = max(owed, key=lambda k: owed[k])
        owed[kind] -= busy
        at = float(track.start[first])
        wide = until - at
        share = min(1.0, busy / wide) if wide > 0 else 1.0
        hover = (
            f"{last - first} ops in {wide:.4g} {unit}, {100 * share:.0f} % busy<br>zoom in "
            "to see them"
        )
        put(kind, row, at, wide, hover, "", 0.25 + 0.75 * share)

    for row, track in enumerate(panel.tracks):
        end = track.start + track.duration
        first = int(np.searchsorted(end, from_, side="right"))
        last = int(np.searchsorted(track.start, to, side="left"))
        block = -1  # where the open block of short ops began
        owed: dict[
            str, float
        ] = {}  # time of each kind not yet shown: colours come in their true proportions
        for i in range(first, last):
            start, wide = float(track.start[i]), float(track.duration[i])
            gap = start - float(end[i - 1]) if block >= 0 else 0.0
            if block >= 0 and (wide >= least or gap > least or start - track.start[block] >= least):
                put_block(row, track, block, i, float(end[i - 1]) if gap > least else start, owed)
                block = -1
            if wide >= least:
                span = track.spans[i]
                put(
                    span.kind,
                    row,
                    start,
                    wide,
                    _hover(span, start, wide, unit),
                    _label(span, wide / pixel),
                    1.0,
                )
            elif block < 0:
                block = i
        if block >= 0:
            put_block(row, track, block, last, float(end[last - 1]), owed)


def _fill_area(trace: dict[str, Any], area: Area, window: tuple[float, float]) -> None:
    """Steps while they can be told apart, means over a pixel or so where they cannot."""
    from_, to = window
    inside = (area.times >= from_) & (area.times <= to)
    if np.count_nonzero(inside) <= _WIDTH_PX:
        index = int(np.searchsorted(area.times, from_, side="right")) - 1
        before = float(area.share[index]) if index >= 0 else 0.0
        x = [from_, *area.times[inside].tolist(), to]
        y = [before, *area.share[inside].tolist()]
        trace["x"], trace["y"] = x, [*y, y[-1]]
        return
    edges = np.linspace(from_, to, _WIDTH_PX + 1)
    share = binned(area.times, area.share, edges)
    trace["x"], trace["y"] = edges.tolist(), [*share.tolist(), float(share[-1])]


def _packed(panel: Panel, kinds: Sequence[str]) -> dict[str, Any]:
    """A panel's spans as columns in base64, names and hover lines once: some 30 bytes each."""
    spans = [span for track in panel.tracks for span in track.spans]
    place = {kind: i for i, kind in enumerate(kinds)}
    names = {name: i for i, name in enumerate(dict.fromkeys(span.name for span in spans))}
    told = {_told(span): span for span in spans}
    details = {key: i for i, key in enumerate(told)}
    return {
        "rows": [len(track.spans) for track in panel.tracks],
        "names": [escaped(name) for name in names],
        "details": [detail(span) for span in told.values()],
        "columns": {
            "start": _base64([track.start.astype("<f8") for track in panel.tracks]),
            "duration": _base64([track.duration.astype("<f4") for track in panel.tracks]),
            "kind": _base64([np.array([place[span.kind] for span in spans], "<u2")]),
            "name": _base64([np.array([names[span.name] for span in spans], "<u4")]),
            "detail": _base64([np.array([details[_told(span)] for span in spans], "<u4")]),
        },
        "areas": [
            {"times": _base64([a.times.astype("<f8")]), "share": _base64([a.share.astype("<f4")])}
            for a in panel.areas
        ],
    }


def _told(span: Span) -> tuple[object, ...]:
    """What the lines of its hover that do not depend on when it ran are made of."""
    return span.hbm_bytes, span.l2_bytes, span.link_bytes, span.flop, span.bound, span.note


def _base64(parts: Sequence[NDArray[Any]]) -> str:
    return base64.b64encode(b"".join(p.tobytes() for p in parts)).decode("ascii")
