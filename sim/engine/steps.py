"""A static batch on one group of ranks: one prefill, then every decode step with its growing
context.

Steps are played at sampled contexts and summed in closed form between them. That is exact, not an
approximation: along a run every decision (which op ended first, what bounded it, what was resident,
who shared with whom) is noted in order, and two contexts with the same notes have every event time
a linear function of the ops' sizes in between, because the set of sizes that lead to given
decisions is cut out by linear inequalities and so is convex. The sizes themselves must be linear in
the context too: each is linear, or bends one way (a window that fills, a prefetch that meets its
cap), so it is enough to look at the middle. Where the notes of two ends differ, or a size bends
between them, the interval is halved, down to neighbouring contexts if need be. A test holds this to
playing every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sim.engine.group import Group
from sim.engine.halves import halves
from sim.facts.totals import Totals
from sim.graph.batch import Batch, Sequences, Shared, decode_batch
from sim.graph.graph import STREAMS
from sim.hardware.cost import is_straight

Progress = Callable[[float], None]
Sums = dict[tuple[str, ...], float]


class StaticBatch(NamedTuple):
    """`batch` equal sequences of `prompt_tokens`, each answered with `output_tokens`."""

    batch: int
    prompt_tokens: int
    output_tokens: int
    every_step: bool = False
    shared: tuple[Shared, ...] = ()  # runs of tokens that prompts have in common
    micro_batches: int = 1

    def parts(self) -> list[StaticBatch]:
        """The micro-batches, as equal as they can be; of a shared run, each has its part of the
        sequences."""
        each, over = divmod(self.batch, self.micro_batches)
        sizes = [each + (part < over) for part in range(self.micro_batches)]
        return [
            self._replace(
                batch=size,
                micro_batches=1,
                shared=tuple(
                    run._replace(number=run.number * size / self.batch) for run in self.shared
                ),
            )
            for size in sizes
        ]

    def prefill(self) -> Batch:
        """All prompts; what some share is computed once."""
        past = [0] * self.batch
        for run in self.shared:
            for place in sorted(range(self.batch), key=lambda place: past[place])[
                : max(int(run.number) - 1, 0)
            ]:
                past[place] = min(past[place] + int(run.tokens), self.prompt_tokens - 1)
        return Batch(
            tuple(Sequences(1, self.prompt_tokens - each, each) for each in past), self.batch
        )

    def decode(self, context: int) -> Batch:
        """One step of all of them, with `context` cached tokens each."""
        return decode_batch([context] * self.batch, self.shared)


def play(group: Group, batch: Batch) -> tuple[Sums, tuple]:
    """Play one pass; what it added to the sums, and the decisions taken on the way."""
    graphs = group.graphs(batch)
    before = sums_of(group.chips[0].totals)
    group.net.order = []
    group.chips[0].residency.begin()
    group.env.run(group.env.process(group.run(*graphs)))
    trail, group.net.order = tuple(group.net.order), None
    after = sums_of(group.chips[0].totals)
    return {key: value - before.get(key, 0.0) for key, value in after.items()}, trail


class Stretch(NamedTuple):
    """Decode steps on a straight line: the first of `steps` takes `low`, the one after the last
    would take `high`."""

    steps: int
    low: Sums
    high: Sums

    @property
    def seconds(self) -> np.ndarray:
        """Of each step."""
        low_s, high_s = self.low["seconds",], self.high["seconds",]
        return low_s + (high_s - low_s) / self.steps * np.arange(self.steps)

    def total(self) -> Sums:
        """Over all of them: an arithmetic series."""
        n, low = self.steps, self.low
        return {
            key: n * low.get(key, 0.0) + (n - 1) / 2 * (value - low.get(key, 0.0))
            for key, value in self.high.items()
        }


def added(a: Sums, b: Sums) -> Sums:
    """Both sums as one."""
    return {
        key: a.get(key, 0.0) + b.get(key, 0.0) for key in (*a, *(key for key in b if key not in a))
    }


def decode_steps(
    group: Group, work: StaticBatch, progress: Progress = lambda _: None
) -> list[Stretch]:
    """All decode steps in their order, after a prefill: the first token was made there."""
    first, last = work.prompt_tokens, work.prompt_tokens + work.output_tokens - 2
    if last < first:
        return []
    if not work.every_step:
        return _sampled(group, work, first, last, progress)
    found = []
    for context in range(first, last + 1):
        step, _ = play(group, work.decode(context))
        found.append(Stretch(1, step, step))
        progress((context - first + 1) / (last - first + 1))
    return found


def _sampled(
    group: Group, work: StaticBatch, first: int, last: int, progress: Progress
) -> list[Stretch]:
    """The steps at contexts first..last.  The first one is played for itself: it finds L2 as a
    prefill left it."""
    step, _ = play(group, work.decode(first))
    found = [Stretch(1, step, step)]
    if first == last:
        return found
    first += 1
    played: dict[int, tuple[Sums, tuple]] = {}

    def at(context: int) -> tuple[Sums, tuple]:
        if context not in played:
            batch = work.decode(context)
            played[context] = play(group, batch)
            if group.chips[0].residency.reused:  # then it matters how the step before leaves L2
                play(group, work.decode(context - 1))
                played[context] = play(group, batch)
        return played[context]

    @cache
    def sizes(context: int) -> Numbers:
        return sizes_of(group, work.decode(context))

    def straight(a: int, middle: int, b: int) -> bool:
        if at(a)[1] != at(b)[1]:
            return False
        return not bends(sizes(a), sizes(middle), sizes(b), (middle - a) / (b - a))

    for a, b in halves([(first, last)] if first < last else [], straight):
        found.append(Stretch(b - a, at(a)[0], at(b)[0]))
        progress((b - first) / (last - first))
    return [*found, Stretch(1, at(last)[0], at(last)[0])]


class Numbers(NamedTuple):
    """Every number in the graphs of a pass that depends on the batch: those that a pass's times are
    straight lines over, and the sizes of ops whose cost bends with them."""

    sizes: tuple[float, ...]
    bent: tuple[float, ...]


def sizes_of(group: Group, batch: Batch) -> Numbers:
    """Those of a pass over `batch`."""
    sizes: list[float] = []
    bent: list[float] = []
    for graph in dict.fromkeys(group.graphs(batch)):
        for layer in dict.fromkeys(graph.layers):
            for op in layer.ops:
                numbers = [op.flop, op.lone_flop, op.message_bytes]
                numbers += [op.beside_flop, op.vector_flop]
                numbers += [tensor.nbytes for tensor in (*op.reads, *op.writes)]
                sizes += numbers
                straight = all(is_straight(op, chip.device) for chip in group.chips)
                bent += [] if straight else numbers
    return Numbers(tuple(sizes), tuple(bent))


def bends(low: Numbers, middle: Numbers, high: Numbers, share: float) -> bool:
    """Whether any size at `share` of the way is off the straight line between its ends, or what an
    op costs is."""
    if low.bent != high.bent or not len(low.sizes) == len(middle.sizes) == len(high.sizes):
        return True
    return any(
        abs(a + share * (c - a) - b) > 1e-9 * b
        for a, b, c in zip(low.sizes, middle.sizes, high.sizes)
    )


def sums_of(totals: Totals) -> Sums:
    """Totals as one flat table of numbers that add up."""
    return dict(_flat(vars(totals)))


def _flat(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, *path, key)
    else:
        yield path, value


def totals_of(sums: Sums) -> Totals:
    """The inverse of `sums_of`."""
    totals = Totals(span_s={stream: {} for stream in STREAMS})
    for (*path, name), value in sums.items():
        table = vars(totals)
        for key in path:
            table = table.setdefault(key, {})
        table[name] = value
    return totals
