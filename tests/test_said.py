"""What a run says at the top: reasons, what limits, who got no answer, what was beyond what was
measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim

REQUESTS = "arrival_s,prompt_tokens,output_tokens\n" + "".join(
    f"{0.001 * i:.3f},{200 + 13 * i % 90},{30 + 7 * i % 20}\n" for i in range(60)
)
SERVED = """\
question: What is said?
pod: {topology: single}
model: {name: llama3-8b, change: {layers: 2}}
workload:
  kind: requests
  trace: {file: requests.csv}
"""


@pytest.fixture
def run(tmp_path):
    """Run a scenario from its text, beside a small trace."""
    (tmp_path / "requests.csv").write_text(REQUESTS)

    def ran(text: str, more: dict[str, object] | None = None):
        (tmp_path / "scenario.yaml").write_text(text)
        return sim.run(Path(tmp_path / "scenario.yaml"), more or {})

    return ran


# What limits: the head of a queue waits for a place in the batch, for new tokens, or for KV blocks.


@pytest.mark.parametrize(
    ("key", "value"), [("max_batch", 4), ("max_batched_tokens", 64), ("kv_tokens", 1200)]
)
def test_what_requests_wait_for_is_named(run, key, value):
    found = run(SERVED, {f"workload.{key}": value})
    (metrics,) = (variant["metrics"] for variant in found.variants.values())
    name = "kv" if key == "kv_tokens" else key
    limits = {k: v for k, v in metrics.items() if k.startswith("limited_by_")}
    assert (
        max(limits, key=limits.get) == f"limited_by_{name}" and limits[f"limited_by_{name}"] > 0.3
    )
    assert name.split("_")[-1] in found.verdict.replace("KV", "kv")


def test_limits_are_those_of_engines_on_the_device(run):
    for device, batch, tokens in (("h100_sxm", 1024, 8192), ("a100_80g", 256, 2048)):
        (outcome,) = run(SERVED, {"pod.device": device}).outcomes.values()
        said = {row.what: row.value for row in outcome.assumptions}
        assert said["max_batch"] == f"{batch:,}"
        assert said["max_batched_tokens"] == f"{tokens:,}"
    (outcome,) = run(SERVED, {"workload.max_batch": 7}).outcomes.values()
    assert "max_batch" not in {what for what, *_ in outcome.assumptions}


# Who got no answer.

SHED = """\
  admission: {shed: true, ttft: [5 ms]}
  max_batch: 2
variants: {main: {}}
expect: ["main.ttft_p99_s < 10"]
"""


def test_survivors_are_told_as_such(run):
    lost = run(SERVED + SHED)
    (metrics,) = (variant["metrics"] for variant in lost.variants.values())
    share = metrics["rejected"] / 60
    assert share > 0.1
    assert lost.verdict.startswith(f"{100 * share:.0f} %") or "no answer" in lost.verdict[:80]
    (claim,) = lost.expect
    assert not claim["ok"] and "have no answer" in claim["why"]
    allowed = run(SERVED + SHED.replace("< 10", "< 10 with rejected <= 99 %"))
    assert allowed.expect[0]["ok"]


# Beyond what was measured.


def test_cards_beyond_their_measurement_say_so(run):
    known = run(SERVED, {"pod.device": "h100_sxm"}).outcomes
    (outcome,) = run(SERVED, {"pod.device": "b200"}).outcomes.values()
    said = [text for text in outcome.warnings if "were not measured" in text]
    assert said and "h100" in said[0].lower()
    assert any(what == "beyond what was measured" for what, *_ in outcome.assumptions)
    assert not any("were not measured" in t for each in known.values() for t in each.warnings)


ARRAY = """\
question: Which array?
pod: {array: {rows: 32, cols: 32, pods: 16}}
workload: {kind: networks, networks: {bert_medium: }}
"""


def test_an_array_far_from_its_power_is_judged_as_simulated(run):
    found = run(ARRAY)
    (outcome,) = found.outcomes.values()
    assert outcome.part.peak_power_w < 0.85 * outcome.part.power_w
    (said,) = [text for text in outcome.warnings if "simulate" in text]
    pods = int(said.rpartition("simulate ")[2].split()[0])
    assert "scaled to" not in found.verdict
    # As many pods as it says take about that power, and nothing is to be said of them.
    (other,) = run(ARRAY, {"pod.array.pods": pods}).outcomes.values()
    assert not [text for text in other.warnings if "simulate" in text]


# The stretch that a timeline shows.


def test_a_timeline_shows_a_busy_stretch_of_each_variant(run):
    found = run(SERVED + "  max_batch: 16\nvariants: {slow: {}, two: {workload: {replicas: 2}}}\n")
    for outcome in found.outcomes.values():
        one = outcome.timeline
        iterations = [lane for lane in one.lanes if lane.track.endswith("/iterations")]
        assert one.chosen and len(iterations) == 8
        starts, ends = zip(*((lane.start_s, lane.end_s) for lane in iterations))
        assert all(a <= b + 1e-12 for a, b in zip(ends, starts[1:]))
        assert one.origin_s == starts[0] and len({lane.track for lane in one.lanes}) <= 13
        assert starts[0] <= min(span.start_s for span in one.spans)
        assert max(span.end_s for span in one.spans) <= ends[-1]
        # Nothing is kept of the ports outside the stretch.
        assert min(use.start_s for use in one.uses) >= starts[0] - 1e-12


@pytest.mark.parametrize("fidelity", ["step", "op"])
def test_what_is_shown_changes_no_answer(run, fidelity):
    shown = run(SERVED, {"workload.fidelity": fidelity})
    blind = run(SERVED, {"workload.fidelity": fidelity, "record.enabled": False})
    named = run(SERVED, {"workload.fidelity": fidelity, "record.from_s": "5 ms"})
    (a,), (b,), (c,) = (each.outcomes.values() for each in (shown, blind, named))
    assert a.fingerprint == b.fingerprint == c.fingerprint
    assert c.timeline.lanes[0].start_s >= 5e-3 and not c.timeline.chosen
