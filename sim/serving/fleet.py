"""The state of a fleet of replicas, in arrays: requests in flight, who runs where, and what KV
blocks are free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

NONE = -1
# Batching policies: what an iteration is made of.
PREFILL_FIRST, CHUNKED, STATIC = range(3)
POLICIES = {"prefill_first": PREFILL_FIRST, "chunked": CHUNKED, "static": STATIC}
# What a replica is doing.
IDLE, UNPRICED, BUSY = range(3)
# Places in `Fleet.cursor`.
NEXT, WRITTEN, ASKS, FREE, PENDING, PUSHED = range(6)
BINS = 512  # of the time series


BY_BATCH, BY_TOKENS, BY_KV = range(1, 4)  # what the head of a queue waits for


class Rules(NamedTuple):
    """What holds for the whole fleet.  `router` and `order` are numbers of rows (`number`).

    `jump`: iterations of an unchanging batch are taken in one go. `coupled`: what ends may bring an
    arrival (a session goes on, a prefill is handed over), so the replicas are kept in step.
    `unit_tokens`: tokens in a block of the prefix cache, 0 without one; the engine's blocks divide
    it; `tail_first` says which block of a prefix is given up first. `shed`: a request that waits
    past its deadline is turned away. `quantum`: 0 where each replica has chips of its own; else
    those with the same `chips` take turns of so many iterations (`sim.serving.turns`), and are
    coupled.
    """

    router: int
    order: int
    seed: int
    jump: bool
    coupled: bool
    unit_tokens: int
    shed: bool
    tail_first: bool
    quantum: int = 0


def number(rows: Iterable[str], name: str) -> int:
    """The place of a row in its table, by which `Rules` names it."""
    return [*rows].index(name)


class Seen(NamedTuple):
    """What a router may see: the replicas of a pool, by their number in the fleet, and what it has
    counted itself.  Nothing of answers that are not complete."""

    first: int  # replica of the pool
    replicas: int
    ups: int  # how many of them may be chosen
    turn: int  # requests routed so far
    seed: int
    up: np.ndarray
    running: np.ndarray  # requests, by replica
    waiting: np.ndarray
    prompts: np.ndarray  # tokens of the prompts of both
    answered: np.ndarray  # answers that are complete
    answered_tokens: np.ndarray
    nodes: np.recarray  # the prefix caches
    buckets: np.ndarray
    blocks: np.ndarray


class Future(NamedTuple):
    """What only an oracle sees, by replica."""

    work: np.ndarray  # tokens of the requests it has, prompts and whole answers
    activity: np.ndarray
    end_s: np.ndarray  # of the iterations under way


class Arrivals(NamedTuple):
    """Requests in columns, those with an arrival of their own first and in its order.

    A later turn of a session has infinite `arrival_s`: it comes `think_s` after the answer to the
    row that names it as `next`. `blocks[block_from[i]:block_from[i + 1]]` name the prefix of row i,
    block by block.
    """

    id: np.ndarray
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    pool: np.ndarray
    rank: np.ndarray  # class of the queue
    patience_s: np.ndarray  # deadline of the first token, after arrival
    session: np.ndarray
    next: np.ndarray
    think_s: np.ndarray
    block_from: np.ndarray
    blocks: np.ndarray


SLOT = np.dtype(
    [
        ("id", "i8"),
        ("arrival_s", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("pool", "i8"),  # where it is, or goes next
        ("rank", "i8"),
        ("deadline_s", "f8"),
        ("session", "i8"),
        ("next", "i8"),
        ("block_from", "i8"),
        ("block_count", "i8"),
        ("scheduled_s", "f8"),  # NaN: not yet
        ("first_s", "f8"),
        ("token_s", "f8"),  # of the last token
        ("made", "i8"),  # tokens of the answer so far
        ("cached", "i8"),  # tokens whose KV is held
        ("held", "i8"),  # KV blocks of its own
        ("shared", "i8"),  # blocks of the prefix cache that it uses
        ("hit", "i8"),  # prompt tokens found in the prefix cache
        ("chunk", "i8"),  # new tokens in the iteration under way
        ("behind", "i8"),  # the next slot in the queue
        ("preempted", "i8"),
        ("retried", "i8"),
        ("away", "i8"),  # its KV is in host memory
        ("source", "i8"),  # the replica that still holds the KV it was handed over with
    ]
)
REPLICA = np.dtype(
    [
        # What it is.
        ("pool", "i8"),
        ("kind", "i8"),  # of machine and model: the row of the price
        ("policy", "i8"),
        ("sequences", "i8"),  # at most, in an iteration
        ("new_tokens", "i8"),  # at most, in an iteration
        ("block_tokens", "i8"),
        ("blocks", "i8"),
        ("longest", "i8"),  # context that the model was made for
        ("keeps", "i8"),  # tokens of a sequence that the KV-cache keeps at most
        ("reserve", "i8"),  # a request is admitted only if its whole prompt and answer fit
        (
            "swap_s",
            "f8",
        ),  # to move the KV of a token to host memory or back; NaN: recomputed instead
        ("drafts", "i8"),  # speculative tokens of a decode step
        ("overhead_s", "f8"),  # of an iteration, beside its ops
        ("slow", "f8"),  # how many times slower than it should be
        ("up", "i8"),  # the router may choose it
        ("halted", "i8"),  # begins nothing
        ("shown", "i8"),  # its iterations are played, so that they can be looked at
        ("chips", "i8"),  # the number of those it runs on, where replicas share chips
        ("stages", "i8"),  # that an iteration goes through in turn (`sim.serving.stages`)
        (
            "lanes",
            "i8",
        ),  # rows next to each other that share the stages; this one's place among them
        ("lane", "i8"),
        ("priority", "i8"),  # there the highest goes first,
        ("weight", "f8"),  # and of equals, the one that has been busy least for its weight
        # What it does.
        ("running_count", "i8"),
        ("waiting_count", "i8"),
        ("work", "i8"),  # tokens of the requests it has, prompts and whole answers
        ("prompts", "i8"),  # of these, the prompts
        ("answered", "i8"),  # answers that are complete
        ("answered_tokens", "i8"),
        ("free_blocks", "i8"),
        ("activity", "i8"),
        ("now_s", "f8"),  # of the last decision
        ("end_s", "f8"),  # of the iterations under way
        ("steps", "i8"),  # how many they are
        (
            "played",
            "i8",
        ),  # their time is base_s + i slope_s for the i-th; else from the closed form
        ("base_s", "f8"),
        ("slope_s", "f8"),
        ("delay_s", "f8"),  # of the first of them, beside its ops
        ("turn", "i8"),  # iterations left of its turn on shared chips; 0 if nobody else wants them
        (
            "blocked",
            "i8",
        ),  # the head of the queue could not be admitted: who comes behind it changes nothing
        ("limit", "i8"),  # why the head of the queue waits in the iteration under way: 0, or below
        ("by_batch_s", "f8"),  # time in which somebody waited for a place in the batch,
        ("by_tokens_s", "f8"),  # for new tokens in an iteration,
        ("by_kv_s", "f8"),  # for KV blocks
        # Its prefix cache.
        ("nodes_made", "i8"),
        ("node_free", "i8"),
        ("oldest", "i8"),
        ("newest", "i8"),
        ("unused", "i8"),  # blocks that nobody uses, on the list from oldest to newest
        # Sums.
        ("preemptions", "i8"),
        ("moved_tokens", "i8"),  # to host memory and back
        ("iterations", "i8"),
        ("busy_s", "f8"),
        ("flight_s", "f8"),  # of a first lane: in which any lane had an iteration under way,
        ("flown_s", "f8"),  # up to this time
        ("lost_s", "f8"),  # of that, in iterations that a failure cut short
        ("looked_up", "i8"),  # prefix blocks
        ("found", "i8"),
        ("accepted", "i8"),  # speculative tokens, of
        ("drafted", "i8"),
        ("peak_blocks", "i8"),
        ("most_users", "i8"),  # sequences that had a block of the prefix cache at once
        ("kv_s", "f8"),  # integral of the share of blocks in use
        ("present", "i8"),  # requests here
        ("present_s", "f8"),  # integral of their number
        ("since_s", "f8"),  # up to this time
        ("link_free_s", "f8"),  # its KV transfers leave one after the other
    ]
)
POOL = np.dtype(
    [
        ("first", "i8"),  # replica
        ("count", "i8"),
        ("next", "i8"),  # the pool that decodes what this one has prefilled, or NONE
        ("transfer_s", "f8"),  # of the KV of a token to there
        ("latency_s", "f8"),
        ("turn", "i8"),
    ]
)
RECORD = np.dtype(
    [
        ("id", "i8"),
        ("replica", "i4"),  # NONE: turned away
        ("rank", "i4"),
        ("arrival_s", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("scheduled_s", "f8"),  # the first iteration that works on it starts
        ("first_s", "f8"),  # first token
        ("last_s", "f8"),  # last token
        ("hit", "i8"),
        ("preempted", "i4"),
        ("retried", "i4"),
    ]
)
NODE = np.dtype(
    [
        ("key", "i8"),
        ("users", "i8"),
        ("older", "i8"),
        ("newer", "i8"),
        ("chain", "i8"),
        ("lone", "i8"),
    ]
)
SERIES = ("busy_s", "kv_s", "sequences_s", "prompt_tokens", "output_tokens")
GAP_BINS, GAP_FINEST_S, GAP_RATIO = 4608, 1e-6, 1.005  # of the histogram of times between tokens


class Fleet(NamedTuple):
    """Slots of requests in flight, and replicas.  A slot in no queue, batch or transfer is on the
    stack of free ones.

    `cursor` holds [NEXT] the next row of the arrivals, [WRITTEN] records written, [ASKS] the
    replica that asks, [FREE] the height of the stack, [PENDING] the size of the heap, [PUSHED] what
    was ever put on it.
    """

    slots: np.recarray  # of SLOT
    free_slots: np.ndarray  # a stack
    replicas: np.recarray  # of REPLICA
    pools: np.recarray  # of POOL
    running: np.ndarray  # [replica, place] slots in order of admission
    queues: np.ndarray  # [replica, class, head or tail] slots
    features: np.ndarray  # [replica, feature] of the first of the iterations under way
    growth: np.ndarray  # [replica, feature] from each of them to the next
    nodes: np.recarray  # [replica, node] of NODE: the prefix caches
    buckets: np.ndarray  # [replica, bucket] first node of a chain
    pending_s: np.ndarray  # a heap of what comes later: when,
    pending: np.ndarray  # [place, (order of push, slot or NONE, row of the arrivals or NONE)]
    blocks: np.ndarray  # names of prefix blocks, which slots point into
    acceptance: np.ndarray  # [i] chance that draft token i is accepted, if those before it were
    of_tokens: np.ndarray  # [kind, tokens] iterations with so many new tokens
    of_logits: np.ndarray  # [kind, logits]
    of_lone: np.ndarray  # [kind, sequences with one query]
    # Sums by replica, so that they do not depend on who else is in the fleet.
    sums: np.ndarray  # [replica, feature] over all iterations
    row_sums: (
        np.ndarray
    )  # [replica, stage, row of the price, ROW_SUMS] of the ops that see the context
    stage_busy_s: np.ndarray  # [replica, stage] of lanes
    scratch: np.ndarray  # [row, ROW_SUMS]
    by_number: np.ndarray  # [sequences] tokens that so many sequences share
    series: np.ndarray  # [replica, bin, SERIES]
    gaps: np.ndarray  # [replica, bin] times between tokens of one answer, in geometric bins
    cursor: np.ndarray
    bin_s: np.ndarray  # [replica] width of a bin of the series
    stage_s: np.ndarray  # [replica, stage] what the iteration under way takes there
    # [replica, stage] when the stage is done with all that is on its way, in the row of a first
    # lane
    free_s: np.ndarray


# Features of a batch: what an iteration takes depends on them only. LONE: sequences with one query;
# of what those have in common and is worth expanding (`sim.serving.kv.shared`), SHARED_PAIRS and
# SHARED_ENTRIES, and SHARED_QUERIES to be merged. Behind them, for each pattern of attention: pairs
# and entries of longer sequences, pairs (which are the entries) of lone queries, and once more
# those in a pass with longer sequences.
ONE, TOKENS, LOGITS, LONE, SHARED_PAIRS, SHARED_ENTRIES, SHARED_QUERIES, PATTERN = range(8)
LONG_PAIRS, LONG_ENTRIES, LONE_PAIRS, MIXED_PAIRS, PER_PATTERN = range(5)
# Sums by row of a price: seconds by what bounds it, iterations in which it was not idle, bytes.
ROW_SUMS = 7
ARITHMETIC_S, HBM_S, L2_S, FIXED_S, ACTIVE, HBM_BYTES, L2_BYTES = range(ROW_SUMS)


def features_of(patterns: int) -> int:
    """Length of a feature vector."""
    return PATTERN + PER_PATTERN * patterns


def new_fleet(
    rules: Rules,
    replicas: np.recarray,
    pools: np.recarray,
    *,
    slots: int,
    ranks: int,
    kinds: int,
    patterns: int,
    rows: int,
    acceptance: tuple[float, ...] = (),
) -> Fleet:
    """An idle fleet of `replicas` (rows of REPLICA, as `replica_of` makes them) with room for
    `slots` requests."""
    table = replicas.copy()
    count, width, stages = len(table), features_of(patterns), int(table.stages.max())
    nodes = (
        int((table.blocks * table.block_tokens).max() // rules.unit_tokens)
        if rules.unit_tokens
        else 0
    )
    buckets = 1 << max(nodes, 1).bit_length()
    return Fleet(
        slots=new_rows(SLOT, slots),
        free_slots=np.arange(slots)[::-1].copy(),
        replicas=table,
        pools=pools.copy(),
        running=np.zeros((count, int(table.sequences.max())), np.int64),
        queues=np.full((count, ranks, 2), NONE),
        features=np.zeros((count, width)),
        growth=np.zeros((count, width)),
        nodes=new_rows(NODE, (count, nodes)),
        buckets=np.full((count, buckets), NONE),
        pending_s=np.zeros(64),
        pending=np.zeros((64, 3), np.int64),
        blocks=np.zeros(0, np.int64),
        acceptance=np.array(acceptance, float),
        of_tokens=np.zeros((kinds, 1), np.int64),
        of_logits=np.zeros((kinds, 1), np.int64),
        of_lone=np.zeros((kinds, 1), np.int64),
        sums=np.zeros((count, width)),
        row_sums=np.zeros((count, stages, rows, ROW_SUMS)),
        stage_busy_s=np.zeros((count, stages)),
        stage_s=np.zeros((count, stages)),
        free_s=np.zeros((count, stages)),
        scratch=np.zeros((rows, ROW_SUMS)),
        by_number=np.zeros(int(table.sequences.max()) + 1),
        series=np.zeros((count, BINS, len(SERIES))),
        gaps=np.zeros((count, GAP_BINS), np.int64),
        cursor=np.array([0, 0, 0, slots, 0, 0]),
        bin_s=np.full(count, 0.01),
    )


def replica_of(
    policy: int,
    sequences: int,
    new_tokens: int,
    block_tokens: int,
    blocks: int,
    *,
    pool: int = 0,
    kind: int = 0,
    reserve: bool = False,
    swap_s: float = np.nan,
    drafts: int = 0,
    overhead_s: float = 0.0,
    slow: float = 1.0,
    longest: int = 2**62,
    keeps: int = 2**62,
    stages: int = 1,
    lanes: int = 1,
    lane: int = 0,
) -> np.recarray:
    """One idle replica that is up, as a table of one row."""
    return _row_of(
        REPLICA,
        policy=policy,
        sequences=sequences,
        new_tokens=new_tokens,
        block_tokens=block_tokens,
        blocks=blocks,
        free_blocks=blocks,
        pool=pool,
        kind=kind,
        reserve=reserve,
        swap_s=swap_s,
        drafts=drafts,
        overhead_s=overhead_s,
        slow=slow,
        longest=longest,
        keeps=keeps,
        stages=stages,
        lanes=lanes,
        lane=lane,
        up=True,
        weight=1.0,
        node_free=NONE,
        oldest=NONE,
        newest=NONE,
    )


def pool_of(
    first: int, count: int, *, next: int = NONE, transfer_s: float = 0.0, latency_s: float = 0.0
) -> np.recarray:
    """One pool, as a table of one row."""
    return _row_of(
        POOL, first=first, count=count, next=next, transfer_s=transfer_s, latency_s=latency_s
    )


def _row_of(table: np.dtype, /, **values: float) -> np.recarray:
    """A table of one row, zero but for these values."""
    row = new_rows(table, 1)
    for name, value in values.items():
        row[name] = value
    return row


def plain_arrivals(
    arrival_s: np.ndarray, prompt: np.ndarray, output: np.ndarray, first_id: int = 0
) -> Arrivals:
    """Arrivals of one pool and class, without sessions or prefixes."""
    count = len(arrival_s)
    zeros = np.zeros(count, np.int64)
    none = np.full(count, NONE)
    return Arrivals(
        np.arange(first_id, first_id + count),
        np.asarray(arrival_s, float),
        np.asarray(prompt, np.int64),
        np.asarray(output, np.int64),
        zeros,
        zeros,
        np.full(count, np.inf),
        zeros,
        none,
        np.zeros(count),
        np.zeros(count + 1, np.int64),
        zeros[:0],
    )


def with_more_slots(fleet: Fleet) -> Fleet:
    """The same fleet with twice the slots; called when the stack of free ones is empty."""
    old = len(fleet.slots)
    slots = new_rows(SLOT, 2 * old)
    slots[:old] = fleet.slots
    stack = np.zeros(2 * old, np.int64)
    stack[:old] = np.arange(2 * old - 1, old - 1, -1)
    fleet.cursor[FREE] = old
    return fleet._replace(slots=slots, free_slots=stack)


def with_more_pending(fleet: Fleet) -> Fleet:
    """The same fleet with a heap of twice the size."""
    more = len(fleet.pending_s)
    return fleet._replace(
        pending_s=np.concatenate([fleet.pending_s, np.zeros(more)]),
        pending=np.concatenate([fleet.pending, np.zeros((more, 3), np.int64)]),
    )


def series_of(fleet: Fleet) -> tuple[float, np.ndarray]:
    """(width of a bin in seconds, [bin, SERIES] sums over the replicas): all in bins of the
    widest."""
    widest = float(fleet.bin_s.max())
    total = np.zeros(fleet.series.shape[1:])
    for series, bin_s in zip(fleet.series, fleet.bin_s):
        while bin_s < widest:
            bin_s *= 2
            series = np.concatenate([series[0::2] + series[1::2], np.zeros_like(series[0::2])])
        total += series
    return widest, total


def new_rows(kind: np.dtype, rows: int | tuple[int, int]) -> np.recarray:
    """A table of zeros."""
    return np.zeros(rows, kind).view(np.recarray)
