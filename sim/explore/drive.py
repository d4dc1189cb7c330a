"""The loop that has all points computed: asks for the next, sends it to a worker, keeps what comes
back.  What it holds does not grow with the number of points."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from sim.explore.identity import digest_of, program
from sim.explore.measure import (
    DONE,
    FAILED,
    LOST,
    PRUNED,
    Measured,
    OtherFilesError,
    failed,
    measure,
)
from sim.explore.plan import Plan, key_of
from sim.explore.search import Optuna
from sim.explore.space import Point
from sim.explore.store import Store
from sim.scenario import ScenarioError
from sim.workers import LostWorkerError, Workers

_TRIES = 2  # of a point whose worker died: it may have been another's doing
_LOOK_S = 0.2  # between looks at what takes too long


class Asker(Protocol):
    """Who knows which points there are to be."""

    def ask(self) -> tuple[int, Point] | None:
        """The next one and its number, if there is one yet."""

    def count(self, new: bool) -> None:
        """Whether that was a new one."""

    def tell(self, number: int, found: Measured) -> None:
        """What it came to."""


class Listed:
    """Points that are known beforehand."""

    def __init__(self, points: Iterator[Point]) -> None:
        self._points = zip(count(), points)

    def ask(self) -> tuple[int, Point] | None:
        """The next one and its number."""
        return next(self._points, None)

    def count(self, new: bool) -> None:
        """Nothing depends on it."""

    def tell(self, number: int, found: Measured) -> None:
        """Nothing depends on it."""


@dataclass
class Tally:
    """How far a sweep is: points by what they came to, and of them those computed by now."""

    size: int
    by_status: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((DONE, FAILED, PRUNED, LOST), 0)
    )
    computed: int = 0  # by this call; the rest were there, or are the same as others
    started_s: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> int:
        """Points of which it is known what they came to."""
        return sum(self.by_status.values())

    @property
    def per_s(self) -> float:
        """Points computed in a second."""
        return self.computed / max(time.monotonic() - self.started_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at this rate; None before there is one."""
        return (self.size - self.ended) / self.per_s if self.computed else None


@dataclass
class _Task:
    """A result that is being computed, and the points that wait for it."""

    digest: str
    point: Point
    numbers: list[int]
    tries: int = 0
    overdue: bool = False


def drive(
    plan: Plan,
    store: Store,
    workers: Workers,
    progress: Callable[[Tally], None],
    asker: Asker | None = None,
) -> Tally:
    """Have every point of the plan computed that the store has not; what there is of each.  `asker`
    may stand for the plan's own, and is told what each came to.

    OSError where the store cannot be written, or a worker has other files; what is stored stays.
    """
    if asker is None and plan.search:
        asker = Optuna(plan.space, plan.questions, plan.search)
    asker = asker or Listed(plan.space.points())
    return _Drive(plan, store, workers, asker, progress).run()


class _Drive:
    def __init__(
        self,
        plan: Plan,
        store: Store,
        workers: Workers,
        asker: Asker,
        progress: Callable[[Tally], None],
    ) -> None:
        self.plan, self.store, self.workers, self.asker = plan, store, workers, asker
        self.progress = progress
        self.tally = Tally(plan.size)
        self.back: SimpleQueue[Future[Any]] = SimpleQueue()
        self.out: dict[Future[Any], _Task] = {}  # at the workers
        self.waited: dict[str, _Task] = {}  # the same by digest
        self.room = workers.count + workers.queued
        # A constraint that is broken settles a point only where that is all one wants to know.
        self.prune = plan.questions if plan.search and plan.questions.constraints else None

    def run(self) -> Tally:
        """Until all points are known."""
        more = True
        while more or self.out:
            if len(self.out) < self.room:
                with self.store.writing():
                    more = self._send()
            if ended := self._ended():
                with self.store.writing():
                    for future in ended:
                        self._take(future)
                more = True  # there may be a point that waited for what came back
            self.progress(self.tally)
        self.tally.size = self.tally.ended  # a search may end early
        self.progress(self.tally)
        return self.tally

    def _send(self) -> bool:
        """Fill the workers; whether there may be more to send at once."""
        until_s = time.monotonic() + _LOOK_S  # of points that are known, a batch at a time
        while len(self.out) < self.room:
            asked = self.asker.ask()
            if asked is None:
                return False
            number, point = asked
            digest, found = self._known(point)
            self.asker.count(not self.store.asked(digest))
            self.store.add_point(number, point, digest)
            if found is not None:
                self._settle(number, found)
            elif digest in self.waited:
                self.waited[digest].numbers.append(number)
            else:
                self._submit(_Task(digest, point, [number]))
            if time.monotonic() > until_s:
                break
        return True

    def _known(self, point: Point) -> tuple[str, Measured | None]:
        """What tells a point from others, and its result where it need not be computed."""
        try:
            digest = digest_of(self.plan.load(point))
        except ScenarioError as error:
            text = f"{program()} {self.plan.scenario.path} {key_of(self.plan.of(point))}"
            digest = "wrong-" + hashlib.sha256(text.encode()).hexdigest()[:18]
            found = failed(error)
            self.store.put(digest, found)
            return digest, found
        kept = self.store.get(digest)
        if kept is None or kept.status == LOST:
            return digest, None
        if kept.status == PRUNED:
            # Its constraint may be of an earlier sweep.
            names = self.prune.broken(kept.values, point) if self.prune else []
            return digest, kept if names else None
        return digest, kept

    def _submit(self, task: _Task) -> None:
        task.tries += 1
        plan = self.plan
        future = self.workers.submit(
            measure,
            plan.source,
            plan.quietly(task.point),
            task.digest,
            task.point,
            self.prune,
            plan.also,
        )
        self.out[future] = self.waited[task.digest] = task
        future.add_done_callback(self.back.put)

    def _ended(self) -> list[Future[Any]]:
        """Those that are back, all at once, after waiting a little for the first."""
        found = []
        try:
            if self.out:
                found.append(self.back.get(timeout=_LOOK_S))
            while True:
                found.append(self.back.get_nowait())
        except Empty:
            pass
        for future, task in [*self.out.items()]:
            since_s = None if task.overdue else self.workers.since_s(future)
            if since_s is not None and time.monotonic() - since_s > self.plan.limit_s:
                task.overdue = True
                self.workers.end(future)
        return found

    def _take(self, future: Future[Any]) -> None:
        """Keep what came back, or send it again where its worker was lost."""
        task = self.out.pop(future)
        error = future.exception()
        if isinstance(error, LostWorkerError) and not task.overdue and task.tries < _TRIES:
            self._submit(task)
            return
        del self.waited[task.digest]
        if isinstance(error, OtherFilesError):
            raise error
        found = future.result() if error is None else Measured(LOST, error=self._why(error, task))
        self.store.put(task.digest, found)
        self.tally.computed += 1
        for number in task.numbers:
            self._settle(number, found)

    def _why(self, error: BaseException, task: _Task) -> str:
        if task.overdue:
            return f"no answer within {self.plan.limit_s:g} s (sweep.limit)"
        again = f", {task.tries} times" if task.tries > 1 else ""
        known = isinstance(error, LostWorkerError)
        return f"{error}{again}" if known else f"{type(error).__name__}: {error}"

    def _settle(self, number: int, found: Measured) -> None:
        self.tally.by_status[found.status] += 1
        self.asker.tell(number, found)
