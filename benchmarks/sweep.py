"""Sweeps: what a point costs beside its own run, whether the table depends on who computed it, what
a kill loses, how near a search comes to the optimum, and what memory the driver takes.

    python benchmarks/sweep.py cost [POINTS [WHO]]    # of two workers, one, Dask's two; bytes
    python benchmarks/sweep.py kill [TIMES]       # kill -9 at random moments, then resume
    python benchmarks/sweep.py lost               # a worker that dies, and one that hangs
    python benchmarks/sweep.py search [SEEDS]     # Optuna on scenario sweep_preserve, 540 points
    python benchmarks/sweep.py memory [POINTS]    # of the driver, with points that cost nothing

On a machine that is shared wall times are of little use, so each figure is given in CPU time too:
that of the points' own simulation, measured apart, over that of driver and workers together.
"""

from __future__ import annotations

import csv
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ONE_SECOND = {
    "question": "What does a point cost?",
    "pod": {"topology": "atlas_800t_a2"},
    "model": "llama3-8b",
    "parallel": {"tensor": 4},
    "workload": {
        "kind": "decode",
        "batch": 1,
        "prompt_tokens": 500,
        "output_tokens": 750,
        "every_step": True,
    },
}


def scenario(points: int, output: int = 750) -> dict[str, Any]:
    """A second of work a point, or less, with so many different points."""
    work = {**ONE_SECOND["workload"], "output_tokens": output}  # type: ignore[dict-item]
    span = {"low": 500, "high": 499 + points, "count": points}
    over = {"workload.prompt_tokens": span}
    return {**ONE_SECOND, "workload": work, "sweep": {"over": over, "minimise": "makespan_s"}}


def cpu_s() -> float:
    """Of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def own_cpu_s(times: int = 10) -> float:
    """CPU seconds of one point's own simulation, in a process that does nothing else."""
    from sim.run import load, play, prepare

    taken = []
    for place in range(times):
        loaded = load(scenario(2), {"workload.prompt_tokens": 500 + place, "record.enabled": False})
        start_s = time.process_time()
        for plan in prepare(loaded).values():
            play(plan)
        taken.append(time.process_time() - start_s)
    return statistics.median(taken)


WHO = {"two workers": 2, "one worker": 1, "Dask's two": 2}


def cost(points: int, who: Sequence[str]) -> None:
    from sim.explore.sweep import sweep

    own_s = own_cpu_s()
    print(f"a point's own simulation: {own_s:.3f} s of CPU (median of 10)", flush=True)
    tables = {}
    with TemporaryDirectory() as folder:
        for name, workers in ((name, WHO[name]) for name in who or WHO):
            before_s, start_s = cpu_s(), time.perf_counter()
            out = Path(folder, name.replace(" ", "_"))
            if name.startswith("Dask"):
                from distributed import LocalCluster

                options = {"threads_per_worker": 1, "dashboard_address": None}
                with LocalCluster(n_workers=2, **options) as cluster:
                    start_s = time.perf_counter()
                    address = cluster.scheduler_address
                    result = sweep(scenario(points), out=out, cluster=address)
                    wall_s = time.perf_counter() - start_s
            else:
                result = sweep(scenario(points), out=out, workers=workers)
                wall_s = time.perf_counter() - start_s
            used_s = cpu_s() - before_s
            found = result.summary
            result.save()
            tables[name] = (out / "points.csv").read_bytes()
            print(
                f"{name}: {points} points in {wall_s:.1f} s; workers simulated for "
                f"{100 * found.own_s / (workers * wall_s):.1f} % of it; beside its simulation a "
                f"point took {1e3 * (workers * wall_s - found.own_s) / points:.1f} ms of a "
                f"worker's wall time, of which {1e3 * (found.seconds - found.own_s) / points:.1f} "
                f"ms within the worker; CPU in all {used_s:.1f} s, of which own "
                f"{100 * own_s * points / used_s:.1f} %",
                flush=True,
            )
    print("equal tables:", len({*tables.values()}) == 1)


def kill(times: int) -> None:
    """Kill the driver at random moments, resume, and look for points twice or computed again."""
    points, dice = 200, random.Random(0)
    with TemporaryDirectory() as folder:
        file = Path(folder, "kill.yaml")
        from sim.text.strict_yaml import dump

        file.write_text(dump(scenario(points, output=120)))
        command = [sys.executable, "-m", "sim.cli", "sweep", str(file), "--out", f"{folder}/out"]
        command += ["--workers", "2"]
        seen: dict[str, tuple[Any, ...]] = {}
        for turn in range(times + 1):
            again = ["--resume"] if turn else []
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            process = subprocess.Popen([*command, *again], **quiet, start_new_session=True)
            if turn < times:
                # Most kills hit a sweep that is at work, the rest one that starts.
                until_s = time.monotonic() + 60
                while turn % 4 and time.monotonic() < until_s and not _grown(folder):
                    time.sleep(0.05)
                time.sleep(dice.uniform(0.1, 4.0))
                process.kill()
            code = process.wait()
            if process.stderr is not None and turn == times and code:
                print(process.stderr.read().decode())
            time.sleep(5.0)  # a worker that was just starting sees it when it has started
            left = _children_of(process.pid)
            kept = _results(Path(folder, "out", "points.sqlite"))
            changed = [digest for digest, row in seen.items() if kept.get(digest) != row]
            print(
                f"{'killed' if turn < times else f'ended with {code}'}: {len(kept)} results, "
                f"{len(changed)} of those before changed or lost, {left} processes left behind",
                flush=True,
            )
            seen = kept
        with Path(folder, "out", "points.csv").open() as table:
            numbers = Counter(row["point"] for row in csv.DictReader(table))
        once = len(numbers) == points and set(numbers.values()) == {1}
        print(f"every point exactly once: {once}")


def _grown(folder: str) -> bool:
    """Whether the sweep has written something since it was started."""
    log = Path(folder, "out", "points.sqlite-wal")
    return log.exists() and log.stat().st_size > 20_000


def _results(path: Path) -> dict[str, tuple[Any, ...]]:
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as db:
        try:  # with the wall time: a result computed again has another
            return {row[0]: row for row in db.execute("SELECT * FROM results")}
        except sqlite3.OperationalError:
            return {}


def _children_of(group: int) -> int:
    """Processes of a session that are still there."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(group)], capture_output=True, text=True)
    return len(found.stdout.split())


def lost() -> None:
    """Wall time of sweeps of half-second points with two workers: whole, with one that dies, and
    with one that hangs."""
    from sim.explore import drive
    from sim.explore.sweep import sweep

    for how in ("whole", "dies", "hangs"):
        asked = scenario(40, output=375)
        asked["sweep"] |= {"limit": "10 s"}
        drive.measure = {"whole": _measure, "dies": _dying, "hangs": _hanging}[how]
        start_s = time.perf_counter()
        result = sweep(asked, workers=2)
        print(f"{how}: {time.perf_counter() - start_s:.1f} s, {dict(result.tally.by_status)}")


def _measure(*given: Any) -> Any:
    from sim.explore.measure import measure

    return measure(*given)


def _dying(*given: Any) -> Any:
    if given[3]["workload.prompt_tokens"] == 510:
        os.kill(os.getpid(), signal.SIGKILL)
    return _measure(*given)


def _hanging(*given: Any) -> Any:
    if given[3]["workload.prompt_tokens"] == 510:
        time.sleep(10_000)
    return _measure(*given)


def search(seeds: int) -> None:
    """How far the best of a fifth of the points is from the best of all, by seed."""
    from sim.explore.sweep import sweep

    source = "sweep_preserve"
    goals = {
        "preserve.makespan_s": {"minimise": ["preserve.makespan_s"]},
        "gain": {"maximise": ["gain"]},
        # A chip that is larger by its L2 and dearer by its HBM, so that the best lies within.
        "performance per cost": {"maximise": ["per_cost"]},
    }
    l2, hbm = (f"pod.change.device.{key}" for key in ("l2_bytes", "hbm_bytes_per_s"))
    cost = f"preserve.makespan_s * (1 + 0.002 * {l2} / 1e6 + 0.3 * {hbm} / 1e12)"
    metrics = {"gain": "vanilla.makespan_s / preserve.makespan_s", "per_cost": f"1e3 / ({cost})"}
    with TemporaryDirectory() as folder:
        for name, goal in goals.items():
            asked = {"minimise": [], "maximise": [], "metrics": metrics, **goal}
            given = {f"sweep.{key}": value for key, value in asked.items()}
            whole = sweep(source, given, out=folder, resume=True)
            assert whole.summary.best is not None
            top, n = whole.summary.best.scores[0], whole.tally.ended
            off = []
            for seed in range(seeds):
                given["sweep.search"] = {"points": n // 5, "seed": seed}
                found = sweep(source, given, out=folder, resume=True)
                assert found.summary.best is not None and found.tally.computed == 0
                off.append(found.summary.best.scores[0] / top - 1)
            off = sorted(abs(share) for share in off)
            print(
                f"{name}: optimum of {n} points {abs(top):.6g}; after {n // 5} points a search is "
                f"off by {100 * statistics.median(off):.3f} % (median of {seeds} seeds; worst "
                f"{100 * off[-1]:.3f} %, within 1 %: {sum(share <= 0.01 for share in off)})",
                flush=True,
            )


class Nobody:
    """Workers that answer at once, without computing."""

    count, queued, warnings = 2, 8, ()

    def submit(self, work: Any, *given: Any) -> Future[Any]:
        """An answer at once."""
        from sim.explore.measure import DONE, Measured

        done: Future[Any] = Future()
        values = {"run.makespan_s": float(given[3]["workload.prompt_tokens"])}
        values |= {f"run.metric_{place}": 1.0 / (place + 1) for place in range(40)}
        done.set_result(Measured(DONE, values, ("the same for all",), "", 0.0, 0.0))
        return done

    def since_s(self, future: Future[Any]) -> None:
        """It is over already."""
        return

    def end(self, future: Future[Any]) -> None:
        """Nothing hangs."""


def memory(points: int) -> None:
    """Resident memory of the driver as points go by."""
    from sim.explore.drive import Tally, drive
    from sim.explore.identity import program
    from sim.explore.plan import planned
    from sim.explore.result import STORE, SweepResult
    from sim.explore.store import Store

    side = round(points**0.5)
    asked = scenario(side)
    more = {"workload.output_tokens": {"low": 2, "high": side + 1, "count": side}}
    asked["sweep"]["over"] |= more
    plan, points = planned(asked), side * side
    told = [0]

    def tell(tally: Tally) -> None:
        if tally.ended >= told[0]:
            mib = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
            print(f"{tally.ended} points: {mib:.1f} MiB, {tally.per_s:.0f} points/s", flush=True)
            told[0] += points // 10

    with TemporaryDirectory() as folder:
        store = Store(Path(folder, STORE), program(), resume=False)
        tally = drive(plan, store, Nobody(), tell)
        store.close()
        result = SweepResult(plan, Path(folder), tally)
        assert result.summary.best is not None
        result.best_run = result.baseline = None  # of what was not computed
        result.save()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"with table and report: at most {most:.1f} MiB")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["cost"]
    number = int(rest[0]) if rest else 0
    if what == "cost":
        cost(number or 1000, rest[1:])
    elif what == "kill":
        kill(number or 10)
    elif what == "lost":
        lost()
    elif what == "search":
        search(number or 20)
    elif what == "memory":
        memory(number or 100_000)
    else:
        sys.exit(__doc__)
