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
    Rules,
)
from sim.serving.scheduler import finish, plan
from sim.serving.step_time import StepTime, measure, steps_seconds

DONE, PRICE, SLOTS, RECORDS = range(4)  # why the loop stopped


def serve(
    rules: Rules, fleet: Fleet, price: StepTime, records: np.recarray,
    arrival_s: np.ndarray, prompt: np.ndarray, output: np.ndarray, until_s: float,
) -> int:  # fmt: skip
    """Take up a chunk of requests from `fleet.cursor[0]` on, then run to `until_s`; why it stopped.

    Replicas that play iterations elsewhere (`fleet.activity` UNPRICED) leave with PRICE and their number in
    `fleet.cursor[3]`.
    """
    replicas = len(fleet.replicas)
    while fleet.cursor[0] < len(arrival_s):
        at = fleet.cursor[0]
        now_s = arrival_s[at]
        if fleet.cursor[4] == 0:
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


def advance(rules: Rules, fleet: Fleet, price: StepTime, records: np.recarray, r: int, until_s: float) -> int:
    """Bring replica `r` to `until_s`: what ends by then has ended, and what begins before then has begun.

    What begins at `until_s` itself waits, for a request may arrive at that instant.
    """
    while True:
        if fleet.replicas[r].activity == UNPRICED:
            seconds = steps_seconds(price, fleet.features[r], fleet.growth[r], 1)
            if np.isnan(seconds):
                fleet.cursor[3] = r
                return PRICE
            set_price(fleet, r, seconds)
            if fleet.replicas[r].steps > 1:
                seconds = steps_seconds(price, fleet.features[r], fleet.growth[r], fleet.replicas[r].steps)
                fleet.replicas[r].end_s = fleet.replicas[r].now_s + seconds
        if fleet.replicas[r].activity == BUSY:
            if fleet.replicas[r].end_s > until_s:
                return DONE
            if fleet.cursor[2] + fleet.replicas[r].running_count > len(records):
                return RECORDS
            finish(rules, fleet, r, records)
            fleet.replicas[r].activity = IDLE
        if fleet.replicas[r].now_s >= until_s:
            return DONE
        if fleet.replicas[r].running_count == 0 and fleet.replicas[r].head == NONE:
            return DONE
        steps = plan(rules, fleet, r)
        if steps == 0:
            return DONE
        linear = measure(fleet, r, price)
        fleet.replicas[r].steps = min(steps, linear)
        fleet.replicas[r].activity = UNPRICED


def set_price(fleet: Fleet, r: int, seconds: float) -> None:
    """The iteration that replica `r` asked about takes so long."""
    fleet.replicas[r].end_s = fleet.replicas[r].now_s + seconds
    fleet.replicas[r].activity = BUSY


def _new_slot(fleet: Fleet, id: int, arrival_s: float, prompt: int, output: int) -> int:
    fleet.cursor[4] -= 1
    slot = fleet.free_slots[fleet.cursor[4]]
    fleet.slots[slot].id, fleet.slots[slot].arrival_s, fleet.slots[slot].prompt, fleet.slots[slot].output = (
        id,
        arrival_s,
        prompt,
        output,
    )
    fleet.slots[slot].scheduled_s = fleet.slots[slot].first_s = np.nan
    fleet.slots[slot].made = fleet.slots[slot].cached = fleet.slots[slot].held = fleet.slots[slot].chunk = 0
    fleet.slots[slot].behind = NONE
    return slot


def _enqueue(fleet: Fleet, r: int, slot: int, now_s: float, price: StepTime) -> None:
    if fleet.replicas[r].tail == NONE:
        fleet.replicas[r].head = slot
    else:
        fleet.slots[fleet.replicas[r].tail].behind = slot
    fleet.replicas[r].tail = slot
    fleet.replicas[r].waiting_count += 1
    if fleet.replicas[r].activity == IDLE:
        fleet.replicas[r].now_s = max(fleet.replicas[r].now_s, now_s)
    elif fleet.replicas[r].steps > 1 and fleet.replicas[r].blocked == 0:
        _cut(fleet, r, now_s, price)


def _cut(fleet: Fleet, r: int, now_s: float, price: StepTime) -> None:
    """Someone has come: the iterations under way go on only to the end of the one that is running."""
    low, high = np.int64(1), fleet.replicas[r].steps  # the first count of steps that ends at now_s or later
    begin_s = fleet.replicas[r].now_s
    while low < high:
        middle = (low + high) // 2
        if begin_s + steps_seconds(price, fleet.features[r], fleet.growth[r], middle) >= now_s:
            high = middle
        else:
            low = middle + 1
    fleet.replicas[r].steps = low
    fleet.replicas[r].end_s = begin_s + steps_seconds(price, fleet.features[r], fleet.growth[r], low)


def route(rules: Rules, fleet: Fleet, number: int) -> int:
    """The replica for the request `number`: in turn, or the one with the fewest requests of all or of two drawn."""
    replicas = len(fleet.replicas)
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
    return fleet.replicas[r].running_count + fleet.replicas[r].waiting_count


def draw(seed: int, number: int) -> int:
    """A whole number of 31 random bits that depends on `seed` and `number` alone (a xorshift-multiply mix)."""
    x = (np.int64(seed) * 40503 + np.int64(number)) & 0x7FFFFFFF
    for _ in range(2):
        x = ((x >> 15) ^ x) * 0x2C1B3C6D & 0x7FFFFFFF
        x = ((x >> 12) ^ x) * 0x297A2D39 & 0x7FFFFFFF
    return (x >> 15) ^ x
