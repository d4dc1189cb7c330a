"""Traces of any length from laws: arrivals, lengths, conversations; fitted to a recording, too.

Not modelled: users who wait for a slow answer before they think (the turns of a session come at
times that assume `answer_s`; replayed closed-loop, the think times count), and correlation between
one request and the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sim.traces.arrivals import BATCH, Arrivals, dice, histogram, times
from sim.traces.columns import Array, Columns, by_arrival, joined, rechunked, taken
from sim.traces.lengths import Joint, Law, Lognormal, check, dealt, drawn
from sim.traces.stream import CHUNK_ROWS, TraceStream

THINK, PROMPT, OUTPUT = Lognormal(20.0, 1.0), Lognormal(1000.0, 1.0), Lognormal(150.0, 0.8)
MOST_PAIRS = 65_536  # pairs of lengths that a fit keeps
LONGEST_TOKENS = 1_000_000  # a conversation ends before a prompt grows beyond it


@dataclass(frozen=True)
class SessionLaw:
    """Conversations: a turn's prompt is all that was said before, a cached prefix, and new tokens.

    The number of turns is geometric. A session begins with one of `system_prompts` prompts of
    `system_tokens`, shared by all sessions that have it. Every turn adds tokens by the trace's law
    of prompts.
    """

    mean_turns: float = 4.0
    think: Lognormal = THINK  # seconds, not tokens
    answer_s: float = 5.0  # assumed for the time of the next turn
    system_prompts: int = 1
    system_tokens: int = 0
    block_tokens: int = 16


@dataclass(frozen=True, eq=False)
class TraceSpec:
    """What to generate.

    With sessions, `arrivals` are those of first turns, and `prompt` is what a turn adds.
    """

    arrivals: Arrivals
    prompt: Law = PROMPT
    output: Law = OUTPUT
    joint: Joint | None = None  # both lengths together; overrides prompt and output
    sessions: SessionLaw | None = None
    name: str = "generated"

    def __post_init__(self) -> None:
        check("prompt", self.prompt)
        check("output", self.output)
        if self.joint is not None and not len(self.joint.prompt_tokens):
            raise ValueError("joint lengths: there is no pair to draw from")
        law = self.sessions
        if law is not None:
            if not (1 <= law.mean_turns < math.inf and law.answer_s >= 0 and law.block_tokens >= 1):
                raise ValueError(
                    f"{law}: mean_turns and block_tokens must be 1 or more, answer_s not negative"
                )
            if law.system_prompts < 1 or law.system_tokens < 0:
                raise ValueError(
                    f"{law}: system_prompts must be 1 or more, system_tokens not negative"
                )
            check("think", law.think)


def generated(spec: TraceSpec, count: int, seed: int, chunk_rows: int = CHUNK_ROWS) -> TraceStream:
    """`count` requests by these laws, the first at 0.

    The same spec, count and seed give the same, whatever the chunk.

    Errors: ValueError if `count` is below 1 or `seed` is negative.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count ({count}) must be 1 or more, seed ({seed}) 0 or more")

    def source(out: TraceStream) -> Iterator[Columns]:
        lengths = _Lengths(spec, seed)
        starts = times(spec.arrivals, seed)
        batches = (
            _turns(starts, law, lengths, seed)
            if law
            else (Columns(starts_s, *lengths.next(BATCH)) for starts_s in starts)
        )
        yield from rechunked(_first(batches, count), chunk_rows)

    law = spec.sessions
    return TraceStream(spec.name, "generated", source, law.block_tokens if law else 0)


def calibrated(columns: Columns, windows: int = 60) -> TraceSpec:
    """A spec whose traces have a recording's rate over time, CV of gaps and lengths.

    The rate is that of `windows` equal windows of the recording, as few as leave none of them
    empty, and begins again at its end; the CV within a window is such that the CV of all gaps is
    the recorded one. Lengths are dealt in pairs from the recording (from 65,536 of it, evenly
    taken). Sessions and prefix blocks are not fitted. ValueError for fewer than three requests, or
    for requests that all arrive at once.
    """
    arrival_s = columns.arrival_s
    count, span_s = len(arrival_s), float(arrival_s[-1]) if len(arrival_s) else 0.0
    if count < 3 or span_s <= 0:
        raise ValueError(f"{count} requests in {span_s:g} s are too few to fit a generator to")
    gaps_s = np.diff(arrival_s)
    square = 1 + float(gaps_s.var()) / float(gaps_s.mean()) ** 2
    arrivals = Arrivals((count - 1) / span_s, math.sqrt(square - 1))
    for number in range(min(windows, count // 20), 1, -1):
        # One request begins the recording and opens no gap before it, so it is not counted.
        found = np.histogram(arrival_s[1:], number, (0, span_s))[0]
        if not found.all():
            continue
        # A request in a window of rate r has a gap of mean 1/r and mean square (1 + cv**2)/r**2.
        mean_square = float((found / (count - 1) * (span_s / number / found) ** 2).sum())
        within = square * (span_s / (count - 1)) ** 2 / mean_square - 1
        if within >= 0:
            arrivals = histogram(span_s / number, found.tolist(), math.sqrt(within))
            break
    rows = np.linspace(0, count - 1, min(count, MOST_PAIRS)).round().astype(np.int64)
    joint = Joint(columns.prompt_tokens[rows], columns.output_tokens[rows])
    return TraceSpec(arrivals, joint=joint, name="calibrated")


class _Lengths:
    """Prompt and output lengths of one trace, in the order in which they are asked for."""

    def __init__(self, spec: TraceSpec, seed: int):
        self.spec, self.seed, self.batch = spec, seed, 0
        if spec.joint is not None:
            self.deck = dealt(spec.joint, (dice(seed, 4, number) for number in itertools.count()))
            next(self.deck)

    def next(self, count: int) -> tuple[Array, Array]:
        if self.spec.joint is not None:
            pairs = self.deck.send(count)
            return pairs.prompt_tokens, pairs.output_tokens
        random = dice(self.seed, 2, self.batch)
        self.batch += 1
        return drawn(self.spec.prompt, count, random), drawn(self.spec.output, count, random)


def _first(batches: Iterator[Columns], count: int) -> Iterator[Columns]:
    while count:
        yield (part := next(batches)[:count])
        count -= len(part)


def _turns(
    starts: Iterator[Array], law: SessionLaw, lengths: _Lengths, seed: int
) -> Iterator[Columns]:
    """Turns by arrival.

    A batch of sessions settles all turns before its last session begins; others are held.
    """
    held: list[Columns] = []
    shared = law.system_tokens // law.block_tokens
    blocks = law.system_prompts * shared  # ids given so far: those of the system prompts
    sessions = 0
    for batch, starts_s in enumerate(starts):
        for part in range(0, BATCH, 4096):  # a session has many rows: fewer of them at once
            begin_s = starts_s[part : part + 4096]
            random = dice(seed, 3, batch * 16 + part // 4096)
            columns, blocks = _sessions(law, lengths, begin_s, sessions, blocks, random)
            sessions += len(begin_s)
            whole = by_arrival(joined([*held, columns]))
            settled = int(np.searchsorted(whole.arrival_s, begin_s[-1]))
            for start in range(0, settled, 4096):
                yield _with_blocks(whole[start : min(start + 4096, settled)], law, shared)
            held = [whole[settled:]]


def _sessions(
    law: SessionLaw,
    lengths: _Lengths,
    begin_s: Array,
    sessions: int,
    blocks: int,
    random: np.random.Generator,
) -> tuple[Columns, int]:
    """All turns of sessions that begin at these times, and how many block ids they take.

    In place of a tenant stands where a session's blocks begin, times the number of system prompts,
    plus that prompt's.
    """
    turns = random.geometric(1 / law.mean_turns, len(begin_s))
    count = int(turns.sum())
    first = np.concatenate(([0], np.cumsum(turns)[:-1]))
    of = np.repeat(np.arange(len(begin_s)), turns)
    new, output = lengths.next(count)
    think_s = np.exp(
        math.log(law.think.median_tokens) + law.think.sigma * random.standard_normal(count)
    ).round(6)
    system = random.integers(0, law.system_prompts, len(begin_s))
    think_s[first] = 0.0
    # Of all sessions; what the sessions before said goes off again.
    said = np.cumsum(new + output) - output
    prompt = said - (said[first] - new[first])[of] + law.system_tokens
    waited_s = np.cumsum(think_s + law.answer_s)
    arrival_s = (begin_s[of] + (waited_s - waited_s[first][of])).round(6)
    own = prompt[first + turns - 1] // law.block_tokens
    own_from = blocks + np.concatenate(([0], np.cumsum(own)))
    think_s[first] = np.nan
    place = (own_from[:-1] * law.system_prompts + system)[of]
    columns = Columns(
        arrival_s, prompt, output, session=sessions + of, think_s=think_s, tenant=place
    )
    fits = prompt <= LONGEST_TOKENS
    return (columns if fits.all() else taken(columns, np.flatnonzero(fits))), int(own_from[-1])


def _with_blocks(columns: Columns, law: SessionLaw, shared: int) -> Columns:
    """With ids of full blocks, as engines cache them: the system prompt's, then the session's."""
    assert columns.tenant is not None
    own_from, system = np.divmod(columns.tenant, law.system_prompts)
    counts = columns.prompt_tokens // law.block_tokens
    block_from = np.concatenate(([0], np.cumsum(counts)))
    ids = np.repeat(own_from - block_from[:-1], counts)
    ids += np.arange(len(ids))
    if shared:
        at = np.arange(shared)
        ids[block_from[:-1][:, None] + at] = system[:, None] * shared + at
    return replace(columns, tenant=None, block_from=block_from, blocks=ids)
