"""Flows with a clock: bytes that cross capacities, sharing them max-min fairly with whatever else
moves at the time.

One mechanism for HBM, L2, links and the copy engine. A flow pays its latency first; its rate
changes only when a flow that it shares a capacity with starts or ends, and only that connected
component is touched. A flow alone on its capacities costs no event of its own: its end is known
when it starts, and whoever waits for it holds the one timeout. When company comes, the waiting
timeouts are moved (`Work.move`) and one wake-up per component is armed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import simpy

from sim.facts.span import Use
from sim.network.sharing import max_min

# Two instants closer than this are one: far below any physical time here, above the rounding of an
# hour-long replay.
_INSTANT_S = 2e-12
_NORMAL = simpy.events.NORMAL


class Alarm:
    """What waits for a time, and no more: all that SimPy's loop asks of an event."""

    __slots__ = ("callbacks",)
    _ok, _value = True, None

    def __init__(self, env: simpy.Environment, delay_s: float) -> None:
        assert delay_s >= 0.0
        self.callbacks: list[Any] = []
        env.schedule(self, _NORMAL, delay_s)  # type: ignore[arg-type]


class Capacity:
    """Something that moves at most `bytes_per_s`: an HBM port, an L2 port, a link, a copy
    engine."""

    __slots__ = ("bytes_per_s", "flows", "moved", "name", "wake")

    def __init__(self, name: str, bytes_per_s: float) -> None:
        self.name, self.bytes_per_s = name, bytes_per_s
        self.flows: list[Flow] = []
        self.moved = 0.0  # bytes
        self.wake: Alarm | None = None  # when the rates of the component it heads change next


class Work:
    """What waits for a set of flows and a span of arithmetic: one op in flight.  `event` fires when
    all are done."""

    __slots__ = (
        "end_s",
        "event",
        "floor_s",
        "flows",
        "hbm_bytes",
        "l2_bytes",
        "latency_s",
        "link_bytes",
        "net",
    )

    def __init__(self, net: Net) -> None:
        self.net = net
        self.flows: tuple[Flow, ...] = ()
        self.floor_s = self.end_s = self.latency_s = 0.0
        self.hbm_bytes = self.l2_bytes = self.link_bytes = 0.0
        self.event: simpy.Event | Alarm | None = None

    def move(self) -> None:
        """Re-time the pending event after a change of rates, taking along whoever waits on it."""
        if self.event is None or self.event.callbacks is None:
            return  # not started yet, or over
        end = self.floor_s
        for flow in self.flows:
            if flow.finish_s > end:
                end = flow.finish_s
        if end == self.end_s:
            return
        self.end_s = end
        env = self.net.env
        later = Alarm(env, max(end - env.now, 0.0))
        later.callbacks, self.event.callbacks = self.event.callbacks, []
        self.event = later


class Flow:
    """Bytes on their way over `route`.  Reused by its owner: one flow object carries many
    transfers, one at a time."""

    __slots__ = (
        "begins_s",
        "finish_s",
        "left",
        "limit",
        "live",
        "moved",
        "port",
        "rate",
        "route",
        "shared",
        "since_s",
        "weight",
        "work",
    )

    def __init__(
        self, work: Work, route: tuple[Capacity, ...], limit: float = inf, weight: float = 1.0
    ) -> None:
        self.work, self.route, self.limit, self.weight = work, route, limit, weight
        self.port = (
            route[0] if len(route) == 1 else None
        )  # most flows cross one capacity, which is quicker to share
        self.left = self.rate = self.moved = 0.0
        self.begins_s = self.since_s = self.finish_s = 0.0
        self.live = False  # listed on its capacities (a lone flow may have finished since)
        self.shared = False  # in a component with others: its end is an event that re-times them


class Net:
    """Every capacity and flow of one simulation.  `record`, if set, receives a `Use` for each
    constant-rate stretch."""

    def __init__(self, env: simpy.Environment, record: Callable[[Use], None] | None = None) -> None:
        self.env, self.record = env, record
        self.order: list[object] | None = (
            None  # when a list: every decision taken, in order (see `sim.engine.steps`)
        )

    def start(self, flow: Flow, nbytes: float, begins_s: float, now: float) -> float:
        """Send `nbytes` from `begins_s` on (latency is what lies before it); returns the end, if
        nobody else comes."""
        soon = now + _INSTANT_S
        port = flow.port
        if (
            port is not None and self.record is None
        ):  # what follows, for the case that is nearly every case
            present = port.flows
            if not present or (
                len(present) == 1 and present[0].finish_s <= soon and not present[0].shared
            ):
                if present and present[0].port is port:
                    last = present[0]
                    last.moved += last.left
                    last.left = 0.0
                    last.live = False
                    present[0] = flow
                elif present:
                    self._retire(present[0])
                    present.append(flow)
                else:
                    present.append(flow)
                port.moved += nbytes
                flow.begins_s = flow.since_s = begins_s
                flow.left = nbytes
                flow.moved = 0.0
                flow.live = True
                flow.rate = rate = flow.limit if flow.limit < port.bytes_per_s else port.bytes_per_s
                flow.finish_s = end_s = begins_s + nbytes / rate
                return end_s
        alone, rate = True, flow.limit
        for capacity in flow.route:
            present = capacity.flows
            if present:
                if len(present) == 1 and not present[0].shared and present[0].finish_s <= soon:
                    self._retire(present[0])
                else:
                    if flow.live:
                        self._retire(flow)
                    alone = False
            present.append(flow)
            capacity.moved += nbytes
            if capacity.bytes_per_s < rate:
                rate = capacity.bytes_per_s
        flow.begins_s = flow.since_s = begins_s
        flow.left = nbytes
        flow.moved = 0.0
        flow.live = True
        flow.rate = rate
        flow.finish_s = begins_s + nbytes / rate
        if not alone and begins_s > soon:
            # Until it begins it changes nobody's rate: whoever shares with it then is found then.
            for capacity in flow.route:
                for other in capacity.flows:
                    other.shared = True
            begin = Alarm(self.env, begins_s - now)
            begin.callbacks.append(
                lambda _: self._share([flow]) if flow.live and flow.begins_s == begins_s else None
            )
        elif not alone:
            self._share([flow])
        return flow.finish_s

    def cancel(self, flow: Flow) -> float:
        """Stop a flow now, ending the work that waits for it; returns the bytes that had moved."""
        if not flow.live:
            return flow.moved
        if not flow.shared and flow.finish_s <= self.env.now + _INSTANT_S:
            port = flow.port
            if port is None or self.record is not None or port.wake is not None:
                self._retire(flow)
                return flow.moved
            port.flows.remove(flow)
            flow.moved += flow.left
            flow.left, flow.live = 0.0, False
            return flow.moved
        others = _component(flow) if flow.shared else [flow]
        self._settle(flow)
        for capacity in flow.route:
            capacity.moved -= flow.left
        self._drop(flow)
        flow.finish_s = self.env.now
        flow.work.move()
        rest = [each for each in others if each is not flow]
        if len(rest) == 1:
            self._settle(rest[0])
            if rest[0].left > 0:
                self._free(rest[0])
            else:
                self._drop(rest[0])
        elif rest:
            self._share(rest)
        return flow.moved

    def flush(self, capacities: Iterable[Capacity]) -> None:
        """Report the last stretch of flows that have ended on `capacities`; call when a simulation
        stops."""
        for capacity in capacities:
            for flow in list(capacity.flows):
                if flow.finish_s <= self.env.now + _INSTANT_S:
                    self._retire(flow)

    def _settle(self, flow: Flow) -> None:
        """Bring a flow's progress up to now, at the rate it had."""
        now = self.env.now
        if now + _INSTANT_S >= flow.finish_s:
            now, nbytes = flow.finish_s, flow.left
        elif now > flow.since_s:
            nbytes = flow.rate * (now - flow.since_s)
        else:
            return
        if self.record is not None and now > flow.since_s:
            for capacity in flow.route:
                self.record(Use(capacity.name, flow.since_s, now, flow.rate))
        flow.left -= nbytes
        flow.moved += nbytes
        flow.since_s = now

    def _drop(self, flow: Flow) -> None:
        for capacity in flow.route:
            capacity.flows.remove(flow)
            if capacity.wake is not None:
                capacity.wake.callbacks = []
                capacity.wake = None
        flow.live = flow.shared = False

    def _retire(self, flow: Flow) -> None:
        """A flow has ended: report what it did and take it off its capacities."""
        self._settle(flow)
        self._drop(flow)

    def _share(self, flows: Iterable[Flow]) -> None:
        """Recompute the rates of every component that `flows` belong to, and arm its next
        wake-up."""
        todo = dict.fromkeys(flows)
        while todo:
            component = _component(next(iter(todo)))
            ended = False
            for each in component:
                todo.pop(each, None)
                self._settle(each)
                if each.left <= 0:
                    self._drop(each)
                    ended = True
            if ended:  # what is left may have fallen apart, unless all of it crosses one port
                component = [each for each in component if each.live]
                if any(each.port is None for each in component):
                    todo.update(dict.fromkeys(component))
                    continue
            if component:
                self._divide(component)

    def _divide(self, component: list[Flow]) -> None:
        """Set the rates of a settled component, re-time who waits for its flows, and wake up at its
        next change."""
        if len(component) == 1:
            self._free(component[0])
            return
        env = self.env
        now = env.now
        soon = now + _INSTANT_S
        moving = [each for each in component if each.begins_s <= soon]
        for each, rate in zip(moving, _rates(moving)):
            each.rate = rate
            each.finish_s = now + each.left / rate
        next_s = inf
        for each in component:
            each.shared = True
            each.work.move()
            change_s = each.finish_s if each.begins_s <= soon else each.begins_s
            if change_s < next_s:
                next_s = change_s
            for capacity in each.route:
                if capacity.wake is not None:
                    capacity.wake.callbacks = []
                    capacity.wake = None
        if self.order is not None:
            self.order.append(len(moving) * 16 + len(component))
        wake = component[0].route[0].wake = Alarm(env, max(next_s - now, 0.0))
        wake.callbacks.append(lambda _: self._share([each for each in component if each.live]))

    def _free(self, flow: Flow) -> None:
        """A settled flow has no company any more."""
        rate = flow.limit
        for capacity in flow.route:
            if capacity.bytes_per_s < rate:
                rate = capacity.bytes_per_s
            if capacity.wake is not None:
                capacity.wake.callbacks = []
                capacity.wake = None
        flow.rate = rate
        flow.shared = False
        flow.finish_s = max(self.env.now, flow.begins_s) + flow.left / rate
        flow.work.move()
        if self.order is not None:
            self.order.append(1)


def _rates(moving: list[Flow]) -> list[float]:
    """Max-min fair rates of the flows of one component."""
    if not moving:
        return []
    port = moving[0].port
    for each in moving:
        if each.port is not port:
            port = None
    if port is not None:  # one port, the usual case: `max_min`, without its tables
        left, growing, rates = port.bytes_per_s, moving, {}
        while growing:
            level = left / sum(each.weight for each in growing)
            own = min(each.limit / each.weight for each in growing)
            full = [each for each in growing if own > level or each.limit / each.weight <= own]
            for each in full:
                rates[each] = min(own, level) * each.weight
                left -= rates[each]
            growing = [each for each in growing if each not in rates]
        return [rates[each] for each in moving]
    capacities = list(dict.fromkeys(c for each in moving for c in each.route))
    at = {c: i for i, c in enumerate(capacities)}
    return max_min(
        [[at[c] for c in each.route] for each in moving],
        [c.bytes_per_s for c in capacities],
        [each.weight for each in moving],
        [each.limit for each in moving],
    )


def _component(flow: Flow) -> list[Flow]:
    """The live flows that `flow` is connected with through shared capacities, itself among them."""
    port = flow.port
    if port is not None:
        for other in port.flows:
            if other.port is not port:
                break
        else:
            return list(port.flows)
    found, todo = {flow: None}, [flow]
    while todo:
        for capacity in todo.pop().route:
            for other in capacity.flows:
                if other not in found:
                    found[other] = None
                    todo.append(other)
    return list(found)
