"""What a timeline shows of a workload of requests: some iterations of one replica, op by op, with a
lane for each tenant and for some of the requests.

Unless the scenario names a window, the stretch that is kept is the busiest that was seen: the load
is looked at from time to time, and where it is clearly above that of the stretch kept so far, a new
one is begun and the old one is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from operator import mul
from typing import NamedTuple

import numpy as np

from sim.engine.replay import Event
from sim.facts.span import Span
from sim.facts.timeline import Timeline
from sim.serving.fleet import Fleet
from sim.serving.loop import cut
from sim.serving.step_time import StepTime

_ITERATIONS = 8  # of a stretch; of a row at least half as many
_CLEARLY = 1.25  # times the load of what is kept: a new stretch
_REQUESTS = 12  # that have a lane
_OWN = (1 << 40) - 1  # what of a request's number is its own, beside its tenant's
# When the load is looked at. The times are the same whoever serves the other replicas, so that the
# bytes are: from 1 ms to 11 days, each a twentieth later than the last.
_LOOKS_S = tuple(accumulate(repeat(1.05, 425), mul, initial=1e-3))


class Window(NamedTuple):
    """Iterations that begin in it are kept; None: the busiest stretch, or so many iterations from
    `from_s` on."""

    from_s: float | None = None
    until_s: float | None = None


class Stretch:
    """Decides which iterations of the rows of one replica, or of the tenants on its chips, are
    played and kept.

    `names` tell the rows apart: tenants on the same chips, or micro-batches.
    """

    def __init__(
        self,
        timeline: Timeline,
        window: Window,
        rows: Sequence[int],
        names: Sequence[str] = (),
    ) -> None:
        self.timeline, self.window, self.rows = timeline, window, list(rows)
        timeline.chosen = window == Window()
        self._names: Mapping[int, str] = dict(zip(rows, names))
        self._left = self._length = max(_ITERATIONS, len(self.rows) * _ITERATIONS // 2)
        self._most = 0.0  # requests at hand in the stretch that is kept
        self._requests: set[tuple[int, int]] = set()  # that have a lane, by row

    def begin(self, replicas: np.recarray) -> list[Event]:
        """Make the rows ask for iterations from the start on, if they are to; what is to be done
        later."""
        from_s, until_s = self.window
        replicas.shown[self.rows] = not from_s
        if from_s is None and until_s is None:
            return [Event(at_s, self._look) for at_s in _LOOKS_S]
        ends = [Event(from_s or 0.0, self._start)]
        return ends if until_s is None else [*ends, Event(until_s, self._stop)]

    def keeps(self, fleet: Fleet, r: int) -> bool:
        """Whether the iteration that row `r` is about to begin is kept."""
        if self.timeline.full_s is not None:  # nothing more is kept, so nothing more is played
            fleet.replicas.shown[self.rows] = 0
        if not fleet.replicas.shown[r]:
            return False
        from_s, until_s = self.window
        if until_s is not None:
            return (from_s or 0.0) <= fleet.replicas[r].now_s < until_s
        self._most = max(self._most, self._load(fleet))
        self._left -= 1
        if self._left == 0:
            fleet.replicas.shown[self.rows] = 0
        return True

    def show(self, fleet: Fleet, r: int, start_s: float, end_s: float) -> None:
        """Lanes of an iteration that was kept: one of its own, and one for each of the first
        requests in it."""
        rows = fleet.slots[fleet.running[r, : fleet.replicas[r].running_count]]
        rows = rows[rows.chunk > 0]
        prompts = rows.cached < rows.prompt
        owner, lanes = self._names.get(r, ""), self.timeline.lanes

        def lane(track: str, name: str, kind: str, note: str) -> None:
            track = f"{owner}/{track}"
            lanes.append(Span(track, name, kind, start_s, end_s, bound="", note=note))

        kind = "decode" if not prompts.any() else "prefill" if prompts.all() else "mixed"
        note = f"{int(rows.chunk.sum()):,} new tokens, {int(prompts.sum()):,} sequences in prefill"
        lane("iterations", f"batch of {len(rows):,}", kind, note)
        for row, prompt in zip(rows, prompts):
            key = r, int(row.id) & _OWN
            if key not in self._requests:
                if len(self._requests) == _REQUESTS:
                    continue
                self._requests.add(key)
            first, last = int(row.cached) + 1, int(row.cached + row.chunk)
            name = f"token {first:,}" if first == last else f"tokens {first:,} to {last:,}"
            what = f"prompt of {int(row.prompt):,}, answer of {int(row.output):,} tokens"
            lane(f"request {key[1]}", name, "prefill" if prompt else "decode", what)

    def _load(self, fleet: Fleet) -> float:
        """Requests at hand."""
        every = fleet.replicas
        return float((every.running_count + every.waiting_count)[self.rows].sum())

    def _look(self, fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        load = self._load(fleet)
        if load >= _CLEARLY * self._most and load > self._most:
            self._most = load
            self._start(fleet, price, now_s)
        return ()

    def _start(self, fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        """Forget what was kept and begin anew with the next iteration."""
        self.timeline.clear()
        self._requests.clear()
        self._left = self._length
        for r in self.rows:
            if fleet.replicas[r].steps > 1:
                cut(fleet, price, r, now_s)
        fleet.replicas.shown[self.rows] = 1
        return ()

    def _stop(self, fleet: Fleet, price: StepTime, now_s: float) -> Iterable[Event]:
        fleet.replicas.shown[self.rows] = 0
        return ()
