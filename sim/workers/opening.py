"""From what a user says (a number, an address) to workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from sim.workers.dask import DaskWorkers
from sim.workers.processes import Processes
from sim.workers.slurm import SCHEMES, SlurmWorkers


class Workers(Protocol):
    """An executor of `concurrent.futures` of which a little more is known."""

    count: int  # that can be at work at once
    queued: int  # that may be waiting beside them

    @property
    def warnings(self) -> Sequence[str]:
        """What should be known of them."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Have `work(*given)` done."""

    def since_s(self, future: Future[Any]) -> float | None:
        """When work on it began, of `time.monotonic`; None where that is not known."""

    def end(self, future: Future[Any]) -> None:
        """Stop work on it: its exception is then LostWorkerError."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Send them away."""


@contextmanager
def opened(
    workers: int,
    cluster: str | None = None,
    *,
    says: Callable[[], str] | None = None,
) -> Iterator[Workers]:
    """So many processes here; or with `cluster` the workers of a Dask scheduler (`tcp://...`) or
    jobs of SLURM (`slurm://?...`), which must all say what `says()` says here.

    ValueError if they are not to be had. Processes leave an interrupt at the terminal to this one.
    At an exception all work is dropped.
    """
    found: Workers
    if cluster is None:
        found = Processes(workers)
    elif cluster.partition("://")[0] in SCHEMES:
        found = SlurmWorkers(cluster, says)
    else:
        found = DaskWorkers(cluster, says)
    try:
        yield found
    except BaseException:
        found.shutdown(wait=cluster is None, cancel_futures=True)
        raise
    found.shutdown(wait=True)
