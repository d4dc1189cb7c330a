"""How sure a verdict is, in a sentence, a table and a section of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sim.facts.assumption import Range
from sim.results.charts import Line, curves, cut, legend, svg
from sim.results.metric import seconds_text
from sim.results.palette import escaped
from sim.text.units import prefixed, show_field

if TYPE_CHECKING:
    from rich.table import Table

_WIDE, _LETTERS, _STEP, _SHOWN = 860, 46, 26, 12  # of the tornado, which shows the largest
_LOW_END, _HIGH_END = "#E69F00", "#0072B2"
_LOW, _HIGH = 10, 90  # percentiles: four draws of five lie between
_HOW = {
    "FITTED": "fitted",
    "INFER": "inferred",
    "RECALLED": "from memory",
    "OWN": "your own",
    "READ": "to be confirmed",
    "CHECKED": "checked",
}


class Constant(NamedTuple):
    """A number that verdicts rest on, `part: field`, and what is known of it."""

    name: str
    tag: str
    value: str
    known: Range

    @property
    def part(self) -> str:
        """Of what it is a number."""
        return self.name.partition(": ")[0]

    @property
    def field(self) -> str:
        """Which number."""
        return self.name.partition(": ")[2]

    @property
    def ends(self) -> tuple[float, float]:
        """Of its range."""
        return self.known.low, self.known.high

    @property
    def how(self) -> str:
        """How it is known, and whose range it is where that is somebody else's."""
        how = _HOW.get(self.tag, self.tag)
        return f"{how}, in the catalogue's range" if self._borrowed else how

    @property
    def _borrowed(self) -> bool:
        return self.tag == "OWN" and self.known.source != "mine"

    def shown(self, value: float) -> str:
        """A value of it as text."""
        return show_field(self.name, value)


class Swing(NamedTuple):
    """The judged number with one constant at its ends, the others as they are; NaN: no answer."""

    constant: Constant
    low: float
    high: float

    def size(self, nominal: float) -> float:
        """By how much it moves the number: the larger of both ends, as a log ratio."""
        moved = [abs(log(end / nominal)) for end in (self.low, self.high) if end > 0.0]
        return max(moved, default=0.0)


@dataclass(frozen=True)
class Sure:
    """What is known of the number that a verdict is about.

    `swings` are the constants that matter, the one that decides first; `idle` those that change
    nothing; `fixed` those that do not vary, and why. `draws` are the number's values with
    all that matter drawn together (`lost` of them gave none), `fitted` those with only fitted ones
    drawn, where there are others too. `curve` is the number over all of the range of the one that
    decides, and `crossing` where it passes 1.
    """

    judged: str
    ratio: bool
    nominal: float
    swings: tuple[Swing, ...]
    idle: tuple[str, ...]
    fixed: tuple[str, ...]
    draws: tuple[float, ...]
    lost: int
    fitted: tuple[float, ...]
    seed: int
    curve: tuple[tuple[float, float], ...]
    crossing: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """Between which ends four draws of five lie."""
        return _interval(self.draws) if self.draws else (self.nominal, self.nominal)

    @property
    def sentence(self) -> str:
        """The answer, to stand after the verdict."""
        name = self.judged.rpartition(".")[0]
        if not self.swings:
            return (
                f"How sure: no constant that can vary within what is known of it moves {name} by "
                f"more than 0.1 %."
            )
        parts = listed(dict.fromkeys(swing.constant.part for swing in self.swings))
        low, high = map(self.text, self.interval)
        alone = ""
        if self.fitted:
            a, b = map(self.text, _interval(self.fitted))
            alone = f"; with the fitted ones alone {a} to {b}"
        beside = ""
        if not self.interval[0] <= self.nominal <= self.interval[1]:
            side = "above" if self.nominal > self.interval[1] else "below"
            beside = f", {self.text(self.nominal)} by the cards as they are lies {side} that"
        beside += self._lost()
        return (
            f"How sure: {low} to {high} in four of five draws within what is known of {parts} "
            f"({self._how()}, varied together{alone}){beside}; decided by {self._decider()}."
        )

    def _lost(self) -> str:
        """That the interval is one of fewer draws than were asked for, if so."""
        return f", {self.lost} more draws gave no answer" if self.lost else ""

    def _how(self) -> str:
        """How many constants of each kind."""
        counts: dict[str, int] = {}
        for swing in self.swings:
            how = _HOW.get(swing.constant.tag, swing.constant.tag)
            counts[how] = counts.get(how, 0) + 1
        return f"{len(self.swings)} constants: " + listed(
            f"{count} {how}" for how, count in counts.items()
        )

    def _decider(self) -> str:
        first = self.swings[0].constant
        known = first.known
        span = f"{first.shown(known.low)} to {first.shown(known.high)}"
        told = f"{first.field} of {first.part} ({first.how}, {span})"
        if not self.ratio or not self.curve:
            return told
        if self.crossing is None:
            always = "pays" if self.curve[0][1] > 1.0 else "does not pay"
            return f"{told}: alone, it {always} over all of that{self._others()}"
        side = "above" if self.curve[-1][1] > self.curve[0][1] else "below"
        return f"{told}: it pays {side} {first.shown(self.crossing)}{self._others()}"

    def _others(self) -> str:
        """How many draws of all together say the other thing, a gain or a loss."""
        other = sum((draw > 1.0) != (self.nominal > 1.0) for draw in self.draws)
        slower = "slower" if self.nominal > 1.0 else "faster"
        told = f"; {other} of {len(self.draws)} draws are {slower} than the baseline"
        return told if other else ""

    def text(self, value: float) -> str:
        """A value of the judged number."""
        if self.ratio:
            return f"{value:.2f}x" if abs(value - 1) >= 0.015 else f"{value:.4g}x"
        return seconds_text(value) if self.judged.endswith("_s") else f"{value:.4g}"

    def to_json(self) -> dict[str, Any]:
        """For `result.json`."""
        low, high = self.interval
        return {
            "judged": self.judged,
            "nominal": self.nominal,
            "low": low,
            "high": high,
            "draws": list(self.draws),
            "lost": self.lost,
            "fitted": list(self.fitted),
            "seed": self.seed,
            "constants": [
                {
                    "name": one.name,
                    "tag": one.tag,
                    "low": one.known.low,
                    "value": one.known.value,
                    "high": one.known.high,
                    "source": one.known.source,
                    "at_low": _or_none(at_low),
                    "at_high": _or_none(at_high),
                }
                for one, at_low, at_high in self.swings
            ],
            "idle": list(self.idle),
            "fixed": list(self.fixed),
            "curve": [list(point) for point in self.curve],
            "crossing": self.crossing,
        }

    def table(self) -> Table:
        """For the terminal: a row a constant, the one that decides first."""
        from rich.text import Text

        from sim.results.table import grid_of

        grid = grid_of()
        for title in ("constant", "known to", "how", f"{self.judged} there"):
            grid.add_column(title, overflow="fold")
        for one, low, high in self.swings:
            known = f"{one.shown(one.known.low)} to {one.shown(one.known.high)}"
            moved = f"{self._end(low)} to {self._end(high)}"
            grid.add_row(*map(Text, (one.name, known, one.how, moved)))
        return grid

    def _end(self, value: float) -> str:
        return self.text(value) if np.isfinite(value) else "no answer"

    def section(self) -> str:
        """For the report, as HTML."""
        if not self.swings:
            return f"<h2>How sure</h2><p>{escaped(self.sentence)}</p>"
        figure = self._tornado() + self._over_all()
        sources = "".join(
            f"<tr><td>{escaped(s.constant.name)}</td><td>{escaped(s.constant.how)}</td>"
            f"<td>{escaped(s.constant.known.source)}</td></tr>"
            for s in self.swings
        )
        return (
            f"<h2>How sure</h2><p>{escaped(self.sentence)}</p>{figure}"
            f'<p class="soft">{escaped(self._left_out())}</p><details><summary>Where each range is '
            f"from</summary><table>{sources}</table></details>"
        )

    def _tornado(self) -> str:
        """A bar for each constant from the number at its low end to that at its high end, behind
        them the interval of all together."""
        ends = [v for s in self.swings for v in (s.low, s.high) if np.isfinite(v)]
        low, high = (
            min(*ends, *self.interval, self.nominal),
            max(*ends, *self.interval, self.nominal),
        )
        room = 0.04 * (high - low) or 0.05 * abs(high)
        low, high = low - room, high + room
        names = [swing.constant.name for swing in self.swings[:_SHOWN]]
        left = 18 + 6.6 * min(max(map(len, names)), _LETTERS)
        scale = (_WIDE - left - 20) / (high - low)
        deep = 24 + _STEP * len(names)

        def x(value: float) -> float:
            return left + (value - low) * scale

        a, b = self.interval
        out = [
            f'<rect x="{x(a):.1f}" y="18" width="{max((b - a) * scale, 1.0):.1f}" '
            f'height="{deep - 18}" fill="#8A8F98" fill-opacity="0.22"><title>four of five draws: '
            f"{escaped(self.text(a))} to {escaped(self.text(b))}</title></rect>"
        ]
        for row, swing in enumerate(self.swings[:_SHOWN]):
            y = 24 + row * _STEP
            one, known = swing.constant, swing.constant.known
            out.append(
                f'<text class="name" x="{left - 8:.0f}" y="{y + 13}" '
                f'text-anchor="end">{cut(one.name, _LETTERS)}</text>'
            )
            for end, at in ((known.low, swing.low), (known.high, swing.high)):
                if not np.isfinite(at):
                    continue
                start, wide = sorted((x(self.nominal), x(at)))
                colour = _LOW_END if end == known.low else _HIGH_END
                tip = escaped(f"{one.name} at {one.shown(end)}: {self.text(at)}")
                out.append(
                    f'<rect x="{start:.1f}" y="{y}" width="{max(wide - start, 0.5):.1f}" '
                    f'height="{_STEP - 8}" fill="{colour}"><title>{tip}</title></rect>'
                )
        marks = {self.nominal: "as it is"} | ({1.0: "1"} if self.ratio and low < 1 < high else {})
        for value, text in marks.items():
            out.append(
                f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="16" y2="{deep}" '
                f'stroke="#8A8F98" stroke-dasharray="4 3"><title>{escaped(text)}</title></line>'
                f'<text class="soft" x="{x(value):.1f}" y="12" text-anchor="middle">'
                f"{escaped(self.text(value))}</text>"
            )
        head = svg(_WIDE, deep + 4, f"{self.judged} with each constant at its ends")
        key = legend([("constant at its low end", _LOW_END), ("at its high end", _HIGH_END)])
        return f"{head}{''.join(out)}</svg>{key}"

    def _over_all(self) -> str:
        """The number over all of the range of the constant that decides."""
        if len(self.curve) < 2:
            return ""
        first = self.swings[0].constant
        x, y = np.array(self.curve).T
        _, unit, scale = prefixed(first.name, first.known.high)
        title = f"{self.judged} over {first.field}"
        line = Line("#0072B2", x * scale, y)
        now = first.known.value * scale
        return curves({self.judged: line}, title, "x" if self.ratio else "", unit, now)

    def _left_out(self) -> str:
        """What the figures are of, and what is not in them."""
        told = (
            "Each bar: the number with one constant at the ends of its range, the others as they "
            f"are; the band behind: four of five of {len(self.draws)} draws of all together (Latin "
            f"hypercube, seed {self.seed}; even ratios are as likely)."
        )
        if self.lost:
            told += f" {self.lost} draws gave no answer."
        if self.idle:
            told += f" {len(self.idle)} constants more move it by less than 0.1 %."
        if self.fixed:
            told += f" Not varied: {', '.join(self.fixed)}."
        return told


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, (_LOW, _HIGH)).tolist()
    return low, high


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
