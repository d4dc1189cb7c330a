"""What the engine costs: ops per second beside bare SimPy timeouts, in turn in one process."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import NamedTuple

import simpy

from sim import catalog
from sim.engine.group import Group, members_of
from sim.graph.batch import decode_batch
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.network.network import Network
from sim.reproduce.host import chosen
from sim.techniques import Machine, apply


class Cost(NamedTuple):
    """Rates of the median round, and the ratio of the two."""

    ops_per_s: float
    timeouts_per_s: float
    ratio: float
    ops: int


def engine_cost(technique: str = "", rounds: int = 5, steps: int = 12) -> Cost:
    """Play `steps` Llama3-70B TP 8 decode steps at `op`, and in turn as many timeouts.

    The graph is lowered once, as it is for equal steps; no spans are kept.
    """
    pod = catalog.pod("atlas_800t_a2")
    device, library = catalog.device(pod.device), catalog.library(pod.library)
    graph = apply(
        transformer(
            catalog.model("llama3-70b"),
            Precision("int8", "int8"),
            Parallel(8),
            decode_batch([13_653] * 4),
        ),
        Machine(device.l2_bytes, device.hbm_bytes_per_s, 8),
        chosen(technique),
    )
    wires = pod.graph()
    members = members_of(device, lambda batch: graph, 8)
    group = Group(simpy.Environment(), members, Network(wires, library))
    program = [chip.lower(graph) for chip in group.chips]

    def play():
        for _ in range(steps):
            yield from group.play(program)

    def bare(env: simpy.Environment, count: int):
        for _ in range(count):
            yield env.timeout(1.0)

    rates = []
    for _ in range(rounds):
        before, start = group.chips[0].totals.ops, perf_counter()
        group.env.run(group.env.process(play()))
        ops, middle = int(group.chips[0].totals.ops - before), perf_counter()
        env = simpy.Environment()
        env.process(bare(env, ops))
        ready = perf_counter()
        env.run()
        rates.append((ops / (middle - start), ops / (perf_counter() - ready), ops))
    return Cost(
        median(r[0] for r in rates),
        median(r[1] for r in rates),
        median(r[0] / r[1] for r in rates),
        rates[0][2],
    )
