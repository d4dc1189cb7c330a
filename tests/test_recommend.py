"""`podscope recommend`: that it says what running every candidate says, which candidates there are,
why others fail, and what it refuses."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from sim.cli.app import app
from sim.explore import recommend as recommending
from sim.explore.candidates import over_of, section_of
from sim.explore.recommend import recommend
from sim.explore.vllm import commands
from sim.reproduce.explore import SPACES, every
from sim.run import load, run
from sim.scenario import ScenarioError
from sim.text import strict_yaml
from sim.text.strict_yaml import dump

BASE = {
    "question": "Which settings?",
    "pod": {"topology": "dgx_h100"},
    "model": "llama3-8b",
    "workload": {
        "kind": "requests",
        "trace": {"file": "azure_conv_like", "limit": 250, "rate": 25.0},
        "slo": {"ttft": "400 ms", "tpot": "20 ms"},
    },
}
SMALL = {"parallel.tensor": [1, 2], "workload.replicas": [1, 2, 3]}
PRICE = "pod.change.device.price_per_hour"


def of(over=SMALL, **section):
    return {**BASE, "sweep": {"over": over, **section}}


class Here:
    """Workers that are this process; `order` says which of the work at hand is done first."""

    queued, warnings = 1, ()

    def __init__(self, count=1):
        self.count, self.points, self.waiting = count, [], []

    def submit(self, work, *given):
        self.points.append(given[3])
        future = Future()
        self.waiting.append((future, work, given))
        if len(self.waiting) >= self.count:  # the last that came is done first
            self.work()
        return future

    def work(self):
        for future, work, given in self.waiting[::-1]:
            future.set_result(work(*given))
        self.waiting.clear()

    def since_s(self, future):
        self.work()  # who asks waits

    def end(self, future):
        raise AssertionError


@pytest.fixture
def here(monkeypatch):
    """Candidates run in this process, which is quicker than to start others."""
    workers = Here()

    @contextmanager
    def opened(*_, **__):
        yield workers

    monkeypatch.setattr(sys.modules["sim.explore.recommend"], "opened", opened)
    return workers


def refused(error, source=BASE, **more):
    with pytest.raises(error) as found:
        recommend(source, **more)
    return str(found.value)


# The answer is that of running them all.


@pytest.mark.parametrize("space", SPACES, ids=[space.goal for space in SPACES])
def test_it_is_the_best_of_all_candidates(space, here):
    listed = {"list": space.listed} if space.listed != ({},) else {}
    found = recommend({**space.base, "sweep": {"over": space.over, **listed}}, goal=space.goal)
    value, points, count = every(space)
    assert dict(found.best.point) in points
    takes = found.best.takes
    got = {"chips": takes.chips, "cost": takes.dollars_per_hour}.get(space.goal, found.best.goodput)
    assert got == pytest.approx(value, rel=1e-9)
    assert len(found.candidates) == count
    if space.goal != "goodput":  # and it did not have to run them all
        assert len(here.points) < count


def test_numbers_are_those_of_run_and_the_rule_those_of_the_metrics(here):
    found = recommend(of())
    best = found.best
    metrics = run(BASE, {**best.point, "record.enabled": False}).variants["run"]["metrics"]
    assert best.goodput == pytest.approx(metrics["goodput_per_s"], rel=1e-12)
    assert 1 - best.value("slo.limited") == pytest.approx(metrics["slo_attainment"], rel=1e-12)
    for name, value in metrics.items():
        assert best.value(name) == value


def test_a_candidate_meets_its_limits_once_they_are_stretched_so_far(here):
    """What says how near a candidate is: limits longer by that factor are met, by less not."""
    found = recommend(
        of({"parallel.tensor": [1], "workload.replicas": [1]}, limit="60 s"), share=0.9
    )
    (one,) = found.candidates
    assert one.stretch != pytest.approx(1.0, abs=1e-3)
    for factor, met in ((1.0001, True), (0.9999, False)):
        limits = {"ttft": 0.4 * one.stretch * factor, "tpot": 0.02 * one.stretch * factor}
        given = {f"workload.slo.{key}": f"{value!r} s" for key, value in limits.items()}
        metrics = run(BASE, {**given, "record.enabled": False}).variants["run"]["metrics"]
        assert (metrics["slo_attainment"] >= 0.9) is met


def test_it_does_not_depend_on_who_runs_what_first(here):
    alone = recommend(of())
    here.count, here.points = 3, []
    together = recommend(of())
    assert alone.records() == together.records()
    assert (alone.verdict, alone.next_told, alone.served) == (
        together.verdict,
        together.next_told,
        together.served,
    )


def test_those_that_take_the_same_are_all_run_before_any_that_takes_more(here):
    found = recommend(of())
    chips = [p["parallel.tensor"] * p["workload.replicas"] for p in here.points]
    assert chips == sorted(chips)
    best = found.best.takes.chips
    assert {one.number for one in found.candidates if one.found is None} == {
        one.number for one in found.candidates if one.takes.chips > best
    }
    assert found.next_fails.takes.chips < best and not found.next_fails.meets(found.rule)


def test_the_scenario_that_is_written_gives_the_numbers_that_were_told(here):
    found = recommend(of())
    written = strict_yaml.parse(found.scenario.resolved).data
    again = load(written)
    metrics = run(written, {"record.enabled": False}).variants["run"]["metrics"]
    assert metrics["goodput_per_s"] == pytest.approx(found.best.goodput, rel=1e-12)
    assert again.variants["run"].parallel.tensor == found.best.point["parallel.tensor"]


# Which candidates there are.


def derived(source=BASE, over=None, chips=None):
    scenario = load(source)
    section, bound, _ = section_of(scenario, scenario.variants["run"], over or {}, chips)
    return section, bound


@pytest.mark.parametrize("chips", [1, 2, 8, 12])
def test_layouts_take_no_more_chips_than_allowed_and_are_all_different(chips):
    section, bound = derived(chips=chips)
    assert bound == chips
    taken = []
    for point in section["list"]:
        pools = point["workload.replicas"] + point.get("workload.prefill.replicas", 0)
        taken.append(point["parallel.tensor"] * point["parallel.pipeline"] * pools)
        assert ("workload.prefill" in point) != ("workload.prefill.replicas" in point)
    assert max(taken) == chips and min(taken) == 1
    assert len({str(sorted(point.items())) for point in section["list"]}) == len(taken)


def test_what_is_said_takes_the_place_of_what_follows():
    section, _ = derived(over=over_of(["parallel.tensor=2", "precision.kv=fp16,fp8"]))
    assert {point["parallel.tensor"] for point in section["list"]} == {2}
    assert section["over"]["precision.kv"] == ["fp16", "fp8"]
    section, _ = derived(over=over_of(["workload.prefill.replicas=null,1"]))
    pools = {point.get("workload.prefill.replicas") for point in section["list"]}
    assert pools == {None, 1}


def test_experts_are_spread_and_a_dense_model_has_none():
    section, _ = derived({**BASE, "model": "mixtral-8x7b"}, chips=4)
    found = {(p["parallel.data"], p["parallel.expert"]) for p in section["list"]}
    assert {(1, 1), (2, 2), (2, 4), (4, 4)} <= found
    assert "parallel.data" not in derived()[0]["list"][0]


def test_every_derived_degree_divides_heads_and_fits_a_node():
    section, _ = derived({**BASE, "pod": {"topology": "superpod_h100_256"}})
    assert {point["parallel.tensor"] for point in section["list"]} == {1, 2, 4, 8}


def test_what_cannot_be_is_counted_with_its_reason(here):
    big = {**of({"parallel.tensor": [1, 8], "workload.replicas": [1, 2]}), "model": "llama3-70b"}
    found = recommend(big, {"workload.trace.rate": 2.0, "workload.slo.ttft": "2 s"}, chips=8)
    wrong = [one for one in found.candidates if one.wrong]
    assert len(wrong) == 3 and len(here.points) == 1
    assert "3 cannot be" in found.counted
    assert any("does not fit" in line for line in found.not_possible)
    assert any("more than 8 chips" in line for line in found.not_possible)


def test_of_several_variants_the_first_or_the_one_that_is_named(here):
    two = {**of(), "variants": {"a": {}, "b": {"precision": {"kv": "fp8"}}}}
    assert "of 2 variants the first, a" in recommend(two).said[0]
    assert recommend(two, variant="b").scenario.variants["run"].precision.kv == "fp8"


def test_what_a_sweep_asks_for_has_no_effect_and_that_is_said(here):
    found = recommend(of(maximise="goodput_per_s"))
    assert "sweep.maximise has no effect on what is recommended" in found.said


# Cost.


def test_cost_is_by_price_or_to_make_and_a_pool_counts_with_its_own(here):
    given = {PRICE: 2.5, "workload.prefill": {"replicas": 2, "tensor": 2}}
    found = recommend(of({"parallel.tensor": [1]}), given, goal="cost", share=0.5)
    (one,) = found.candidates
    assert (one.takes.chips, one.takes.dollars_per_hour) == (5, 12.5)
    made = recommend(of(), {"pod.chip": {}}, goal="cost", share=0.5)
    each = {one.takes.dollars / one.takes.chips for one in made.candidates}
    assert max(each) == pytest.approx(min(each)) and "to make" in made.verdict


def test_no_cost_is_a_clear_error():
    assert "no cost is known of these chips" in refused(ValueError, of(), goal="cost")
    both = {"list": [{"parallel.tensor": 1, PRICE: 2.0}, {"parallel.tensor": 2, "pod.chip": {}}]}
    said = refused(ValueError, of({"workload.max_batch": [8]}, **both), goal="cost")
    assert "some candidates have a price per hour and some have none" in said


# What is said where nothing does, and what is refused.


def test_where_none_meets_the_slo_it_says_how_near_the_best_is_and_what_limits_it(here):
    found = recommend(of(), {"workload.slo.tpot": "2 ms"})
    assert found.best is None and found.scenario is None
    nearest = min(found.candidates, key=lambda one: one.stretch)
    assert found.near[0].stretch == nearest.stretch > 1
    assert found.verdict.startswith("no candidate meets the SLO (99 % of requests meet ttft 400 ms")
    assert found.words(nearest) in found.verdict and "limited by tpot" in found.verdict
    assert "limits" in found.verdict


def test_the_command_refuses_with_code_2_and_writes_nothing(here, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(dump(of()))
    out = tmp_path / "at.yaml"
    args = ["recommend", str(path), "--out", str(out), "--set", "workload.slo.tpot=2 ms"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2 and "no candidate meets the SLO" in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"goal": "speed"}, "no goal 'speed' here; choose one of chips, cost, goodput"),
        ({"variant": "b"}, "no variant 'b' here"),
        ({"over": ["parallel.tensr=2"]}, "--over: parallel.tensr: unknown key"),
        ({"over": ["parallel.tensor=two"]}, "--over: parallel.tensor"),
        ({"over": ["parallel.tensor"]}, "write it as KEY=VALUE,VALUE"),
        ({"over": ["parallel.tensor=1", "parallel.tensor=2"]}, "given twice"),
        ({"over": ["parallel.tensor=8"], "chips": 4}, "--chips allows more"),
        ({"slo": "ttft_p99 <= 3"}, "no limit of a latency"),
        ({"overrides": {"workload.slo": None}}, "slo"),
        ({"overrides": {"workload.slo.ttft": "0 s"}}, "time above 0 s is due"),
        ({"slo": "queue_mean_s <= 1 s", "goal": "goodput"}, "a mean has none"),
        ({"source": {**BASE, "workload": {"kind": "decode"}}}, "missing"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(more, said, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(recommending, "opened", opened)
    assert said in refused((ValueError, ScenarioError), **{"source": BASE, **more})


def test_a_fault_of_the_section_is_told_with_its_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(dump(BASE) + "sweep:\n  over:\n    parallel.tensr: [1, 2]\n")
    said = refused(ScenarioError, str(path))
    assert "s.yaml:" in said and "parallel.tensr" in said and "tensor" in said


def test_a_kind_without_requests_is_refused():
    decode = {"kind": "decode", "batch": 1, "prompt_tokens": 20, "output_tokens": 4}
    assert "no trace of requests" in refused(ValueError, {**BASE, "workload": decode})


def test_a_limit_of_a_mean_and_few_requests(here):
    found = recommend(of(), {"workload.trace.limit": 100}, slo="ttft_mean_s <= 300 ms")
    assert "mean ttft" in found.verdict and "at most 300 ms" in found.verdict
    assert any("too few requests" in line for line in found.warnings)


# The command.


def test_the_command_prints_a_table_the_next_that_fails_flags_and_the_scenario(here, tmp_path):
    path, out = tmp_path / "s.yaml", tmp_path / "at.yaml"
    path.write_text(dump(of()))
    result = CliRunner().invoke(app, ["recommend", str(path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "fewest chips:" in result.output and "the next, " in result.output
    assert "vllm serve MODEL" in result.output and "6 candidates:" in result.output
    assert load(str(out)).variants["run"].workload.replicas >= 1


def test_a_pool_that_prefills_has_a_command_of_its_own():
    given = {"workload.prefill": {"replicas": 2, "tensor": 4}, "workload.replicas": 3}
    first, second = commands(load(BASE, given).variants["run"])
    assert "--tensor-parallel-size 4" in first and "prefills: 2 replicas" in first
    assert "--tensor-parallel-size" not in second and "decodes: 3 replicas" in second


def test_what_a_flag_cannot_say_stands_behind_the_command_and_one_is_no_default():
    given = {"precision": {"weights": "int8", "kv": "int8"}, "techniques": ["preserve"]}
    (said,) = commands(load(BASE, {**given, "workload.max_batch": 1}).variants["run"])
    for text in ("checkpoint in int8", "KV-cache in int8", "no flag for preserve"):
        assert text in said.partition("(")[2]
    assert "--max-num-seqs 1" in said and "quantization" not in said
    experts = {"model": "mixtral-8x7b", "parallel": {"tensor": 2, "expert": 2}}
    (said,) = commands(load(BASE, {**experts, "precision.weights": "fp8"}).variants["run"])
    assert "--enable-expert-parallel" in said and "--quantization fp8" in said
