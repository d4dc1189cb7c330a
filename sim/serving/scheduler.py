"""What runs in the next iteration of a replica, as engines decide it, and what is true once it has run.

`plan` chooses the sequences and their new tokens and takes the KV blocks they need; `finish` books what they made.
A sequence's tokens are its prompt and what it has made; those beyond `cached` need computing: the whole prompt at
first, one token in decode, everything again after a preemption. Not modelled: the scheduler's own time.
"""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import CHUNKED, NONE, STATIC, Fleet, Rules


def plan(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decide the next iteration of replica `r`: `fleet.chunk` of each running slot.  How many equal ones may follow
    (itself included) before a request ends or blocks run out; 0 if there is nothing to do."""
    fleet.replicas[r].blocked = 0
    for place in range(fleet.replicas[r].running_count):
        fleet.slots[fleet.running[r, place]].chunk = 0
    if rules.policy == CHUNKED:
        budget, preempted = _continue(rules, fleet, r, rules.new_tokens)
        admitted = 0
        if not preempted:
            admitted = _admit(rules, fleet, r, budget, True)
    else:
        preempted, admitted = False, 0
        if rules.policy == STATIC and fleet.replicas[r].running_count > 0:
            fleet.replicas[r].blocked = 1  # a batch is closed once it has begun
        else:
            admitted = _admit(rules, fleet, r, rules.new_tokens, False)
        if admitted == 0:
            _, preempted = _continue(rules, fleet, r, rules.sequences)
    if fleet.replicas[r].running_count == 0:
        return 0
    if preempted or admitted > 0 or not rules.jump:
        return 1
    return _equal_steps(rules, fleet, r)


def _blocks(rules: Rules, tokens: int) -> int:
    return (tokens + rules.block_tokens - 1) // rules.block_tokens


def _continue(rules: Rules, fleet: Fleet, r: int, budget: int) -> tuple[int, bool]:
    """Give every running sequence its next tokens, oldest first; the budget left, and whether one was preempted."""
    place, preempted = 0, False
    while place < fleet.replicas[r].running_count and budget > 0:
        slot = fleet.running[r, place]
        chunk = min(fleet.slots[slot].prompt + fleet.slots[slot].made - fleet.slots[slot].cached, budget)
        short = _blocks(rules, fleet.slots[slot].cached + chunk) - fleet.slots[slot].held
        while short > fleet.replicas[r].free_blocks and fleet.replicas[r].running_count > place:
            _preempt(fleet, r)
            preempted = True
        if fleet.replicas[r].running_count == place:
            break  # it was the last one, and has been preempted itself
        if short > 0:
            fleet.slots[slot].held += short
            fleet.replicas[r].free_blocks -= short
        fleet.slots[slot].chunk = chunk
        budget -= chunk
        place += 1
    return budget, preempted


def _preempt(fleet: Fleet, r: int) -> None:
    """Give up the sequence admitted last: its KV is lost, and it waits at the head of the queue."""
    fleet.replicas[r].running_count -= 1
    slot = fleet.running[r, fleet.replicas[r].running_count]
    fleet.replicas[r].free_blocks += fleet.slots[slot].held
    fleet.slots[slot].held = fleet.slots[slot].cached = fleet.slots[slot].chunk = 0
    fleet.slots[slot].behind = fleet.replicas[r].head
    fleet.replicas[r].head = slot
    if fleet.replicas[r].tail == NONE:
        fleet.replicas[r].tail = slot
    fleet.replicas[r].waiting_count += 1
    fleet.replicas[r].preemptions += 1


def _admit(rules: Rules, fleet: Fleet, r: int, budget: int, in_chunks: bool) -> int:
    """Admit from the head of the queue while slots, budget and blocks last; how many.

    Whole prompts, unless `in_chunks`; then a prompt above the budget is admitted alone.
    """
    admitted = 0
    while fleet.replicas[r].head != NONE and budget > 0:
        slot = fleet.replicas[r].head
        need = fleet.slots[slot].prompt + fleet.slots[slot].made
        chunk = min(need, budget) if in_chunks else need
        asked = fleet.slots[slot].prompt + fleet.slots[slot].output if rules.reserve else chunk
        short = _blocks(rules, asked)
        if (
            fleet.replicas[r].running_count == rules.sequences
            or short > fleet.replicas[r].free_blocks
            or (chunk > budget and admitted > 0)
        ):
            fleet.replicas[r].blocked = 1
            break
        fleet.replicas[r].head = fleet.slots[slot].behind
        if fleet.replicas[r].head == NONE:
            fleet.replicas[r].tail = NONE
        fleet.replicas[r].waiting_count -= 1
        fleet.running[r, fleet.replicas[r].running_count] = slot
        fleet.replicas[r].running_count += 1
        fleet.slots[slot].held = short
        fleet.replicas[r].free_blocks -= short
        fleet.slots[slot].chunk = chunk
        if np.isnan(fleet.slots[slot].scheduled_s):
            fleet.slots[slot].scheduled_s = fleet.replicas[r].now_s
        budget -= chunk
        admitted += 1
    return admitted


def _equal_steps(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decode steps of this batch until the first answer ends, the next block cannot be had, or something else is
    due."""
    count, steps = fleet.replicas[r].running_count, np.int64(2**40)
    for place in range(count):
        slot = fleet.running[r, place]
        if (
            fleet.slots[slot].chunk != 1
            or fleet.slots[slot].cached + 1 != fleet.slots[slot].prompt + fleet.slots[slot].made
        ):
            return 1
        steps = min(steps, fleet.slots[slot].output - fleet.slots[slot].made)
    if rules.reserve or count * _blocks(rules, steps) <= fleet.replicas[r].free_blocks:
        return steps
    low, high = np.int64(1), steps  # the blocks of `low` steps are there
    while low < high:
        middle = (low + high + 1) // 2
        short = 0
        for place in range(count):
            slot = fleet.running[r, place]
            short += max(_blocks(rules, fleet.slots[slot].cached + middle) - fleet.slots[slot].held, 0)
        if short <= fleet.replicas[r].free_blocks:
            low = middle
        else:
            high = middle - 1
    return low


def finish(rules: Rules, fleet: Fleet, r: int, records: np.recarray) -> None:
    """Book the iterations under way, which end at `fleet.end_s`; answers that are complete leave a record."""
    now_s, steps, kept = fleet.replicas[r].end_s, fleet.replicas[r].steps, 0
    fleet.replicas[r].iterations += steps
    fleet.replicas[r].busy_s += now_s - fleet.replicas[r].now_s
    fleet.replicas[r].now_s = now_s
    for place in range(fleet.replicas[r].running_count):
        slot = fleet.running[r, place]
        if steps > 1:
            fleet.slots[slot].cached += steps
            fleet.slots[slot].made += steps
            short = _blocks(rules, fleet.slots[slot].cached) - fleet.slots[slot].held
            if short > 0:
                fleet.slots[slot].held += short
                fleet.replicas[r].free_blocks -= short
        elif fleet.slots[slot].chunk > 0:
            fleet.slots[slot].cached += fleet.slots[slot].chunk
            if fleet.slots[slot].cached == fleet.slots[slot].prompt + fleet.slots[slot].made:
                fleet.slots[slot].made += 1
                if fleet.slots[slot].made == 1:
                    fleet.slots[slot].first_s = now_s
        if fleet.slots[slot].made < fleet.slots[slot].output:
            fleet.running[r, kept] = slot
            kept += 1
            continue
        row = fleet.cursor[2]
        fleet.cursor[2] += 1
        records[row].id, records[row].replica, records[row].arrival_s = (
            fleet.slots[slot].id,
            r,
            fleet.slots[slot].arrival_s,
        )
        records[row].prompt, records[row].output = fleet.slots[slot].prompt, fleet.slots[slot].output
        records[row].scheduled_s, records[row].first_s = fleet.slots[slot].scheduled_s, fleet.slots[slot].first_s
        records[row].last_s = now_s
        fleet.replicas[r].free_blocks += fleet.slots[slot].held
        fleet.slots[slot].held = 0
        fleet.free_slots[fleet.cursor[4]] = slot
        fleet.cursor[4] += 1
    fleet.replicas[r].running_count = kept
