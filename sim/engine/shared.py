"""One capacity that very many flows share, each with a rate of its own at most, in virtual time.

The law is that of `sim.engine.flows` and `sim.engine.fabric`: a flow pays its latency elsewhere,
then shares max-min fairly, and rates change only where a flow begins or ends. What differs is the
bookkeeping, made for an uplink that thousands of edges share: flows with the same limit go at the
same rate, so they are one class with a clock that runs by the bytes that each of them has moved,
and a heap of those readings at which they end. An event costs classes + log(flows), where the
fabric looks at every flow that shares. A test holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf

import simpy

from sim.engine.flows import Alarm
from sim.facts.traffic import Binned

_INSTANT_S = 2e-12  # ends that are closer than this are one


class Shared:
    """A capacity of `bytes_per_s`, inf for one that nobody notices."""

    def __init__(self, env: simpy.Environment, bytes_per_s: float = inf) -> None:
        self.env, self.bytes_per_s = env, bytes_per_s
        self.moved_bytes = 0.0
        self.series = Binned()  # bytes over time
        self.most_flows = 0
        self.record: Callable[[float, float, float], None] | None = None  # start, end, bytes/s
        self._classes: dict[float, _Class] = {}  # by limit
        self._since_s = 0.0
        self._flows, self._rate = 0, 0.0  # of all together
        self._turn, self._number = count(), 0  # the last alarm's; others are out of date
        self._stale = False

    def send(self, nbytes: float, limit: float, landed: Callable[[], None]) -> Flow:
        """Move `nbytes` from now on, at no more than `limit` bytes/s; `landed` is called at the
        end.  ValueError if neither the flow nor the capacity has a limit."""
        if min(limit, self.bytes_per_s) == inf:
            raise ValueError("a flow without a limit over a capacity without one takes no time")
        self._advance()
        own = self._classes.get(limit)
        if own is None:
            own = self._classes[limit] = _Class(limit)
            self._classes = dict(sorted(self._classes.items()))
        flow = Flow(own, own.moved + nbytes, nbytes, landed)
        heappush(own.ends, (flow.end, next(self._turn), flow))
        own.flows += 1
        self._flows += 1
        self.most_flows = max(self.most_flows, self._flows)
        self._later()
        return flow

    def stop(self, flow: Flow) -> float:
        """The flow ends here; bytes that it had moved.  One that has landed moved all."""
        if flow.over:
            return flow.nbytes
        self._advance()
        self._leave(flow)
        self._later()
        return flow.nbytes - (flow.end - flow.of.moved)

    def _leave(self, flow: Flow) -> None:
        flow.over = True
        flow.of.flows -= 1
        self._flows -= 1

    def _advance(self) -> None:
        """Moves every class on to now."""
        now = self.env.now
        passed_s = now - self._since_s
        if passed_s > 0.0 and self._flows:
            for own in self._classes.values():
                own.moved += own.rate * passed_s
            self.moved_bytes += self._rate * passed_s
            self.series.add(self._since_s, now, self._rate)
            if self.record is not None:
                self.record(self._since_s, now, self._rate)
        self._since_s = now

    def _later(self) -> None:
        """Rates are found once for all that begins and ends at one instant."""
        if not self._stale:
            self._stale = True
            Alarm(self.env, 0.0, lambda _: self._share())

    def _share(self) -> None:
        """Rates anew, and when the first flow ends."""
        self._stale = False
        left, flows, first_s = self.bytes_per_s, self._flows, inf
        self._rate = 0.0
        for own in self._classes.values():
            if not own.flows:
                own.rest()
                continue
            own.rate = min(own.limit, left / flows)
            left -= own.rate * own.flows
            flows -= own.flows
            self._rate += own.rate * own.flows
            first_s = min(first_s, own.first() / own.rate)
        self._number += 1
        if first_s < inf:
            number = self._number
            Alarm(self.env, max(first_s, 0.0), lambda _: self._ends(number))

    def _ends(self, number: int) -> None:
        if number != self._number:
            return
        self._advance()
        done: list[Flow] = []
        for own in self._classes.values():
            while own.flows and own.first() <= own.rate * _INSTANT_S:
                done.append(heappop(own.ends)[2])
                self._leave(done[-1])
        self._later()
        for flow in done:
            flow.landed()


class Flow:
    """Bytes on their way."""

    __slots__ = ("end", "landed", "nbytes", "of", "over")

    def __init__(self, of: _Class, end: float, nbytes: float, landed: Callable[[], None]) -> None:
        self.of, self.end, self.nbytes, self.landed = of, end, nbytes, landed
        self.over = False


class _Class:
    """Flows with one limit: all at one rate."""

    __slots__ = ("ends", "flows", "limit", "moved", "rate")

    def __init__(self, limit: float) -> None:
        self.limit, self.rate, self.moved, self.flows = limit, 0.0, 0.0, 0
        self.ends: list[tuple[float, int, Flow]] = []

    def first(self) -> float:
        """Bytes that the first to end has to go."""
        while self.ends[0][2].over:
            heappop(self.ends)
        return self.ends[0][0] - self.moved

    def rest(self) -> None:
        """Nobody is there: the clock starts anew, with all its digits."""
        self.moved = self.rate = 0.0
        self.ends.clear()
