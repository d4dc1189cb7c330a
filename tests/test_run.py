"""The whole path: every shipped scenario, what users get wrong, and the public call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sim
from sim.run import prepare
from sim.scenario import ScenarioError, load

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
FILES = sorted(SCENARIOS.glob("*.yaml"))
SHORT = {"workload.prompt_tokens": 600, "workload.output_tokens": 60}
DECODE = """\
question: How long does it take?
pod: {topology: atlas_800t_a2}
model: llama3-8b
parallel: {tensor: 4}
workload: {kind: decode, batch: 2, prompt_tokens: 300, output_tokens: 20}
"""


def overrides_of(file: Path) -> dict[str, object]:
    """What cuts a scenario down to a test."""
    return {"workload.trace.limit": 5} if "kind: requests" in file.read_text(encoding="utf-8") else {}


def decode(tmp_path: Path, **overrides: object) -> sim.Result:
    file = tmp_path / "decode.yaml"
    file.write_text(DECODE)
    return sim.run(file, {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_is_ready_to_run(file):
    plans = prepare(load(file))
    assert plans
    assert all(plan.assumptions for plan in plans.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_runs_and_its_claims_hold(file, tmp_path):
    first, second = (sim.run(file, overrides_of(file)) for _ in range(2))
    assert first.expect
    assert [row["text"] for row in first.expect if not row["ok"]] == []
    for name, result in (("first", first), ("second", second)):
        result.save(tmp_path / name)
    written = (tmp_path / "first" / "result.json").read_bytes()
    assert written == (tmp_path / "second" / "result.json").read_bytes()
    data = json.loads(written)
    assert {"scenario", "version", "seed", "fingerprint", "variants", "comparison", "expect", "warnings"} <= set(data)
    assert list(data["variants"]) == list(first.variants)


@pytest.mark.parametrize("missing", ["nowhere.csv.gz", "../nowhere/at/all.csv"])
def test_a_missing_recording_falls_back_and_says_so(missing, tmp_path):
    file = str(tmp_path / missing)
    result = sim.run(SCENARIOS / "azure_llama3-8b.yaml", {"workload.trace.file": file, "workload.trace.limit": 3})
    assert any(file in text and "generated trace azure_conv_like.csv" in text for text in result.warnings)
    assert len(result.outcomes["vanilla"].requests) == 3


def test_a_missing_recording_without_a_fallback_is_an_error(tmp_path):
    overrides = {"workload.trace.file": str(tmp_path / "nowhere.csv"), "workload.trace.fallback": None}
    with pytest.raises(ScenarioError, match=r"nowhere\.csv"):
        sim.run(SCENARIOS / "azure_llama3-8b.yaml", overrides)


def test_a_model_that_does_not_fit_says_what_it_needs(tmp_path):
    with pytest.raises(ScenarioError, match=r"does not fit.*needs .* for weights .*has 6\d") as error:
        decode(tmp_path, model="llama3.1-405b", parallel__tensor=1)
    assert "decode.yaml" in str(error.value)


def test_a_cache_that_does_not_fit_says_what_it_needs(tmp_path):
    with pytest.raises(ScenarioError, match=r"not its KV-cache: .* tokens need .* are left"):
        decode(tmp_path, workload__batch=400, workload__prompt_tokens=7000)


@pytest.mark.parametrize(("tensor", "nearest"), [(3, "2, 4"), (6, "4, 8")])
def test_a_degree_that_does_not_divide_names_the_nearest(tensor, nearest, tmp_path):
    with pytest.raises(ScenarioError, match=f"degree {tensor} does not divide.*{nearest}"):
        decode(tmp_path, parallel__tensor=tensor)


def test_more_ranks_than_the_pod_has_chips_is_an_error(tmp_path):
    with pytest.raises(ScenarioError, match="8"):
        decode(tmp_path, parallel__tensor=16)


def test_padded_heads_are_a_warning(tmp_path):
    result = decode(tmp_path, model="qwen2-7b", parallel__tensor=8)
    assert any("padded to 32" in text for text in result.warnings)


def test_the_public_call():
    result = sim.run("preserve", {"model": "llama3-8b", **SHORT})
    figure = result.timeline()
    assert type(figure).__module__.startswith("plotly.")
    assert figure.data
    assert list(result.variants) == ["vanilla", "fused", "preserve"]
    assert result.comparison["preserve"]["speedup"] > result.comparison["vanilla"]["speedup"] == 1.0
    assert (
        result.to_json() == sim.run("preserve", ["model=llama3-8b", *(f"{k}={v}" for k, v in SHORT.items())]).to_json()
    )


def test_progress_rises_to_the_end():
    shares: list[float] = []
    sim.run("preserve", SHORT, lambda share, label: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_straggler_slows_the_whole_group(tmp_path):
    even = decode(tmp_path, workload__output_tokens=3)
    late = decode(tmp_path, workload__output_tokens=3, pod__stragglers={1: 1.5})
    ratio = (
        late.outcomes[next(iter(late.outcomes))].totals.seconds
        / even.outcomes[next(iter(even.outcomes))].totals.seconds
    )
    assert 1.05 < ratio < 1.5


def test_all_faults_come_at_once(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(DECODE.replace("tensor: 4", "tensor: 3") + "variants:\n  a: {}\n  b: {parallel: {tensor: 6}}\n")
    with pytest.raises(ScenarioError) as error:
        sim.run(file)
    assert "degree 3" in str(error.value)
    assert "degree 6" in str(error.value)
