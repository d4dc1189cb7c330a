"""Passes through pipeline stages: each stage has one pass at a time, first come first served.

A replica in stages is several rows of the fleet, its lanes: each has a micro-batch of its own, with
a queue and a part of the KV-cache (as vLLM's virtual engines), and all of them share the stages. A
lane plans its next iteration when the tokens of the last have come out of the last stage. Not
modelled: a stage that waits to send, for want of room in the next; a queue and a cache that the
lanes have together.
"""

from __future__ import annotations

from typing import Any

from sim.serving.fleet import Fleet


def passed_through(ready_s: float, free_s: Any, seconds: Any, stages: int, slow: float) -> float:
    """When a pass that is ready at `ready_s` and takes `seconds[s]` x `slow` on stage s is out of
    the last of them.

    `free_s[s]` is when stage s has done with those before it; afterwards, with this one as well.
    """
    at_s = ready_s
    for stage in range(stages):
        at_s = max(at_s, free_s[stage]) + seconds[stage] * slow
        free_s[stage] = at_s
    return at_s


def set_off(fleet: Fleet, r: int) -> None:
    """The iteration of lane `r` enters the first stage as soon as it may."""
    me, first = fleet.replicas[r], r - fleet.replicas[r].lane
    ready_s = me.now_s + me.overhead_s + me.delay_s
    me.end_s = passed_through(ready_s, fleet.free_s[first], fleet.stage_s[r], me.stages, me.slow)
    whole = fleet.replicas[first]
    whole.flight_s += me.end_s - max(me.now_s, whole.flown_s)
    whole.flown_s = me.end_s


def leave(fleet: Fleet, r: int) -> None:
    """The iteration of lane `r` is over: what the stages did for it."""
    me = fleet.replicas[r]
    for stage in range(me.stages):
        fleet.stage_busy_s[r, stage] += fleet.stage_s[r, stage] * me.slow


def stop(fleet: Fleet, r: int, now_s: float, back_s: float) -> None:
    """All that is on the stages whose first lane is `r` is lost; they take nothing before
    `back_s`."""
    me = fleet.replicas[r]
    me.flight_s -= max(me.flown_s - now_s, 0.0)
    me.flown_s = now_s
    for stage in range(me.stages):
        fleet.free_s[r, stage] = back_s
