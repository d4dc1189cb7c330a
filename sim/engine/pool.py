"""A pool of replicas and the machine below it: who prices or plays its iterations, and what they
add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.engine.group import Group, GroupOf
from sim.engine.lines import patterns_of
from sim.engine.played_prices import PlayedPrices, in_stages
from sim.engine.pricing import Pricing, pricing
from sim.engine.replay import Answer, Kind, Player, player
from sim.engine.steps import Sums, sums_of, totals_of
from sim.engine.stretch import Stretch
from sim.facts.totals import Totals
from sim.graph.batch import NO_SHARING, Sharing
from sim.serving.fleet import Fleet


class Host(NamedTuple):
    """The machine of a pool of replicas, or of one of their stages: how to make its ranks, idle."""

    group_of: GroupOf
    sharing: Sharing = NO_SHARING  # which shared prefixes its techniques make use of


class Pool:
    """One pool and its hosts, one a stage: who prices or plays its iterations, and what they come
    to."""

    def __init__(
        self,
        stages: Sequence[Host],
        replicas: np.recarray,
        pool: np.record,
        op: bool,
        stretch: Stretch | None,
    ) -> None:
        self.stages, self.first, self.count = stages, int(pool["first"]), int(pool["count"])
        self.kind = int(replicas.kind[self.first])
        self.plain = [host.group_of(None) for host in stages]
        self.recorded = _Recorded(stages, self.first, self.count, lanes_of(replicas), stretch)
        self.forms: list[Pricing] = []
        self.played: list[PlayedPrices] = []
        patterns = patterns_of(self.plain)
        play: Player
        if op:
            play = self.recorded
        else:
            if all(plain.folded for plain in self.plain):
                forms = [
                    pricing(
                        plain.members[0].graph_of,
                        plain.members[0].device,
                        plain.network,
                        plain.ranks,
                        patterns,
                        host.sharing,
                    )
                    for host, plain in zip(stages, self.plain)
                ]
                self.forms = [form for form in forms if form is not None]
            if len(self.forms) < len(stages):
                self.forms = []
                self.played = [PlayedPrices(plain, patterns) for plain in self.plain]
            play = self.played[0] if len(self.played) == 1 else in_stages(self.played)
        self.kinds = [
            Kind(self.forms[place] if self.forms else None, patterns, play, host.sharing)
            for place, host in enumerate(stages)
        ]

    @property
    def ranks(self) -> int:
        """Chips of one replica."""
        return sum(plain.ranks for plain in self.plain)

    def totals(self, fleet: Fleet) -> Totals:
        """Sums over the pool's replicas, one rank of each: of several stages, the mean over
        them."""
        if self.forms:
            return mean_of(
                [form.totals(fleet, self.kind, stage) for stage, form in enumerate(self.forms)]
            )
        if not self.played:
            return played_totals(self.recorded.groups)
        for r in range(self.first, self.first + self.count):
            for each in self.played:
                each.settle(fleet, r)
        return together(
            [
                mean_of([totals_of(each.sums) for each in self.played]),
                played_totals(self.recorded.groups),
            ]
        )


def played_totals(groups: Sequence[Sequence[Group]]) -> Totals:
    """Sums over what was played by replicas, one rank of each: of several stages, the mean over
    them."""
    for group in (group for stages in groups for group in stages):
        group.close()
    return together([mean_of([group.chips[0].totals for group in stages]) for stages in groups])


class _Recorded:
    """Plays iterations on each replica's own ranks; those of the first may be kept on a
    timeline."""

    def __init__(
        self,
        stages: Sequence[Host],
        first: int,
        count: int,
        lanes: int,
        stretch: Stretch | None,
    ) -> None:
        self.stages, self.first, self.count, self.lanes = stages, first, count // lanes, lanes
        self.stretch = stretch
        self.groups: list[list[Group]] = []

    def __call__(self, fleet: Fleet, r: int) -> Answer:
        shown = self.stretch
        if not self.groups:
            timeline = shown.timeline if shown else None
            self.groups += [
                [host.group_of(timeline if i == 0 else None) for host in self.stages]
                for i in range(self.count)
            ]
            for group in self.groups[0]:
                group.record(False)
        place = (r - self.first) // self.lanes
        if shown is None or place > 0 or not shown.keeps(fleet, r):
            return player(self.groups, self.first)(fleet, r)
        for group in self.groups[place]:
            group.record(True)
        before = len(shown.timeline.spans)
        answer = player(self.groups, self.first)(fleet, r)
        for group in self.groups[place]:
            group.record(False)
        if kept := shown.timeline.spans[before:]:
            start_s = min(span.start_s for span in kept)
            shown.show(fleet, r, start_s, max(span.end_s for span in kept))
        return answer


def together(parts: Sequence[Totals]) -> Totals:
    """The sums of several parts as one."""
    sums: Sums = {}
    for part in parts:
        for key, value in sums_of(part).items():
            sums[key] = sums.get(key, 0.0) + value
    return totals_of(sums)


def mean_of(stages: Sequence[Totals]) -> Totals:
    """Of the stages of a pipeline."""
    if len(stages) == 1:
        return stages[0]
    return totals_of({key: value / len(stages) for key, value in sums_of(together(stages)).items()})


def lanes_of(replicas: np.recarray) -> int:
    """Rows that each replica has, one for each of its micro-batches."""
    return int(replicas.lanes.max())
