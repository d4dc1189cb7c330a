"""The state of a fleet of replicas, in arrays: requests in flight, who runs where, and what KV blocks are free."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Batching policies.
PREFILL_FIRST, CHUNKED, STATIC = range(3)
POLICIES = {"prefill_first": PREFILL_FIRST, "chunked": CHUNKED, "static": STATIC}
# Routers.
ROUND_ROBIN, LEAST_LOADED, POWER_OF_TWO = range(3)
ROUTERS = {"round_robin": ROUND_ROBIN, "least_loaded": LEAST_LOADED, "power_of_two": POWER_OF_TWO}
# What a replica is doing.
IDLE, UNPRICED, BUSY = range(3)
NONE = -1


class Rules(NamedTuple):
    """What bounds a replica.  One iteration has at most `sequences` sequences and `new_tokens` new tokens.

    `reserve`: a request is admitted only if its whole prompt and answer fit, as if the client's limit were known; else
    KV blocks are taken as they are needed, and the last one admitted is preempted (and computed anew later) when none
    is left. `jump`: iterations of an unchanging batch are taken in one go.
    """

    policy: int
    sequences: int
    new_tokens: int
    block_tokens: int
    blocks: int
    reserve: bool
    router: int
    seed: int
    jump: bool


SLOT = np.dtype(
    [
        ("id", "i8"),
        ("arrival_s", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("scheduled_s", "f8"),  # NaN: not yet
        ("first_s", "f8"),
        ("made", "i8"),  # tokens of the answer so far
        ("cached", "i8"),  # tokens whose KV is held
        ("held", "i8"),  # blocks
        ("chunk", "i8"),  # new tokens in the iteration under way
        ("behind", "i8"),  # the next slot in the queue
    ]
)
REPLICA = np.dtype(
    [
        ("running_count", "i8"),
        ("head", "i8"),  # of the queue
        ("tail", "i8"),
        ("waiting_count", "i8"),
        ("free_blocks", "i8"),
        ("activity", "i8"),
        ("now_s", "f8"),  # of the last decision
        ("end_s", "f8"),  # of the iterations under way
        ("steps", "i8"),  # how many they are
        ("blocked", "i8"),  # the head of the queue could not be admitted: who comes behind it changes nothing
        ("preemptions", "i8"),
        ("iterations", "i8"),
        ("busy_s", "f8"),
    ]
)
RECORD = np.dtype(
    [
        ("id", "i8"),
        ("replica", "i8"),
        ("arrival_s", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("scheduled_s", "f8"),  # the first iteration that works on it starts
        ("first_s", "f8"),  # first token
        ("last_s", "f8"),  # last token
    ]
)


class Fleet(NamedTuple):
    """Slots of requests in flight, and replicas.  A slot in no queue and no batch is on the stack of free ones."""

    slots: np.recarray  # of SLOT
    free_slots: np.ndarray  # a stack; its height is cursor[4]
    replicas: np.recarray  # of REPLICA
    running: np.ndarray  # [replica, place] slots in order of admission
    features: np.ndarray  # [replica, feature] of the first of the iterations under way
    growth: np.ndarray  # [replica, feature] from each of them to the next
    cursor: np.ndarray  # [0] next request of the chunk, [1] requests routed, [2] records written, [3] who asks


def features_of(patterns: int) -> int:
    """Length of a feature vector: one, new tokens, logits; pairs and entries of each attention pattern."""
    return 3 + 2 * patterns


def new_fleet(rules: Rules, replicas: int, slots: int, patterns: int) -> Fleet:
    """An idle fleet with room for `slots` requests in flight."""
    rows = new_rows(REPLICA, replicas)
    rows.head = rows.tail = NONE
    rows.free_blocks = rules.blocks
    width = features_of(patterns)
    running = np.zeros((replicas, rules.sequences), np.int64)
    features, growth = np.zeros((replicas, width)), np.zeros((replicas, width))
    cursor = np.array([0, 0, 0, 0, slots])
    return Fleet(new_rows(SLOT, slots), np.arange(slots)[::-1].copy(), rows, running, features, growth, cursor)


def with_more_slots(fleet: Fleet) -> Fleet:
    """The same fleet with twice the slots; called when the stack of free ones is empty."""
    old = len(fleet.slots)
    slots = new_rows(SLOT, 2 * old)
    slots[:old] = fleet.slots
    stack = np.zeros(2 * old, np.int64)
    stack[:old] = np.arange(2 * old - 1, old - 1, -1)
    fleet.cursor[4] = old
    return fleet._replace(slots=slots, free_slots=stack)


def new_rows(kind: np.dtype, rows: int) -> np.recarray:
    """A table of zeros."""
    return np.zeros(rows, kind).view(np.recarray)
