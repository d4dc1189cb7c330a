"""Flows with a clock: bytes that cross a port of a chip, sharing it max-min fairly with whatever
else moves at the time.

One mechanism for HBM, L2, the chip's link and shared engines; flows that cross several capacities
are the fabric's (`sim.engine.fabric`). A flow pays its latency first; its rate changes only when
another starts or ends on its port. A flow alone on its port costs no event of its own: its end is
known when it starts, and whoever waits for it holds the one timeout. When company comes, the
waiting timeouts are moved (`Work.move`) and one wake-up a port is armed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf
from typing import Any

import simpy

from sim.facts.span import Use

# Two instants closer than this are one: far below any physical time here, above the rounding of an
# hour-long replay.
_INSTANT_S = 2e-12
NORMAL = simpy.events.NORMAL
CALLED_OFF: list[Any] = []  # what an alarm calls that need not go off


class Alarm:
    """What waits for a time, and no more: all that SimPy's loop asks of an event."""

    __slots__ = ("callbacks",)
    _ok, _value = True, None

    def __init__(
        self,
        env: simpy.Environment,
        delay_s: float,
        *acts: Callable[[Any], Any],
        turn: int | None = None,  # among what happens at that time; None: the last so far
    ) -> None:
        assert delay_s >= 0.0
        self.callbacks: list[Any] = [*acts]
        turn = next(env._eid) if turn is None else turn
        heappush(env._queue, (env._now + delay_s, NORMAL, turn, self))  # type: ignore[misc]


def go_off(env: simpy.Environment) -> None:
    """Alarms go off until something else is to happen: SimPy's loop, for what costs the most."""
    queue: list[Any] = env._queue
    while queue and type(queue[0][3]) is Alarm:
        env._now, _, _, alarm = heappop(queue)
        acts, alarm.callbacks = alarm.callbacks, None
        for act in acts:
            act(alarm)


class Capacity:
    """Something that moves at most `bytes_per_s`: an HBM port, an L2 port, a link, an engine.

    Of its flows those that `copies` may be the work of one engine, which moves no more than the
    first of `copying` for one of them, than the second for several together, and while others move
    as well leaves the port the third of its rate; None: they are like any others.
    """

    __slots__ = ("bytes_per_s", "copying", "flows", "moved", "name", "wake")

    def __init__(
        self, name: str, bytes_per_s: float, copying: tuple[float, float, float] | None = None
    ) -> None:
        self.name, self.bytes_per_s, self.copying = name, bytes_per_s, copying
        self.flows: list[Flow] = []  # a lone one may have finished since
        self.moved = 0.0  # bytes
        self.wake: Alarm | None = None  # when the rates of its flows change next

    def hush(self) -> None:
        """Call off the wake-up."""
        if self.wake is not None:
            self.wake.callbacks = CALLED_OFF
            self.wake = None


class Work:
    """What waits for a set of flows and a span of arithmetic: one op in flight.  `event` fires when
    all are done."""

    __slots__ = (
        "end_s",
        "env",
        "event",
        "floor_s",
        "flows",
        "hbm_bytes",
        "l2_bytes",
        "latency_s",
        "link_bytes",
    )

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.flows: tuple[Flow, ...] = ()
        self.floor_s = self.end_s = self.latency_s = 0.0
        self.hbm_bytes = self.l2_bytes = self.link_bytes = 0.0
        self.event: simpy.Event | Alarm | None = None

    def move(self) -> None:
        """Re-time the pending event after a change of rates, taking along whoever waits on it."""
        event, end = self.event, self.floor_s
        if event is None or event.callbacks is None:
            return  # not started yet, or over
        for flow in self.flows:
            if flow.finish_s > end:
                end = flow.finish_s
        if end != self.end_s:
            self.end_s = end
            self.event = Alarm(self.env, max(end - self.env._now, 0.0), *event.callbacks)
            event.callbacks = CALLED_OFF


class Flow:
    """Bytes on their way over `port`.  Reused by its owner: one flow object carries many transfers,
    one at a time."""

    __slots__ = (
        "begins_s",
        "copies",
        "finish_s",
        "left",
        "limit",
        "live",
        "moved",
        "port",
        "rate",
        "shared",
        "since_s",
        "weight",
        "work",
    )

    def __init__(self, work: Work, port: Capacity, limit: float = inf, weight: float = 1.0) -> None:
        self.work, self.port, self.limit, self.weight = work, port, limit, weight
        self.left = self.rate = self.moved = 0.0
        self.begins_s = self.since_s = self.finish_s = 0.0
        self.copies = False  # the work of a copy engine
        self.live = False  # listed on its port
        self.shared = False  # it has company: its end is an event that re-times the others


class Net:
    """The flows of one simulation.  `record`, if set, receives a `Use` for each constant-rate
    stretch."""

    def __init__(self, env: simpy.Environment, record: Callable[[Use], None] | None = None) -> None:
        self.env, self.record = env, record
        self.keepers: set[int] = set()  # programs on these ports that want what is recorded
        # When a list: every decision taken, in order (see `sim.engine.steps`).
        self.order: list[object] | None = None

    def start(self, flow: Flow, nbytes: float, begins_s: float, now: float) -> float:
        """Send `nbytes` from `begins_s` on (latency is what lies before it); returns the end, if
        nobody else comes."""
        port = flow.port
        present, soon = port.flows, now + _INSTANT_S
        alone = True
        if present:
            last = present[0]
            if len(present) == 1 and last.finish_s <= soon and not last.shared:
                if self.record is None:  # as `_retire`, for the case that is nearly every case
                    last.moved += last.left
                    last.left, last.live = 0.0, False
                    present.clear()
                else:
                    self._retire(last)
            else:
                alone = False
                if flow.live:
                    self._retire(flow)
                    port.hush()
        present.append(flow)
        port.moved += nbytes
        flow.begins_s = flow.since_s = begins_s
        flow.left, flow.moved, flow.live = nbytes, 0.0, True
        flow.rate = rate = flow.limit if flow.limit < port.bytes_per_s else port.bytes_per_s
        flow.finish_s = begins_s + nbytes / rate
        if alone:
            return flow.finish_s
        if begins_s > soon:
            # Until it begins it changes nobody's rate: whoever shares with it then is found then.
            for other in present:
                other.shared = True

            def begin(_: object) -> None:
                if flow.live and flow.begins_s == begins_s:
                    self._share(port)

            Alarm(self.env, begins_s - now, begin)
        else:
            self._share(port)
        return flow.finish_s

    def cancel(self, flow: Flow) -> float:
        """Stop a flow now, ending the work that waits for it; returns the bytes that had moved."""
        if flow.live:
            over = not flow.shared and flow.finish_s <= self.env._now + _INSTANT_S
            self._retire(flow)
            if not over:
                flow.port.moved -= flow.left
                flow.finish_s = self.env._now
                flow.work.move()
                self._share(flow.port)
        return flow.moved

    def flush(self, capacities: Iterable[Capacity]) -> None:
        """Report the last stretch of flows that have ended on `capacities`; call when a simulation
        stops."""
        for capacity in capacities:
            for flow in list(capacity.flows):
                if flow.finish_s <= self.env._now + _INSTANT_S:
                    self._retire(flow)

    def _settle(self, flow: Flow) -> None:
        """Bring a flow's progress up to now, at the rate it had."""
        now = self.env._now
        if now + _INSTANT_S >= flow.finish_s:
            now, nbytes = flow.finish_s, flow.left
        elif now > flow.since_s:
            nbytes = flow.rate * (now - flow.since_s)
        else:
            return
        if self.record is not None and now > flow.since_s:
            self.record(Use(flow.port.name, flow.since_s, now, flow.rate))
        flow.left -= nbytes
        flow.moved += nbytes
        flow.since_s = now

    def _retire(self, flow: Flow) -> None:
        """Report what a flow did and take it off its port."""
        self._settle(flow)
        flow.port.flows.remove(flow)
        flow.live = flow.shared = False

    def _share(self, port: Capacity) -> None:
        """Share a port anew among its flows, re-time who waits for them, and wake up at the next
        change."""
        now, flows = self.env._now, port.flows
        for flow in list(flows):
            self._settle(flow)
            if flow.left <= 0:
                self._retire(flow)
        port.hush()
        if len(flows) > 1:
            self._divide(port, now)
            return
        for flow in flows:  # the only one: it has no company any more
            if flow.copies and port.copying:
                flow.limit = port.copying[0]
            flow.shared, flow.rate = False, min(flow.limit, port.bytes_per_s)
            flow.finish_s = max(now, flow.begins_s) + flow.left / flow.rate
            flow.work.move()
            if self.order is not None:
                self.order.append(1)

    def _divide(self, port: Capacity, now: float) -> None:
        """Set the rates of several settled flows."""
        moving = [flow for flow in port.flows if flow.begins_s <= now + _INSTANT_S]
        bytes_per_s, copies = port.bytes_per_s, 0
        if port.copying:
            one, several, left = port.copying
            copying = [flow for flow in moving if flow.copies]
            copies = len(copying)
            for flow in copying:
                flow.limit = one if copies == 1 else several / copies
            bytes_per_s *= left if 0 < copies < len(moving) else 1.0
        _fill(bytes_per_s, moving)
        for flow in moving:
            flow.finish_s = now + flow.left / flow.rate
        next_s = inf
        for flow in port.flows:
            flow.shared = True
            flow.work.move()
            change_s = flow.finish_s if flow.begins_s <= now + _INSTANT_S else flow.begins_s
            if change_s < next_s:
                next_s = change_s
        if self.order is not None:
            self.order.append((copies * 16 + len(moving)) * 16 + len(port.flows))
        port.wake = Alarm(self.env, max(next_s - now, 0.0), lambda _: self._share(port))


def _fill(bytes_per_s: float, flows: list[Flow]) -> None:
    """Set max-min fair rates: raise all in proportion to weight until the port is full or a flow at
    its limit, and go on with the rest."""
    while flows:
        weight, own = 0.0, inf
        for flow in flows:
            weight += flow.weight
            if flow.limit / flow.weight < own:
                own = flow.limit / flow.weight
        level = bytes_per_s / weight
        growing = []
        for flow in flows:
            if level < own or flow.limit / flow.weight <= own:
                flow.rate = (level if level < own else own) * flow.weight
                bytes_per_s -= flow.rate
            else:
                growing.append(flow)
        flows = growing
