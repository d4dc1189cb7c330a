"""The searches that `podscope reproduce nas` reads: a list of runs, and a summary of what they
found.  A run that is finished is kept; one that was killed goes on."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sim.dnn.found import Found, dnn_of
from sim.facts.version import VERSION
from sim.learn.images import Images, read_images
from sim.learn.nas.flexible import Rule
from sim.learn.nas.plan import PRESETS, Plan
from sim.learn.nas.search import Search
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate

SEEDS = (0, 1, 2)
WEIGHTS = (1.0, 5.0, 0.1)  # of the latency, as the paper's; the first is that of F1 and F2
METHODS = ("uboost", "flops", "roofline")
STARTS = (16, 48)  # channels allocated at first: of 32 columns, half and one and a half
FIRST = 2  # the narrowest flexible width
FLAT_WEIGHT = 5.0  # of the latency, where there is no term of utilisation


class Run(NamedTuple):
    """A search; `operations_of` names the run whose first stage stands in for its own."""

    name: str
    plan: Plan
    operations_of: str = ""
    trained: bool = True  # in the end; only widths are asked of the others


def runs() -> Iterator[Run]:
    """In the order in which they are made."""
    tiny = PRESETS["tiny"]
    for seed in SEEDS:
        one = fixed("uboost", WEIGHTS[0], seed)
        yield one
        for beta, weight in ((1.0, WEIGHTS[0]), (0.0, FLAT_WEIGHT)):
            for start in STARTS:
                plan = replace(
                    tiny,
                    seed=seed,
                    flexible=True,
                    first=FIRST,
                    start=start,
                    latency_weight=weight,
                    utilisation_weight=beta,
                )
                yield Run(f"flexible-{start}-beta{beta:g}-s{seed}", plan, one.name, start == STARTS[0] and beta > 0)
    for weight in WEIGHTS:
        for method in METHODS:
            for seed in SEEDS:
                if (method, weight) != ("uboost", WEIGHTS[0]):
                    yield fixed(method, weight, seed)


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


def make(
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[float, str], None] = lambda share, label: None,
    seeds: tuple[int, ...] = SEEDS,
) -> None:
    """All runs, in `folder`."""
    todo = [run for run in runs() if run.plan.seed in seeds]
    images: dict[tuple[str, int, int], Images] = {}
    for at, (name, plan, other, trained) in enumerate(todo):
        key = plan.images, plan.image, plan.train
        if key not in images:
            images[key] = read_images(*key)
        operations = (
            json.loads((folder / other / "operations.json").read_text())["operations"]
            if other
            else None
        )
        search = Search(
            folder / name,
            plan,
            images[key],
            Rule(),
            operations,
            lambda share, label, at=at, name=name: progress(  # type: ignore[misc]
                (at + share) / len(todo), f"{name}: {label}"
            ),
        )
        found = search.channels(search.operations())
        right = f"{search.train(found):.1f} %, " if trained else ""
        for warning in search.warnings:
            say(f"{name}: {warning}")
        say(f"{name}: {right}{cycles_on(found, plan.array):,} cycles")


def cycles_on(found: Found, array: PodArray) -> int:
    """Of one image, through the array simulator."""
    return simulate(schedule([dnn_of(found)], array)).cycles
