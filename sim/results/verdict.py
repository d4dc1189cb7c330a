"""The answer in one sentence, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.outcome import Outcome
from sim.results.arrays import grid_metrics
from sim.results.jobs import busiest
from sim.results.metrics import busy_s, exposed_s, pretty
from sim.results.tenants import tenants


def verdict(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> str:
    """What the fastest variant gains over the baseline, and where the gain comes from."""
    names = list(outcomes)
    base = names[0]
    if any(outcome.jobs for outcome in outcomes.values()):
        return _of_jobs(outcomes, metrics)
    if all(outcome.grid for outcome in outcomes.values()):
        return _of_grids(outcomes)
    if all(outcome.array for outcome in outcomes.values()):
        return _of_arrays(outcomes, metrics)
    if all(outcome.tenants for outcome in outcomes.values()):
        return _of_tenants(outcomes)
    speed = {
        name: comparison[name]["speedup"] for name in names[1:] if "speedup" in comparison[name]
    }
    if not speed:
        key = "e2e_mean_s" if len(outcomes[base].requests) else "makespan_s"
        what = "has a mean end-to-end latency of" if len(outcomes[base].requests) else "takes"
        return f"{base} {what} {pretty(key, metrics[base].get(key, 0.0))}."
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


def _of_jobs(outcomes: Mapping[str, Outcome], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Which variant is the quickest, which the slowest, and the link that limits it."""
    wall_s = {name: mine["makespan_s"] for name, mine in metrics.items()}
    quick, slow = (
        min(wall_s, key=lambda name: wall_s[name]),
        max(wall_s, key=lambda name: wall_s[name]),
    )
    full, most = busiest(outcomes[slow]), metrics[slow].get("busiest_link_utilisation", 0.0)
    where = f"; its busiest link: {full} in use" if full else ""
    if 0 < most < 0.5:
        where = f"; there, no link is more than {100 * most:.0f} % in use"
    if len(wall_s) == 1:
        return f"{slow} takes {pretty('makespan_s', wall_s[slow])}{where}."
    if wall_s[slow] < 1.005 * wall_s[quick]:
        return (
            "All variants take as long, within half a percent: "
            f"{pretty('makespan_s', wall_s[slow])}{where}."
        )
    ratio = f"{wall_s[slow] / wall_s[quick]:.2f}"
    return f"{quick} takes {pretty('makespan_s', wall_s[quick])}, {slow} {ratio}x as long{where}."


def _queueing(base: Mapping[str, float], best: Mapping[str, float]) -> str:
    """What is said where most of the gain is time not spent in the queue; '' where it is not."""
    before_s, after_s = (mine.get("queue_mean_s", 0.0) for mine in (base, best))
    if 2 * (before_s - after_s) <= base.get("e2e_mean_s", 0.0) - best.get("e2e_mean_s", 0.0):
        return ""
    return (
        f"mean queueing went from {pretty('queue_mean_s', before_s)} to "
        f"{pretty('queue_mean_s', after_s)}."
    )


def _of_tenants(outcomes: Mapping[str, Outcome]) -> str:
    """How much slower each way of sharing makes each tenant."""
    said = []
    for variant, outcome in outcomes.items():
        slow = {
            name: mine["slowdown"] for name, mine in tenants(outcome).items() if "slowdown" in mine
        }
        if slow and max(slow.values()) < 1.005:
            said.append(f"{variant} slows nobody down")
        else:
            each = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slow.items())
            said.append(f"{variant} makes {each} as slow as with its chips to itself")
    return f"{'; '.join(said)}."


def _of_grids(outcomes: Mapping[str, Outcome]) -> str:
    """Which size is the best, of each variant."""
    said = []
    for variant, outcome in outcomes.items():
        assert outcome.grid is not None
        mine, (rows, cols) = grid_metrics(outcome.grid), outcome.grid.here
        said.append(
            f"{variant}: {mine['best_rows']:.0f} x {mine['best_cols']:.0f} does most a joule, "
            f"{pretty('ops_per_joule', mine['best_ops_per_joule'])} with "
            f"{mine['best_pods']:,.0f} pods in "
            f"{outcome.grid.power_w:,.4g} W; {rows} x {cols} has "
            f"{100 * mine['share_of_best']:.1f} % of that"
        )
    return f"{'; '.join(said)}."


def _of_arrays(outcomes: Mapping[str, Outcome], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Which array does most for the same power, or what sharing one buys and whom it slows down."""
    alone = [name for name, outcome in outcomes.items() if outcome.sharing == "alone"]
    said = []
    if alone:
        speed = {name: metrics[name]["effective_ops_per_s_at_power"] for name in alone}
        best, base = max(speed, key=lambda name: speed[name]), alone[0]
        power = outcomes[best].array
        assert power is not None
        text = (
            f"{best} does {pretty('effective_ops_per_s', speed[best])} scaled to "
            f"{power.power_w:,.4g} W"
        )
        share = f"{100 * metrics[best]['array_utilisation']:.0f} % of its peak"
        worst = min(speed, key=lambda name: speed[name])
        other = base if best != base else worst
        said.append(
            f"{text}, {share}"
            + (f", {speed[best] / speed[other]:.2f}x as much as {other}" if other != best else "")
        )
    for variant, outcome in outcomes.items():
        if variant in alone:
            continue
        each = {name: mine["slowdown"] for name, mine in tenants(outcome).items()}
        slow = " and ".join(f"{name} {ratio:.2f}x" for name, ratio in each.items())
        if len(each) > 3:
            worst = max(each, key=lambda name: each[name])
            slow = f"{worst}, the worst off, {each[worst]:.2f}x"
        gain = metrics[variant].get("sharing_gain")
        done = "" if gain is None else f"all done {gain:.2f}x as soon as one after the other, "
        said.append(f"{variant}: {done}{slow} as slow as alone")
    return f"{'; '.join(said)}."


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
