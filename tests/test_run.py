"""The whole path: every shipped scenario, what users get wrong, and the public call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import claims
import numpy as np
import pytest

import sim
from sim.dnn.gemms import Dnn
from sim.dnn.known import dnn
from sim.graph.transformer import transformer
from sim.run import load, prepare
from sim.scenario import ScenarioError
from sim.systolic.memory import Sums
from sim.systolic.partial_sums import sums_of
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import Schedule, schedule

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
FILES = sorted(SCENARIOS.glob("*.yaml"))
BANK = 32 << 20  # of the largest in a scenario
SHORT = {"workload.prompt_tokens": 600, "workload.output_tokens": 60}
DECODE = """\
question: How long does it take?
pod: {topology: atlas_800t_a2}
model: llama3-8b
parallel: {tensor: 4}
workload: {kind: decode, batch: 2, prompt_tokens: 300, output_tokens: 20}
"""


# What cuts a scenario down to a test that plays every op, every second of a long trace, or many
# layers: its claims hold, and fail where what they claim is not so.
SHORTER = {
    "array_interconnects": {"workload.networks.resnet50": {"network": "resnet18"}},
    "array_llm": {
        f"workload.networks.{name}.layers": 2 for name in ("reads", "answers_one", "answers_32")
    },
    "array_partition": {"workload.networks.resnet50": {"network": "resnet18"}},
    "array_pods": {
        "workload.networks.resnet50": {"network": "resnet18"},
        "workload.networks.bert_base": {"network": "bert_small"},
    },
    "array_tenants": {"workload.image": 128},
    "azure_llama3-8b": {"workload.trace.limit": 5},
    "pipeline_two_nodes": {"workload.trace.limit": 25},
    "tenants_two_models": {  # five short answers each
        "workload.tenants.chat.trace": {"first": 138, "limit": 5},
        "workload.tenants.code.trace": {"first": 1385, "limit": 5},
    },
}


def _smaller(*networks: str, **more: Any) -> dict[str, Any]:
    """A scenario of an array with networks of few layers in place of these."""
    tiny = {
        name: {"network": "bert_tiny" if name.startswith("bert") else "resnet18"}
        for name in networks
    }
    return {"workload": {"image": 75, "length": 10, "networks": tiny, **more}}


_DEEP = (
    *("densenet121", "densenet169", "densenet201", "resnet50", "resnet101", "resnet152"),
    *("bert_medium", "bert_base", "bert_large"),
)
# As small as it gets: its claims need not hold, but all that it runs is run.
SMALLEST = {
    "array_banks": {"workload.networks.resnet152": {"network": "resnet18", "image": 75}},
    "array_interconnects": _smaller("resnet50", "bert_medium"),
    "array_llm": {
        f"workload.networks.{name}": {"tokens": 16, "layers": 1}
        for name in ("reads", "answers_one", "answers_32")
    },
    "array_partition": _smaller("resnet50", "bert_medium"),
    "array_pods": _smaller("resnet50", "bert_medium", "bert_base"),
    "array_sosa": _smaller(*_DEEP),
    "array_tenants": _smaller("resnet152", "bert_medium"),
    "array_tenants_traces": {
        "workload.networks.images": {"network": "resnet18", "image": 75},
        "workload.networks.texts": {"network": "bert_tiny", "length": 10},
    },
    "tenants_two_models": {  # two short answers each
        "workload.tenants.chat": {
            "model": {"name": "llama3-8b", "change": {"layers": 3}},
            "trace": {"first": 1627, "limit": 2},
            "max_batched_tokens": 512,
        },
        "workload.tenants.code": {
            "model": {"name": "qwen2-7b", "change": {"layers": 3}},
            "trace": {"first": 87, "limit": 2},
            "max_batched_tokens": 512,
        },
    },
}


@cache
def placed(dnns: tuple[Dnn, ...], array: PodArray, **rules: Any) -> Schedule:
    return schedule(dnns, array, **rules)


def sums_once() -> Callable[[Schedule, int], Sums]:
    """Nor do sums in banks depend on more than where tiles are."""
    made: dict[tuple[int, int], tuple[Schedule, Sums]] = {}

    def once(placed: Schedule, rounds: int) -> Sums:
        key = id(placed.layers), rounds
        if key not in made:
            made[key] = placed, sums_of(placed, rounds)
        return made[key][1]

    return once


def schedule_once(dnns: Sequence[Dnn], array: PodArray, **rules: Any) -> Schedule:
    """What variants of a scenario have in common is placed once: see the test below."""
    alike = PodArray(array.rows, array.cols, array.pods, array.interconnect, BANK)
    made = placed(tuple(dnns), replace(alike, dataflow=array.dataflow), **rules)
    return replace(made, array=array)


@cache
def result_of(file: Path) -> sim.Result:
    """The scenario at the size at which its claims hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.kinds.dnn.plan.schedule", schedule_once)
        if file.stem == "array_banks":  # of one network: others would fill the memory
            patch.setattr("sim.systolic.timing.sums_of", sums_once())
        try:
            return run_once(file, SHORTER.get(file.stem, {}))
        finally:
            placed.cache_clear()


def run_once(file: Path, overrides: Mapping[str, Any]) -> sim.Result:
    """A run; variants with many graphs in common build them once."""
    with pytest.MonkeyPatch.context() as patch:
        if file.stem.startswith("typhoon"):
            patch.setattr("sim.machine.pod.transformer", cache(transformer))
        return sim.run(file, overrides)


def test_neither_the_size_of_a_bank_nor_any_rate_moves_a_tile_op():
    dnns, array = [dnn("resnet18", image=64)], PodArray(16, 16, 16)
    other = replace(
        array, bank_bytes=1 << 14, sram_joules_per_byte=1e-12, clock_hz=3e9, dram_bytes_per_s=1e9
    )
    one, same = (schedule(dnns, each, exact=True) for each in (array, other))
    assert one.latency_cycles == same.latency_cycles
    for mine, theirs in zip(one.layers, same.layers, strict=True):
        for name in ("round", "pod", "bank", "source", "add_round", "adder", "add_bank"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name


def decode(tmp_path: Path, **overrides: object) -> sim.Result:
    file = tmp_path / "decode.yaml"
    file.write_text(DECODE)
    return sim.run(file, {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_is_ready_to_run(file):
    plans = prepare(load(file))
    assert plans
    for plan in plans.values():
        assert getattr(plan.built, "assumptions", None) or plan.built.machinery.assumptions


# The claims of array_sosa are tested where its runs are those of the reproduction.
CLAIMED = [file for file in FILES if file.stem != "array_sosa"]


@pytest.mark.parametrize("file", CLAIMED, ids=lambda file: file.stem)
def test_every_scenario_runs_and_its_claims_hold(file, tmp_path):
    claims.hold(result_of(file), tmp_path)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_gives_the_same_bytes_twice(file, tmp_path):
    small = SMALLEST.get(file.stem)
    first = result_of(file) if small is None else run_once(file, small)
    second = run_once(file, SHORTER.get(file.stem, {}) if small is None else small)
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("missing", ["nowhere.csv.gz", "../nowhere/at/all.csv"])
def test_a_missing_recording_falls_back_and_says_so(missing, tmp_path):
    file = str(tmp_path / missing)
    result = sim.run(
        SCENARIOS / "azure_llama3-8b.yaml", {"workload.trace.file": file, "workload.trace.limit": 3}
    )
    assert any(
        file in text and "generated trace azure_conv_like.csv" in text for text in result.warnings
    )
    assert len(result.outcomes["vanilla"].requests) == 3


def test_a_missing_recording_without_a_fallback_is_an_error(tmp_path):
    overrides = {
        "workload.trace.file": str(tmp_path / "nowhere.csv"),
        "workload.trace.fallback": None,
    }
    with pytest.raises(ScenarioError, match=r"nowhere\.csv"):
        sim.run(SCENARIOS / "azure_llama3-8b.yaml", overrides)


def test_a_model_that_does_not_fit_says_what_it_needs(tmp_path):
    with pytest.raises(
        ScenarioError, match=r"does not fit.*needs .* for weights .*has 6\d"
    ) as error:
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
        result.to_json()
        == sim.run(
            "preserve", ["model=llama3-8b", *(f"{k}={v}" for k, v in SHORT.items())]
        ).to_json()
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
    file.write_text(
        DECODE.replace("tensor: 4", "tensor: 3")
        + "variants:\n  a: {}\n  b: {parallel: {tensor: 6}}\n"
    )
    with pytest.raises(ScenarioError) as error:
        sim.run(file)
    assert "degree 3" in str(error.value)
    assert "degree 6" in str(error.value)


# Collectives alone

NETWORK = """\
question: What does company cost?
pod: {topology: dgx_h100}
workload:
  kind: collectives
  jobs:
    main: {collective: all_reduce, bytes: 64 MiB, algorithm: ring, repeat: 3}
variants:
  alone: {}
  shared: {workload: {jobs: {other: {collective: all_to_all, bytes: 64 MiB, \
group: [0-3, 6], background: true}}}}
  sick:
    pod: {stragglers: {3: 2.0}, jitter: 2 us, faults: [{link: [3, switch], bandwidth: 0.5}]}
expect:
  - shared.main.mean_s > 1.5 * alone.main.mean_s
  - sick.main.slowdown > 1.5
  - shared.main.mean_s_ratio > 1.5
"""


@pytest.fixture
def network(tmp_path):
    file = tmp_path / "network.yaml"
    file.write_text(NETWORK)
    return file


def test_jobs_from_file_to_folder(network, tmp_path):
    result = sim.run(network)
    assert result.ok
    result.save(tmp_path / "out")
    data = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(data["variants"]["shared"]["tenants"]) == {"main", "other"}
    main = data["variants"]["alone"]["tenants"]["main"]
    assert main["slowdown"] == pytest.approx(1) and all(
        isinstance(value, float) for value in main.values()
    )
    assert main["bus_bandwidth_bytes_per_s"] == pytest.approx(2**26 * 2 * 7 / 8 / main["mean_s"])
    assert data["variants"]["shared"]["metrics"]["busiest_link_utilisation"] > 0.9
    lines = (tmp_path / "out" / "links.csv").read_text().splitlines()
    assert (
        lines[0] == "variant,link,GB/s,bytes,share_of_rate,busy_share,most_flows"
        and len(lines) == 1 + 3 * 16
    )
    assert lines[-16].startswith("sick,3 → switch,225.0,")


def test_equal_bytes_on_any_number_of_workers_and_dice_from_the_seed(network):
    first, second, other = (
        sim.run(network),
        sim.run(network, workers=3),
        sim.run(network, {"seed": 1}),
    )
    assert first.to_json() == second.to_json()
    mean_s = [r.variants["sick"]["tenants"]["main"]["mean_s"] for r in (first, other)]
    assert mean_s[0] != mean_s[1]
    assert first.variants["shared"] == other.variants["shared"]


JOBS = "workload.jobs.main"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            {f"{JOBS}.group": "0-9"},
            "workload.jobs.main.group: chip 8 is not in the pod: its chips are 0 to 7",
        ),
        ({f"{JOBS}.group": [1, 2, 1]}, "workload.jobs.main.group: chip 1 is twice in the group"),
        ({f"{JOBS}.group": [5]}, "workload.jobs.main.group: a group of one has nobody to talk to"),
        ({f"{JOBS}.group": {"from": 8}}, "workload.jobs.main.group: a group of one"),
        (
            {f"{JOBS}.algorithm": "pairwise"},
            "no algorithm 'pairwise' for all_reduce; those that serve this group: ring",
        ),
        (
            {f"{JOBS}.algorithm": "halving_doubling", f"{JOBS}.group": "0-5"},
            "workload.jobs.main.algorithm: all_reduce by halving_doubling needs a group of a "
            "power of two ranks, not 6"
            "; those that serve this group: ring",
        ),
        ({"pod.stragglers": {9: 2.0}}, "pod.stragglers[9]: chip 9 is not in the pod"),
        (
            {"pod.faults": [{"link": [0, "swich"], "failed": True}]},
            "no node 'swich' in the pod, did you mean 'switch'?",
        ),
        (
            {"pod.faults": [{"link": [0, 1], "failed": True}]},
            "there is no link from 0 to 1; 0 is wired to switch",
        ),
        (
            {
                "pod.faults": [
                    {"link": [0, "switch"], "latency": "1 us"},
                    {"link": ["switch", 0], "failed": True},
                ]
            },
            "pod.faults[1].link: the link switch - 0 has a fault already",
        ),
        (
            {"pod.faults": [{"link": [3, "switch"], "failed": True}]},
            "pod.faults: with the failed link 3 - switch, chip 0 can no longer reach chip 3",
        ),
    ],
)
def test_what_does_not_fit_the_pod(network, overrides, fault):
    with pytest.raises(ScenarioError) as error:
        prepare(load(network, overrides))
    assert any(fault in str(one) for one in error.value.faults), str(error.value)


def test_a_fault_of_a_pod_names_file_and_line(network):
    network.write_text(NETWORK.replace("[3, switch]", "[3, swtch]"))
    with pytest.raises(ScenarioError) as error:
        sim.run(network)
    [fault] = error.value.faults
    assert (fault.line, fault.key) == (11, "variants.sick.pod.faults[0].link")


def test_a_cut_off_chip_that_nobody_needs_is_no_fault(network):
    """Its links are, for nothing would change without them; a chip in no job is no straggler."""
    changes = {
        f"{JOBS}.group": "0-2",
        "pod.faults": [{"link": [7, "switch"], "failed": True}],
        "variants.shared": {},
    }
    with pytest.raises(ScenarioError) as error:
        prepare(load(network, changes))
    told = str(error.value)
    assert "no message crosses the link 7 - switch" in told and "no longer reach" not in told
    assert "pod.stragglers[3]: chip 3 is in no job" in told


def test_a_fault_slows_a_model_too(tmp_path):
    even = decode(tmp_path, workload__output_tokens=3)
    faults = [{"link": [0, 1], "bandwidth": 0.1}]
    slow = decode(tmp_path, workload__output_tokens=3, pod__faults=faults)
    gone = decode(
        tmp_path, workload__output_tokens=3, pod__faults=[{"link": [0, 1], "failed": True}]
    )
    seconds = [r.variants["run"]["metrics"]["makespan_s"] for r in (even, slow, gone)]
    assert seconds[0] < min(seconds[1:])
    assert [
        len({s.track.split("/")[0] for s in r.outcomes["run"].timeline.spans}) for r in (even, slow)
    ] == [1, 4]
    with pytest.raises(ScenarioError, match="no node 99"):
        decode(tmp_path, pod__faults=[{"link": [0, 99], "failed": True}])


def test_the_example_of_the_documentation_runs(tmp_path):
    text = (SCENARIOS.parent / "docs" / "scenario.md").read_text(encoding="utf-8")
    example = text.split("## The network alone")[1].split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "example.yaml"
    file.write_text(example)
    assert set(sim.run(file).variants["run"]["tenants"]) == {"training", "tenant"}
