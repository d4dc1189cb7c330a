"""The report's figures as plain SVG: no script, sharp in print, readable on light and dark paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.results.palette import escaped

_WIDTH, _LABEL, _BAR, _STEP = 860, 150, 26, 40

Parts = Sequence[tuple[str, str, float]]  # name, colour, seconds


def stacked_bars(bars: Mapping[str, Parts], text: str, seconds_text: Mapping[str, str]) -> str:
    """A bar for each variant, all on one scale of seconds, so that a shorter bar is a faster variant.

    `text` describes the figure to those who cannot see it; `seconds_text` is written after each bar.
    """
    longest = max((sum(part[2] for part in parts) for parts in bars.values()), default=0.0) or 1.0
    room = max(90.0, 18 + 6.6 * max(map(len, seconds_text.values()), default=0))
    scale = (_WIDTH - _LABEL - room) / longest
    out = []
    for row, (name, parts) in enumerate(bars.items()):
        y, x = 4 + row * _STEP, float(_LABEL)
        out.append(f'<text class="name" x="{_LABEL - 10}" y="{y + 18}" text-anchor="end">{_cut(name, 20)}</text>')
        total = sum(part[2] for part in parts) or 1.0
        for part, colour, seconds in parts:
            wide = seconds * scale
            share = f"{100 * seconds / total:.0f} %"
            tip = f"<title>{escaped(name)}: {escaped(part)}, {share}</title>"
            out.append(f'<rect x="{x:.2f}" y="{y}" width="{wide:.2f}" height="{_BAR}" fill="{colour}">{tip}</rect>')
            if wide > 34:
                ink = "#111" if _light(colour) else "#fff"
                at = f'x="{x + wide / 2:.2f}" y="{y + 17}" text-anchor="middle"'
                out.append(f'<text {at} fill="{ink}" class="in">{share}</text>')
            x += wide
        out.append(f'<text class="soft" x="{x + 8:.2f}" y="{y + 18}">{escaped(seconds_text.get(name, ""))}</text>')
    height = max(1, len(bars)) * _STEP
    return f"{_svg(_WIDTH, height, text)}{''.join(out)}</svg>{_legend(bars)}"


def cdf(curves: Mapping[str, tuple[str, Sequence[float] | np.ndarray]], title: str, unit: str, scale: float) -> str:
    """Share of requests (upwards) that took no longer than so many `unit` (to the right; seconds times `scale`).

    `curves[variant]` is its colour and its seconds. The axis is logarithmic where the slowest take 30 times the
    fastest.
    """
    width, height, left, bottom, top = 420, 250, 46, 44, 26
    values = {name: np.sort(np.asarray(seconds)) * scale for name, (_, seconds) in curves.items() if len(seconds)}
    if not values:
        return ""
    low = min(float(v[0]) for v in values.values())
    high = max(float(v[-1]) for v in values.values()) or 1.0
    logarithmic = low > 0 and high / low > 30
    if not logarithmic:
        low = 0.0

    def across(value: float) -> float:
        if logarithmic:
            return left + (np.log10(value) - np.log10(low)) / (np.log10(high) - np.log10(low)) * (width - left - 14)
        return left + value / high * (width - left - 14)

    def up(share: float) -> float:
        return top + (1 - share) * (height - top - bottom)

    out = [f'<text x="{left}" y="15" class="name">{escaped(title)}</text>']
    for share in (0.0, 0.5, 0.9, 0.99):
        if share != 0.99:
            y = up(share)
            out.append(f'<line class="grid" x1="{left}" x2="{width - 14}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(
                f'<text class="soft" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
            )
    for tick in _ticks(low, high, logarithmic):
        x = across(tick)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>')
        out.append(f'<text class="soft" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (left + width - 14) / 2
    out.append(f'<text class="soft" x="{middle}" y="{height - 8}" text-anchor="middle">{escaped(unit)}</text>')
    for name, sorted_values in values.items():
        shares = np.linspace(0, 1, min(200, len(sorted_values)) + 1)[1:]
        at = np.quantile(sorted_values, shares, method="inverted_cdf")
        points = " ".join(f"{across(float(v)):.1f},{up(float(s)):.1f}" for v, s in zip(at, shares))
        first = f"{across(float(sorted_values[0])):.1f},{up(0):.1f}"
        tip = f"<title>{escaped(name)}</title>"
        pen = f'fill="none" stroke="{curves[name][0]}" stroke-width="2"'
        out.append(f'<polyline points="{first} {points}" {pen}>{tip}</polyline>')
    return f"{_svg(width, height, f'{title}: share of requests by {unit}')}{''.join(out)}</svg>"


def legend(items: Sequence[tuple[str, str]]) -> str:
    """Names with their colour, in a row."""
    spans = (f'<span><i style="background:{colour}"></i>{escaped(name)}</span>' for name, colour in items)
    return f'<p class="legend">{"".join(spans)}</p>'


def _legend(bars: Mapping[str, Parts]) -> str:
    return legend(list(dict.fromkeys((name, colour) for parts in bars.values() for name, colour, s in parts if s > 0)))


def _svg(width: int, height: int, text: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escaped(text)}">'


def _cut(name: str, length: int) -> str:
    return escaped(name if len(name) <= length else name[: length - 1] + "…")


def _light(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [m * 10.0**p for p in powers for m in ((1, 3) if len(powers) < 4 else (1,))]
        return [t for t in ticks if low <= t <= high]
    step = 10.0 ** np.floor(np.log10(high))
    step = next(step * m for m in (0.1, 0.2, 0.5, 1, 2) if high / (step * m) <= 5.5)
    return [float(f"{i * step:.6g}") for i in range(int(high / step) + 1)]
