"""What is done to a fleet from outside while it serves: replicas fail and come back, or follow the
load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sim.engine.replay import Act, Event
from sim.serving.failure import cut_back, fail
from sim.serving.fleet import IDLE, Fleet
from sim.serving.step_time import StepTime


class Failure(NamedTuple):
    """Replica `replica` is down from `at_s` on for `for_s` seconds; inf: it does not come back."""

    replica: int
    at_s: float
    for_s: float


def failures(faults: Sequence[Failure], lanes: int = 1) -> list[Event]:
    """The events of replicas that fail, each with so many lanes; the router knows at once.  Outages
    of one replica that meet are one."""
    apart: list[Failure] = []
    for fault in sorted(faults):
        last = apart[-1] if apart else None
        if (
            last is not None
            and last.replica == fault.replica
            and fault.at_s <= last.at_s + last.for_s
        ):
            apart[-1] = last._replace(for_s=max(last.for_s, fault.at_s + fault.for_s - last.at_s))
        else:
            apart.append(fault)
    return [event for fault in apart for event in _failing(fault, lanes)]


def _failing(fault: Failure, lanes: int) -> list[Event]:
    rows = range(fault.replica * lanes, (fault.replica + 1) * lanes)

    def cut(fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        for r in rows:
            cut_back(fleet, price, r, now_s)
        return ()

    def stop(fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        up = int(fleet.replicas[rows[0]].up)
        for r in rows:
            fail(fleet, r, now_s, now_s + fault.for_s)

        def back(fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
            fleet.replicas.up[rows] = up
            return ()

        return [Event(now_s + fault.for_s, back)]

    return [
        Event(fault.at_s, cut),
        Event(fault.at_s, stop),
    ]  # what is over by then is booked between the two


class Autoscale(NamedTuple):
    """Every `every_s` seconds as many of `most` replicas, from number `first` on, as there are
    `target` requests for each, but at least `least`.

    A new one takes requests `start_up_s` later; one too many takes no more once it has been so for
    `cool_down_s`, and stops when it has answered those it has.
    """

    first: int
    most: int
    least: int
    target: float
    every_s: float
    start_up_s: float
    cool_down_s: float


class Scaler:
    """Starts and stops replicas by their load, and keeps count of the seconds that each is on."""

    def __init__(self, rule: Autoscale) -> None:
        self.rule = rule
        self.members = range(rule.first, rule.first + rule.most)
        self._on_since_s = dict.fromkeys(self.members[: rule.least], 0.0)
        self._starting: set[int] = set()
        self._on_s = dict.fromkeys(self.members, 0.0)
        self._wanted_s = 0.0  # when no fewer than those that are up were last wanted
        self.most = rule.least  # that were on at once

    def begin(self, replicas: np.recarray) -> list[Event]:
        """Leave the least number up; the first look at the load."""
        replicas.up[list(self.members[self.rule.least :])] = 0
        return [Event(self.rule.every_s, self._look)]

    def on_s(self, r: int, end_s: float) -> float:
        """Seconds that replica `r` was on until `end_s`, starting up included."""
        return self._on_s[r] + max(end_s - self._on_since_s.get(r, end_s), 0.0)

    def _look(self, fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        rule, members = self.rule, self.members
        present = int(fleet.replicas.present[list(members)].sum())
        wanted = min(max(math.ceil(present / rule.target), rule.least), rule.most)
        up = [r for r in members if fleet.replicas[r].up]
        have = len(up) + len(self._starting)
        later = [Event(now_s + rule.every_s, self._look)]
        if wanted >= have:
            self._wanted_s = now_s
        if wanted > have:
            later += self._start(fleet, wanted - have, now_s)
        elif wanted < len(up) and now_s - self._wanted_s >= rule.cool_down_s:
            for r in up[wanted:]:
                fleet.replicas[r].up = 0
        for r in [*self._on_since_s]:
            me = fleet.replicas[r]
            if not me.up and r not in self._starting and not me.present and me.activity == IDLE:
                self._on_s[r] += max(now_s, me.now_s) - self._on_since_s.pop(r)
        self.most = max(self.most, len(self._on_since_s))
        return later

    def _start(self, fleet: Fleet, count: int, now_s: float) -> list[Event]:
        down = [r for r in self.members if not fleet.replicas[r].up and r not in self._starting]
        down = [
            r for r in down if fleet.replicas[r].now_s <= now_s or r in self._on_since_s
        ]  # not those that failed
        later = []
        for r in sorted(down, key=lambda r: r not in self._on_since_s)[:count]:
            if r in self._on_since_s:
                fleet.replicas[r].up = 1  # it was to stop, and is still there
                continue
            self._starting.add(r)
            self._on_since_s[r] = now_s
            later.append(Event(now_s + self.rule.start_up_s, self._ready(r)))
        return later

    def _ready(self, r: int) -> Act:
        def ready(fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
            self._starting.discard(r)
            fleet.replicas[r].up = 1
            fleet.replicas[r].now_s = max(fleet.replicas[r].now_s, now_s)
            return ()

        return ready
