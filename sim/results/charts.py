"""The report's figures as plain SVG: no script, sharp in print, for light and dark paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sim.results.palette import escaped

_WIDTH, _LABEL, _BAR, _STEP = 860, 150, 26, 40
_MOST_LETTERS = 34  # of a bar's name
WIDE = 420  # width of a figure with two axes
_MOST_OF_A_DOT = 32  # letters of its name
# Of a curve of many values: one for each third of a percent, and the tail down to a millionth.
_SHARES = np.unique(np.concatenate([np.linspace(0, 1, 301)[1:], 1 - np.geomspace(1e-2, 1e-6, 60)]))

Parts = Sequence[tuple[str, str, float]]  # name, colour, seconds


def stacked_bars(bars: Mapping[str, Parts], text: str, seconds_text: Mapping[str, str]) -> str:
    """A bar for each variant, all on one scale of seconds, so that a shorter bar is a faster
    variant.

    `text` describes the figure to those who cannot see it; `seconds_text` is written after each
    bar.
    """
    longest = max((sum(part[2] for part in parts) for parts in bars.values()), default=0.0) or 1.0
    letters = min(max(map(len, bars), default=0), _MOST_LETTERS)
    label = max(_LABEL, 18 + 7 * letters)
    room = max(90.0, 18 + 6.6 * max(map(len, seconds_text.values()), default=0))
    scale = (_WIDTH - label - room) / longest
    out = []
    for row, (name, parts) in enumerate(bars.items()):
        y, x = 4 + row * _STEP, float(label)
        out.append(
            f'<text class="name" x="{label - 10}" y="{y + 18}" '
            f'text-anchor="end">{cut(name, _MOST_LETTERS)}</text>'
        )
        total = sum(part[2] for part in parts) or 1.0
        for part, colour, seconds in parts:
            wide = seconds * scale
            share = f"{100 * seconds / total:.0f} %"
            tip = f"<title>{escaped(name)}: {escaped(part)}, {share}</title>"
            out.append(
                f'<rect x="{x:.2f}" y="{y}" width="{wide:.2f}" height="{_BAR}" '
                f'fill="{colour}">{tip}</rect>'
            )
            if wide > 34 and len(parts) > 1:
                ink = "#111" if _light(colour) else "#fff"
                at = f'x="{x + wide / 2:.2f}" y="{y + 17}" text-anchor="middle"'
                out.append(f'<text {at} fill="{ink}" class="in">{share}</text>')
            x += wide
        out.append(
            f'<text class="soft" x="{x + 8:.2f}" '
            f'y="{y + 18}">{escaped(seconds_text.get(name, ""))}</text>'
        )
    height = max(1, len(bars)) * _STEP
    items = [(part, colour) for parts in bars.values() for part, colour, s in parts if s > 0]
    return f"{svg(_WIDTH, height, text)}{''.join(out)}</svg>{legend(items)}"


class Line(NamedTuple):
    """One variant's line: of a CDF, values and shares; of a time series, one edge more than
    values."""

    colour: str
    x: np.ndarray
    y: np.ndarray


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, ascending, and the share of all that is no greater; of many, some 360 of them,
    densest in the tail."""
    ordered = np.sort(values)
    if len(ordered) <= len(_SHARES):
        return ordered, np.arange(1, len(ordered) + 1) / len(ordered)
    return ordered[np.ceil(_SHARES * len(ordered) - 1e-6).astype(int) - 1], _SHARES


def histogram_quantiles(ends: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of a histogram whose bin i ends at `ends[i]`: values are rounded up to that."""
    past = np.cumsum(counts) / counts.sum()
    places = np.unique(np.minimum(np.searchsorted(past, _SHARES), len(past) - 1))
    return ends[places], past[places]


def cdf(
    lines: Mapping[str, Line], title: str, unit: str, scale: float, what: str = "requests"
) -> str:
    """Share of `what` (upwards) that took no longer than so many `unit` (to the right; seconds
    times `scale`).

    The axis is logarithmic where the slowest take 30 times the fastest, and then begins at
    1/100,000 of the slowest: what is quicker stands at its left end.
    """
    values = {name: line.x * scale for name, line in lines.items() if len(line.x)}
    if not values:
        return ""
    high = max(float(v[-1]) for v in values.values()) or 1.0
    low = max(min(float(v[v > 0].min(initial=high)) for v in values.values()), 1e-5 * high)
    logarithmic = high / low > 30
    low = low if logarithmic else 0.0
    plot = Plot(room_for(["100 %"]), 250)

    def across(value: np.ndarray) -> np.ndarray:
        share = (
            np.log(np.maximum(value, low) / low) / np.log(high / low)
            if logarithmic
            else value / high
        )
        return plot.left + share * plot.across

    down = [(1 - share, f"{100 * share:.0f} %") for share in (0.0, 0.5, 0.9, 1.0)]
    ticks = _ticks(low, high, logarithmic)
    along = [
        (float(x - plot.left) / plot.across, f"{tick:,.10g}")
        for tick, x in zip(ticks, across(np.array(ticks)))
    ]
    stairs = [
        _stairs(plot, across(x), 1 - lines[name].y, lines[name].colour, name)
        for name, x in values.items()
    ]
    grid = frame(plot, title, "", along, down, unit)
    head = svg(WIDE, plot.height, f"{title}: share of {what} by {unit}")
    return f"{head}{grid}{''.join(stairs)}</svg>"


def time_series(
    lines: Mapping[str, Line],
    title: str,
    unit: str,
    time_unit: str,
    scale: float,
    *,
    area: bool = False,
) -> str:
    """Values (upwards, from zero) over time (to the right; seconds times `scale`), each from an
    edge to the next, as an `area` or a line.

    `unit` "%": values are shares, and the axis goes to 100 % where one comes near it.
    """
    shares = unit == "%"
    top = max((float(line.y.max(initial=0.0)) for line in lines.values()), default=0.0) * (
        100 if shares else 1
    )
    top = 100.0 if shares and top > 40 else top or 1.0
    last = (
        max((float(line.x[-1]) for line in lines.values() if len(line.x)), default=0.0) * scale
        or 1.0
    )
    heights = _ticks(0.0, top, False)
    labels = [f"{tick:,.10g}{' %' if shares else ''}" for tick in heights]
    plot = Plot(room_for(labels), 190)
    down = [(1 - tick / top, text) for tick, text in zip(heights, labels)]
    along = [(tick / last, f"{tick:,.10g}") for tick in _ticks(0.0, last, False)]
    stairs = [
        _stairs(
            plot,
            plot.left + line.x * (scale / last) * plot.across,
            1 - np.append(line.y, line.y[-1]) * ((100 if shares else 1) / top),
            line.colour,
            name,
            area,
        )
        for name, line in lines.items()
        if len(line.y)
    ]
    grid = frame(plot, title, "" if shares else unit, along, down, f"time in {time_unit}")
    head = svg(WIDE, plot.height, f"{title} in {unit} over time")
    return f"{head}{grid}{''.join(stairs)}</svg>"


def scatter(
    points: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str],
    title: str,
    unit: str,
    below: str,
    wide: int = WIDE,
    high: int = 280,
) -> str:
    """A dot for each variant, both of whose numbers are to be low, and a line along those that no
    other betters in both.

    An axis is logarithmic where its largest number is 10 times the smallest. A name stands where it
    covers no other; where there is no such place, only the dot's tip has it.
    """
    if not points:
        return ""
    axes = [Axis.of([point[axis] for point in points.values()]) for axis in (0, 1)]
    labels = [f"{tick:,.10g}" for tick in axes[1].ticks]
    plot = Plot(room_for(labels), high, wide=wide)
    along = [(axes[0].share(tick), f"{tick:,.10g}") for tick in axes[0].ticks]
    down = [(1 - axes[1].share(tick), text) for tick, text in zip(axes[1].ticks, labels)]
    at = {
        name: (
            plot.left + axes[0].share(x) * plot.across,
            plot.top + (1 - axes[1].share(y)) * plot.down,
        )
        for name, (x, y) in points.items()
    }
    front = unbettered(points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at[name] for name in front))
    out = [f'<polyline points="{line}" fill="none" stroke="#8A8F98" stroke-dasharray="4 3"/>']
    for name, (x, y) in at.items():
        tip = f"<title>{escaped(name)}: {points[name][0]:.4g}, {points[name][1]:.4g}</title>"
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colours[name]}">{tip}</circle>')
    first = {name: at[name] for name in dict.fromkeys([*front, *at])}
    out += _names(first, plot)
    head = svg(wide, plot.height, f"{title} over {below}, a dot for each variant")
    return f"{head}{frame(plot, title, unit, along, down, below)}{''.join(out)}</svg>"


_LETTER, _LINE, _CLEAR = 6.2, 12.0, 6.0  # of a name, and from the middle of a dot, in pixels


def _names(at: Mapping[str, tuple[float, float]], plot: Plot) -> Iterator[str]:
    """The name of each dot beside it, in the first place that is free."""
    taken = [(x - _CLEAR, y - _CLEAR, x + _CLEAR, y + _CLEAR) for x, y in at.values()]
    for name, (x, y) in at.items():
        long = _LETTER * min(len(name), _MOST_OF_A_DOT)
        places = [
            (x + side * 8 - (0.5 - side / 2) * long, y + drop)
            for drop in (4, -7, 15, -17, 25, -29, 37)
            for side in (1, -1)
        ]
        for left, base in places:
            box = (left, base - _LINE + 2, left + long, base + 2)
            inside = plot.left <= box[0] and box[2] <= plot.wide - 4
            inside &= plot.top <= box[1] and box[3] <= plot.height - 44
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                text = cut(name, _MOST_OF_A_DOT)
                yield f'<text class="soft" x="{left:.1f}" y="{base:.1f}">{text}</text>'
                if abs(base - y) > _LINE:  # whose name it is would be a guess
                    end = f'x2="{min(max(x, left), left + long):.1f}" y2="{base - 4:.1f}"'
                    yield f'<line stroke="#8A8F98" x1="{x:.1f}" y1="{y:.1f}" {end}/>'
                break


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes of left, top, right and bottom overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def curves(
    lines: Mapping[str, Line], title: str, unit: str, below: str, at: float | None = None
) -> str:
    """Values (upwards) over what `below` says (to the right), all above 0; `at` is marked.

    An axis is logarithmic where its largest number is 10 times the smallest.
    """
    if not lines:
        return ""
    every = [np.concatenate([getattr(line, of) for line in lines.values()]) for of in ("x", "y")]
    across, up = (Axis.of(values.tolist()) for values in every)
    labels = [f"{tick:,.10g}" for tick in up.ticks]
    plot = Plot(room_for(labels), 300)
    along = [(across.share(tick), f"{tick:,.10g}") for tick in across.ticks]
    down = [(1 - up.share(tick), text) for tick, text in zip(up.ticks, labels)]
    out = []
    for name, line in lines.items():
        points = " ".join(
            f"{plot.left + across.share(x) * plot.across:.1f},"
            f"{plot.top + (1 - up.share(y)) * plot.down:.1f}"
            for x, y in zip(line.x.tolist(), line.y.tolist())
        )
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{line.colour}" '
            f'stroke-width="1.8"><title>{escaped(name)}</title></polyline>'
        )
    if at is not None and across.low <= at <= across.high:
        x = plot.left + across.share(at) * plot.across
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{plot.top}" y2="{plot.top + plot.down:.1f}" '
            f'stroke="#8A8F98" stroke-dasharray="4 3"><title>as it is: {at:,.4g} {escaped(below)}'
            "</title></line>"
        )
    grid = frame(plot, title, unit, along, down, below)
    return f"{svg(WIDE, plot.height, title)}{grid}{''.join(out)}</svg>"


def unbettered(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those with no other as low in both numbers and lower in one, by the first number."""
    found: list[str] = []
    for name in sorted(points, key=lambda name: points[name]):
        if not found or points[name][1] < points[found[-1]][1]:
            found.append(name)
    return found


class Axis(NamedTuple):
    """From where to where an axis goes, and where it has ticks."""

    low: float
    high: float
    logarithmic: bool
    ticks: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """One that shows all values with some room at its ends."""
        low, high = min(values), max(values)
        logarithmic = low > 0 and high / low > 10
        if logarithmic:
            low, high = low / 1.3, high * 1.3
            return cls(low, high, True, _ticks(low, high, True))
        room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = max(low - room, 0.0), high + room
        step = 10.0 ** np.floor(np.log10(high - low))
        step = next(step * m for m in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * m) <= 6)
        first = int(np.ceil(low / step))
        ticks = [float(f"{i * step:.6g}") for i in range(first, int(high / step) + 1)]
        return cls(low, high, False, ticks)

    def share(self, value: float) -> float:
        """Of the axis, from its low end."""
        if self.logarithmic:
            return float(np.log(value / self.low) / np.log(self.high / self.low))
        return (value - self.low) / (self.high - self.low)


class Plot(NamedTuple):
    """Where a figure's axes stand, in pixels."""

    left: float
    height: int
    top: int = 26
    wide: int = WIDE

    @property
    def across(self) -> float:
        """Pixels of the axis to the right."""
        return self.wide - 18 - self.left

    @property
    def down(self) -> float:
        """Pixels of the axis upwards."""
        return self.height - self.top - 44


def frame(
    plot: Plot,
    title: str,
    unit: str,
    along: Sequence[tuple[float, str]],
    down: Sequence[tuple[float, str]],
    below: str,
) -> str:
    """Title, grid and labels: `along` to the right and `down` from the top, each a share of the
    axis and its text."""
    soft = f'<tspan class="soft" font-size="12">&#160; {escaped(unit)}</tspan>' if unit else ""
    out = [f'<text x="{plot.left:.0f}" y="15" class="name">{escaped(title)}{soft}</text>']
    right, bottom = plot.wide - 18, plot.height - 44
    for share, text in down:
        y = plot.top + share * plot.down
        out += [
            f'<line class="grid" x1="{plot.left:.0f}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="soft" x="{plot.left - 6:.0f}" y="{y + 4:.1f}" '
            f'text-anchor="end">{text}</text>',
        ]
    for share, text in along:
        x = plot.left + share * plot.across
        out += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{plot.top}" y2="{bottom}"/>',
            f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>',
        ]
    middle = plot.left + plot.across / 2
    out.append(
        f'<text class="soft" x="{middle:.0f}" y="{plot.height - 8}" '
        f'text-anchor="middle">{escaped(below)}</text>'
    )
    return "".join(out)


def room_for(labels: Sequence[str]) -> float:
    """Pixels to the left of an axis with these labels."""
    return max(
        60.0, 14 + 6.6 * max(map(len, labels), default=0)
    )  # mostly equal, so that figures line up


def _stairs(
    plot: Plot, xs: np.ndarray, down: np.ndarray, colour: str, name: str, area: bool = False
) -> str:
    """A line from the bottom across to each point, then up or down to it.

    `down` are shares of the axis from its top. Moves below 0.1 pixels are left out.
    """
    x0, y0 = f"{xs[0]:.1f}", f"{plot.top + plot.down:.1f}"
    path, last = [f"M{x0},{y0}"], x0
    for x, y in zip(xs, plot.top + down * plot.down):
        across, up = f"{x:.1f}", f"{y:.1f}"
        if up != y0:
            path.append(f"H{across}V{up}" if across != x0 else f"V{up}")
            x0, y0 = across, up
        last = across
    path.append(f"H{last}" if last != x0 else "")
    filled = f'fill="{colour}" fill-opacity="0.3"' if area else 'fill="none"'
    path.append(f"V{plot.top + plot.down:.1f}Z" if area else "")
    pen = f'{filled} stroke="{colour}" stroke-width="1.6" stroke-opacity="0.9"'
    return f'<path d="{"".join(path)}" {pen}><title>{escaped(name)}</title></path>'


def legend(items: Iterable[tuple[str, str]]) -> str:
    """Names with their colour, in a row, each once."""
    spans = (
        f'<span><i style="background:{colour}"></i>{escaped(name)}</span>'
        for name, colour in dict.fromkeys(items)
    )
    return f'<p class="legend">{"".join(spans)}</p>'


def svg(width: int, height: int, text: str) -> str:
    """The beginning of a figure; `text` describes it to those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escaped(text)}">'
    )


def cut(name: str, length: int) -> str:
    """A name, escaped, that is no longer than so many letters."""
    return escaped(name if len(name) <= length else name[: length - 1] + "…")


def _light(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        decades = np.log10(high / low)
        steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3.5 else (1,)
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [m * 10.0**p for p in powers for m in steps]
        return [t for t in ticks if low <= t <= high]
    step = 10.0 ** np.floor(np.log10(high))
    step = next(step * m for m in (0.1, 0.2, 0.5, 1, 2) if high / (step * m) <= 5.5)
    return [float(f"{i * step:.6g}") for i in range(int(high / step) + 1)]
