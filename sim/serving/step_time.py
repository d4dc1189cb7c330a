"""What an iteration takes, from sums over its batch: a table where one number counts, lines where
the context does.

The numbers come from the op graph and the cost functions (`sim.engine.pricing`). An op takes a
fixed time and then the longest of its arithmetic, HBM and L2 time, each linear in the features of
the batch; ops that see only new tokens, only logits, or only the number of sequences with one query
are summed into tables beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.serving.fleet import (
    ACTIVE,
    ARITHMETIC_S,
    FIXED_S,
    HBM_BYTES,
    HBM_S,
    L2_BYTES,
    L2_S,
    LOGITS,
    LONE,
    LONE_PAIRS,
    LONG_ENTRIES,
    LONG_PAIRS,
    MIXED_PAIRS,
    NONE,
    ONE,
    PATTERN,
    PER_PATTERN,
    SHARED_ENTRIES,
    SHARED_PAIRS,
    SHARED_QUERIES,
    TOKENS,
    Fleet,
    Rules,
    features_of,
)
from sim.serving.kv import shared

DENSE, WINDOW, BLOCK_SPARSE, KEPT = range(4)
PATTERNS = {"dense": DENSE, "window": WINDOW, "blocksparse": BLOCK_SPARSE, "kept": KEPT}


Patterns = Sequence[tuple[str, int, int]]  # of each its name, window and stride


class StepTime(NamedTuple):
    """Seconds of an iteration as a function of its features (`sim.serving.fleet`).

    The first axis is the kind of machine and model, or a stage of it. The tables are NaN where they
    are not known yet. The rest is by row: an op that sees the context, `times` times in a pass.
    """

    of_tokens: np.ndarray  # [kind, tokens] seconds of the ops that see new tokens only
    of_logits: np.ndarray  # [kind, logits]
    of_lone: np.ndarray  # [kind, sequences with one query]
    times: np.ndarray  # [kind, row]
    fixed_s: np.ndarray  # [kind, row]
    arithmetic_s: np.ndarray  # [kind, row, feature] seconds
    hbm_bytes: np.ndarray  # [kind, row, feature]
    buffer_bytes: np.ndarray  # [kind, row, feature]: over L2 if they fit into it, else over HBM
    hbm_bytes_per_s: np.ndarray  # [kind, row]
    unhidden: (
        np.ndarray
    )  # [kind, row] share of the shorter of arithmetic and HBM time that the longer does not hide
    beside_s: np.ndarray  # [kind, row, feature] seconds of arithmetic done while it waits
    l2_bytes_per_s: np.ndarray  # [kind, row]
    l2_bytes: np.ndarray  # [kind]
    pattern: np.ndarray  # [kind, pattern], or NONE
    window_tokens: np.ndarray  # [kind, pattern]
    sparse_stride: np.ndarray  # [kind, pattern]
    share_least: np.ndarray  # [kind] sequences from which a shared prefix is made use of,
    share_most: np.ndarray  # [kind] up to so many tokens


def stacked(prices: Sequence[StepTime]) -> StepTime:
    """The prices of several kinds as one."""
    return StepTime(*(_padded(columns) for columns in zip(*prices)))


def pattern_rows(patterns: Patterns) -> tuple[list[int], list[int], list[int]]:
    """Patterns of attention as the columns of a `StepTime`."""
    return (
        [PATTERNS[name] for name, _, _ in patterns],
        [window for _, window, _ in patterns],
        [stride for _, _, stride in patterns],
    )


def unpriced(patterns: Patterns, sharing: tuple[float, float] = (np.inf, np.inf)) -> StepTime:
    """A closed form that knows no price: every iteration is asked for."""
    none, empty = np.full((1, 1), np.nan), np.zeros((1, 0))
    rows = np.zeros((1, 0, features_of(len(patterns))))
    return StepTime(
        none,
        none,
        none,
        empty.astype(int),
        empty,
        rows,
        rows,
        rows,
        empty,
        empty,
        rows,
        empty,
        np.zeros(1),
        *(np.array([row]) for row in pattern_rows(patterns)),
        *(np.array([limit]) for limit in sharing),
    )


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays one after the other along their first axis, each filled up along the others."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0)
    fill = {"f": np.nan if arrays[0].ndim == 2 else 0.0, "i": NONE}[arrays[0].dtype.kind]
    widths = [
        [(0, 0), *((0, int(most - has)) for most, has in zip(shape, array.shape[1:]))]
        for array in arrays
    ]
    return np.concatenate(
        [np.pad(array, width, constant_values=fill) for array, width in zip(arrays, widths)]
    )


def measure(rules: Rules, fleet: Fleet, r: int, price: StepTime) -> int:
    """Write the features of the planned iteration and how they grow; for how many decode steps they
    grow so."""
    features, growth, kind = fleet.features[r], fleet.growth[r], fleet.replicas[r].kind
    features[:] = 0.0
    growth[:] = 0.0
    features[ONE] = 1.0
    linear, mixed = 2**40, False
    for place in range(fleet.replicas[r].running_count):
        it = fleet.slots[fleet.running[r, place]]
        new, past = it.chunk, it.cached
        if new == 0:
            continue
        mixed = mixed or new > 1
        features[TOKENS] += new
        features[LOGITS] += max(past + new - it.prompt - it.made + 1, 0)
        features[LONE] += new == 1
        for p in range(price.pattern.shape[1]):
            pattern = price.pattern[kind, p]
            if pattern == NONE:
                continue
            window, stride = price.window_tokens[kind, p], price.sparse_stride[kind, p]
            pairs, entries = attended(pattern, window, stride, new, past)
            at = PATTERN + PER_PATTERN * p
            if new > 1:
                features[at + LONG_PAIRS] += pairs
                features[at + LONG_ENTRIES] += entries
                continue
            features[at + LONE_PAIRS] += pairs
            slope = 1.0
            if pattern != DENSE:
                if past + 1 < window:
                    linear = min(linear, window - past)
                else:
                    slope = 1.0 / stride if pattern == BLOCK_SPARSE else 0.0
            growth[at + LONE_PAIRS] += slope
    if mixed:
        for p in range(price.pattern.shape[1]):
            at = PATTERN + PER_PATTERN * p
            features[at + MIXED_PAIRS] = features[at + LONE_PAIRS]
    if rules.unit_tokens > 0 and features[LONE] >= price.share_least[kind]:
        pairs, entries = shared(rules, fleet, r, price.share_least[kind], price.share_most[kind])
        if pairs > 0:
            features[SHARED_PAIRS], features[SHARED_ENTRIES], features[SHARED_QUERIES] = (
                pairs,
                entries,
                features[LONE],
            )
    return linear


def _seen(pattern: int, window: int, stride: int, entries: float) -> float:
    if pattern == DENSE or entries <= window:
        return entries
    far = entries - window
    return window + (far / stride if pattern == BLOCK_SPARSE else 0.0)


def attended(pattern: int, window: int, stride: int, new: int, past: int) -> tuple[float, float]:
    """(query-key pairs, entries read) of one sequence: `sim.graph.batch.attended`, for a
    compiler."""
    total = past + new
    if new == 1:
        seen = _seen(pattern, window, stride, float(total))
        return seen, seen
    if pattern in (DENSE, KEPT):
        old = past if pattern == DENSE else min(past, window)
        return new * old + new * (new + 1) / 2, float(old + new)
    knee = min(max(window - past, 0), new)
    above = 0.0
    if new > knee:
        first = _seen(pattern, window, stride, float(past + knee + 1))
        above = (first + _seen(pattern, window, stride, float(total))) / 2 * (new - knee)
    return knee * past + knee * (knee + 1) / 2 + above, float(total)


def steps_seconds(
    price: StepTime,
    kind: int,
    features: np.ndarray,
    growth: np.ndarray,
    steps: int,
    parts: np.ndarray,
) -> float:
    """Seconds of `steps` iterations, the features growing from each to the next; NaN if a table
    lacks an entry.

    What each row takes and moves is added to `parts` [row, ROW_SUMS]. A row without arithmetic is
    idle.
    """
    tokens, logits, lone = (
        np.int64(features[TOKENS]),
        np.int64(features[LOGITS]),
        np.int64(features[LONE]),
    )
    if (
        tokens >= price.of_tokens.shape[1]
        or logits >= price.of_logits.shape[1]
        or lone >= price.of_lone.shape[1]
    ):
        return np.nan
    total = (
        price.of_tokens[kind, tokens] + price.of_logits[kind, logits] + price.of_lone[kind, lone]
    ) * steps
    for row in range(price.times.shape[1]):
        times = price.times[kind, row]
        if not times > 0:
            continue  # of another kind
        arithmetic = hbm = l2 = arithmetic_up = hbm_up = beside = beside_up = 0.0
        for f in range(len(features)):
            arithmetic += price.arithmetic_s[kind, row, f] * features[f]
            hbm += price.hbm_bytes[kind, row, f] * features[f]
            l2 += price.buffer_bytes[kind, row, f] * features[f]
            beside += price.beside_s[kind, row, f] * features[f]
            arithmetic_up += price.arithmetic_s[kind, row, f] * growth[f]
            hbm_up += price.hbm_bytes[kind, row, f] * growth[f]
            beside_up += price.beside_s[kind, row, f] * growth[f]
        if arithmetic + beside <= 0.0:
            continue
        if l2 > price.l2_bytes[kind]:
            hbm, l2 = hbm + l2, 0.0
        rate = price.hbm_bytes_per_s[kind, row]
        a, b, c = _sums_of_longest(
            arithmetic,
            arithmetic_up,
            hbm / rate,
            hbm_up / rate,
            l2 / price.l2_bytes_per_s[kind, row],
            steps,
        )
        if price.unhidden[kind, row] > 0.0:  # the shorter of two is their sum less the longer
            d, e, _ = _sums_of_longest(
                arithmetic, arithmetic_up, hbm / rate, hbm_up / rate, 0.0, steps
            )
            both = (arithmetic + hbm / rate) * steps + (arithmetic_up + hbm_up / rate) * (
                steps * (steps - 1) / 2
            )
            if d > e:
                a += price.unhidden[kind, row] * (both - d - e)
            else:
                b += price.unhidden[kind, row] * (both - d - e)
        if beside > 0.0:
            a += _sum_of_shown(
                arithmetic,
                arithmetic_up,
                hbm / rate,
                hbm_up / rate,
                l2 / price.l2_bytes_per_s[kind, row],
                beside,
                beside_up,
                price.unhidden[kind, row],
                steps,
            )
        parts[row, ARITHMETIC_S] += times * a
        parts[row, HBM_S] += times * b
        parts[row, L2_S] += times * c
        parts[row, FIXED_S] += times * price.fixed_s[kind, row] * steps
        parts[row, ACTIVE] += steps
        parts[row, HBM_BYTES] += times * (hbm * steps + hbm_up * (steps * (steps - 1) / 2))
        parts[row, L2_BYTES] += times * l2 * steps
        total += times * (price.fixed_s[kind, row] * steps + (a + b + c))
    return total


def _sums_of_longest(
    a: float, a_up: float, b: float, b_up: float, c: float, steps: int
) -> tuple[float, float, float]:
    """Sum over i < steps of the highest of the lines a + i a_up, b + i b_up and c, by which it
    is."""
    in_a = in_b = in_c = 0.0
    i = 0
    while i < steps:
        at_a, at_b = a + i * a_up, b + i * b_up
        top, up, which = at_a, a_up, 0
        if at_b > top or (at_b == top and b_up > up):
            top, up, which = at_b, b_up, 1
        if c > top or (c == top and up < 0.0):
            top, up, which = c, 0.0, 2
        stay = steps - i  # for so many steps this line is the highest
        for base, slope in ((a, a_up), (b, b_up), (c, 0.0)):
            if slope > up:
                until = (top - (base + i * slope)) / (slope - up)
                if until < stay:
                    stay = int(until) + 1
        area = stay * top + up * (stay * (stay - 1) / 2)
        if which == 0:
            in_a += area
        elif which == 1:
            in_b += area
        else:
            in_c += area
        i += stay
    return in_a, in_b, in_c


def _sum_of_shown(
    a: float,
    a_up: float,
    b: float,
    b_up: float,
    c: float,
    beside: float,
    beside_up: float,
    unhidden: float,
    steps: int,
) -> float:
    """Sum over i < steps of what shows of arithmetic that is done beside: by how much it and the
    line a + i a_up are longer than what the kernel takes without it.

    That is the longest of the three lines of `_sums_of_longest` and the part of the shorter of a
    and b that is unhidden.
    """
    total, i = 0.0, 0
    while i < steps:
        at_a, at_b = a + i * a_up, b + i * b_up
        long, long_up, short, short_up = at_a, a_up, at_b, b_up
        if at_b > at_a or (at_b == at_a and b_up > a_up):
            long, long_up, short, short_up = at_b, b_up, at_a, a_up
        top, top_up = long, long_up
        if c > long or (c == long and long_up < 0.0):
            top, top_up = c, 0.0
        shown = at_a + beside + i * beside_up - top - unhidden * short
        shown_up = a_up + beside_up - top_up - unhidden * short_up
        stay = steps - i  # for so many steps the lines keep their order
        for gap, gap_up in (
            (long - short, long_up - short_up),
            (c - long, -long_up),
            (shown, shown_up),
        ):
            if gap * gap_up < 0.0:
                until = -gap / gap_up
                if until < stay:
                    stay = int(until) + 1
        if shown > 0.0 or (shown == 0.0 and shown_up > 0.0):
            total += stay * shown + shown_up * (stay * (stay - 1) / 2)
        i += stay
    return total
