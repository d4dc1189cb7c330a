"""How long requests took, and how alike tenants were treated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from weakref import WeakKeyDictionary

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.results.metric import Metric, table_of
from sim.results.metrics import wall_s

LATENCIES = {
    "ttft": "time to first token: first token minus arrival",
    "tpot": "time per output token after the first: (last - first token) / (output tokens - "
    "1); not for one token",
    "e2e": "end-to-end latency: last token minus arrival",
    "queue": "waiting: start of the first iteration that works on the request minus its arrival",
}
_STATISTICS = {
    "mean": "mean over finished requests",
    "p50": "median over finished requests, linear between ranks",
    "p90": "90th percentile over finished requests, linear between ranks",
    "p99": "99th percentile over finished requests, linear between ranks",
}
_LABELS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end", "queue": "queueing"}
_MEMORY: WeakKeyDictionary[Requests, dict[str, float]] = WeakKeyDictionary()


def latencies(requests: Requests) -> dict[str, np.ndarray]:
    """Seconds of each request by latency ("ttft", "tpot", "e2e", "queue"), in the order of
    `requests`.

    Only for finished ones; those of one token have no "tpot" and are left out of it. Inferences
    that make no tokens at all have neither.
    """
    whole = {
        "e2e": requests.last_token_s - requests.arrival_s,
        "queue": requests.scheduled_s - requests.arrival_s,
    }
    if not requests.output_tokens.any():
        return whole
    more = requests.output_tokens > 1
    decode_s = requests.last_token_s[more] - requests.first_token_s[more]
    return {
        "ttft": requests.first_token_s - requests.arrival_s,
        **whole,
        "tpot": decode_s / (requests.output_tokens[more] - 1),
    }


def statistics(requests: Requests) -> Mapping[str, float]:
    """Number of finished requests; mean and percentiles of their latencies, in seconds."""
    if requests not in _MEMORY:
        done = requests.finished()
        found: dict[str, float] = {"requests": float(len(done))}
        for name, seconds in latencies(done).items():
            if len(seconds):
                found[f"{name}_mean_s"] = float(np.mean(seconds))
                percentiles = np.percentile(seconds, (50, 90, 99)).tolist()
                found |= dict(zip((f"{name}_p{p}_s" for p in (50, 90, 99)), percentiles))
        _MEMORY[requests] = found
    return _MEMORY[requests]


def _of(name: str, outcome: Outcome) -> float | None:
    return statistics(outcome.requests).get(name) if len(outcome.requests) else None


def _requests_per_s(outcome: Outcome) -> float | None:
    if not len(outcome.requests) or not wall_s(outcome) > 0:
        return None
    return statistics(outcome.requests)["requests"] / wall_s(outcome)


def _latency(name: str, statistic: str) -> Metric:
    key = f"{name}_{statistic}_s"
    return Metric(
        name=key,
        unit="s",
        better="lower",
        label=f"{_LABELS[name]} {statistic}",
        of=f"{LATENCIES[name]}; {_STATISTICS[statistic]}",
        value=lambda outcome: _of(key, outcome),
        shown=name != "queue" or statistic == "p99",
        finished=True,
    )


REQUESTS = table_of(
    [
        Metric(
            name="requests",
            unit="count",
            better="",
            label="requests",
            of="requests finished: those not rejected, for a run goes on until the last has its "
            "answer",
            value=lambda outcome: _of("requests", outcome),
        ),
        *(_latency(name, statistic) for name in LATENCIES for statistic in _STATISTICS),
        Metric(
            name="requests_per_s",
            unit="/s",
            better="higher",
            label="throughput in requests",
            of="requests finished / makespan_s, all replicas together",
            value=_requests_per_s,
        ),
    ]
)


LOST = 0.01  # of the requests: with more of them without an answer, statistics of the rest mislead


def lost(found: Mapping[str, float]) -> float:
    """Share of the requests that have no answer, by the metrics of a run or a part of one."""
    asked = found.get("requests", 0.0) + found.get("rejected", 0.0)
    return found.get("rejected", 0.0) / asked if asked else 0.0


def survivors(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """What to say first of runs in which many requests have no answer; '' if there are none."""
    told = [
        f"{name} has no answer for {found['rejected']:,.0f} of "
        f"{found['requests'] + found['rejected']:,.0f} requests ({share:.1%})"
        for name, found in metrics.items()
        if (share := lost(found)) > LOST
    ]
    return f"{'; '.join(told)}: its latencies are those of the others. " if told else ""


def fairness(slowdowns: Collection[float]) -> float | None:
    """How alike slowdowns are; None where there are none."""
    return jain(1 / each for each in slowdowns) if slowdowns else None


def jain(values: Iterable[float]) -> float:
    """Jain's fairness index (Jain, Chiu, Hawe 1984, DEC-TR-301).

    >>> jain([2.0, 2.0, 2.0]), jain([1.0, 0.0])
    (1.0, 0.5)
    """
    x = np.array([*values])
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))
