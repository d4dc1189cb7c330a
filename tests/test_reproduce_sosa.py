"""SOSA's published tables: no row but those of the model without its simulator's habits falls
short."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import claims
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.dnn.gemms import Dnn
from sim.dnn.known import dnn
from sim.reproduce import SYSTEMS, sosa_runs
from sim.reproduce import sosa_laws as laws
from sim.reproduce import sosa_rows as published
from sim.reproduce import sosa_tables as tables
from sim.reproduce.row import Row
from sim.reproduce.sosa_runs import Case, array_of, run
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import interconnect
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.schedule import Schedule
from sim.systolic.single import folded_cycles, steady_utilisation
from sim.systolic.timing import Timing, simulate

SHARED = Path(__file__).resolve().parents[2] / "shared"


def check(rows: list[Row]) -> None:
    assert rows
    for row in rows:
        assert (row.system, row.fitted) == ("sosa", "")
        assert row.what
        assert row.tolerance or row.ok is None
        assert row.ok is not False or row.id in ("S8", "law"), row
        if row.id == "S1":
            assert row.simulated == row.published


Timed = dict[tuple[Dnn, PodArray], Timing]


@pytest.fixture(scope="module")
def scenario() -> tuple[sim.Result, Timed]:
    """The shipped scenario of the main table, and the runs it is made of."""
    timed: Timed = {}

    def kept(made: Schedule) -> Timing:
        timing = timed[made.dnns[0], made.array] = simulate(made)
        return timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.kinds.dnn.plan.simulate", kept)
        return sim.run("array_sosa"), timed


def test_the_scenario_of_the_main_table(scenario: tuple[sim.Result, Timed], tmp_path: Path) -> None:
    claims.hold(scenario[0], tmp_path)


def known(case: Case, timed: Timed) -> Schedule | None:
    """A schedule that has been timed, without its tiles."""
    if case != Case(case.names, case.array):
        return None
    network = dnn(case.names[0], image=299, length=100, exact=True)
    if (network, case.array) not in timed:
        return None
    routes = interconnect(case.array.interconnect, case.array.pods)
    return Schedule(array=case.array, routes=routes, dnns=(network,), layers=(), exact=True)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("numba"), reason="takes minutes without numba")
def test_quick_rows(scenario: tuple[sim.Result, Timed], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the scenario are not made again."""
    placed, timed = sosa_runs._placed, scenario[1]
    taken: list[Timing] = []

    def timing(made: Schedule) -> Timing:
        if made.layers:
            return simulate(made)
        taken.append(timed[made.dnns[0], made.array])
        return taken[-1]

    monkeypatch.setattr(sosa_runs, "_placed", lambda case: known(case, timed) or placed(case))
    monkeypatch.setattr(sosa_runs, "simulate", timing)
    monkeypatch.setattr(laws, "SHARED", SHARED)
    monkeypatch.setattr(published, "ROUTED", {})  # of the array's own tests
    shares: list[float] = []
    rows = SYSTEMS["sosa"](quick=True, progress=shares.append)
    check(rows)
    assert {row.id for row in rows} == {"S1", "S2", "S3", "S4", "S5", "S6", "S8", "S9", "law"}
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len({(row.id, row.what) for row in rows}) == len(rows)
    assert len(taken) == len(timed) == 40


# To the last printed digit, of the runs behind the rows: equal ones are made once.

WHOLE = PodArray()  # 256 pods of 32 x 32, butterfly-2


@pytest.mark.parametrize("name", published.RUNS)
def test_exact_runs_are_those_of_the_artifact(name: str) -> None:
    assert run(Case((name,))).counts == published.RUNS[name]


@pytest.mark.parametrize(("pods", "kind"), published.ROUTED)
def test_exact_interconnects_are_those_of_the_artifact(pods: int, kind: str) -> None:
    found = run(Case(("bert_medium",), PodArray(pods=pods, interconnect=kind)))
    assert found.counts[:2] == published.ROUTED[pods, kind]


@pytest.mark.parametrize(("size", "pods", "name"), published.SQUARES)
def test_exact_arrays_are_those_of_the_artifact(size: int, pods: int, name: str) -> None:
    found = run(Case((name,), array_of((size, size, pods))))
    assert found.counts[:2] == published.SQUARES[size, pods, name]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "pods"), [(32, 256), (64, 128), (128, 32), (256, 8), (512, 1)])
def test_throughput_at_400_w_is_that_of_the_main_figure(size: int, pods: int) -> None:
    """Inception on 64 x 64 waits 27 cycles for partial sums that had left their bank."""
    array = array_of((size, size, pods))
    tops = np.array([run(Case((name,), array)).tops for name in published.TEN])
    scaled = [array.at_power(float(x)) for x in (*tops, harmonic_mean(tops))]
    assert [round(x, 1) for x in scaled] == list(published.AT_400_W[size, size, pods])


@pytest.mark.slow
def test_pods_are_as_busy_as_published() -> None:
    """Geometric mean over the ten networks, %; raw harmonic mean of their TOPS."""
    runs = [run(Case((name,))) for name in published.TEN]
    busy = [made.counts[4] / (max(made.counts[1], 1) * WHOLE.pods) for made in runs]
    assert round(float(np.exp(np.mean(np.log(busy)))) * 100, 1) == 53.5
    assert round(float(harmonic_mean(np.array([made.tops for made in runs]))), 2) == 206.46


@pytest.mark.slow
def test_a_partition_longer_than_the_rows_loses_what_the_figure_shows() -> None:
    tops = [run(Case((name,), partition=48)).tops for name in published.TEN]
    assert round(float(harmonic_mean(np.array(tops))), 1) == 167.6


@pytest.mark.slow
def test_tenants_are_those_of_the_artifact() -> None:
    """BERT-medium and ResNet-152 alone and together; gain over one after the other."""
    names = (("bert_medium",), ("resnet152",), ("bert_medium", "resnet152"))
    runs = [run(Case(each, repeated=False)) for each in names]
    assert [made.counts[:4] for made in runs] == [published.TENANTS[each] for each in names]
    tops = [made.tops for made in runs]
    assert [round(x, 2) for x in tops] == [206.06, 413.14, 396.73]
    assert round(tops[2] / float(harmonic_mean(np.array(tops[:2]))), 3) == 1.443


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pods, and networks that are soon placed."""
    known = published
    monkeypatch.setattr(
        known, "RUNS", {name: known.RUNS[name] for name in ("bert_medium", "resnet50")}
    )
    monkeypatch.setattr(
        known, "ROUTED", {at: counts for at, counts in known.ROUTED.items() if at[0] == 256}
    )
    monkeypatch.setattr(known, "TENANTS", {("bert_medium",): known.TENANTS["bert_medium",]})
    check(
        [
            *tables.integers(),
            *tables.main_table((256, 256, 8)),
            *tables.main_table((512, 512, 1)),
            *tables.design_space(),
        ]
    )


def test_the_model_without_habits_is_faster_and_says_so() -> None:
    one, rank = tables.cleaned_up([(256, 256, 8)])
    assert one.ok is False
    assert one.simulated > one.published == 183.0
    once, twice = (
        float(text) for text in re.findall(r"made (?:once|twice)[^:]*: ([\d.]+)", one.note)
    )
    assert once == round(one.simulated, 1) > twice > 0, "both figures, the judged one first"
    assert rank.ok


def test_single_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(laws, "SHARED", tmp_path)
    *steady, lacking = laws.single_arrays()
    check(steady)
    assert all(row.ok for row in steady)
    assert (lacking.ok, lacking.simulated) == (None, None)
    assert "scalesim_compute.csv is not there" in lacking.note
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    monkeypatch.setattr(laws, "SHARED", SHARED)
    *_, ws, os, is_ = laws.single_arrays()
    assert [row.simulated for row in (ws, os, is_)] == [45.0] * 3
    assert ws.ok and os.ok and is_.ok


def test_single_arrays_by_hand() -> None:
    """One cell: a weight is loaded, and one multiplied; with sums in the cell nothing is loaded."""
    weights, sums = (DATAFLOWS[f"{kept}_stationary"] for kept in ("weight", "output"))
    assert folded_cycles(weights, 1, 1, 1, 1, 1) == 2
    assert folded_cycles(sums, 1, 1, 1, 1, 1) == 1
    assert folded_cycles(weights, 10, 8, 8, 4, 8) == 2 * (4 + 10 + 3 + 7)
    assert folded_cycles(sums, 10, 8, 8, 4, 8) == 3 * (8 + 3 + 7)
    assert steady_utilisation(99, 8, 8, 4, 8) == pytest.approx(0.99)


sizes = st.integers(1, 200)


@given(m=sizes, n=sizes, k=sizes, rows=st.integers(1, 32), cols=st.integers(1, 32))
def test_laws_of_single_arrays(m: int, n: int, k: int, rows: int, cols: int) -> None:
    """No cell does more than a MAC a cycle; a product transposed swaps what stays."""
    found = {name: folded_cycles(flow, m, n, k, rows, cols) for name, flow in DATAFLOWS.items()}
    assert m * n * k <= rows * cols * min(found.values())
    turned = folded_cycles(DATAFLOWS["weight_stationary"], k, n, m, rows, cols)
    assert found["input_stationary"] == turned
    assert 0 < steady_utilisation(m, n, k, rows, cols) < 1
