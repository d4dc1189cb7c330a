"""What is recommended: the candidates, the best of them, why the next one fails; in words, as a
table, as a scenario, as flags."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from sim.explore.candidates import (
    BATCH,
    CHUNK,
    DATA,
    EXPERT,
    NO_PREFILL,
    PIPELINE,
    PREFILL,
    REPLICAS,
    TENSOR,
)
from sim.explore.measure import DONE, LOST, Measured
from sim.explore.plan import Plan
from sim.explore.rule import SLO, UNANSWERED, Rule
from sim.explore.space import Point, as_overrides
from sim.explore.summary import shortened, text_of
from sim.facts.outcome import Takes
from sim.run import load
from sim.scenario import Scenario
from sim.text.units import show

if TYPE_CHECKING:
    from rich.table import Table

_TOP, _NEAR = 5, 3  # of those that meet the limits, and of those that do not
_WORDS = {
    TENSOR: "tensor",
    PIPELINE: "pipeline",
    DATA: "data",
    EXPERT: "expert",
    REPLICAS: "replicas",
    PREFILL: "prefill",
    CHUNK: "chunk",
    BATCH: "batch",
}
_QUIET = (TENSOR, PIPELINE, DATA, EXPERT, REPLICAS)  # that are left out where they are 1
_WAITS = {"max_batch": "max_batch", "max_batched_tokens": "max_batched_tokens", "kv": "KV-cache"}
_TIMES = 2.0  # the limits: beyond, per cent of them say less
_WAITED = 0.05  # of the time, from which waiting is named as what limits


class Goal(NamedTuple):
    """What is wanted: low in what `of` says of what a candidate takes; None: known by running."""

    title: str
    of: Callable[[Takes], float] | None

    def levels(self, able: Sequence[Candidate]) -> list[list[Candidate]]:
        """Candidates by what they take, the least first."""
        if self.of is None:
            return [[*able]] if able else []
        of = self.of
        ordered = sorted(able, key=lambda one: (of(one.takes), one.number))
        return [[*group] for _, group in groupby(ordered, key=lambda one: of(one.takes))]


def cost(takes: Takes) -> float:
    """Dollars an hour or, where no price is known, to make; ValueError where neither is."""
    found = takes.dollars if takes.dollars_per_hour is None else takes.dollars_per_hour
    if found is None:
        raise ValueError(
            "no cost is known of these chips: give pod.change.device.price_per_hour (dollars), or "
            "pod.chip, {} for what one costs to make by the estimates of 7 nm"
        )
    return float(f"{found:.9g}")  # the same sum in another order is no other cost


@dataclass
class Candidate:
    """A point; what it takes, why it cannot be if so, and what it came to if it was run."""

    number: int
    point: Point
    takes: Takes
    wrong: str = ""
    found: Measured | None = None

    def value(self, metric: str) -> float | None:
        """A metric of its run, or a number of the rule."""
        values = self.found.values if self.found else {}
        return next((v for name, v in values.items() if name.partition(".")[2] == metric), None)

    @property
    def ran(self) -> bool:
        """Whether it is known what it does."""
        return self.found is not None and self.found.status == DONE

    def meets(self, rule: Rule) -> bool:
        """Whether it meets the limits."""
        limited = self.value(f"{SLO}limited")
        return self.ran and limited is not None and limited <= rule.limit.most

    @property
    def stretch(self) -> float:
        """By what factor the limits would have to be longer for it to meet them just so."""
        found = self.value(f"{SLO}stretch")
        return math.inf if found is None else found

    @property
    def goodput(self) -> float:
        """Requests that meet the limits, per second; 0 where that has no meaning."""
        met, wall_s = self.value(f"{SLO}met"), self.value("makespan_s")
        return met / wall_s if met and wall_s else 0.0


@dataclass
class Advice:
    """The answer; `best` None: no candidate meets the limits, or none can be."""

    plan: Plan
    rule: Rule
    goal: Goal
    candidates: list[Candidate]
    said: list[str] = field(default_factory=list)

    @cached_property
    def ranked(self) -> list[Candidate]:
        """Those that meet the limits, the best first; of equals the one with more goodput, then
        with more room."""
        of = self.goal.of or (lambda takes: 0.0)

        def key(one: Candidate) -> tuple[float, ...]:
            return of(one.takes), -one.goodput, one.takes.chips, one.stretch, one.number

        return sorted((one for one in self.candidates if one.meets(self.rule)), key=key)

    @cached_property
    def near(self) -> list[Candidate]:
        """Those that were run and miss the limits, the nearest first; of equals that of the fewest
        chips."""
        missing = [one for one in self.candidates if one.ran and not one.meets(self.rule)]
        return sorted(missing, key=lambda one: (one.stretch, one.takes.chips, one.number))

    @property
    def best(self) -> Candidate | None:
        """What is recommended."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def next_fails(self) -> Candidate | None:
        """The next candidate that would be better and fails: of those that take the most of what
        takes less, the nearest to meeting the limits; or that of the highest goodput."""
        best, of = self.best, self.goal.of
        if best is None:
            return None
        if of is None:
            more = [one for one in self.near if one.goodput > best.goodput]
            return max(more, key=lambda one: one.goodput, default=None)
        less = [one for one in self.near if of(one.takes) < of(best.takes)]
        most = max((of(one.takes) for one in less), default=0.0)
        return next((one for one in less if of(one.takes) == most), None)

    @cached_property
    def scenario(self) -> Scenario | None:
        """The scenario with the settings that are recommended."""
        if self.best is None:
            return None
        assert isinstance(self.plan.source, Mapping)
        source = {key: value for key, value in self.plan.source.items() if key != "sweep"}
        return load(source, as_overrides(self.best.point))

    @property
    def served(self) -> list[str]:
        """The settings as commands of vLLM, one for each pool of replicas."""
        from sim.explore.vllm import commands

        found = self.scenario
        return [] if found is None else commands(*found.variants.values())

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two."""
        best = self.best
        if best is None:
            return self._none
        rate = "" if self.rule.mean else f", goodput {best.goodput:.4g}/s"
        return (
            f"{self.goal.title}: {self.words(best)} ({self._takes(best)}): {self._met(best)}"
            f"{rate}; due: {self.rule.told}."
        )

    @property
    def _none(self) -> str:
        able = [one for one in self.candidates if not one.wrong]
        if not able:
            return "none is left: " + "; ".join(self.not_possible)
        if not self.near:
            return "no candidate could be run to its end"
        one = self.near[0]
        far = self._far(one)
        return (
            f"no candidate meets the SLO ({self.rule.told}): the best of {len(able):,} is "
            f"{self.words(one)} ({self._takes(one)}), {far}, limited by {self.limits(one)}"
        )

    @property
    def next_told(self) -> str:
        """Why the next candidate fails."""
        one, best = self.next_fails, self.best
        if best is None:
            return ""
        if one is not None:
            return (
                f"the next, {self.words(one)} ({self._takes(one)}), fails: {self._met(one)}, "
                f"{self._far(one)}, limited by {self.limits(one)}"
            )
        if self.goal.of is None:
            return "no candidate that misses the SLO has a higher goodput"
        return "no candidate that takes less can be run"

    def limits(self, one: Candidate) -> str:
        """What a candidate misses the limits by."""
        values = {name: self.value_of(one, name) for name in (UNANSWERED, *self.rule.limits)}
        worst = max(values, key=lambda name: values[name])
        waits = {what: one.value(f"limited_by_{name}") or 0.0 for name, what in _WAITS.items()}
        longest = max(waits, key=lambda what: waits[what])
        if self.rule.mean and values[UNANSWERED] == 0:
            worst, missed = self.rule.mean, f"the mean {self.rule.mean}"
        else:
            missed = f"{worst} ({100 * values[worst]:.3g} % of requests)"
        if worst == "tpot" or waits[longest] < _WAITED:
            return missed
        return f"{missed}: {100 * waits[longest]:.0f} % of the time the queue waits for {longest}"

    @staticmethod
    def value_of(one: Candidate, missed: str) -> float:
        """Share of requests that miss one limit."""
        return one.value(f"{SLO}missed.{missed}") or 0.0

    def _far(self, one: Candidate) -> str:
        if not math.isfinite(one.stretch):
            return "whatever the limits, for too many requests have no answer"
        what = "the mean" if self.rule.mean else f"{100 * self.rule.share:g} % of requests"
        if one.stretch > _TIMES:
            return f"{one.stretch:.3g} times the limits ({what})"
        return f"within {100 * (one.stretch - 1):.3g} % of the limits ({what})"

    def _met(self, one: Candidate) -> str:
        limited, half = one.value(f"{SLO}limited"), one.value(f"{SLO}half")
        assert limited is not None
        if self.rule.mean:
            near = "" if half is None else f" +- {show(half, 's')}"
            return f"mean {self.rule.mean} {show(limited, 's')}{near}"
        near = "" if half is None else f" +- {100 * half:.2g}"
        return f"{100 * (1 - limited):.4g}{near} % of requests meet the SLO"

    def _takes(self, one: Candidate) -> str:
        chips = f"{one.takes.chips} chip{'s' if one.takes.chips != 1 else ''}"
        return f"{chips}, {self.money(one)}" if self.money(one) else chips

    @staticmethod
    def money(one: Candidate) -> str:
        """Its cost with its unit; empty where none is known."""
        if one.takes.dollars_per_hour is not None:
            return f"${one.takes.dollars_per_hour:,.2f}/h"
        return "" if one.takes.dollars is None else f"${one.takes.dollars:,.0f} to make"

    def words(self, one: Candidate) -> str:
        """A candidate in words: the keys in which candidates differ."""
        brief, point = shortened(self._differ) | _WORDS, dict(one.point)
        pools = point.pop(PREFILL, None)
        if pools:
            split = f"prefill:decode {pools}:{point.pop(REPLICAS, 1)}"
        parts = [
            f"{brief[key]} {text_of(point[key])}"
            for key in self._differ
            if point.get(key) is not None and not (key in _QUIET and point[key] == 1)
        ]
        return ", ".join([*parts, *([split] if pools else [])]) or "one chip, one replica"

    @cached_property
    def _differ(self) -> list[str]:
        keys = [key for key in self.plan.space.keys if key != NO_PREFILL]
        keys.sort(key=lambda key: [*_WORDS, key].index(key))  # how the model lies comes first
        seen = {key: {text_of(one.point.get(key)) for one in self.candidates} for key in keys}
        return [key for key in keys if len(seen[key]) > 1] or keys

    @property
    def not_possible(self) -> list[str]:
        """How many candidates cannot be, by why: numbers aside, the same words are one reason."""
        found = Counter(_reason(one.wrong) for one in self.candidates if one.wrong)
        first = {_reason(one.wrong): one.wrong for one in reversed(self.candidates)}
        return [
            f"{count:,} candidates cannot be: {first[why]}" for why, count in found.most_common()
        ]

    @property
    def counted(self) -> str:
        """How many candidates there were, and what became of them."""
        every = len(self.candidates)
        wrong = sum(bool(one.wrong) for one in self.candidates)
        ran = sum(one.found is not None for one in self.candidates)
        parts = [f"{every:,} candidates: {ran:,} run, of which {len(self.ranked):,} meet the SLO"]
        if wrong:
            parts.append(f"{wrong:,} cannot be")
        if left := every - wrong - ran:
            parts.append(f"{left:,} take more, and were not run")
        return "; ".join(parts)

    @property
    def warnings(self) -> list[str]:
        """What should be known of the answer."""
        found = []
        for status in (LOST, "failed"):
            errors = [
                one.found.error
                for one in self.candidates
                if one.found is not None and one.found.status == status
            ]
            if errors:
                found.append(f"{len(errors):,} candidates {status}, the first: {errors[0]}")
        best, after = self.best, self.next_fails
        if best is not None and best.value(f"{SLO}half") is None:
            found.append("the trace has too few requests to say how sure this is; 200 are due")
        if best is not None and not self._sure(best, 1.0):
            found.append("the best meets the SLO only just: a longer trace may say otherwise")
        if after is not None and not self._sure(after, -1.0):
            found.append("the next fails the SLO only just: a longer trace may say otherwise")
        shown = best or (self.near[0] if self.near else None)
        return [*found, *(shown.found.warnings if shown and shown.found else ())]

    def _sure(self, one: Candidate, sign: float) -> bool:
        limited, half = one.value(f"{SLO}limited") or 0.0, one.value(f"{SLO}half") or 0.0
        return (limited + sign * half <= self.rule.limit.most) == (sign > 0)

    def table(self) -> Table:
        """The best, and the nearest of what fails, for the terminal."""
        from rich.text import Text

        from sim.results.table import grid_of

        failing = [self.next_fails] if self.next_fails else []
        failing += [one for one in self.near if one is not self.next_fails]
        rows = self.ranked[:_TOP] + failing[: _NEAR if self.ranked else _TOP]
        money = any(self.money(one) for one in rows)
        grid = grid_of()
        of = "mean" if self.rule.mean else "meet SLO"
        for title in (
            "",
            "chips",
            *(["cost"] if money else []),
            "goodput",
            of,
            "TTFT p99",
            "TPOT p99",
        ):
            grid.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
        for one in rows:
            limited = one.value(f"{SLO}limited") or 0.0
            met = show(limited, "s") if self.rule.mean else f"{100 * (1 - limited):.2f} %"
            cells = [self.words(one), str(one.takes.chips)]
            cells += [self.money(one)] if money else []
            cells += [f"{one.goodput:.4g}/s" if not self.rule.mean else "", met]
            cells += [_seconds(one.value(f"{of}_p99_s")) for of in ("ttft", "tpot")]
            style = "" if one.meets(self.rule) else "dim"
            grid.add_row(*(Text(cell, style=style) for cell in cells))
        return grid

    def records(self) -> list[dict[str, Any]]:
        """Every candidate as a mapping: keys, what it takes, what it came to."""
        return [
            {
                "candidate": one.number,
                **one.point,
                "chips": None if one.wrong and not one.takes.chips else one.takes.chips,
                "dollars_per_hour": one.takes.dollars_per_hour,
                "dollars": one.takes.dollars,
                "status": "cannot be" if one.wrong else one.found.status if one.found else "",
                "meets": one.meets(self.rule) if one.found else None,
                "goodput_per_s": one.goodput if one.ran else None,
                "error": one.wrong or (one.found.error if one.found else ""),
            }
            | {
                name.partition(".")[2]: v
                for name, v in (one.found.values if one.found else {}).items()
            }
            for one in self.candidates
        ]


def _seconds(value: float | None) -> str:
    return "" if value is None else show(value, "s")


def _reason(text: str) -> str:
    return "".join("#" if letter.isdigit() else letter for letter in text.split(":")[0])
