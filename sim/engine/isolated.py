"""A fabric on its own: a list of flows, or one collective, played from an idle start to the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simpy

from sim.engine.exchange import Exchange
from sim.engine.fabric import Fabric, LinkUse
from sim.engine.flows import Alarm
from sim.network.network import Fold, Network, Ranks
from sim.network.wires import Floats, Ints, Paths


def finish_times(
    bytes_per_s: Floats,
    routes: Sequence[Sequence[int]],
    start_s: Floats,
    latency_s: Floats,
    nbytes: Floats,
    weight: Floats | float = 1.0,
) -> Floats:
    """When each flow ends: it starts, pays its latency, then shares the capacities on its route
    max-min fairly.

    By flow: `routes` (capacity numbers, at least one), `start_s`, `latency_s`, `nbytes` and
    `weight`.
    """
    env = simpy.Environment()
    fabric = Fabric(env, bytes_per_s)
    first = np.cumsum([0, *map(len, routes)])
    crossed = np.array([capacity for route in routes for capacity in route], dtype=np.int64)
    paths = Paths(
        first=first,
        capacities=crossed,
        share=np.ones(len(crossed)),
        latency_s=np.asarray(latency_s),
        hops=np.diff(first),
    )
    rows = fabric.add_paths(paths) + np.arange(len(routes))
    clock = _Clock(env, len(routes))
    fabric.send(
        fabric.add_sender(clock), np.arange(len(routes)), rows, rows, nbytes, start_s, weight
    )
    env.run()
    return clock.end_s


class _Clock:
    def __init__(self, env: simpy.Environment, flows: int) -> None:
        self.env, self.end_s = env, np.zeros(flows)

    def landed(self, tags: Ints) -> None:
        self.end_s[tags] = self.env.now


class Played(NamedTuple):
    """A collective that was played: by rank its end and the bytes it sent; by link what it
    carried."""

    end_s: Floats
    sent_bytes: Floats
    links: list[LinkUse]

    @property
    def seconds(self) -> float:
        """When the last rank was done."""
        return float(self.end_s.max())


def played(
    network: Network,
    kind: str,
    ranks: Ranks,
    nbytes: float,
    late_s: Floats | None = None,
    weight: float = 1.0,
    fold: Fold | None = None,
) -> Played:
    """Play one collective send by send, by the way that the network chooses or that of `fold`; rank
    i comes `late_s[i]` after the start."""
    env = simpy.Environment()
    fabric = Fabric(env, network.wires.bytes_per_s, network.wires.name)
    way, plan = (
        network.plan(kind, ranks, nbytes)
        if fold is None
        else (fold.way, network.plan_of(kind, ranks, nbytes, fold))
    )
    who = network.members(ranks).ranks
    clock = _Clock(env, len(who))
    exchange = Exchange(env, fabric, network, who, plan, way, clock.landed, weight=weight)
    if late_s is None:
        exchange.arrive(np.arange(len(who)))
    else:
        for rank, late in enumerate(late_s):
            who = np.array([rank])
            Alarm(env, float(late), lambda _, who=who: exchange.arrive(who))  # type: ignore[misc]
    env.run()
    return Played(clock.end_s, exchange.sent_bytes, fabric.uses())


def seconds_of(network: Network, kind: str, ranks: Ranks, nbytes: float, fold: Fold) -> float:
    """What one of a collective's candidates takes as played."""
    return played(network, kind, ranks, nbytes, fold=fold).seconds
