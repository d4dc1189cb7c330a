"""A trace through replicas of a model: the decisions of `sim.serving`, with iterations priced or played.

At fidelity `step` an iteration's time comes from the closed form (`sim.engine.pricing`); at `op` every iteration is
played on the replica's ranks. The loop is the same: an iteration without a price in the closed form is asked for, so
`op` is the closed form that knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sim.engine.group import Group
from sim.engine.steps import GraphOf
from sim.serving.compiled import serve_for
from sim.serving.fleet import RECORD, Fleet, Rules, new_fleet, new_rows, with_more_slots
from sim.serving.loop import PRICE, RECORDS, SLOTS, set_price
from sim.serving.step_time import StepTime
from sim.workload.transformer import Batch, Sequences

Play = Callable[[int, float, Batch], float]  # (replica, time of start, batch) -> seconds


class Chunk(NamedTuple):
    """Requests by arrival, in columns; the arrivals of one chunk are not before those of the last."""

    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray


def serve_fleet(
    chunks: Iterable[Chunk],
    rules: Rules,
    replicas: int,
    price: StepTime,
    *,
    play: Play | None = None,
    expected: float = np.inf,
    rows: int = 65_536,
) -> Iterator[tuple[np.recarray, Fleet]]:
    """Records of finished requests, at most `rows` at a time, each with the fleet as it then is.

    `expected` is about how many requests there are: it decides only whether to compile. ValueError if an iteration has
    no price and there is no `play`.
    """
    serve = serve_for(expected if play is None else 0)
    fleet = new_fleet(rules, replicas, 1024, len(price.pattern))
    records = new_rows(RECORD, max(rows, 2 * rules.sequences))
    for chunk, until_s in _with_end(chunks):
        fleet.cursor[0] = 0
        while True:
            why = serve(rules, fleet, price, records, *chunk, until_s)
            if why == SLOTS:
                fleet = with_more_slots(fleet)
            elif why == RECORDS:
                yield _taken(records, fleet), fleet
            elif why == PRICE:
                r = int(fleet.cursor[3])
                if play is None:
                    raise ValueError(f"a batch of {fleet.features[r, 1]:.0f} tokens is not in the table of prices")
                set_price(fleet, r, play(r, float(fleet.replicas[r].now_s), batch_of(fleet, r)))
            else:
                break
    yield _taken(records, fleet), fleet


def batch_of(fleet: Fleet, r: int) -> Batch:
    """The planned iteration of replica `r`, as the op graph wants it."""
    rows = fleet.slots[fleet.running[r, : fleet.replicas[r].running_count]]
    rows = rows[rows.chunk > 0]
    logits = np.count_nonzero(rows.chunk + rows.cached == rows.prompt + rows.made)
    return Batch(tuple(Sequences(1, new, past) for new, past in zip(rows.chunk.tolist(), rows.cached.tolist())), logits)


def player(groups: list[Group], graph_of: GraphOf) -> Play:
    """Iterations played op by op, each replica on its own group."""

    def play(r: int, start_s: float, batch: Batch) -> float:
        group, env = groups[r], groups[r].env
        if start_s > env.now:
            env.run(start_s)
        before_s = env.now
        env.run(env.process(group.run(graph_of(batch))))
        return env.now - before_s

    return play


def unpriced(like: StepTime) -> StepTime:
    """A closed form that knows no price: every iteration is asked for."""
    return like._replace(of_tokens=np.full_like(like.of_tokens, np.nan))


def _with_end(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, float]]:
    """Each chunk with the time to run to after it: that of its last arrival, and of the last chunk, for ever."""
    last: Chunk | None = None
    for chunk in chunks:
        if last is not None and len(last.arrival_s):
            yield last, float(last.arrival_s[-1])
        last = chunk
    if last is not None:
        yield last, np.inf


def _taken(records: np.recarray, fleet: Fleet) -> np.recarray:
    taken = records[: fleet.cursor[2]].copy()
    fleet.cursor[2] = 0
    return taken
