"""What runs in the next iteration of a replica, as engines decide it, and what is true once it has run.

`plan` chooses the sequences and their new tokens and takes the KV blocks they need; `finish` books what they made.
A sequence's tokens are its prompt and what it has made; those beyond `cached` need computing: the whole prompt at
first, one token in decode, everything again after a preemption. Not modelled: the scheduler's own time.
"""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import CHUNKED, NONE, STATIC, Fleet, Records, Rules


def plan(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decide the next iteration of replica `r`: `fleet.chunk` of each running slot.  How many equal ones may follow
    (itself included) before a request ends or blocks run out; 0 if there is nothing to do."""
    fleet.blocked[r] = 0
    for place in range(fleet.running_count[r]):
        fleet.chunk[fleet.running[r, place]] = 0
    if rules.policy == CHUNKED:
        budget, preempted = _continue(rules, fleet, r, rules.new_tokens)
        admitted = 0
        if not preempted:
            admitted = _admit(rules, fleet, r, budget, True)
    else:
        preempted, admitted = False, 0
        if rules.policy == STATIC and fleet.running_count[r] > 0:
            fleet.blocked[r] = 1  # a batch is closed once it has begun
        else:
            admitted = _admit(rules, fleet, r, rules.new_tokens, False)
        if admitted == 0:
            _, preempted = _continue(rules, fleet, r, rules.sequences)
    if fleet.running_count[r] == 0:
        return 0
    if preempted or admitted > 0 or not rules.jump:
        return 1
    return _equal_steps(rules, fleet, r)


def _blocks(rules: Rules, tokens: int) -> int:
    return (tokens + rules.block_tokens - 1) // rules.block_tokens


def _continue(rules: Rules, fleet: Fleet, r: int, budget: int) -> tuple[int, bool]:
    """Give every running sequence its next tokens, oldest first; the budget left, and whether one was preempted."""
    place, preempted = 0, False
    while place < fleet.running_count[r] and budget > 0:
        slot = fleet.running[r, place]
        chunk = min(fleet.prompt[slot] + fleet.made[slot] - fleet.cached[slot], budget)
        short = _blocks(rules, fleet.cached[slot] + chunk) - fleet.held[slot]
        while short > fleet.free_blocks[r] and fleet.running_count[r] > place:
            _preempt(fleet, r)
            preempted = True
        if fleet.running_count[r] == place:
            break  # it was the last one, and has been preempted itself
        if short > 0:
            fleet.held[slot] += short
            fleet.free_blocks[r] -= short
        fleet.chunk[slot] = chunk
        budget -= chunk
        place += 1
    return budget, preempted


def _preempt(fleet: Fleet, r: int) -> None:
    """Give up the sequence admitted last: its KV is lost, and it waits at the head of the queue."""
    fleet.running_count[r] -= 1
    slot = fleet.running[r, fleet.running_count[r]]
    fleet.free_blocks[r] += fleet.held[slot]
    fleet.held[slot] = fleet.cached[slot] = fleet.chunk[slot] = 0
    fleet.behind[slot] = fleet.head[r]
    fleet.head[r] = slot
    if fleet.tail[r] == NONE:
        fleet.tail[r] = slot
    fleet.waiting_count[r] += 1
    fleet.preemptions[r] += 1


def _admit(rules: Rules, fleet: Fleet, r: int, budget: int, in_chunks: bool) -> int:
    """Admit from the head of the queue while slots, budget and blocks last; how many.

    Whole prompts, unless `in_chunks`; then a prompt above the budget is admitted alone.
    """
    admitted = 0
    while fleet.head[r] != NONE and budget > 0:
        slot = fleet.head[r]
        need = fleet.prompt[slot] + fleet.made[slot]
        chunk = min(need, budget) if in_chunks else need
        asked = fleet.prompt[slot] + fleet.output[slot] if rules.reserve else chunk
        short = _blocks(rules, asked)
        if (
            fleet.running_count[r] == rules.sequences
            or short > fleet.free_blocks[r]
            or (chunk > budget and admitted > 0)
        ):
            fleet.blocked[r] = 1
            break
        fleet.head[r] = fleet.behind[slot]
        if fleet.head[r] == NONE:
            fleet.tail[r] = NONE
        fleet.waiting_count[r] -= 1
        fleet.running[r, fleet.running_count[r]] = slot
        fleet.running_count[r] += 1
        fleet.held[slot] = short
        fleet.free_blocks[r] -= short
        fleet.chunk[slot] = chunk
        if np.isnan(fleet.scheduled_s[slot]):
            fleet.scheduled_s[slot] = fleet.now_s[r]
        budget -= chunk
        admitted += 1
    return admitted


def _equal_steps(rules: Rules, fleet: Fleet, r: int) -> int:
    """Decode steps of this batch until the first answer ends, the next block cannot be had, or something else is
    due."""
    count, steps = fleet.running_count[r], np.int64(2**40)
    for place in range(count):
        slot = fleet.running[r, place]
        if fleet.chunk[slot] != 1 or fleet.cached[slot] + 1 != fleet.prompt[slot] + fleet.made[slot]:
            return 1
        steps = min(steps, fleet.output[slot] - fleet.made[slot])
    if rules.reserve or count * _blocks(rules, steps) <= fleet.free_blocks[r]:
        return steps
    low, high = np.int64(1), steps  # the blocks of `low` steps are there
    while low < high:
        middle = (low + high + 1) // 2
        short = 0
        for place in range(count):
            slot = fleet.running[r, place]
            short += max(_blocks(rules, fleet.cached[slot] + middle) - fleet.held[slot], 0)
        if short <= fleet.free_blocks[r]:
            low = middle
        else:
            high = middle - 1
    return low


def finish(rules: Rules, fleet: Fleet, r: int, records: Records) -> None:
    """Book the iterations under way, which end at `fleet.end_s`; answers that are complete leave a record."""
    now_s, steps, kept = fleet.end_s[r], fleet.steps[r], 0
    fleet.iterations[r] += steps
    fleet.busy_s[r] += now_s - fleet.now_s[r]
    fleet.now_s[r] = now_s
    for place in range(fleet.running_count[r]):
        slot = fleet.running[r, place]
        if steps > 1:
            fleet.cached[slot] += steps
            fleet.made[slot] += steps
            short = _blocks(rules, fleet.cached[slot]) - fleet.held[slot]
            if short > 0:
                fleet.held[slot] += short
                fleet.free_blocks[r] -= short
        elif fleet.chunk[slot] > 0:
            fleet.cached[slot] += fleet.chunk[slot]
            if fleet.cached[slot] == fleet.prompt[slot] + fleet.made[slot]:
                fleet.made[slot] += 1
                if fleet.made[slot] == 1:
                    fleet.first_s[slot] = now_s
        if fleet.made[slot] < fleet.output[slot]:
            fleet.running[r, kept] = slot
            kept += 1
            continue
        row = fleet.cursor[2]
        fleet.cursor[2] += 1
        records.id[row], records.replica[row], records.arrival_s[row] = fleet.id[slot], r, fleet.arrival_s[slot]
        records.prompt[row], records.output[row] = fleet.prompt[slot], fleet.output[slot]
        records.scheduled_s[row], records.first_s[row] = fleet.scheduled_s[slot], fleet.first_s[slot]
        records.last_s[row] = now_s
        fleet.free_blocks[r] += fleet.held[slot]
        fleet.held[slot] = 0
        fleet.free_slots[fleet.slots_free[0]] = slot
        fleet.slots_free[0] += 1
    fleet.running_count[r] = kept
