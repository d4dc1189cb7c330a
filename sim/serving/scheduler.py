"""What runs in the next iteration of a replica, as engines decide it.

`plan` chooses the sequences and their new tokens and takes the KV blocks they need. A sequence's
tokens are its prompt and what it has made; those beyond `cached` need computing: the prompt less
what the prefix cache has at first, one token in decode, everything again after a preemption that
dropped its KV. Not modelled: the scheduler's own time.
"""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import BY_BATCH, BY_KV, BY_TOKENS, CHUNKED, NONE, STATIC, Fleet, Rules
from sim.serving.kv import blocks_for, matched, own_blocks, release, room, share, take
from sim.serving.order import Head, by_class, sooner


def plan(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decide the next iteration of replica `r`: `chunk` of each running slot.  How many equal ones
    may follow (itself included) before a request ends or blocks run out; 0 if there is nothing to
    do."""
    me = fleet.replicas[r]
    me.blocked = 0
    me.limit = 0
    me.delay_s = 0.0
    for place in range(me.running_count):
        fleet.slots[fleet.running[r, place]].chunk = 0
    if me.policy == CHUNKED:
        budget, preempted = _continue(rules, fleet, r, me.new_tokens)
        admitted = 0
        if not preempted:
            admitted = _admit(rules, fleet, r, budget, True)
    else:
        preempted, admitted = False, 0
        if me.policy == STATIC and me.running_count > 0:
            me.blocked = 1  # a batch is closed once it has begun
            if me.waiting_count > 0:
                me.limit = BY_BATCH
        else:
            admitted = _admit(rules, fleet, r, me.new_tokens, False)
        if admitted == 0:
            _, preempted = _continue(rules, fleet, r, 2**40)
    if me.running_count == 0:
        return 0
    hands_over = fleet.pools[me.pool].next != NONE
    if preempted or admitted > 0 or me.drafts > 0 or hands_over or me.stages > 1 or not rules.jump:
        return 1
    return _equal_steps(rules, fleet, r)


def _continue(rules: Rules, fleet: Fleet, r: int, budget: int) -> tuple[int, bool]:
    """Give every running sequence its next tokens, oldest first; the budget left, and whether one
    was preempted."""
    me = fleet.replicas[r]
    place, preempted = 0, False
    while place < me.running_count and budget > 0:
        it = fleet.slots[fleet.running[r, place]]
        chunk = min(it.prompt + it.made - it.cached, budget)
        if it.made > 0 and chunk == it.prompt + it.made - it.cached:
            chunk += min(me.drafts, it.output - it.made - 1, budget - chunk)
        short = own_blocks(rules, fleet, r, fleet.running[r, place], it.cached + chunk) - it.held
        if short > 0:
            gone = False
            while not gone and short > room(rules, fleet, r):
                victim = _victim(rules, fleet, r, place)
                gone = victim == place
                _preempt(rules, fleet, r, victim)
                preempted = True
            if gone:
                continue  # it was given up itself; another may be at its place
            take(rules, fleet, r, short)
            it.held += short
        it.chunk = chunk
        budget -= chunk
        place += 1
    return budget, preempted


def _victim(rules: Rules, fleet: Fleet, r: int, place: int) -> int:
    """Whom to preempt, at `place` or behind it: the one admitted last, of the lowest class where
    classes count."""
    worst = fleet.replicas[r].running_count - 1
    if by_class(rules.order):
        for other in range(worst - 1, place - 1, -1):
            if (
                fleet.slots[fleet.running[r, other]].rank
                > fleet.slots[fleet.running[r, worst]].rank
            ):
                worst = other
    return worst


def _preempt(rules: Rules, fleet: Fleet, r: int, place: int) -> None:
    """Give up a sequence: its KV is lost or goes to host memory, and it waits at the head of its
    queue."""
    me = fleet.replicas[r]
    slot = fleet.running[r, place]
    it = fleet.slots[slot]
    for after in range(place + 1, me.running_count):
        fleet.running[r, after - 1] = fleet.running[r, after]
    me.running_count -= 1
    release(rules, fleet, r, slot)
    if np.isnan(me.swap_s):
        it.cached = 0
    else:
        it.away = 1
        me.delay_s += min(it.cached, me.keeps) * me.swap_s
        me.moved_tokens += min(it.cached, me.keeps)
    it.chunk = 0
    it.preempted += 1
    queue_up(fleet, r, slot, True)
    me.preemptions += 1


def queue_up(fleet: Fleet, r: int, slot: int, at_head: bool) -> None:
    """Into the queue of its class."""
    it, ends = fleet.slots[slot], fleet.queues[r, fleet.slots[slot].rank]
    it.behind = NONE
    if ends[0] == NONE:
        ends[0] = ends[1] = slot
    elif at_head:
        it.behind = ends[0]
        ends[0] = slot
    else:
        fleet.slots[ends[1]].behind = slot
        ends[1] = slot
    fleet.replicas[r].waiting_count += 1


def leave_queue(fleet: Fleet, r: int, rank: int) -> int:
    """The head of a class leaves it."""
    ends = fleet.queues[r, rank]
    slot = ends[0]
    ends[0] = fleet.slots[slot].behind
    if ends[0] == NONE:
        ends[1] = NONE
    fleet.replicas[r].waiting_count -= 1
    return slot


def next_class(rules: Rules, fleet: Fleet, r: int) -> int:
    """The class whose head is next, or NONE."""
    best = NONE
    for rank in range(fleet.queues.shape[1]):
        slot = fleet.queues[r, rank, 0]
        if slot != NONE and (
            best == NONE
            or sooner(rules.order, _head(fleet, slot), _head(fleet, fleet.queues[r, best, 0]))
        ):
            best = rank
    return best


def _head(fleet: Fleet, slot: int) -> Head:
    it = fleet.slots[slot]
    return Head(it.rank, it.arrival_s, it.deadline_s)


def _admit(rules: Rules, fleet: Fleet, r: int, budget: int, in_chunks: bool) -> int:
    """Admit from the head of the queue while slots, budget and blocks last; how many.

    Whole prompts, unless `in_chunks`; then a prompt above the budget is admitted alone.
    """
    me = fleet.replicas[r]
    admitted = 0
    while me.waiting_count > 0 and budget > 0:
        rank = next_class(rules, fleet, r)
        slot = fleet.queues[r, rank, 0]
        it = fleet.slots[slot]
        if rules.shed and it.deadline_s < me.now_s and np.isnan(it.scheduled_s):
            break  # it is turned away when the next iteration begins
        need, hit, unused = it.prompt + it.made, 0, 0
        if rules.unit_tokens > 0 and it.block_count > 0 and it.cached == 0:
            most = min(it.block_count, (need - 1) // rules.unit_tokens)
            hit, unused = matched(fleet, r, it.block_from, most)
        cached = max(it.cached, hit * rules.unit_tokens)
        whole = need - cached
        chunk = min(whole, budget) if in_chunks else whole
        unit = rules.unit_tokens // me.block_tokens
        tokens = it.prompt + it.output if me.reserve else cached + chunk
        short = blocks_for(me.block_tokens, min(tokens, me.keeps)) - hit * unit
        if (
            me.running_count == me.sequences
            or short > room(rules, fleet, r) - unused * unit
            or (chunk > budget and admitted > 0)
        ):
            me.blocked = 1
            me.limit = BY_TOKENS
            if me.running_count == me.sequences:
                me.limit = BY_BATCH
            elif short > room(rules, fleet, r) - unused * unit:
                me.limit = BY_KV
            break
        leave_queue(fleet, r, rank)
        if rules.unit_tokens > 0 and it.block_count > 0 and it.made == 0 and it.preempted == 0:
            me.looked_up += it.block_count
            me.found += hit
            it.hit = cached
        share(rules, fleet, r, slot, hit)
        take(rules, fleet, r, short)
        it.held = short
        it.cached = cached
        it.chunk = chunk
        if it.away:
            it.away = 0
            me.delay_s += min(cached, me.keeps) * me.swap_s
            me.moved_tokens += min(cached, me.keeps)
        fleet.running[r, me.running_count] = slot
        me.running_count += 1
        if np.isnan(it.scheduled_s):
            it.scheduled_s = me.now_s
        budget -= chunk
        admitted += 1
    if me.waiting_count > 0 and budget <= 0:
        me.limit = BY_TOKENS
    return admitted


def _equal_steps(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decode steps of this batch until the first answer ends, the next block cannot be had, or
    something else is due."""
    me = fleet.replicas[r]
    count, steps = me.running_count, 2**40
    for place in range(count):
        it = fleet.slots[fleet.running[r, place]]
        if it.chunk != 1 or it.cached + 1 != it.prompt + it.made:
            return 1
        steps = min(steps, it.output - it.made)
        if it.shared < it.block_count:  # what it puts into the cache may free a block
            steps = min(steps, max((it.shared + 1) * rules.unit_tokens - it.cached, 1))
    # A block that leaves the prefix cache may be all that the head of the queue waits for: it no
    # longer has to stay.
    has = me.free_blocks if me.waiting_count > 0 else room(rules, fleet, r)
    if me.reserve or count * blocks_for(me.block_tokens, steps) <= has:
        return steps
    low, high = 1, steps  # the blocks of `low` steps are there
    while low < high:
        middle = (low + high + 1) // 2
        short = 0
        for place in range(count):
            it = fleet.slots[fleet.running[r, place]]
            short += max(
                own_blocks(rules, fleet, r, fleet.running[r, place], it.cached + middle) - it.held,
                0,
            )
        if short <= has:
            low = middle
        else:
            high = middle - 1
    return low
