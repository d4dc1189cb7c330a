"""`podscope capacity`: the highest rate that meets a limit, where queueing theory knows it and
where a fine grid does; how sure it says that it is; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from sim.cli.app import app
from sim.explore.capacity import STRETCHES, Limit, find, means
from sim.explore.rates import _tried, capacities
from sim.explore.rule import rule_of
from sim.explore.vllm import flags
from sim.reproduce.explore import queue
from sim.reproduce.serving import md_c_waiting
from sim.run import load

SCENARIO = """
question: "how much load?"
pod: {topology: atlas_800t_a2}
model: llama3-8b
parallel: {tensor: 2}
workload:
  kind: requests
  trace: {file: azure_conv_like, limit: 1500, rate: 5.0}
  max_batch: 64
  slo: {ttft: 1 s, tpot: 50 ms}
variants: {two: {}, four: {parallel: {tensor: 4}}}
"""


@pytest.mark.parametrize(("servers", "load_"), [(1, 0.5), (1, 0.9), (1, 0.95), (3, 0.8), (3, 0.95)])
def test_the_interval_covers_what_theory_says(servers, load_) -> None:
    """M/D/1 and M/D/3 (Crommelin 1932) of 200,000 customers, 20 seeds: 95 % of intervals cover the
    load at which the mean wait is the limit; so at least 17 of 20 do, but once in 400 times."""
    limit = Limit("wait", md_c_waiting(load_, servers, 1.0))
    found = [find(queue(200_000, seed, servers), 0.3 * servers, limit) for seed in range(20)]
    close = 0.005  # as near as bisection goes
    covered = [one.low * (1 - close) <= load_ * servers <= one.high * (1 + close) for one in found]
    assert sum(covered) >= 17
    assert np.mean([one.width for one in found]) < 0.06
    assert abs(np.mean([one.rate for one in found]) / (load_ * servers) - 1) < 0.01


def test_a_long_run_is_near_theory() -> None:
    limit = Limit("wait", md_c_waiting(0.95, 1, 1.0))
    found = find(queue(2_000_000, 5), 0.3, limit)
    assert found.rate == pytest.approx(0.95, rel=0.02)
    assert found.width < 0.02 and not found.warnings


def test_means_of_independent_values_are_as_sure_as_they_are() -> None:
    """Batch means of independent values: the interval has the half-width of theory, and nothing
    follows anything."""
    draws = np.random.default_rng(1).normal(5.0, 2.0, (200, 4000))
    found = [means(row) for row in draws]
    half = np.mean([one[1] for one in found])
    assert half == pytest.approx(2.093 * 2.0 / 4000**0.5, rel=0.05)
    covered = np.mean([abs(mean - 5.0) <= half for mean, half, _ in found])
    assert 0.90 <= covered <= 0.99
    assert abs(np.mean([one[2] for one in found])) < 0.1


def test_none_of_many_is_no_proof_of_none() -> None:
    mean, half, _ = means(np.zeros(1000))
    assert mean == 0 and half == pytest.approx(0.003)
    with pytest.raises(ValueError, match="too few"):
        means(np.zeros(STRETCHES))


def test_a_limit_that_nothing_meets_and_one_that_all_do() -> None:
    none = find(lambda rate: (np.full(400, 2.0), ""), 1.0, Limit("x", 1.0))
    assert none.rate is None and none.why.startswith("even at")
    every = find(lambda rate: (np.full(400, 0.5), ""), 1.0, Limit("x", 1.0))
    assert every.rate is None and every.why.startswith("still at")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    return str(path)


def test_a_capacity_is_that_of_a_fine_grid(file) -> None:
    """The first of many close rates that fails is within 2 % of what bisection says."""
    found = capacities(file)
    assert found["four"].rate > 1.5 * found["two"].rate
    for name, one in found.items():
        variant = load(file).variants[name]
        rule = rule_of(variant, name, "", 0.99)
        near = one.rate * np.arange(0.9, 1.1, 0.01)
        held = [
            rule.values(_tried(file, {"record.enabled": False}, name, "workload.trace.rate", r))[0]
            for r in near
        ]
        first = next(r for r, values in zip(near, held) if values.mean() > 0.01 + 1e-12)
        assert first == pytest.approx(one.rate, rel=0.02)
        assert one.low <= one.rate <= one.high


def test_a_recording_is_played_faster(tmp_path) -> None:
    """Without a rate of its own the trace is sped up; the capacity is in requests/s."""
    path = tmp_path / "s.yaml"
    path.write_text(
        SCENARIO.replace(", rate: 5.0", "").replace(
            "variants: {two: {}, four: {parallel: {tensor: 4}}}", ""
        )
    )
    found = capacities(str(path))["run"]
    assert 3 < found.rate < 15


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--slo", "queue_men_s <= 50 ms"], "no limit of a latency"),
        (["--slo", "wait_mean_s <= 50 ms"], "no latency 'wait'"),
        (["--slo", "ttft_p99_s <= 50"], "is not a quantity"),
        (["--set", "workload.trace.limit=50"], "50 requests are too few"),
        (["--set", "workload.slo.ttft=null", "--set", "workload.slo.tpot=null"], "has no limit"),
        (["--set", "workload.trace.rat=3"], "unknown key"),
    ],
)
def test_what_is_refused(file, args, said) -> None:
    result = CliRunner().invoke(app, ["capacity", file, *args])
    text = result.output + str(result.exception or "")
    assert result.exit_code and said in text


def test_not_of_other_kinds(tmp_path) -> None:
    with pytest.raises(ValueError, match="has no trace of requests"):
        capacities("preserve")


def test_the_command_prints_a_table_flags_and_writes_the_scenario(file, tmp_path) -> None:
    out = tmp_path / "at.yaml"
    result = CliRunner().invoke(app, ["capacity", file, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "95 % interval" in result.output and "limit 0.01" in result.output
    assert "two: vllm serve MODEL --tensor-parallel-size 2 --max-num-seqs 64" in result.output
    again = load(str(out))
    assert again.variants["four"].workload.trace.rate > 10


def test_flags_are_of_the_settings(file) -> None:
    variant = load(file, ["precision.kv=fp8", "workload.prefix_caching=true"]).variants["four"]
    said = flags(variant)
    assert said[:2] == ["--tensor-parallel-size", "4"]
    assert "--kv-cache-dtype" in said and "--enable-prefix-caching" in said
