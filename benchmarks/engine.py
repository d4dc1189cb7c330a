"""Engine cost: simulated ops per second at `op` fidelity as a ratio to bare SimPy timeouts in the
same process.

    python benchmarks/engine.py

Each round times the two in turn, so that a machine that slows down slows both; the median ratio is
what to quote. The limit: an op is at least one timeout and one resume of its stream, so a ratio of
1 is out of reach, and the waits between streams (four events in a layer of eleven ops) put it at
about 0.7 before a line of podscope runs. Memory: the peak over 200 steps less the peak over 20,
which must not grow.
"""

from __future__ import annotations

import tracemalloc
from functools import partial

import simpy

from sim import catalog
from sim.engine.group import Group, members_of
from sim.graph.batch import decode_batch
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.network.network import Network
from sim.reproduce.cost import engine_cost


def memory_growth() -> int:
    pod = catalog.pod("atlas_800t_a2")
    wires = pod.graph()
    network = Network(wires, catalog.library(pod.library))
    model, precision = catalog.model("smollm2-135m"), Precision("int8", "int8")
    graph_of = partial(transformer, model, precision, Parallel(1))
    members = members_of(catalog.device(pod.device), graph_of, 8)
    group = Group(simpy.Environment(), members, network)

    def play(steps: int) -> None:
        for context in range(1000, 1000 + steps):
            graphs = group.graphs(decode_batch([context] * 4))
            group.env.run(group.env.process(group.run(*graphs)))

    play(500)  # Python keeps freed tuples, up to a number: these steps fill its lists
    peaks = []
    for steps in (20, 200):
        tracemalloc.start()
        play(steps)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks[1] - peaks[0]


def main() -> None:
    for technique in ("", "preserve", "fused_collective"):
        cost = engine_cost(technique)
        print(
            f"{technique or 'vanilla':18} {cost.ops_per_s:10,.0f} ops/s  "
            f"{cost.timeouts_per_s:12,.0f} timeouts/s  "
            f"ratio {cost.ratio:.3f}  ({cost.ops:,} ops a round)"
        )
    print(f"peak memory over 200 steps less over 20: {memory_growth():,} bytes")


if __name__ == "__main__":
    main()
