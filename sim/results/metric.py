"""A metric as a row: what it is called, its unit, which way is good, its definition, and its
arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sim.text.units import show

OTHER = "OTHER"  # in the name of a row that stands for several metrics, one for each other part


class Metric(NamedTuple):
    """All that is known of a number of a run.

    `value` is a function of the facts (of an Outcome, or of a part of one): None where it has no
    meaning there, and a mapping for a name with OTHER in it.
    """

    name: str
    unit: str  # a key of `_TEXTS`
    better: str  # "lower", "higher", or "" where it depends
    label: str
    of: str  # definition: numerator, denominator, window
    value: Callable[[Any], Any]
    shown: bool = True  # in the table of variants
    finished: bool = (
        False  # over requests that got an answer: it says nothing of those that did not
    )

    def text(self, value: float) -> str:
        """`value` as a person reads it."""
        return _TEXTS[self.unit](value)


def table_of(rows: Iterable[Metric]) -> dict[str, Metric]:
    """Rows by name."""
    return {row.name: row for row in rows}


def measured(rows: Mapping[str, Metric], facts: Any) -> dict[str, float]:
    """Every metric that the facts have a meaning for, by name.

    One whose denominator is missing (no rate known, no wall time) is left out, so there is never a
    NaN. Shares are not clipped: one above 1 is a bug in the engine, and a test should see it.
    """
    found: dict[str, float] = {}
    for row in rows.values():
        value = row.value(facts)
        if isinstance(value, Mapping):
            found |= {row.name.replace(OTHER, key): float(one) for key, one in value.items()}
        elif value is not None:
            found[row.name] = float(value)
    return found


def row_of(rows: Mapping[str, Metric], name: str) -> Metric | None:
    """The row of a metric, also of one of those that a row with OTHER stands for."""
    if name in rows:
        return rows[name]
    heads = {row.name.removesuffix(OTHER): row for row in rows.values() if OTHER in row.name}
    return next((row for head, row in heads.items() if name.startswith(head)), None)


def seconds_text(seconds: float) -> str:
    """Seconds as text with a decimal prefix, the micro sign written out as one.

    >>> seconds_text(3.05e-5)
    '30.5 µs'
    """
    return show(seconds, "s").replace(" us", " µs")


def _tera(value: float, unit: str) -> str:
    return f"{f'{value / 1e12:#,.4g}'.rstrip('.')} {unit}"


_TEXTS: dict[str, Callable[[float], str]] = {
    "s": seconds_text,
    "B": lambda value: show(value, "B"),
    "B/s": lambda value: show(value, "B/s"),
    "/s": lambda value: f"{value:,.0f}/s" if abs(value) >= 100 else f"{value:.3g}/s",
    "share": lambda value: f"{100 * value:.1f} %",
    "x": lambda value: f"{value:.2f}x",
    "count": lambda value: f"{value:,.0f}",
    "index": lambda value: f"{value:.3f}",  # of fairness, between 0 and 1
    "W": lambda value: f"{value:,.4g} W",
    "J": lambda value: f"{value:.3g} J",
    "$": lambda value: f"{value:.3g} $",
    "op/s": lambda value: _tera(value, "TOPS"),
    "op/J": lambda value: _tera(value, "TOPS/W"),
    "": lambda value: f"{value:.4g}",
}
UNITS = tuple(_TEXTS)
