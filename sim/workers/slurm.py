"""Jobs of SLURM, through submitit.

A job costs a queue's wait, so several pieces of work go into one. submitit writes what it sends and
what comes back as pickles in a folder of its own, which all nodes see: whoever may write there is
trusted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sim.workers.processes import LostWorkerError

SCHEMES = ("slurm", "local")  # submitit's: jobs of SLURM, or processes here that stand for them
_EXAMPLE = "slurm://?jobs=50&each=20&folder=jobs&slurm_partition=cpu&timeout_min=60"
_OWN = {"jobs": 20, "each": 10}  # jobs at once; pieces of work in each
_LOOK_S = 0.5  # between looks at what has ended
_GATHER_S = 0.5  # a job that is not full is sent after so long

Piece = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class SlurmWorkers(Executor):
    """Jobs as `address` says (`slurm://?jobs=50&each=20&timeout_min=60`): at most `jobs` at once,
    `each` pieces of work in one, submitit's files in `folder`, and all else to submitit's executor.

    ValueError if the address says anything else, or if there is no submitit or no SLURM.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, address: str, says: Callable[[], str] | None) -> None:
        own, given = _read(address)
        self._jobs, self._each = own["jobs"], own["each"]
        self._executor = _executor(address, given)
        self.count = self._jobs * self._each
        self.queued = self.count
        self._says = says() if says is not None else None
        self._asks = says
        self._waiting: list[Piece] = []
        self._sent: list[tuple[Any, list[Piece]]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._since = time.monotonic()
        threading.Thread(target=self._tend, daemon=True).start()

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """`work(*given)` in a job.  LostWorkerError, as the future's exception, if the job ends
        without an answer."""
        assert not named
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._since = time.monotonic()
            self._waiting.append((future, work, given))
        return future

    def since_s(self, future: Future[Any]) -> float | None:
        """Never: a job waits in SLURM's queue, and has SLURM's own limit (`timeout_min`)."""
        return None

    def end(self, future: Future[Any]) -> None:
        """Nothing: see `since_s`."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop looking; with `cancel_futures`, cancel the jobs."""
        while wait and not cancel_futures and (self._waiting or self._sent):
            time.sleep(_LOOK_S)
        self._stop.set()
        with self._lock:
            for job, _ in self._sent if cancel_futures else ():
                with suppress(Exception):
                    job.cancel()

    def _tend(self) -> None:
        while not self._stop.wait(_LOOK_S):
            with self._lock:
                over = [one for one in self._sent if one[0].done()]
                self._sent = [one for one in self._sent if one not in over]
                sendable = self._sendable()
            for job, pieces in over:
                _deliver(job, pieces)
            for pieces in sendable:
                asked = [(work, given) for _, work, given in pieces]
                try:
                    job = self._executor.submit(_work, asked, self._asks, self._says)
                except Exception as error:
                    for future, _, _ in pieces:
                        future.set_exception(OSError(f"SLURM did not take the job: {error}"))
                    continue
                with self._lock:
                    self._sent.append((job, pieces))

    def _sendable(self) -> list[list[Piece]]:
        """Full jobs, and one that is not when no more has come for a while."""
        found: list[list[Piece]] = []
        while self._waiting and len(self._sent) + len(found) < self._jobs:
            late = time.monotonic() - self._since > _GATHER_S
            if len(self._waiting) < self._each and not late:
                break
            found.append(self._waiting[: self._each])
            del self._waiting[: self._each]
        return found


def _work(
    asked: list[tuple[Callable[..., Any], tuple[Any, ...]]],
    asks: Callable[[], str] | None,
    due: str | None,
) -> list[tuple[Any, BaseException | None]]:
    """In a job: each piece of work, and its answer or its exception."""
    if asks is not None and (said := asks()) != due:
        raise ValueError(f"the job has {said}, but the one that sent it has {due}")
    found: list[tuple[Any, BaseException | None]] = []
    for work, given in asked:
        try:
            found.append((work(*given), None))
        except Exception as error:
            found.append((None, error))
    return found


def _deliver(job: Any, pieces: list[Piece]) -> None:
    try:
        answers = job.result()
    except Exception as failure:
        first = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        answers = [(None, LostWorkerError(f"its job ended without an answer: {first}"))] * len(
            pieces
        )
    for (future, _, _), (answer, error) in zip(pieces, answers):
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)


def _read(address: str) -> tuple[dict[str, int], dict[str, Any]]:
    """Our own numbers, and what goes to submitit."""
    given: dict[str, Any] = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    own = dict(_OWN)
    for key in own:
        text = given.pop(key, str(own[key]))
        if not text.isdecimal() or not int(text):
            raise ValueError(f"--cluster: {key}={text!r}: a whole number is due, as in {_EXAMPLE}")
        own[key] = int(text)
    return own, {key: int(text) if text.isdecimal() else text for key, text in given.items()}


def _executor(address: str, given: dict[str, Any]) -> Any:
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise ValueError("SLURM needs submitit; install podscope[slurm]") from None
    folder = given.pop("folder", "submitit")
    try:
        executor = AutoExecutor(folder=folder, cluster=urlsplit(address).scheme)
        executor.update_parameters(**given)
    except Exception as error:
        raise ValueError(f"--cluster {address!r}: {error}; write it like {_EXAMPLE}") from None
    return executor
