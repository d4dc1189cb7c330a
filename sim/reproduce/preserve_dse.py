"""PRESERVE's design space: how much L2 pays for its area, without prefetching and with it (P3, P4).

Published: performance by area is best with 8 MB without and 104 MB with prefetching, 1.25 times
better. Neither the workload, the simulator's constants nor those of area are public. Ours were
chosen before any of it was run: the six models of P1 on eight chips, geometric mean; the constants
of P1 to P8; area by the estimates of 7 nm in `sim.hardware.chip_cost`, L2 at 0.67 mm2/MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import product
from math import exp, log
from multiprocessing import get_context
from os import cpu_count
from typing import NamedTuple

from sim import catalog
from sim.hardware.chip_cost import ESTIMATES, MIB, ChipCost, estimate, made
from sim.reproduce.preserve import MODELS, Measured, Point, measure
from sim.reproduce.row import Progress, Row

SIZES = (1, 2, 4, *range(8, 193, 8))  # MiB
COARSE = (1, 2, 4, 8, 16, 24, 32, 48, 64, 88, 104, 136, 160, 192)
STOCK = 192
_BOX_MODEL = "llama3-70b"
LAUNCHES, HBM_RATES, ENGINES = (0.5, 1.0, 2.0, 4.0), (0.7, 1.0, 1.4), ("", "sdma")
_AREA = ("sram_mm2_per_mib", "matrix_mm2_per_tflops", "hbm_mm2_per_stack", "link_mm2", "other_mm2")
_row = partial(Row, "preserve-dse")
_WHY_SMALL = (
    "only a prefill has a working set above 2 MiB (panels of 15 MB where K is 8,192), and it is 1 "
    "to 4 % of a run: from 4 to 8 MiB the time falls by less than the area grows"
)
_WHY_LARGE = (
    "an all-reduce takes 20 to 30 us, in which HBM brings 20 to 40 MB: more L2 than that holds "
    "nothing more. With all-reduces of two to four times that it is 64 to 88 MiB"
)


class Corner(NamedTuple):
    """What is varied beside the L2: collectives' launch and HBM's rate by factors, the engine."""

    launch: float = 1.0
    hbm: float = 1.0
    engine: str = ""


class Optimum(NamedTuple):
    """The best sizes, in MiB, and how much better the one is than the other, by area."""

    without: int
    fetching: int
    gain: float
    over_stock: float  # the best with prefetching over prefetching on the stock L2


_NOMINAL = Corner()
_BOX = tuple(Corner(*each) for each in product(LAUNCHES, HBM_RATES, ENGINES))
Took = Mapping[Point, Measured]


def point(model: str, size: int, corner: Corner, fetches: bool) -> Point:
    """A run of `model` on eight chips with an L2 of `size` MiB.

    The card's first engine is taken to keep up with HBM, so it does at any rate of that.
    """
    changes = [("l2_bytes", size / STOCK)]
    if corner.launch != 1.0:
        changes.append(("library.launch_s", corner.launch))
    if corner.hbm != 1.0:
        changes.append(("hbm_bytes_per_s", corner.hbm))
        if fetches and not corner.engine:
            changes.append(("prefetch_bytes_per_s", corner.hbm))
    return Point(
        model,
        8,
        technique="preserve" if fetches else "",
        changes=tuple(changes),
        engine=corner.engine if fetches else "",
    )


def reproduce(quick: bool = False, progress: Progress = lambda share: None) -> list[Row]:
    """All rows; `quick` takes fewer sizes of L2 and leaves out the box around the constants."""
    sizes = COARSE if quick else SIZES
    wanted = [*_points(MODELS, sizes, _NOMINAL)]
    for corner in () if quick else _BOX:
        wanted += _points([_BOX_MODEL], COARSE, corner)
    took: dict[Point, Measured] = {}
    wanted = list(dict.fromkeys(wanted))
    with ProcessPoolExecutor(cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        for each, measured in zip(wanted, pool.map(measure, wanted, chunksize=4)):
            took[each] = measured
            progress(len(took) / len(wanted))
    return [*rows(took, sizes, box=not quick)]


def _points(models: Iterable[str], sizes: Iterable[int], corner: Corner) -> Iterator[Point]:
    for model, size, fetches in product(models, sizes, (False, True)):
        yield point(model, size, corner, fetches)


def rows(took: Took, sizes: Sequence[int], *, box: bool) -> Iterator[Row]:
    """P3 and P4 as chosen, for one model alone, and over what is not known."""
    nominal = optimum(took, MODELS, sizes, _NOMINAL, estimate())
    yield from _judged(took, sizes, nominal)
    for model in MODELS:
        alone = optimum(took, [model], sizes, _NOMINAL, estimate())
        what = f"{model} alone: largest performance by area with prefetching over that without"
        yield _row("P4", what, None, alone.gain, "reported", None, note=_said(alone))
    yield from _spread(
        "over the whole box of area",
        (optimum(took, MODELS, sizes, _NOMINAL, cost) for cost in corners_of_area()),
    )
    if box:
        yield from _over_box(took)


def _judged(took: Took, sizes: Sequence[int], found: Optimum) -> Iterator[Row]:
    mean = "geometric mean of six models at TP 8"
    small, large = "8, with 4 and 16 worse", "72 to 136"
    for fetches, known, best, tolerance, ok, why in (
        (False, 8, found.without, small, found.without == 8, _WHY_SMALL),
        (True, 104, found.fetching, large, 72 <= found.fetching <= 136, _WHY_LARGE),
    ):
        which = "with" if fetches else "without"
        times = {size: _seconds(took, MODELS, size, _NOMINAL, fetches) for size in sizes}
        fast = min(times.values())
        note = "time over the least, by MiB: " + ", ".join(
            f"{size}: {s / fast:.3f}" for size, s in times.items() if size in COARSE
        )
        note = note if ok else f"{why}; {note}"
        what = f"MiB of L2 with the largest performance by area {which} prefetching, {mean}"
        yield _row("P3", what, known, best, tolerance, ok, note=note)
    yield _row(
        "P4",
        f"largest performance by area with prefetching over the largest without, {mean}",
        1.25,
        found.gain,
        "±0.08",
        abs(found.gain - 1.25) <= 0.08,
        note=f"against 192 MiB with prefetching {found.over_stock:.3f}",
    )


def optimum(
    took: Took, models: Sequence[str], sizes: Sequence[int], corner: Corner, cost: ChipCost
) -> Optimum:
    """The sizes of L2 with the largest performance by area."""

    def by_area(size: int, fetches: bool) -> float:
        seconds = _seconds(took, models, size, corner, fetches)
        return 1.0 / (seconds * die_mm2(size, corner.hbm, cost))

    without = max(sizes, key=lambda size: by_area(size, False))
    fetching = max(sizes, key=lambda size: by_area(size, True))
    best = by_area(fetching, True)
    return Optimum(without, fetching, best / by_area(without, False), best / by_area(STOCK, True))


def _seconds(took: Took, models: Sequence[str], size: int, corner: Corner, fetches: bool) -> float:
    logs = [log(took[point(model, size, corner, fetches)].seconds) for model in models]
    return exp(sum(logs) / len(logs))


@cache
def die_mm2(size: int, hbm: float, cost: ChipCost) -> float:
    """Area of the A2's chip with so many MiB of L2 and so many times its HBM rate."""
    pod = catalog.pod("atlas_800t_a2")
    card = catalog.device(pod.device)
    card = replace(card, l2_bytes=size * MIB, hbm_bytes_per_s=card.hbm_bytes_per_s * hbm)
    return made(card, 7 * pod.link_bytes_per_s, cost).die_mm2


def corners_of_area() -> list[ChipCost]:
    """Every corner of the box of what is known of area, and L2's nominal area in each."""
    known = ESTIMATES["7 nm"]
    ends = [
        dict.fromkeys((known[name].low, known[name].value, known[name].high)) for name in _AREA[:1]
    ] + [dict.fromkeys((known[name].low, known[name].high)) for name in _AREA[1:]]
    return [estimate("7 nm", **dict(zip(_AREA, each))) for each in product(*ends)]


def _spread(where: str, answers: Iterable[Optimum]) -> Iterator[Row]:
    """The least and the most that the answers come to."""
    found = list(answers)
    for name, id_, what, known in (
        ("without", "P3", "MiB of L2 that are best without prefetching", 8),
        ("fetching", "P3", "MiB of L2 that are best with prefetching", 104),
        ("gain", "P4", "largest performance by area with prefetching over that without", 1.25),
    ):
        values = sorted(getattr(each, name) for each in found)
        met = sum(map(_met, found))
        note = f"of {len(found)} corners {met} meet all of P3 and P4; middle {_middle(values):g}"
        for which, value in (("least", values[0]), ("most", values[-1])):
            yield _row(
                id_, f"{where}, the {which}: {what}", known, value, "reported", None, "", note
            )


def _middle(values: Sequence[float]) -> float:
    return round(values[len(values) // 2], 3)


def _met(found: Optimum) -> bool:
    near = abs(found.gain - 1.25) <= 0.08
    return near and found.without == 8 and 72 <= found.fetching <= 136


def _said(found: Optimum) -> str:
    return (
        f"best at {found.without} MiB without and {found.fetching} MiB with prefetching; against "
        f"192 MiB with prefetching {found.over_stock:.3f}"
    )


def _over_box(took: Took) -> Iterator[Row]:
    """What all-reduce, HBM and engine do to it, of one model; and the set that comes nearest."""
    alone = {corner: optimum(took, [_BOX_MODEL], COARSE, corner, estimate()) for corner in _BOX}
    for corner, found in alone.items():
        engine = corner.engine or "the card's first engine"
        what = (
            f"{_BOX_MODEL}, launch x {corner.launch:g}, HBM x {corner.hbm:g}, {engine}: largest "
            "performance by area with prefetching over that without"
        )
        yield _row("P4", what, None, found.gain, "reported", None, note=_said(found))
    whole = {
        (corner, cost): optimum(took, [_BOX_MODEL], COARSE, corner, cost)
        for corner, cost in product(_BOX, corners_of_area())
    }
    where = f"{_BOX_MODEL}, over the whole box of all-reduce, HBM, engine and area"
    yield from _spread(where, whole.values())
    (corner, cost), nearest = min(whole.items(), key=lambda each: _off(each[1]))
    fitted = (
        f"launch x {corner.launch:g}, HBM x {corner.hbm:g}, {corner.engine or 'first'} engine, "
        + ", ".join(f"{name} {getattr(cost, name):g}" for name in _AREA)
    )
    for id_, what, known, value in (
        ("P3", "MiB of L2 that are best without prefetching", 8, nearest.without),
        ("P3", "MiB of L2 that are best with prefetching", 104, nearest.fetching),
        ("P4", "performance by area with prefetching over that without", 1.25, nearest.gain),
    ):
        yield _row(id_, f"fitted: {what}", known, value, "not judged", None, fitted)


def _off(found: Optimum) -> float:
    """How far from the three published numbers, each by its own tolerance."""
    sizes = abs(log(found.without / 8)) / log(2) + abs(found.fetching - 104) / 32
    return sizes + abs(found.gain - 1.25) / 0.08
