"""Network cost: messages and flows per second, each as a ratio to a baseline timed in the same
process.

    python benchmarks/network.py

Baselines: for collectives, SimPy as a first program would use it (a process for each message and a
resource for each link, 130,560 sends of a 256-chip ring); for random flows, the same sharing on
lists of Python, 200 flows. Beside them the CPU time that ASTRA-sim's analytical C++ took
for the same collectives on a machine of this class (given with the reference data), and SimGrid's
flow rate. Every case runs in a process of its own, so that its peak memory is its own. The limit: a
round of n sends is about thirty passes over arrays of n numbers, some 50 ns a message.
"""

from __future__ import annotations

import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import simpy

from sim.engine.isolated import finish_times, played
from sim.network import topology
from sim.network.library import Library
from sim.network.network import Network
from sim.network.sharing import LOOPS

LINK: dict[str, Any] = {"bytes_per_s": 50e9, "latency_s": 0.5e-6}
LIBRARY = Library("bench", 3e-6, 0.5e-6)
BYTES = 64e6
PAIRS = {"nic": LINK, "spine": {"bytes_per_s": 400e9, "latency_s": 1e-6}}


class Case(NamedTuple):
    """A collective on a topology, with the most seconds it may take and what the peer's C++
    took."""

    what: str
    shape: str
    parameters: dict[str, Any]
    algorithm: str
    play_s: float | None  # the bar, message by message; None: only folded
    fold_s: float
    peer_s: float | None


CASES = [
    Case("ring all-reduce, 1,024 chips", "ring", {"devices": 1024}, "ring", 4.0, 0.1, 3.4),
    Case(
        "2-D torus all-reduce, 4,096 chips",
        "torus",
        {"dims": (64, 64)},
        "multi_dimensional",
        4.0,
        0.1,
        3.9,
    ),
    Case(
        "2-D torus all-reduce, 16,384 chips",
        "torus",
        {"dims": (128, 128)},
        "multi_dimensional",
        40.0,
        0.1,
        38.6,
    ),
    Case(
        "hierarchical, 65,536 chips",
        "multi_node",
        {"nodes": 8192, "chips": 8, **PAIRS},
        "hierarchical",
        None,
        1.0,
        None,
    ),
]


def naive_messages_per_s(chips: int = 256) -> float:
    """A process a message, a resource a link."""
    env = simpy.Environment()
    links = [simpy.Resource(env) for _ in range(chips)]
    nbytes = BYTES / chips

    def send(link: simpy.Resource):
        with link.request() as turn:
            yield turn
            yield env.timeout(nbytes / LINK["bytes_per_s"])
        yield env.timeout(LINK["latency_s"])

    def play():
        for _ in range(2 * (chips - 1)):
            yield env.all_of([env.process(send(link)) for link in links])

    start = process_time()
    env.run(env.process(play()))
    return 2 * (chips - 1) * chips / (process_time() - start)


def collective(case: Case) -> str:
    """Build, fold and play one case; a line of the report."""
    start = perf_counter()
    graph = topology.build(case.shape, **case.parameters, **LINK)
    built = perf_counter()
    network = Network(graph, LIBRARY, case.algorithm)
    chips = network.wires.chips
    compiled = perf_counter()
    network.members(chips)
    grouped = perf_counter()
    fold = network.fold("all_reduce", chips, BYTES)
    fold_s = perf_counter() - grouped
    line = (
        f"{case.what:36} graph {built - start:5.2f} s, arrays {compiled - built:5.2f} s, "
        f"group {grouped - compiled:5.2f} s, "
        f"folded {fold_s:6.3f} s (<= {case.fold_s:g}: {_verdict(fold_s <= case.fold_s)})"
    )
    if case.play_s is not None:
        naive = naive_messages_per_s()
        cpu = process_time()
        result = played(network, "all_reduce", chips, BYTES)
        cpu = process_time() - cpu
        messages = float(result.sent_bytes.sum()) / _message_bytes(network, chips)
        apart = abs(result.seconds / fold.seconds - 1)
        line += (
            f"\n{'':36} played {cpu:5.2f} CPU s (<= {case.play_s:g}: "
            f"{_verdict(cpu <= case.play_s)}), "
            f"{messages / 1e6:.1f} M messages, {messages / cpu / 1e6:.2f} M/s = "
            f"{messages / cpu / naive:.0f} x SimPy "
            f"resources ({naive / 1e3:.0f} k/s); the peer's C++: {case.peer_s} CPU s; played / "
            f"folded - 1 = {apart:.0e}"
        )
    return f"{line}; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"


def _message_bytes(network: Network, chips: int) -> float:
    """Mean bytes of a message of the plan."""
    _, plan = network.plan("all_reduce", chips, BYTES)
    sends = {id(each): float(each.nbytes.sum()) for each in plan}
    return sum(sends[id(each)] for each in plan) / sum(len(each.source) for each in plan)


def random_flows(flows: int, together: bool) -> str:
    """Random flows of 6 hops on 64 links; started at once or over as long as they last."""
    dice = np.random.default_rng(1)
    capacities = dice.uniform(10e9, 400e9, 64)
    routes = [dice.choice(64, 6, replace=False).tolist() for _ in range(flows)]
    nbytes = dice.uniform(1e6, 1e9, flows)
    start_s = np.zeros(flows) if together else dice.uniform(0.0, flows / 3000, flows)
    LOOPS.native(float("inf"))  # loaded, or compiled
    cpu = process_time()
    finish_times(capacities, routes, start_s, np.zeros(flows), nbytes)
    rate = flows / (process_time() - cpu)
    few = min(flows, 200)
    cpu = process_time()
    _on_lists(capacities, routes[:few], nbytes[:few])
    naive = few / (process_time() - cpu)
    when = "at once" if together else "spread out"
    bar = f" (>= 3,400: {_verdict(rate >= 3400)})" if flows == 2000 and together else ""
    return (
        f"{flows:6,} random flows on 64 links, {when:10} {rate:8,.0f} flows/s{bar} = "
        f"{rate / naive:.1f} x lists ({few} flows)"
    )


def _on_lists(capacities: np.ndarray, routes: list[list[int]], nbytes: np.ndarray) -> None:
    """Share all flows anew at every end."""
    left = dict(enumerate(nbytes.tolist()))
    while left:
        rates = _max_min({f: routes[f] for f in left}, capacities.tolist())
        step_s = min(left[f] / rates[f] for f in left)
        left = {f: left[f] - rates[f] * step_s for f in left}
        left = {f: some for f, some in left.items() if some > rates[f] * 1e-12}


def _max_min(routes: dict[int, list[int]], left: list[float]) -> dict[int, float]:
    """Raise all rates until a capacity is full, freeze the flows on it, go on with the rest."""
    rates: dict[int, float] = {}
    while len(rates) < len(routes):
        load = [0] * len(left)
        growing = [f for f in routes if f not in rates]
        for f in growing:
            for c in routes[f]:
                load[c] += 1
        level = min(have / many for have, many in zip(left, load) if many)
        tight = {c for c, many in enumerate(load) if many and left[c] / many <= level}
        for f in growing:
            if not tight.isdisjoint(routes[f]):
                rates[f] = level
                for c in routes[f]:
                    left[c] -= level
    return rates


def _verdict(held: bool) -> str:
    return "ok" if held else "NO"


def main() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as alone:
        for case in CASES:
            print(alone.submit(collective, case).result(), flush=True)
        for flows in (500, 2000, 4000):
            for together in (True, False):
                print(alone.submit(random_flows, flows, together).result(), flush=True)
    print("SimGrid's C++: about 3,400 flows/s")


if __name__ == "__main__":
    main()
