"""Numbers of a run, each a function of its Outcome: numerator, denominator and window stand in
`DEFINITIONS`."""

from __future__ import annotations

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.serving import Serving
from sim.facts.totals import Totals
from sim.results.arrays import OF_ARRAY, OF_GRID, array_metrics, grid_metrics
from sim.results.jobs import OF_LINKS, link_metrics
from sim.results.statistics import LATENCIES, STATISTICS, request_metrics
from sim.text.units import show

_ONE = "on one rank, mean over the pipeline stages and the replicas"
_SUM = "on one rank, mean over the pipeline stages, summed over the replicas"
# Of a workload of requests. "Finished" requests are those not rejected: a run goes on until the
# last has its answer.
OF_REQUESTS: dict[str, str] = {
    "requests": "requests finished",
    "rejected": "requests turned away: longer than the KV-cache could ever hold, or past their "
    "deadline",
    "preemptions": "times that a running request was put back into the queue for want of KV "
    "blocks, over all replicas; "
    "one request may be preempted more than once",
    "retries": "times that a request was routed anew because its replica failed",
    "most_replicas_on": "replicas that were on at once, at most",
    "kv_occupancy": "integral over makespan_s of the share of KV blocks that requests hold / "
    "makespan_s, mean over the "
    "replicas; blocks of the prefix cache that no request uses do not count",
    "kv_peak": "highest share of the KV blocks in use at once on any replica",
    **{
        f"itl_p{percent}_s": "inter-token latency: time between two tokens of one answer, "
        f"{percent}th percentile over "
        "all of them, rounded up to a histogram bin (0.5 %); tokens that one step makes "
        "together are 1 us apart at most"
        for percent in (50, 90, 99)
    },
    "prefix_hit_rate": "prompt tokens found in the prefix cache at the first admission / "
    "prompt tokens, over finished "
    "requests",
    "prefix_block_hit_rate": "named prefix blocks found in the cache / looked up, at each "
    "request's first admission",
    "expanded_prefix_share": "query-key pairs of decode attention on prefixes that are kept "
    "expanded / all of them",
    "acceptance_rate": "speculative tokens accepted / drafted",
    "slo_attainment": "requests that met every limit of `slo` / all requests, rejected ones "
    "included; one of a single "
    "token has no tpot to miss",
    "goodput_per_s": "requests that met every limit of `slo` / makespan_s",
    "joules_per_token": "rated power of a chip x chip-seconds on / output tokens; chips draw "
    "less when idle",
    "dollars_per_million_tokens": "price of the chip-seconds on / output tokens x 1e6",
    "requests_per_s": "requests finished / makespan_s, all replicas together",
    "requests_per_s_per_replica": "requests finished / makespan_s / replicas, where there are "
    "several",
    "output_tokens_per_s_per_replica": "output tokens of all requests / makespan_s / replicas, "
    "where there are several",
    **{
        f"{latency}_{statistic}_s": f"{what}; {how}"
        for latency, what in LATENCIES.items()
        for statistic, how in STATISTICS.items()
        if (latency, statistic) != ("tpot", "mean")
    },
}
_OF_STATIC: dict[str, str] = {
    "prefill_s": "part of the wall time spent in prefill",
    "decode_s": "part of the wall time spent in decode steps",
}
_OF_ANY: dict[str, str] = {
    "makespan_s": "wall time of the whole run, from time zero (of requests, the first arrival) "
    "to the end of the last "
    "op; of collectives, of the last one that is not in the background",
}
_OF_MODELS: dict[str, str] = {
    "tpot_mean_s": "static run: decode_s / decode steps of a sequence; request run: mean of "
    "(last - first token) / (output tokens - 1)",
    "output_tokens_per_s": "output tokens of all sequences / makespan_s",
    "output_tokens_per_s_per_chip": "output tokens of all sequences / chip-seconds: ranks x "
    "the time each replica was "
    "on, all of makespan_s unless it scales with load",
    "compute_busy": f"time ops occupied the compute stream / makespan_s, {_ONE}",
    "communication_busy": f"time ops occupied the communication stream / makespan_s, {_ONE}",
    "prefetch_busy": f"time ops occupied the prefetch stream / makespan_s, {_ONE}",
    "idle": "time in which no iteration was running / makespan_s, mean over the replicas",
    "engine": "time in which an iteration ran and none of its ops / makespan_s, mean over the "
    "replicas: `overhead`, "
    "drafting, swapping, a slow replica's delay, work lost in a failure",
    "bubbles": "time in which a pipeline stage had nothing to do while an iteration ran / "
    "makespan_s, mean over the "
    "stages and the replicas",
    "exposed_communication": "(makespan_s - idle, engine and bubble time - compute stream's "
    "busy time) / makespan_s: "
    f"nothing computes, because a collective or a join is waited for; {_ONE}",
    "hbm_utilisation": f"bytes over the HBM port / (HBM rate x makespan_s), {_ONE}",
    "l2_utilisation": f"bytes over the L2 port / (L2 rate x makespan_s), {_ONE}",
    "link_utilisation": "bytes over the rank's links / (rate of its outgoing links together x "
    f"makespan_s), {_ONE}",
    "mfu": "FLOP on the matrix engine / (matrix peak x makespan_s), the peak being that of the "
    "device's quickest "
    f"number format; {_ONE}",
    "hbm_bytes": f"bytes over the HBM port in the whole run, {_SUM}",
    "prefetched_bytes": f"bytes fetched into L2 ahead of use in the whole run, {_SUM}",
    "unused_prefetch_bytes": f"prefetched bytes that were evicted or never read, {_SUM}",
    "ops": f"ops played, on all streams, {_SUM}",
    "steps": "forward passes in the run, prefill included, over all replicas",
}
_OF_TENANTS: dict[str, str] = {
    "fairness": "Jain's index (sum x)^2 / (n sum x^2) over the n tenants, of x = 1 / slowdown: "
    "1 if all are slowed "
    "down alike, 1/n if all but one stand still",
    "weighted_fairness": "the same of x = 1 / (slowdown x weight): 1 if each goes on in "
    "proportion to its weight; "
    "where weights differ and chips are shared",
    "slowdown_max": "the highest slowdown of a tenant",
}
_OF_COMPARISON: dict[str, str] = {
    "speedup": "request run: baseline e2e_mean_s / this e2e_mean_s; any other: baseline "
    "makespan_s / this makespan_s; "
    "above 1 is faster; in the comparison only",
}
DEFINITIONS: dict[str, str] = {
    **_OF_ANY,
    **_OF_STATIC,
    **OF_REQUESTS,
    **_OF_MODELS,
    **_OF_TENANTS,
    **OF_LINKS,
    **OF_ARRAY,
    **OF_GRID,
    **_OF_COMPARISON,
}
# Of requests that are inferences of a network, and make no tokens.
OF_INFERENCES = {
    name: text
    for name, text in OF_REQUESTS.items()
    if name in ("requests", "requests_per_s") or name.startswith(("e2e_", "queue_"))
}
# By kind of workload: what it may have a value for.
OF_KIND: dict[str, dict[str, str]] = {
    "decode": _OF_ANY | _OF_STATIC | _OF_MODELS | _OF_COMPARISON,
    "requests": _OF_ANY | OF_REQUESTS | _OF_MODELS | _OF_COMPARISON,
    "tenants": _OF_ANY | OF_REQUESTS | _OF_MODELS | _OF_TENANTS | _OF_COMPARISON,
    "collectives": _OF_ANY | OF_LINKS | _OF_COMPARISON,
    "networks": _OF_ANY | OF_ARRAY | OF_INFERENCES | _OF_TENANTS | _OF_COMPARISON,
    "granularity": OF_GRID,
}

_NOISE = 1e-12  # a difference of sums below this share of them is rounding
_HIGHER = {
    "fairness",
    "weighted_fairness",
    "mfu",
    "speedup",
    "slo_attainment",
    "prefix_hit_rate",
    "prefix_block_hit_rate",
    "expanded_prefix_share",
    "effective_ops_per_s_at_power",
    "ops_per_joule",
    "best_ops_per_joule",
    "share_of_best",
    "array_utilisation",
    "busy_pods",
    "sharing_gain",
}
_COUNTS = {
    "ops",
    "steps",
    "requests",
    "rejected",
    "preemptions",
    "retries",
    "most_replicas_on",
    "links_used",
    "most_flows_on_a_link",
    "rounds",
    "tile_ops",
    "pods",
    "best_rows",
    "best_cols",
    "best_pods",
}
_LOWER = {
    "memory_stalls",
    "slowdown_max",
    "unused_prefetch_bytes",
    "rejected",
    "preemptions",
    "retries",
    "joules_per_token",
    "dollars_per_million_tokens",
}  # a share of a shorter wall time may rise while all is well: no best there


def metrics(outcome: Outcome) -> dict[str, float]:
    """Every metric that this outcome has a meaning for, by name; units are in the names, shares are
    in [0, 1].

    A metric whose denominator is missing (no rate known, no wall time) is left out, so there is
    never a NaN. Shares are not clipped: one above 1 is a bug in the engine, and a test should see
    it.
    """
    totals, wall_s = outcome.totals, outcome.totals.seconds / outcome.replicas
    found: dict[str, float] = {"makespan_s": wall_s}
    if outcome.grid:
        return grid_metrics(outcome.grid)
    if outcome.array:
        return found | array_metrics(outcome, outcome.array)
    if outcome.jobs:
        return found | link_metrics(outcome)
    found |= {f"{phase}_s": seconds for phase, seconds in outcome.phases.items()}
    if outcome.decode_steps:
        found["tpot_mean_s"] = outcome.phases["decode"] / outcome.decode_steps
    chip_s = (
        outcome.serving.chip_s if outcome.serving else wall_s * outcome.ranks * outcome.replicas
    )
    if len(outcome.requests):
        found |= request_metrics(outcome.requests.finished())
        found["rejected"] = len(outcome.requests) - found["requests"]
    if outcome.serving:
        found |= _serving_metrics(outcome, outcome.serving, wall_s)
    if wall_s > 0:
        if len(outcome.requests):
            found["requests_per_s"] = found["requests"] / wall_s
        found["output_tokens_per_s"] = outcome.tokens / wall_s
        found["output_tokens_per_s_per_chip"] = outcome.tokens / chip_s
        if outcome.replicas > 1:
            found["requests_per_s_per_replica"] = found["requests"] / wall_s / outcome.replicas
            found["output_tokens_per_s_per_replica"] = outcome.tokens / wall_s / outcome.replicas
        found |= _shares(totals, outcome.rates)
    found["hbm_bytes"] = totals.bytes.get("HBM", 0.0)
    found["prefetched_bytes"] = totals.prefetched_bytes
    unused = totals.unused_prefetch_bytes
    found["unused_prefetch_bytes"] = (
        0.0 if abs(unused) < _NOISE * totals.prefetched_bytes else unused
    )
    found["ops"], found["steps"] = totals.ops, totals.steps
    return {name: float(value) for name, value in found.items()}


def _shares(totals: Totals, rates: dict[str, float]) -> dict[str, float]:
    """Busy shares and utilisations over the whole wall time, which is above zero."""
    wall_s = totals.seconds
    found = {
        f"{s}_busy": busy_s(totals, s) / wall_s for s in ("compute", "communication", "prefetch")
    }
    found["idle"] = totals.idle_s / wall_s
    if totals.engine_s:
        found["engine"] = totals.engine_s / wall_s
    if totals.bubble_s:
        found["bubbles"] = totals.bubble_s / wall_s
    found["exposed_communication"] = exposed_s(totals) / wall_s
    for capacity in ("HBM", "L2", "link"):
        if rates.get(capacity):
            found[f"{capacity.lower()}_utilisation"] = (
                totals.bytes.get(capacity, 0.0) / rates[capacity] / wall_s
            )
    if rates.get("matrix"):
        found["mfu"] = totals.matrix_flop / rates["matrix"] / wall_s
    return found


def busy_s(totals: Totals, stream: str) -> float:
    """Seconds in which ops occupied `stream` of one rank."""
    return sum(totals.span_s.get(stream, {}).values())


def exposed_s(totals: Totals) -> float:
    """Seconds in which an iteration ran and nothing computed: time waited for collectives and
    joins."""
    left_s = (
        totals.seconds
        - totals.idle_s
        - totals.engine_s
        - totals.bubble_s
        - busy_s(totals, "compute")
    )
    return 0.0 if abs(left_s) < _NOISE * totals.seconds else left_s


def _serving_metrics(outcome: Outcome, serving: Serving, wall_s: float) -> dict[str, float]:
    found: dict[str, float] = {"preemptions": serving.preemptions, "kv_peak": serving.kv_peak}
    done = outcome.requests.finished()
    if wall_s > 0:
        found["kv_occupancy"] = serving.kv_share_s / (wall_s * serving.replicas)
    if count := int(serving.gaps.sum()):
        past = np.cumsum(serving.gaps)
        for percent in (50, 90, 99):
            place = int(np.searchsorted(past, percent / 100 * count))
            found[f"itl_p{percent}_s"] = float(serving.gap_ends_s[place])
    if serving.blocks_looked_up:
        found["prefix_hit_rate"] = float(done.hit_tokens.sum() / done.prompt_tokens.sum())
        found["prefix_block_hit_rate"] = serving.blocks_found / serving.blocks_looked_up
    if serving.expanded_share is not None:
        found["expanded_prefix_share"] = serving.expanded_share
    if serving.drafted:
        found["acceptance_rate"] = serving.accepted / serving.drafted
    if serving.slo_s:
        met = np.ones(len(done), bool)
        if "ttft" in serving.slo_s:
            met &= done.first_token_s - done.arrival_s <= serving.slo_s["ttft"]
        if "tpot" in serving.slo_s:
            met &= done.last_token_s - done.first_token_s <= serving.slo_s["tpot"] * (
                done.output_tokens - 1
            )
        found["slo_attainment"] = (
            float(met.sum() / len(outcome.requests)) if len(outcome.requests) else 0.0
        )
        if wall_s > 0:
            found["goodput_per_s"] = float(met.sum() / wall_s)
    if outcome.tokens and serving.joules:
        found["joules_per_token"] = serving.joules / outcome.tokens
    if outcome.tokens and serving.dollars:
        found["dollars_per_million_tokens"] = serving.dollars / outcome.tokens * 1e6
    found["retries"] = float(outcome.requests.retries.sum())
    if serving.most_on < serving.replicas:
        found["most_replicas_on"] = serving.most_on
    return found


def better(name: str) -> str:
    """Which way is good for a metric: "lower", "higher", or "" where it depends."""
    if name in _HIGHER or name.endswith(("_per_s", "_per_s_per_chip", "_per_s_per_replica")):
        return "higher"
    return "lower" if name in _LOWER or name.endswith("_s") else ""


def pretty(name: str, value: float) -> str:
    """`value` of the metric `name` as a person reads it.

    >>> pretty("ttft_p99_s", 0.0123), pretty("mfu", 0.4567), pretty("hbm_bytes", 3.2e9),
    pretty("speedup", 1.27)
    ('12.3 ms', '45.7 %', '3.2 GB', '1.27x')
    """
    if name in ("speedup", "sharing_gain") or name.startswith("slowdown"):
        return f"{value:.2f}x"
    if "ops_per_s" in name:
        return f"{f'{value / 1e12:#,.4g}'.rstrip('.')} TOPS"
    if name.endswith("ops_per_joule"):
        return f"{f'{value / 1e12:#,.4g}'.rstrip('.')} TOPS/W"
    if name.endswith("_power_w"):
        return f"{value:,.4g} W"
    if name.endswith(("_per_s", "_per_s_per_chip", "_per_s_per_replica")):
        return f"{value:,.0f}/s" if abs(value) >= 100 else f"{value:.3g}/s"
    if name.endswith("_bytes"):
        return show(value, "B")
    if name.endswith("_s"):
        return seconds_text(value)
    if name in ("joules_per_token", "dollars_per_million_tokens"):
        return f"{value:.3g}" + (" J" if name.startswith("joules") else " $")
    if name in _COUNTS:
        return f"{value:,.0f}"
    if name.endswith("fairness"):
        return f"{value:.3f}"
    return f"{100 * value:.1f} %" if name in DEFINITIONS or name == "busy_share" else f"{value:.4g}"


def seconds_text(seconds: float) -> str:
    """Seconds as text with a decimal prefix, the micro sign written out as one.

    >>> seconds_text(3.05e-5)
    '30.5 µs'
    """
    return show(seconds, "s").replace(" us", " µs")
