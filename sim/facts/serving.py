"""What the replicas of a fleet did between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Serving(NamedTuple):
    """What the replicas did between them, beside the requests themselves."""

    replicas: int
    kv_share_s: float  # integral of the share of KV blocks in use, summed over replicas
    kv_peak: float  # highest share in use on any of them
    preemptions: int
    blocks_looked_up: int  # in the prefix cache
    blocks_found: int
    drafted: int  # speculative tokens
    accepted: int
    gaps: np.ndarray  # [bin] times between tokens of one answer; bin i ends at `gap_ends_s[i]`
    gap_ends_s: np.ndarray
    bin_s: float  # width of a bin of the time series
    series: dict[str, np.ndarray]  # by name, each bin's sum over the replicas
    slo_s: dict[str, float]  # "ttft", "tpot": what a request is to meet, where the scenario says
    chip_s: float  # that were paid for: of every chip while its replica was on
    joules: float | None  # of those, at rated power
    dollars: float | None
    most_on: int  # replicas that were on at once
    # Seconds in which the head of a queue waited for max_batch, max_batched_tokens or KV, summed
    # over the replicas.
    limited_s: tuple[tuple[str, float], ...] = ()
    most_users: int = 0  # sequences that had a block of the prefix cache at once
    expanded_share: float | None = None  # of decode attention: pairs on prefixes that are expanded
