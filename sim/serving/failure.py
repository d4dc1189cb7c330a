"""A replica that is lost for a while: what it held is gone, and its requests go elsewhere."""

from __future__ import annotations

import numpy as np

from sim.serving.fleet import BUSY, IDLE, NONE, PENDING, Fleet
from sim.serving.loop import seconds_of
from sim.serving.outcome import gone
from sim.serving.pending import push
from sim.serving.stages import stop
from sim.serving.step_time import StepTime


def cut_back(fleet: Fleet, price: StepTime, r: int, now_s: float) -> None:
    """Have the iterations under way on replica `r` go on only to the last that is over at `now_s`,
    and none begin."""
    me = fleet.replicas[r]
    me.halted = 1
    if me.activity != BUSY:
        return
    low, high = 0, int(me.steps)
    while low < high:
        middle = (low + high + 1) // 2
        if me.now_s + seconds_of(fleet, price, r, middle) <= now_s:
            low = middle
        else:
            high = middle - 1
    if low > 0:
        me.steps, me.end_s = low, me.now_s + seconds_of(fleet, price, r, low)


def fail(fleet: Fleet, r: int, now_s: float, back_s: float) -> None:
    """Replica `r` stops at `now_s`, in the midst of what it does, and begins nothing before
    `back_s`.

    Its KV-cache is lost and so is the iteration under way. Tokens already answered stand; each of
    its requests is routed anew at once, to have its KV computed again. There is room for them among
    what is pending.
    """
    me = fleet.replicas[r]
    if me.running_count > 0:
        me.busy_s += now_s - me.now_s
        me.lost_s += now_s - me.now_s
    slots = fleet.running[r, : me.running_count].tolist()
    for rank in range(fleet.queues.shape[1]):
        slot = fleet.queues[r, rank, 0]
        while slot != NONE:
            slots.append(int(slot))
            slot = fleet.slots[slot].behind
    for slot in slots:
        gone(fleet, r, slot, now_s)
        _forget(fleet, slot)
        push(fleet, now_s, slot, NONE)
    for slot in fleet.pending[: fleet.cursor[PENDING], 1].tolist():
        if (
            slot != NONE and fleet.slots[slot].source == r
        ):  # its KV had not yet reached who decodes it
            _forget(fleet, slot)
            fleet.slots[slot].pool = me.pool
    fleet.queues[r] = NONE
    fleet.buckets[r] = NONE
    me.running_count = me.waiting_count = me.nodes_made = me.unused = me.blocked = me.up = (
        me.halted
    ) = 0
    me.node_free = me.oldest = me.newest = NONE
    me.free_blocks, me.activity, me.now_s = me.blocks, IDLE, back_s
    me.link_free_s = back_s if np.isfinite(back_s) else now_s
    if me.stages > 1 and me.lane == 0:
        stop(fleet, r, now_s, back_s)


def _forget(fleet: Fleet, slot: int) -> None:
    it = fleet.slots[slot]
    it.cached = it.held = it.shared = it.chunk = it.away = 0
    it.source, it.behind = NONE, NONE
    it.retried += 1
