"""SOSA (arXiv 2203.11540): every published table, by its simulator's rules as `sim.systolic` keeps
them.

Nothing is fitted: the energies behind watts are the authors' own. Networks see images of 299
pixels, or 100 tokens.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np

from sim.dnn.bert import bert
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.reproduce import sosa_rows as published
from sim.reproduce.row import Row, absent
from sim.reproduce.sosa_runs import TEN, Array, Case, clean, machine_of, mean_tops, run
from sim.systolic.granularity import mean_of_means
from sim.systolic.losses import ends
from sim.systolic.machine import Machine, at_power, harmonic_mean, most_pods, power_of
from sim.systolic.schedule import schedule
from sim.systolic.single import DATAFLOWS, steady_utilisation
from sim.systolic.timing import simulate

SHARED = Path("../shared")
MOST_PROCESSES = 4  # the largest part takes 1.4 GB
SOSA: Array = (32, 32, 256)
_REBUILT = "of a re-implementation of the artifact's rules, which meets its figures"


def _row(
    id_: str,
    what: str,
    known: float | str | None,
    found: float | str,
    tolerance: str,
    ok: bool | None,
    note: str = "",
) -> Row:
    return Row(
        "sosa", id_, what, known, found, tolerance, None if ok is None else bool(ok), "", note
    )


def _near(id_: str, what: str, known: float, found: float, percent: float, note: str = "") -> Row:
    return _row(
        id_, what, known, found, f"{percent:g} %", abs(found / known - 1) <= percent / 100, note
    )


def _size(array: Array) -> str:
    return f"{array[0]} x {array[1]}, {array[2]} pod{'s' * (array[2] > 1)}"


# S1: whole numbers.


def integers() -> list[Row]:
    """Cycles, rounds, stalls and tile ops of the artifact's simulator."""
    five, two = (
        "cycles, last main round, last round of additions, stalls, tile ops",
        "cycles, last main round",
    )
    rows = []
    for name, known in published.RUNS.items():
        note = _REBUILT if name in published.REBUILT else ""
        rows.append(_equal(f"{name}, 32 x 32, 256 pods: {five}", known, Case((name,)), note))
    for (pods, kind), counts in published.ROUTED.items():
        case = Case(("bert_medium",), Machine(pods=pods, network=kind))
        rows.append(_equal(f"bert_medium, 32 x 32, {pods} pods, {kind}: {two}", counts, case))
    for (size, pods, name), counts in published.SQUARES.items():
        array = size, size, pods
        rows.append(
            _equal(f"{name}, {_size(array)}: {two}", counts, Case((name,), machine_of(array)))
        )
    for names, tenants in published.TENANTS.items():
        what = (
            f"{' beside '.join(names)}, all encoders, 32 x 32, 256 pods: "
            f"{five.removesuffix(', tile ops')}"
        )
        rows.append(_equal(what, tenants, Case(names, repeated=False), _REBUILT))
    return rows


def _equal(what: str, known: Sequence[int], case: Case, note: str = "") -> Row:
    found = run(case).counts[: len(known)]
    text, other = (", ".join(map(str, counts)) for counts in (known, found))
    return _row("S1", what, text, other, "equal", found == tuple(known), note)


# S2: the main table.


def main_table(array: Array) -> list[Row]:
    """Throughput at 400 W of the ten networks on one array."""
    machine, known = machine_of(array), published.AT_400_W[array]
    percent = 1.0 if array[0] == 16 else 0.2
    note = "the 2022 revision's; larger than the mean of 32 x 32" if array[0] == 20 else ""
    rows = []
    for name, value in zip(TEN, known):
        found = at_power(run(Case((name,), machine)).tops, machine)
        rows.append(_near("S2", f"{name}, {_size(array)}: TOPS at 400 W", value, found, percent))
    mean = at_power(mean_tops(machine), machine)
    rows.append(
        _near(
            "S2",
            f"ten networks, {_size(array)}: harmonic mean of TOPS at 400 W",
            known[-1],
            mean,
            percent,
            note,
        )
    )
    if array == SOSA:
        large = 128, 128, 32
        ratio = mean / at_power(mean_tops(machine_of(large)), machine_of(large))
        known_ratio = known[-1] / published.AT_400_W[large][-1]
        rows.append(
            _near(
                "S2",
                "256 pods of 32 x 32 over 32 of 128 x 128: harmonic means",
                known_ratio,
                ratio,
                0.2,
                "the abstract's 1.5 times",
            )
        )
    return rows


# S3: the design space.


def design_space() -> list[Row]:
    """TOPS a watt at 400 W over rows and columns: the closed form."""
    sizes = np.arange(2.0, 257.0, 2.0)
    rows_, cols = sizes[:, None], sizes[None, :]
    images = [
        [dnn(name, image=image) for image in published.IMAGES]
        for name in TEN
        if not name.startswith("bert")
    ]
    texts = [
        [bert(size, length) for length in published.LENGTHS] for size in ("medium", "base", "large")
    ]
    space = {
        "CNN": mean_of_means(images, rows_, cols) / 1e12,
        "BERT": mean_of_means(texts, rows_, cols) / 1e12,
    }
    space["Mix"] = harmonic_mean(np.array([space["CNN"], space["BERT"]]))
    pods = most_pods(rows_, cols)

    def at(row: float, col: float) -> tuple[int, int]:
        return int(row) // 2 - 1, int(col) // 2 - 1

    rows = []
    for name, (row, col, value, count) in published.OPTIMA.items():
        best = np.unravel_index(space[name].argmax(), space[name].shape)
        found = f"{sizes[best[0]]:.0f} x {sizes[best[1]]:.0f}"
        rows.append(
            _row(
                "S3",
                f"{name}: best rows x columns",
                f"{row} x {col}",
                found,
                "equal",
                found == f"{row} x {col}",
            )
        )
        rows.append(
            _near(
                "S3", f"{name}, {row} x {col}: TOPS/W", value, float(space[name][at(row, col)]), 0.5
            )
        )
        if count:
            rows.append(
                _near("S3", f"{row} x {col}: pods in 400 W", count, float(pods[at(row, col)]), 0.5)
            )
    for size, count in zip(published.SQUARE_SIZES, published.SQUARE_PODS):
        rows.append(
            _near("S3", f"{size} x {size}: pods in 400 W", count, float(pods[at(size, size)]), 0.5)
        )
        for name, values in published.SQUARE_VALUES.items():
            value = values[published.SQUARE_SIZES.index(size)]
            rows.append(
                _near(
                    "S3",
                    f"{name}, {size} x {size}: TOPS/W",
                    value,
                    float(space[name][at(size, size)]),
                    0.5,
                )
            )
    for name, value in published.AT_20_X_32.items():
        rows.append(
            _near("S3", f"{name}, 20 x 32: TOPS/W", value, float(space[name][at(20, 32)]), 0.5)
        )
    return rows


# S4: interconnects.


def interconnects(kinds: Sequence[str], counts: Sequence[int] = published.POD_COUNTS) -> list[Row]:
    """Throughput and power by interconnect and number of pods."""
    rows = []
    for kind in kinds:
        for pods, tops, watts in zip(published.POD_COUNTS, *published.INTERCONNECTS[kind]):
            if pods in counts:
                machine = Machine(pods=pods, network=kind)
                for name in (
                    TEN if len(kinds) > 1 else ()
                ):  # one schedule, while it is there, for all
                    for each in kinds:
                        run(Case((name,), replace(machine, network=each)))
                what = f"{kind}, {pods} pods of 32 x 32"
                rows.append(
                    _near("S4", f"{what}: harmonic mean, TOPS", tops, mean_tops(machine), 0.5)
                )
                rows.append(
                    _near(
                        "S4", f"{what}: peak power, W", watts, float(power_of(machine).total_w), 0.5
                    )
                )
    return rows


def pareto() -> list[Row]:
    """The two that have no conflicts, and what the expanded butterfly costs and gives beside them
    on 256 pods."""
    butterfly, crossbar, benes = (
        Machine(network=kind) for kind in ("butterfly_2", "crossbar", "benes_copy")
    )
    rows = interconnects((crossbar.network, benes.network))
    share = mean_tops(butterfly) / mean_tops(crossbar)
    power = float(power_of(butterfly).total_w / power_of(crossbar).total_w)
    slow = mean_tops(benes) / mean_tops(butterfly)
    what = "256 pods, butterfly_2 over crossbar"
    (fast, watts), (fastest, most), (slowest, _) = (
        [values[-1] for values in published.INTERCONNECTS[each.network]]
        for each in (butterfly, crossbar, benes)
    )
    return [
        *rows,
        _row("S4", f"{what}: throughput", fast / fastest, share, ">= 0.94", share >= 0.94),
        _row("S4", f"{what}: peak power", watts / most, power, "< 0.45", power < 0.45),
        _near("S4", "256 pods, benes_copy over butterfly_2: throughput", slowest / fast, slow, 0.5),
    ]


# S5: how many rows of X a tile has.


def partitions(sizes: Sequence[int]) -> list[Row]:
    """The same mean by the rows of X in a tile."""
    found = {size: mean_tops(machine_of(SOSA), None if size == 32 else size) for size in sizes}
    best = max(found, key=lambda size: found[size])
    return [
        *(
            _near(
                "S5",
                f"{size if size < 512 else 'all (512)'} rows of X in a tile: harmonic mean, TOPS",
                published.PARTITIONS[size],
                value,
                0.5,
            )
            for size, value in found.items()
        ),
        _row(
            "S5",
            "rows of X in the best tile, of those above",
            32.0,
            float(best),
            "equal",
            best == 32,
        ),
    ]


# S6: tenants.


def tenants(batches: Sequence[int]) -> list[Row]:
    """ResNet-152 and BERT-medium, alone and together."""
    rows = []
    for batch in batches:
        found = []
        for names, known in zip(published.TENANTS, published.TOGETHER[batch]):
            found.append(run(Case(names, repeated=False, batch=batch)).tops)
            rows.append(
                _near("S6", f"{' beside '.join(names)}, batch {batch}: TOPS", known, found[-1], 0.5)
            )
        known_gain, gain = (
            both / float(harmonic_mean(np.array(alone)))
            for *alone, both in (published.TOGETHER[batch], found)
        )
        rows.append(
            _near("S6", f"together over one after the other, batch {batch}", known_gain, gain, 0.5)
        )
    return rows


# S7: banks.


def banks() -> list[Row]:
    """ResNet-152, batch 8, by the size of a bank."""
    runs = {
        kib: run(Case(("resnet152",), Machine(pods=128, bank_bytes=kib << 10), batch=8))
        for kib in published.BANKS
    }
    best = max(each.tops for each in runs.values())
    rows = []
    for kib, (share, mib) in published.BANKS.items():
        what = f"resnet152, batch 8, 128 pods, banks of {kib} KiB"
        rows.append(
            _near("S7", f"{what}: throughput over the best", share, runs[kib].tops / best, 2)
        )
        rows.append(_near("S7", f"{what}: MiB from memory", mib, runs[kib].dram_bytes / 2**20, 2))
    return rows


# S8: the model without the artifact's habits.


def cleaned_up(arrays: Sequence[Array]) -> list[Row]:
    """Harmonic means of the main table, additions made once."""
    rows = []
    known = {array: published.AT_400_W[array][-1] for array in arrays}
    found: dict[Array, float] = {}
    for array in arrays:
        found[array], spread = _cleaned(array, twice=False)
        note = (
            f"networks {spread}"
            + "; an addition is made once, where the artifact makes it twice" * (array[2] > 1)
        )
        rows.append(
            _near(
                "S8",
                f"{_size(array)}, without the artifact's habits: harmonic mean of TOPS at 400 W",
                known[array],
                found[array],
                5,
                note,
            )
        )
        if array == SOSA:
            mean, spread = _cleaned(array, twice=True)
            rows.append(
                _row(
                    "S8",
                    f"{_size(array)}, the same but for additions made twice",
                    known[array],
                    mean,
                    "read beside",
                    None,
                    f"networks {spread}",
                )
            )
    orders = [
        " > ".join(str(each[0]) for each in sorted(arrays, key=lambda each: -mean_of[each]))
        for mean_of in (known, found)
    ]
    rows.append(
        _row(
            "S8",
            "rows of these arrays, best first",
            orders[0],
            orders[1],
            "equal",
            orders[0] == orders[1],
            "simulated: without the artifact's habits; 16 x 16 is left out for its time",
        )
    )
    return rows


def _cleaned(array: Array, twice: bool) -> tuple[float, str]:
    """Harmonic mean at 400 W, and how far the networks are from the artifact's."""
    machine = machine_of(array)
    tops = np.array([run(clean(name, machine, twice)).tops for name in TEN])
    off = tops / [run(Case((name,), machine)).tops for name in TEN] - 1
    return at_power(float(harmonic_mean(tops)), machine), f"{off.min():+.1%} to {off.max():+.1%}"


# S9: one array by itself.


def single_arrays() -> list[Row]:
    """Closed forms against SCALE-Sim, and the schedule of one pod against a closed form."""
    rows = [
        _steady(*shape)
        for shape in ((640, 256, 96, 32, 32), (1000, 70, 50, 32, 16), (128, 513, 129, 128, 128))
    ]
    file = SHARED / "reference/scalesim_compute.csv"
    what = "cycles of one array by SCALE-Sim 3.0"
    if not file.is_file():
        return rows + absent("sosa", "S9", what, file)
    with file.open(newline="") as lines:
        table = list(csv.DictReader(lines))
    for name, cycles in DATAFLOWS.items():
        cases = [line for line in table if line["dataflow"] == name]
        met = 0
        for line in cases:
            m, outputs, reduction, size = (int(line[key]) for key in ("M", "N", "K", "array"))
            met += cycles(m, reduction, outputs, size, size) - 1 == int(line["cycles"])
        rows.append(
            _row(
                "S9",
                f"{what}, {name}: cases met exactly",
                float(len(cases)),
                float(met),
                "equal",
                met == len(cases),
                "8 to 128 square; SCALE-Sim's first cycle is 0",
            )
        )
    return rows


def _steady(m: int, n: int, k: int, rows: int, cols: int) -> Row:
    machine = Machine(rows, cols, 1, "crossbar", bank_bytes=1 << 20)
    made = schedule([Dnn("one", (GemmLayer("g", m, n, k, raw_input=True),))], machine, partition=m)
    found = made.macs / (rows * cols * int(simulate(made).lengths.sum()))
    known = steady_utilisation(m, n, k, rows, cols)
    what = (
        f"{m} x {n} by {n} x {k} on one pod of {rows} x {cols}: utilisation, against its "
        "closed form"
    )
    return _row("S9", what, known, found, "1e-12", abs(found - known) <= 1e-12)


# A law of tenants: alone never slower than together.


def alone_is_quickest() -> list[Row]:
    """Ends in one schedule that are sooner than alone: of every pair of small products, and of two
    networks.

    The first of a schedule is placed as if alone. A later one may be pushed into later rounds, and
    there start from sums that it had to add had it run at once: first fit has such anomalies, as
    list scheduling does (Graham 1969).
    """
    shapes = [(m, n, k) for m in (1, 5, 9) for n in (1, 5, 9) for k in (1, 3)]
    small = [
        Dnn(f"{m} x {n} x {k}", (GemmLayer("g", m, n, k, raw_input=True),)) for m, n, k in shapes
    ]
    two = [dnn("bert_medium", length=100), dnn("resnet50", image=299)]
    rows = []
    for what, nets, machine in (
        ("small products, 2 pods of 4 x 2", small, Machine(4, 2, 2, "butterfly_1")),
        ("BERT-medium and ResNet-50, 256 pods of 32 x 32", two, Machine()),
    ):
        own = {net.name: simulate(schedule([net], machine)).cycles for net in nets}
        sooner = [0, 0]
        for one, other in product(nets, nets):
            made = schedule([one, other], machine)
            for place, (net, end) in enumerate(zip((one, other), ends(made, simulate(made)))):
                sooner[place] += end < own[net.name]
        for name, count in zip(("first", "second"), sooner):
            rows.append(
                _row(
                    "law",
                    f"{what}: ends of the {name} of a pair that are sooner than alone, "
                    f"of {len(nets) ** 2}",
                    0.0,
                    float(count),
                    "equal",
                    count == 0,
                )
            )
    return rows


def reproduce(
    quick: bool = False, progress: Callable[[float], None] = lambda share: None
) -> list[Row]:
    """Rows of the system `sosa`; `quick` leaves out small arrays, batches, banks, and most of S4,
    S5 and S8."""
    arrays = [array for array in published.AT_400_W if not (quick and array[0] < 32)]
    parts: list[Callable[[], list[Row]]] = [
        integers,
        *(partial(main_table, array) for array in arrays),
        design_space,
    ]
    if quick:
        parts += [
            partial(interconnects, ("butterfly_2",), (256,)),
            partial(partitions, (32, 128)),
            partial(tenants, (1,)),
            partial(cleaned_up, ((256, 256, 8), (512, 512, 1))),
            single_arrays,
            alone_is_quickest,
        ]
        return _gathered(map(_call, parts), len(parts), progress)
    free = "crossbar", "benes_copy"
    parts += [
        partial(interconnects, (kind,)) for kind in published.INTERCONNECTS if kind not in free
    ]
    parts += [
        pareto,
        partial(partitions, tuple(published.PARTITIONS)),
        partial(tenants, tuple(published.TOGETHER)),
        banks,
        partial(cleaned_up, [array for array in arrays if array[0] >= 32]),
        single_arrays,
        alone_is_quickest,
    ]
    with ProcessPoolExecutor(
        min(cpu_count() or 1, MOST_PROCESSES), mp_context=get_context("spawn")
    ) as pool:
        return _gathered(pool.map(_call, parts), len(parts), progress)


def _call(part: Callable[[], list[Row]]) -> list[Row]:
    return part()


def _gathered(
    found: Iterable[list[Row]], parts: int, progress: Callable[[float], None]
) -> list[Row]:
    rows = []
    for done, more in enumerate(found, 1):
        rows += more
        progress(done / parts)
    return rows
