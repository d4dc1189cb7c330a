"""A kind of work: coins that are flipped on a pod, a stand-in for anything that has a duration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from sim.facts.outcome import Outcome
from sim.facts.span import Span, fingerprint
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.kinds import Kind, Named
from sim.results.metric import Metric, table_of
from sim.results.palette import escaped
from sim.scenario import MisfitError, Variant
from sim.scenario.fields import Count, Seconds, Section


class Coins(Section):
    """The section `workload`."""

    kind: Literal["coins"]
    flips: Count
    each: Seconds = 1e-3


class Plan(NamedTuple):
    """A variant made ready."""

    variant: Variant


class Landed(NamedTuple):
    """The part of an Outcome that belongs to this kind."""

    heads: int
    tails: int


def prepare(v: Variant, seed: int) -> Plan:
    """See that the coins can be flipped."""
    if v.workload.flips % 2:
        raise MisfitError([(("workload", "flips"), "an odd number of flips cannot come out even")])
    return Plan(v)


def play(plan: Plan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Flip them: heads and tails in turns."""
    work: Coins = plan.variant.workload
    spans = [
        Span("table/compute", f"flip {i}", "flip", i * work.each, (i + 1) * work.each)
        for i in range(work.flips)
    ]
    return Outcome(
        Totals(seconds=work.flips * work.each, ops=work.flips),
        part=Landed(work.flips // 2, work.flips // 2),
        timeline=Timeline(spans=spans),
        fingerprint=fingerprint(spans),
    )


COINS = table_of(
    [
        Metric(
            name="heads",
            unit="count",
            better="",
            label="heads",
            of="coins that landed on their heads",
            value=lambda outcome: outcome.part.heads,
        )
    ]
)


def verdict(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> str:
    """How the coins landed."""
    return " ".join(f"{name}: {one.part.heads} heads." for name, one in outcomes.items())


def section(outcomes: Mapping[str, Outcome]) -> str:
    """A section of the report."""
    names = escaped(", ".join(outcomes))
    return f"<h2>Coins</h2><p>All coins of {names} have landed.</p>"


_HERE = "podscope_toy.coins"
KIND = Kind(
    name="coins",
    summary="coins that are flipped",
    spec=Named(f"{_HERE}:Coins"),
    reads=("pod.topology", "record"),
    needs=("pod.topology",),
    prepare=Named(f"{_HERE}:prepare"),
    play=Named(f"{_HERE}:play"),
    metrics=(Named("sim.results.metrics:WALL"), Named(f"{_HERE}:COINS")),
    verdict=Named(f"{_HERE}:verdict"),
    sections=(Named(f"{_HERE}:section"),),
    pages=(("timeline", "timeline.html", None),),
)
