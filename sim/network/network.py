"""A pod's wires and the library that drives them: which algorithm a collective takes, and its time
on idle links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache
from math import floor, inf, log2
from typing import Any, NamedTuple

import numpy as np

from sim.network.collectives import ALGORITHM_NAMES, AUTO, COLLECTIVES, algorithm, serving
from sim.network.layout import layout, ring_order
from sim.network.library import Library, Way
from sim.network.plans import Floats, Ints, Members, Plan, Round, repeats
from sim.network.routing import Routes, routes
from sim.network.topology import Graph
from sim.network.wires import Wires

Ranks = int | tuple[int, ...]  # the first so many chips, or these
# Seconds that a collective takes on an idle pod, as played: (network, kind, ranks, bytes, fold).
Play = Callable[[Any, str, Ranks, float, Any], float]
MOST_PLAYED = 200_000  # sends of a plan that is played to choose it
MOST_SENDS = 2_000_000  # in one round: what `auto` will look at


class Fold(NamedTuple):
    """A plan as one rank sees it: wait `latency_s`, then `sent_bytes` leave at `bytes_per_s`."""

    way: Way
    latency_s: float
    sent_bytes: float
    bytes_per_s: float
    rounds: int
    exact: bool  # all ranks go in step; else an upper bound

    @property
    def algorithm(self) -> str:
        """The plan's name."""
        return self.way.algorithm

    @property
    def seconds(self) -> float:
        """Closed form on an idle network."""
        return self.latency_s + self.sent_bytes / self.bytes_per_s

    @property
    def note(self) -> str:
        """What was chosen, in words."""
        return (
            f"{' '.join(filter(None, (self.algorithm, self.way.protocol)))}, {self.rounds} rounds"
        )


class Network:
    """What a technique or an engine may ask about communication on a pod.

    Where `auto` has to choose among plans whose closed form is an estimate, it asks `play` what
    they take, and without it goes by the estimates.
    """

    def __init__(
        self, graph: Graph, library: Library, algorithm: str = AUTO, play: Play | None = None
    ) -> None:
        self.graph, self.library, self.wires = graph, library, Wires(graph)
        self._play = play
        self.chips: Sequence[int] = range(self.wires.chips)  # by rank
        self._choose(algorithm)

    def using(self, algorithm: str) -> Network:
        """The same pod and library with another algorithm."""
        new = copy(self)
        new._choose(algorithm)
        return new

    def part(self, chips: tuple[int, ...]) -> Network:
        """The same pod as those see it who have only these chips: their first so many ranks are the
        first of them."""
        new = copy(self)
        new.chips = chips
        new._choose(self.algorithm)
        return new

    def _choose(self, algorithm: str) -> None:
        """Take up an algorithm, or `auto`; answers once given are kept."""
        names = (AUTO, *ALGORITHM_NAMES)
        if algorithm not in names:
            raise ValueError(
                f"no collective algorithm {algorithm!r}; choose one of {', '.join(names)}"
            )
        self.algorithm = algorithm
        self.fold = lru_cache(maxsize=4096)(self._fold)
        self.winner = lru_cache(maxsize=4096)(self._winner)
        self.members = lru_cache(maxsize=256)(self._members)
        self.plan = lru_cache(maxsize=256)(self._plan)

    def _plan(self, kind: str, ranks: Ranks, nbytes: float) -> tuple[Way, Plan]:
        """The way that `auto` (or the user) chose, and its rounds."""
        fold = self.fold(kind, ranks, nbytes)
        return fold.way, self.plan_of(kind, ranks, nbytes, fold)

    def plan_of(self, kind: str, ranks: Ranks, nbytes: float, fold: Fold) -> Plan:
        """The rounds of one of the `candidates`."""
        return COLLECTIVES[kind].algorithms[fold.algorithm].plan(self.members(ranks), nbytes)

    def egress_bytes_per_s(self, chip: int) -> float:
        """Payload that all of a chip's outgoing links carry together, at the library's best."""
        wires, library, chip = self.wires, self.library, self.chips[chip]
        links = wires.capacity[wires.out_first[chip] : wires.out_first[chip + 1]]
        best = max(some.best_link_efficiency for some in (library, library.within_node) if some)
        return float(wires.bytes_per_s[links].sum()) * best or 1.0

    def _driver(self, who: Members) -> Library:
        """The library as it is driven within a node, or across."""
        within, node = self.library.within_node, self.graph.graph.get("node_chips")
        if within is None or node is None:
            return self.library
        return within if len(np.unique(who.ranks // node)) == 1 else self.library

    def wires_used(self, kind: str, ranks: Ranks, nbytes: float) -> set[frozenset[object]]:
        """The wires that a collective's messages cross, by the two nodes that each joins."""
        rounds = {id(each): each for each in self.plan(kind, ranks, nbytes)[1]}.values()
        wires = self.wires
        crossed = np.concatenate([self.routes(each).legs.capacities for each in rounds])
        crossed = np.unique(crossed[crossed < len(wires.source)])
        ends = zip(wires.source[crossed].tolist(), wires.target[crossed].tolist())
        return {frozenset((wires.nodes[a], wires.nodes[b])) for a, b in ends}

    def stored_between(self, ranks: Ranks) -> bool:
        """Whether messages of a group cross a switch that stores and forwards: of each rank to
        those up to 256 after it."""
        if not self.wires.stores.any():
            return False
        who = self.members(ranks).ranks
        ways = (
            routes(self.wires, who, np.roll(who, -step)) for step in range(1, min(len(who), 257))
        )
        return any(len(some.legs.hops) > len(who) for some in ways)

    def routes(self, sends: Round) -> Routes:
        """The ways of a round's sends; equal rounds of a plan are one object, looked up once by the
        caller."""
        return routes(self.wires, sends.source, sends.target)

    def _members(self, ranks: Ranks) -> Members:
        chips = len(self.chips)
        if isinstance(ranks, int):
            if ranks > chips:
                raise ValueError(f"a group of {ranks} ranks does not fit on {chips} chips")
            ranks = tuple(range(ranks))
        strange = [rank for rank in ranks if not 0 <= rank < chips]
        if strange:
            raise ValueError(
                f"chip {strange[0]} of the group is not in the pod: chips are 0 to {chips - 1}"
            )
        if len(set(ranks)) < len(ranks):
            twice = next(rank for rank in ranks if ranks.count(rank) > 1)
            raise ValueError(f"chip {twice} is twice in the group")
        if len(ranks) < 2:
            raise ValueError(
                "a group of one has nobody to talk to; a collective needs at least 2 ranks"
            )
        ranks = tuple(self.chips[rank] for rank in ranks)
        who = Members(
            np.array(ranks),
            np.array(ring_order(self.graph, ranks)),
            layout(self.graph, ranks),
        )
        hubs = self._hubs(who.ranks[None, :])
        return who._replace(hubs=hubs or (self._hubs(who.grid) if len(who.dims) == 2 else ()))

    def _hubs(self, rows: Ints) -> tuple[int, ...]:
        """By row of ranks, the switch that all of them are wired to, both ways; () if a row has
        none."""
        wires = self.wires
        first = rows[:, 0]
        for place in range(int(np.diff(wires.out_first)[first].max())):
            edge = np.minimum(wires.out_first[first] + place, wires.out_first[first + 1] - 1)
            hub = wires.target[edge]
            chip, switch = rows.ravel(), np.repeat(hub, rows.shape[1])
            both = np.minimum(wires.find(chip, switch), wires.find(switch, chip))
            if (hub >= wires.chips).all() and (both >= 0).all():
                return tuple(hub.tolist())
        return ()

    def _fold(self, kind: str, ranks: Ranks, nbytes: float) -> Fold:
        """The way that is the quickest.

        Plans whose closed form is an estimate are played at the powers of two around the size; a
        plan's time is nearly a straight line over its message, so one that wins at both wins in
        between. What one is taken to last is then what it was played in. Without `play`, what is
        exact goes before what is estimated.
        """
        folds = self.candidates(kind, ranks, nbytes)
        if all(fold.exact for fold in folds) or (
            self._play is None and all(fold.way.protocol for fold in folds)
        ):
            return min(folds, key=lambda fold: fold.seconds)
        if self._play is None:
            return min(folds, key=lambda fold: (not fold.exact, fold.seconds))
        ways = {fold.way: fold for fold in folds}
        if len(folds) > 1:
            power = 2.0 ** floor(log2(max(nbytes, 1.0)))  # an empty batch sends nothing
            around = {self.winner(kind, ranks, size) for size in (power, 2 * power)}
            if len(around) > 1 or not around <= ways.keys():
                around = {self.winner(kind, ranks, nbytes)}
            folds = [ways[around.pop()]]
        return self._as_played(kind, ranks, nbytes, folds[0])

    def _as_played(self, kind: str, ranks: Ranks, nbytes: float, fold: Fold) -> Fold:
        """The fold with a rate, that its links have, and a wait, which make it last as long as it
        does when played."""
        assert self._play is not None
        # The costs of a measured way were fitted to the closed form.
        measured = bool(fold.way.protocol)
        if fold.exact or measured or self._least(kind, ranks, nbytes, fold)[1] > MOST_PLAYED:
            return fold
        took_s = self._play(self, kind, ranks, nbytes, fold)
        if not fold.sent_bytes:
            return fold._replace(latency_s=took_s)
        least_s = fold.sent_bytes / self.egress_bytes_per_s(0)
        moving_s = min(max(took_s - fold.latency_s, least_s), took_s - fold.way.launch_s)
        return fold._replace(latency_s=took_s - moving_s, bytes_per_s=fold.sent_bytes / moving_s)

    def _winner(self, kind: str, ranks: Ranks, nbytes: float) -> Way:
        """The way that is the quickest as played, of those that may be."""
        assert self._play is not None
        folds = self.candidates(kind, ranks, nbytes)
        took: dict[Way, float] = {}
        # Those whose time is known first, then the most promising: few others need be played.
        for fold in sorted(folds, key=lambda fold: (not fold.exact, fold.seconds)):
            best_s = min(took.values(), default=inf)
            took[fold.way] = fold.seconds
            if fold.exact:
                continue
            least_s, sends = self._least(kind, ranks, nbytes, fold)
            if least_s > best_s:
                took[fold.way] = inf
            elif sends <= MOST_PLAYED:
                took[fold.way] = self._play(self, kind, ranks, nbytes, fold)
        return min(took, key=lambda way: took[way])

    def _least(self, kind: str, ranks: Ranks, nbytes: float, fold: Fold) -> tuple[float, int]:
        """Seconds that a plan cannot be quicker than, and its sends: a rank sends round after
        round, and a link carries all that crosses it."""
        way, rate = fold.way, self.wires.bytes_per_s
        load, own = np.zeros(len(rate)), np.zeros(len(self.wires.nodes))
        count = 0
        for sends, times in repeats(self.plan_of(kind, ranks, nbytes, fold)):
            count += times * len(sends.source)
            if not len(sends.source):
                continue
            ways = self.routes(sends)
            legs = ways.legs
            moved = (
                np.repeat(np.repeat(sends.nbytes, np.diff(ways.first)), np.diff(legs.first))
                * legs.share
            )
            load += times * np.bincount(legs.capacities, moved, minlength=len(rate))
            alone = np.maximum.reduceat(moved / rate[legs.capacities], legs.first[:-1])
            took = np.add.reduceat(legs.latency_s + alone / way.link_efficiency, ways.first[:-1])
            each = np.zeros(len(own))
            np.maximum.at(each, sends.source, took + way.step_s)
            own += times * each
        longest = max(own.max(), (load / rate).max() / way.link_efficiency)
        return way.launch_s + float(longest), count

    def candidates(self, kind: str, ranks: Ranks, nbytes: float) -> list[Fold]:
        """What `auto` compares; of a named algorithm, its ways."""
        who = self.members(ranks)
        able, plans = serving(kind, who), COLLECTIVES[kind].algorithms
        library = self._driver(who)
        ways = [
            way
            for way in library.ways
            if kind in way.collectives and way.algorithm in able and nbytes <= way.most_bytes
        ]
        if self.algorithm in plans:
            algorithm(kind, self.algorithm, who)  # or an error that says which serve
            ways = [way for way in ways if way.algorithm == self.algorithm] or [
                library.way(self.algorithm)
            ]
        if not ways:
            large = who.size**2 > MOST_SENDS
            names = [name for name in able if name in library.algorithms] or [
                name
                for name in able
                if not (plans[name].named_only or (large and plans[name].crowded))
            ]
            if not names:
                raise ValueError(
                    f"{kind} among {who.size:,} ranks is too much for auto to compare; "
                    f"name one of {', '.join(able)}"
                )
            ways = [library.way(name) for name in names]
        bare = {
            name: self._folded(name, who, kind, nbytes)
            for name in dict.fromkeys(way.algorithm for way in ways)
        }
        return [bare[way.algorithm].driven(way) for way in ways]

    def _folded(self, name: str, who: Members, kind: str, nbytes: float) -> _Bare:
        """A round lasts as long as its slowest send, sharing counted, and all ranks take it in
        step.

        Exact when they do: every rank has a part in the slowest sends, and nobody sends who sat out
        the round before.
        """
        how = COLLECTIVES[kind].algorithms[name]
        plan = how.plan(who, nbytes)
        total, exact = np.zeros(4), True
        seen: dict[tuple[int, ...], _Step] = {}
        before: Ints | None = None
        rounds = repeats(plan)
        for sends, times in rounds:
            # Whether it is reduced costs nothing where it is done as it arrives.
            same = sends if self.library.reduce_bytes_per_s < inf else sends[:3]
            key = tuple(map(id, same))
            step = seen.get(key) or seen.setdefault(key, self._step(sends))
            total += times * step.costs
            exact = exact and step.even
            if exact and len(rounds) > 1:
                taking_part = np.zeros(len(self.wires.nodes), dtype=bool)
                taking_part[sends.source] = taking_part[sends.target] = True
                exact = before is None or bool(before[sends.source].all())
                before = taking_part
        wait_s, wire_s, reduce_s, sent = total.tolist()
        return _Bare(
            rounds=len(plan),
            wait_s=wait_s,
            wire_s=wire_s,
            reduce_s=reduce_s,
            sent_bytes=sent / (who.size * how.senders),
            exact=exact,
        )

    def _step(self, sends: Round) -> _Step:
        """What one round takes on links that nobody else uses."""
        if not len(sends.source):
            return _Step(np.zeros(4), True)
        ways = self.routes(sends)
        legs, rate = ways.legs, self.wires.bytes_per_s
        flow = np.repeat(np.arange(len(legs.hops)), np.diff(legs.first))
        nbytes = np.repeat(sends.nbytes, np.diff(ways.first))  # by leg
        # A send's first leg, second ...
        number = np.arange(len(nbytes)) - np.repeat(ways.first[:-1], np.diff(ways.first))
        seconds = np.zeros(len(nbytes))
        for leg in range(int(number.max()) + 1):
            here = number[flow] == leg
            over = legs.capacities[here]
            load = np.bincount(over, legs.share[here] * nbytes[flow[here]], minlength=len(rate))
            np.maximum.at(seconds, flow[here], load[over] / rate[over])
        waits = np.add.reduceat(legs.latency_s, ways.first[:-1])
        moves = np.add.reduceat(seconds, ways.first[:-1])
        reduces = sends.reduces * sends.nbytes / self.library.reduce_bytes_per_s
        slow = waits + moves + reduces >= (waits + moves + reduces).max() * (1 - 1e-12)
        part = np.zeros((2, len(self.wires.nodes)), dtype=bool)
        for row, chosen in enumerate((np.ones(len(slow), dtype=bool), slow)):
            part[row, sends.source[chosen]] = part[row, sends.target[chosen]] = True
        # Who is slowest must be so alone: beside it on its links only sends just like it.
        busy = np.zeros(len(rate), dtype=bool)
        busy[legs.capacities[np.repeat(slow, np.diff(ways.first))[flow]]] = True
        beside = np.zeros(len(slow), dtype=bool)
        send_of_leg = np.repeat(np.arange(len(slow)), np.diff(ways.first))
        beside[send_of_leg[flow[busy[legs.capacities]]]] = True
        alike = all(
            _equal(fact[beside])
            for fact in (waits, moves, reduces, sends.nbytes, np.diff(ways.first))
        )
        even = alike and bool((part[0] == part[1]).all())
        longest = [float(part[slow].max()) for part in (waits, moves, reduces)]
        return _Step(np.array([*longest, sends.nbytes.sum()]), even)


class _Step(NamedTuple):
    """A round: how long its slowest send waits, moves and is reduced, and bytes sent by all;
    whether all go in step."""

    costs: Floats
    even: bool


class _Bare(NamedTuple):
    """A whole plan without the library's costs; times are sums over rounds."""

    rounds: int
    wait_s: float
    wire_s: float
    reduce_s: float
    sent_bytes: float  # a rank
    exact: bool

    def driven(self, way: Way) -> Fold:
        """The plan as one way drives it."""
        latency = way.launch_s + way.step_s * self.rounds + self.wait_s
        moving = self.wire_s / way.link_efficiency + self.reduce_s
        return Fold(
            way=way,
            latency_s=latency,
            sent_bytes=self.sent_bytes,
            bytes_per_s=self.sent_bytes / moving if moving else 1.0,
            rounds=self.rounds,
            exact=self.exact,
        )


def _equal(values: Floats | Ints) -> bool:
    return not len(values) or bool(np.ptp(values) <= 1e-12 * values.max())
