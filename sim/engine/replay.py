"""A trace through replicas of a model: the decisions of `sim.serving`, with iterations priced or
played.

At fidelity `step` an iteration's time comes from a closed form (`sim.engine.pricing`) or, where ops
overlap and there is none, from passes that have been played before (`sim.engine.played_prices`); at
`op` every iteration is played on the replica's ranks. The loop is the same: what has no price is
asked for, and at `op` everything is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sim.engine.group import Group
from sim.engine.pipeline import walk
from sim.engine.pricing import Pricing
from sim.graph.batch import NO_SHARING, Batch, Pattern, Sequences, Shared, Sharing
from sim.serving.compiled import serve_for
from sim.serving.fleet import (
    ASKS,
    FREE,
    LOGITS,
    NEXT,
    PENDING,
    RECORD,
    SHARED_ENTRIES,
    SHARED_PAIRS,
    TOKENS,
    WRITTEN,
    Arrivals,
    Fleet,
    Rules,
    new_fleet,
    new_rows,
    with_more_pending,
    with_more_slots,
)
from sim.serving.loop import DONE, HEAP, PRICE, RECORDS, SLOTS, set_price
from sim.serving.step_time import StepTime, stacked, unpriced


class Answer(NamedTuple):
    """Iterations that were asked for: the first takes `base_s`, each of the `steps` more than the
    one before.

    Of a replica in pipeline stages, `stage_s` is what the one iteration takes on each.
    """

    base_s: float
    slope_s: float = 0.0
    steps: int = 1
    stage_s: tuple[float, ...] = ()


class Player(Protocol):
    """Whoever answers for iterations that have no closed form."""

    def __call__(self, fleet: Fleet, r: int) -> Answer:
        """The iterations that replica `r` is about to begin."""


class Kind(NamedTuple):
    """One kind of replica, or of the stages of one, which follow one another: its closed form, if
    it has one, and who plays its iterations otherwise (those of all stages, for the first of
    them)."""

    pricing: Pricing | None
    patterns: Sequence[Pattern]  # of its attention
    play: Player | None = None
    sharing: Sharing = NO_SHARING


Act = Callable[[Fleet, StepTime, float], "Iterable[Event]"]


class Event(NamedTuple):
    """Something done to the fleet from outside at a known time; may bring others."""

    at_s: float
    act: Act


class Clock(Protocol):
    """Whoever plays iterations whose end nobody knows beforehand: they were answered with an
    endless `Answer`."""

    def reach(self, fleet: Fleet, asked: Arrivals, until_s: float) -> float:
        """Go on to the first end of an iteration, the next arrival, or `until_s`, and write the end
        down; to when the fleet may be run."""


def serve_fleet(
    chunks: Iterable[Arrivals],
    rules: Rules,
    replicas: np.recarray,
    pools: np.recarray,
    kinds: Sequence[Kind],
    *,
    events: Sequence[Event] = (),
    show: Player | None = None,
    ranks: int = 1,
    acceptance: tuple[float, ...] = (),
    expected: float = np.inf,
    rows: int = 65_536,
    clock: Clock | None = None,
) -> Iterator[tuple[np.recarray, Fleet]]:
    """Records of finished requests, about `rows` at a time, each with the fleet as it then is; the
    last of them before a KeyboardInterrupt goes on.

    `show` plays the iterations of replicas that are shown, priced or not. `ranks` are the classes
    of the queues. `expected` is about how many requests there are: it decides only whether to
    compile.
    """
    asked_always = all(kind.pricing is None for kind in kinds)
    prices = _Prices(kinds, replicas)
    fleet = new_fleet(
        rules,
        replicas,
        pools,
        slots=1024,
        ranks=ranks,
        kinds=len(kinds),
        patterns=prices.patterns,
        rows=prices.now.times.shape[1],
        acceptance=acceptance,
    )
    fleet = prices.room_for_sums(fleet)
    serve = serve_for(expected, rules)
    records = new_rows(RECORD, max(rows, 2 * int(replicas.sequences.max())))
    todo = sorted(events, key=lambda event: event.at_s)
    try:
        for chunk, last_s in _with_end(chunks):
            fleet.cursor[NEXT] = 0
            fleet, asked = _own_blocks(fleet, chunk)
            why, reached_s = DONE, 0.0
            while True:
                known_s = until_s = min(last_s, todo[0].at_s if todo else np.inf)
                if clock is not None:  # all that can begin has begun before time goes on
                    reached_s = clock.reach(fleet, chunk, known_s) if why == DONE else reached_s
                    until_s = reached_s
                why = serve(rules, fleet, prices.now, records, asked, until_s, asked_always)
                if why == PRICE:
                    r = int(fleet.cursor[ASKS])
                    kind = kinds[fleet.replicas[r].kind]
                    fleet = prices.reach(fleet, r)
                    if show is not None and fleet.replicas[r].shown:
                        answer: Answer | None = show(fleet, r)
                    elif kind.pricing is not None:
                        answer = None  # its table has it now
                    else:
                        assert kind.play is not None, (
                            "a kind has a closed form or someone who plays"
                        )
                        answer = kind.play(fleet, r)
                    if answer is not None:
                        fleet.stage_s[r, : len(answer.stage_s)] = answer.stage_s
                        set_price(fleet, prices.now, r, answer.base_s, answer.slope_s, answer.steps)
                elif why == SLOTS:
                    fleet = with_more_slots(fleet)
                elif why in (RECORDS, HEAP):
                    if fleet.cursor[PENDING] + fleet.running.shape[1] >= len(fleet.pending_s):
                        fleet = with_more_pending(fleet)
                    if why == RECORDS:
                        yield _taken(records, fleet), fleet
                elif todo and until_s == todo[0].at_s:
                    while fleet.cursor[PENDING] + len(fleet.slots) - fleet.cursor[FREE] > len(
                        fleet.pending_s
                    ):
                        fleet = with_more_pending(fleet)  # an act may send everybody elsewhere
                    later = [
                        event
                        for event in todo.pop(0).act(fleet, prices.now, until_s)
                        if np.isfinite(event.at_s)
                    ]
                    if not (np.isinf(last_s) and _idle(fleet, asked)):
                        todo = sorted([*todo, *later], key=lambda event: event.at_s)
                elif until_s == known_s:
                    break
    except KeyboardInterrupt:  # what was answered so far is not lost
        yield _taken(records, fleet), fleet
        raise
    yield _taken(records, fleet), fleet


class _Prices:
    """The closed forms of all kinds as one table, which grows as batches ask for it."""

    def __init__(self, kinds: Sequence[Kind], replicas: np.recarray) -> None:
        self.kinds = kinds
        self.patterns = max(len(kind.patterns) for kind in kinds)
        most = replicas.sequences * (1 + replicas.drafts)
        own = [
            (replicas.kind <= k) & (k < replicas.kind + replicas.stages) for k in range(len(kinds))
        ]
        self.tokens = [int(replicas.new_tokens[mine].max()) for mine in own]
        self.logits = [int(most[mine].max()) for mine in own]
        self.tables = [self._table(k) for k in range(len(kinds))]
        self.now = stacked(self.tables)

    def _table(self, k: int) -> StepTime:
        pricing = self.kinds[k].pricing
        return (
            pricing.table(self.tokens[k], self.logits[k])
            if pricing
            else unpriced(self.kinds[k].patterns, self.kinds[k].sharing)
        )

    def reach(self, fleet: Fleet, r: int) -> Fleet:
        """Make the table of a replica's kind, and the sums, go as far as its batch."""
        first = int(fleet.replicas[r].kind)
        tokens, logits = int(fleet.features[r, TOKENS]), int(fleet.features[r, LOGITS])
        for k in range(first, first + int(fleet.replicas[r].stages)):
            if tokens > self.tokens[k] or logits > self.logits[k]:
                # To a power of two, so that what is in a table does not depend on who made it grow.
                self.tokens[k] = (
                    1 << tokens.bit_length() if tokens > self.tokens[k] else self.tokens[k]
                )
                self.logits[k] = (
                    1 << logits.bit_length() if logits > self.logits[k] else self.logits[k]
                )
                self.tables[k] = self._table(k)
                self.now = stacked(self.tables)
        return self.room_for_sums(fleet)

    def room_for_sums(self, fleet: Fleet) -> Fleet:
        """The fleet with a place in its sums for every batch of the table."""
        of_tokens, of_logits, of_lone = (
            np.pad(sums, [(0, 0), (0, max(max(most) + 1 - sums.shape[1], 0))])
            for sums, most in (
                (fleet.of_tokens, self.tokens),
                (fleet.of_logits, self.logits),
                (fleet.of_lone, self.logits),
            )
        )
        return fleet._replace(of_tokens=of_tokens, of_logits=of_logits, of_lone=of_lone)


def batch_of(fleet: Fleet, r: int) -> Batch:
    """The planned iteration of replica `r`, as the op graph wants it."""
    rows = fleet.slots[fleet.running[r, : fleet.replicas[r].running_count]]
    rows = rows[rows.chunk > 0]
    groups = tuple(
        Sequences(1, new, past) for new, past in zip(rows.chunk.tolist(), rows.cached.tolist())
    )
    # Runs that are worth expanding, as one that has the mean of their sequences: what comes of them
    # is the same.
    entries = float(fleet.features[r, SHARED_ENTRIES])
    shared = (Shared(float(fleet.features[r, SHARED_PAIRS]) / entries, entries),) if entries else ()
    return Batch(groups, int(fleet.features[r, LOGITS]), shared)


def player(groups: Sequence[Sequence[Group]], first: int = 0) -> Player:
    """Iterations played op by op: those of row `first` and on, each replica on groups of its own,
    one a stage."""

    def play(fleet: Fleet, r: int) -> Answer:
        me, batch = fleet.replicas[r], batch_of(fleet, r)
        own = groups[(r - first) // int(me.lanes)]
        if len(own) == 1:
            return Answer(walk(own, batch, float(me.now_s), (0.0,))[0])
        ready_s = float(me.now_s + me.overhead_s + me.delay_s)
        free_s = fleet.free_s[r - int(me.lane)].tolist()
        return Answer(0.0, stage_s=tuple(walk(own, batch, ready_s, free_s, float(me.slow))))

    return play


def _own_blocks(fleet: Fleet, chunk: Arrivals) -> tuple[Fleet, Arrivals]:
    """The names of prefix blocks that requests in flight still need, and behind them those of the
    chunk."""
    free = np.zeros(len(fleet.slots), bool)
    free[fleet.free_slots[: fleet.cursor[FREE]]] = True
    rows = np.flatnonzero(~free & (fleet.slots.block_count > 0))
    keep = int(fleet.slots.block_from[rows].min()) if len(rows) else len(fleet.blocks)
    fleet.slots.block_from[rows] -= keep
    kept = fleet.blocks[keep:]
    chunk = chunk._replace(block_from=chunk.block_from + len(kept))
    return fleet._replace(blocks=np.concatenate([kept, chunk.blocks])), chunk


def _idle(fleet: Fleet, asked: Arrivals) -> bool:
    """Whether nothing is left to do, if `asked` is all that will ever come."""
    more = fleet.cursor[NEXT] < len(asked.arrival_s) and np.isfinite(
        asked.arrival_s[fleet.cursor[NEXT]]
    )
    idle = not fleet.replicas.running_count.any() and not fleet.replicas.waiting_count.any()
    return bool(idle and not more and fleet.cursor[PENDING] == 0)


def _with_end(chunks: Iterable[Arrivals]) -> Iterator[tuple[Arrivals, float]]:
    """Each chunk with the time to run to after it: that of its last arrival, and of the last chunk,
    for ever."""
    last: Arrivals | None = None
    for chunk in chunks:
        if last is not None and len(last.arrival_s):
            yield last, float(last.arrival_s[-1])
        last = chunk
    if last is not None:
        yield last, np.inf


def _taken(records: np.recarray, fleet: Fleet) -> np.recarray:
    taken = records[: fleet.cursor[WRITTEN]].copy()
    fleet.cursor[WRITTEN] = 0
    return taken.view(np.recarray)
