"""The closed form of an iteration, taken from the op graph: what `sim.serving` needs to price a batch without playing.

A pass whose ops follow one another (no two at once) takes the sum of what each takes alone. Every size in the graph is
a linear function of the batch's features; the coefficients are found by looking at the graph of a few batches, and
checked on others. Where ops overlap (a prefetch under a collective), sizes bend, or L2 serves one pass with what the
pass before left there, there is no closed form, and the iteration is played.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.engine.steps import GraphOf
from sim.hardware.cost import arithmetic_seconds, hbm_bytes_per_s, hbm_limit, overhead_seconds
from sim.hardware.device import Device
from sim.network.library import Way
from sim.network.network import Network
from sim.serving.fleet import features_of
from sim.serving.step_time import PATTERNS, StepTime
from sim.spans import BOUNDS
from sim.workload.graph import Graph, Op, is_collective
from sim.workload.model import Model
from sim.workload.transformer import Batch, Sequences, attended

_EXACT = 1e-9  # a size further than this from its line bends


class OpLine(NamedTuple):
    """One op of the graph, `times` times in a pass, with sizes as coefficients of the features."""

    op: Op
    times: int
    flop: np.ndarray
    hbm_bytes: np.ndarray  # weights and KV-cache
    buffer_bytes: np.ndarray  # activations
    message_bytes: np.ndarray


class Pricing:
    """Prices of iterations of one model on one group of ranks."""

    def __init__(self, lines: list[OpLine], device: Device, network: Network, ranks: int, model: Model) -> None:
        self.lines, self.device, self.network, self.ranks = lines, device, network, ranks
        context = [line for line in lines if _sees_context(line)]
        self._of_tokens = [line for line in lines if not _sees_context(line) and not _sees_logits(line)]
        self._of_logits = [line for line in lines if not _sees_context(line) and _sees_logits(line)]
        self._context = context
        self._pattern = [PATTERNS[name] for name in dict.fromkeys(model.attention)]
        self._window, self._stride = model.window_tokens, max(model.sparse_stride, 1)

    def table(self, tokens: int, logits: int) -> StepTime:
        """The closed form for batches of up to `tokens` new tokens and `logits` logits."""
        context, device = self._context, self.device
        seconds = [arithmetic_seconds(device, line.op.engine, line.op.dtype, 1.0) for line in context]
        tables = [
            self._seconds(lines, feature, np.arange(size + 1.0))
            for lines, feature, size in ((self._of_tokens, 1, tokens), (self._of_logits, 2, logits))
        ]
        columns = (
            *tables,
            [line.times for line in context],
            [overhead_seconds(device, line.op.kind, line.op.engine) * line.op.launch for line in context],
            [line.flop * each for line, each in zip(context, seconds)],
            [line.hbm_bytes for line in context],
            [line.buffer_bytes for line in context],
            [min(hbm_bytes_per_s(device), hbm_limit(device, line.op.kind)) for line in context],
            device.l2_bytes_per_s, device.l2_bytes,
            self._pattern, self._window, self._stride,
        )  # fmt: skip
        return StepTime(*(np.array([column]) for column in columns))

    def _seconds(self, lines: list[OpLine], feature: int, values: np.ndarray) -> np.ndarray:
        """What `lines` take together, by the value of the one feature that they see."""
        return sum(
            (line.times * self._parts(line, feature, values).sum(axis=0) for line in lines), np.zeros(len(values))
        )

    def _parts(self, line: OpLine, feature: int, values: np.ndarray) -> np.ndarray:
        """[bound, value] seconds of one op, by what bounds it: BOUNDS. The fixed time is latency."""
        op, device = line.op, self.device
        flop, hbm, buffer, message = (column[0] + column[feature] * values for column in line[2:])
        fits = buffer <= device.l2_bytes
        l2, hbm = np.where(fits, buffer, 0.0), np.where(fits, hbm, hbm + buffer)
        if is_collective(op):
            fixed, first = self._folded(op, message)
            bound, rate = BOUNDS.index("link"), hbm_bytes_per_s(device)
        else:
            fixed = overhead_seconds(device, op.kind, op.engine) * op.launch
            first = flop * arithmetic_seconds(device, op.engine, op.dtype, 1.0)
            bound, rate = BOUNDS.index("compute"), min(hbm_bytes_per_s(device), hbm_limit(device, op.kind))
        lines = np.array([first, hbm / rate, l2 / device.l2_bytes_per_s])
        longest = lines.argmax(axis=0)
        parts = np.zeros((len(BOUNDS), len(values)))
        for which, into in enumerate((bound, BOUNDS.index("HBM"), BOUNDS.index("L2"))):
            parts[into] += np.where(longest == which, lines[which], 0.0)
        parts[BOUNDS.index("latency")] += fixed
        return parts

    def _folded(self, op: Op, messages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fixed seconds, seconds on the link) of a collective, by message size, rising.

        A plan's times are straight lines over its message, and of several plans the quickest is taken, so one that is
        it at both ends is it in between; where ends differ, the middle is looked at.
        """
        most = self.network.egress_bytes_per_s(0)
        found = np.empty((2, len(messages)))
        known: dict[int, tuple[Way, tuple[float, float]]] = {}

        def at(index: int) -> tuple[Way, tuple[float, float]]:
            if index not in known:
                fold = self.network.fold(op.kind, self.ranks, float(messages[index]))
                fixed = fold.latency_s - (0.0 if op.launch else fold.way.launch_s)
                known[index] = fold.way, (fixed, fold.sent_bytes / min(fold.bytes_per_s, most))
                found[:, index] = known[index][1]
            return known[index]

        todo = [(0, len(messages) - 1)]
        while todo:
            low, high = todo.pop()
            middle = (low + high) // 2
            ends = at(low), at(middle), at(high)
            if high - low < 2:
                continue
            share = (messages[low : high + 1] - messages[low]) / max(messages[high] - messages[low], 1e-300)
            line = np.outer(ends[0][1], 1 - share) + np.outer(ends[2][1], share)
            same = ends[0][0] == ends[1][0] == ends[2][0]
            if same and np.allclose(line[:, middle - low], ends[1][1], rtol=1e-12, atol=0.0):
                found[:, low + 1 : high] = line[:, 1:-1]
            else:
                todo += [(middle, high), (low, middle)]
        return found[0], found[1]


def pricing(graph_of: GraphOf, device: Device, network: Network, ranks: int, model: Model) -> Pricing | None:
    """The closed form of `graph_of` on `ranks` symmetric ranks, or None if it has none."""
    batches = _probes()
    graphs = [graph_of(batch) for batch in batches]
    if not all(_in_series(graph) for graph in graphs[:2]):
        return None
    shapes = [[len(layer.ops) for layer in graph.layers] for graph in graphs]
    if any(shape != shapes[0] for shape in shapes):
        return None
    weights = sum(t.nbytes for layer in graphs[0].layers for op in layer.ops for t in op.reads if t.kind == "weight")
    if weights <= device.l2_bytes:
        return None  # a pass may find weights in L2 that the pass before left there
    features = np.array([features_of_batch(model, batch) for batch in batches])
    lines = []
    for layer, times in _distinct(graphs[0]).items():
        for place in range(len(graphs[0].layers[layer].ops)):
            ops = [graph.layers[layer].ops[place] for graph in graphs]
            fitted = [_line(features, np.array([size(op) for op in ops])) for size in _SIZES]
            if any(column is None for column in fitted):
                return None
            lines.append(OpLine(ops[0], times, *fitted))
    if any(_sees_context(line) and (is_collective(line.op) or _sees_logits(line)) for line in lines):
        return None
    if any(_sees_logits(line) and any(column[1] for column in line[2:]) for line in lines):
        return None
    return Pricing(lines, device, network, ranks, model)


def features_of_batch(model: Model, batch: Batch) -> list[float]:
    """The features of a batch, as `sim.serving.step_time.measure` writes them."""
    patterns = list(dict.fromkeys(model.attention))
    found = [0.0] * features_of(len(patterns))
    found[:3] = 1.0, batch.tokens, batch.logits
    for p, pattern in enumerate(patterns):
        for group in batch.groups:
            pairs, entries = attended(model, pattern, group.new, group.past)
            found[3 + 2 * p] += group.number * pairs
            found[4 + 2 * p] += group.number * entries
    return found


def _probes() -> list[Batch]:
    """Batches whose features are far from lying on a line, and some to check by."""
    shapes = [
        [(1, 1, 0)], [(1, 1, 700)], [(7, 1, 4096)], [(1, 512, 0)], [(3, 100, 50)], [(1, 1024, 9000)], [(64, 1, 123)],
        [(2, 33, 20_000)], [(5, 1, 1), (1, 300, 12)], [(1, 2000, 0), (9, 1, 777)], [(30, 1, 3000), (2, 64, 640)],
        [(1, 17, 1700)],
    ]  # fmt: skip
    logits = (1, 1, 7, 1, 3, 0, 64, 2, 5, 10, 31, 0)
    return [Batch(tuple(Sequences(*each) for each in shape), rows) for shape, rows in zip(shapes, logits)]


def _distinct(graph: Graph) -> dict[int, int]:
    """The place of the first of each set of equal layers, and how many they are."""
    first: dict[int, int] = {}
    for place, layer in enumerate(graph.layers):
        first.setdefault(id(layer), place)
    return {place: sum(layer is graph.layers[place] for layer in graph.layers) for place in first.values()}


def _in_series(graph: Graph) -> bool:
    """Whether no two ops can run at once: each follows the one before it, on its stream or by a dependency."""
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


_SIZES = (lambda op: op.flop, _read, _buffers, lambda op: op.message_bytes)


def _line(features: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Coefficients of `sizes` on the features; None if they are on no line."""
    scale = features.max(axis=0)
    found = np.linalg.lstsq(features / scale, sizes, rcond=None)[0]
    found[np.abs(found) <= 1e-12 * np.abs(found).max(initial=0.0)] = 0.0
    if np.abs(features / scale @ found - sizes).max() > _EXACT * np.abs(sizes).max():
        return None
    return found / scale


def _sees_context(line: OpLine) -> bool:
    return any(column[3:].any() for column in line[2:])


def _sees_logits(line: OpLine) -> bool:
    return any(column[2] for column in line[2:])
