"""Scheduling of pod arrays: tile ops per second, compiled and in plain Python, timed in the same
process.

    python benchmarks/systolic.py

256 pods of 32 x 32 on a butterfly-2; convolutional networks at 299 pixels, BERT at 100 tokens. Tile
ops are those that are placed: of a stack of equal encoders, one. The limits: ResNet-50 in 10 s, the
ten networks of the published main table in 4 minutes, on one core. Beside them what the authors'
C++ is reported to take: 5 minutes for ResNet-50.
"""

from __future__ import annotations

import resource
from time import perf_counter

from sim.dnn.known import dnn
from sim.reproduce.sosa_rows import TEN
from sim.systolic import compiled
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate

PLAIN = ("resnet50", "bert_medium")


def timed(name: str, array: PodArray) -> tuple[int, float]:
    """Tile ops that are placed, and the seconds that takes, timing included."""
    net = dnn(name, image=299, length=100, exact=True)
    start = perf_counter()
    made = schedule([net], array, exact=True)
    simulate(made)
    return made.tile_ops // made.repeats, perf_counter() - start


def report(what: str, tile_ops: int, seconds: float) -> None:
    print(
        f"{what:32} {tile_ops:10,} tile ops {seconds:8.2f} s {tile_ops / seconds:12,.0f} tile "
        "ops/s",
        flush=True,
    )


def main() -> None:
    array = PodArray()
    start = perf_counter()
    compiled.loops_for(10**12)
    timed("resnet18", array)
    print(f"compiled or loaded in {perf_counter() - start:.1f} s")
    total, seconds = 0, 0.0
    for name in TEN:
        tile_ops, took = timed(name, array)
        report(name, tile_ops, took)
        total, seconds = total + tile_ops, seconds + took
    report("the ten", total, seconds)
    compiled.LOOPS.native = lambda amount: None  # type: ignore[method-assign]
    for name in PLAIN:
        report(f"{name}, plain Python", *timed(name, array))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
