"""Replay of requests through one group of ranks with continuous batching, every op of every iteration played.

Between iterations the scheduler looks at what has arrived. If it admits anything, the next iteration is their prefill
(which makes their first tokens), else one decode step of everything that runs. Not modelled here: the scheduler's own
time, preemption, chunked prefill, prefix caching.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import NamedTuple

import simpy

from sim.engine.group import Group
from sim.engine.policies import first_come
from sim.engine.steps import GraphOf, Progress
from sim.spans import Outcome, RequestRecord, Timeline, digest
from sim.workload.requests import Request
from sim.workload.transformer import decode_batch, prefill_batch


class Limits(NamedTuple):
    """What bounds a batch: sequences, new tokens in one iteration, tokens that the KV-cache holds."""

    sequences: int
    new_tokens: int
    kv_tokens: float


class _Running:
    """A request that has been admitted."""

    __slots__ = ("first_token_s", "made", "request", "scheduled_s")

    def __init__(self, request: Request, scheduled_s: float) -> None:
        self.request, self.scheduled_s = request, scheduled_s
        self.first_token_s, self.made = 0.0, 0


def replay(
    group: Group,
    graph_of: GraphOf,
    requests: Sequence[Request],
    limits: Limits,
    window: tuple[float, float] = (0.0, float("inf")),
    progress: Progress = lambda _: None,
) -> Outcome:
    """Serve `requests` (by arrival) to the end; spans are kept for iterations that start inside `window`, if recorded
    at all.

    A request that the KV-cache can never hold is refused, with a warning, as an engine would refuse it.
    """
    fits = [r for r in requests if r.prompt_tokens + r.output_tokens <= limits.kv_tokens]
    warnings = []
    if len(fits) < len(requests):
        first = next(r for r in requests if r.prompt_tokens + r.output_tokens > limits.kv_tokens)
        warnings.append(
            f"{len(requests) - len(fits)} of {len(requests)} requests refused: longer than the KV-cache of "
            f"{limits.kv_tokens:,.0f} tokens (the first is request {first.id} with "
            f"{first.prompt_tokens + first.output_tokens:,})"
        )
    records: list[RequestRecord] = []
    idle = [0.0]
    group.env.run(group.env.process(_serve(group, graph_of, fits, limits, window, records, idle, progress)))
    group.close()
    totals = group.chips[0].totals
    totals.seconds = group.env.now
    totals.idle_s = idle[0]
    records.sort(key=lambda record: record.id)
    return Outcome(
        totals,
        tokens=sum(record.output_tokens for record in records),
        ranks=group.ranks,
        requests=records,
        timeline=group.timeline or Timeline(),
        rates=group.rates(),
        warnings=warnings,
        fingerprint=digest(t for r in records for t in (r.scheduled_s, r.first_token_s, r.last_token_s)),
    )


def _serve(
    group: Group, graph_of: GraphOf, requests: Sequence[Request], limits: Limits, window: tuple[float, float],
    records: list[RequestRecord], idle: list[float], progress: Progress,
) -> Generator[simpy.Event, object, None]:  # fmt: skip
    env = group.env
    coming = deque(requests)
    waiting: deque[Request] = deque()
    running: list[_Running] = []
    free_kv = limits.kv_tokens
    while coming or waiting or running:
        while coming and coming[0].arrival_s <= env.now:
            waiting.append(coming.popleft())
        if not waiting and not running:
            idle[0] += coming[0].arrival_s - env.now
            yield env.timeout(coming[0].arrival_s - env.now)
            # The sum now + (arrival - now) may fall short of the arrival by a rounding; the request has come all the
            # same.
            waiting.append(coming.popleft())
            continue
        admitted = first_come(waiting, free_kv, limits.sequences - len(running), limits.new_tokens)
        if admitted:
            fresh = [_Running(waiting.popleft(), env.now) for _ in admitted]
            free_kv -= sum(each.request.prompt_tokens + each.request.output_tokens for each in fresh)
            batch, worked = prefill_batch([each.request.prompt_tokens for each in fresh]), fresh
            running += fresh
        else:
            batch = decode_batch(each.request.prompt_tokens + each.made - 1 for each in running)
            worked = running
        group.record(window[0] <= env.now < window[1])
        yield from group.run(graph_of(batch))
        ended = False
        for each in worked:
            each.made += 1
            if each.made == 1:
                each.first_token_s = env.now
            ended = ended or each.made == each.request.output_tokens
        if not ended:
            continue
        for each in running:
            if each.made == each.request.output_tokens:
                r = each.request
                records.append(RequestRecord(*r, each.scheduled_s, each.first_token_s, env.now))
                free_kv += r.prompt_tokens + r.output_tokens
        running = [each for each in running if each.made < each.request.output_tokens]
        progress(len(records) / len(requests))
