"""SOSA's published tables: no row but those of the model without its simulator's habits falls
short."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.reproduce import SYSTEMS, sosa
from sim.systolic.single import (
    DATAFLOWS,
    input_stationary,
    output_stationary,
    steady_utilisation,
    weight_stationary,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def check(rows: list[sosa.Row]) -> None:
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
    monkeypatch.setattr(sosa, "SHARED", SHARED)
    monkeypatch.setattr(sosa.published, "ROUTED", {})  # of the machine's own tests
    shares: list[float] = []
    rows = SYSTEMS["sosa"](quick=True, progress=shares.append)
    check(rows)
    assert {row.id for row in rows} == {"S1", "S2", "S3", "S4", "S5", "S6", "S8", "S9", "law"}
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len({(row.id, row.what) for row in rows}) == len(rows)


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pods, and networks that are soon placed."""
    known = sosa.published
    monkeypatch.setattr(
        known, "RUNS", {name: known.RUNS[name] for name in ("bert_medium", "resnet50")}
    )
    monkeypatch.setattr(
        known, "ROUTED", {at: counts for at, counts in known.ROUTED.items() if at[0] == 256}
    )
    monkeypatch.setattr(known, "TENANTS", {("bert_medium",): known.TENANTS["bert_medium",]})
    check(
        [
            *sosa.integers(),
            *sosa.main_table((256, 256, 8)),
            *sosa.main_table((512, 512, 1)),
            *sosa.design_space(),
        ]
    )


def test_the_model_without_habits_is_faster_and_says_so() -> None:
    one, rank = sosa.cleaned_up([(256, 256, 8)])
    assert one.ok is False
    assert "an addition is made once" in one.note
    assert one.simulated > one.published == 183.0
    assert rank.ok


def test_single_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sosa, "SHARED", tmp_path)
    *steady, lacking = sosa.single_arrays()
    check(steady)
    assert all(row.ok for row in steady)
    assert (lacking.ok, lacking.simulated) == (None, "not run")
    assert "scalesim_compute.csv is not there" in lacking.note
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    monkeypatch.setattr(sosa, "SHARED", SHARED)
    *_, ws, os, is_ = sosa.single_arrays()
    assert [row.simulated for row in (ws, os, is_)] == [45.0] * 3
    assert ws.ok and os.ok and is_.ok


def test_single_arrays_by_hand() -> None:
    """One cell: a weight is loaded, and one multiplied; with sums in the cell nothing is loaded."""
    assert weight_stationary(1, 1, 1, 1, 1) == 2
    assert output_stationary(1, 1, 1, 1, 1) == 1
    assert weight_stationary(10, 8, 8, 4, 8) == 2 * (4 + 10 + 3 + 7)
    assert output_stationary(10, 8, 8, 4, 8) == 3 * (8 + 3 + 7)
    assert steady_utilisation(99, 8, 8, 4, 8) == pytest.approx(0.99)


sizes = st.integers(1, 200)


@given(m=sizes, n=sizes, k=sizes, rows=st.integers(1, 32), cols=st.integers(1, 32))
def test_laws_of_single_arrays(m: int, n: int, k: int, rows: int, cols: int) -> None:
    """No cell does more than a MAC a cycle; a product transposed swaps what stays."""
    for cycles in DATAFLOWS.values():
        assert m * n * k <= rows * cols * cycles(m, n, k, rows, cols)
    assert input_stationary(m, n, k, rows, cols) == weight_stationary(k, n, m, rows, cols)
    assert 0 < steady_utilisation(m, n, k, rows, cols) < 1
