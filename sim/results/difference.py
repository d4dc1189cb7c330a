"""Where the difference between a variant and the baseline comes from: parts that add up to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sim.facts.outcome import Outcome
from sim.facts.span import BOUNDS
from sim.results.metric import seconds_text
from sim.results.metrics import exposed_s
from sim.results.palette import words
from sim.results.statistics import statistics

Times = Mapping[tuple[str, str], float]  # seconds by what they were spent on, and on what of it
_LIMITS = {
    "compute": "arithmetic",
    "HBM": "HBM",
    "L2": "L2",
    "link": "links",
    "latency": "launches",
}
_WAITS = {
    "exposed": "waiting for communication",
    "engine": "the engine itself",
    "bubbles": "waiting for other stages",
    "idle": "having nothing to do",
}
_TOLD = 3  # parts that a sentence names
SMALL = 0.005  # of the difference: parts below it are not named


class Part(NamedTuple):
    """A part of the difference, in seconds: below zero, what the variant saves."""

    what: str
    cause: str
    seconds: float


def of_chips(outcome: Outcome) -> Times:
    """The wall time of a rank: its ops by kind and by what limits them, and what it waited for."""
    totals, each = outcome.totals, 1.0 / outcome.replicas
    spent = {
        (kind, bound): limits.get(bound, 0.0) * each
        for kind, limits in totals.limit_s.items()
        for bound in BOUNDS
    }
    waits = exposed_s(totals), totals.engine_s, totals.bubble_s, totals.idle_s
    rest = totals.seconds - sum(map(sum, (each.values() for each in totals.limit_s.values())))
    spent |= {(name, ""): seconds * each for name, seconds in zip(_WAITS, waits)}
    # Rounding, and whatever the sums above do not know of.
    spent["", ""] = (rest - sum(waits)) * each
    return spent


def of_iterations(outcome: Outcome) -> Times:
    """The mean iteration of a rank, likewise; without the time in which there was none."""
    steps = max(outcome.totals.steps / outcome.replicas, 1.0)
    return {key: seconds / steps for key, seconds in of_chips(outcome).items() if key[0] != "idle"}


def of_requests(outcome: Outcome) -> Times:
    """The mean latency of requests: queueing, to the first token, from there to the last."""
    found = statistics(outcome.requests)
    queue_s, e2e_s = found.get("queue_mean_s", 0.0), found.get("e2e_mean_s", 0.0)
    if "ttft_mean_s" not in found:
        return {("queueing", ""): queue_s, ("running", ""): e2e_s - queue_s}
    first_s = found["ttft_mean_s"]
    return {
        ("queueing", ""): queue_s,
        ("prefill", ""): first_s - queue_s,
        ("decode", ""): e2e_s - first_s,
    }


def difference(base: Times, other: Times) -> list[Part]:
    """The parts of `other` less `base`, the largest first; they add up to the whole difference.

    Time that went from reading HBM to reading L2 is one part; else each kind of op has one, with
    what most of it is.
    """
    apart = {key: other.get(key, 0.0) - base.get(key, 0.0) for key in {**base, **other}}
    parts = []
    for what in dict.fromkeys(name for name, _ in apart):
        own = {of: seconds for (name, of), seconds in apart.items() if name == what}
        total = sum(own.values())
        parts.append(Part(_named(what), _cause(own, total), total))
    return sorted(parts, key=lambda part: (-abs(part.seconds), part.what))


def _named(what: str) -> str:
    return _WAITS.get(what) or words(what) or "what nothing here explains"


def _cause(own: Mapping[str, float], total: float) -> str:
    """What most of a part's difference is."""
    if own.get("HBM", 0.0) * own.get("L2", 0.0) < 0 and own["HBM"] * total > 0:
        return "L2 read instead of HBM" if total < 0 else "HBM read instead of L2"
    most = max(own, key=lambda of: own[of] * (1 if total > 0 else -1))
    return f"{'less' if total < 0 else 'more'} time in {_LIMITS[most]}" if most in _LIMITS else ""


def told(parts: Iterable[Part]) -> str:
    """The largest parts in a sentence: "matmul -8.1 s (L2 read instead of HBM), ..."."""
    some = list(parts)
    whole = sum(abs(part.seconds) for part in some)
    named = [part for part in some[:_TOLD] if abs(part.seconds) > SMALL * whole]
    return ", ".join(
        f"{part.what} {'-' if part.seconds < 0 else '+'}{seconds_text(abs(part.seconds))}"
        + (f" ({part.cause})" if part.cause else "")
        for part in named
    )
