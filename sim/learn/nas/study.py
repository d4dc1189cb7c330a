"""The searches that `podscope reproduce nas` reads: a list of runs, and a summary of what they
found.  A run that is finished is kept; one that was killed goes on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sim.dnn.found import Cell, Found, convolutions
from sim.facts.version import VERSION
from sim.learn.images import Images, read_images
from sim.learn.nas.board import board
from sim.learn.nas.card import card_of, result, simulated
from sim.learn.nas.check import gradient_errors, resize_errors
from sim.learn.nas.flexible import Rule
from sim.learn.nas.plan import PRESETS, Plan
from sim.learn.nas.search import Row, Search, log_of

SEEDS = (0, 1, 2)
MORE_SEED = 3  # of flexible widths: their rule was fitted on the first
WEIGHTS = (1.0, 5.0)  # of the latency, of the paper's four; the first is that of F1 and F2
METHODS = ("uboost", "flops", "roofline")
STARTS = (16, 48)  # channels allocated at first: of 32 columns, half and one and a half
FIRST = 2  # the narrowest flexible width
FLAT_WEIGHT = 5.0  # of the latency, where there is no term of utilisation
ARRAYS = (32, 64, 128)  # rows and columns of machines that widths are searched for


class Run(NamedTuple):
    """A search; `operations_of` names the run whose first stage stands in for its own."""

    name: str
    plan: Plan
    operations_of: str = ""
    trained: bool = True  # in the end; only widths are asked of the others


def runs() -> Iterator[Run]:
    """In the order in which they are made."""
    for seed in SEEDS:
        yield from flexible_and_fixed(seed)
    for method in METHODS[1:]:
        for seed in SEEDS:
            yield fixed(method, WEIGHTS[0], seed)
    for side in ARRAYS:
        yield for_array(side)
    yield from flexible_and_fixed(MORE_SEED)
    for weight in WEIGHTS[1:]:
        for seed in SEEDS:
            for method in METHODS:
                yield fixed(method, weight, seed)
    for seed in SEEDS:
        yield fixed("blackbox", WEIGHTS[0], seed)


def flexible_and_fixed(seed: int) -> Iterator[Run]:
    """What F1 and F2 compare."""
    yield fixed("uboost", WEIGHTS[0], seed)
    for beta in (1.0, 0.0):
        for start in STARTS:
            yield flexible(start, beta, seed)


def fixed(method: str, weight: float, seed: int) -> Run:
    """A search within the fixed range of widths; the baselines know no utilisation."""
    beta = 1.0 if method == "uboost" else 0.0
    plan = replace(
        PRESETS["tiny"],
        method=method,
        latency_weight=weight,
        utilisation_weight=beta,
        seed=seed,
    )
    return Run(f"{method}-{weight:g}-s{seed}", plan)


def flexible(start: int, beta: float, seed: int) -> Run:
    """A search of widths that begin with `start` channels, for the operations of U-Boost's."""
    plan = replace(
        PRESETS["tiny"],
        seed=seed,
        flexible=True,
        first=FIRST,
        start=start,
        latency_weight=WEIGHTS[0] if beta else FLAT_WEIGHT,
        utilisation_weight=beta,
    )
    trained = start == STARTS[0] and beta > 0
    name = f"flexible-{start}-beta{beta:g}-s{seed}"
    return Run(name, plan, fixed("uboost", WEIGHTS[0], seed).name, trained)


def for_array(side: int) -> Run:
    """Flexible widths for an array of side x side, in steps of a sixteenth of it, from a half."""
    step = side // 16
    plan = replace(
        PRESETS["tiny"],
        rows=side,
        cols=side,
        train=600,
        epochs=(6, 16, 8),
        flexible=True,
        first=step,
        step=step,
        start=side // 2,
    )
    return Run(f"searched-{side}x{side}", plan, fixed("uboost", WEIGHTS[0], 0).name)


def make(
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[float, str], None] = lambda share, label: None,
    tensorboard: bool = False,
) -> None:
    """All runs, in `folder`; `tensorboard`: logged for it too."""
    todo = list(runs())
    for at, run in enumerate(todo):

        def tell(share: float, label: str, at: int = at, name: str = run.name) -> None:
            progress((at + share) / len(todo), f"{name}: {label}")

        search = _search(folder, run, tell)
        if tensorboard:
            search.watch = board(search.folder)
        found = search.channels(search.operations())
        right = f"{search.train(found):.1f} %, " if run.trained else ""
        for warning in search.warnings:
            say(f"{run.name}: {warning}")
        cycles = simulated(found, run.plan.array)["cycles"]
        say(f"{run.name}: {right}{cycles:,} cycles")


def _search(folder: Path, run: Run, tell: Callable[[float, str], None]) -> Search:
    plan, other = run.plan, run.operations_of
    operations = result(folder / other, "operations")["operations"] if other else None
    images = _images(plan)
    return Search(folder / run.name, plan, images, Rule(), operations, tell)


def _images(plan: Plan) -> Images:
    return read_images(plan.images, plan.image, plan.train)


def found_by(folder: Path, run: Run) -> Found:
    """The network of a run that is done."""
    operations = result(folder / (run.operations_of or run.name), "operations")["operations"]
    widths = result(folder / run.name, "channels")["widths"]
    pools = run.plan.pools
    cells = [Cell(tuple(operations), each, pool) for each, pool in zip(widths, pools)]
    return Found(run.name, run.plan.image, 10, run.plan.stem, tuple(cells))


def done(folder: Path) -> list[Run]:
    """Runs that are finished."""
    ends = {True: "result.json", False: "channels.json"}
    return [run for run in runs() if (folder / run.name / ends[run.trained]).exists()]


def summary(folder: Path, command: str) -> dict[str, Any]:
    """What `podscope reproduce nas` judges, of the runs that are finished; the others are named."""
    made = done(folder)
    names = {run.name for run in made}
    return {
        "command": command,
        "rule": Rule()._asdict(),
        "runs": {run.name: _summed(folder, run) for run in made},
        "gradients": list(gradient_errors()),
        "resizes": resize_errors(),
        "missing": [run.name for run in runs() if run.name not in names],
        "made_with": {
            "podscope": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
    }


def _summed(folder: Path, run: Run) -> dict[str, Any]:
    own, found = folder / run.name, found_by(folder, run)
    rows = [row for row in log_of(own) if row["stage"] == "channels"]
    return {
        "plan": run.plan.data(),
        "operations": list(found.cells[0].operations),
        "widths": [dict(cell.widths) for cell in found.cells],
        "convolutions": list(convolutions(found.cells[0].operations)),
        "accuracy": result(own, "result")["accuracy"] if run.trained else None,
        **simulated(found, run.plan.array),
        "flop": sum(row["flop"] for row in rows),
        "saved_bytes": max(row["saved_bytes"] for row in rows),
        "mean_saved_bytes": sum(row["saved_bytes"] for row in rows) / len(rows),
        "peak_bytes": max(row["saved_bytes"] + row["weight_bytes"] for row in rows),
        "channels_cpu_s": sum(row["cpu_s"] for row in rows),
        "cpu_s": sum(row["cpu_s"] for row in log_of(own)),
        "allocated": [row["allocated"] for row in rows],
    }


def cards(folder: Path, command: str) -> list[dict[str, Any]]:
    """Of every network that was trained."""
    return [
        card_of(
            found_by(folder, run),
            run.plan,
            result(folder / run.name, "result")["accuracy"],
            _images(run.plan),
            command,
        )
        for run in done(folder)
        if run.trained
    ]


def log(folder: Path) -> list[Row]:
    """Of the widths that grew from the fewest channels, the first seed."""
    return log_of(folder / flexible(STARTS[0], 1.0, SEEDS[0]).name)
