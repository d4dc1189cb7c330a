"""Workers of a Dask cluster, behind an executor of `concurrent.futures`.

Dask's protocol is Dask's: it unpickles what the scheduler sends, so a scheduler is trusted with
everything that this process may do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any
from uuid import uuid4

from sim.workers.processes import LostWorkerError

_ANSWER_S = 10  # what a scheduler or a worker may take to say anything


class DaskWorkers(Executor):
    """All workers of the Dask scheduler at `address`; ValueError if none answers there, if it has
    none, or if one of them has another podscope.

    `says()` is asked of each worker, and must give the same as here.
    """

    queued = 0  # what waits for a worker could not be told from what hangs there

    def __init__(self, address: str, says: Callable[[], str] | None) -> None:
        self._client = _client(address)
        try:
            self._threads = self._client.nthreads()
            if not self._threads:
                raise ValueError(f"the Dask scheduler at {address!r} has no workers")
            if says is not None:
                _same(self._client, says)
        except BaseException:
            self._client.close()
            raise
        self._with: dict[Future[Any], tuple[float, Any]] = {}
        self.count = sum(self._threads.values())

    @property
    def warnings(self) -> list[str]:
        """What should be known of these workers."""
        several = sum(threads > 1 for threads in self._threads.values())
        said = (
            f"{several} of the {len(self._threads)} Dask workers have several threads, of which "
            "one at a time simulates; start more workers, with --nthreads 1"
        )
        return [said] if several else []

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """`work(*given)` on a worker.  LostWorkerError, as the future's exception, if workers die
        of it."""
        assert not named
        outer: Future[Any] = Future()
        outer.set_running_or_notify_cancel()
        inner = self._client.submit(work, *given, pure=False, key=f"podscope-{uuid4().hex}")
        self._with[outer] = time.monotonic(), inner
        inner.add_done_callback(lambda inner: self._done(outer, inner))
        return outer

    def _done(self, outer: Future[Any], inner: Any) -> None:
        if self._with.pop(outer, None) is None:  # it was given up
            return
        if inner.status == "finished":
            try:
                outer.set_result(inner.result())
            except Exception as failure:
                outer.set_exception(failure)
            return
        error = inner.exception() if inner.status == "error" else None
        if error is None or type(error).__name__ == "KilledWorker":
            error = LostWorkerError("the workers that worked on it died, or left")
        outer.set_exception(error)

    def since_s(self, future: Future[Any]) -> float | None:
        """When it was handed over (of `time.monotonic`), for then a worker was free; None where
        it is over."""
        return self._with.get(future, (None,))[0]

    def end(self, future: Future[Any]) -> None:
        """Give up on it, and have the worker that is at it restarted, which takes a nanny."""
        _, inner = self._with.pop(future, (0.0, None))
        if inner is None:
            return
        with suppress(Exception):  # of a cluster that is in trouble already
            workers = [w for w, keys in self._client.processing().items() if inner.key in keys]
            inner.cancel()
            self._client.restart_workers(workers, timeout=_ANSWER_S)
        future.set_exception(LostWorkerError("it was given up"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; with `cancel_futures`, what has not ended is dropped there."""
        held = [inner for _, inner in [*self._with.values()]]
        if cancel_futures:
            self._with.clear()
            with suppress(Exception):
                self._client.cancel(held)
        elif wait:
            for inner in held:
                with suppress(Exception):
                    inner.result()
        self._client.close()


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs dask.distributed; install podscope[cluster]") from None
    try:
        return Client(address, timeout=_ANSWER_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {address!r}: {error or 'timed out'}"
        ) from None


def _same(client: Any, says: Callable[[], str]) -> None:
    """ValueError if a worker says anything else than is said here."""
    here = says()
    for worker, said in client.run(says, on_error="return").items():
        if isinstance(said, BaseException):
            raise ValueError(
                f"the Dask worker {worker} has no podscope that fits ({said}); install {here} there"
            )
        if said != here:
            raise ValueError(f"the Dask worker {worker} has {said}, but here is {here}")
