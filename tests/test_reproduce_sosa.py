"""SOSA's published tables: no row but those of the model without its simulator's habits falls
short."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.reproduce import SYSTEMS
from sim.reproduce import sosa_laws as laws
from sim.reproduce import sosa_rows as published
from sim.reproduce import sosa_tables as tables
from sim.reproduce.row import Row
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.single import folded_cycles, steady_utilisation

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


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("numba"), reason="takes minutes without numba")
def test_quick_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "SHARED", SHARED)
    monkeypatch.setattr(published, "ROUTED", {})  # of the array's own tests
    shares: list[float] = []
    rows = SYSTEMS["sosa"](quick=True, progress=shares.append)
    check(rows)
    assert {row.id for row in rows} == {"S1", "S2", "S3", "S4", "S5", "S6", "S8", "S9", "law"}
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len({(row.id, row.what) for row in rows}) == len(rows)


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
    assert "an addition is made once" in one.note
    assert one.simulated > one.published == 183.0
    assert rank.ok


def test_single_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(laws, "SHARED", tmp_path)
    *steady, lacking = laws.single_arrays()
    check(steady)
    assert all(row.ok for row in steady)
    assert (lacking.ok, lacking.simulated) == (None, "not run")
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
