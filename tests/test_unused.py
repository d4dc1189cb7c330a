"""Options that apply to nothing: each is refused, with its key, before anything runs; where it does
apply, it is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.run import load, prepare
from sim.scenario import ScenarioError
from sim.text.strict_yaml import dump

Write = Callable[..., Path]
BATCH = {"kind": "decode", "batch": 2, "prompt_tokens": 30, "output_tokens": 3}
MODEL = {
    "pod": {"topology": "dgx_h100"},
    "model": "llama3-8b",
    "parallel": {"tensor": 4},
    "workload": BATCH,
}
JOB = {"collective": "all_reduce", "bytes": "1 MiB"}
JOBS = {
    "pod": {"topology": "tpu_v4_ring"},
    "workload": {
        "kind": "collectives",
        "jobs": {"a": {**JOB, "group": "0-3"}, "b": {**JOB, "group": "0-3"}},
    },
}
SERVED = {
    **MODEL,
    "workload": {"kind": "requests", "trace": {"file": "azure_conv_like", "limit": 3}},
}
TENANT = {"model": "llama3-8b", "trace": {"file": "azure_conv_like", "limit": 3}}
TENANTS = {
    "pod": {"topology": "dgx_h100"},
    "workload": {
        "kind": "tenants",
        "sharing": "partitioned",
        "tenants": {"a": {**TENANT, "tensor": 2}, "b": {**TENANT, "tensor": 1}},
    },
}


def ready(tmp_path: Path, scenario: dict[str, Any], changes: dict[str, Any]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(dump({"question": "?", **scenario}))
    prepare(load(file, changes))


NOTHING_SENT = "nothing is sent, so this applies to nothing"
REFUSED = [
    (MODEL, {"pod.collective": "binomial"}, "pod.collective: 'binomial' is no algorithm for"),
    (MODEL, {"parallel.tensor": 1, "pod.collective": "ring"}, f"pod.collective: {NOTHING_SENT}"),
    (MODEL, {"parallel.tensor": 1, "pod.library": "nccl"}, f"pod.library: {NOTHING_SENT}"),
    (
        MODEL,
        {"parallel.tensor": 1, "pod.change.library.step_s": "1 us"},
        f"pod.change.library.step_s: {NOTHING_SENT}",
    ),
    (
        MODEL,
        {"parallel.tensor": 1, "pod.change.link.latency_s": "1 us"},
        f"pod.change.link.latency_s: {NOTHING_SENT}",
    ),
    (
        MODEL,
        {"parallel.tensor": 1, "pod.faults": [{"link": [0, "switch"], "bandwidth": 0.5}]},
        f"pod.faults: {NOTHING_SENT}",
    ),
    (
        MODEL,
        {"pod.change.device.kernels": {"absorb": {"tile": 2.0}}},
        "pod.change.device.kernels.absorb: there is no absorb in the model, which has matmul, "
        "attention",
    ),
    (
        MODEL,
        {"pod.change.device.prefetch_overhead_s": "1 us"},
        "pod.change.device.prefetch_overhead_s: nothing is prefetched",
    ),
    (
        MODEL,
        {"pod.topology": "single", "parallel.tensor": 1, "pod.change.link.bytes_per_s": "1 GB/s"},
        "pod.change.link.bytes_per_s: no link of ",
    ),
    (SERVED, {"pod.collective": "binomial"}, "pod.collective: 'binomial' is no algorithm for"),
    (
        SERVED,
        {
            "workload.prefill": {
                "replicas": 1,
                "pod": {"topology": "dgx_h100", "collective": "chain"},
            }
        },
        "workload.prefill.pod.collective: 'chain' is no algorithm for",
    ),
    (TENANTS, {"pod.collective": "binomial"}, "pod.collective: 'binomial' is no algorithm for"),
    (TENANTS, {"pod.stragglers": {5: 2.0}}, "pod.stragglers[5]: chip 5 is none of a first"),
    (
        JOBS,
        {"pod.collective": "direct"},
        "pod.collective: no algorithm 'direct' for all_reduce; those that serve this group: ring",
    ),
    (
        JOBS,
        {
            "pod.collective": "ring",
            "workload.jobs.a.algorithm": "ring",
            "workload.jobs.b.algorithm": "auto",
        },
        "pod.collective: every job names its own `algorithm`",
    ),
    (JOBS, {"pod.stragglers": {6: 2.0}}, "pod.stragglers[6]: chip 6 is in no job"),
    (
        JOBS,
        {
            "pod.stragglers": {1: 2.0},
            "pod.change.library": {"launch_s": "0 s", "step_s": "0 s"},
        },
        "pod.stragglers[1]: chip 1 has steps that cost nothing",
    ),
    (
        JOBS,
        {"pod.faults": [{"link": [5, 6], "bandwidth": 0.5}]},
        "pod.faults[0].link: no message crosses the link 5 - 6; those of the jobs cross 0 - 1",
    ),
    (JOBS, {"workload.jobs.a.gap": "1 ms"}, "workload.jobs.a: a gap comes between collectives"),
    (
        {**JOBS, "workload": {"kind": "collectives", "jobs": {"a": JOB}}},
        {"workload.jobs.a.weight": 2.0},
        "workload: a weight counts against other jobs",
    ),
]


@pytest.mark.parametrize(("scenario", "changes", "what"), REFUSED)
def test_what_applies_to_nothing_is_refused(tmp_path, scenario, changes, what):
    with pytest.raises(ScenarioError) as error:
        ready(tmp_path, scenario, changes)
    assert any(what in str(fault) for fault in error.value.faults), str(error.value)


TAKEN = [
    (MODEL, {"pod.collective": "ring"}),
    (MODEL, {"pod.library": "vllm_nvlink", "pod.change.link.bytes_per_s": "1 GB/s"}),
    (MODEL, {"pod.change.device.kernels": {"attention": {"tile": 2.0}}}),
    (MODEL, {"techniques": ["preserve"], "pod.change.device.prefetch_overhead_s": "1 us"}),
    (MODEL, {"model": "deepseek-v2-lite", "pod.change.device.kernels": {"absorb": {"tile": 2.0}}}),
    (SERVED, {"workload.prefill": {"replicas": 1, "tensor": 1}, "pod.collective": "ring"}),
    (TENANTS, {"pod.collective": "ring"}),  # one of them exchanges something
    (
        JOBS,
        {"pod.collective": "direct", "workload.jobs.a.algorithm": "ring"}
        | {"workload.jobs.b.collective": "all_gather"},
    ),
    (JOBS, {"pod.stragglers": {1: 2.0}, "pod.faults": [{"link": [1, 2], "bandwidth": 0.5}]}),
    # What goes round the failed link crosses the slow one.
    (JOBS, {"pod.faults": [{"link": [1, 2], "failed": True}, {"link": [5, 6], "bandwidth": 0.5}]}),
    (JOBS, {"workload.jobs.a.gap": "1 ms", "workload.jobs.a.repeat": 2}),
    (JOBS, {"workload.jobs.a.weight": 2.0}),
]


@pytest.mark.parametrize(("scenario", "changes"), TAKEN)
def test_what_applies_to_something_is_taken(tmp_path, scenario, changes):
    ready(tmp_path, scenario, changes)
