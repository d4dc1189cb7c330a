"""How long requests took, and how alike tenants were treated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sim.facts.requests import Requests

LATENCIES = {
    "ttft": "time to first token: first token minus arrival",
    "tpot": "time per output token after the first: (last - first token) / (output tokens - "
    "1); not for one token",
    "e2e": "end-to-end latency: last token minus arrival",
    "queue": "waiting: start of the first iteration that works on the request minus its arrival",
}
STATISTICS = {
    "mean": "mean over finished requests",
    "p50": "median over finished requests, linear between ranks",
    "p90": "90th percentile over finished requests, linear between ranks",
    "p99": "99th percentile over finished requests, linear between ranks",
}


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


def request_metrics(requests: Requests) -> dict[str, float]:
    """Their number, and mean and percentiles of each latency; of finished requests."""
    found: dict[str, float] = {"requests": len(requests)}
    for name, seconds in latencies(requests).items():
        if len(seconds):
            found[f"{name}_mean_s"] = float(np.mean(seconds))
            p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
            found |= {
                f"{name}_p50_s": float(p50),
                f"{name}_p90_s": float(p90),
                f"{name}_p99_s": float(p99),
            }
    return found


def jain(values: Iterable[float]) -> float:
    """Jain's fairness index (Jain, Chiu, Hawe 1984, DEC-TR-301).

    >>> jain([2.0, 2.0, 2.0]), jain([1.0, 0.0])
    (1.0, 0.5)
    """
    x = np.array([*values])
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))
