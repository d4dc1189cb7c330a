"""The figures of a sweep as plain SVG: all points over two objectives, over all axes, and
effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.explore.summary import Effect, Levels, Scored
from sim.results.charts import WIDE, Axis, Plot, cut, frame, room_for, svg
from sim.results.palette import escaped

_ALL, _FRONT, _BEST = "#9AA4B2", "#0072B2", "#D55E00"
_LOW, _HIGH = (0, 114, 178), (240, 228, 66)  # of a heat map: blue is good
_ROOM = 940  # pixels across a page
_LETTERS = 22


def cloud(
    drawn: Sequence[Scored],
    front: Sequence[Scored],
    best: Scored,
    names: Sequence[str],
    signs: Sequence[float],
) -> str:
    """Points over the first two objectives; those of the front are joined by a line."""
    shown = [*drawn, *front, best]
    across, up = ([signs[place] * one.scores[place] for one in shown] for place in (0, 1))
    axes = [Axis.of(across), Axis.of(up)]
    labels = [f"{tick:,.10g}" for tick in axes[1].ticks]
    plot = Plot(room_for(labels), 320)
    along = [(axes[0].share(tick), f"{tick:,.10g}") for tick in axes[0].ticks]
    down = [(1 - axes[1].share(tick), text) for tick, text in zip(axes[1].ticks, labels)]

    def at(one: Scored) -> tuple[float, float]:
        x, y = (signs[place] * one.scores[place] for place in (0, 1))
        return (
            plot.left + axes[0].share(x) * plot.across,
            plot.top + (1 - axes[1].share(y)) * plot.down,
        )

    def dot(one: Scored, size: float, colour: str) -> str:
        x, y = at(one)
        tip = f"<title>point {one.row.number}: {_keys(one)}</title>"
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}">{tip}</circle>'

    ordered = sorted(front, key=lambda one: one.scores)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, ordered))
    out = [
        *(dot(one, 2.5, _ALL) for one in drawn),
        f'<polyline points="{line}" fill="none" stroke="{_FRONT}" stroke-dasharray="4 3"/>',
        *(dot(one, 4, _FRONT) for one in ordered),
        dot(best, 5, _BEST),
    ]
    title = f"{names[1]} over {names[0]}"
    head = svg(WIDE, plot.height, f"{title}, a dot for each point")
    return f"{head}{frame(plot, names[1], '', along, down, names[0])}{''.join(out)}</svg>"


def _keys(one: Scored) -> str:
    return escaped(", ".join(f"{key} {value}" for key, value in one.row.point.items()))


def parallel(
    drawn: Sequence[Scored],
    best: Scored,
    levels: Sequence[Levels],
    names: Sequence[str],
    signs: Sequence[float],
    short: Mapping[str, str],
) -> str:
    """Each point as a line across one upright for each axis and objective, from blue (good in the
    first objective) to yellow."""
    uprights = len(levels) + len(names)
    if uprights < 2:
        return ""
    high, top, left, right = 260, 46, 60, 90
    step = (_ROOM - left - right) / (uprights - 1)
    ranges = [Axis.of([sign * one.scores[i] for one in drawn]) for i, sign in enumerate(signs)]
    shares = _ranks([one.scores[0] for one in drawn])

    def heights(one: Scored) -> list[float]:
        places = [each.of(one.row.point) for each in levels]
        found = [
            (0.5 if place is None else (place + 0.5) / len(each))
            for place, each in zip(places, levels)
        ]
        found += [ranges[i].share(sign * one.scores[i]) for i, sign in enumerate(signs)]
        return [top + (1 - min(max(share, 0.0), 1.0)) * high for share in found]

    def line(one: Scored, colour: str, width: float, opacity: float) -> str:
        points = " ".join(f"{left + i * step:.1f},{y:.1f}" for i, y in enumerate(heights(one)))
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}" stroke-opacity="{opacity}"><title>point {one.row.number}: '
            f"{_keys(one)}</title></polyline>"
        )

    worst_first = sorted(zip(drawn, shares), key=lambda pair: -pair[1])
    out = [line(one, _between(share), 1.0, 0.55) for one, share in worst_first]
    out.append(line(best, _BEST, 2.5, 1.0))
    for place in range(uprights):
        x = left + place * step
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + high}"/>')
        if place < len(levels):
            title, ends = _named(levels[place], short), levels[place].labels
            low, most = ends[0], ends[-1]
        else:
            title, span = names[place - len(levels)], ranges[place - len(levels)]
            low, most = f"{span.low:.4g}", f"{span.high:.4g}"
        for text, y, kind in (
            (title, top - 24, "name"),
            (most, top - 8, "soft"),
            (low, top + high + 16, "soft"),
        ):
            out.append(
                f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="middle">'
                f"{cut(text, max(8, int(step / 7)))}</text>"
            )
    head = svg(_ROOM, top + high + 28, "Each point as a line across its keys and objectives")
    return f"{head}{''.join(out)}</svg>"


def _ranks(scores: Sequence[float]) -> list[float]:
    """Each score's place among all, from 0 (the best) to 1."""
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return (order / max(len(scores) - 1, 1)).tolist()


def _between(share: float) -> str:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(_LOW, _HIGH))
    return f"#{red:02x}{green:02x}{blue:02x}"


def main_effect(effect: Effect, name: str, short: Mapping[str, str]) -> str:
    """The mean and the best of the first objective at each level of an axis."""
    (levels,) = effect.levels
    there = np.flatnonzero(np.isfinite(effect.mean))
    if not len(there):
        return ""
    values = [*effect.mean[there].tolist(), *effect.best[there].tolist()]
    axis = Axis.of(values)
    labels = [f"{tick:,.10g}" for tick in axis.ticks]
    plot = Plot(room_for(labels), 210)
    n = len(levels)
    every = max(1, -(-n * max(map(len, levels.labels)) * 7 // int(plot.across)))
    along = [
        ((place + 0.5) / n, cut(text, _LETTERS))
        for place, text in enumerate(levels.labels)
        if place % every == 0
    ]
    down = [(1 - axis.share(tick), text) for tick, text in zip(axis.ticks, labels)]
    out = []
    for numbers, colour, what in ((effect.mean, _ALL, "mean"), (effect.best, _FRONT, "best")):
        at = [
            (
                plot.left + (place + 0.5) / n * plot.across,
                plot.top + (1 - axis.share(float(numbers[place]))) * plot.down,
            )
            for place in there
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>'
            f"{escaped(levels.labels[place])}: {what} {numbers[place]:.6g}</title></circle>"
            for place, (x, y) in zip(there, at)
        ]
    head = svg(WIDE, plot.height, f"{name}: mean and best by {levels.axis.name}")
    title = f"{_named(levels, short)}: {100 * effect.share:.0f} % of the variance"
    return f"{head}{frame(plot, title, '', along, down, '')}{''.join(out)}</svg>"


def heat_map(effect: Effect, name: str, good: float, short: Mapping[str, str]) -> str:
    """The best of the first objective for each pair of levels of two axes, as a table; `good` 1:
    low is."""
    along, down = effect.levels[1], effect.levels[0]
    values = effect.best
    there = values[np.isfinite(values)]
    if not len(there):
        return ""
    low, high = float(there.min()), float(there.max())
    head = "".join(f"<th class=num>{escaped(text)}</th>" for text in along.labels)
    lines = []
    for place, text in enumerate(down.labels):
        cells = []
        for value in values[place]:
            if not np.isfinite(value):
                cells.append("<td></td>")
                continue
            share = (value - low) / (high - low) if high > low else 0.0
            share = share if good > 0 else 1 - share
            ink = "#fff" if share < 0.45 else "#111"
            cells.append(
                f'<td class=num style="background:{_between(float(share))};color:{ink}">'
                f"{value:.4g}</td>"
            )
        lines.append(f"<tr><th>{escaped(text)}</th>{''.join(cells)}</tr>")
    return (
        f"<p>{escaped(_named(down, short))} (down) and {escaped(_named(along, short))} (across): "
        f"together {100 * effect.share:.1f} % of the variance beyond what each does by itself."
        f'</p><div class="wide"><table class="heat dense"><tr><th></th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )


def _named(levels: Levels, short: Mapping[str, str]) -> str:
    return " & ".join(short[key] for key in levels.axis.keys)
