"""PRESERVE's published range at its two ends, and the claims on latency and fusion; all of it:
`podscope reproduce`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sim.graph.transformer import transformer
from sim.reproduce import network, preserve, typhoon
from sim.reproduce.cost import engine_cost
from sim.reproduce.preserve import Point

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
    assert {row.simulated for row in rows} == {"not run"}
    assert all(row.ok is None and "is not there" in row.note for row in rows)
