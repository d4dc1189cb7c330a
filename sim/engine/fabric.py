"""A pod's fabric with a clock: very many flows over links, NICs and switch cores, held in arrays.

The mechanism is that of `sim.engine.flows`: a flow pays its latency, then shares what it crosses
max-min fairly, and rates change only where a flow begins or ends. What differs is the bookkeeping,
made for rounds of thousands of sends: one event serves all flows that begin or end at one instant;
a flow that is alone on its links has a known end and is not looked at again; flows that meet are
tied into a knot, and only a knot that gains or loses a flow is shared anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import simpy

from sim.engine.flows import Alarm
from sim.facts.jobs import LinkUse
from sim.facts.span import Use
from sim.network.sharing import Crossings, crossings, fill
from sim.network.wires import Floats, Ints, Paths, expand, joined

_INSTANT_S = 2e-12  # ends in one knot that are closer than this are one
_NONE = np.empty(0, dtype=np.int64)
_NOBODY = np.iinfo(np.int64).min


_BY_SLOT = (
    "_row",
    "_last",
    "_sender",
    "_tag",
    "_nbytes",
    "_left",
    "_rate",
    "_since",
    "_end",
    "_weight",
)


class Sender(Protocol):
    """Who hears of the end of its flows."""

    def landed(self, tags: Ints) -> None:
        """The flows sent with these tags have ended, now."""


@dataclass(slots=True, eq=False)
class _Knot:
    """Flows that share capacities, directly or through others.

    Arrays by flow; one that has ended keeps its place, with weight 0, until half of them have.
    """

    number: int
    slots: Ints
    capacities: Ints  # those crossed, by the numbers that `table` uses
    bytes_per_s: Floats  # of these
    table: Crossings
    left: Floats
    rate: Floats
    weight: Floats
    alive: int
    since_s: float
    next_s: float = np.inf  # when its first flow ends; inf: dissolved


class Fabric:
    """The flows on the capacities of a pod.  `bytes_per_s` are their rates, `names` tells them
    apart in records."""

    def __init__(
        self,
        env: simpy.Environment,
        bytes_per_s: Floats,
        names: Callable[[int], str] = str,
        record: Callable[[Use], None] | None = None,
    ) -> None:
        self.env, self.names, self.record = env, names, record
        self.bytes_per_s = np.asarray(bytes_per_s, dtype=float)
        links = len(self.bytes_per_s)
        self.moved_bytes, self.busy_s = np.zeros(links), np.zeros(links)
        self.most_flows = np.zeros(links, dtype=np.int64)
        self.watched = np.ones(links, dtype=bool)  # whose uses are recorded
        self._load = np.zeros(links, dtype=np.int64)  # flows on each capacity now
        self._busy_since = np.zeros(links)
        self._holder = np.full(
            links, _NOBODY
        )  # who is on each capacity: the slot of a lone flow, or -1 - a knot's
        self._place = np.zeros(links, dtype=np.int64)  # scratch of `_numbered`
        self._paths = Paths(
            first=np.zeros(1, dtype=np.int64),
            capacities=_NONE,
            share=np.empty(0),
            latency_s=np.empty(0),
            hops=_NONE,
        )
        self._alone = np.empty(0)  # by row: bytes/s of a flow that has the row to itself
        self._senders: dict[int, Sender] = {}
        self._introduced = 0  # senders so far
        self._knots: dict[int, _Knot] = {}
        self._tied = 0  # knots so far
        self._calendar: dict[
            float, tuple[list[Ints], list[_Knot], list[Ints]]
        ] = {}  # ends, knots, begins
        self._free = _NONE
        self._row = self._last = self._sender = self._tag = _NONE
        self._nbytes = self._left = self._rate = self._since = self._end = self._weight = np.empty(
            0
        )

    def add_paths(self, paths: Paths) -> int:
        """Make paths known; the number of the first, the others follow."""
        base = len(self._alone)
        self._paths = joined([self._paths, paths]) if base else paths
        rates = self.bytes_per_s[paths.capacities] / paths.share
        slowest = np.minimum.reduceat(rates, paths.first[:-1]) if len(rates) else rates
        self._alone = np.concatenate([self._alone, slowest])
        return base

    def add_sender(self, sender: Sender) -> int:
        """Make a sender known; its number, for `send`."""
        self._senders[self._introduced] = sender
        self._introduced += 1
        return self._introduced - 1

    def forget(self, sender: int) -> None:
        """A sender has nothing more on its way."""
        del self._senders[sender]

    def send(
        self,
        sender: int,
        tags: Ints,
        rows: Ints,
        last: Ints,
        nbytes: Floats,
        delay_s: Floats,
        weight: Floats | float = 1.0,
    ) -> None:
        """Send `nbytes` over the paths `rows`, and on to row `last` where a switch stores and
        forwards.

        Each message begins to move `delay_s` from now plus its path's latency; `landed` tells when
        it has arrived.
        """
        slots = self._slots(len(rows))
        self._row[slots], self._last[slots], self._sender[slots], self._tag[slots] = (
            rows,
            last,
            sender,
            tags,
        )
        self._nbytes[slots], self._weight[slots] = nbytes, weight
        self._begin_at(slots, self.env.now + delay_s + self._paths.latency_s[rows])

    def uses(self) -> list[LinkUse]:
        """What each capacity that carried anything did, up to now; most bytes for its rate
        first."""
        now = self.env.now
        busy = self.busy_s + np.where(self._load > 0, now - self._busy_since, 0.0)
        order = self._fullest()
        return [
            LinkUse(
                name=self.names(int(c)),
                bytes_per_s=float(self.bytes_per_s[c]),
                moved_bytes=float(self.moved_bytes[c]),
                busy_s=float(busy[c]),
                most_flows=int(self.most_flows[c]),
            )
            for c in order[self.moved_bytes[order] > 0]
        ]

    def _fullest(self) -> Ints:
        share = self.moved_bytes / self.bytes_per_s
        return np.argsort(
            -np.round(share / (share.max(initial=0.0) or 1.0), 9), kind="stable"
        )  # rounding is no order

    def watch_fullest(self, most: int) -> set[str]:
        """From now on record only the capacities that have carried most for their rate; their
        names."""
        fullest = self._fullest()[:most]
        self.watched[:] = False
        self.watched[fullest] = True
        return {self.names(int(c)) for c in fullest}

    def close(self) -> None:
        """The simulation has stopped: what is under way has moved this far, and no further."""
        now, going = self.env.now, [np.unique(self._holder[self._holder >= 0])]
        self._record_lone(going[0], now)
        self._left[going[0]] -= self._rate[going[0]] * (now - self._since[going[0]])
        for knot in list(self._knots.values()):
            self._settle(knot, now)
            going.append(self._untie(knot))
        slots = np.concatenate(going)
        first, at = expand(self._paths.first, self._row[slots])
        left = np.repeat(np.maximum(self._left[slots], 0.0), np.diff(first)) * self._paths.share[at]
        np.subtract.at(self.moved_bytes, self._paths.capacities[at], left)

    # The calendar: one event an instant.

    def _at(self, time_s: float) -> tuple[list[Ints], list[_Knot], list[Ints]]:
        entry = self._calendar.get(time_s)
        if entry is None:
            entry = self._calendar[time_s] = ([], [], [])
            delay_s = max(time_s - self.env.now, 0.0)
            Alarm(self.env, delay_s, lambda _: self._instant(time_s))
        return entry

    def _begin_at(self, slots: Ints, begins_s: Floats) -> None:
        for time_s, some in _by_time(begins_s, slots):
            self._at(time_s)[2].append(some)

    def _instant(self, time_s: float) -> None:
        """Everything that ends and begins now: ends first, so that what follows them finds the
        links free."""
        loosened: dict[_Knot, None] = {}
        ends, knots, begins = self._calendar.pop(time_s)
        done = []
        for slots in ends:
            slots = slots[self._end[slots] == time_s]  # else it has met somebody since
            if len(slots):
                done.append(slots)
                self._end[slots] = np.nan  # it may be listed twice
                self._record_lone(slots, time_s)
        for knot in knots:
            if knot.next_s == time_s:
                knot.next_s = np.inf
                self._settle(knot, time_s)
                done.append(self._release(knot))
                loosened[knot] = None
        if done:
            slots = np.concatenate(done)
            self._unload(slots, time_s)
            self._pass_on(slots)
        if begins:
            self._begin(np.concatenate(begins), time_s, loosened)
        for knot in loosened:
            if knot.number in self._knots:
                self._share_out(knot, time_s)

    def _pass_on(self, slots: Ints) -> None:
        """Messages whose leg has ended: start the next leg, or tell the sender."""
        further = self._row[slots] < self._last[slots]
        if further.any():
            on = slots[further]
            self._row[on] += 1
            self._rate[on] = 0.0
            self._begin_at(on, self.env.now + self._paths.latency_s[self._row[on]])
            slots = slots[~further]
        if not len(slots):
            return
        senders, tags = self._sender[slots], self._tag[slots]
        self._rate[slots] = 0.0
        self._free = np.concatenate([self._free, slots])
        if senders[0] == senders[-1] and (senders == senders[0]).all():
            self._senders[senders[0]].landed(tags)
        else:
            for sender in np.unique(senders):
                self._senders[sender].landed(tags[senders == sender])

    # Flows on their links.

    def _begin(self, slots: Ints, now: float, loosened: dict[_Knot, None]) -> None:
        rows = self._row[slots]
        self._left[slots] = self._nbytes[slots]
        self._since[slots] = now
        first, at = expand(self._paths.first, rows)
        crossed = self._paths.capacities[at]
        nbytes = np.repeat(self._nbytes[slots], np.diff(first)) * self._paths.share[at]
        links = len(self._load)
        if len(crossed) * 4 > links:
            added = np.bincount(crossed, minlength=links)
            self.moved_bytes += np.bincount(crossed, nbytes, minlength=links)
            idle = np.flatnonzero((added > 0) & (self._load == 0))
            held = self._holder[crossed]
            self._load += added
        else:
            idle = crossed[self._load[crossed] == 0]
            held = self._holder[crossed]
            np.add.at(self._load, crossed, 1)
            np.add.at(self.moved_bytes, crossed, nbytes)
        self._busy_since[idle] = now
        load = self._load[crossed]
        self.most_flows[crossed] = np.maximum(self.most_flows[crossed], load)
        self._holder[crossed] = np.repeat(slots, np.diff(first))
        alone = np.maximum.reduceat(load, first[:-1]) == 1
        if alone.all():
            self._run_free(slots, now)
            return
        self._run_free(slots[alone], now)
        met = held[np.repeat(~alone, np.diff(first))]
        self._tie(slots[~alone], np.unique(met[met != _NOBODY]), now, loosened)

    def _run_free(self, slots: Ints, now: float) -> None:
        """Flows that have their links to themselves: their end is known."""
        if not len(slots):
            return
        self._rate[slots] = rate = self._alone[self._row[slots]]
        self._since[slots] = now
        for time_s, some in _by_time(now + self._left[slots] / rate, slots):
            self._end[some] = time_s
            self._at(time_s)[0].append(some)

    def _tie(self, slots: Ints, met: Ints, now: float, loosened: dict[_Knot, None]) -> None:
        """Tie flows that begin to the flows and knots that they meet."""
        parts = [slots]
        for holder in met.tolist():
            if holder < 0:
                knot = self._knots[-1 - holder]
                self._settle(knot, now)
                parts.append(self._untie(knot))
            else:
                parts.append(np.array([holder]))
                self._record_lone(parts[-1], now)
                self._left[holder] = max(
                    self._left[holder] - self._rate[holder] * (now - self._since[holder]), 0.0
                )
        together = np.concatenate(parts)
        for some in [together] if len(slots) == 1 else self._apart(together):
            loosened[self._knot(some, now)] = None

    def _knot(self, slots: Ints, now: float) -> _Knot:
        """Tie flows that share capacities."""
        first, at = expand(self._paths.first, self._row[slots])
        capacities, crossed = self._numbered(self._paths.capacities[at])
        knot = self._knots[self._tied] = _Knot(
            number=self._tied,
            slots=slots,
            capacities=capacities,
            bytes_per_s=self.bytes_per_s[capacities],
            table=crossings(first, crossed, self._paths.share[at], len(capacities)),
            left=self._left[slots],
            rate=np.zeros(len(slots)),
            weight=self._weight[slots],
            alive=len(slots),
            since_s=now,
        )
        self._tied += 1
        self._holder[capacities] = -1 - knot.number
        self._end[slots] = np.nan
        return knot

    def _untie(self, knot: _Knot) -> Ints:
        """Dissolve a settled knot; its flows that are still going."""
        del self._knots[knot.number]
        knot.next_s = np.inf
        going = knot.weight > 0
        slots = knot.slots[going]
        self._left[slots] = knot.left[going]
        return slots

    def _apart(self, slots: Ints) -> list[Ints]:
        """Flows in groups that share no capacity, by spreading the lowest label over what is
        crossed."""
        first, at = expand(self._paths.first, self._row[slots])
        links, crossed = self._numbered(self._paths.capacities[at])
        if len(slots) == 1 or np.bincount(crossed).max() == len(slots):
            return [slots]
        flow = np.repeat(np.arange(len(slots)), np.diff(first))
        label, of_link = np.arange(len(slots)), np.full(len(links), len(slots))
        while True:
            np.minimum.at(of_link, crossed, label[flow])
            spread = np.minimum.reduceat(of_link[crossed], first[:-1])
            spread = spread[spread]
            if (spread == label).all():
                break
            label = spread
        order = np.argsort(label, kind="stable")
        return np.split(slots[order], np.flatnonzero(np.diff(label[order])) + 1)

    def _numbered(self, crossed: Ints) -> tuple[Ints, Ints]:
        """The capacities that occur, each once, and the place of every crossing among them."""
        position = np.arange(len(crossed))
        self._place[crossed] = position
        links = crossed[self._place[crossed] == position]
        self._place[links] = np.arange(len(links))
        return links, self._place[crossed]

    def _share_out(self, knot: _Knot, now: float) -> None:
        """New rates for a settled knot, and its next change.  One that has halved may have fallen
        apart."""
        if not knot.alive:
            self._untie(knot)
            return
        if knot.alive * 2 <= len(knot.slots):
            for some in self._apart(self._untie(knot)):
                if len(some) == 1 and self._has_to_itself(some):
                    self._run_free(some, now)
                else:
                    self._share_out(self._knot(some, now), now)
            return
        fill(knot.table, knot.bytes_per_s, knot.weight, knot.rate)
        with np.errstate(divide="ignore"):
            knot.next_s = now + float((knot.left / knot.rate).min())
        self._at(knot.next_s)[1].append(knot)

    def _has_to_itself(self, slot: Ints) -> bool:
        _, at = expand(self._paths.first, self._row[slot])
        crossed = self._paths.capacities[at]
        if (self._load[crossed] > 1).any():
            return False
        self._holder[crossed] = slot[0]
        return True

    def _settle(self, knot: _Knot, now: float) -> None:
        """Bring the flows of a knot up to now."""
        record = self.record
        if record is not None and now > knot.since_s:
            rates = np.repeat(knot.rate, np.diff(knot.table.first)) * knot.table.share
            carried = np.bincount(knot.table.capacity, rates, minlength=len(knot.capacities))
            seen = np.flatnonzero((carried > 0) & self.watched[knot.capacities])
            for link, rate in zip(knot.capacities[seen].tolist(), carried[seen].tolist()):
                record(Use(self.names(link), knot.since_s, now, rate))
        knot.left -= knot.rate * (now - knot.since_s)
        np.maximum(knot.left, 0.0, out=knot.left)
        knot.since_s = now

    def _release(self, knot: _Knot) -> Ints:
        """The flows of a knot that end now, at least one."""
        ended = np.flatnonzero(knot.left <= knot.rate * _INSTANT_S)
        if not len(ended):  # rounding
            with np.errstate(divide="ignore"):
                ended = np.array([np.argmin(knot.left / knot.rate)])
        knot.left[ended], knot.rate[ended], knot.weight[ended] = np.inf, 0.0, 0.0
        knot.alive -= len(ended)
        return knot.slots[ended]

    def _unload(self, slots: Ints, now: float) -> None:
        _, at = expand(self._paths.first, self._row[slots])
        crossed = self._paths.capacities[at]
        if len(crossed) * 4 > len(self._load):
            self._load -= np.bincount(crossed, minlength=len(self._load))
        else:
            np.subtract.at(self._load, crossed, 1)
        free = crossed[self._load[crossed] == 0]
        self.busy_s[free] += (
            now - self._busy_since[free]
        )  # one that several flows have left still counts once
        self._holder[free] = _NOBODY

    def _record_lone(self, slots: Ints, now: float) -> None:
        record = self.record  # it may stop recording as it goes
        if record is None:
            return
        first, at = expand(self._paths.first, self._row[slots])
        slot = np.repeat(slots, np.diff(first))
        seen = np.flatnonzero(self.watched[self._paths.capacities[at]] & (self._since[slot] < now))
        at, slot = at[seen], slot[seen]
        columns = (
            self._paths.capacities[at],
            self._since[slot],
            self._rate[slot] * self._paths.share[at],
        )
        for link, start_s, rate in zip(*(column.tolist() for column in columns)):
            record(Use(self.names(link), start_s, now, rate))

    def _slots(self, count: int) -> Ints:
        """Free places in the arrays, which grow when there are none left."""
        if len(self._free) < count:
            old = len(self._row)
            new = max(old, count, 64)
            for name in _BY_SLOT:
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros(new, column.dtype)]))
            self._free = np.concatenate([self._free, np.arange(old, old + new)])
        slots, self._free = self._free[:count], self._free[count:]
        return slots


def _by_time(times_s: Floats, slots: Ints) -> list[tuple[float, Ints]]:
    """Slots by instant; times that differ by rounding only are one instant, their latest."""
    if len(slots) == 1:
        return [(float(times_s[0]), slots)]
    low, high = times_s.min(), times_s.max()
    rounding = 8 * float(np.spacing(high))
    if high - low <= rounding:
        return [(float(high), slots)]
    order = np.argsort(times_s, kind="stable")
    cuts = np.flatnonzero(np.diff(times_s[order]) > rounding) + 1
    groups = np.split(order, cuts)
    return [(float(times_s[group[-1]]), slots[group]) for group in groups]
