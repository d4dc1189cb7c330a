"""From one decision to the next: arrivals are routed in order, and each replica goes on until the next one.

The loop stops when something outside it is needed, says what, and goes on where it stopped when called again.
"""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import (
    BUSY,
    IDLE,
    LEAST_LOADED,
    NONE,
    POWER_OF_TWO,
    UNPRICED,
    Fleet,
    Records,
    Rules,
)
from sim.serving.scheduler import finish, plan
from sim.serving.step_time import StepTime, measure, steps_seconds

DONE, PRICE, SLOTS, RECORDS = range(4)  # why the loop stopped


def serve(
    rules: Rules, fleet: Fleet, price: StepTime, records: Records,
    arrival_s: np.ndarray, prompt: np.ndarray, output: np.ndarray, until_s: float,
) -> int:  # fmt: skip
    """Take up a chunk of requests from `fleet.cursor[0]` on, then run to `until_s`; why it stopped.

    Replicas that play iterations elsewhere (`fleet.activity` UNPRICED) leave with PRICE and their number in
    `fleet.cursor[3]`.
    """
    replicas = len(fleet.head)
    while fleet.cursor[0] < len(arrival_s):
        at = fleet.cursor[0]
        now_s = arrival_s[at]
        if fleet.slots_free[0] == 0:
            return SLOTS
        for r in range(replicas):
            why = advance(rules, fleet, price, records, r, now_s)
            if why != DONE:
                return why
        slot = _new_slot(fleet, fleet.cursor[1], now_s, prompt[at], output[at])
        _enqueue(fleet, route(rules, fleet, fleet.cursor[1]), slot, now_s, price)
        fleet.cursor[0] += 1
        fleet.cursor[1] += 1
    for r in range(replicas):
        why = advance(rules, fleet, price, records, r, until_s)
        if why != DONE:
            return why
    return DONE


def advance(rules: Rules, fleet: Fleet, price: StepTime, records: Records, r: int, until_s: float) -> int:
    """Bring replica `r` to `until_s`: what ends by then has ended, and what begins before then has begun.

    What begins at `until_s` itself waits, for a request may arrive at that instant.
    """
    while True:
        if fleet.activity[r] == UNPRICED:
            seconds = steps_seconds(price, fleet.features[r], fleet.growth[r], 1)
            if np.isnan(seconds):
                fleet.cursor[3] = r
                return PRICE
            set_price(fleet, r, seconds)
            if fleet.steps[r] > 1:
                seconds = steps_seconds(price, fleet.features[r], fleet.growth[r], fleet.steps[r])
                fleet.end_s[r] = fleet.now_s[r] + seconds
        if fleet.activity[r] == BUSY:
            if fleet.end_s[r] > until_s:
                return DONE
            if fleet.cursor[2] + fleet.running_count[r] > len(records.id):
                return RECORDS
            finish(rules, fleet, r, records)
            fleet.activity[r] = IDLE
        if fleet.now_s[r] >= until_s:
            return DONE
        if fleet.running_count[r] == 0 and fleet.head[r] == NONE:
            return DONE
        steps = plan(rules, fleet, r)
        if steps == 0:
            return DONE
        linear = measure(fleet, r, price)
        fleet.steps[r] = min(steps, linear)
        fleet.activity[r] = UNPRICED


def set_price(fleet: Fleet, r: int, seconds: float) -> None:
    """The iteration that replica `r` asked about takes so long."""
    fleet.first_step_s[r] = seconds
    fleet.end_s[r] = fleet.now_s[r] + seconds
    fleet.activity[r] = BUSY


def _new_slot(fleet: Fleet, id: int, arrival_s: float, prompt: int, output: int) -> int:
    fleet.slots_free[0] -= 1
    slot = fleet.free_slots[fleet.slots_free[0]]
    fleet.id[slot], fleet.arrival_s[slot], fleet.prompt[slot], fleet.output[slot] = id, arrival_s, prompt, output
    fleet.scheduled_s[slot] = fleet.first_s[slot] = np.nan
    fleet.made[slot] = fleet.cached[slot] = fleet.held[slot] = fleet.chunk[slot] = 0
    fleet.behind[slot] = NONE
    return slot


def _enqueue(fleet: Fleet, r: int, slot: int, now_s: float, price: StepTime) -> None:
    if fleet.tail[r] == NONE:
        fleet.head[r] = slot
    else:
        fleet.behind[fleet.tail[r]] = slot
    fleet.tail[r] = slot
    fleet.waiting_count[r] += 1
    if fleet.activity[r] == IDLE:
        fleet.now_s[r] = max(fleet.now_s[r], now_s)
    elif fleet.steps[r] > 1 and fleet.blocked[r] == 0:
        _cut(fleet, r, now_s, price)


def _cut(fleet: Fleet, r: int, now_s: float, price: StepTime) -> None:
    """Someone has come: the iterations under way go on only to the end of the one that is running."""
    low, high = np.int64(1), fleet.steps[r]  # the first count of steps that ends at now_s or later
    begin_s = fleet.now_s[r]
    while low < high:
        middle = (low + high) // 2
        if begin_s + steps_seconds(price, fleet.features[r], fleet.growth[r], middle) >= now_s:
            high = middle
        else:
            low = middle + 1
    fleet.steps[r] = low
    fleet.end_s[r] = begin_s + steps_seconds(price, fleet.features[r], fleet.growth[r], low)


def route(rules: Rules, fleet: Fleet, number: int) -> int:
    """The replica for the request `number`: in turn, or the one with the fewest requests of all or of two drawn."""
    replicas = len(fleet.head)
    if rules.router == LEAST_LOADED:
        best = 0
        for r in range(1, replicas):
            if load(fleet, r) < load(fleet, best):
                best = r
        return best
    if rules.router == POWER_OF_TWO and replicas > 1:
        first = draw(rules.seed, 2 * number) % replicas
        second = (first + 1 + draw(rules.seed, 2 * number + 1) % (replicas - 1)) % replicas
        return first if load(fleet, first) <= load(fleet, second) else second
    return number % replicas


def load(fleet: Fleet, r: int) -> int:
    """Requests that replica `r` has, waiting or running."""
    return fleet.running_count[r] + fleet.waiting_count[r]


def draw(seed: int, number: int) -> int:
    """A whole number of 31 random bits that depends on `seed` and `number` alone (a xorshift-multiply mix)."""
    x = (np.int64(seed) * 40503 + np.int64(number)) & 0x7FFFFFFF
    for _ in range(2):
        x = ((x >> 15) ^ x) * 0x2C1B3C6D & 0x7FFFFFFF
        x = ((x >> 12) ^ x) * 0x297A2D39 & 0x7FFFFFFF
    return (x >> 15) ^ x
