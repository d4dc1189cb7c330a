"""The answer in one sentence, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.outcome import Outcome
from sim.results.metric import seconds_text
from sim.results.metrics import busy_s, exposed_s


def verdict(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> str:
    """What the fastest variant gains over the baseline, and where the gain comes from."""
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
        return f"{plain}{best} is {1 / ratio:.2f}x slower than {base}{what}."
    why = _queueing(metrics[base], metrics[best]) or _where(outcomes[base], outcomes[best])
    more = metrics[best].get("rejected", 0.0) - metrics[base].get("rejected", 0.0)
    but = (
        f" It turns away {more:,.0f} requests more, which count for nothing here."
        if more > 0
        else ""
    )
    return f"{best} is {ratio:.2f}x faster than {base}{what}{f': {why}' if why else '.'}{but}"


def _queueing(base: Mapping[str, float], best: Mapping[str, float]) -> str:
    """What is said where most of the gain is time not spent in the queue; '' where it is not."""
    before_s, after_s = (mine.get("queue_mean_s", 0.0) for mine in (base, best))
    if 2 * (before_s - after_s) <= base.get("e2e_mean_s", 0.0) - best.get("e2e_mean_s", 0.0):
        return ""
    return f"mean queueing went from {seconds_text(before_s)} to {seconds_text(after_s)}."


def _where(base: Outcome, best: Outcome) -> str:
    """Where the baseline's time went that could be had, and what the variant makes of it."""
    seconds = base.totals.seconds
    if not seconds or not best.totals.seconds:
        return ""
    exposed = 100 * exposed_s(base.totals) / seconds
    fetching = 100 * busy_s(best.totals, "prefetch") / seconds
    said = f"{exposed:.0f} % of the time was exposed communication"
    if 0.5 <= fetching <= exposed:
        return f"{said}, of which {fetching:.0f} points now carry prefetches."
    if fetching > exposed:
        return f"{said}; prefetches now run for {fetching:.0f} points."
    now = 100 * exposed_s(best.totals) / best.totals.seconds
    bubbles, bubbles_now = (
        100 * totals.bubble_s / totals.seconds for totals in (base.totals, best.totals)
    )
    if bubbles - bubbles_now > max(exposed - now, 1.0):
        return (
            f"stages of the pipeline waited for each other {bubbles:.0f} % of the time, "
            f"{bubbles_now:.0f} % now."
        )
    if max(exposed, now) < 0.5:
        return ""
    return f"{said}, {now:.0f} % now."
