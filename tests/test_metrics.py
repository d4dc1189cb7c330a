"""Metrics: closed answers on outcomes made by hand, and laws that hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.facts.outcome import Outcome
from sim.facts.requests import RequestRecord, Requests
from sim.facts.span import Use
from sim.facts.totals import Totals
from sim.results.metrics import DEFINITIONS, OF_KIND, better, metrics, pretty
from sim.results.utilisation import binned, utilisation
from tests.synthetic import outcome


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
            phases={"prefill": 2.0, "decode": 8.0},
            tokens=80,
            decode_steps=4,
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
    found = metrics(Outcome(Totals(seconds=4.0), tokens=4, requests=Requests.of(records)))
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
            tokens=1,
            requests=Requests.of([RequestRecord(0, 0.0, 1, 1, 0.0, 1.0, 1.0)]),
        )
    )
    assert not any(name.startswith("tpot") for name in found)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("requests", [0, 9])
def test_every_metric_is_defined_finite_and_a_share_is_a_share(prefetch, requests):
    found = metrics(outcome(prefetch=prefetch, requests=requests))
    assert set(found) <= set(DEFINITIONS)
    assert all(math.isfinite(value) for value in found.values())
    shares = [
        n
        for n in found
        if n.endswith(("_busy", "_utilisation")) or n in ("mfu", "exposed_communication", "idle")
    ]
    assert len(shares) == 9 and all(0 <= found[name] <= 1 for name in shares)


def test_every_kind_of_workload_has_definitions():
    assert set().union(*OF_KIND.values()) == set(DEFINITIONS)
    assert (
        set(metrics(outcome())) <= set(OF_KIND["decode"])
        and "goodput_per_s" not in OF_KIND["decode"]
    )
    assert (
        set(metrics(outcome(requests=9))) <= set(OF_KIND["requests"])
        and "decode_s" not in OF_KIND["requests"]
    )


def test_an_empty_outcome_gives_no_nan():
    assert all(math.isfinite(value) for value in metrics(Outcome(Totals())).values())


def test_a_share_above_one_is_not_hidden():
    totals = Totals(seconds=1.0, span_s={"compute": {"matmul": 2.0}})
    assert metrics(Outcome(totals))["compute_busy"] == 2.0


def test_better_and_pretty():
    assert (
        better("ttft_p99_s") == "lower"
        and better("output_tokens_per_s") == "higher"
        and better("ops") == ""
    )
    assert pretty("makespan_s", 3.05e-5) == "30.5 µs" and pretty("compute_busy", 0.125) == "12.5 %"


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
