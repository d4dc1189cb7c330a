"""From one decision to the next: arrivals are routed in order, and each replica goes on until the
next one.

The loop stops when something outside it is needed, says what, and goes on where it stopped when
called again.
"""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import (
    ASKS,
    BUSY,
    FREE,
    IDLE,
    NEXT,
    NONE,
    PENDING,
    UNPRICED,
    WRITTEN,
    Arrivals,
    Fleet,
    Rules,
)
from sim.serving.kv import release
from sim.serving.outcome import book_features, come, depart, finish, gone
from sim.serving.pending import next_s, pop
from sim.serving.router import apart, route
from sim.serving.scheduler import leave_queue, next_class, plan, queue_up
from sim.serving.stages import leave, set_off
from sim.serving.step_time import StepTime, measure, steps_seconds
from sim.serving.turns import hand_on, may_begin, turn_steps, wanted

DONE, PRICE, SLOTS, RECORDS, HEAP = range(5)  # why the loop stopped


def serve(
    rules: Rules,
    fleet: Fleet,
    price: StepTime,
    records: np.recarray,
    asked: Arrivals,
    until_s: float,
    ask: bool,
) -> int:
    """Deliver what arrives by `until_s` from row `fleet.cursor[NEXT]` on, and run all replicas to
    then; why it stopped.

    With `ask`, or of a replica that is shown, every iteration that begins is asked for, priced or
    not: the replica leaves with PRICE and its number in `fleet.cursor[ASKS]`, and goes on once
    `set_price` has told.
    """
    count = len(fleet.replicas)
    alone = not rules.coupled and apart(rules.router)
    while True:
        arrival_s = (
            asked.arrival_s[fleet.cursor[NEXT]]
            if fleet.cursor[NEXT] < len(asked.arrival_s)
            else np.inf
        )
        at_s = min(min(arrival_s, next_s(fleet)), until_s)
        ends = arrival_s > until_s and (next_s(fleet) > until_s or fleet.cursor[PENDING] == 0)
        if np.isinf(arrival_s) and fleet.cursor[PENDING] == 0:
            ends = True
        if rules.coupled:
            first, first_s = NONE, at_s
            for r in range(count):
                if rules.quantum == 0 or may_begin(fleet, r):
                    why = _begin(rules, fleet, price, records, asked, r, at_s, ask)
                    if why != DONE:
                        return why
                if fleet.replicas[r].activity == BUSY and (
                    fleet.replicas[r].end_s < first_s
                    or (fleet.replicas[r].end_s == first_s and first == NONE)
                ):
                    first, first_s = r, fleet.replicas[r].end_s
            if first != NONE:
                why = _end(rules, fleet, price, records, asked, first)
                if why != DONE:
                    return why
                continue
        elif ends or not alone:
            for r in range(count):
                if fleet.replicas[r].lane == 0:
                    why = _advance(rules, fleet, price, records, asked, r, at_s, ask)
                    if why != DONE:
                        return why
        if ends:
            return DONE
        if fleet.cursor[FREE] == 0:
            return SLOTS
        if fleet.cursor[WRITTEN] == len(records):
            return RECORDS
        if arrival_s <= next_s(fleet):
            row = fleet.cursor[NEXT]
            slot = NONE
        else:
            slot, row = fleet.pending[0, 1], fleet.pending[0, 2]
        session = asked.session[row] if slot == NONE else fleet.slots[slot].session
        pool = asked.pool[row] if slot == NONE else fleet.slots[slot].pool
        prompt = asked.prompt[row] if slot == NONE else fleet.slots[slot].prompt
        block_from = asked.block_from[row] if slot == NONE else fleet.slots[slot].block_from
        block_to = (
            asked.block_from[row + 1]
            if slot == NONE
            else block_from + fleet.slots[slot].block_count
        )
        turn = fleet.pools[pool].turn
        r = route(rules, fleet, pool, session, prompt, block_from, block_to - block_from)
        if alone:
            why = _advance(rules, fleet, price, records, asked, r, at_s, ask)
            if why != DONE:
                fleet.pools[pool].turn = turn  # it will be routed anew
                return why
        if arrival_s <= next_s(fleet):
            fleet.cursor[NEXT] += 1
        else:
            pop(fleet)
        if slot == NONE:
            slot = _new_slot(fleet, asked, row, at_s)
        elif fleet.slots[slot].source != NONE:
            release(rules, fleet, fleet.slots[slot].source, slot)
            fleet.replicas[fleet.slots[slot].source].blocked = 0
            fleet.slots[slot].source = NONE
        deliver(rules, fleet, price, records, asked, r, slot, at_s)


def _advance(
    rules: Rules,
    fleet: Fleet,
    price: StepTime,
    records: np.recarray,
    asked: Arrivals,
    r: int,
    until_s: float,
    ask: bool,
) -> int:
    """Bring replica `r`, with all that share its stages, to `until_s`: what ends by then has ended,
    and what begins before then has begun.

    What begins at `until_s` itself waits, for a request may arrive at that instant.
    """
    lanes = fleet.replicas[r].lanes
    while lanes > 1:
        first = r - fleet.replicas[r].lane
        next = NONE
        for lane in range(first, first + lanes):
            why = _begin(rules, fleet, price, records, asked, lane, until_s, ask)
            if why != DONE:
                return why
            if fleet.replicas[lane].activity == BUSY and (
                next == NONE or fleet.replicas[lane].end_s < fleet.replicas[next].end_s
            ):
                next = lane
        if next == NONE or fleet.replicas[next].end_s > until_s:
            return DONE
        why = _end(rules, fleet, price, records, asked, next)
        if why != DONE:
            return why
    while True:
        why = _begin(rules, fleet, price, records, asked, r, until_s, ask)
        if why != DONE or fleet.replicas[r].activity == IDLE or fleet.replicas[r].end_s > until_s:
            return why
        why = _end(rules, fleet, price, records, asked, r)
        if why != DONE:
            return why


def _begin(
    rules: Rules,
    fleet: Fleet,
    price: StepTime,
    records: np.recarray,
    asked: Arrivals,
    r: int,
    until_s: float,
    ask: bool,
) -> int:
    """Plan and price the next iterations of an idle replica, if they begin before `until_s`."""
    me = fleet.replicas[r]
    if me.activity == IDLE:
        if me.now_s >= until_s or me.halted or (me.running_count == 0 and me.waiting_count == 0):
            return DONE
        if rules.shed and not _shed(rules, fleet, records, asked, r):
            return RECORDS
        steps = plan(rules, fleet, r)
        if steps == 0:
            return DONE
        me.steps = min(steps, measure(rules, fleet, r, price))
        if rules.quantum > 0:
            me.steps = min(me.steps, turn_steps(rules, fleet, r))
        me.activity = UNPRICED
    if me.activity == UNPRICED:
        me.played = 0
        if ask or me.shown or not _priced(fleet, price, r):
            fleet.cursor[ASKS] = r
            return PRICE
        _go(fleet, price, r)
    return DONE


def _priced(fleet: Fleet, price: StepTime, r: int) -> bool:
    """Look up what the iteration takes, on each of its stages; whether that is known."""
    me = fleet.replicas[r]
    for stage in range(me.stages):
        fleet.stage_s[r, stage] = steps_seconds(
            price, me.kind + stage, fleet.features[r], fleet.growth[r], 1, fleet.scratch
        )
        if np.isnan(fleet.stage_s[r, stage]):
            return False
    me.base_s = fleet.stage_s[r, 0]
    return True


def _go(fleet: Fleet, price: StepTime, r: int) -> None:
    """The iterations, whose time is known, are under way."""
    me = fleet.replicas[r]
    me.activity = BUSY
    if me.stages > 1:
        set_off(fleet, r)
    else:
        me.end_s = me.now_s + seconds_of(fleet, price, r, me.steps)


def set_price(
    fleet: Fleet, price: StepTime, r: int, base_s: float, slope_s: float, steps: int
) -> None:
    """The first of the iterations that replica `r` asked about takes `base_s`, and each of `steps`
    more by `slope_s`; of a lane, what it takes on each stage is in `fleet.stage_s` already."""
    me = fleet.replicas[r]
    me.steps = min(me.steps, steps)
    me.played, me.base_s, me.slope_s = 1, base_s, slope_s
    _go(fleet, price, r)


def seconds_of(fleet: Fleet, price: StepTime, r: int, steps: int) -> float:
    """What the first `steps` of the iterations under way take."""
    me = fleet.replicas[r]
    if me.stages > 1:
        return me.end_s - me.now_s
    if me.played:
        seconds = steps * me.base_s + me.slope_s * (steps * (steps - 1) / 2)
    elif steps == 1:
        seconds = me.base_s
    else:
        seconds = steps_seconds(
            price, me.kind, fleet.features[r], fleet.growth[r], steps, fleet.scratch
        )
    return seconds * me.slow + steps * me.overhead_s + me.delay_s


def _end(
    rules: Rules, fleet: Fleet, price: StepTime, records: np.recarray, asked: Arrivals, r: int
) -> int:
    """The iterations under way on replica `r` end."""
    me = fleet.replicas[r]
    if fleet.cursor[WRITTEN] + me.running_count > len(records):
        return RECORDS
    if fleet.cursor[PENDING] + me.running_count > len(fleet.pending_s):
        return HEAP
    book_features(fleet, r)
    for stage in range(me.stages):
        steps_seconds(
            price,
            me.kind + stage,
            fleet.features[r],
            fleet.growth[r],
            me.steps,
            fleet.row_sums[r, stage],
        )
    if me.stages > 1:
        leave(fleet, r)
    finish(rules, fleet, r, records, asked, seconds_of(fleet, price, r, 1))
    me.activity = IDLE
    if rules.quantum > 0:
        hand_on(fleet, r)
    return DONE


def _new_slot(fleet: Fleet, asked: Arrivals, row: int, arrival_s: float) -> int:
    fleet.cursor[FREE] -= 1
    slot = fleet.free_slots[fleet.cursor[FREE]]
    it = fleet.slots[slot]
    it.id, it.arrival_s, it.prompt, it.output = (
        asked.id[row],
        arrival_s,
        asked.prompt[row],
        asked.output[row],
    )
    it.pool, it.rank, it.deadline_s = (
        asked.pool[row],
        asked.rank[row],
        arrival_s + asked.patience_s[row],
    )
    it.session, it.next = asked.session[row], asked.next[row]
    it.block_from, it.block_count = (
        asked.block_from[row],
        asked.block_from[row + 1] - asked.block_from[row],
    )
    it.scheduled_s = it.first_s = it.token_s = np.nan
    it.made = it.cached = it.held = it.shared = it.hit = it.chunk = it.preempted = it.retried = (
        it.away
    ) = 0
    it.behind = it.source = NONE
    return slot


def deliver(
    rules: Rules,
    fleet: Fleet,
    price: StepTime,
    records: np.recarray,
    asked: Arrivals,
    r: int,
    slot: int,
    now_s: float,
) -> None:
    """A request reaches replica `r`: into its queue, or away if it could never fit."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    tokens = it.prompt + it.output
    if tokens > me.longest or min(tokens, me.keeps) > me.blocks * me.block_tokens:
        depart(rules, fleet, NONE, slot, records, asked)
        return
    if rules.quantum > 0:
        other = wanted(fleet, r)
        if other != NONE:
            cut(fleet, price, other, now_s)
    come(fleet, r, slot, now_s)
    queue_up(fleet, r, slot, False)
    if me.activity == IDLE:
        me.now_s = max(me.now_s, now_s)
    elif me.steps > 1 and (me.blocked == 0 or fleet.queues.shape[1] > 1):
        cut(fleet, price, r, now_s)


def cut(fleet: Fleet, price: StepTime, r: int, now_s: float) -> None:
    """The iterations under way go on only to the end of the one that is running."""
    me = fleet.replicas[r]
    if me.activity != BUSY:
        me.steps = np.int64(1)
        return
    low, high = 1, int(me.steps)  # the first count of steps that ends at now_s or later
    while low < high:
        middle = (low + high) // 2
        if me.now_s + seconds_of(fleet, price, r, middle) >= now_s:
            high = middle
        else:
            low = middle + 1
    me.steps = low
    me.end_s = me.now_s + seconds_of(fleet, price, r, low)


def _shed(rules: Rules, fleet: Fleet, records: np.recarray, asked: Arrivals, r: int) -> bool:
    """Turn away those at the head of the queue whose deadline has passed; whether there was room
    for their records."""
    me = fleet.replicas[r]
    while me.waiting_count > 0:
        rank = next_class(rules, fleet, r)
        it = fleet.slots[fleet.queues[r, rank, 0]]
        if it.deadline_s >= me.now_s or not np.isnan(it.scheduled_s):
            break
        if fleet.cursor[WRITTEN] == len(records) or fleet.cursor[PENDING] == len(fleet.pending_s):
            return False
        slot = leave_queue(fleet, r, rank)
        gone(fleet, r, slot, me.now_s)
        depart(rules, fleet, NONE, slot, records, asked)
    return True
