"""What is asked of every point: derived metrics, objectives, constraints, as expressions whose
names are checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.explore.expression import Bound, Expression, Look, UndefinedError
from sim.explore.space import number
from sim.results.metrics import SPEEDUP

Values = Mapping[str, float]  # "variant.metric" or "variant.part.metric" -> what was found


@dataclass(frozen=True)
class Objective:
    """An expression to be low, or with `sign` -1 high."""

    expression: Expression
    sign: float

    @property
    def text(self) -> str:
        """As a table calls it."""
        return self.expression.text

    @property
    def way(self) -> str:
        """What is wanted of it."""
        return "minimise" if self.sign > 0 else "maximise"


@dataclass(frozen=True)
class Questions:
    """The questions of a sweep over a scenario with these variants, the baseline first."""

    variants: tuple[str, ...]
    keys: tuple[str, ...]
    derived: Mapping[str, Expression] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Bound, ...] = ()

    def look(self, values: Values, point: Mapping[str, Any]) -> Look:
        """What tells the value of a name at a point; UndefinedError where it has none there."""

        def value(name: str) -> float:
            if name in self.derived:
                return self.derived[name].value(value)
            if name in self.keys:
                return _of_key(name, point)
            full = self.full(name)
            if full in values:
                return values[full]
            if full.endswith("_ratio") and (ratio := self._ratio(full, values)) is not None:
                return ratio
            raise UndefinedError(f"{name} has no value at this point")

        return value

    def full(self, name: str) -> str:
        """With its variant, where there is only one and the name leaves it out."""
        alone = len(self.variants) == 1 and name.split(".")[0] not in self.variants
        return f"{self.variants[0]}.{name}" if alone else name

    def _ratio(self, name: str, values: Values) -> float | None:
        """A metric over that of the baseline."""
        metric = name.removesuffix("_ratio")
        variant = next(v for v in self.variants if metric.startswith(f"{v}."))
        base = values.get(self.variants[0] + metric.removeprefix(variant))
        return values[metric] / base if base and metric in values else None

    def scores(self, values: Values, point: Mapping[str, Any]) -> list[float]:
        """The objectives, each low where it is good; UndefinedError."""
        look = self.look(values, point)
        return [one.sign * one.expression.value(look) for one in self.objectives]

    def answers(self, values: Values, point: Mapping[str, Any]) -> dict[str, float | None]:
        """Derived metrics and objectives by name or text; None where one has no value."""
        look = self.look(values, point)
        asked = {**self.derived} | {one.text: one.expression for one in self.objectives}
        return {name: _or_none(expression, look) for name, expression in asked.items()}

    def excesses(self, values: Values, point: Mapping[str, Any]) -> dict[str, float | None]:
        """By how much each constraint is broken: at most 0 where it holds, None where that cannot
        be said."""
        look = self.look(values, point)
        found: dict[str, float | None] = {}
        for bound in self.constraints:
            try:
                found[bound.text] = bound.excess(look)
            except UndefinedError:
                found[bound.text] = None
        return found

    def broken(self, values: Values, point: Mapping[str, Any]) -> list[str]:
        """Constraints that are broken for certain, whatever the metrics that are not there yet."""
        found = self.excesses(values, point).items()
        return [text for text, excess in found if excess is not None and excess > 0]


def _or_none(expression: Expression, look: Look) -> float | None:
    try:
        return expression.value(look)
    except UndefinedError:
        return None


def _of_key(key: str, point: Mapping[str, Any]) -> float:
    found = number(point[key]) if key in point else None
    if found is None:
        raise UndefinedError(f"{key} is no number at this point")
    return found


def names_wrong(
    names: Iterable[str],
    questions: Questions,
    unknown: Callable[[str, str, bool], str],
    parts: Mapping[str, Iterable[str]],
) -> str:
    """What is wrong with the first name that is none; '' if all are known.

    `unknown(variant, metric, of a part)` says what is wrong with the name of a metric; `parts` are
    the jobs, tenants, ... of each variant.
    """
    for name in names:
        if name in questions.derived or name in questions.keys:
            continue
        variant, *rest = questions.full(name).split(".")
        if variant not in questions.variants or not rest:
            known = ", ".join([*questions.variants, *questions.derived])
            return (
                f"{name!r} is no metric of a variant: write VARIANT.METRIC, with a variant or a "
                f"metric of {known}; or a key that varies"
            )
        if len(rest) > 2 or (len(rest) == 2 and rest[0] not in parts[variant]):
            there_are = ", ".join(parts[variant]) or "none"
            return f"{name!r}: no part {rest[0]!r} in {variant!r}; there are {there_are}"
        if wrong := unknown(variant, rest[-1], len(rest) == 2):
            return f"{name!r}: {wrong}"
    return ""


def flat(result: Any) -> dict[str, float]:
    """The numbers of a Result by name: metrics of variants and of their parts, and speed-ups."""
    found: dict[str, float] = {}
    for name, variant in result.variants.items():
        found |= {f"{name}.{metric}": value for metric, value in variant["metrics"].items()}
        for part, mine in variant["tenants"].items():
            found |= {f"{name}.{part}.{metric}": value for metric, value in mine.items()}
        speedup = result.comparison[name].get(SPEEDUP.name)
        if speedup is not None:
            found[f"{name}.{SPEEDUP.name}"] = speedup
    return found
