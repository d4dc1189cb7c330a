"""What must hold of SOSA's arrays beside its tables: closed forms of one array, and of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from sim.calibrate.tables import csv_rows
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.reproduce.row import Row, absent, equal
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.losses import ends
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import schedule
from sim.systolic.single import folded_cycles, steady_utilisation
from sim.systolic.timing import simulate

SHARED = Path("../shared")
_equal = partial(equal, "sosa")


def single_arrays() -> Iterator[Row]:
    """S9: closed forms against SCALE-Sim, and the schedule of one pod against a closed form."""
    for shape in ((640, 256, 96, 32, 32), (1000, 70, 50, 32, 16), (128, 513, 129, 128, 128)):
        yield _steady(*shape)
    file = SHARED / "reference/scalesim_compute.csv"
    what = "cycles of one array by SCALE-Sim 3.0"
    if not file.is_file():
        yield from absent("sosa", "S9", what, file)
        return
    table = csv_rows(file)
    for flow in DATAFLOWS.values():
        cases = [
            [int(line[key]) for key in ("M", "K", "N", "array", "cycles")]
            for line in table
            if line["dataflow"] == flow.scale_sim
        ]
        met = sum(
            folded_cycles(flow, m, n, k, size, size) - 1 == cycles
            for m, n, k, size, cycles in cases
        )
        yield _equal(
            "S9",
            f"{what}, {flow.scale_sim}: cases met exactly",
            float(len(cases)),
            float(met),
            "8 to 128 square; SCALE-Sim's first cycle is 0",
        )


def _one(name: str, m: int, n: int, k: int) -> Dnn:
    return Dnn(name, (GemmLayer("g", m, n, k, raw_input=True),))


def _steady(m: int, n: int, k: int, rows: int, cols: int) -> Row:
    array = PodArray(rows, cols, 1, "crossbar", bank_bytes=1 << 20)
    made = schedule([_one("one", m, n, k)], array, partition=m)
    found = made.macs / (rows * cols * int(simulate(made).lengths.sum()))
    known = steady_utilisation(m, n, k, rows, cols)
    what = (
        f"{m} x {n} by {n} x {k} on one pod of {rows} x {cols}: utilisation, against its "
        "closed form"
    )
    return Row("sosa", "S9", what, known, found, "1e-12", abs(found - known) <= 1e-12)


def alone_is_quickest() -> Iterator[Row]:
    """Ends in one schedule that are sooner than alone: small products by pairs, and two DNNs.

    The first of a schedule is placed as if alone. A later one may be pushed into later rounds, and
    there start from sums that it had to add had it run at once: first fit has such anomalies, as
    list scheduling does (Graham 1969).
    """
    shapes = product((1, 5, 9), (1, 5, 9), (1, 3))
    small = [_one(f"{m} x {n} x {k}", m, n, k) for m, n, k in shapes]
    two = [dnn("bert_medium", length=100), dnn("resnet50", image=299)]
    for what, dnns, array in (
        ("small products, 2 pods of 4 x 2", small, PodArray(4, 2, 2, "butterfly_1")),
        ("BERT-medium and ResNet-50, 256 pods of 32 x 32", two, PodArray()),
    ):
        own = {each.name: simulate(schedule([each], array)).cycles for each in dnns}
        sooner = [0, 0]
        for pair in product(dnns, dnns):
            made = schedule(pair, array)
            for place, (each, end) in enumerate(zip(pair, ends(made, simulate(made)))):
                sooner[place] += end < own[each.name]
        for name, count in zip(("first", "second"), sooner):
            many = f"that are sooner than alone, of {len(dnns) ** 2}"
            yield _equal("law", f"{what}: ends of the {name} of a pair {many}", 0.0, float(count))
