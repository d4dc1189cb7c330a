"""What an iteration takes, from sums over its batch: a table where only tokens count, lines where the context does.

The numbers come from the op graph and the cost functions (`sim.engine.pricing`). An op takes a fixed time and then
the longest of its arithmetic, HBM and L2 time, each linear in the features of the batch; ops that see only new tokens
or only logits are summed into tables beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.serving.fleet import Fleet

DENSE, WINDOW, BLOCK_SPARSE = range(3)
PATTERNS = {"dense": DENSE, "window": WINDOW, "blocksparse": BLOCK_SPARSE}


class StepTime(NamedTuple):
    """Seconds of an iteration as a function of its features: (1, new tokens, logits, pairs and entries by pattern).

    `of_tokens` and `of_logits` are NaN where they are not known yet. The rest is by row: an op that sees the context,
    `times` times in a pass.
    """

    of_tokens: np.ndarray
    of_logits: np.ndarray
    times: np.ndarray
    fixed_s: np.ndarray
    arithmetic_s: np.ndarray  # [row, feature] seconds
    hbm_bytes: np.ndarray  # [row, feature]
    buffer_bytes: np.ndarray  # [row, feature]: over L2 if they fit into it, else over HBM
    hbm_bytes_per_s: np.ndarray
    l2_bytes_per_s: float
    l2_bytes: float
    pattern: np.ndarray
    window_tokens: int
    sparse_stride: int


def measure(fleet: Fleet, r: int, price: StepTime) -> int:
    """Write the features of the planned iteration and how they grow; for how many decode steps they grow so."""
    features, growth = fleet.features[r], fleet.growth[r]
    features[:] = 0.0
    growth[:] = 0.0
    features[0] = 1.0
    linear = np.int64(2**40)
    for place in range(fleet.replicas[r].running_count):
        slot = fleet.running[r, place]
        new, past = fleet.slots[slot].chunk, fleet.slots[slot].cached
        if new == 0:
            continue
        features[1] += new
        if past + new == fleet.slots[slot].prompt + fleet.slots[slot].made:
            features[2] += 1
        for p in range(len(price.pattern)):
            pairs, entries = attended(price, price.pattern[p], new, past)
            features[3 + 2 * p] += pairs
            features[4 + 2 * p] += entries
            slope = 1.0
            if price.pattern[p] != DENSE:
                if past + 1 < price.window_tokens:
                    linear = min(linear, price.window_tokens - past)
                else:
                    slope = 1.0 / price.sparse_stride if price.pattern[p] == BLOCK_SPARSE else 0.0
            growth[3 + 2 * p] += slope
            growth[4 + 2 * p] += slope
    return linear


def _seen(price: StepTime, pattern: int, entries: float) -> float:
    if pattern == DENSE or entries <= price.window_tokens:
        return entries
    far = entries - price.window_tokens
    return price.window_tokens + (far / price.sparse_stride if pattern == BLOCK_SPARSE else 0.0)


def attended(price: StepTime, pattern: int, new: int, past: int) -> tuple[float, float]:
    """(query-key pairs, entries read) of one sequence: `sim.workload.transformer.attended`, for a compiler."""
    total = past + new
    if new == 1:
        seen = _seen(price, pattern, float(total))
        return seen, seen
    if pattern == DENSE:
        return new * past + new * (new + 1) / 2, float(total)
    knee = min(max(price.window_tokens - past, 0), new)
    above = 0.0
    if new > knee:
        first = _seen(price, pattern, float(past + knee + 1))
        above = (first + _seen(price, pattern, float(total))) / 2 * (new - knee)
    return knee * past + knee * (knee + 1) / 2 + above, float(total)


def steps_seconds(price: StepTime, features: np.ndarray, growth: np.ndarray, steps: int) -> float:
    """Seconds of `steps` iterations, the features growing from each to the next; NaN if a table lacks an entry."""
    total = (price.of_tokens[np.int64(features[1])] + price.of_logits[np.int64(features[2])]) * steps
    for row in range(len(price.times)):
        arithmetic = hbm = l2 = arithmetic_up = hbm_up = l2_up = 0.0
        for f in range(len(features)):
            arithmetic += price.arithmetic_s[row, f] * features[f]
            hbm += price.hbm_bytes[row, f] * features[f]
            l2 += price.buffer_bytes[row, f] * features[f]
            arithmetic_up += price.arithmetic_s[row, f] * growth[f]
            hbm_up += price.hbm_bytes[row, f] * growth[f]
        if l2 > price.l2_bytes:
            hbm, l2 = hbm + l2, 0.0
        rate = price.hbm_bytes_per_s[row]
        longest = _sum_of_longest(
            arithmetic, arithmetic_up, hbm / rate, hbm_up / rate, l2 / price.l2_bytes_per_s, l2_up, steps
        )
        total += price.times[row] * (price.fixed_s[row] * steps + longest)
    return total


def _sum_of_longest(
    a: float, a_up: float, b: float, b_up: float, c: float, c_up: float, steps: int
) -> float:  # fmt: skip
    """Sum over i < steps of the highest of three lines a + i a_up, b + i b_up, c + i c_up."""
    total, i = 0.0, 0
    while i < steps:
        top, up = a + i * a_up, a_up
        if b + i * b_up > top or (b + i * b_up == top and b_up > up):
            top, up = b + i * b_up, b_up
        if c + i * c_up > top or (c + i * c_up == top and c_up > up):
            top, up = c + i * c_up, c_up
        stay = steps - i  # for so many steps this line is the highest
        for base, slope in ((a, a_up), (b, b_up), (c, c_up)):
            if slope > up:
                stay = min(stay, np.int64((top - (base + i * slope)) / (slope - up)) + 1)
        total += stay * top + up * (stay * (stay - 1) / 2)
        i += stay
    return total
