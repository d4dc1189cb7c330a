"""The answer in one sentence, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sim.facts.outcome import Outcome
from sim.results.difference import difference, of_chips, of_iterations, of_requests, told
from sim.results.metric import seconds_text
from sim.results.metrics import busy_s
from sim.text.units import show

_LIMITED, _MUCH = "limited_by_", 0.1


def verdict(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> str:
    """What the fastest variant gains over the baseline, what the difference is made of, and for
    what requests wait."""
    return _answer(outcomes, metrics, comparison) + _limits(metrics)


def _answer(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> str:
    names = list(outcomes)
    base = names[0]
    speed = {
        name: comparison[name]["speedup"] for name in names[1:] if "speedup" in comparison[name]
    }
    if not speed:
        key = "e2e_mean_s" if len(outcomes[base].requests) else "makespan_s"
        what = "has a mean end-to-end latency of" if len(outcomes[base].requests) else "takes"
        return f"{base} {what} {seconds_text(metrics[base].get(key, 0.0))}."
    best = max(speed, key=lambda name: speed[name])
    ratio = speed[best]
    what = " in mean end-to-end latency" if len(outcomes[base].requests) else ""
    if abs(ratio - 1) < 0.005:
        return f"{best} is as fast as {base}{what}, within half a percent."
    if ratio < 1:
        plain = "no variant is faster: the best, " if len(speed) > 1 else ""
        why = _why(outcomes[base], outcomes[best])
        return f"{plain}{best} is {1 / ratio:.2f}x slower than {base}{what}: {why}."
    why = _why(outcomes[base], outcomes[best])
    more = metrics[best].get("rejected", 0.0) - metrics[base].get("rejected", 0.0)
    but = (
        f" It turns away {more:,.0f} requests more, which count for nothing here."
        if more > 0
        else ""
    )
    return f"{best} is {ratio:.2f}x faster than {base}{what}{f': {why}' if why else ''}.{but}"


def paying(outcomes: Iterable[Outcome]) -> str:
    """Under which conditions techniques pay, each condition once."""
    found: dict[str, dict[tuple[tuple[str, str], ...], list[str]]] = {}
    for each in dict.fromkeys(pays for one in outcomes for pays in one.pays):
        beside = f"with {' and '.join(each.beside)}" if each.beside else "alone"
        found.setdefault(each.what, {}).setdefault(each.limits, []).append(beside)
    return " ".join(
        f"{what} {'; '.join(_conditions(by_limits))}." for what, by_limits in found.items()
    )


def _conditions(by_limits: Mapping[tuple[tuple[str, str], ...], list[str]]) -> Iterator[str]:
    for place, (limits, besides) in enumerate(by_limits.items()):
        label = "" if besides == ["alone"] else f" {' and '.join(besides)}"
        if not place:
            yield f"{', '.join(f'{limit} {when}' for limit, when in limits)}{label and f',{label}'}"
        else:
            yield f"{label.strip() or 'alone'} {', '.join(limit for limit, _ in limits)}"


def _limits(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """For what requests wait, where they do for much of the time, and how many are preempted, where
    many are."""
    waits: dict[str, list[str]] = {}
    for name, mine in metrics.items():
        for limit, share in mine.items():
            if limit.startswith(_LIMITED) and share > _MUCH:
                waits.setdefault(limit.removeprefix(_LIMITED), []).append(f"{name} {share:.0%}")
    told = [
        f" Requests wait for {limit} much of the time: {', '.join(shares)}."
        for limit, shares in waits.items()
    ]
    preempted = [
        f"{name} {count:,.0f}"
        for name, mine in metrics.items()
        if (count := mine.get("preemptions", 0.0)) > _MUCH * mine.get("requests", count)
    ]
    if preempted:
        told.append(f" Preemptions, with work that is done again: {', '.join(preempted)}.")
    return "".join(told)


def _why(base: Outcome, other: Outcome) -> str:
    """What the difference is made of, the largest parts first; of requests also what an iteration
    has more or less of."""
    if not len(base.requests):
        why = told(difference(of_chips(base), of_chips(other)))
    else:
        why = told(difference(of_requests(base), of_requests(other)))
        if inside := told(difference(of_iterations(base), of_iterations(other))):
            why += f"; an iteration: {inside}"
    totals = other.totals
    if totals.prefetched_bytes > base.totals.prefetched_bytes:
        share = busy_s(totals, "prefetch") / totals.seconds
        moved = show(totals.prefetched_bytes / other.replicas, "B")
        why += f"; prefetches bring {moved} into L2 meanwhile, {share:.0%} of the time"
    return why
