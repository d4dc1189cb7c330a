"""Inference requests of several DNNs on one array: who runs when.  Schedules are made elsewhere.

An extension of SOSA (arXiv 2203.11540), whose authors run two together once, from round 0 on. An
array has no instructions that could stop it in the middle: what runs is a static schedule,
and the next begins when it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Turn(NamedTuple):
    """A stretch of time in which the array runs for some DNNs."""

    start_s: float
    end_s: float
    who: tuple[int, ...]
    request: tuple[int, ...]  # which of each one's


class Served(NamedTuple):
    """When requests began to run and were done, by DNN and request."""

    start_s: list[np.ndarray]
    end_s: list[np.ndarray]
    turns: list[Turn]  # the first so many, in the order of their starts
    # how often which DNNs ran together; one alone where they take turns
    gangs: dict[tuple[int, ...], int]
    in_use_s: float


def in_gangs(
    arrival_s: Sequence[np.ndarray],
    ends_s: Callable[[tuple[int, ...]], Sequence[float]],
    keep: int = 0,
) -> Served:
    """One schedule for all who have a request waiting when the array gets free: the oldest of each.

    `ends_s` are the ends of the given DNNs in their joint schedule, seconds from its start. The
    next gang begins when the last of them is done, so a request that comes while one runs waits for
    its end.
    """
    count = len(arrival_s)
    start, end = ([np.full(len(each), np.nan) for each in arrival_s] for _ in range(2))
    coming = [each.tolist() for each in arrival_s]
    at = [0] * count
    turns: list[Turn] = []
    gangs: dict[tuple[int, ...], int] = {}
    now = in_use_s = 0.0
    while left := [i for i in range(count) if at[i] < len(coming[i])]:
        now = max(now, min(coming[i][at[i]] for i in left))
        who = tuple(i for i in left if coming[i][at[i]] <= now)
        after = ends_s(who)
        for i, last in zip(who, after):
            start[i][at[i]], end[i][at[i]] = now, now + last
        if len(turns) < keep:
            turns.append(Turn(now, now + max(after), who, tuple(at[i] for i in who)))
        for i in who:
            at[i] += 1
        gangs[who] = gangs.get(who, 0) + 1
        now += max(after)
        in_use_s += max(after)
    return Served(start, end, turns, gangs, in_use_s)


def apart(arrival_s: Sequence[np.ndarray], seconds: Sequence[float], keep: int = 0) -> Served:
    """Each DNN on pods of its own: its requests one after the other, `seconds` each.

    The array is in use while any of its pods are.
    """
    start = [_first_come(each, service) for each, service in zip(arrival_s, seconds)]
    end = [each + service for each, service in zip(start, seconds)]
    turns = [
        Turn(float(a), float(b), (i,), (n,))
        for i in range(len(start))
        for n, (a, b) in enumerate(zip(start[i][:keep], end[i][:keep]))
    ]
    turns.sort()
    gangs: dict[tuple[int, ...], int] = {(i,): len(each) for i, each in enumerate(start)}
    return Served(
        start, end, turns[:keep], gangs, _covered(np.concatenate(start), np.concatenate(end))
    )


def in_turns(
    arrival_s: Sequence[np.ndarray],
    seconds: Sequence[float],
    quantum_s: float | None = None,
    resume_s: Sequence[float] = (),
    keep: int = 0,
    order: Sequence[int] = (),
) -> Served:
    """One DNN at a time, round robin over those that have a request, in this `order`, by default
    their own.

    A turn is an inference, or at most `quantum_s` of it. Whoever was interrupted and goes on pays
    its `resume_s` first, the weights having to come again; not if nobody else ran in between. A
    turn ends early when its inference does.
    """
    count = len(arrival_s)
    start, end = ([np.full(len(each), np.nan) for each in arrival_s] for _ in range(2))
    coming = [each.tolist() for each in arrival_s]
    at, left_s = [0] * count, [0.0] * count
    turns: list[Turn] = []
    now = in_use_s = 0.0
    turn, before = 0, -1
    order = order or range(count)
    while waiting := [i for i in range(count) if at[i] < len(coming[i])]:
        now = max(now, min(coming[i][at[i]] for i in waiting))
        place = next(
            place
            for place in [*range(turn, count), *range(turn)]
            if at[order[place]] < len(coming[order[place]])
            and coming[order[place]][at[order[place]]] <= now
        )
        who = order[place]
        begun, request = now, at[who]
        if left_s[who] == 0.0:
            left_s[who], start[who][request] = seconds[who], now
        elif before != who:
            now += resume_s[who]
        ran = left_s[who] if quantum_s is None else min(quantum_s, left_s[who])
        now += ran
        left_s[who] = 0.0 if ran == left_s[who] else left_s[who] - ran
        if left_s[who] == 0.0:
            end[who][request] = now
            at[who] += 1
        if len(turns) < keep:
            turns.append(Turn(begun, now, (who,), (request,)))
        in_use_s += now - begun
        turn, before = (place + 1) % count, who
    return Served(
        start, end, turns, {(i,): len(each) for i, each in enumerate(arrival_s)}, in_use_s
    )


def _first_come(arrival_s: np.ndarray, service_s: float) -> np.ndarray:
    """Starts of one queue whose requests all take as long."""
    start, free_s = np.empty(len(arrival_s)), 0.0
    for place, arrived_s in enumerate(arrival_s.tolist()):
        start[place] = free_s = max(free_s, arrived_s)
        free_s += service_s
    return start


def _covered(start: np.ndarray, end: np.ndarray) -> float:
    """Length of the union of stretches of time."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    before = np.concatenate(([-np.inf], end[:-1]))
    return float(np.maximum(end - np.maximum(start, before), 0.0).sum())
