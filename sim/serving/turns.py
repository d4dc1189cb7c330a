"""Whose turn it is on chips that several replicas share: one of them at a time, for a number of
iterations.

Strict priority first; of equals, the one that has been busy least for its weight, so that those who
always have work are busy in proportion to their weights. A turn is over after `Rules.quantum`
iterations, or when there is no more work; nobody is interrupted. While nobody else wants the chips
no turn is counted, and iterations of an unchanging batch are taken in one go as ever, up to the one
in which somebody else gets work. Not modelled: the time that a change takes, and what it costs in
L2.
"""

from __future__ import annotations

from sim.serving.fleet import IDLE, NONE, Fleet, Rules

# shares of busy time closer than this are equal: sums of one step and of many differ by rounding
_ALIKE = 1e-9


def may_begin(fleet: Fleet, r: int) -> bool:
    """Whether replica `r` has the chips, or they are free and it is its turn."""
    me = fleet.replicas[r]
    if me.activity != IDLE:
        return True
    best = NONE
    for other in range(len(fleet.replicas)):
        it = fleet.replicas[other]
        if it.chips != me.chips:
            continue
        if it.activity != IDLE:
            return False
        if not _has_work(fleet, other):
            continue
        if it.turn > 0:
            return other == r
        if best == NONE or _before(fleet, other, best):
            best = other
    return best == r


def _has_work(fleet: Fleet, r: int) -> bool:
    return fleet.replicas[r].running_count + fleet.replicas[r].waiting_count > 0


def _before(fleet: Fleet, a: int, b: int) -> bool:
    one, other = fleet.replicas[a], fleet.replicas[b]
    if one.priority != other.priority:
        return one.priority > other.priority
    return one.busy_s / one.weight < other.busy_s / other.weight * (1 - _ALIKE)


def turn_steps(rules: Rules, fleet: Fleet, r: int) -> int:
    """How many iterations replica `r`, whose turn it is, may begin before the next choice."""
    me = fleet.replicas[r]
    for other in range(len(fleet.replicas)):
        if other != r and fleet.replicas[other].chips == me.chips and _has_work(fleet, other):
            if me.turn == 0:
                me.turn = rules.quantum
            return me.turn
    me.turn = 0
    return 2**40


def hand_on(fleet: Fleet, r: int) -> None:
    """The iterations of replica `r` have ended: the chips are free from then on."""
    me = fleet.replicas[r]
    me.turn = max(me.turn - me.steps, 0)
    if not _has_work(fleet, r):
        me.turn = 0
    for other in range(len(fleet.replicas)):
        it = fleet.replicas[other]
        if it.chips == me.chips and it.now_s < me.now_s:
            it.now_s = me.now_s


def wanted(fleet: Fleet, r: int) -> int:
    """The replica that has the chips of `r` to itself for several iterations, now that `r` gets
    work; or NONE."""
    for other in range(len(fleet.replicas)):
        it = fleet.replicas[other]
        if other != r and it.chips == fleet.replicas[r].chips and it.activity != IDLE:
            return other if it.steps > 1 and it.turn == 0 else NONE
    return NONE
