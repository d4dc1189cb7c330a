"""Numbers of a fleet of replicas that serve requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.serving import Serving
from sim.results.metric import Metric, table_of
from sim.results.metrics import wall_s
from sim.results.statistics import statistics


def rejected(outcome: Outcome) -> float | None:
    """Requests turned away."""
    asked = len(outcome.requests)
    return asked - statistics(outcome.requests)["requests"] if asked else None


def _itl(percent: int) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        gaps = outcome.part.gaps
        if not (count := int(gaps.sum())):
            return None
        place = int(np.searchsorted(np.cumsum(gaps), percent / 100 * count))
        return float(outcome.part.gap_ends_s[place])

    return value


def _kv_occupancy(outcome: Outcome) -> float | None:
    if not wall_s(outcome) > 0:
        return None
    return outcome.part.kv_share_s / (wall_s(outcome) * outcome.part.replicas)


def _prefix_hits(outcome: Outcome) -> float | None:
    if not outcome.part.blocks_looked_up:
        return None
    done = outcome.requests.finished()
    return float(done.hit_tokens.sum() / done.prompt_tokens.sum())


def _met(outcome: Outcome) -> float | None:
    """Requests that met every limit; None where there is none."""
    limits = outcome.part.slo_s
    if not limits:
        return None
    done = outcome.requests.finished()
    met = np.ones(len(done), bool)
    if "ttft" in limits:
        met &= done.first_token_s - done.arrival_s <= limits["ttft"]
    if "tpot" in limits:
        met &= done.last_token_s - done.first_token_s <= limits["tpot"] * (done.output_tokens - 1)
    return float(met.sum())


def _attainment(outcome: Outcome) -> float | None:
    met = _met(outcome)
    if met is None:
        return None
    return met / len(outcome.requests) if len(outcome.requests) else 0.0


def _goodput(outcome: Outcome) -> float | None:
    met = _met(outcome)
    return None if met is None or not wall_s(outcome) > 0 else met / wall_s(outcome)


def _ratio(part: Callable[[Serving], Any], whole: Callable[[Serving], Any]) -> Callable:
    def value(outcome: Outcome) -> float | None:
        serving = outcome.part
        return part(serving) / whole(serving) if whole(serving) else None

    return value


def _a_token(spent: float | None, outcome: Outcome, scale: float = 1.0) -> float | None:
    return spent / outcome.tokens * scale if outcome.tokens and spent else None


def _requests_each(outcome: Outcome) -> float | None:
    if not wall_s(outcome) > 0 or outcome.replicas <= 1:
        return None
    return statistics(outcome.requests)["requests"] / wall_s(outcome) / outcome.replicas


SERVED = table_of(
    [
        Metric(
            name="rejected",
            unit="count",
            better="lower",
            label="rejected",
            of="requests turned away: longer than the KV-cache could ever hold, or past their "
            "deadline",
            value=rejected,
        ),
        Metric(
            name="preemptions",
            unit="count",
            better="lower",
            label="preemptions",
            of="times that a running request was put back into the queue for want of KV blocks, "
            "over all replicas; one request may be preempted more than once",
            value=lambda outcome: outcome.part.preemptions,
        ),
        Metric(
            name="retries",
            unit="count",
            better="lower",
            label="retries",
            of="times that a request was routed anew because its replica failed",
            value=lambda outcome: outcome.requests.retries.sum(),
        ),
        Metric(
            name="most_replicas_on",
            unit="count",
            better="",
            label="most replicas on",
            of="replicas that were on at once, at most",
            value=lambda outcome: (
                outcome.part.most_on if outcome.part.most_on < outcome.part.replicas else None
            ),
        ),
        Metric(
            name="slo_attainment",
            unit="share",
            better="higher",
            label="met the SLO",
            of="requests that met every limit of `slo` / all requests, rejected ones included; one "
            "of a single token has no tpot to miss",
            value=_attainment,
        ),
        Metric(
            name="goodput_per_s",
            unit="/s",
            better="higher",
            label="goodput in requests",
            of="requests that met every limit of `slo` / makespan_s",
            value=_goodput,
        ),
        *(
            Metric(
                name=f"itl_p{percent}_s",
                unit="s",
                better="lower",
                label=f"inter-token p{percent}",
                of="inter-token latency: time between two tokens of one answer, "
                f"{percent}th percentile over all of them, rounded up to a histogram bin (0.5 %); "
                "tokens that one step makes together are 1 us apart at most",
                value=_itl(percent),
                finished=True,
                shown=percent == 99,
            )
            for percent in (50, 90, 99)
        ),
        Metric(
            name="requests_per_s_per_replica",
            unit="/s",
            better="higher",
            label="requests per replica",
            of="requests finished / makespan_s / replicas, where there are several",
            value=_requests_each,
        ),
    ]
)


def _limited(what: str) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        seconds = dict(outcome.part.limited_s).get(what, 0.0)
        return seconds / outcome.totals.seconds if outcome.totals.seconds else None

    return value


LIMITS = table_of(
    Metric(
        name=f"limited_by_{name}",
        unit="share",
        better="lower",
        label=f"waiting for {what}",
        of=f"time in which the head of a queue could not be admitted for want of {what} / "
        "makespan_s, mean over the replicas",
        value=_limited(what),
    )
    for name, what in (
        ("max_batch", "max_batch"),
        ("max_batched_tokens", "max_batched_tokens"),
        ("kv", "KV-cache"),
    )
)
CACHE = table_of(
    [
        Metric(
            name="kv_occupancy",
            unit="share",
            better="",
            label="KV-cache in use, mean",
            of="integral over makespan_s of the share of KV blocks that requests hold / "
            "makespan_s, mean over the replicas; blocks of the prefix cache that no request uses "
            "do not count",
            value=_kv_occupancy,
        ),
        Metric(
            name="kv_peak",
            unit="share",
            better="",
            label="KV-cache in use, peak",
            of="highest share of the KV blocks in use at once on any replica",
            value=lambda outcome: outcome.part.kv_peak,
        ),
        Metric(
            name="prefix_hit_rate",
            unit="share",
            better="higher",
            label="prefix hits, of tokens",
            of="prompt tokens found in the prefix cache at the first admission / prompt tokens, "
            "over finished requests",
            value=_prefix_hits,
        ),
        Metric(
            name="prefix_block_hit_rate",
            unit="share",
            better="higher",
            label="prefix hits, of blocks",
            of="named prefix blocks found in the cache / looked up, at each request's first "
            "admission",
            value=_ratio(lambda s: s.blocks_found, lambda s: s.blocks_looked_up),
        ),
        Metric(
            name="expanded_prefix_share",
            unit="share",
            better="higher",
            label="decode attention on expanded prefixes",
            of="query-key pairs of decode attention on prefixes that are kept expanded / all of "
            "them",
            value=lambda outcome: outcome.part.expanded_share,
        ),
        Metric(
            name="acceptance_rate",
            unit="share",
            better="",
            label="drafts accepted",
            of="speculative tokens accepted / drafted",
            value=_ratio(lambda s: s.accepted, lambda s: s.drafted),
        ),
        Metric(
            name="joules_per_token",
            unit="J",
            better="lower",
            label="energy per output token",
            of="rated power of a chip x chip-seconds on / output tokens; chips draw less when idle",
            value=lambda outcome: _a_token(outcome.part.joules, outcome),
        ),
        Metric(
            name="dollars_per_million_tokens",
            unit="$",
            better="lower",
            label="cost per million tokens",
            of="price of the chip-seconds on / output tokens x 1e6",
            value=lambda outcome: _a_token(outcome.part.dollars, outcome, 1e6),
        ),
    ]
)


def owners(outcome: Outcome) -> dict[str, Outcome]:
    """Whose requests they are: nobody's in particular."""
    return {"": outcome}
