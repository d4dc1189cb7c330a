"""Expectations: the grammar, what is refused, and the check."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.expect import Expect, check, parse
from sim.run import load
from sim.scenario import ScenarioError

METRICS = {
    "vanilla": {"makespan_s": 2.0, "mfu": 0.3},
    "v1.5-kv": {"makespan_s": 1.0, "mfu": 0.3, "ttft_p99_s": 0.1},
}
COMPARISON = {"vanilla": {"speedup": 1.0}, "v1.5-kv": {"speedup": 2.0, "makespan_s": 0.5}}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("preserve.speedup >= 1.2", ("preserve", "speedup", ">=", 1.2, None)),
        ("a.b-c.mfu<0.5", ("a.b-c", "mfu", "<", 0.5, None)),
        ("two words.mfu == 1e-3", ("two words", "mfu", "==", 0.001, None)),
        ("p.ttft_p99_s == 0.35 ± 0.02", ("p", "ttft_p99_s", "==", 0.35, 0.02)),
        ("p.speedup == 1.61 +- .1", ("p", "speedup", "==", 1.61, 0.1)),
        ("p.speedup == -1 +/- 2", ("p", "speedup", "==", -1.0, 2.0)),
    ],
)
def test_grammar(text, want):
    assert parse(text)[:5] == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speedup >= 1",
        "p.speedup",
        "p.speedup => 1",
        "p.speedup >= 10 us",
        "p.speedup >= nan",
        "p.speedup = 1",
        "p.speedup >= 1 ± 0.1",
        "p.speedup == 1 ± -1",
        "p.speedup == 1e999",
        "p.speedup != 2",
        None,
        3,
    ],
)
def test_bad_syntax_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"preserve\.speedup >= 1\.2"):
        parse(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse(text), Expect)


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("v1.5-kv.speedup >= 2", True),
        ("v1.5-kv.speedup > 2", False),
        ("v1.5-kv.makespan_s == 1", True),
        ("v1.5-kv.makespan_s == 1.05 ± 0.05", True),
        ("v1.5-kv.makespan_s == 1.06 ± 0.05", False),
        ("v1.5-kv.makespan_s_ratio < 0.6", True),
        ("vanilla.speedup == 1", True),
        ("vanilla.makespan_s <= 1.9", False),
    ],
)
def test_check(text, ok):
    [row] = check([parse(text)], METRICS, COMPARISON)
    assert row["text"] == text and row["ok"] is ok and set(row) == {"text", "value", "ok"}


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="nearest is 'makespan_s'"):
        check([parse("vanilla.makespan >= 1")], METRICS, COMPARISON)
    with pytest.raises(ValueError, match="nearest is 'vanilla'"):
        check([parse("vanila.mfu >= 1")], METRICS, COMPARISON)
    with pytest.raises(ValueError, match="has no value in this run"):
        check([parse("vanilla.ttft_p99_s >= 1")], METRICS, COMPARISON)


@pytest.mark.parametrize(
    ("claim", "what"),
    [
        (
            "vanilla.tpot_p99_sec < 1",
            "'tpot_p99_sec' is not a metric of a workload of requests; nearest is 'tpot_p99_s'",
        ),
        ("preserve.spedup > 1", "nearest is 'speedup'"),
        (
            "preserve.e2e_mean_s < 2 * vanilla.e2e_means",
            "'e2e_means' is not a metric of a workload of requests; nearest is 'e2e_mean_s'",
        ),
        ("vanilla.decode_s > 1", "'decode_s' is not a metric of a workload of requests"),
    ],
)
def test_a_misspelt_metric_is_found_before_the_run(claim, what):
    with pytest.raises(ScenarioError) as error:
        load("azure_llama3-8b", [f"expect=[{claim}]"])
    assert what in str(error.value)


def test_every_metric_of_the_kind_may_be_claimed():
    claims = ["preserve.speedup > 1", "preserve.goodput_per_s > 0", "preserve.ttft_p99_s_ratio < 1"]
    assert load("azure_llama3-8b", {"expect": claims}).expect == claims
