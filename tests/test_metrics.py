"""Metrics: closed answers on outcomes made by hand, and laws that hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.facts.requests import RequestRecord, Requests
from sim.facts.span import Use
from sim.facts.totals import Totals
from sim.kinds import KINDS
from sim.results import metrics as of
from sim.results.metric import OTHER, UNITS, row_of
from sim.results.metrics import SPEEDUP, part_rows_of, rows_of
from sim.results.utilisation import binned, utilisation
from tests.synthetic import outcome, served

_NAMED_UNITS = {  # the unit that a name ends in, and what it may be
    "_per_s": {"/s", "B/s", "op/s"},
    "_s": {"s"},
    "_bytes": {"B"},
    "_w": {"W"},
    "_per_joule": {"op/J"},
    "_fairness": {"index"},
}


def metrics(some: Outcome) -> dict[str, float]:
    return of.metrics(some, KINDS[some.kind])


def test_static_run_by_hand():
    totals = Totals(
        seconds=10.0,
        idle_s=1.0,
        steps=5,
        ops=40,
        matrix_flop=6e12,
        span_s={"compute": {"matmul": 4.0, "norm": 2.0}, "communication": {"all_reduce": 3.5}},
        bytes={"HBM": 5e12, "link": 1e9},
    )
    rates = {"HBM": 1e12, "link": 1e9, "matrix": 2e12}
    found = metrics(
        Outcome(
            totals,
            kind="decode",
            part=Phases(prefill_s=2.0, decode_s=8.0, decode_steps=4),
            tokens=80,
            ranks=4,
            rates=rates,
        )
    )
    assert found["makespan_s"] == 10 and found["prefill_s"] == 2 and found["tpot_mean_s"] == 2
    assert found["output_tokens_per_s"] == 8 and found["output_tokens_per_s_per_chip"] == 2
    assert (
        found["compute_busy"] == 0.6
        and found["communication_busy"] == 0.35
        and found["prefetch_busy"] == 0
    )
    assert found["exposed_communication"] == pytest.approx(0.3)
    assert (
        found["hbm_utilisation"] == 0.5 and found["link_utilisation"] == 0.1 and found["mfu"] == 0.3
    )
    assert "l2_utilisation" not in found and "requests" not in found


def test_requests_by_hand():
    records = [
        RequestRecord(0, 0.0, 10, 3, 0.5, 1.0, 2.0),
        RequestRecord(1, 1.0, 10, 1, 1.0, 4.0, 4.0),
    ]
    found = metrics(
        Outcome(
            Totals(seconds=4.0),
            kind="requests",
            part=served(),
            tokens=4,
            requests=Requests.of(records),
        )
    )
    assert (
        found["ttft_mean_s"] == 2.0
        and found["ttft_p50_s"] == 2.0
        and found["ttft_p90_s"] == pytest.approx(2.8)
    )
    assert found["tpot_p99_s"] == 0.5, "the request of one token has no time per output token"
    assert found["e2e_mean_s"] == 2.5 and found["queue_mean_s"] == 0.25
    assert found["requests"] == 2 and found["requests_per_s"] == 0.5


def test_only_one_token_requests_leave_tpot_out():
    found = metrics(
        Outcome(
            Totals(seconds=1.0),
            kind="requests",
            part=served(),
            tokens=1,
            requests=Requests.of([RequestRecord(0, 0.0, 1, 1, 0.0, 1.0, 1.0)]),
        )
    )
    assert not any(name.startswith("tpot") for name in found)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("requests", [0, 9])
def test_every_metric_is_defined_finite_and_a_share_is_a_share(prefetch, requests):
    some = outcome(prefetch=prefetch, requests=requests)
    found = metrics(some)
    assert set(found) <= set(rows_of(KINDS[some.kind]))
    assert all(math.isfinite(value) for value in found.values())
    shares = [
        n
        for n in found
        if n.endswith(("_busy", "_utilisation")) or n in ("mfu", "exposed_communication", "idle")
    ]
    assert len(shares) == 9 and all(0 <= found[name] <= 1 for name in shares)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_row_of_every_kind_is_whole(kind):
    for rows, tables in (
        (rows_of(kind), kind.metrics),
        (part_rows_of(kind), kind.part_metrics),
    ):
        named = [name for table in tables for name in table.found]
        assert sorted(named) == sorted(rows), "no metric in two tables"
        for name, row in rows.items():
            assert name == row.name and row.label and row.of
            assert row.unit in UNITS and row.better in ("lower", "higher", "")
            assert row.text(0.5) and row_of(rows, name) is row
            ends = next((end for end in _NAMED_UNITS if name.endswith(end)), None)
            assert ends is None or row.unit in _NAMED_UNITS[ends], name
    assert set(kind.judged) <= set(rows_of(kind)) and not set(rows_of(kind)) & {SPEEDUP.name}


def test_a_name_has_one_unit_wherever_it_stands():
    units: dict[str, str] = {}
    for kind in KINDS.values():
        for row in [*rows_of(kind).values(), *part_rows_of(kind).values()]:
            assert units.setdefault(row.name, row.unit) == row.unit, row.name


def test_a_kind_has_the_metrics_that_mean_something_to_it():
    decode, requests = rows_of(KINDS["decode"]), rows_of(KINDS["requests"])
    assert "decode_s" in decode and "goodput_per_s" not in decode
    assert "goodput_per_s" in requests and "decode_s" not in requests


def test_a_row_stands_for_several_metrics():
    rows = part_rows_of(KINDS["tenants"])
    [name] = [name for name in rows if OTHER in name]
    assert row_of(rows, name.replace(OTHER, "batch")) is rows[name]
    assert row_of(rows, "slowdown_besides") is None


def test_an_empty_outcome_gives_no_nan():
    for kind, part in (("decode", Phases(0.0, 0.0, 0)), ("requests", served())):
        found = metrics(Outcome(Totals(), kind=kind, part=part))
        assert found and all(math.isfinite(value) for value in found.values())


def test_a_share_above_one_is_not_hidden():
    totals = Totals(seconds=1.0, span_s={"compute": {"matmul": 2.0}})
    part = Phases(0.0, 1.0, 0)
    assert metrics(Outcome(totals, kind="decode", part=part))["compute_busy"] == 2.0


def test_better_and_text():
    rows = rows_of(KINDS["requests"])
    assert (
        rows["ttft_p99_s"].better == "lower"
        and rows["output_tokens_per_s"].better == "higher"
        and rows["ops"].better == ""
    )
    assert rows["makespan_s"].text(3.05e-5) == "30.5 µs"
    assert rows["compute_busy"].text(0.125) == "12.5 %"
    assert rows["hbm_bytes"].text(3.2e9) == "3.2 GB" and SPEEDUP.text(1.27) == "1.27x"


_USES = st.lists(
    st.tuples(
        st.integers(0, 50), st.integers(0, 20), st.integers(1, 9), st.sampled_from(["a", "b"])
    ),
    max_size=30,
)


@given(_USES)
def test_utilisation_meets_brute_force(rows):
    uses = [
        Use(name, float(start), float(start + length), float(rate))
        for start, length, rate, name in rows
    ]
    times, share = utilisation(uses, "a", 10.0)
    assert np.all(np.diff(times) > 0)
    assert not len(share) or share[-1] == 0
    for tick in range(72):
        at = tick + 0.5
        want = (
            sum(u.bytes_per_s for u in uses if u.capacity == "a" and u.start_s <= at < u.end_s)
            / 10.0
        )
        index = int(np.searchsorted(times, at, side="right")) - 1
        assert (share[index] if index >= 0 else 0.0) == pytest.approx(want, abs=1e-12)


@given(_USES)
def test_bins_keep_the_area(rows):
    uses = [
        Use("a", float(start), float(start + length), float(rate))
        for start, length, rate, _ in rows
    ]
    times, share = utilisation(uses, "a", 10.0)
    edges = np.linspace(-3.0, 80.0, 18)
    area = float(np.sum(binned(times, share, edges) * np.diff(edges)))
    assert area == pytest.approx(
        sum(u.bytes_per_s * (u.end_s - u.start_s) for u in uses) / 10.0, abs=1e-9
    )
