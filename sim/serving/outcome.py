"""What is true once iterations have run: tokens made, answers complete, and the sums that metrics
are taken from."""

from __future__ import annotations

import numpy as np

from sim.serving.draws import chance
from sim.serving.fleet import (
    BINS,
    BY_BATCH,
    BY_KV,
    BY_TOKENS,
    FREE,
    GAP_BINS,
    GAP_FINEST_S,
    GAP_RATIO,
    LOGITS,
    LONE,
    NONE,
    TOKENS,
    WRITTEN,
    Arrivals,
    Fleet,
    Rules,
)
from sim.serving.kv import own_blocks, publish, release, room, take
from sim.serving.pending import push


def finish(
    rules: Rules, fleet: Fleet, r: int, records: np.recarray, asked: Arrivals, first_s: float
) -> None:
    """Book the iterations under way on replica `r`, the first of which took `first_s`, to their
    end.

    There is room for a record and a pending entry of everyone in the batch.
    """
    me = fleet.replicas[r]
    begin_s, now_s, steps, batch = me.now_s, me.end_s, me.steps, me.running_count
    used = me.blocks - room(rules, fleet, r)
    hands_over = fleet.pools[me.pool].next != NONE
    kept = made = prefilled = together = 0
    me.now_s = now_s
    if (
        steps > 1
    ):  # all take their blocks before one of them gives up its own, as they do step by step
        for place in range(batch):
            prefilled += _jump(rules, fleet, r, fleet.running[r, place], steps)
    for place in range(batch):
        slot = fleet.running[r, place]
        it = fleet.slots[slot]
        before = it.made - (steps if steps > 1 else 0)
        if steps == 1:
            prefilled += _advance(rules, fleet, r, slot)
        if it.made > before:
            made += it.made - before
            if before == 0:
                it.first_s = begin_s + first_s if steps > 1 else now_s
            elif it.token_s == begin_s:
                together += 1
            else:
                _gap(fleet, r, begin_s + first_s - it.token_s, 1)
            if steps == 1 and it.made - before > 1:
                fleet.gaps[r, 0] += it.made - before - 1  # they come at once
            it.token_s = now_s
        if rules.unit_tokens > 0:
            publish(rules, fleet, r, slot)
        if it.made == it.output:
            depart(rules, fleet, r, slot, records, asked)
        elif hands_over and it.made > 0:
            _hand_over(fleet, r, slot)
        else:
            fleet.running[r, kept] = slot
            kept += 1
    if together:
        _gap(fleet, r, first_s, together)
    if steps > 1:
        _gap(fleet, r, (now_s - begin_s - first_s) / (steps - 1), (steps - 1) * batch)
    me.running_count = kept
    me.iterations += steps
    me.busy_s += now_s - begin_s
    if me.limit == BY_BATCH:
        me.by_batch_s += now_s - begin_s
    elif me.limit == BY_TOKENS:
        me.by_tokens_s += now_s - begin_s
    elif me.limit == BY_KV:
        me.by_kv_s += now_s - begin_s
    kv = (used + me.blocks - room(rules, fleet, r)) / 2 / me.blocks
    me.kv_s += kv * (now_s - begin_s)
    _spread(fleet, r, begin_s, now_s, kv, batch, prefilled, made)


def _jump(rules: Rules, fleet: Fleet, r: int, slot: int, steps: int) -> int:
    """The sequence's part in decode steps that are taken in one go; the tokens of its prompt
    computed in them."""
    it = fleet.slots[slot]
    prefill = it.made == 0
    it.cached += steps
    it.made += steps
    short = own_blocks(rules, fleet, r, slot, it.cached) - it.held
    if short > 0:
        take(rules, fleet, r, short)
        it.held += short
    return 1 if prefill else 0


def _advance(rules: Rules, fleet: Fleet, r: int, slot: int) -> int:
    """The sequence's part in an iteration; the tokens of its prompt computed in it (after a
    preemption without a swap, of its answer too)."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    prefill = it.made == 0
    if it.chunk == 0:
        return 0
    need = it.prompt + it.made - it.cached
    if it.chunk < need:
        it.cached += it.chunk
        return it.chunk
    accepted = 0  # of the drafted tokens: each with its chance, up to the first that does not hold
    while (
        accepted < it.chunk - need
        and chance(rules.seed, it.id, it.made + accepted) < fleet.acceptance[accepted]
    ):
        accepted += 1
    me.drafted += it.chunk - need
    me.accepted += accepted
    it.cached += need + accepted
    it.made += 1 + accepted
    return need if prefill or need > 1 else 0


def depart(
    rules: Rules, fleet: Fleet, r: int, slot: int, records: np.recarray, asked: Arrivals
) -> None:
    """The answer is complete, or (`r` NONE) the request is turned away: a record, and the session
    goes on."""
    it = fleet.slots[slot]
    row = records[fleet.cursor[WRITTEN]]
    row.id, row.replica, row.rank, row.arrival_s = it.id, r, it.rank, it.arrival_s
    row.prompt, row.output, row.hit = it.prompt, it.output, it.hit
    row.preempted, row.retried = it.preempted, it.retried
    row.scheduled_s, row.first_s, row.last_s = np.nan, np.nan, np.nan
    now_s = it.arrival_s
    if r != NONE:
        now_s = fleet.replicas[r].now_s
        row.scheduled_s, row.first_s, row.last_s = it.scheduled_s, it.first_s, now_s
    fleet.cursor[WRITTEN] += 1  # the row is whole: an interrupt may come between any two lines
    if r != NONE:
        release(rules, fleet, r, slot)
        gone(fleet, r, slot, now_s)
        fleet.replicas[r].answered += 1
        fleet.replicas[r].answered_tokens += it.made
    if it.next != NONE:
        push(fleet, now_s + asked.think_s[it.next], NONE, it.next)
    fleet.free_slots[fleet.cursor[FREE]] = slot
    fleet.cursor[FREE] += 1


def come(fleet: Fleet, r: int, slot: int, now_s: float) -> None:
    """The request is with replica `r` from now on."""
    _count(fleet, r, slot, now_s, 1)


def gone(fleet: Fleet, r: int, slot: int, now_s: float) -> None:
    """The request is with replica `r` no more."""
    _count(fleet, r, slot, now_s, -1)


def _count(fleet: Fleet, r: int, slot: int, now_s: float, change: int) -> None:
    """A request more (1) or less (-1) is with replica `r`."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    me.present_s += me.present * (now_s - me.since_s)
    me.since_s = now_s
    me.present += change
    me.work += change * (it.prompt + it.output)
    me.prompts += change * it.prompt


def _hand_over(fleet: Fleet, r: int, slot: int) -> None:
    """The prefill is done: the KV goes to a decode replica, after what is still on its way from
    here."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    pool = fleet.pools[me.pool]
    me.link_free_s = max(me.link_free_s, me.now_s) + min(it.cached, me.keeps) * pool.transfer_s
    gone(fleet, r, slot, me.now_s)
    it.source, it.pool, it.chunk = r, pool.next, 0
    push(fleet, me.link_free_s + pool.latency_s, slot, NONE)


def book_features(fleet: Fleet, r: int) -> None:
    """Add the features of the iterations under way to the sums."""
    me = fleet.replicas[r]
    features, growth, steps = fleet.features[r], fleet.growth[r], me.steps
    fleet.of_tokens[me.kind, int(features[TOKENS])] += steps
    fleet.of_logits[me.kind, int(features[LOGITS])] += steps
    fleet.of_lone[me.kind, int(features[LONE])] += steps
    for f in range(len(features)):
        fleet.sums[r, f] += steps * features[f] + growth[f] * (steps * (steps - 1) / 2)


def _gap(fleet: Fleet, r: int, seconds: float, count: int) -> None:
    place = 0
    if seconds > GAP_FINEST_S:
        place = min(int(np.log(seconds / GAP_FINEST_S) / np.log(GAP_RATIO)) + 1, GAP_BINS - 1)
    fleet.gaps[r, place] += count


def _spread(
    fleet: Fleet,
    r: int,
    begin_s: float,
    end_s: float,
    kv: float,
    sequences: int,
    prefilled: int,
    made: int,
) -> None:
    """Add a stretch of work to the time series, in proportion to the time in each bin."""
    while end_s >= BINS * fleet.bin_s[r]:
        for column in range(fleet.series.shape[2]):
            for i in range(BINS // 2):
                fleet.series[r, i, column] = (
                    fleet.series[r, 2 * i, column] + fleet.series[r, 2 * i + 1, column]
                )
            for i in range(BINS // 2, BINS):
                fleet.series[r, i, column] = 0.0
        fleet.bin_s[r] *= 2
    width_s, whole_s = fleet.bin_s[r], end_s - begin_s
    for i in range(int(begin_s / width_s), int(end_s / width_s) + 1):
        part_s = min(end_s, (i + 1) * width_s) - max(begin_s, i * width_s)
        if part_s <= 0:
            continue
        fleet.series[r, i, 0] += part_s
        fleet.series[r, i, 1] += kv * part_s
        fleet.series[r, i, 2] += sequences * part_s
        fleet.series[r, i, 3] += prefilled * part_s / whole_s
        fleet.series[r, i, 4] += made * part_s / whole_s
