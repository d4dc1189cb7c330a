"""PRESERVE's published range at its two ends, and the claims on latency and fusion; all of it:
`podscope reproduce`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sim.cli.experiments import record, tally
from sim.graph.transformer import transformer
from sim.hardware.chip_cost import estimate
from sim.reproduce import (
    SYSTEMS,
    explore,
    hierarchical,
    measured,
    nas,
    network,
    preserve,
    preserve_dse,
    ranges,
    serving,
    silicon,
    sosa_rows,
    stief,
    switching,
    typhoon,
)
from sim.reproduce import sosa_laws as laws
from sim.reproduce import sosa_tables as tables
from sim.reproduce.cost import engine_cost
from sim.reproduce.origins import ORIGINS
from sim.reproduce.preserve import Measured, Point
from sim.reproduce.row import Row, absent, sign

SHARED = Path(__file__).resolve().parents[2] / "shared"
measure = cache(preserve.measure)


@pytest.fixture(scope="module", autouse=True)
def graphs() -> Iterator[None]:
    """Runs that differ in a machine or a technique start from the same graphs."""
    built = cache(transformer)
    with pytest.MonkeyPatch.context() as patch:
        for module in (preserve, typhoon):
            patch.setattr(module, "transformer", built)
        yield


def gain(point: Point) -> float:
    return measure(point).seconds / measure(point._replace(technique="preserve")).seconds


def test_p1_the_largest_speed_up():
    assert gain(Point("llama3-8b", 4)) == pytest.approx(1.61, abs=0.10)


def test_p2_the_smallest_speed_up():
    assert gain(Point("qwen2-72b", 2)) == pytest.approx(1.09, abs=0.05)


def test_p5_the_gain_peaks_where_latencies_match():
    def at(factor):
        return Point("llama3-70b", 8, changes=(("library.launch_s", factor),))

    low, peak, high = (gain(at(factor)) for factor in (0.6, 2.3, 7.0))
    assert peak > max(low, high) + 0.1
    both = measure(at(2.3)._replace(technique="preserve"))
    assert both.all_reduce_s / both.prefetch_s == pytest.approx(1, abs=0.25)


def test_p6_preserve_beats_fusion_at_batch_1():
    plain = Point("llama3-8b", 8, batch=1)
    fused, fetched = (
        measure(plain._replace(technique=name)).seconds for name in ("fused_collective", "preserve")
    )
    assert fetched <= fused


class AnyRun(dict[Point, Measured]):
    """Times for whatever is asked, so that rows can be made without playing."""

    def __missing__(self, point: Point) -> Measured:
        share = zlib.crc32(repr(point).encode()) / 2**32
        return Measured(1 + share, 1.0, 1.0)


def preserve_rows() -> list[Row]:
    return list(preserve._rows(AnyRun(), preserve._sweep(), preserve._curve()))


def test_preserve_judges_each_claim_at_the_launch_that_ships_and_the_corner_beside():
    """P7 and P8: as many rows in the corner as without it that have one, all with its reason."""
    judged = [row for row in preserve_rows() if row.id in ("P7", "P8") and row.ok is not None]
    corner = [row for row in judged if "launch x 6" in row.what]
    shipped = {row.what for row in judged if row not in corner}
    assert {row.id for row in corner} == {"P7", "P8"}
    for row in corner:
        assert row.what.replace(", launch x 6", "") in shipped
        assert "a corner: " in row.note
    for points in (preserve._GRID, preserve._BATCHES, preserve._SHRINKING):
        assert not [at for at in points if "library.launch_s" in dict(at.changes)]


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_preserve_p8_fails_where_a_larger_cap_gains(ratio):
    took = AnyRun({preserve._SHRINKING[2]: Measured(10.0, 1.0, 1.0)})
    for factor in preserve._CAPS:
        gain = 2.0 * (ratio if factor == 2.0 else 1 if factor == 1.0 else 0.5)
        took[preserve._capped(preserve._SHRINKING, factor)] = Measured(10 / gain, 1.0, 1.0)
    row = next(row for row in preserve._cap_rows(took) if row.id == "P8")
    assert row.simulated == pytest.approx(ratio)
    assert row.ok is (ratio < 1)


def test_preserve_shows_the_whole_curve_of_the_copy_engine_and_judges_none_of_it():
    rows = [row for row in preserve_rows() if "copy engine" in row.what]
    values = sum(map(len, preserve._CURVE.values()))
    assert [row.id for row in rows] == ["P1", "P2", "P8"] * values
    assert not [row for row in rows if row.ok is not None]
    for factors in preserve._CURVE.values():
        assert min(factors) < 0.5 and max(factors) >= 2 and 1.0 in factors
    asked = {*preserve._points(preserve._sweep(), preserve._curve())}
    assert {at for points in preserve._curve().values() for at in points} <= asked


def dse_took(knee_without: float, knee_with: float) -> dict[Point, Measured]:
    """Times that fall up to a size of L2, by a fifth and by a half, and not beyond."""
    took = {}
    for fetches, knee, least in ((False, knee_without, 8.0), (True, knee_with, 5.0)):
        for size in preserve_dse.SIZES:
            seconds = 10.0 - (10.0 - least) * min(size / knee, 1.0)
            for model in preserve.MODELS:
                at = preserve_dse.point(model, size, preserve_dse.Corner(), fetches)
                took[at] = Measured(seconds, 1.0, 1.0)
    return took


@pytest.mark.parametrize(("without", "fetching"), [(8, 104), (4, 104), (8, 40)])
def test_preserve_dse_finds_the_size_beyond_which_l2_only_takes_area(without, fetching):
    rows = preserve_dse.rows(dse_took(without, fetching), preserve_dse.SIZES, box=False)
    small, large, gain, *others = rows
    assert (small.simulated, large.simulated) == (without, fetching)
    assert (small.ok, large.ok) == (without == 8, fetching == 104)
    areas = [preserve_dse.die_mm2(size, 1.0, estimate()) for size in (without, fetching)]
    assert gain.simulated == pytest.approx(8 / 5 * areas[0] / areas[1])
    assert not [row for row in others if row.ok is not None]
    for row in (small, large):
        assert row.ok or row.note.startswith(("only a prefill", "an all-reduce"))


def test_preserve_dse_judges_no_fitted_row_and_says_what_was_fitted():
    rows = [*preserve_dse.rows(AnyRun(), preserve_dse.COARSE, box=True)]
    assert [row.id for row in rows if row.fitted] == ["P3", "P3", "P4"]
    assert not [row for row in rows if row.fitted and row.ok is not None]
    assert len(preserve_dse.corners_of_area()) == 3 * 2**4
    spread = [row for row in rows if "over the whole box" in row.what]
    assert len(spread) == 2 * 2 * 3


def test_p9_judges_gains_only_and_leaves_the_free_sizes_to_be_read(monkeypatch):
    for case_free in (True, False):
        monkeypatch.setattr(silicon, "_two_nodes", lambda case: 100.0 + case.cap_mb / 50)
        monkeypatch.setattr(silicon, "two_nodes", lambda case: 100.0 / case.slower)
        monkeypatch.setattr(silicon, "one_gpu", lambda hint: 100.0 + 2 * len(hint.ops))
        rows = [*silicon.rows(quick=not case_free)]
        judged = [row for row in rows if row.ok is not None]
        assert [row.ok for row in judged] == [True, False, False, True]
        assert not [row for row in judged if row.fitted]
        assert any("fixed times" in row.fitted for row in rows) is case_free


def test_a_sign_holds_only_if_every_step_has_it():
    assert sign("s", "P", "x", [3, 2, 1]).ok and sign("s", "P", "x", [1, 2, 3], rises=True).ok
    for values in ([3, 2, 2.5], [3, 3, 1]):
        assert sign("s", "P", "x", values).ok is False
    assert sign("s", "P", "x", [3, 2, 2.5]).simulated == 1.25


def cheap_rows(system: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Row]:
    """Rows of all ids of a system but those whose values are made by the same function."""
    if system == "preserve":
        monkeypatch.setattr(silicon, "_two_nodes", lambda case: 100.0 + case.cap_mb % 7)
        monkeypatch.setattr(silicon, "two_nodes", lambda case: 100.0 / case.slower)
        monkeypatch.setattr(silicon, "one_gpu", lambda hint: 100.0 + len(hint.ops))
        engine = preserve._engine_row(engine_cost(rounds=1, steps=1))
        return [*preserve_rows(), *silicon.rows(), engine]
    if system == "preserve-dse":
        return [*preserve_dse.rows(AnyRun(), preserve_dse.COARSE, box=True)]
    if system == "network":
        monkeypatch.setattr(network, "SHARED", folder)
        switches = switching.rows(folder, quick=True)
        parts = network.flows, network.closed_forms, network.peers, network.measured
        return [*switches, *(row for part in parts for row in part(quick=True))]
    if system == "serving":
        for name in ("AZURE", "MOONCAKE", "RUNS"):
            monkeypatch.setattr(serving, name, folder / name)
        monkeypatch.setattr(serving, "md_c_waiting", lambda *_: 1.0)
        return serving.reproduce(quick=True)
    if system == "explore":
        return [*explore.by_theory(quick=True)]
    if system == "typhoon":
        monkeypatch.setattr("sim.reproduce.measured.MEASURED", folder / "measured.csv.gz")
        return typhoon.reproduce(quick=True)
    if system == "stief":
        monkeypatch.setattr("sim.reproduce.stief_machine.rows", lambda *_: [])
        return stief.reproduce(quick=True)
    if system == "ranges":
        return ranges.reproduce()
    if system == "nas":
        return nas.reproduce(quick=True)
    if system == "hierarchical":
        return [*hierarchical.ratios(), *hierarchical.flop(), *hierarchical.once(quick=True)]
    monkeypatch.setattr(laws, "SHARED", folder)
    monkeypatch.setattr(sosa_rows, "RUNS", {"bert_medium": sosa_rows.RUNS["bert_medium"]})
    for name in ("ROUTED", "SQUARES", "TENANTS"):
        monkeypatch.setattr(sosa_rows, name, {})
    one = 512, 512, 1
    return [
        *tables.integers(),
        *tables.main_table(one),
        *tables.design_space(),
        *tables.cleaned_up([one]),
        *laws.single_arrays(),
    ]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_row_has_one_number_or_none_and_its_text_in_the_note(system, monkeypatch, tmp_path):
    rows = [record(row._asdict()) for row in cheap_rows(system, monkeypatch, tmp_path)]
    assert rows and {row["system"] for row in rows} == {system}
    for row in rows:
        assert all(isinstance(row[key], str) for key in ("what", "tolerance", "fitted", "note"))
        assert row["simulated"] is not None or (row["ok"] is None and row["note"]), row
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_text_among_the_values_is_refused():
    for row in (
        Row("s", "P7", "gain", None, "1.3, 1.2", "", None),
        Row("s", "P7", "gain", "falls", 1.0, "", None),
        Row("s", "P7", "gain", None, True, "", None),
    ):
        with pytest.raises(AssertionError):
            record(row._asdict())


def test_the_last_line_counts_rows_and_those_before_say_where_data_is_from(tmp_path):
    file = tmp_path / "maxmin_flows.json"
    rows = [
        Row("s", "N1", "a", 1.0, 1.0, "1 %", True),
        Row("s", "N1", "a", 1.0, 2.0, "1 %", False),
        Row("s", "N1", "a", 1.0, 2.0, "", None),
        *absent("s", "N1", "flows", file),
    ]
    wants, last = tally([row._asdict() for row in rows])
    assert last == "4 rows: 1 met, 1 failed, 1 to be read beside, 1 not run"
    assert str(file) in wants and "SimGrid" in wants


def test_whatever_can_be_missing_is_said_with_where_it_is_from(monkeypatch, tmp_path):
    """Of every file that a row may need, ORIGINS has a line."""
    for module in (network, laws):
        monkeypatch.setattr(module, "SHARED", tmp_path)
    for name in ("AZURE", "MOONCAKE"):
        monkeypatch.setattr(serving, name, tmp_path / getattr(serving, name).name)
    monkeypatch.setattr(serving, "RUNS", tmp_path)
    monkeypatch.setattr(measured, "MEASURED", tmp_path / measured.MEASURED.name)
    rows = [
        *network.flows(),
        *network.peers(),
        *network.measured(),
        *switching.rows(tmp_path, quick=True),
        *serving.fidelities(),
        *serving.prefix_cache(),
        *serving.engine_runs(),
        *measured.measured(),
        *laws.single_arrays(),
    ]
    end = " is not there"
    needs = {row.note.removesuffix(end) for row in rows if row.note.endswith(end)}
    assert len(needs) >= 10
    assert {Path(need).name for need in needs} | {"the extra parquet"} == {*ORIGINS}


@pytest.mark.parametrize("part", [explore.by_grid, explore.by_theory])
def test_capacity_is_that_of_a_grid_and_of_theory(part):
    """`recommend` is held to running every candidate by its own tests."""
    assert [row.what for row in part(quick=True) if not row.ok] == []


@pytest.mark.parametrize(
    "part",
    [
        typhoon.thresholds,
        typhoon.benchmark,
        typhoon.breakdown,
        typhoon.end_to_end,
        typhoon.orders,
        typhoon.memory,
    ],
)
def test_typhoon(part):
    """No row falls short; that 64 heads on a 910B2 gain more than is published (T6) is left to the
    reproduction."""
    rows = list(part())
    assert rows and not [row for row in rows if row.ok is False]


def test_typhoon_judges_no_row_that_a_constant_is_fitted_to():
    """T2 and T3: every shape is either fitted to or judged."""
    assert not {*typhoon.FITTED} & {*typhoon.JUDGED}
    assert {*typhoon.FITTED} | {*typhoon.JUDGED} == {*typhoon.BENCH}
    judged = [row for row in typhoon.benchmark() if row.ok is not None]
    assert len(judged) == 2 * len(typhoon.JUDGED) + 1
    known = {(row.id, row.published) for row in judged[:-1]}
    for shape in typhoon.JUDGED:
        rates = typhoon.BENCH[shape]
        assert {("T3", rates.absorb), ("T2", rates.typhoon / rates.absorb)} <= known
    assert not any(row.fitted for row in judged)


def test_typhoon_has_one_baseline_on_both_machines_and_each_baseline_its_bound():
    """The same absorb is judged on both; no gain passes the bound of what it is measured by."""
    rows = list(typhoon.asymptotes())
    peaks = [row for row in rows if row.published in (3.0, 3.24)]
    judged = [row for row in peaks if row.ok is not None]
    assert len(judged) == 2 and all("for each request" in row.what for row in judged)
    assert len(peaks) == 4
    bounds = [row for row in rows if row.tolerance.startswith("<=")]
    assert len(bounds) == 4 and all(row.ok for row in bounds)
    assert max(row.simulated for row in judged) > typhoon.MACS, "so the bound had to be restated"


def test_engine_cost_counts_what_it_plays():
    """The ratio itself is for `benchmarks/`; here only that both sides do the same number of
    things."""
    cost = engine_cost(rounds=1, steps=1)
    assert cost.ops == 885
    assert cost.ratio == pytest.approx(cost.ops_per_s / cost.timeouts_per_s)


@pytest.mark.parametrize(
    "part", [network.flows, network.closed_forms, network.peers, network.measured, network.switches]
)
def test_network(part, monkeypatch):
    """No row falls short; rows whose data is absent are not judged, and at least one is."""
    monkeypatch.setattr(network, "SHARED", SHARED)
    if part is network.measured:
        pytest.importorskip("pyarrow", reason="measured tables are Parquet files")
    # Only a note tells of sizes that were not seen; those fits are tested where fits are.
    monkeypatch.setattr(network, "leave_one_size_out", lambda rows, *_: np.zeros(len(rows)))
    rows = list(part(quick=True))
    if all(row.ok is None for row in rows):
        pytest.skip(f"{SHARED} is not there")
    assert not [row for row in rows if row.ok is False]


def test_network_says_what_it_cannot_run(monkeypatch, tmp_path):
    monkeypatch.setattr(network, "SHARED", tmp_path)
    rows = network.flows() + network.peers() + network.measured(quick=True)
    assert {row.simulated for row in rows} == {None}
    assert all(row.ok is None and "is not there" in row.note for row in rows)
