"""Plans of collectives: rounds of sends, one function an algorithm.  `sim.network.collectives`
registers them.

A plan knows no clock and no link. It names its chips by node number and says who sends how much to
whom in each round; the engine plays the rounds as flows, and `sim.network.network` predicts their
time on an idle fabric. A rank goes to its next round when its own sends of this one have left and
what is sent to it has come (and been reduced).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

Ints = np.ndarray
Floats = np.ndarray


class Round(NamedTuple):
    """Sends that start together, one array entry each.  A plan repeats one object for equal
    rounds."""

    source: Ints
    target: Ints
    nbytes: Floats
    reduces: Ints  # 1 where the receiver adds what comes to what it has


class Members(NamedTuple):
    """Who takes part: node numbers, the order in which a ring visits them, how they factor, the
    switch they share."""

    ranks: Ints
    ring: Ints
    # (nodes, chips a node), or the sides of a torus: slowest first; () is (n,)
    dims: tuple[int, ...] = ()
    # the switch that all ranks are wired to, or that of each node, where there are such
    hubs: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ranks)

    @property
    def grid(self) -> Ints:
        """The ranks in the shape of their dims."""
        return self.ranks.reshape(self.dims or (self.size,))


Plan = list[Round]


def _round(source: Ints, target: Ints, nbytes: float, reduces: bool = False) -> Round:
    source, target = np.ravel(source), np.ravel(target)
    return Round(source, target, np.full(len(source), nbytes), np.full(len(source), int(reduces)))


def _at_once(*rounds: Round) -> Round:
    return Round(*(np.concatenate(columns) for columns in zip(*rounds)))


def _next(grid: Ints, axis: int, nbytes: float, reduces: bool, step: int = 1) -> Round:
    """Every rank of a grid sends to the next along one axis."""
    return _round(grid, np.roll(grid, -step, axis), nbytes, reduces)


def _all_pairs(grid: Ints, nbytes: float, reduces: bool = False) -> Round:
    """Every rank sends to every other one of its row (the last axis of the grid)."""
    rows = grid.reshape(-1, grid.shape[-1])
    n = rows.shape[1]
    # Each starts with its next, so that no target is crowded.
    peer = (np.arange(n)[:, None] + np.arange(1, n)) % n
    return _round(np.repeat(rows, n - 1, axis=1), rows[:, peer.ravel()], nbytes, reduces)


def _halving(ranks: Ints, nbytes: float, reduces: bool, *, growing: bool) -> Plan:
    """log2 n exchanges with partners at distance 1, 2 ... n/2 of half, a quarter ... of the buffer,
    or back: the large parts go to the nearest."""
    place, bits = np.arange(len(ranks)), range(len(ranks).bit_length() - 1)
    return [
        _round(ranks, ranks[place ^ (1 << bit)], nbytes / (2 << bit), reduces)
        for bit in (reversed(bits) if growing else bits)
    ]


# Reduce-scatter and all-gather, the halves of an all-reduce.


def ring_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """n-1 rounds of S/n to the next rank, reduced on the way."""
    return [_next(who.ring, 0, nbytes / who.size, True)] * (who.size - 1)


def ring_all_gather(who: Members, nbytes: float) -> Plan:
    """n-1 rounds of S/n to the next rank."""
    return [_next(who.ring, 0, nbytes / who.size, False)] * (who.size - 1)


def direct_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """1 round: every rank sends each peer its shard of S/n."""
    return [_all_pairs(who.ranks, nbytes / who.size, True)]


def direct_all_gather(who: Members, nbytes: float) -> Plan:
    """1 round: every rank sends its shard of S/n to every peer."""
    return [_all_pairs(who.ranks, nbytes / who.size)]


def halving_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """log2 n exchanges of S/2, S/4 ... S/n with ever farther partners."""
    return _halving(who.ranks, nbytes, True, growing=False)


def doubling_all_gather(who: Members, nbytes: float) -> Plan:
    """log2 n exchanges of S/n, 2S/n ... S/2 with ever nearer partners."""
    return _halving(who.ranks, nbytes, False, growing=True)


def multi_dimensional_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """A ring reduce-scatter along each dimension in turn, the fastest first, each on what the last
    one left."""
    plan: Plan = []
    for axis in reversed(range(who.grid.ndim)):
        side = who.grid.shape[axis]
        nbytes /= side
        plan += [_next(who.grid, axis, nbytes, True)] * (side - 1)
    return plan


def multi_dimensional_all_gather(who: Members, nbytes: float) -> Plan:
    """A ring all-gather along each dimension in turn, the slowest first."""
    plan: Plan = []
    nbytes /= who.size
    for axis in range(who.grid.ndim):
        side = who.grid.shape[axis]
        plan += [_next(who.grid, axis, nbytes, False)] * (side - 1)
        nbytes *= side
    return plan


def hierarchical_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """Direct within each node, then rings across the nodes on the shard that each chip holds."""
    nodes, chips = who.dims
    within = _all_pairs(who.grid, nbytes / chips, True)
    across = [_next(who.grid, 0, nbytes / chips / nodes, True)] * (nodes - 1)
    return [within, *across]


def hierarchical_all_gather(who: Members, nbytes: float) -> Plan:
    """Rings across the nodes, then direct within each node."""
    nodes, chips = who.dims
    across = [_next(who.grid, 0, nbytes / chips / nodes, False)] * (nodes - 1)
    return [*across, _all_pairs(who.grid, nbytes / chips)]


def _pipelined(who: Members, up: float, down: float, rail: float, rounds: int) -> Plan:
    """Bytes from every rank up to its switch and down again at the same time, what the two ways of
    a pipeline carry, and along the rails between switches, in so many equal rounds."""
    hubs = np.repeat(who.hubs, who.size // len(who.hubs))
    sends = _at_once(_round(who.ranks, hubs, up / rounds), _round(hubs, who.ranks, down / rounds))
    if len(who.hubs) > 1:
        sends = _at_once(sends, _next(who.grid, 0, rail / rounds, False))
    return [sends] * rounds


def in_switch_reduce_scatter(who: Members, nbytes: float) -> Plan:
    """The switch adds: every rank sends it S, and gets back its shard of S/n; the two ways are
    pipelined.

    Over several nodes, each switch adds for its node and rings along the rails add the rest.
    """
    nodes = len(who.hubs)
    shard = nbytes / who.size
    return _pipelined(who, nbytes, shard * nodes, shard * (nodes - 1), nodes)


def in_switch_all_gather(who: Members, nbytes: float) -> Plan:
    """The switch copies: every rank sends it a shard of S/n once, and it hands all of them to each.

    Over several nodes, rings along the rails bring each rank the shards of its number first.
    """
    nodes = len(who.hubs)
    shard = nbytes / who.size
    return _pipelined(who, shard * nodes, nbytes, shard * (nodes - 1), nodes)


# All-reduce of a buffer of S bytes.


def ring_all_reduce(who: Members, nbytes: float) -> Plan:
    """Reduce-scatter then all-gather: 2(n-1) rounds of S/n to the next rank."""
    return ring_reduce_scatter(who, nbytes) + ring_all_gather(who, nbytes)


def bidirectional_ring_all_reduce(who: Members, nbytes: float) -> Plan:
    """Two rings at once, one each way round, with half of the buffer each."""
    share = nbytes / who.size / 2
    rounds = [
        _at_once(_next(who.ring, 0, share, reduces, 1), _next(who.ring, 0, share, reduces, -1))
        for reduces in (True, False)
    ]
    return [each for each in rounds for _ in range(who.size - 1)]


def recursive_doubling_all_reduce(who: Members, nbytes: float) -> Plan:
    """log2 n exchanges of the whole buffer with partners at distance 1, 2 ... n/2."""
    place = np.arange(who.size)
    bits = who.size.bit_length() - 1
    return [_round(who.ranks, who.ranks[place ^ (1 << bit)], nbytes, True) for bit in range(bits)]


def halving_doubling_all_reduce(who: Members, nbytes: float) -> Plan:
    """Recursive halving, then recursive doubling (Rabenseifner): 2 log2 n rounds."""
    return halving_reduce_scatter(who, nbytes) + doubling_all_gather(who, nbytes)


def two_shot_all_reduce(who: Members, nbytes: float) -> Plan:
    """Every rank sends each peer its shard to reduce, then its reduced shard: 2 rounds of S/n to
    all."""
    return direct_reduce_scatter(who, nbytes) + direct_all_gather(who, nbytes)


def one_shot_all_reduce(who: Members, nbytes: float) -> Plan:
    """Every rank sends everything to every peer, and each reduces for itself: 1 round of S to
    all."""
    return [_all_pairs(who.ranks, nbytes, True)]


def hierarchical_all_reduce(who: Members, nbytes: float) -> Plan:
    """Reduce-scatter within each node, rings across the nodes, all-gather within each node."""
    return hierarchical_reduce_scatter(who, nbytes) + hierarchical_all_gather(who, nbytes)


def multi_dimensional_all_reduce(who: Members, nbytes: float) -> Plan:
    """Ring reduce-scatter along each dimension, then ring all-gather back."""
    return multi_dimensional_reduce_scatter(who, nbytes) + multi_dimensional_all_gather(who, nbytes)


def in_switch_all_reduce(who: Members, nbytes: float) -> Plan:
    """The switch adds and copies (NVLS): each port carries S(1 + 1/n) each way, pipelined.

    A rank loads its shard reduced by the switch (all send S, each gets S/n), then stores it through
    the switch to all (each sends S/n, all get S). Over several nodes (NVLS tree) rings along the
    rails add what the switches have added, in the same pipeline. It is played as 2 rounds a node,
    each with an equal part of every stage.
    """
    nodes = len(who.hubs)
    chips = who.size // nodes
    port = nbytes * (1 + 1 / chips)
    return _pipelined(who, port, port, 2 * (nodes - 1) * nbytes / who.size, 2 * nodes)


PIECE_BYTES = 512 * 1024  # of a pipelined plan; more pieces cost rounds, fewer leave links idle


def _pieces(nbytes: float) -> int:
    return int(min(max(nbytes // PIECE_BYTES, 1), 64))


def _parents(n: int) -> Ints:
    """The balanced in-order tree over n ranks: leaves are the odd ranks, 0 is the root (-1)."""
    parent = np.full(n, -1)
    for rank in range(1, n):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        parent[rank] = up if up < n else rank ^ bit
    return parent


def double_binary_tree_all_reduce(who: Members, nbytes: float) -> Plan:
    """Two trees with half of the buffer each, a leaf of one being inside the other; up to the root,
    then down.

    The buffer is cut into pieces that follow one another (Sanders, Speck, Traeff 2009; NCCL since
    2.4).
    """
    n = who.size
    pieces = _pieces(nbytes)
    order = [np.arange(n), n - 1 - np.arange(n) if n % 2 == 0 else (np.arange(n) + 1) % n]
    parent = _parents(n)
    depth, at = np.zeros(n, dtype=np.int64), parent
    while (at >= 0).any():
        depth += at >= 0
        at = np.where(at >= 0, parent[at], -1)
    deepest = int(depth.max())
    child = np.arange(1, n)
    plan: Plan = []
    last: tuple[bytes, Round] | None = None
    for time in range(2 * deepest + pieces - 1):
        piece_up = time - (deepest - depth[child])
        piece_down = time - (deepest + depth[child] - 1)
        up, down = ((piece >= 0) & (piece < pieces) for piece in (piece_up, piece_down))
        key = np.packbits(np.concatenate([up, down])).tobytes()
        if last is None or last[0] != key:
            sends = [
                part
                for tree in order
                for part in (
                    _round(
                        who.ranks[tree[child[up]]],
                        who.ranks[tree[parent[child[up]]]],
                        nbytes / 2 / pieces,
                        True,
                    ),
                    _round(
                        who.ranks[tree[parent[child[down]]]],
                        who.ranks[tree[child[down]]],
                        nbytes / 2 / pieces,
                    ),
                )
            ]
            last = key, _at_once(*sends)
        plan.append(last[1])
    return plan


# All-to-all of a buffer of S bytes a rank, S/n for each peer.


def direct_all_to_all(who: Members, nbytes: float) -> Plan:
    """1 round: every rank sends S/n to every peer."""
    return [_all_pairs(who.ranks, nbytes / who.size)]


def pairwise_all_to_all(who: Members, nbytes: float) -> Plan:
    """n-1 rounds: in round r every rank sends S/n to the r-th after it."""
    return [_next(who.ranks, 0, nbytes / who.size, False, step) for step in range(1, who.size)]


def ring_all_to_all(who: Members, nbytes: float) -> Plan:
    """Blocks handed on from neighbour to neighbour: n(n-1)/2 rounds of S/n."""
    rounds = who.size * (who.size - 1) // 2
    return [_next(who.ring, 0, nbytes / who.size, False)] * rounds


def multi_dimensional_all_to_all(who: Members, nbytes: float) -> Plan:
    """Ring all-to-all along each dimension in turn, the fastest first."""
    plan: Plan = []
    for axis in reversed(range(who.grid.ndim)):
        side = who.grid.shape[axis]
        plan += [_next(who.grid, axis, nbytes / side, False)] * (side * (side - 1) // 2)
    return plan


def hierarchical_all_to_all(who: Members, nbytes: float) -> Plan:
    """Within each node first, so that each chip then sends only to its own number in the other
    nodes."""
    nodes, chips = who.dims
    return [_all_pairs(who.grid, nbytes / chips), _all_pairs(who.grid.T, nbytes / nodes)]


# One to many, one to one.


def binomial_broadcast(who: Members, nbytes: float) -> Plan:
    """The first rank's buffer to all: in each round every rank that has it sends it on; ceil(log2
    n) rounds."""
    n, plan = who.size, []
    have = 1
    while have < n:
        new = np.arange(have, min(2 * have, n))
        plan.append(_round(who.ranks[new - have], who.ranks[new], nbytes))
        have *= 2
    return plan


def chain_broadcast(who: Members, nbytes: float) -> Plan:
    """The first rank's buffer along the ring in pieces that follow one another."""
    n, pieces = who.size, _pieces(nbytes)
    plan = []
    for time in range(n - 1 + pieces - 1):
        link = np.arange(max(0, time - pieces + 1), min(n - 1, time + 1))
        plan.append(_round(who.ring[link], who.ring[link + 1], nbytes / pieces))
    return plan


def direct_broadcast(who: Members, nbytes: float) -> Plan:
    """The first rank sends its buffer to every other one: 1 round."""
    return [_round(np.full(who.size - 1, who.ranks[0]), who.ranks[1:], nbytes)]


def in_switch_broadcast(who: Members, nbytes: float) -> Plan:
    """The first rank sends its buffer to the switch, which copies it to all; pipelined."""
    hub = np.array(who.hubs)
    others = who.ranks[1:]
    return [
        _at_once(
            _round(who.ranks[:1], hub, nbytes), _round(np.repeat(hub, len(others)), others, nbytes)
        )
    ]


def direct_send_receive(who: Members, nbytes: float) -> Plan:
    """Every rank sends S to the next one, and gets S from the one before (two ranks: they exchange
    S)."""
    return [_next(who.ring, 0, nbytes, False)]


def direct_send(who: Members, nbytes: float) -> Plan:
    """Each rank of the first half sends S to the one at its place in the second: 1 round."""
    half = who.size // 2
    return [_round(who.ranks[:half], who.ranks[half:], nbytes)]


def repeats(plan: Sequence[Round]) -> list[tuple[Round, int]]:
    """The plan with equal rounds that follow one another counted."""
    runs = [list(run) for _, run in groupby(plan, key=id)]
    return [(run[0], len(run)) for run in runs]
