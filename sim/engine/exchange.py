"""One collective on a fabric: its rounds played as flows, every rank going on as soon as it can."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import simpy

from sim.engine.fabric import Fabric
from sim.engine.flows import Alarm
from sim.network.library import Way
from sim.network.network import Network
from sim.network.plans import Floats, Ints, Plan, Round
from sim.network.wires import expand

_STRIDE = 1 << 32  # a message's tag is round * _STRIDE + its place in the round


class _Sends(NamedTuple):
    """A round ready to be played: paths known to the fabric, ranks as places in the exchange."""

    round: Round  # kept, for its identity is its name
    rows: Ints
    last: Ints
    source: Ints
    target: Ints
    nbytes: Floats
    reduce_s: Floats
    by_source: Ints  # messages in order of source
    first: Ints  # rows of `by_source`
    awaited: Ints  # by rank: messages it sends and gets
    single: bool  # nobody sends two or gets two


Known = dict[int, _Sends]


class Exchange:
    """One collective among `ranks` (node numbers).

    It starts for a rank when it comes (`arrive`), and ends for it when its last round is over:
    `finished` hears of ranks that are done, as places in the group. Nodes that take part without
    being ranks (a switch that adds) come with the last rank. `slow` says by how much each rank's
    own steps take longer, `jitter` how much later each of so many messages leaves. Exchanges of one
    group may share what is `known` of their rounds.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        network: Network,
        ranks: Ints,
        plan: Plan,
        way: Way,
        finished: Callable[[Ints], None],
        *,
        slow: Floats | None = None,
        jitter: Callable[[int], Floats] | None = None,
        weight: float = 1.0,
        known: Known | None = None,
    ) -> None:
        self.env, self.fabric, self.network, self.jitter, self.weight = (
            env,
            fabric,
            network,
            jitter,
            weight,
        )
        self._ranks, self._plan, self._way, self._finished = ranks, plan, way, finished
        self._slow = np.ones(len(ranks)) if slow is None else slow
        self._ready = {} if known is None else known
        self._number = fabric.add_sender(self)
        self.sent_bytes = np.zeros(len(ranks))
        self._live: dict[int, Ints] = {}  # by round under way: messages that each node waits for
        self._left: dict[int, int] = {}  # and how many in all
        self._over: set[int] = set()  # rounds that are
        place = np.full(len(network.wires.nodes), -1)
        place[ranks] = np.arange(len(ranks))
        self._helpers = np.empty(0, dtype=np.int64)
        for sends in {id(each): each for each in plan}.values():
            ends = np.concatenate([sends.source, sends.target])
            strange = np.unique(ends[place[ends] < 0])
            if len(strange):
                place[strange] = len(ranks) + len(self._helpers) + np.arange(len(strange))
                self._helpers = np.concatenate([self._helpers, place[strange]])
        self._place = place
        self._at = np.full(len(ranks) + len(self._helpers), -1)
        self._absent = len(ranks)

    def arrive(self, who: Ints, launch: bool = True) -> None:
        """These ranks (places in the group) have come to the collective, and start it once it is
        launched."""
        self._absent -= len(who)
        slow = self._slow[who]
        if not self._absent and len(self._helpers):
            who, slow = (
                np.concatenate([who, self._helpers]),
                np.concatenate([slow, np.ones(len(self._helpers))]),
            )
        for factor in np.unique(slow):
            launch_s = self._way.launch_s * float(factor) if launch else 0.0
            Alarm(self.env, launch_s, partial(self._enter, who[slow == factor], 0))

    def landed(self, tags: Ints) -> None:
        """Messages have arrived: their senders are rid of them, their receivers have them, once
        reduced."""
        number = int(tags[0] // _STRIDE)
        if len(tags) > 1 and (tags // _STRIDE != number).any():
            for each in np.unique(tags // _STRIDE):
                self.landed(tags[tags // _STRIDE == each])
            return
        sends = self._ready[id(self._plan[number])]
        message = tags % _STRIDE
        self._settle(number, sends, sends.source[message])
        reduce_s = sends.reduce_s[message]
        slowest = reduce_s.max()
        if not slowest:
            self._settle(number, sends, sends.target[message])
            self._go_on(number, np.concatenate([sends.source[message], sends.target[message]]))
            return
        self._go_on(number, sends.source[message])
        for wait_s in np.unique(reduce_s):
            reduced = sends.target[message[reduce_s == wait_s]]
            Alarm(self.env, float(wait_s), partial(self._reduced, number, sends, reduced))

    def _reduced(self, number: int, sends: _Sends, who: Ints, _: object) -> None:
        self._settle(number, sends, who)
        self._go_on(number, who)

    def _settle(self, number: int, sends: _Sends, who: Ints) -> None:
        awaited = self._live[number]
        if sends.single:
            awaited[who] -= 1
        else:
            np.subtract.at(awaited, who, 1)
        self._left[number] -= len(who)

    def _go_on(self, number: int, who: Ints) -> None:
        """Ranks that wait for nothing more in this round enter the next."""
        awaited = self._live[number]
        if len(who) * 4 > len(awaited):
            named = np.zeros(len(awaited), dtype=bool)
            named[who] = True
            done = np.flatnonzero(named & (awaited == 0) & (self._at == number))
        else:
            done = who[(awaited[who] == 0) & (self._at[who] == number)]
            if len(done) > 1:
                done = np.unique(done)
        if not self._left[number]:
            del self._live[number], self._left[number]
            self._over.add(number)
        if len(done):
            self._enter(done, number + 1)

    def _enter(self, who: Ints, number: int, _: object = None) -> None:
        """Ranks begin a round: their sends leave.  Who has no part in it goes on to the next."""
        while len(who):
            self._at[who] = number
            if number == len(self._plan):
                if not self._live:
                    self.fabric.forget(self._number)
                self._finished(who[who < len(self._ranks)])
                return
            sends = self._sends(self._plan[number])
            if number in self._over:  # all of it happened before these ranks came to it
                number += 1
                continue
            if number not in self._live:
                self._live[number] = sends.awaited.copy()
                self._left[number] = int(sends.awaited.sum())
            self._send(number, sends, who)
            who = who[self._live[number][who] == 0]
            number += 1

    def _send(self, number: int, sends: _Sends, who: Ints) -> None:
        if len(who) == len(self._at):
            message = np.arange(len(sends.rows))
        else:
            message = sends.by_source[expand(sends.first, who)[1]]
        if not len(message):
            return
        source = sends.source[message]
        own = source < len(self._ranks)
        np.add.at(self.sent_bytes, source[own], sends.nbytes[message[own]])
        delay_s = np.full(len(message), self._way.step_s)
        delay_s[own] *= self._slow[source[own]]
        if self.jitter is not None:
            delay_s += self.jitter(len(message))
        tags = number * _STRIDE + message
        wire_bytes = sends.nbytes[message] / self._way.link_efficiency
        self.fabric.send(
            self._number,
            tags,
            sends.rows[message],
            sends.last[message],
            wire_bytes,
            delay_s,
            self.weight,
        )

    def _sends(self, sends: Round) -> _Sends:
        if (found := self._ready.get(id(sends))) is None:
            ways = self.network.routes(sends)
            base = self.fabric.add_paths(ways.legs)
            source, target = self._place[sends.source], self._place[sends.target]
            count = len(self._at)
            out, to = np.bincount(source, minlength=count), np.bincount(target, minlength=count)
            first = np.zeros(count + 1, dtype=np.int64)
            np.cumsum(out, out=first[1:])
            found = _Sends(
                sends,
                base + ways.first[:-1],
                base + ways.first[1:] - 1,
                source,
                target,
                sends.nbytes,
                sends.reduces * sends.nbytes / self.network.library.reduce_bytes_per_s,
                np.argsort(source, kind="stable"),
                first,
                out + to,
                bool(out.max() <= 1 and to.max() <= 1),
            )
            self._ready[id(sends)] = found
        return found
