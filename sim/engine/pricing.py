"""The closed form of an iteration, taken from the op graph: what `sim.serving` needs to price a
batch without playing.

A pass whose ops follow one another (no two at once) takes the sum of what each takes alone. Every
size in the graph is a linear function of the batch's features; the coefficients are found by
looking at the graph of a few batches, and checked on others. Where ops overlap (a prefetch under a
collective), sizes bend, or L2 serves one pass with what the pass before left there, there is no
closed form, and the iteration is played.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from sim.engine.steps import GraphOf
from sim.facts.span import BOUNDS
from sim.facts.totals import Totals
from sim.graph.batch import Batch, Sequences, Shared, attended_by
from sim.graph.graph import STREAMS, Graph, Op, is_collective
from sim.graph.model import Model
from sim.hardware.cost import (
    arithmetic_seconds,
    hbm_bytes_per_s,
    hbm_limit,
    overhead_seconds,
    unhidden_share,
)
from sim.hardware.device import Device
from sim.network.library import Way
from sim.network.network import Network
from sim.serving.fleet import (
    ACTIVE,
    ARITHMETIC_S,
    FIXED_S,
    HBM_BYTES,
    HBM_S,
    L2_BYTES,
    L2_S,
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
    Fleet,
    features_of,
)
from sim.serving.step_time import NO_SHARING, PATTERNS, Sharing, StepTime

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
        # By powers of two, so that a longer table begins as a shorter one does.
        todo = [(1 << bit, 2 << bit) for bit in range(size.bit_length() - 1)]
        found[1] = self._read(1)
        while todo:
            low, high = todo.pop()
            middle = (low + high) // 2
            a, b, c = self._read(low), self._read(middle), self._read(high)
            straight = a + (c - a) * (middle - low) / (high - low)
            if high - low < 2 or abs(straight - b) <= _EXACT * b:
                found[low : high + 1] = np.linspace(a, c, high - low + 1)
            else:
                todo += [(low, middle), (middle, high)]
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

    @property
    def sizes(self) -> tuple[np.ndarray, ...]:
        """All that what it takes depends on."""
        return (*self[3:7], self.lone_flop)


class Alone(NamedTuple):
    """What an op takes with the chip to itself, by the value of the one feature that it sees."""

    fixed_s: np.ndarray
    unhidden_s: np.ndarray  # of what should overlap
    longest_s: np.ndarray  # [arithmetic or link, HBM, L2]
    hbm_bytes: np.ndarray
    l2_bytes: np.ndarray
    link_bytes: np.ndarray
    active: np.ndarray  # 0 where it is idle, else 1


class Pricing:
    """Prices of iterations of one model on one group of ranks."""

    def __init__(
        self,
        lines: list[OpLine],
        device: Device,
        network: Network,
        ranks: int,
        model: Model,
        sharing: Sharing,
    ) -> None:
        self.sharing = sharing
        self.lines, self.device, self.network, self.ranks = lines, device, network, ranks
        self._of = {
            feature: [line for line in lines if _sees(line) == feature] for feature in _TABLES
        }
        self._context = [line for line in lines if _sees(line) is None]
        self._pattern = [PATTERNS[name] for name in dict.fromkeys(model.attention)]
        self._window, self._stride = model.window_tokens, max(model.sparse_stride, 1)

    def table(self, tokens: int, logits: int) -> StepTime:
        """The closed form for batches of up to `tokens` new tokens, and `logits` logits and lone
        queries."""
        context, device = self._context, self.device
        arithmetic = [_arithmetic(device, line) for line in context]
        tables = [
            self._seconds(self._of[feature], feature, np.arange(size + 1.0))
            for feature, size in zip(_TABLES, (tokens, logits, logits))
        ]
        columns = (
            *tables,
            [line.times for line in context],
            [
                overhead_seconds(device, line.op.kernel, line.op.engine) * line.op.launch
                for line in context
            ],
            arithmetic,
            [line.hbm_bytes for line in context],
            [line.buffer_bytes for line in context],
            [min(hbm_bytes_per_s(device), hbm_limit(device, line.op.kernel)) for line in context],
            [unhidden_share(device, line.op.kernel) for line in context],
            device.l2_bytes_per_s,
            device.l2_bytes,
            self._pattern,
            self._window,
            self._stride,
            *self.sharing,
        )
        return StepTime(*(np.array([column]) for column in columns))

    def totals(self, fleet: Fleet, kind: int, stage: int = 0) -> Totals:
        """What the priced iterations of a kind of replica did, on one rank of a stage: as if each
        had been played and added up.

        One difference: an op that sees the context counts its fixed time as latency, whatever else
        bounds it.
        """
        totals = Totals(
            span_s={stream: {} for stream in STREAMS}, bound_s=dict.fromkeys(BOUNDS, 0.0)
        )
        totals.bytes = dict.fromkeys(("HBM", "L2", "link"), 0.0)
        counts = dict(
            zip(
                _TABLES,
                map(_used, (fleet.of_tokens[kind], fleet.of_logits[kind], fleet.of_lone[kind])),
            )
        )
        totals.steps = float(counts[TOKENS].sum())
        mine = fleet.replicas.kind == kind
        sums = fleet.sums[mine].sum(axis=0)[: len(self.lines[0].flop)]
        by_row = fleet.row_sums[mine, stage].sum(axis=0)
        row = 0
        for line in self.lines:
            op, times, feature = line.op, line.times, _sees(line)
            if feature is None:
                own = by_row[row]
                row += 1
                by_bound = {
                    "compute": own[ARITHMETIC_S],
                    "HBM": own[HBM_S],
                    "L2": own[L2_S],
                    "latency": own[FIXED_S],
                }
                hbm, l2, link, played = own[HBM_BYTES], own[L2_BYTES], 0.0, own[ACTIVE]
                # What does not depend on the batch is read when there is something to do.
                asked = line.asked_bytes[0] * played + line.asked_bytes[1:] @ sums[1:]
            else:
                many = counts[feature]
                values = np.arange(float(len(many)))
                alone = self._alone(line, feature, values)
                by_bound = self._by_bound(op, alone, many * times)
                hbm, l2, link = (
                    part @ many * times
                    for part in (alone.hbm_bytes, alone.l2_bytes, alone.link_bytes)
                )
                busy = alone.active
                played = many @ busy
                asked = (line.asked_bytes[0] + line.asked_bytes[feature] * values) * busy @ many
                asked += line.bent(values) @ many if line.bent else 0.0
            kinds = totals.span_s[op.stream]
            kinds[op.kind] = kinds.get(op.kind, 0.0) + sum(by_bound.values())
            if op.stream == "compute":
                for bound, seconds in by_bound.items():
                    totals.bound_s[bound] += seconds
            totals.ops += played * times
            totals.asked_bytes += asked * times
            flop = line.flop @ sums * times
            totals.flop += flop
            totals.matrix_flop += flop if op.engine == "matrix" else 0.0
            totals.bytes["HBM"] += hbm
            totals.bytes["L2"] += l2
            totals.bytes["link"] += link
        return totals

    @staticmethod
    def _by_bound(op: Op, alone: Alone, many: np.ndarray) -> dict[str, float]:
        """Seconds of `many` plays by what bounds each as a whole."""
        longest = alone.longest_s.max(axis=0)
        took = alone.fixed_s + alone.unhidden_s + longest
        which = np.where(took > 2 * alone.fixed_s, alone.longest_s.argmax(axis=0), 3)
        names = ("link" if is_collective(op) else "compute", "HBM", "L2", "latency")
        return {name: float(took @ (many * (which == index))) for index, name in enumerate(names)}

    def _seconds(self, lines: list[OpLine], feature: int, values: np.ndarray) -> np.ndarray:
        """What `lines` take together, by the value of the one feature that they see."""
        total = np.zeros(len(values))
        for line in lines:
            alone = self._alone(line, feature, values)
            total += line.times * (alone.fixed_s + alone.unhidden_s + alone.longest_s.max(axis=0))
        return total

    def _alone(self, line: OpLine, feature: int, values: np.ndarray) -> Alone:
        op, device = line.op, self.device
        hbm, buffer, message, arithmetic = (
            column[0] + column[feature] * values
            for column in (
                line.hbm_bytes,
                line.buffer_bytes,
                line.message_bytes,
                _arithmetic(device, line),
            )
        )
        hbm = hbm + line.bent(values) if line.bent else hbm
        fits = buffer <= device.l2_bytes
        l2, hbm = np.where(fits, buffer, 0.0), np.where(fits, hbm, hbm + buffer)
        link_bytes = np.zeros(len(values))
        if is_collective(op):
            fixed, arithmetic, link_bytes = self._folded(op, message)
            rate, unhidden = hbm_bytes_per_s(device), 0.0
        else:
            fixed = np.full(len(values), overhead_seconds(device, op.kernel, op.engine) * op.launch)
            rate = min(hbm_bytes_per_s(device), hbm_limit(device, op.kernel))
            unhidden = unhidden_share(device, op.kernel)
        active = np.where((arithmetic > 0.0) | (op.engine == "none") | (not op.writes), 1.0, 0.0)
        longest = np.array([arithmetic, hbm / rate, l2 / device.l2_bytes_per_s]) * active
        return Alone(
            fixed * active,
            unhidden * longest[:2].min(axis=0),
            longest,
            hbm * active,
            l2 * active,
            link_bytes,
            active,
        )

    def _folded(self, op: Op, messages: np.ndarray) -> np.ndarray:
        """(fixed seconds, seconds on the link, bytes on it) of a collective, by message size,
        rising.

        A plan's times are straight lines over its message, and of several plans the quickest is
        taken, so one that is it at both ends is it in between; where ends differ, the middle is
        looked at.
        """
        most = self.network.egress_bytes_per_s(0)
        found = np.empty((3, len(messages)))
        known: dict[int, tuple[Way, tuple[float, ...]]] = {}

        def at(index: int) -> tuple[Way, tuple[float, ...]]:
            if index not in known:
                fold = self.network.fold(op.kind, op.ranks or self.ranks, float(messages[index]))
                fixed = fold.latency_s - (0.0 if op.launch else fold.way.launch_s)
                known[index] = (
                    fold.way,
                    (fixed, fold.sent_bytes / min(fold.bytes_per_s, most), fold.sent_bytes),
                )
                found[:, index] = known[index][1]
            return known[index]

        # By powers of two, so that a longer table begins as a shorter one does.
        edges = [
            0,
            *(
                1 << bit
                for bit in range((len(messages) - 1).bit_length())
                if 1 << bit < len(messages) - 1
            ),
        ]
        todo = [*zip(edges, [*edges[1:], len(messages) - 1])]
        while todo:
            low, high = todo.pop()
            middle = (low + high) // 2
            ends = at(low), at(middle), at(high)
            if high - low < 2:
                continue
            share = (messages[low : high + 1] - messages[low]) / max(
                messages[high] - messages[low], 1e-300
            )
            line = np.outer(ends[0][1], 1 - share) + np.outer(ends[2][1], share)
            same = ends[0][0] == ends[1][0] == ends[2][0]
            if same and np.allclose(line[:, middle - low], ends[1][1], rtol=1e-12, atol=0.0):
                found[:, low + 1 : high] = line[:, 1:-1]
            else:
                todo += [(middle, high), (low, middle)]
        return found


def pricing(
    graph_of: GraphOf,
    device: Device,
    network: Network,
    ranks: int,
    model: Model,
    sharing: Sharing = NO_SHARING,
) -> Pricing | None:
    """The closed form of `graph_of` on `ranks` symmetric ranks, or None if it has none."""
    batches = _probes(sharing)
    graphs = [graph_of(batch) for batch in batches]
    if not all(_in_series(graph) for graph in graphs[:2]):
        return None
    shapes = [[len(layer.ops) for layer in graph.layers] for graph in graphs]
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
    features = np.array([features_of_batch(model, batch, sharing) for batch in batches])
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
            fitted = [
                _line(features, np.array([size(op) for op in ops]))
                for size in (_UNBENT if bent else _SIZES)
            ]
            whole = [column for column in fitted if column is not None]
            if len(whole) < len(fitted):
                return None
            lines.append(OpLine(ops[0], times, bent, *whole))
    if any(
        _sees(line) is None and (is_collective(line.op) or _sees_logits(line) or line.bent)
        for line in lines
    ):
        return None
    return Pricing(lines, device, network, ranks, model, sharing)


def features_of_batch(model: Model, batch: Batch, sharing: Sharing = NO_SHARING) -> list[float]:
    """The features of a batch, as `sim.serving.step_time.measure` writes them."""
    patterns = list(dict.fromkeys(model.attention))
    found = [0.0] * features_of(len(patterns))
    found[:PATTERN] = 1.0, batch.tokens, batch.logits, batch.lone, 0.0, 0.0, 0.0
    for p, pattern in enumerate(patterns):
        seen = attended_by(model, pattern, batch)
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
    before: tuple[int, Op] | None = None
    for index, layer in enumerate(graph.layers):
        for op in layer.ops:
            if before is not None:
                at, last = before
                if op.stream != last.stream and not any(
                    after.name == last.name and index - after.back == at for after in op.after
                ):
                    return False
            before = index, op
    return True


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
)
_UNBENT = (
    lambda op: op.flop,
    lambda op: 0.0,
    _buffers,
    lambda op: op.message_bytes,
    lambda op: sum(t.nbytes for t in op.reads) - _read(op),
    lambda op: op.lone_flop,
)


def _line(features: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Coefficients of `sizes` on the features; None if they are on no line."""
    scale = np.maximum(features.max(axis=0), 1e-300)
    found = np.linalg.lstsq(features / scale, sizes, rcond=None)[0]
    found[np.abs(found) <= 1e-12 * np.abs(found).max(initial=0.0)] = 0.0
    if np.abs(features / scale @ found - sizes).max() > _EXACT * np.abs(sizes).max():
        return None
    return found / scale


_TABLES = (
    TOKENS,
    LOGITS,
    LONE,
)  # features by which what an op takes is looked up, if it sees no other


def _sees(line: OpLine) -> int | None:
    """The one feature of `_TABLES` that counts for the op (TOKENS if none does), or None: others
    count as well."""
    seen = {feature for column in line.sizes for feature in np.flatnonzero(column[1:]).tolist()}
    seen = {feature + 1 for feature in seen} | ({TOKENS} if line.bent else set())
    return TOKENS if not seen else seen.pop() if len(seen) == 1 and seen <= {*_TABLES} else None


def _sees_logits(line: OpLine) -> bool:
    return any(column[LOGITS] for column in line.sizes)


def _used(counts: np.ndarray) -> np.ndarray:
    """Up to the last that is not zero: sums over it do not depend on how far a table goes."""
    return counts[: int(np.flatnonzero(counts)[-1]) + 1] if counts.any() else counts[:1]


def _arithmetic(device: Device, line: OpLine) -> np.ndarray:
    """Seconds of arithmetic, as coefficients of the features."""
    engine, dtype, kind = line.op.engine, line.op.dtype, line.op.kernel
    own_s = arithmetic_seconds(device, engine, dtype, 1.0, kind)
    lone_s = arithmetic_seconds(device, engine, dtype, 1.0, kind, 1.0) - own_s
    return line.flop * own_s + line.lone_flop * lone_s
