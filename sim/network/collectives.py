"""Collectives: pure plans of rounds of sends, and beside each plan its closed form on an idle network.

A plan knows no clock and no link: it yields rounds of (source, target, bytes), and the engine plays them as flows.
When every rank does the same at the same time, a plan folds to one rank's share of it (`fold`), which is what a
symmetric run plays. A new collective is a plan here and a line in `PLANS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from sim.network import topology
from sim.network.library import Library

Send = tuple[int, int, float]
Round = list[Send]


def ring_all_reduce(ranks: Sequence[int], nbytes: float) -> Iterator[Round]:
    """Reduce-scatter then all-gather: 2(n-1) rounds of nbytes/n to the next rank."""
    n = len(ranks)
    for _ in range(2 * (n - 1)):
        yield [(ranks[i], ranks[(i + 1) % n], nbytes / n) for i in range(n)]


def direct_all_reduce(ranks: Sequence[int], nbytes: float) -> Iterator[Round]:
    """Two-shot: every rank sends each peer its shard to reduce, then its reduced shard; 2 rounds of nbytes/n to all."""
    for _ in range(2):
        yield [(a, b, nbytes / len(ranks)) for a in ranks for b in ranks if a != b]


def one_shot_all_reduce(ranks: Sequence[int], nbytes: float) -> Iterator[Round]:
    """Every rank sends everything to every peer, and each reduces for itself: 1 round of nbytes to all."""
    yield [(a, b, nbytes) for a in ranks for b in ranks if a != b]


def ring_all_gather(ranks: Sequence[int], nbytes: float) -> Iterator[Round]:
    """n-1 rounds of nbytes/n to the next rank; `nbytes` is the gathered buffer."""
    n = len(ranks)
    for _ in range(n - 1):
        yield [(ranks[i], ranks[(i + 1) % n], nbytes / n) for i in range(n)]


def direct_all_gather(ranks: Sequence[int], nbytes: float) -> Iterator[Round]:
    """Every rank sends its shard of nbytes/n to every peer, in 1 round."""
    yield [(a, b, nbytes / len(ranks)) for a in ranks for b in ranks if a != b]


PLANS: dict[str, dict[str, Callable[[Sequence[int], float], Iterator[Round]]]] = {
    "all_reduce": {"direct": direct_all_reduce, "one_shot": one_shot_all_reduce, "ring": ring_all_reduce},
    "all_gather": {"direct": direct_all_gather, "ring": ring_all_gather},
}
ALGORITHMS = ("auto", "direct", "one_shot", "ring")


class Fold(NamedTuple):
    """A symmetric plan as one rank sees it: wait `latency_s`, then `sent_bytes` leave at `bytes_per_s`."""

    algorithm: str
    latency_s: float
    sent_bytes: float
    bytes_per_s: float
    rounds: int
    exact: bool  # all sends of a round go equally far; else an upper bound

    @property
    def seconds(self) -> float:
        """Closed form on an idle network."""
        return self.latency_s + self.sent_bytes / self.bytes_per_s


def ring_all_reduce_seconds(n: int, nbytes: float, bytes_per_s: float, latency_s: float) -> float:
    """Textbook closed form of `ring_all_reduce` on an idle, uniform ring."""
    return 2 * (n - 1) * (nbytes / n / bytes_per_s + latency_s)


def direct_all_reduce_seconds(n: int, nbytes: float, bytes_per_s: float, latency_s: float) -> float:
    """Textbook closed form of `direct_all_reduce` on an idle full mesh; `bytes_per_s` of one pair, one way."""
    return 2 * (nbytes / n / bytes_per_s + latency_s)


class Network:
    """A pod's wires with the library that drives them: what a technique or an engine may ask about communication."""

    def __init__(self, graph: topology.Graph, library: Library, algorithm: str = "auto") -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"no collective algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
        self.graph, self.library, self.algorithm = graph, library, algorithm
        self.fold = lru_cache(maxsize=4096)(self._fold)
        self.routes = lru_cache(maxsize=None)(lambda a, b: topology.route(graph, a, b))

    def bytes_per_s(self, hop: topology.Hop) -> float:
        """Rate of one link as a long message sees it."""
        return self.graph.edges[hop]["bytes_per_s"] * self.library.link_efficiency

    def latency_s(self, source: int, target: int) -> float:
        """Wire latency between two chips."""
        return sum(self.graph.edges[hop]["latency_s"] for hop in self.routes(source, target))

    def plan(self, kind: str, ranks: int, nbytes: float) -> tuple[str, list[Round]]:
        """The algorithm that `auto` (or the user) chose, and its rounds."""
        fold = self.fold(kind, ranks, nbytes)
        return fold.algorithm, list(PLANS[kind][fold.algorithm](topology.neighbour_order(self.graph, ranks), nbytes))

    def _fold(self, kind: str, ranks: int, nbytes: float) -> Fold:
        if kind not in PLANS:
            raise ValueError(f"no plan for the collective {kind!r}; there are {', '.join(PLANS)}")
        group = topology.neighbour_order(self.graph, ranks)
        has = self.library.algorithms
        names = [name for name in PLANS[kind] if not has or name in has] or list(PLANS[kind])
        if self.algorithm in PLANS[kind]:
            names = [self.algorithm]
        folds = [fold(self, name, list(PLANS[kind][name](group, nbytes)), ranks) for name in names]
        return min(folds, key=lambda candidate: (not candidate.exact, candidate.seconds))


def fold(network: Network, algorithm: str, rounds: list[Round], ranks: int) -> Fold:
    """Fold the plan of a symmetric group on an idle network to one rank's share.

    A round lasts as long as its most loaded link, sharing counted: exact when the sends of a round go equally far, an
    upper bound otherwise (playing the plan unfolded is always exact).
    """
    latency = network.library.launch_s + network.library.step_s * len(rounds)
    wire = sent = 0.0
    exact = True
    seen: dict[tuple, tuple[float, float]] = {}
    for sends in rounds:
        key = tuple(sends)
        if key not in seen:
            load: dict[topology.Hop, float] = {}
            for source, target, nbytes in sends:
                for hop in network.routes(source, target):
                    load[hop] = load.get(hop, 0.0) + nbytes
            seen[key] = (
                max(network.latency_s(a, b) for a, b, _ in sends),
                max(nbytes / network.bytes_per_s(hop) for hop, nbytes in load.items()),
            )
            exact = exact and len({len(network.routes(a, b)) for a, b, _ in sends}) == 1
        round_latency, round_wire = seen[key]
        latency += round_latency
        wire += round_wire
        sent += sum(nbytes for _, _, nbytes in sends) / ranks
    return Fold(algorithm, latency, sent, sent / wire if wire else 1.0, len(rounds), exact)
