"""Which replica of its pool a request goes to.  Only those that are up are chosen from; if none is,
the first to be.

A router is a row of `ROUTERS`: a function of what it may see.  One that is added from outside runs
in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.serving.draws import draw
from sim.serving.fleet import BUSY, NONE, Fleet, Future, Rules, Seen
from sim.serving.kv import matched

# When replicas differ by more than this many requests, balance goes before a prefix (RECALLED:
# SGLang's router).
_IMBALANCE = 32


class Asks(NamedTuple):
    """What a router may know of a request."""

    session: int
    prompt: int
    block_from: int  # its prefix: `Seen.blocks[block_from:block_from + blocks]`
    blocks: int


class Router(NamedTuple):
    """A way to choose a replica.

    `choose(seen, asks)` gives its number in the fleet; an oracle's is given the `Future` too.
    `at_once(sessions, first turn, replicas, seed)` are the choices for many requests in one go, if
    they do not depend on how the replicas are.
    """

    name: str
    summary: str
    choose: Callable[..., int]
    at_once: Callable[[np.ndarray, int, int, int], np.ndarray] | None = None
    oracle: bool = False


def route(
    rules: Rules, fleet: Fleet, pool: int, session: int, prompt: int, block_from: int, blocks: int
) -> int:
    """The replica for a request."""
    group, all = fleet.pools[pool], fleet.replicas
    ups = 0
    for r in range(group.first, group.first + group.count):
        ups += all[r].up
    if ups == 0:
        return _first_back(fleet, pool)
    turn = group.turn
    group.turn += 1 if ups > 1 else 0
    seen = Seen(
        first=group.first,
        replicas=group.count,
        ups=ups,
        turn=turn,
        seed=rules.seed,
        up=all.up,
        running=all.running_count,
        waiting=all.waiting_count,
        prompts=all.prompts,
        answered=all.answered,
        answered_tokens=all.answered_tokens,
        nodes=fleet.nodes,
        buckets=fleet.buckets,
        blocks=fleet.blocks,
    )
    if ups == 1:
        return _nth(seen, 0)
    asks = Asks(session, prompt, block_from, blocks)
    return _chosen(rules.router, seen, asks, Future(all.work, all.activity, all.end_s))


def _chosen(router: int, seen: Seen, asks: Asks, future: Future) -> int:
    row = [*ROUTERS.values()][router]
    return row.choose(seen, asks, future) if row.oracle else row.choose(seen, asks)


def apart(router: int) -> bool:
    """Whether what it chooses does not depend on how the replicas are."""
    return [*ROUTERS.values()][router].at_once is not None


def _in_turn(seen: Seen, asks: Asks) -> int:
    return _nth(seen, seen.turn % seen.ups)


def _all_in_turn(session: np.ndarray, turn: int, replicas: int, seed: int) -> np.ndarray:
    return (turn + np.arange(len(session))) % replicas


def _by_session(seen: Seen, asks: Asks) -> int:
    return _nth(seen, draw(seen.seed, asks.session, 0) % seen.ups)


def _all_by_session(session: np.ndarray, turn: int, replicas: int, seed: int) -> np.ndarray:
    who, back = np.unique(session, return_inverse=True)
    return np.array([draw(seed, int(each), 0) % replicas for each in who], np.int64)[back]


def _least_loaded(seen: Seen, asks: Asks) -> int:
    best = NONE
    for r in range(seen.first, seen.first + seen.replicas):
        if seen.up[r] and (best == NONE or _load(seen, r) < _load(seen, best)):
            best = r
    return best


def _least_work(seen: Seen, asks: Asks) -> int:
    """Tokens of the prompts that it has, and for each of them an answer as long as those complete
    were on average: what a router in front of engines can count."""
    answers = tokens = 0
    for r in range(len(seen.answered)):
        answers += seen.answered[r]
        tokens += seen.answered_tokens[r]
    mean = tokens / max(answers, 1)
    best, least = NONE, np.inf
    for r in range(seen.first, seen.first + seen.replicas):
        work = seen.prompts[r] + mean * _load(seen, r)
        if seen.up[r] and work < least:
            best, least = r, work
    return best


def _least_to_come(seen: Seen, asks: Asks, future: Future) -> int:
    best = NONE
    for r in range(seen.first, seen.first + seen.replicas):
        if seen.up[r] and (best == NONE or _sooner_done(future, r, best)):
            best = r
    return best


def _sooner_done(future: Future, a: int, b: int) -> bool:
    if future.work[a] != future.work[b]:
        return future.work[a] < future.work[b]
    busy = future.activity[a] == BUSY and future.activity[b] == BUSY
    return busy and future.end_s[a] < future.end_s[b]


def _of_two(seen: Seen, asks: Asks) -> int:
    one = draw(seen.seed, seen.turn, 1) % seen.ups
    other = (one + 1 + draw(seen.seed, seen.turn, 2) % (seen.ups - 1)) % seen.ups
    a, b = _nth(seen, one), _nth(seen, other)
    return a if _load(seen, a) <= _load(seen, b) else b


def _by_prefix(seen: Seen, asks: Asks) -> int:
    """The replica with the longest part of the prefix, if that is most of it and no replica is far
    behind; else the least loaded."""
    best, most = NONE, asks.blocks // 2
    low, high = 2**40, 0
    for r in range(seen.first, seen.first + seen.replicas):
        if not seen.up[r]:
            continue
        low, high = min(low, _load(seen, r)), max(high, _load(seen, r))
        found, _ = matched(seen, r, asks.block_from, asks.blocks)
        if found > most:
            best, most = r, found
    return _least_loaded(seen, asks) if best == NONE or high - low > _IMBALANCE else best


def _load(seen: Seen, r: int) -> int:
    return seen.running[r] + seen.waiting[r]


def _nth(seen: Seen, number: int) -> int:
    r = seen.first - 1
    while number >= 0:
        r += 1
        number -= seen.up[r]
    return r


def _first_back(fleet: Fleet, pool: int) -> int:
    first = fleet.pools[pool].first
    for r in range(first + 1, first + fleet.pools[pool].count):
        if fleet.replicas[r].now_s < fleet.replicas[first].now_s:
            first = r
    return first


ROUTERS = {
    row.name: row
    for row in (
        Router("round_robin", "in turn", _in_turn, _all_in_turn),
        Router("least_loaded", "fewest requests", _least_loaded),
        Router("least_work", "fewest tokens, answers as long as those so far", _least_work),
        Router("power_of_two", "the less loaded of two drawn", _of_two),
        Router("prefix_affine", "where most of its prefix is", _by_prefix),
        Router("sticky", "a session stays where it was", _by_session, _all_by_session),
        Router(
            "oracle_least_work",
            "fewest tokens to come, which no router can know",
            _least_to_come,
            oracle=True,
        ),
    )
}
