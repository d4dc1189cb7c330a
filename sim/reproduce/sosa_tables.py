"""SOSA's published tables, S1 to S8, by its simulator's rules as `sim.systolic` keeps them.

Nothing is fitted: the energies behind watts are the authors' own. DNNs see images of 299 pixels, or
100 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import comb

import numpy as np

from sim.dnn.known import IMAGE, KNOWN, dnn
from sim.reproduce import row
from sim.reproduce import sosa_rows as published
from sim.reproduce.row import Row
from sim.reproduce.sosa_rows import TEN
from sim.reproduce.sosa_runs import Case, Shape, array_of, mean_tops, run
from sim.systolic.granularity import mean_of_means
from sim.systolic.interconnect import INTERCONNECTS
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.power import most_pods

SOSA: Shape = (32, 32, 256)
FREE = tuple(name for name in published.INTERCONNECTS if INTERCONNECTS[name].free)
_REBUILT = "of a re-implementation of the artifact's rules, which meets its figures"
_row, _near, _equal = (partial(made, "sosa") for made in (Row, row.near, row.equal))


def _size(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}, {shape[2]} pod{'s' * (shape[2] > 1)}"


def integers() -> Iterator[Row]:
    """S1: cycles, rounds, stalls and tile ops of the artifact's simulator."""
    for name, counts in published.RUNS.items():
        yield from _counts(
            f"{name}, 32 x 32, 256 pods",
            counts,
            Case((name,)),
            _REBUILT * (name in published.REBUILT),
        )
    for (pods, kind), pair in published.ROUTED.items():
        yield from _counts(
            f"bert_medium, 32 x 32, {pods} pods, {kind}",
            pair,
            Case(("bert_medium",), PodArray(pods=pods, interconnect=kind)),
        )
    for (size, pods, name), pair in published.SQUARES.items():
        shape = size, size, pods
        yield from _counts(f"{name}, {_size(shape)}", pair, Case((name,), array_of(shape)))
    for names, tenants in published.TENANTS.items():
        yield from _counts(
            f"{' beside '.join(names)}, all encoders, 32 x 32, 256 pods",
            tenants,
            Case(names, repeated=False),
            _REBUILT,
        )


_COUNTS = ("cycles", "last main round", "last round of additions", "stalls", "tile ops")


def _counts(what: str, known: Sequence[int], case: Case, note: str = "") -> Iterator[Row]:
    """A row a count, as many as are published."""
    for name, due, count in zip(_COUNTS, known, run(case).counts):
        yield _equal("S1", f"{what}: {name}", due, count, note)


def main_table(shape: Shape) -> Iterator[Row]:
    """S2: throughput at 400 W of the ten DNNs on one array."""
    array, known = array_of(shape), published.AT_400_W[shape]
    percent = 1.0 if shape[0] == 16 else 0.2
    note = "the 2022 revision's; larger than the mean of 32 x 32" if shape[0] == 20 else ""
    for name, value in zip(TEN, known):
        found = array.at_power(run(Case((name,), array)).tops)
        yield _near("S2", f"{name}, {_size(shape)}: TOPS at 400 W", value, found, percent)
    mean = array.at_power(mean_tops(array))
    yield _near(
        "S2",
        f"ten networks, {_size(shape)}: harmonic mean of TOPS at 400 W",
        known[-1],
        mean,
        percent,
        note,
    )
    if shape == SOSA:
        large = 128, 128, 32
        ratio = mean / array_of(large).at_power(mean_tops(array_of(large)))
        known_ratio = known[-1] / published.AT_400_W[large][-1]
        yield _near(
            "S2",
            "256 pods of 32 x 32 over 32 of 128 x 128: harmonic means",
            known_ratio,
            ratio,
            0.2,
            "the abstract's 1.5 times",
        )


def design_space() -> Iterator[Row]:
    """S3: TOPS a watt at 400 W over rows and columns, by the closed form."""
    sizes = np.arange(2, 257, 2)
    grid = sizes[:, None].astype(float), sizes[None, :].astype(float)
    families = {
        "CNN": [
            [dnn(name, image=image) for image in published.IMAGES]
            for name in TEN
            if KNOWN[name].input == IMAGE
        ],
        "BERT": [
            [dnn(name, length=length) for length in published.LENGTHS]
            for name in TEN
            if KNOWN[name].input != IMAGE
        ],
    }
    space = {name: mean_of_means(each, *grid) / 1e12 for name, each in families.items()}
    space["Mix"] = harmonic_mean(np.array([*space.values()]))
    pods = most_pods(*grid)

    def at(row: int, col: int, of: str, known: float) -> Row:
        where, what = (row // 2 - 1, col // 2 - 1), f"{row} x {col}"
        if of:
            return _near("S3", f"{of}, {what}: TOPS/W", known, space[of][where], 0.5)
        return _near("S3", f"{what}: pods in 400 W", known, pods[where], 0.5)

    for name, (rows, cols, value, count) in published.OPTIMA.items():
        best = np.unravel_index(space[name].argmax(), space[name].shape)
        for side, due, size in zip(("rows", "columns"), (rows, cols), sizes[list(best)].tolist()):
            yield _equal("S3", f"{name}: {side} of the best array", due, size)
        yield at(rows, cols, name, value)
        if count:
            yield at(rows, cols, "", count)
    for place, size in enumerate(published.SQUARE_SIZES):
        yield at(size, size, "", published.SQUARE_PODS[place])
        for name, values in published.SQUARE_VALUES.items():
            yield at(size, size, name, values[place])
    for name, value in published.AT_20_X_32.items():
        yield at(20, 32, name, value)


def interconnects(
    kinds: Sequence[str], counts: Sequence[int] = published.POD_COUNTS
) -> Iterator[Row]:
    """S4: throughput and power by interconnect and number of pods."""
    for kind in kinds:
        for pods, tops, watts in zip(published.POD_COUNTS, *published.INTERCONNECTS[kind]):
            if pods not in counts:
                continue
            array = PodArray(pods=pods, interconnect=kind)
            # one schedule, while it is there, for all
            for name in TEN if len(kinds) > 1 else ():
                for each in kinds:
                    run(Case((name,), replace(array, interconnect=each)))
            what = f"{kind}, {pods} pods of 32 x 32"
            yield _near("S4", f"{what}: harmonic mean, TOPS", tops, mean_tops(array), 0.5)
            yield _near("S4", f"{what}: peak power, W", watts, array.power.total_w, 0.5)


def pareto() -> Iterator[Row]:
    """S4: what the expanded butterfly costs and gives beside those without conflicts, 256 pods."""
    yield from interconnects(FREE)
    arrays = butterfly, crossbar, benes = [
        PodArray(interconnect=kind) for kind in ("butterfly_2", *FREE)
    ]
    share = mean_tops(butterfly) / mean_tops(crossbar)
    power = float(butterfly.power.total_w / crossbar.power.total_w)
    slow = mean_tops(benes) / mean_tops(butterfly)
    (fast, watts), (fastest, most), (slowest, _) = (
        [values[-1] for values in published.INTERCONNECTS[each.interconnect]] for each in arrays
    )
    what = "256 pods, butterfly_2 over crossbar"
    yield _row("S4", f"{what}: throughput", fast / fastest, share, ">= 0.94", share >= 0.94)
    yield _row("S4", f"{what}: peak power", watts / most, power, "< 0.45", power < 0.45)
    yield _near(
        "S4", "256 pods, benes_copy over butterfly_2: throughput", slowest / fast, slow, 0.5
    )


def partitions(sizes: Sequence[int]) -> Iterator[Row]:
    """S5: the same mean by how many rows of X a tile has."""
    found = {size: mean_tops(array_of(SOSA), None if size == 32 else size) for size in sizes}
    for size, value in found.items():
        rows = size if size < 512 else "all (512)"
        yield _near(
            "S5",
            f"{rows} rows of X in a tile: harmonic mean, TOPS",
            published.PARTITIONS[size],
            value,
            0.5,
        )
    best = max(found, key=lambda size: found[size])
    yield _equal("S5", "rows of X in the best tile, of those above", 32.0, float(best))


def tenants(batches: Sequence[int]) -> Iterator[Row]:
    """S6: ResNet-152 and BERT-medium, alone and together."""
    for batch in batches:
        found = []
        for names, known in zip(published.TENANTS, published.TOGETHER[batch]):
            found.append(run(Case(names, repeated=False, batch=batch)).tops)
            yield _near(
                "S6", f"{' beside '.join(names)}, batch {batch}: TOPS", known, found[-1], 0.5
            )
        known_gain, gain = (
            both / float(harmonic_mean(np.array(alone)))
            for *alone, both in (published.TOGETHER[batch], found)
        )
        yield _near(
            "S6", f"together over one after the other, batch {batch}", known_gain, gain, 0.5
        )


def banks() -> Iterator[Row]:
    """S7: ResNet-152, batch 8, by the size of a bank."""
    runs = {
        kib: run(Case(("resnet152",), PodArray(pods=128, bank_bytes=kib << 10), batch=8))
        for kib in published.BANKS
    }
    best = max(each.tops for each in runs.values())
    for kib, (share, mib) in published.BANKS.items():
        what = f"resnet152, batch 8, 128 pods, banks of {kib} KiB"
        told = {"fitted": "128 pods: the paper does not say how many; found by these numbers"}
        over = runs[kib].tops / best
        yield _near("S7", f"{what}: throughput over the best", share, over, 2, **told)
        moved = runs[kib].dram_bytes / 2**20
        yield _near("S7", f"{what}: MiB from memory", mib, moved, 2, **told)


def cleaned_up(shapes: Sequence[Shape]) -> Iterator[Row]:
    """S8: harmonic means of the main table without the artifact's habits.

    Judged with additions made once, as a machine would; the note has the mean with each made twice,
    which is one of the habits.
    """
    known = {shape: published.AT_400_W[shape][-1] for shape in shapes}
    found: dict[Shape, float] = {}
    for shape in shapes:
        found[shape], note = _cleaned(shape, twice=False)
        if shape[2] > 1:  # one pod makes no additions
            twice, spread = _cleaned(shape, twice=True)
            note = (
                f"additions made once, as judged: {found[shape]:.1f} ({note}); made twice, as by "
                f"the artifact: {twice:.1f} ({spread})"
            )
        yield _near(
            "S8",
            f"{_size(shape)}, without the artifact's habits: harmonic mean of TOPS at 400 W",
            known[shape],
            found[shape],
            5,
            note,
        )
    turned = sum((known[a] > known[b]) != (found[a] > found[b]) for a, b in combinations(shapes, 2))
    orders = (
        " > ".join(str(each[0]) for each in sorted(shapes, key=lambda each: -mean_of[each]))
        for mean_of in (known, found)
    )
    yield _equal(
        "S8",
        f"pairs of these arrays, by their rows, in another order, of {comb(len(shapes), 2)}",
        0.0,
        float(turned),
        "best first, published {}; without the artifact's habits {}; 16 x 16 is left out for its "
        "time".format(*orders),
    )


def _cleaned(shape: Shape, twice: bool) -> tuple[float, str]:
    """Harmonic mean at 400 W, and how far the DNNs are from the artifact's."""
    array = array_of(shape)
    cases = [Case((name,), array) for name in TEN]
    clean = [case._replace(exact=False, repeated=False, twice=twice) for case in cases]
    tops, exact = (np.array([run(case).tops for case in each]) for each in (clean, cases))
    off = tops / exact - 1
    mean = array.at_power(float(harmonic_mean(tops)))
    return mean, f"networks {off.min():+.1%} to {off.max():+.1%}"
