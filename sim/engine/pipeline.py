"""A model in pipeline stages: micro-batches go through the stages in turn, each stage one pass at a
time.

A stage is a group of ranks with some of the layers, and its last op sends what it has made to the
next. Stages share no chips, so what a pass takes on one does not depend on the others: a pipeline
is a flow shop of passes, in which a micro-batch enters the first stage again once its tokens have
come out of the last. Not modelled: a stage that waits to send because the next has no room (its
buffers are taken to be endless), links that messages of several stages share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.engine.group import Group, GroupOf
from sim.engine.steps import (
    Progress,
    StaticBatch,
    Stretch,
    Sums,
    added,
    decode_steps,
    play,
    totals_of,
)
from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.facts.span import digest
from sim.facts.timeline import Timeline
from sim.graph.batch import Batch
from sim.serving.stages import passed_through


def walk(
    groups: Sequence[Group],
    batch: Batch,
    ready_s: float,
    free_s: Any,
    slow: float = 1.0,
) -> list[float]:
    """Play a pass of `batch` over the stages, on each once it is there and the stage is free; what
    it takes on each.

    By `slow` times what is played the pass is held up, beside its ops.
    """
    took_s, at_s = [], ready_s
    for stage, group in enumerate(groups):
        env, at_s = group.env, max(at_s, free_s[stage])
        if at_s > env.now:
            env.run(at_s)
        start_s = env.now
        env.run(env.process(group.run(*group.graphs(batch))))
        took_s.append(env.now - start_s)
        at_s += took_s[-1] * slow
    return took_s


class _Passes(NamedTuple):
    """What the passes of a micro-batch take on one stage: seconds of its prefill and of each decode
    step, and sums.

    `notes` are the times that were played.
    """

    seconds: np.ndarray
    sums: Sums
    notes: list[float]


def run_static(
    stages: Sequence[GroupOf],
    work: StaticBatch,
    timeline: Timeline | None,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Play a whole run on the groups of its stages.  The prefill makes the first token, each of
    `output_tokens` - 1 decode steps one more.

    Sums are of one rank, the mean over the stages. `timeline`, if given, receives two consecutive
    decode steps of every micro-batch in the middle of the run (the prefills, if there is no
    decode).
    """
    groups = [group_of(None) for group_of in stages]
    parts = work.parts()
    known: dict[tuple[StaticBatch, int], _Passes] = {}
    todo = [(part, place) for part in dict.fromkeys(parts) for place in range(len(stages))]
    for number, (part, place) in enumerate(todo):

        def tell(share: float, number: int = number) -> None:
            progress((number + share) / len(todo))

        known[part, place] = _passes(groups[place], part, tell)
    seconds = [
        np.array([known[part, place].seconds for place in range(len(stages))]).T.tolist()
        for part in parts
    ]
    free_s = [0.0] * len(stages)
    ready_s = [0.0] * len(parts)
    first_s = 0.0
    for step in range(work.output_tokens):
        for micro in range(len(parts)):
            ready_s[micro] = passed_through(
                ready_s[micro], free_s, seconds[micro][step], len(stages), 1.0
            )
        if step == 0:
            first_s = max(ready_s)
    total: Sums = {}
    for part in parts:
        for place in range(len(stages)):
            total = added(total, known[part, place].sums)
    totals = totals_of({key: value / len(stages) for key, value in total.items()})
    if len(stages) > 1:
        totals.bubble_s = max(max(ready_s) - totals.seconds, 0.0)
    totals.seconds = max(ready_s)
    if timeline is not None:
        _recorded(stages, work, timeline)
    return Outcome(
        totals,
        part=Phases(first_s, totals.seconds - first_s, work.output_tokens - 1),
        tokens=work.batch * work.output_tokens,
        ranks=sum(group.ranks for group in groups),
        timeline=timeline or Timeline(),
        rates=groups[0].rates(),
        fingerprint=digest(
            [*(s for each in known.values() for s in each.notes), first_s, *ready_s]
        ),
    )


def _passes(group: Group, part: StaticBatch, progress: Progress) -> _Passes:
    total, _ = play(group, part.prefill())
    steps: list[Stretch] = decode_steps(group, part, progress)
    seconds = np.concatenate([[total["seconds",]], *(stretch.seconds for stretch in steps)])
    notes = [total["seconds",], *(stretch.low["seconds",] for stretch in steps)]
    for stretch in steps:
        total = added(total, stretch.total())
    return _Passes(seconds, total, notes)


def _recorded(stages: Sequence[GroupOf], work: StaticBatch, timeline: Timeline) -> None:
    """Two steps in the middle of the run, after one that fills the pipeline if there is one."""
    groups = [group_of(timeline) for group_of in stages]
    parts = work.parts()
    middle = work.prompt_tokens + (work.output_tokens - 2) // 2
    fills = int(len(stages) > 1 and work.output_tokens > 1)

    def batches(part: StaticBatch) -> list[Batch]:
        if work.output_tokens == 1:
            return [part.prefill()]
        return [part.decode(max(middle + step, part.prompt_tokens)) for step in range(-fills, 2)]

    ready_s, free_s = [0.0] * len(parts), [0.0] * len(stages)
    for number, some in enumerate(zip(*map(batches, parts))):
        for group in groups:
            group.record(number >= fills)
        for micro, batch in enumerate(some):
            took_s = walk(groups, batch, ready_s[micro], free_s)
            ready_s[micro] = passed_through(ready_s[micro], free_s, took_s, len(stages), 1.0)
    for group in groups:
        group.close()
