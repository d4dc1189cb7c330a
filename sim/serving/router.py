"""Which replica of its pool a request goes to.  Only those that are up are chosen from; if none is,
the first to be."""

from __future__ import annotations

from sim.serving.draws import draw
from sim.serving.fleet import (
    BUSY,
    LEAST_WORK,
    NONE,
    POWER_OF_TWO,
    PREFIX_AFFINE,
    ROUND_ROBIN,
    STICKY,
    Fleet,
    Rules,
)
from sim.serving.kv import matched

# When replicas differ by more than this many requests, balance goes before a prefix (RECALLED:
# SGLang's router).
_IMBALANCE = 32


def route(rules: Rules, fleet: Fleet, pool: int, session: int, block_from: int, blocks: int) -> int:
    """The replica for a request: in turn, by load, or where its session or prefix is."""
    group = fleet.pools[pool]
    up = 0
    for r in range(group.first, group.first + group.count):
        up += fleet.replicas[r].up
    if up == 0:
        return _first_back(fleet, pool)
    if up == 1:
        return _nth(fleet, pool, 0)
    turn = group.turn
    group.turn += 1
    if rules.router == ROUND_ROBIN:
        return _nth(fleet, pool, turn % up)
    if rules.router == STICKY:
        return _nth(fleet, pool, draw(rules.seed, session, 0) % up)
    if rules.router == POWER_OF_TWO:
        one = draw(rules.seed, turn, 1) % up
        other = (one + 1 + draw(rules.seed, turn, 2) % (up - 1)) % up
        a, b = _nth(fleet, pool, one), _nth(fleet, pool, other)
        return a if load(fleet, a) <= load(fleet, b) else b
    if rules.router == PREFIX_AFFINE and blocks > 0:
        near = _nearest(fleet, pool, block_from, blocks)
        if near != NONE:
            return near
    best = NONE
    for r in range(group.first, group.first + group.count):
        if fleet.replicas[r].up and (best == NONE or _lighter(rules, fleet, r, best)):
            best = r
    return best


def load(fleet: Fleet, r: int) -> int:
    """Requests that replica `r` has, waiting or running."""
    return fleet.replicas[r].running_count + fleet.replicas[r].waiting_count


def _lighter(rules: Rules, fleet: Fleet, a: int, b: int) -> bool:
    if rules.router != LEAST_WORK:
        return load(fleet, a) < load(fleet, b)
    one, other = fleet.replicas[a], fleet.replicas[b]
    if one.work != other.work:
        return one.work < other.work
    return one.activity == BUSY and other.activity == BUSY and one.end_s < other.end_s


def _nth(fleet: Fleet, pool: int, number: int) -> int:
    r = fleet.pools[pool].first - 1
    while number >= 0:
        r += 1
        number -= fleet.replicas[r].up
    return r


def _first_back(fleet: Fleet, pool: int) -> int:
    first = fleet.pools[pool].first
    for r in range(first + 1, first + fleet.pools[pool].count):
        if fleet.replicas[r].now_s < fleet.replicas[first].now_s:
            first = r
    return first


def _nearest(fleet: Fleet, pool: int, block_from: int, blocks: int) -> int:
    """The replica with the longest part of the prefix, if that is most of it and no replica is far
    behind."""
    group = fleet.pools[pool]
    best, most = NONE, blocks // 2
    low, high = 2**40, 0
    for r in range(group.first, group.first + group.count):
        if not fleet.replicas[r].up:
            continue
        low, high = min(low, load(fleet, r)), max(high, load(fleet, r))
        found, _ = matched(fleet, r, block_from, blocks)
        if found > most:
            best, most = r, found
    return NONE if high - low > _IMBALANCE else best
