"""What a difference is made of: parts that add up to it, the largest first."""

from __future__ import annotations

import pytest

import sim
from sim.results.difference import SMALL, difference, told

HBM, L2 = "HBM", "L2"


def test_parts_add_up_and_the_largest_is_first():
    base = {("matmul", HBM): 5.0, ("matmul", L2): 0.0, ("norm", "latency"): 1.0, ("idle", ""): 2.0}
    other = {("matmul", HBM): 1.0, ("matmul", L2): 2.0, ("norm", "latency"): 1.0, ("idle", ""): 5.0}
    parts = difference(base, other)
    assert [(part.what, part.seconds) for part in parts] == [
        ("having nothing to do", 3.0),
        ("matmul", -2.0),
        ("norm", 0.0),
    ]
    assert parts[1].cause == "L2 read instead of HBM"
    assert sum(part.seconds for part in parts) == sum(other.values()) - sum(base.values())
    assert told(parts) == "having nothing to do +3 s, matmul -2 s (L2 read instead of HBM)"
    assert difference(base, base)[0].seconds == 0.0 and told(difference(base, base)) == ""


@pytest.mark.parametrize(
    ("scenario", "overrides"),
    [
        ("preserve", {"workload.output_tokens": 200}),
        ("typhoon_preserve", {"workload.output_tokens": 20}),
        ("azure_llama3-8b", {"workload.trace.limit": 60}),
        ("network_two_jobs", {}),
        ("array_tenants_traces", {}),
    ],
)
def test_shipped_scenarios_are_explained(scenario, overrides):
    found = sim.run(scenario, overrides | {"record.enabled": False})
    base, *others = found.outcomes
    judged = next(m for m in ("e2e_mean_s", "makespan_s") if m in found.variants[base]["metrics"])
    for name in others:
        parts = found.differences[name]
        apart = (found.variants[name]["metrics"][judged], found.variants[base]["metrics"][judged])
        whole = sum(abs(part.seconds) for part in parts)
        assert sum(part.seconds for part in parts) == pytest.approx(
            apart[0] - apart[1], rel=1e-9, abs=1e-9 * max(apart)
        )
        assert abs(parts[0].seconds) == max(abs(part.seconds) for part in parts)
        unknown = [part.seconds for part in parts if "explains" in part.what]
        assert all(abs(seconds) <= max(0.05 * whole, 1e-9 * max(apart)) for seconds in unknown)
        named = [part for part in parts if abs(part.seconds) > SMALL * whole]
        assert whole < 1e-9 * max(apart) or named
