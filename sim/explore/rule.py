"""What must hold of the requests of a run, and what the run says of it: by how much, how surely,
and what most is due to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.explore.capacity import LEAST, Limit, means
from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.results.statistics import LATENCIES, LOST, latencies
from sim.scenario import Variant
from sim.text.strict_yaml import nearest
from sim.text.units import parse, show

SLO = "slo."  # what the names of the numbers of a rule begin with
UNANSWERED = "no answer"
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
        """As the search for a capacity has it."""
        if self.mean:
            return Limit(f"the mean {self.mean} in s", self.limits[self.mean])
        return Limit(f"the share of requests beyond {self._told}", round(1.0 - self.share, 12))

    @property
    def told(self) -> str:
        """In words."""
        if self.mean:
            return f"the mean {self.mean} is at most {show(self.limits[self.mean], 's')}"
        return f"{100 * self.share:g} % of requests meet {self._told}"

    @property
    def _told(self) -> str:
        return " and ".join(f"{name} {show(most, 's')}" for name, most in self.limits.items())

    def values(self, requests: Requests) -> tuple[np.ndarray, str]:
        """By request in the order of arrival: what is limited; and of what most is due to."""
        missed = self._missed(requests)
        note = ", ".join(f"{name} {each.mean():.1%}" for name, each in missed.items() if each.any())
        if self.mean:
            if missed[UNANSWERED].mean() > LOST:  # the mean of the others would mislead
                return np.full(len(requests), np.inf), note
            done = requests.finished()
            return _each(done, self.mean)[np.argsort(done.arrival_s, kind="stable")], note
        order = np.argsort(requests.arrival_s, kind="stable")
        return np.logical_or.reduce([*missed.values()])[order].astype(float), note

    def _missed(self, requests: Requests) -> dict[str, np.ndarray]:
        """Which requests have no answer, and which miss each limit that is of every one."""
        served = requests.replica >= 0
        found = {UNANSWERED: ~served}
        for name, most in {} if self.mean else self.limits.items():
            found[name] = np.zeros(len(requests), bool)
            found[name][served] = _each(requests.finished(), name) > most
        return found

    def stretch(self, requests: Requests) -> float:
        """By what factor the limits would have to be longer, to be just met: above 1 where they are
        missed, infinite where no length would do."""
        if self.mean:
            values, _ = self.values(requests)
            return float(values.mean()) / self.limits[self.mean]
        worst = np.full(len(requests), np.inf)
        done = requests.finished()
        of = [_each(done, name) / most for name, most in self.limits.items()]
        worst[requests.replica >= 0] = np.max(of, axis=0)
        due = max(math.ceil(round(self.share * len(worst), 9)), 1)
        return float(np.partition(worst, due - 1)[due - 1])

    def numbers(self, outcome: Outcome) -> dict[str, float]:
        """What a run says, by name: `slo.limited` and, where there are enough requests, half of its
        95 % interval `slo.half`; `slo.stretch`; `slo.met`, requests that meet limits that are of
        each; `slo.missed.*` by what it was."""
        requests = outcome.requests
        values, _ = self.values(requests)
        found = {"limited": float(values.mean()), "stretch": self.stretch(requests)}
        if not self.mean:
            found["met"] = float(len(values) - values.sum())
        if len(values) >= LEAST and np.isfinite(values).all():
            found["half"] = means(values)[1]
        found |= {f"missed.{n}": float(each.mean()) for n, each in self._missed(requests).items()}
        return {SLO + name: value for name, value in found.items()}


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
        if most <= 0:
            raise ValueError(f"{said!r}: a limit above 0 s is due")
        if how == "mean":
            return Rule({of: most}, mean=of)
        return Rule({of: most}, float(how[1:]) / 100)
    limits = {key: most for key, most in variant.workload.slo if most is not None}
    if not limits:
        raise ValueError(
            f"{name} has no limit: give workload.slo.ttft or tpot, or --slo; {_EXAMPLES}"
        )
    if zero := [key for key, most in limits.items() if most <= 0]:
        raise ValueError(f"{name}: slo.{zero[0]} is no limit; a time above 0 s is due")
    return Rule(limits, share)
