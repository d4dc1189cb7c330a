"""A static batch from prompt to last token: one prefill, then every decode step with its growing context.

Steps are played at sampled contexts and summed in closed form between them. That is exact, not an approximation:
along a run every decision (which op ended first, what bounded it, what was resident, who shared with whom) is noted
in order, and two contexts with the same notes have every event time a linear function of the ops' sizes in between,
because the set of sizes that lead to given decisions is cut out by linear inequalities and so is convex. The sizes
themselves must be linear in the context too: each is linear, or bends one way (a window that fills, a prefetch that
meets its cap), so it is enough to look at the middle. Where the notes of two ends differ, or a size bends between
them, the interval is halved, down to neighbouring contexts if need be. A test holds this to playing every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from sim.engine.group import Group
from sim.spans import Outcome, Timeline, Totals, digest
from sim.workload.batch import Batch, Sequences, Shared, decode_batch
from sim.workload.graph import STREAMS, Graph

GraphOf = Callable[[Batch], Graph]
GroupOf = Callable[[Timeline | None], Group]
Progress = Callable[[float], None]
Sums = dict[tuple[str, ...], float]


class StaticBatch(NamedTuple):
    """`batch` equal sequences of `prompt_tokens`, each answered with `output_tokens`."""

    batch: int
    prompt_tokens: int
    output_tokens: int
    every_step: bool = False
    shared: tuple[Shared, ...] = ()  # runs of tokens that prompts have in common

    def prefill(self) -> Batch:
        """All prompts; what some share is computed once."""
        past = [0] * self.batch
        for run in self.shared:
            for place in sorted(range(self.batch), key=lambda place: past[place])[: int(run.number) - 1]:
                past[place] = min(past[place] + int(run.tokens), self.prompt_tokens - 1)
        return Batch(tuple(Sequences(1, self.prompt_tokens - each, each) for each in past), self.batch)

    def decode(self, context: int) -> Batch:
        """One step of all of them, with `context` cached tokens each."""
        return decode_batch([context] * self.batch, self.shared)


def run_static(
    group_of: GroupOf,
    graph_of: GraphOf,
    work: StaticBatch,
    timeline: Timeline | None,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Play the whole run.  The prefill makes the first token, each of `output_tokens` - 1 decode steps one more.

    `timeline`, if given, receives two consecutive decode steps in the middle of the run (the prefill, if there is no
    decode).
    """
    group = group_of(None)
    total, _ = play(group, graph_of(work.prefill()))
    prefill_s = total["seconds",]
    notes = [prefill_s]
    first, last = work.prompt_tokens, work.prompt_tokens + work.output_tokens - 2
    if work.output_tokens > 1:
        decode, notes = (_every if work.every_step else _sampled)(group, graph_of, work, first, last, progress)
        for key, value in decode.items():
            total[key] = total.get(key, 0.0) + value
    if timeline is not None:
        recorder = group_of(timeline)
        middle = (first + last) // 2
        shown = [work.decode(middle + i) for i in range(2)] if work.output_tokens > 1 else []
        for batch in shown or [work.prefill()]:
            recorder.env.run(recorder.env.process(recorder.run(graph_of(batch))))
        recorder.close()
    totals = totals_of(total)
    return Outcome(
        totals,
        phases={"prefill": prefill_s, "decode": totals.seconds - prefill_s},
        tokens=work.batch * work.output_tokens,
        ranks=group.ranks,
        timeline=timeline or Timeline(),
        rates=group.rates(),
        fingerprint=digest([prefill_s, *notes, totals.seconds]),
    )


def play(group: Group, graph: Graph) -> tuple[Sums, tuple]:
    """Play one pass; what it added to the sums, and the decisions taken on the way."""
    before = sums_of(group.chips[0].totals)
    group.net.order = []
    group.chips[0].residency.begin()
    group.env.run(group.env.process(group.run(graph)))
    trail, group.net.order = tuple(group.net.order), None
    after = sums_of(group.chips[0].totals)
    return {key: value - before.get(key, 0.0) for key, value in after.items()}, trail


def _every(
    group: Group, graph_of: GraphOf, work: StaticBatch, first: int, last: int, progress: Progress
) -> tuple[Sums, list[float]]:
    total: Sums = {}
    for context in range(first, last + 1):
        step, _ = play(group, graph_of(work.decode(context)))
        for key, value in step.items():
            total[key] = total.get(key, 0.0) + value
        progress((context - first + 1) / (last - first + 1))
    return total, [total["seconds",]]


def _sampled(
    group: Group, graph_of: GraphOf, work: StaticBatch, first: int, last: int, progress: Progress
) -> tuple[Sums, list[float]]:
    """The sum over contexts first..last of one step each.  The first one is played for itself: it finds L2 as a
    prefill left it."""
    total, _ = play(group, graph_of(work.decode(first)))
    notes = [total["seconds",]]
    if first == last:
        return total, notes
    first += 1
    played: dict[int, tuple[Sums, tuple]] = {}

    def at(context: int) -> tuple[Sums, tuple]:
        if context not in played:
            graph = graph_of(work.decode(context))
            played[context] = play(group, graph)
            if group.chips[0].residency.reused:  # then it matters how the step before leaves L2
                play(group, graph_of(work.decode(context - 1)))
                played[context] = play(group, graph)
        return played[context]

    @cache
    def sizes(context: int) -> tuple[float, ...]:
        return sizes_of(graph_of(work.decode(context)))

    for key, value in at(last)[0].items():
        total[key] = total.get(key, 0.0) + value
    todo = [(first, last)]
    while todo:
        a, b = todo.pop()
        if a == b:
            continue
        (low, low_trail), (high, high_trail) = at(a), at(b)
        middle = (a + b) // 2
        if b - a > 1 and (low_trail != high_trail or bends(sizes(a), sizes(middle), sizes(b), (middle - a) / (b - a))):
            todo += [(middle, b), (a, middle)]
            continue
        n = b - a  # contexts a..b-1: n terms of an arithmetic series
        for key in high:
            start, end = low.get(key, 0.0), high[key]
            total[key] = total.get(key, 0.0) + n * start + (n - 1) / 2 * (end - start)
        progress((b - first) / (last - first))
    return total, notes + [played[context][0]["seconds",] for context in sorted(played)]


def sizes_of(graph: Graph) -> tuple[float, ...]:
    """Every number in a graph that depends on the batch."""
    return tuple(
        number
        for layer in dict.fromkeys(graph.layers)
        for op in layer.ops
        for number in (op.flop, op.lone_flop, op.message_bytes, *(tensor.nbytes for tensor in (*op.reads, *op.writes)))
    )


def bends(low: tuple[float, ...], middle: tuple[float, ...], high: tuple[float, ...], share: float) -> bool:
    """Whether any size at `share` of the way is off the straight line between its ends."""
    if not len(low) == len(middle) == len(high):
        return True
    return any(abs(a + share * (c - a) - b) > 1e-9 * b for a, b, c in zip(low, middle, high))


def sums_of(totals: Totals) -> Sums:
    """Totals as one flat table of numbers that add up."""
    flat: Sums = {}
    for name, value in vars(totals).items():
        if not isinstance(value, dict):
            flat[name,] = value
            continue
        for key, inner in value.items():
            if isinstance(inner, dict):
                flat |= {(name, key, kind): seconds for kind, seconds in inner.items()}
            else:
                flat[name, key] = inner
    return flat


def totals_of(sums: Sums) -> Totals:
    """The inverse of `sums_of`."""
    totals = Totals(span_s={stream: {} for stream in STREAMS})
    for (name, *keys), value in sums.items():
        if not keys:
            setattr(totals, name, value)
        elif len(keys) == 1:
            getattr(totals, name)[keys[0]] = value
        else:
            getattr(totals, name).setdefault(keys[0], {})[keys[1]] = value
    return totals
