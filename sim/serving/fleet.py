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


class Fleet(NamedTuple):
    """Slots of requests in flight, and replicas.  A slot in no queue and no batch is on the stack of free ones."""

    # By slot.
    id: np.ndarray
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    scheduled_s: np.ndarray  # NaN: not yet
    first_s: np.ndarray
    made: np.ndarray  # tokens of the answer so far
    cached: np.ndarray  # tokens whose KV is held
    held: np.ndarray  # blocks
    chunk: np.ndarray  # new tokens in the iteration under way
    behind: np.ndarray  # the next slot in the queue
    free_slots: np.ndarray  # a stack
    slots_free: np.ndarray  # [1] its height
    # By replica.
    running: np.ndarray  # [replica, place] slots in order of admission
    running_count: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    waiting_count: np.ndarray
    free_blocks: np.ndarray
    activity: np.ndarray
    now_s: np.ndarray  # of the last decision
    end_s: np.ndarray  # of the iterations under way
    steps: np.ndarray  # how many they are
    first_step_s: np.ndarray  # what the first of them takes
    features: np.ndarray  # [replica, feature] of the first of them
    growth: np.ndarray  # [replica, feature] from each of them to the next
    blocked: np.ndarray  # the head of the queue could not be admitted: who comes behind it changes nothing
    preemptions: np.ndarray
    iterations: np.ndarray
    busy_s: np.ndarray
    # Of the whole.
    cursor: np.ndarray  # [0] next request of the chunk, [1] requests routed so far, [2] records written, [3] who asks


class Records(NamedTuple):
    """Finished requests, one row each, in the order in which they finished (by replica within one advance)."""

    id: np.ndarray
    replica: np.ndarray
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    scheduled_s: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray


def features_of(patterns: int) -> int:
    """Length of a feature vector: one, new tokens, logits; pairs and entries of each attention pattern."""
    return 3 + 2 * patterns


def new_fleet(rules: Rules, replicas: int, slots: int, patterns: int) -> Fleet:
    """An idle fleet with room for `slots` requests in flight."""
    whole = lambda n, value=0: np.full(n, value, np.int64)  # noqa: E731
    real = lambda n, value=0.0: np.full(n, value)  # noqa: E731
    width = features_of(patterns)
    return Fleet(
        whole(slots), real(slots), whole(slots), whole(slots), real(slots), real(slots), whole(slots), whole(slots),
        whole(slots), whole(slots), whole(slots), np.arange(slots - 1, -1, -1), whole(1, slots),
        np.zeros((replicas, rules.sequences), np.int64), whole(replicas), whole(replicas, NONE), whole(replicas, NONE),
        whole(replicas), whole(replicas, rules.blocks), whole(replicas), real(replicas), real(replicas),
        whole(replicas), real(replicas), np.zeros((replicas, width)), np.zeros((replicas, width)), whole(replicas),
        whole(replicas), whole(replicas), real(replicas), whole(4),
    )  # fmt: skip


def with_more_slots(fleet: Fleet) -> Fleet:
    """The same fleet with twice the slots; called when the stack of free ones is empty."""
    old = len(fleet.id)
    wider = [np.concatenate([column, np.zeros_like(column)]) for column in fleet[:11]]
    stack = np.concatenate([np.arange(2 * old - 1, old - 1, -1), np.zeros(old, np.int64)])
    fleet.slots_free[0] = old
    return Fleet(*wider, stack, *fleet[12:])


def new_records(rows: int) -> Records:
    """Room for `rows` finished requests."""
    whole, real = np.zeros(rows, np.int64), np.zeros(rows)
    return Records(whole, whole.copy(), real, whole.copy(), whole.copy(), real.copy(), real.copy(), real.copy())
