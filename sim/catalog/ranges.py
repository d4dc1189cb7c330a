"""How well each constant is known: the range that its card gives, else the first rule of
`ranges.yaml` that fits its key and its tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sim.facts.assumption import Range
from sim.hardware.device import Fact
from sim.text import strict_yaml

_RULES = Path(__file__).with_name("ranges.yaml")
# Numbers that are shares of a whole.
_WHOLE = ("efficiency", "efficiency_8bit", "overlap", "share", "loss")
Pair = tuple[float, float]


class Rule(BaseModel):
    """A line of `ranges.yaml`; one of `times` and `between`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    tags: tuple[str, ...] = ()
    times: Pair | None = None
    between: Pair | None = None
    source: Annotated[str, Field(min_length=1)]

    def fits(self, key: str, tag: str) -> bool:
        """Whether it is of such a constant."""
        return fnmatchcase(key, self.key) and (not self.tags or tag in self.tags)

    def of(self, key: str, value: float) -> Range:
        """The range of a value."""
        if self.between:
            low, high = min(self.between[0], value), max(self.between[1], value)
        else:
            assert self.times is not None
            low, high = value * self.times[0], value * self.times[1]
        if key.endswith(_WHOLE):
            high = min(high, 1.0)
        return Range(value, low, high, self.source)


@cache
def rules() -> tuple[Rule, ...]:
    """All of them, in order."""
    return TypeAdapter(tuple[Rule, ...]).validate_python(strict_yaml.read(_RULES).data["rules"])


def rule_of(key: str, tag: str) -> Rule | None:
    """The first that fits; None for what a data sheet says."""
    return next((rule for rule in rules() if rule.fits(key, tag)), None)


def with_range(key: str, fact: Fact, value: Any) -> Fact:
    """A fact with what is known of its number, unless its card says so."""
    if fact.range is not None or not isinstance(value, (int, float)):
        return fact
    rule = rule_of(key, fact.tag)
    return fact if rule is None else fact._replace(range=rule.of(key, float(value)))


class Drawn:
    """Cards with some constants at a share of the way through their ranges, by name
    (`part: key`); `seen` are all that were asked for."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares, self.seen = shares, dict[str, Range]()

    def changes(self, part: str, facts: Mapping[str, Fact]) -> dict[str, Any]:
        """What is to change on a card, nested as a scenario nests it."""
        found: dict[str, Any] = {}
        for key, fact in facts.items():
            name = f"{part}: {key}"
            one_of_several = "/" in key or key.startswith("prefetch_engines.")
            if fact.range is None or fact.range.low == fact.range.high or one_of_several:
                continue
            self.seen[name] = fact.range
            if name in self.shares:
                *path, last = key.split(".")
                at = found
                for step in path:
                    at = at.setdefault(step, {})
                at[last] = fact.range.at(self.shares[name])
        return found


_drawn: list[Drawn] = []


@contextmanager
def drawn(shares: Mapping[str, float]) -> Iterator[Drawn]:
    """All cards that are read within are read so: for reproductions, which build their machines
    themselves.  A scenario sets its constants by keys."""
    _drawn.append(Drawn(shares))
    try:
        yield _drawn[-1]
    finally:
        _drawn.pop()


def over(
    part: str, facts: Mapping[str, Fact], changes: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The changes of a card, laid over what is drawn for it."""
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    return {**_drawn[-1].changes(part, facts), **given} if _drawn else given
