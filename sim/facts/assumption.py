"""What numbers rest on, and how well each is known."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """What is known of a number of `value`: that it lies between `low` and `high`, SI units, as
    `source` says."""

    value: float
    low: float
    high: float
    source: str

    def at(self, share: float) -> float:
        """The number at a share of the way from low to high: even steps are even ratios, where
        all of the range is above zero."""
        if self.low > 0.0:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)


class Assumption(NamedTuple):
    """A row of the report's `What this rests on`: what, its value as text, a tag (READ, INFER,
    FITTED, ...) and where it is from.

    `range` is None where nothing says how well it is known, or it is exact; `key` the dotted key by
    which a scenario sets it, "" where it cannot.
    """

    what: str
    value: str
    tag: str
    source: str
    range: Range | None = None
    key: str = ""
