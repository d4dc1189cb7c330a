"""The closed form of an iteration, taken from the op graph: what `sim.serving` needs to price a
batch without playing.

A pass whose ops follow one another (no two at once) takes the sum of what each takes alone. Every
size in the graph is a linear function of the batch's features; the coefficients are found by
looking at the graph of a few batches, and checked on others. Where ops overlap (a prefetch under a
collective), sizes bend, or L2 serves one pass with what the pass before left there, there is no
closed form, and the iteration is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sim.engine.group import GraphOf
from sim.engine.halves import doublings, halves
from sim.engine.lines import TABLES, OpLine, op_lines, sees
from sim.facts.span import BOUNDS
from sim.facts.totals import Totals
from sim.graph.batch import NO_SHARING, Pattern, Sharing
from sim.graph.graph import STREAMS, Op, is_collective
from sim.hardware.cost import (
    Alone,
    OpCost,
    Sizes,
    cost,
    hbm_bytes_per_s,
    is_straight,
    read_again,
    traffic,
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
    TOKENS,
    Fleet,
)
from sim.serving.step_time import StepTime, pattern_rows

_FLOP = ("flop", "lone_flop", "beside_flop", "vector_flop")


class Priced(NamedTuple):
    """What an op takes with the chip to itself, by the value of the one feature that it sees."""

    took: Alone  # the arithmetic of a collective is its time on the link
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
        patterns: Sequence[Pattern],
        sharing: Sharing,
    ) -> None:
        self.patterns, self.sharing = patterns, sharing
        self.lines, self.device, self.network, self.ranks = lines, device, network, ranks
        self._of = {
            feature: [line for line in lines if sees(line) == feature] for feature in TABLES
        }
        self._context = [line for line in lines if sees(line) is None]

    def table(self, tokens: int, logits: int) -> StepTime:
        """The closed form for batches of up to `tokens` new tokens, and `logits` logits and lone
        queries."""
        context, device = self._context, self.device
        costs = [_on_features(line, device) for line in context]
        tables = [
            self._seconds(self._of[feature], feature, np.arange(size + 1.0))
            for feature, size in zip(TABLES, (tokens, logits, logits))
        ]
        columns = (
            *tables,
            [line.times for line in context],
            [each.fixed_s for each in costs],
            [each.arithmetic_s for each in costs],
            [line.hbm_bytes for line in context],
            [line.buffer_bytes for line in context],
            [min(hbm_bytes_per_s(device), each.hbm_limit) for each in costs],
            [each.unhidden for each in costs],
            [each.beside_s for each in costs],
            [min(device.l2_bytes_per_s, each.l2_limit) for each in costs],
            device.l2_common_bytes,
            *pattern_rows(self.patterns),
            *self.sharing,
        )
        return StepTime(*(np.array([column]) for column in columns))

    def totals(self, fleet: Fleet, kind: int, stage: int = 0) -> Totals:
        """What the priced iterations of a kind of replica did, on one rank of a stage: as if each
        had been played and added up.

        One difference: an op that sees the context counts its fixed time as latency, whatever else
        bounds it.
        """
        totals = Totals(span_s={stream: {} for stream in STREAMS})
        totals.bytes = dict.fromkeys(("HBM", "L2", "link"), 0.0)
        counts = dict(
            zip(
                TABLES,
                map(_used, (fleet.of_tokens[kind], fleet.of_logits[kind], fleet.of_lone[kind])),
            )
        )
        totals.steps = float(counts[TOKENS].sum())
        mine = fleet.replicas.kind == kind
        sums = fleet.sums[mine].sum(axis=0)[: len(self.lines[0].flop)]
        by_row = fleet.row_sums[mine, stage].sum(axis=0)
        row = 0
        for line in self.lines:
            op, times, feature = line.op, line.times, sees(line)
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
                priced = self._priced(line, feature, values)
                by_bound = self._by_bound(op, priced.took, many * times)
                hbm, l2, link = (
                    part @ many * times
                    for part in (priced.hbm_bytes, priced.l2_bytes, priced.link_bytes)
                )
                busy = priced.active
                played = many @ busy
                asked = (line.asked_bytes[0] + line.asked_bytes[feature] * values) * busy @ many
                asked += line.bent(values) @ many if line.bent else 0.0
            kinds = totals.span_s[op.stream]
            kinds[op.kind] = kinds.get(op.kind, 0.0) + sum(by_bound.values())
            if op.stream == "compute":
                limits = totals.limit_s.setdefault(op.kind, dict.fromkeys(BOUNDS, 0.0))
                for bound, seconds in by_bound.items():
                    limits[bound] += seconds
            totals.ops += played * times
            totals.asked_bytes += asked * times
            flop = line.flop @ sums * times
            totals.flop += flop + line.vector_flop @ sums * times
            totals.matrix_flop += flop if op.engine == "matrix" else 0.0
            totals.bytes["HBM"] += hbm
            totals.bytes["L2"] += l2
            totals.bytes["link"] += link
        return totals

    @staticmethod
    def _by_bound(op: Op, took: Alone, many: np.ndarray) -> dict[str, float]:
        """Seconds of `many` plays by what bounds each as a whole."""
        which = np.where(took.seconds > 2 * took.fixed_s, np.argmax(took[2:], axis=0), 3)
        names = ("link" if is_collective(op) else "compute", "HBM", "L2", "latency")
        return {
            name: float(took.seconds @ (many * (which == index)))
            for index, name in enumerate(names)
        }

    def _seconds(self, lines: list[OpLine], feature: int, values: np.ndarray) -> np.ndarray:
        """What `lines` take together, by the value of the one feature that they see."""
        total = np.zeros(len(values))
        for line in lines:
            total += line.times * self._priced(line, feature, values).took.seconds
        return total

    def _priced(self, line: OpLine, feature: int, values: np.ndarray) -> Priced:
        op, device = line.op, self.device

        def at(column: np.ndarray) -> np.ndarray:
            return column[0] + column[feature] * values

        hbm = at(line.hbm_bytes) + (line.bent(values) if line.bent else 0.0)
        buffer, link_bytes = at(line.buffer_bytes), np.zeros(len(values))
        if is_collective(op):
            fixed, link_s, link_bytes = self._folded(op, at(line.message_bytes))
            found = OpCost(fixed, link_s)
        elif is_straight(op, device):
            found = _on_features(line, device)
            found = found._replace(arithmetic_s=at(found.arithmetic_s), beside_s=at(found.beside_s))
        else:  # looked up at each of the values
            own = {name: at(getattr(line, name)) for name in _FLOP}
            found = cost(Sizes.of(op, **own, hbm_bytes=hbm, buffer_bytes=buffer), device)
        again: Any = 0.0
        if op.gemm and op.flop:
            again = read_again(op, device, at(line.flop) * (op.gemm[0] / op.flop), hbm)
        hbm, l2 = traffic(hbm, buffer, device)
        hbm = hbm + again
        took = found.alone(hbm, l2, device)
        active = np.where(
            (took.arithmetic_s > 0.0) | (op.engine == "none") | (not op.writes), 1.0, 0.0
        )
        took = Alone(*(term * active for term in took))
        return Priced(took, hbm * active, l2 * active, link_bytes, active)

    def _folded(self, op: Op, messages: np.ndarray) -> np.ndarray:
        """(fixed seconds, seconds on the link, bytes on it) of a collective, by message size,
        rising.

        A plan's times are straight lines over its message, and of several plans the quickest is
        taken, so one that is it at both ends is it in between; where ends differ, the middle is
        looked at.
        """
        most = self.network.egress_bytes_per_s(0)
        found = np.empty((3, len(messages)))

        @cache
        def at(index: int) -> tuple[Way, tuple[float, ...]]:
            fold = self.network.fold(op.kind, op.ranks or self.ranks, float(messages[index]))
            fixed = fold.latency_s - (0.0 if op.launch else fold.way.launch_s)
            sizes = fixed, fold.sent_bytes / min(fold.bytes_per_s, most), fold.sent_bytes
            found[:, index] = sizes
            return fold.way, sizes

        def line(low: int, high: int) -> np.ndarray:
            apart = max(messages[high] - messages[low], 1e-300)
            share = (messages[low : high + 1] - messages[low]) / apart
            return np.outer(at(low)[1], 1 - share) + np.outer(at(high)[1], share)

        def straight(low: int, middle: int, high: int) -> bool:
            same = at(low)[0] == at(middle)[0] == at(high)[0]
            told = line(low, high)[:, middle - low]
            return same and np.allclose(told, at(middle)[1], rtol=1e-12, atol=0.0)

        for low, high in halves(doublings(len(messages) - 1), straight):
            found[:, low + 1 : high] = line(low, high)[:, 1:-1]
        return found


def pricing(
    graph_of: GraphOf,
    device: Device,
    network: Network,
    ranks: int,
    patterns: Sequence[Pattern],
    sharing: Sharing = NO_SHARING,
) -> Pricing | None:
    """The closed form of `graph_of`, in which attention has these patterns, on `ranks` symmetric
    ranks; None if it has none: a cost that bends and sees more than one feature is on no table."""
    lines = op_lines(graph_of, device, patterns, sharing)
    if lines is None or any(
        sees(line) is None and not is_straight(line.op, device) for line in lines
    ):
        return None
    return Pricing(lines, device, network, ranks, patterns, sharing)


def _used(counts: np.ndarray) -> np.ndarray:
    """Up to the last that is not zero: sums over it do not depend on how far a table goes."""
    return counts[: int(np.flatnonzero(counts)[-1]) + 1] if counts.any() else counts[:1]


def _on_features(line: OpLine, device: Device) -> OpCost:
    """What an op whose cost is straight takes, its arithmetic as coefficients of the features."""
    return cost(Sizes.of(line.op, **{name: getattr(line, name) for name in _FLOP}), device)
