"""The capacity of a scenario's variants: which number is the rate, which limit must hold, and what
a run at a rate says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sim.explore.capacity import Capacity, Limit, find
from sim.facts.requests import Requests
from sim.results.statistics import LATENCIES, LOST, latencies
from sim.run import load, play, prepare
from sim.scenario import Overrides, Scenario, ScenarioError, Source, Variant
from sim.scenario.layers import OVERRIDES
from sim.text.strict_yaml import Fault, nearest
from sim.text.units import parse, show

RATE, SPEED = "workload.trace.rate", "workload.trace.speed"
_BOUND = re.compile(r"\s*(?P<of>[a-z0-9]+)_(?P<how>mean|p\d{1,2}(?:\.\d+)?)_s\s*<=?\s*(?P<most>.+)")
_EXAMPLES = "write it like 'ttft_p99_s <= 500 ms' or 'queue_mean_s <= 0.02 s'"


@dataclass(frozen=True)
class Rule:
    """What must hold of a run: that enough requests meet all limits, or that a mean latency does.

    `limits` maps latencies to seconds; `share` is how many requests must meet them. With `mean`,
    the mean of that latency must be within its limit, and 99 % must have an answer.
    """

    limits: Mapping[str, float]
    share: float = 0.0
    mean: str = ""

    @property
    def limit(self) -> Limit:
        """As the search has it."""
        if self.mean:
            return Limit(f"the mean {self.mean} in s", self.limits[self.mean])
        told = " and ".join(f"{name} {show(most, 's')}" for name, most in self.limits.items())
        return Limit(f"the share of requests beyond {told}", 1.0 - self.share)

    def values(self, requests: Requests) -> tuple[np.ndarray, str]:
        """By request in the order of arrival: what is limited; and of what most is due to."""
        order = np.argsort(requests.arrival_s, kind="stable")
        served = requests.replica >= 0
        if self.mean:
            lost = 1.0 - served.mean()
            note = f"no answer {lost:.1%}" if lost else ""
            if lost > LOST:  # the mean of the others would mislead
                return np.full(len(requests), np.inf), note
            done = requests.finished()
            return _each(done, self.mean)[np.argsort(done.arrival_s, kind="stable")], note
        missed = {name: np.zeros(len(requests), bool) for name in self.limits}
        for name, most in self.limits.items():
            missed[name][served] = _each(requests.finished(), name) > most
        none = ~served
        beyond = np.logical_or.reduce([none, *missed.values()])
        told = {"no answer": none.mean(), **{name: each.mean() for name, each in missed.items()}}
        note = ", ".join(f"{name} {share:.1%}" for name, share in told.items() if share)
        return beyond[order].astype(float), note


def _each(done: Requests, name: str) -> np.ndarray:
    """A latency of each finished request; of one token, the time per token is 0."""
    if name != "tpot":
        return latencies(done)[name]
    more = np.maximum(done.output_tokens - 1, 1)
    return np.where(done.output_tokens > 1, (done.last_token_s - done.first_token_s) / more, 0.0)


def rule_of(variant: Variant, name: str, said: str, share: float) -> Rule:
    """The rule that the command says, or else the scenario's `slo`; ValueError without one."""
    if said:
        match = _BOUND.fullmatch(said)
        if not match:
            raise ValueError(f"{said!r} is no limit of a latency; {_EXAMPLES}")
        of, how = match["of"], match["how"]
        if of not in LATENCIES:
            close = nearest(of, LATENCIES)
            raise ValueError(f"no latency {of!r}{close}; there are {', '.join(LATENCIES)}")
        most = parse(match["most"], "s")
        if how == "mean":
            return Rule({of: most}, mean=of)
        return Rule({of: most}, float(how[1:]) / 100)
    limits = {key: most for key, most in variant.workload.slo if most is not None}
    if not limits:
        raise ValueError(
            f"{name} has no limit: give workload.slo.ttft or tpot, or --slo; {_EXAMPLES}"
        )
    return Rule(limits, share)


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
    given = dict(overrides) if isinstance(overrides, Mapping) else _pairs(overrides)
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


def _pairs(overrides: Any) -> dict[str, Any]:
    wrong = [text for text in overrides if "=" not in text]
    if wrong:
        raise ScenarioError(Fault(OVERRIDES, 0, text, "write it as key=value") for text in wrong)
    return {key.strip(): value for key, _, value in (text.partition("=") for text in overrides)}


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
    given = dict(overrides) if isinstance(overrides, Mapping) else _pairs(overrides)
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
