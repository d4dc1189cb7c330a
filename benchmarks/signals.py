"""Signals at random moments: no traceback, nobody left behind, no folder half-written.

    python benchmarks/signals.py [TIMES [SEED]]   # 200 of them

Each time a scenario is run by 1 to 4 workers and sent INT (as a terminal does, to all of its
processes), TERM or KILL (to the one that was started), at a moment drawn from those between
podscope's first line, told by the handlers it has set, and a little after its end. Five seconds
later none of its processes may live, its errors hold no traceback, and its folder is whole, marked
partial, or not there. Last, a run in the same place sweeps what the kills left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

SCENARIO = """question: Which?
pod: {topology: atlas_800t_a2}
model: {name: llama3-8b, change: {layers: 4}}
parallel: {tensor: 4}
workload: {kind: decode, batch: 16, prompt_tokens: 2048, output_tokens: 24}
variants: {a: {}, b: {techniques: [preserve]}, c: {workload: {batch: 8}}, d: {workload: {batch: 4}}}
"""
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
GRACE_S = 5.0


def main(times: int = 200, seed: int = 0) -> None:
    """All rounds, and what was found."""
    dice = random.Random(seed)
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "which.yaml").write_text(SCENARIO)
        whole_s = _one(folder, 1, None, 0.0)[1]
        print(f"a run takes {whole_s:.1f} s")
        faults: Counter[str] = Counter()
        states: Counter[str] = Counter()
        for number in range(times):
            which, workers = dice.choice(SIGNALS), dice.randint(1, 4)
            if dice.random() < 0.7:  # else there is an earlier run in its place
                shutil.rmtree(folder / "runs", ignore_errors=True)
            moment_s = dice.uniform(0.0, 1.3 * whole_s)
            found, _, state = _one(folder, workers, which, moment_s)
            states[f"{which.name}: {state}"] += 1
            for fault in found:
                faults[fault.partition(":")[0]] += 1
                print(f"{number} {which.name} {moment_s:.2f} s, {workers} workers: {fault}")
            if (number + 1) % 20 == 0:
                print(f"{number + 1} of {times}: {dict(faults) or 'no fault'}", flush=True)
        _one(folder, 1, None, 0.0)
        left = sorted(path.name for path in (folder / "runs").iterdir())
        hidden = [name for name in left if name.startswith(".")]
        faults["remnants"] += len(hidden)
        print("folders:", dict(sorted(states.items())))
        print("after one more run there is:", ", ".join(left))
        print("faults:", {what: count for what, count in faults.items() if count} or "none")
    sys.exit(bool(+faults))


def _one(
    folder: Path, workers: int, which: signal.Signals | None, moment_s: float
) -> tuple[list[str], float, str]:
    """One run, and what was wrong with how it ended; the seconds it took; what its folder is."""
    start_s = time.monotonic()
    words = ["-m", "sim.cli", "run", "which.yaml", "--workers", str(workers)]
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), os.getcwd())))
    with open(folder / "errors", "w+b") as errors:
        run = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        if which is not None:
            while run.poll() is None and not _listens(run.pid):
                time.sleep(0.002)
            time.sleep(moment_s)
            try:
                if which is signal.SIGINT:
                    os.killpg(run.pid, which)
                elif run.poll() is None:
                    run.send_signal(which)
            except ProcessLookupError:
                pass
        try:
            code = run.wait(GRACE_S if which else 120)
        except subprocess.TimeoutExpired:
            code = None
        took_s = time.monotonic() - start_s
        until_s = time.monotonic() + GRACE_S
        while (alive := [*_session(run.pid)]) and time.monotonic() < until_s:
            time.sleep(0.02)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        run.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    state, wrong = _state(folder / "runs")
    found = [*wrong]
    if code is None:
        found.append("hung: it did not end")
    if alive:
        found.append(f"orphans: {len(alive)}")
    if any(word in said for word in ("Traceback", "Exception ignored", "Error:")):
        found.append(f"traceback: {said[-600:]}")
    if code not in (0, 130, -9, None):
        found.append(f"code: {code}, {said[-300:]}")
    return found, took_s, state


def _listens(pid: int) -> bool:
    """Whether the process has set a handler for TERM: podscope's first line."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next(line for line in text.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def _session(leader: int) -> Iterator[int]:
    """Living processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if after[0] != "Z" and int(after[3]) == leader:
                yield int(entry.name)


def _state(runs: Path) -> tuple[str, list[str]]:
    """What the run folders are, and what is wrong with them."""
    wrong, states = [], []
    for folder in sorted(runs.glob("which*")) if runs.is_dir() else ():
        try:
            told = json.loads((folder / "result.json").read_text())
            states.append("partial" if told["partial"] else "whole")
            for name in ("report.html", "timeline.html", "scenario.yaml", "log.txt"):
                if not (folder / name).stat().st_size:
                    wrong.append(f"half-written: {folder.name}/{name} is empty")
        except (OSError, ValueError, KeyError) as error:
            wrong.append(f"half-written: {folder.name}: {error}")
    return "+".join(states) or "none", wrong


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
