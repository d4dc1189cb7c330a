"""The capacity of a scenario's variants: which number is the rate, and what a run at a rate says of
its limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sim.explore.capacity import Capacity, find
from sim.explore.plan import as_mapping
from sim.explore.rule import Rule, rule_of
from sim.facts.requests import Requests
from sim.run import load, play, prepare
from sim.scenario import Overrides, Scenario, Source

RATE, SPEED = "workload.trace.rate", "workload.trace.speed"


def capacities(
    source: Source,
    overrides: Overrides = (),
    *,
    slo: str = "",
    share: float = 0.99,
    progress: Callable[[str, float], None] = lambda name, rate: None,
) -> dict[str, Capacity]:
    """The capacity of every variant of a scenario of requests, in requests/s.

    `slo` is a limit of a latency ("ttft_p99_s <= 500 ms"), else the scenario's own `slo` that
    `share` of the requests are to meet. The rate is `workload.trace.rate` where that is given, else
    the recording is played slower or faster (`speed`). ScenarioError, ValueError.
    """
    given = as_mapping(overrides)
    quiet = {**given, "record.enabled": False, "workload.fidelity": "step"}
    scenario = load(source, given)
    wrong = [n for n, each in scenario.variants.items() if not hasattr(each.workload, "trace")]
    if wrong:
        raise ValueError(f"{wrong[0]} has no trace of requests; a capacity is of `kind: requests`")
    found = {}
    for name, variant in scenario.variants.items():
        rule = rule_of(variant, name, slo, share)
        key = RATE if variant.workload.trace.rate else SPEED
        begin = _tried(
            source, quiet, name, key, 1.0 if key == SPEED else variant.workload.trace.rate
        )
        base = _rate(begin)
        now = variant.workload.trace.rate if key == RATE else variant.workload.trace.speed

        def attempt(
            rate: float, name: str = name, key: str = key, rule: Rule = rule, base: float = base
        ) -> tuple[np.ndarray, str]:
            progress(name, rate)
            number = rate if key == RATE else rate / base
            return rule.values(_tried(source, quiet, name, key, number))

        first = float(now) if key == RATE else base * float(now)
        found[name] = find(attempt, first, rule.limit)
    return found


def _tried(
    source: Source, overrides: Mapping[str, Any], name: str, key: str, number: float
) -> Requests:
    """The requests of a variant, played at a rate or a speed."""
    scenario = load(source, {**overrides, key: float(number)})
    one: Scenario = replace(scenario, variants={name: scenario.variants[name]})
    return play(prepare(one)[name]).requests


def _rate(requests: Requests) -> float:
    """Requests a second of a trace, by the time from its first to its last."""
    span_s = float(np.ptp(requests.arrival_s)) if len(requests) else 0.0
    if span_s <= 0:
        raise ValueError("all requests of the trace come at once: it has no rate; give trace.rate")
    return (len(requests) - 1) / span_s


def as_scenario(source: Source, overrides: Overrides, found: Mapping[str, Capacity]) -> str:
    """The scenario as YAML, each variant played at what it takes; one without a capacity as it
    was."""
    given = as_mapping(overrides)
    scenario = load(source, given)
    several = len(scenario.variants) > 1 or "variants:" in scenario.resolved
    for name, variant in scenario.variants.items():
        rate = found[name].rate
        if rate is None:
            continue
        where = f"variants.{name}." if several else ""
        if variant.workload.trace.rate:
            given[f"{where}{RATE}"] = rate
        else:
            base = _rate(_tried(source, given, name, SPEED, 1.0))
            given[f"{where}{SPEED}"] = rate / base
    return load(source, given).resolved
