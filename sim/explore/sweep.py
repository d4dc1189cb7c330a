"""A sweep from end to end: plan, workers, store, and the folder of what was found."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sim.explore.drive import Tally, drive
from sim.explore.identity import program
from sim.explore.plan import Plan, planned
from sim.explore.result import STORE, SweepResult
from sim.explore.store import Store
from sim.scenario import Overrides, Source
from sim.workers import opened

MOST = 10_000  # points that are computed without being asked twice

Progress = Callable[[Tally], None]


class SweepStopped(KeyboardInterrupt):
    """The sweep was interrupted: `tally` is what there was by then, and it is kept in `folder`."""

    def __init__(self, tally: Tally | None, folder: Path) -> None:
        super().__init__("interrupted")
        self.tally, self.folder = tally, folder


def sweep(
    source: Source,
    overrides: Overrides = (),
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    yes: bool = False,
    progress: Progress = lambda tally: None,
) -> SweepResult:
    """Compute every point that the section `sweep` of a scenario names, by `workers` processes
    (default: one a core), the workers of a Dask scheduler (`cluster="tcp://..."`) or jobs of SLURM
    (`cluster="slurm://?..."`).

    What is found is kept in the folder `out` as it comes, and `resume` goes on with what is there;
    without `out`, for as long as the result is. The table does not depend on the number of workers.
    ScenarioError, listing every fault, if anything in the scenario is wrong; ValueError, before any
    work, for more than 10,000 points unless `yes`, for workers that are not to be had, and for a
    store that cannot be gone on with. SweepStopped at an interrupt.
    """
    plan = planned(source, overrides)
    if plan.size > MOST and not yes:
        raise ValueError(
            f"this sweep has {plan.size:,} points, more than {MOST:,}; --yes (yes=True) computes "
            "them all, `random` or `search` some of them"
        )
    kept = TemporaryDirectory(prefix="podscope-sweep-") if out is None else None
    folder = sweep_folder(kept.name if kept else out)  # type: ignore[arg-type]
    last: list[Tally] = []

    def noted(tally: Tally) -> None:
        last[:] = [tally]
        progress(tally)

    with (
        terminated_as_interrupted(),
        opened(workers or os.cpu_count() or 1, cluster, says=program, deaf=True) as hands,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        store = Store(folder / STORE, program(), resume=resume)
        try:
            tally = drive(plan, store, hands, noted)
        except KeyboardInterrupt:
            raise SweepStopped(last[0] if last else None, folder) from None
        finally:
            store.close()
        said = [*hands.warnings, *_idle(plan, hands.count)]
    return SweepResult(plan, folder, tally, said, kept)


def sweep_folder(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that a sweep may be kept in; ValueError if it holds something
    else."""
    folder = Path(path).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the sweep")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STORE).is_file():
        raise ValueError(
            f"{folder} is not the folder of a sweep (it has no {STORE}), so it is left alone; name "
            "another folder"
        )
    return folder


def _idle(plan: Plan, workers: int) -> Iterator[str]:
    """That some workers had nothing to do, if so."""
    if plan.search is not None and workers > plan.search.ahead:
        yield (
            f"the search asks {plan.search.ahead} points ahead, so that {plan.search.ahead} of "
            f"{workers} workers had something to do; sweep.search.ahead sets that"
        )


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """TERM is an interrupt too, where signals can be heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
