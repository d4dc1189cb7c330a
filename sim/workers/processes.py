"""Processes on this machine, each an executor of its own: one that dies or hangs takes down what it
was doing, and nothing else.

A pool of `concurrent.futures` with several processes is broken as a whole when one of them dies.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any


class LostWorkerError(OSError):
    """Who was to do the work is gone, and with it the work."""


class _Seat:
    """A place for one process, and what it is doing."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None
        self.process: BaseProcess | None = None
        self.ready: Future[None] | None = None
        self.doing: Future[Any] | None = None
        self.since_s = 0.0

    def submit(self, work: Callable[..., Any], given: tuple[Any, ...]) -> Future[Any]:
        """To the process, which is started if there is none."""
        if self.pool is None:
            # Fresh processes, not forks: a caller may have threads.
            self.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin)
            before = {*active_children()}
            with _unheard():
                self.ready = self.pool.submit(_ready, work)
            self.process = next(iter({*active_children()} - before), None)
            self.ready.add_done_callback(self._is_ready)
        return self.pool.submit(work, *given)

    def _is_ready(self, _: Future[None]) -> None:
        self.since_s = time.monotonic()  # what it took to start is no part of the work

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        if self.process is not None:
            with suppress(ValueError):  # it has ended
                self.process.kill()


class Processes(Executor):
    """So many processes, started when there is first something for them to do.

    An interrupt at the terminal is left to the process that has them.
    """

    warnings: tuple[str, ...] = ()
    queued = 1  # may wait for a process beside those at work, so that none is idle in between

    def __init__(self, count: int) -> None:
        self.count = count
        self._seats = [_Seat() for _ in range(count)]
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._lock = threading.RLock()
        self._shut = False

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """`work(*given)` by the next process that is free.  LostWorkerError, as the future's
        exception, if that process dies."""
        assert not named
        future: Future[Any] = Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("these workers have been sent away")
            self._waiting.append((future, work, given))
        self._serve()
        return future

    def since_s(self, future: Future[Any]) -> float | None:
        """When a process that had started began with it (of `time.monotonic`); None if none has."""
        with self._lock:
            seat = next((seat for seat in self._seats if seat.doing is future), None)
            return seat.since_s if seat and seat.ready and seat.ready.done() else None

    def end(self, future: Future[Any]) -> None:
        """Kill the process that is at it."""
        with self._lock:
            for seat in self._seats:
                if seat.doing is future:
                    seat.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Send all away; with `cancel_futures` at once, and what they were doing is lost."""
        with self._lock:
            self._shut = True
            waiting = [*self._waiting] if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
                for seat in self._seats:
                    seat.kill()
        for future, _, _ in waiting:
            future.cancel()
        for seat in self._seats:
            if seat.pool is not None:
                with suppress(RuntimeError):  # interrupted before it had begun
                    seat.pool.shutdown(wait, cancel_futures=cancel_futures)

    def _serve(self) -> None:
        """Give what waits to the seats that are free."""
        while True:
            with self._lock:
                seat = next((seat for seat in self._seats if seat.doing is None), None)
                if seat is None or not self._waiting:
                    return
                future, work, given = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                seat.doing, seat.since_s = future, time.monotonic()
                try:
                    inner = seat.submit(work, given)
                except BrokenProcessPool:  # it died between two pieces of work
                    seat.pool = None
                    inner = seat.submit(work, given)
            inner.add_done_callback(partial(self._done, seat))

    def _done(self, seat: _Seat, inner: Future[Any]) -> None:
        with self._lock:
            future, seat.doing = seat.doing, None
            assert future is not None
            error = None if inner.cancelled() else inner.exception()
            if isinstance(error, BrokenProcessPool):
                seat.pool = seat.process = seat.ready = None
        if inner.cancelled() or isinstance(error, BrokenProcessPool):
            future.set_exception(LostWorkerError("the process that worked on it died"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(inner.result())
        self._serve()


def _begin() -> None:
    """In a new process: it is not to outlive the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    threading.Thread(target=_follow, daemon=True).start()


@contextmanager
def _unheard() -> Iterator[None]:
    """A process that is started within hears no interrupt at the terminal, from its first moment:
    what is blocked here is blocked there, until `_begin` says otherwise."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ready(work: Callable[..., Any]) -> None:
    """That the process is there, and has imported what its first work needs."""


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
