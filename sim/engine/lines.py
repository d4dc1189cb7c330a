"""The op graph as straight lines: every size of an op as a linear function of a batch's features.

The coefficients are found by looking at the graph of a few batches, and checked on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sim.engine.group import GraphOf, Group
from sim.engine.halves import doublings, halves
from sim.graph.batch import (
    DENSE,
    NO_SHARING,
    Batch,
    Pattern,
    Sequences,
    Shared,
    Sharing,
    attended_by,
    decode_batch,
)
from sim.graph.graph import Graph, Op, is_collective
from sim.hardware.device import Device
from sim.serving.fleet import (
    LOGITS,
    LONE,
    LONE_PAIRS,
    LONG_ENTRIES,
    LONG_PAIRS,
    MIXED_PAIRS,
    PATTERN,
    PER_PATTERN,
    SHARED_ENTRIES,
    SHARED_PAIRS,
    SHARED_QUERIES,
    TOKENS,
    features_of,
)

_EXACT = 1e-9  # a size further than this from its line bends


class Bent:
    """Bytes of weights that an op reads, by new tokens of the batch: more experts are met by more
    tokens.

    Looked up in the graph, at enough counts that between two of them it is a straight line.
    """

    def __init__(self, read: Callable[[int], float]) -> None:
        self._read = cache(read)
        self._known = np.zeros(1)

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes at each of `tokens`, whole numbers."""
        if tokens.max(initial=0) >= len(self._known):
            self._known = self._table(1 << int(tokens.max()).bit_length())
        return self._known[tokens.astype(np.int64)]

    def _table(self, size: int) -> np.ndarray:
        found = np.zeros(size + 1)
        read = self._read

        def straight(low: int, middle: int, high: int) -> bool:
            line = read(low) + (read(high) - read(low)) * (middle - low) / (high - low)
            return abs(line - read(middle)) <= _EXACT * read(middle)

        for low, high in halves(doublings(size)[1:], straight):
            found[low : high + 1] = np.linspace(read(low), read(high), high - low + 1)
        return found


class OpLine(NamedTuple):
    """One op of the graph, `times` times in a pass, with sizes as coefficients of the features."""

    op: Op
    times: int
    bent: (
        Bent | None
    )  # bytes of weights that are on no line over the tokens, in place of all in `hbm_bytes`
    flop: np.ndarray
    hbm_bytes: np.ndarray  # weights and KV-cache
    buffer_bytes: np.ndarray  # activations
    message_bytes: np.ndarray
    asked_bytes: np.ndarray  # of all that it reads
    lone_flop: np.ndarray
    beside_flop: np.ndarray
    vector_flop: np.ndarray

    @property
    def sizes(self) -> tuple[np.ndarray, ...]:
        """All that what it takes depends on."""
        return (*self[3:7], *self[8:])


def op_lines(
    graph_of: GraphOf,
    device: Device,
    patterns: Sequence[Pattern],
    sharing: Sharing = NO_SHARING,
) -> list[OpLine] | None:
    """The ops of `graph_of` with sizes as lines over a batch's features; None if they are on
    none."""
    batches = _probes(sharing)
    graphs = [graph_of(batch) for batch in batches]
    beyond = [graph_of(batch) for batch in _FAR]
    if not all(_in_series(graph) for graph in graphs[:2]):
        return None
    shapes = [[len(layer.ops) for layer in graph.layers] for graph in (*graphs, *beyond)]
    if any(shape != shapes[0] for shape in shapes):
        return None
    weights = sum(
        t.nbytes
        for layer in graphs[0].layers
        for op in layer.ops
        for t in op.reads
        if t.kind == "weight"
    )
    if weights <= device.l2_bytes:
        return None  # a pass may find weights in L2 that the pass before left there
    features, far = (
        np.array([features_of_batch(patterns, batch, sharing) for batch in some])
        for some in (batches, _FAR)
    )
    lines = []
    for layer, times in _distinct(graphs[0]).items():
        for place in range(len(graphs[0].layers[layer].ops)):
            ops = [graph.layers[layer].ops[place] for graph in graphs]
            bent = None
            if ops[0].kind == "experts":
                bent = Bent(
                    lambda tokens, layer=layer, place=place: _read(  # type: ignore[misc]
                        graph_of(Batch((Sequences(tokens, 1, 0),), 0)).layers[layer].ops[place]
                    )
                )
                found, due = (
                    bent(np.array([batch.tokens for batch in batches])),
                    np.array([_read(op) for op in ops]),
                )
                if np.abs(found / due - 1).max() > 100 * _EXACT:
                    return None
            outside = [graph.layers[layer].ops[place] for graph in beyond]
            fitted = [
                _line(features, np.array([size(op) for op in ops]), far, [*map(size, outside)])
                for size in (_UNBENT if bent else _SIZES)
            ]
            whole = [column for column in fitted if column is not None]
            if len(whole) < len(fitted):
                return None
            lines.append(OpLine(ops[0], times, bent, *whole))
    if any(
        sees(line) is None
        and (is_collective(line.op) or line.bent or any(column[LOGITS] for column in line.sizes))
        for line in lines
    ):
        return None
    return lines


def patterns_of(groups: Iterable[Group]) -> tuple[Pattern, ...]:
    """The patterns of attention that ops of the groups' graphs have, in their order."""
    graphs = (graph for group in groups for graph in group.graphs(decode_batch([1])))
    works = (op.work for graph in graphs for _, op in graph.ops() if op.work)
    return tuple(dict.fromkeys(work.pattern for work in works)) or (DENSE,)


def sharing_of(graph: Graph) -> Sharing:
    """Which shared prefixes the ops of the graph make use of: those that any of them does."""
    works = [op.work for _, op in graph.ops() if op.work]
    return min((work.sharing for work in works), default=NO_SHARING)


def features_of_batch(
    patterns: Sequence[Pattern], batch: Batch, sharing: Sharing = NO_SHARING
) -> list[float]:
    """The features of a batch, as `sim.serving.step_time.measure` writes them."""
    found = [0.0] * features_of(len(patterns))
    found[:PATTERN] = 1.0, batch.tokens, batch.logits, batch.lone, 0.0, 0.0, 0.0
    for p, pattern in enumerate(patterns):
        seen = attended_by(pattern, batch.groups)
        own = {
            LONG_PAIRS: seen.long_pairs,
            LONG_ENTRIES: seen.long_entries,
            LONE_PAIRS: seen.lone,
            MIXED_PAIRS: seen.lone if batch.mixed else 0.0,
        }
        for feature, value in own.items():
            found[PATTERN + PER_PATTERN * p + feature] = value
    room = sharing.most
    for run in sorted(batch.shared, key=lambda run: -run.number):
        if run.number >= sharing.least and room > 0:
            tokens = min(run.tokens, room)
            room -= tokens
            found[SHARED_PAIRS] += run.number * tokens
            found[SHARED_ENTRIES] += tokens
            found[SHARED_QUERIES] = batch.lone
    return found


def _probes(sharing: Sharing) -> list[Batch]:
    """Batches whose features are far from lying on a line, and some to check by."""
    shapes = [
        [(1, 1, 0)],
        [(1, 1, 700)],
        [(7, 1, 4096)],
        [(1, 512, 0)],
        [(3, 100, 50)],
        [(1, 1024, 9000)],
        [(64, 1, 123)],
        [(2, 33, 20_000)],
        [(5, 1, 1), (1, 300, 12)],
        [(1, 2000, 0), (9, 1, 777)],
        [(30, 1, 3000), (2, 64, 640)],
        [(1, 17, 1700)],
        [(200, 1, 40)],
        [(12, 1, 9), (4, 130, 5)],
        [(90, 1, 60), (6, 128, 0)],
        [(17, 77, 300)],
        [(3, 1, 30_000), (1, 900, 4000)],
        [(128, 1, 8000)],
        [(40, 1, 20_000), (3, 700, 100)],
        [(1, 4000, 2)],
    ]
    logits = (1, 1, 7, 1, 3, 0, 64, 2, 5, 10, 31, 0, 200, 13, 96, 17, 4, 128, 40, 1)
    probes = [
        Batch(tuple(Sequences(*each) for each in shape), rows)
        for shape, rows in zip(shapes, logits)
    ]
    if not np.isfinite(sharing.least):
        return probes
    n = int(np.ceil(sharing.least))
    runs = [(n, 512.0), (2 * n, 100.0), (n + 40, 7.0), (5 * n, 900.0), (n, 1.0)]
    return probes + [
        Batch(
            (Sequences(number + i, 1, 4000 + 77 * i),),
            number,
            (Shared(number, min(tokens, sharing.most)),),
        )
        for i, (number, tokens) in enumerate(runs)
    ]


# Contexts and prompts beyond those that lines are fitted to: what bends there is on no line.
_FAR = (
    Batch((Sequences(3, 1, 200_000),), 3),
    Batch((Sequences(1, 1, 1_000_000), Sequences(2, 30_000, 100_000)), 3),
)


def _distinct(graph: Graph) -> dict[int, int]:
    """The place of the first of each set of equal layers, and how many they are."""
    first: dict[int, int] = {}
    for place, layer in enumerate(graph.layers):
        first.setdefault(id(layer), place)
    return {
        place: sum(layer is graph.layers[place] for layer in graph.layers)
        for place in first.values()
    }


def _in_series(graph: Graph) -> bool:
    """Whether no two ops can run at once: each follows the one before it, on its stream or by a
    dependency."""
    return all(
        op.stream == last.stream
        or any(after.name == last.name and index - after.back == at for after in op.after)
        for (at, last), (index, op) in pairwise(graph.ops())
    )


def _read(op: Op) -> float:
    return sum(tensor.nbytes for tensor in op.reads if tensor.kind != "activation")


def _buffers(op: Op) -> float:
    return sum(tensor.nbytes for tensor in (*op.reads, *op.writes) if tensor.kind == "activation")


_SIZES = (
    lambda op: op.flop,
    _read,
    _buffers,
    lambda op: op.message_bytes,
    lambda op: sum(t.nbytes for t in op.reads),
    lambda op: op.lone_flop,
    lambda op: op.beside_flop,
    lambda op: op.vector_flop,
)


_UNBENT = (
    lambda op: op.flop,
    lambda op: 0.0,
    _buffers,
    lambda op: op.message_bytes,
    lambda op: sum(t.nbytes for t in op.reads) - _read(op),
    *_SIZES[5:],
)


def _line(
    features: np.ndarray, sizes: np.ndarray, far: np.ndarray, far_sizes: Sequence[float]
) -> np.ndarray | None:
    """Coefficients of `sizes` on the features; None if they are on no line, or `far` away not on
    that line any more."""
    scale = np.maximum(features.max(axis=0), 1e-300)
    found = np.linalg.lstsq(features / scale, sizes, rcond=None)[0]
    found[np.abs(found) <= 1e-12 * np.abs(found).max(initial=0.0)] = 0.0
    if np.abs(features / scale @ found - sizes).max() > _EXACT * np.abs(sizes).max():
        return None
    off = np.abs(far @ (found / scale) - far_sizes).max()
    return found / scale if off <= 100 * _EXACT * np.abs(far_sizes).max() else None


TABLES = (
    TOKENS,
    LOGITS,
    LONE,
)  # features by which what an op takes is looked up, if it sees no other


def sees(line: OpLine) -> int | None:
    """The one feature of `TABLES` that counts for the op (TOKENS if none does), or None: others
    count as well."""
    seen = {feature for column in line.sizes for feature in np.flatnonzero(column[1:]).tolist()}
    seen = {feature + 1 for feature in seen} | ({TOKENS} if line.bent else set())
    return TOKENS if not seen else seen.pop() if len(seen) == 1 and seen <= {*TABLES} else None
