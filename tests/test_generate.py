"""Generated traces: the same seed gives the same bytes, and a large sample has the statistics it
was made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traces.lengths import Lognormal
from tests.recordings import read_trace
from traces.azure_conv_like import AZURE_CONVERSATION, TraceStatistics, generate

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "traces" / "azure_conv_like.csv"
AZURE = ROOT.parent / "shared" / "data" / "requests" / "AzureLLMInferenceTrace_conv.csv.gz"

# Mean, p50, p90 and p99 as published (p90: of the recorded file).
PUBLISHED = {"prompt_tokens": (1155, 1020, 2734, 4142), "output_tokens": (211, 129, 424, 601)}


def described(requests, column):
    """Mean, p50, p90, p99 of a length."""
    tokens = np.array([getattr(request, column) for request in requests])
    return (tokens.mean(), *np.quantile(tokens, [0.5, 0.9, 0.99]))


def rate_and_cv(requests):
    gaps_s = np.diff([request.arrival_s for request in requests])
    return 1 / gaps_s.mean(), gaps_s.std() / gaps_s.mean()


@pytest.fixture(scope="module")
def large():
    return generate(AZURE_CONVERSATION, 200_000, seed=1)


def statistics(**changed):
    parts = {
        "prompt": ((0, 1), (1, 100)),
        "output": Lognormal(100, 0.5),
        "rate_per_s": 2.0,
        "interarrival_cv": 1.0,
    }
    return TraceStatistics(name="made up", source="made up", **(parts | changed))


def test_shipped_trace_is_what_its_command_writes(tmp_path):
    command = [sys.executable, "traces/azure_conv_like.py", str(tmp_path / "again.csv")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "again.csv").read_bytes() == SHIPPED.read_bytes()


def test_shipped_trace_reads_back_as_generated():
    trace = read_trace(SHIPPED)
    assert (trace.format, trace.warnings) == ("plain", [])
    assert trace.requests == generate(AZURE_CONVERSATION, 2000, seed=0)


@pytest.mark.parametrize("name", ["shared_prompt.jsonl", "long_prompts.jsonl"])
def test_shipped_conversations_are_what_their_command_writes(name, tmp_path):
    text = (SHIPPED.parent / "README.md").read_text()
    line = next(
        line.strip()
        for line in text.splitlines()
        if line.strip().startswith(f"podscope trace generate traces/{name}")
    )
    words = line.replace(f"traces/{name}", str(tmp_path / "again.jsonl")).split()
    subprocess.run(
        [sys.executable, "-m", "sim.cli", *words[1:]],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert (tmp_path / "again.jsonl").read_bytes() == (SHIPPED.parent / name).read_bytes()


def test_origin_is_written_down():
    text = (SHIPPED.parent / "README.md").read_text()
    assert "python traces/azure_conv_like.py traces/azure_conv_like.csv" in text
    shipped = {file.name for file in SHIPPED.parent.iterdir()} - {"README.md", "__pycache__"}
    assert [name for name in sorted(shipped) if name not in text] == []


def test_large_sample_meets_the_published_statistics(large):
    rate, cv = rate_and_cv(large)
    assert rate == pytest.approx(5.53, rel=0.05)
    assert cv == pytest.approx(1.09, rel=0.05)
    for column, published in PUBLISHED.items():
        assert described(large, column) == pytest.approx(published, rel=0.05)


@pytest.mark.skipif(
    not AZURE.exists(), reason="the recorded trace is not beside the checkout (../shared)"
)
def test_large_sample_meets_the_recording(large):
    recorded = read_trace(AZURE).requests
    assert rate_and_cv(large) == pytest.approx(rate_and_cv(recorded), rel=0.05)
    for column in PUBLISHED:
        assert described(large, column) == pytest.approx(described(recorded, column), rel=0.05)
        law = getattr(AZURE_CONVERSATION, column.removesuffix("_tokens"))
        lengths = [getattr(request, column) for request in recorded]
        for (
            probability,
            tokens,
        ) in law:  # every point of the quantile function is one of the recording
            assert tokens == pytest.approx(np.quantile(lengths, probability), abs=0.6)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_arrivals_have_the_rate_and_variation_asked_for(cv):
    rate, measured_cv = rate_and_cv(generate(statistics(interarrival_cv=cv), 200_000, seed=3))
    assert rate == pytest.approx(2.0, rel=0.03)
    assert measured_cv == pytest.approx(cv, rel=0.03, abs=1e-5)


def test_a_vanishing_cv_is_a_metronome():
    for cv in (1e-300, 1e-161, 1e-9):
        requests = generate(statistics(interarrival_cv=cv), 50, seed=0)
        assert requests == generate(statistics(interarrival_cv=0.0), 50, seed=0)


def test_lognormal_lengths():
    lengths = np.log([request.output_tokens for request in generate(statistics(), 100_000, seed=4)])
    assert np.exp(np.median(lengths)) == pytest.approx(100, rel=0.02)
    assert lengths.std() == pytest.approx(0.5, rel=0.02)


def test_quantile_lengths_are_log_linear_between_points():
    prompts = [
        request.prompt_tokens
        for request in generate(statistics(prompt=((0, 10), (1, 1000))), 100_000, seed=5)
    ]
    assert np.quantile(prompts, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx(
        [10, 10**1.5, 100, 10**2.5, 1000], rel=0.03
    )


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 200),
    seed=st.integers(0, 2**64),
    cv=st.floats(0, 5),
    rate=st.floats(1e-3, 1e4),
    sigma=st.floats(0, 3),
)
def test_any_statistics_give_a_valid_trace(count, seed, cv, rate, sigma):
    law = statistics(interarrival_cv=cv, rate_per_s=rate, output=Lognormal(20, sigma))
    requests = generate(law, count, seed)
    assert requests == generate(law, count, seed)
    assert [request.id for request in requests] == list(range(count))
    times = [request.arrival_s for request in requests]
    assert times[0] == 0
    assert times == sorted(times)
    assert all(type(time) is float for time in times)
    assert all(
        1 <= request.prompt_tokens <= 100 and request.output_tokens >= 1 for request in requests
    )


def test_seeds_differ():
    assert generate(AZURE_CONVERSATION, 10, seed=0) != generate(AZURE_CONVERSATION, 10, seed=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_per_s": 0},
        {"rate_per_s": float("nan")},
        {"interarrival_cv": -1},
        {"prompt": ((0, 1),)},
        {"prompt": ((0.1, 1), (1, 2))},
        {"prompt": ((0, 0), (1, 2))},
        {"prompt": ((0, 5), (1, 2))},
        {"prompt": ((0, 1), (0, 2), (1, 3))},
        {"output": Lognormal(0, 1)},
        {"output": Lognormal(10, -1)},
    ],
)
def test_wrong_statistics(wrong):
    with pytest.raises(ValueError, match="made up"):
        statistics(**wrong)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="count"):
        generate(AZURE_CONVERSATION, 0, seed=0)
    with pytest.raises(ValueError, match="seed"):
        generate(AZURE_CONVERSATION, 1, seed=-1)
    command = [sys.executable, "traces/azure_conv_like.py", str(tmp_path / "no" / "folder.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
