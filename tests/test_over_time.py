"""Time series and latency curves of the report: laws of what is summed, and pages that stay small
and quick."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sim.facts.outcome import Outcome
from sim.facts.requests import RequestRecord, Requests
from sim.facts.serving import Serving
from sim.facts.totals import Totals
from sim.kinds import KINDS
from sim.results import Result, build, charts
from sim.results.metrics import metrics
from sim.results.over_time import MOST_BINS, over_time, waiting_s
from sim.serving.fleet import SERIES
from tests.synthetic import served

GAP_ENDS_S = 1e-6 * 1.005 ** np.arange(4608)


def serving(bins: int = 500, bin_s: float = 0.01, replicas: int = 2, **more) -> Serving:
    dice = np.random.default_rng(bins)
    series = {name: dice.random(bins) * bin_s * replicas for name in SERIES}
    gaps = np.zeros(len(GAP_ENDS_S), np.int64)
    gaps[1700:2600] = dice.integers(0, 9000, 900)
    fields = {
        "replicas": replicas,
        "kv_share_s": 1.0,
        "kv_peak": 0.5,
        "preemptions": 3,
        "gaps": gaps,
        "gap_ends_s": GAP_ENDS_S,
        "bin_s": bin_s,
        "series": series,
        "most_on": replicas,
    }
    return served(**fields | more)


def requests(count: int, makespan_s: float, seed: int = 0) -> Requests:
    dice = np.random.default_rng(seed)
    arrival_s = np.sort(dice.random(count)) * makespan_s * 0.9
    spans_s = dice.exponential(makespan_s * 0.01, (3, count))
    scheduled_s, first_s, last_s = np.minimum(arrival_s + np.cumsum(spans_s, axis=0), makespan_s)
    tokens, none = dice.integers(2, 900, count), np.zeros(count, np.int64)
    return Requests(
        np.arange(count), arrival_s, tokens, tokens, scheduled_s, first_s, last_s, *[none] * 5
    )


def outcome(count: int, bins: int = 500, bin_s: float = 0.01, seed: int = 0) -> Outcome:
    makespan_s = (bins - 0.3) * bin_s
    return Outcome(
        Totals(seconds=2 * makespan_s, steps=9),
        kind="requests",
        tokens=9 * count,
        replicas=2,
        requests=requests(count, makespan_s, seed),
        part=serving(bins, bin_s),
    )


def result_of(outcomes: dict[str, Outcome]) -> Result:
    return build(
        scenario="s",
        question="Q?",
        version="0",
        seed=0,
        outcomes=outcomes,
        kinds=KINDS,
        expect=[],
        resolved="",
    )


@given(st.integers(1, 512), st.sampled_from([0.01, 0.64, 81.92]), st.floats(0.001, 1.0))
def test_bins_may_be_merged_but_nothing_is_lost(bins, bin_s, part):
    some = serving(bins, bin_s)
    makespan_s = (bins - 1 + part) * bin_s
    edges, means = over_time(some, Requests.of([]), makespan_s)
    assert edges[0] == 0 and edges[-1] == pytest.approx(makespan_s) and np.all(np.diff(edges) > 0)
    assert len(edges) - 1 <= MOST_BINS
    wide_s = np.diff(edges)
    assert (means["output"] * wide_s).sum() == pytest.approx(some.series["output_tokens"].sum())
    assert (means["running"] * wide_s).sum() == pytest.approx(some.series["sequences_s"].sum())
    assert 2 * (means["kv"] * wide_s).sum() == pytest.approx(some.series["kv_s"].sum())


TIMES = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 30)), max_size=30)


@given(TIMES, st.integers(0, 3))
def test_waiting_requests_meet_brute_force(rows, turned_away):
    records = [
        RequestRecord(i, a / 7, 1, 1, (a + w) / 7, 20.0, 20.0) for i, (a, w) in enumerate(rows)
    ]
    asked = Requests.of(records)
    asked.replica[:turned_away] = -1
    edges = np.array([0.0, 1.0, 2.0, 3.0, 7.5, 15.0])
    held = [(r.arrival_s, r.scheduled_s) for r in records[turned_away:]]
    want = [sum(max(min(z, to) - max(a, at), 0.0) for a, z in held) for at, to in pairwise(edges)]
    assert waiting_s(asked, edges) == pytest.approx(want, abs=1e-9)


@given(st.integers(1, 3000))
def test_quantiles_are_those_of_all_values(count):
    values, shares = charts.quantiles(np.random.default_rng(count).permutation(count) + 1.0)
    assert len(values) <= 400 and values[-1] == count and shares[-1] == 1
    assert np.all(values >= shares * count - 1e-6) and np.all(values < shares * count + 1)


def test_quantiles_of_a_histogram():
    ends, counts = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 3, 0])
    values, shares = charts.histogram_quantiles(ends, counts)
    assert values.tolist() == [2, 3] and shares.tolist() == [0.25, 1]
    assert len(charts.histogram_quantiles(GAP_ENDS_S, serving().gaps)[0]) <= 400


def test_a_line_for_each_variant_in_each_figure():
    evil = "<img src=x>"
    page = result_of({"calm": outcome(300), evil: outcome(200, bins=90, bin_s=0.02)}).report()
    for title in (
        "Running requests",
        "Waiting requests",
        "Output tokens",
        "KV-cache in use",
        "Inter-token latency",
        "Queueing",
        "Time per output token",
        "End-to-end latency",
    ):
        assert title in page
    assert (
        page.count("<title>calm</title></path>")
        == 11
        == page.count("<title>&lt;img src=x&gt;</title></path>")
    )
    assert "<script" not in page and "<img" not in page and not re.search(r"[^a-z]nan[^a-z]", page)
    assert all(float(x) <= 420 for x in re.findall(r"H([\d.]+)", page))


def test_turned_away_all_or_alone():
    away = Requests.of([RequestRecord(0, 0.0, 9, 9, np.nan, np.nan, np.nan)])
    away.replica[:] = -1
    idle = serving(0, gaps=np.zeros(4608, np.int64))
    nobody = Outcome(Totals(), kind="requests", requests=away, part=idle)
    page = result_of({"a": nobody, "b": outcome(5, bins=1)}).report()
    assert page.count("<title>b</title></path>") == 11 and "<title>a</title></path>" not in page


def test_a_million_requests_make_a_small_page_quickly():
    many = outcome(1_000_000, bins=512, bin_s=10.24)
    result = result_of({"a": many})
    started_s = time.perf_counter()
    page = result.report()
    assert (
        time.perf_counter() - started_s < 3.0
    )  # half a second, on a machine that does nothing else
    assert len(page) < 200_000
    few = {str(i): replace(many, requests=requests(500, 5000.0, i)) for i in range(8)}
    assert len(result_of(few).report()) < 1_000_000


def test_overload_rejections_and_preemptions_are_in_the_table_and_the_page():
    calm, busy = outcome(300), outcome(300)
    busy.requests.replica[:7] = -1
    busy.requests.scheduled_s[7:] += 50.0
    busy.requests.last_token_s[7:] += 50.0
    busy.warnings.append("overload: 12 waited")
    result = result_of({"busy": busy, "calm": calm})
    found = result.variants["busy"]["metrics"]
    assert found["rejected"] == 7 and found["requests"] == 293 and found["preemptions"] == 3
    assert found["requests_per_s_per_replica"] == found["requests_per_s"] / 2
    assert found["output_tokens_per_s_per_replica"] == found["output_tokens_per_s"] / 2
    assert (
        result.warnings == ["busy: overload: 12 waited"]
        and "busy: overload: 12 waited" in result.report()
    )
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    console.print(result.table())
    for text in (console.file.getvalue(), result.report()):
        assert re.search(r"rejected\D*7\D", text) and re.search(r"preemptions\D*3\D", text)
        assert "requests per replica" in text and "KV-cache in use, peak" in text
    assert result.verdict.startswith("busy has no answer for 7 of 300 requests (2.3%)")
    assert "queueing -50 s" in result.verdict
    assert "requests_per_s_per_replica" not in metrics(replace(calm, replicas=1), KINDS["requests"])
