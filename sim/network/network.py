"""A pod's wires with the library that drives them: which algorithm a collective takes, and its time on an idle fabric."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.network import placement
from sim.network.collectives import ALGORITHMS, PLANS, Members, Plan, Round, algorithm, repeats
from sim.network.library import Library
from sim.network.routing import Routes, routes
from sim.network.topology import Graph
from sim.network.wires import Floats, Ints, Wires

Ranks = int | tuple[int, ...]  # the first so many chips, or these
MOST_SENDS = 2_000_000  # in one round: what `auto` will look at


class Fold(NamedTuple):
    """A plan as one rank sees it: wait `latency_s`, then `sent_bytes` leave at `bytes_per_s`."""

    algorithm: str
    latency_s: float
    sent_bytes: float
    bytes_per_s: float
    rounds: int
    exact: bool  # all ranks go in step; else an upper bound

    @property
    def seconds(self) -> float:
        """Closed form on an idle network."""
        return self.latency_s + self.sent_bytes / self.bytes_per_s


class Network:
    """What a technique or an engine may ask about communication on a pod."""

    def __init__(self, graph: Graph, library: Library, algorithm: str = "auto") -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"no collective algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
        self.graph, self.library, self.algorithm = graph, library, algorithm
        self.wires = Wires(graph)
        self.bytes_per_s: Floats = self.wires.bytes_per_s * library.link_efficiency  # as a long message sees it
        self.fold = lru_cache(maxsize=4096)(self._fold)
        self.members = lru_cache(maxsize=256)(self._members)
        self.plan = lru_cache(maxsize=256)(self._plan)

    def _plan(self, kind: str, ranks: Ranks, nbytes: float) -> tuple[str, Plan]:
        """The algorithm that `auto` (or the user) chose, and its rounds."""
        fold = self.fold(kind, ranks, nbytes)
        return fold.algorithm, PLANS[kind][fold.algorithm].plan(self.members(ranks), nbytes)

    def egress_bytes_per_s(self, chip: int) -> float:
        """What all of a chip's outgoing links carry together."""
        wires = self.wires
        links = wires.capacity[wires.out_first[chip] : wires.out_first[chip + 1]]
        return float(self.bytes_per_s[links].sum()) or 1.0

    def routes(self, sends: Round) -> Routes:
        """The ways of a round's sends; equal rounds of a plan are one object, looked up once by the caller."""
        return routes(self.wires, sends.source, sends.target)

    def _members(self, ranks: Ranks) -> Members:
        chips = self.wires.chips
        if isinstance(ranks, int):
            if ranks > chips:
                raise ValueError(f"a group of {ranks} ranks does not fit on {chips} chips")
            ranks = tuple(range(ranks))
        strange = [rank for rank in ranks if not 0 <= rank < chips]
        if strange:
            raise ValueError(f"chip {strange[0]} of the group is not in the pod: chips are 0 to {chips - 1}")
        if len(set(ranks)) < len(ranks):
            twice = next(rank for rank in ranks if ranks.count(rank) > 1)
            raise ValueError(f"chip {twice} is twice in the group")
        if len(ranks) < 2:
            raise ValueError("a group of one has nobody to talk to; a collective needs at least 2 ranks")
        ring = placement.ring_order(self.graph, ranks)
        return Members(np.array(ranks), np.array(ring), placement.layout(self.graph, ranks), self._hub(ranks))

    def _hub(self, ranks: tuple[int, ...]) -> int | None:
        """The switch that all ranks are wired to, both ways."""
        wires = self.wires
        for node in wires.target[wires.out_first[ranks[0]] : wires.out_first[ranks[0] + 1]].tolist():
            if node >= wires.chips:
                to = set(wires.target[wires.out_first[node] : wires.out_first[node + 1]].tolist())
                back = set(wires.source[wires.in_edges[wires.in_first[node] : wires.in_first[node + 1]]].tolist())
                if to.issuperset(ranks) and back.issuperset(ranks):
                    return node
        return None

    def _fold(self, kind: str, ranks: Ranks, nbytes: float) -> Fold:
        if kind not in PLANS:
            raise ValueError(f"no plan for the collective {kind!r}; there are {', '.join(PLANS)}")
        who = self.members(ranks)
        if self.algorithm in PLANS[kind]:
            return self._folded(self.algorithm, algorithm(kind, self.algorithm, who).plan(who, nbytes), len(who.ranks))
        has = self.library.algorithms
        serving = [name for name, each in PLANS[kind].items() if not each.needs(who)]
        names = [name for name in serving if name in has] or [
            name
            for name in serving
            if name != "in_switch" and (name not in _CROWDED or len(who.ranks) ** 2 <= MOST_SENDS)
        ]
        folds = [self._folded(name, PLANS[kind][name].plan(who, nbytes), len(who.ranks)) for name in names]
        return min(folds, key=lambda candidate: (not candidate.exact, candidate.seconds))

    def _folded(self, name: str, plan: Plan, ranks: int) -> Fold:
        """A round lasts as long as its slowest send, sharing counted, and all ranks take it in step.

        Exact when they do: all sends of a round take equally long, and nobody sends who sat out the round before.
        """
        latency, wire, sent, exact = self.library.launch_s, 0.0, 0.0, True
        seen: dict[int, tuple[float, float, float, bool]] = {}
        before: Ints | None = None
        rounds = repeats(plan)
        for sends, times in rounds:
            if id(sends) not in seen:
                seen[id(sends)] = self._round(sends)
            round_latency, round_wire, nbytes, even = seen[id(sends)]
            latency += times * round_latency
            wire += times * round_wire
            sent += times * nbytes
            exact = exact and even
            if exact and len(rounds) > 1:
                taking_part = np.zeros(len(self.wires.nodes), dtype=bool)
                taking_part[sends.source] = taking_part[sends.target] = True
                exact = before is None or bool(before[sends.source].all())
                before = taking_part
        sent /= ranks
        return Fold(name, latency, sent, sent / wire if wire else 1.0, len(plan), exact)

    def _round(self, sends: Round) -> tuple[float, float, float, bool]:
        """(seconds before the slowest send's bytes move, seconds they move, bytes sent in all, all equally long)."""
        ways = self.routes(sends)
        legs = ways.legs
        flow = np.repeat(np.arange(len(legs.hops)), np.diff(legs.first))
        nbytes = np.repeat(sends.nbytes, np.diff(ways.first))  # by leg
        step = np.arange(len(nbytes)) - np.repeat(ways.first[:-1], np.diff(ways.first))  # a send's first leg, second ...
        seconds = np.zeros(len(nbytes))
        even = len(set(sends.nbytes.tolist())) <= 1
        for number in range(int(step.max(initial=0)) + 1):
            here = step[flow] == number
            over = legs.capacities[here]
            load = np.bincount(over, legs.share[here] * nbytes[flow[here]], minlength=len(self.bytes_per_s))
            np.maximum.at(seconds, flow[here], load[over] / self.bytes_per_s[over])
            even = even and _equal(seconds[step == number]) and _equal(legs.latency_s[step == number])
        if not len(sends.source):
            return self.library.step_s, 0.0, 0.0, True
        waits = np.add.reduceat(legs.latency_s, ways.first[:-1])
        moves = np.add.reduceat(seconds, ways.first[:-1])
        reduces = sends.reduces * sends.nbytes / self.library.reduce_bytes_per_s
        even = even and _equal(reduces)
        moves += reduces
        even = even and _equal(np.diff(ways.first))
        return self.library.step_s + float(waits.max()), float(moves.max()), float(sends.nbytes.sum()), even


_CROWDED = ("one_shot", "two_shot", "direct", "hierarchical")  # plans in which everybody sends to everybody at once


def _equal(values: Floats | Ints) -> bool:
    return not len(values) or bool(np.ptp(values) <= 1e-12 * values.max())
