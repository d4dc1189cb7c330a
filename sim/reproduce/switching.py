"""N6: what a fabric does when idle and when it jams, beside BookSim's cycles and the textbook.

Claimed: the zero-load latency of BookSim's butterflies, meshes, tori and fat trees (its law holds
for our hops), and the saturation of permutation traffic, 1 / greatest link load. Not claimed: the
queueing in between, nor where uniform random traffic saturates: our flows share links fairly and
have no buffers, virtual channels or allocators to fill. Dally and Towles: Principles and Practices
of Interconnection Networks (2004).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sim.calibrate.tables import csv_rows
from sim.engine.isolated import finish_times
from sim.network import topology, traffic
from sim.network.routing import routes
from sim.network.wires import Ints, Wires
from sim.reproduce.row import Row, absent

Hops = TypeVar("Hops", float, np.ndarray)

PERMUTED = "booksim2_permutation.csv"
# BookSim's names of permutations.
_BOOKSIM = {
    "bitcomp": "bit_complement",
    "bitrev": "bit_reverse",
    "shuffle": "shuffle",
    "transpose": "transpose",
}
BOOKSIM = "booksim2_uniform.csv"
LINK = {"bytes_per_s": 1.0, "latency_s": 4.0}  # seconds and bytes stand for cycles and flits
MEASURED_CYCLES = 2_000  # BookSim measures at least that long after its warm-up
NOISE = 4.0  # standard errors that a sampled mean of hops may be off
QUEUEING = 0.01  # of the latency, at the lowest load


_row = partial(Row, "network", "N6")


class Fabric(NamedTuple):
    """One of BookSim's networks."""

    kind: str  # BookSim's word: fly, mesh, torus, fattree
    k: int
    n: int

    def wires(self, routing: str | None = None) -> Wires:
        """The same network of ours: links of 1 flit a cycle, 4 cycles a hop (a torus: 5)."""
        link: dict[str, Any] = LINK | {"latency_s": 5.0 if self.kind == "torus" else 4.0}
        ours: dict[str, tuple[str, dict[str, Any]]] = {
            "fly": ("butterfly", {"k": self.k, "n": self.n}),
            "fattree": ("fat_tree", {"k": self.k, "levels": self.n}),
        }
        shape, sizes = ours.get(self.kind, (self.kind, {"dims": (self.k,) * self.n}))
        return Wires(topology.build(shape, **sizes, routing=routing, **link))

    def router_hops(self) -> Ints:
        """By pair of chips, routers on the way.

        A chip draws itself too, and then crosses its router, or the fly.
        """
        wires = self.wires()
        source, target = traffic.all_to_all(wires.chips, itself=True)
        ways = routes(wires, source, target, itself=True)
        crossed = np.zeros(len(source), dtype=np.int64)
        crossed[np.diff(ways.first) > 0] = ways.legs.hops
        if self.kind in ("mesh", "torus"):
            return crossed + 1
        return np.where(crossed > 0, crossed - 1, 1)

    def __str__(self) -> str:
        return f"{self.k}-ary {self.n}-{'tree' if self.kind == 'fattree' else self.kind}"


def zero_load_cycles(hops: Hops, flits: int, kind: str) -> Hops:
    """BookSim's latency of a lone packet: 4 cycles a router, 2 at the ends, and its further flits.

    A torus takes a cycle more for every wire between routers.
    """
    return 4 * hops + 2 + flits - 1 + (hops - 1 if kind == "torus" else 0)


def rows(data_folder: Path, quick: bool = False) -> list[Row]:
    """All of N6; `quick`: small networks.

    `data_folder` is `shared`, or the folder in it with BookSim's results.
    """
    return [*_zero_load(data_folder), *_butterflies(data_folder), *_textbook(quick)]


def _zero_load(data_folder: Path) -> Iterator[Row]:
    files = [folder / BOOKSIM for folder in (data_folder, data_folder / "reference")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        yield from absent("network", "N6", "zero-load latency", files[-1])
        return
    runs: dict[Fabric, list[dict[str, str]]] = defaultdict(list)
    for line in csv_rows(file):
        if line["stable"] == "1":
            runs[Fabric(line["topology"], int(line["k"]), int(line["n"]))].append(line)
    worst = 0.0
    for fabric, mine in runs.items():
        hops = fabric.router_hops()
        worst = max(worst, _played_off(fabric, hops))
        packets = np.array([_packets(line) for line in mine])
        sampled = np.array([float(line["hops_avg"]) for line in mine])
        exact = float(hops.std()) == 0
        off = np.abs(sampled - hops.mean()) / np.maximum(hops.std() / np.sqrt(packets), 1e-9)
        tolerance = "exact" if exact else f"{NOISE:g} standard errors of each of {len(mine)} runs"
        note = "" if exact else f"worst run {off.max():.1f} standard errors off"
        mean = round(float((sampled * packets).sum() / packets.sum()), 4)
        yield _row(
            f"{fabric}: routers on the way, uniform traffic",
            mean,
            round(float(hops.mean()), 4),
            tolerance,
            bool((off <= NOISE).all()),
            note=note,
        )
        yield from _latency(fabric, mine, float(hops.mean()))
    yield _row(
        "all pairs of all 13 networks: latency of our idle links (4 cycles a wire, torus 5, 1 flit "
        "a cycle, a fixed cost at the ends) less BookSim's law",
        0.0,
        worst,
        "exact",
        worst == 0,
    )


def _latency(fabric: Fabric, lines: list[dict[str, str]], hops: float) -> Iterator[Row]:
    """The lowest load of each packet size, against the law at the hops that its packets drew."""
    for flits in sorted({int(line["packet_size_flits"]) for line in lines}):
        runs = [line for line in lines if int(line["packet_size_flits"]) == flits]
        above = [
            float(line["packet_latency_avg_cycles"])
            - zero_load_cycles(float(line["hops_avg"]), flits, fabric.kind)
            for line in runs
        ]
        first = min(
            range(len(runs)),
            key=lambda i: (float(runs[i]["injection_rate_flits_node_cycle"]), above[i]),
        )
        printed = float(runs[first]["packet_latency_avg_cycles"])
        law = zero_load_cycles(float(runs[first]["hops_avg"]), flits, fabric.kind)
        yield _row(
            f"{fabric}, {flits}-flit packets: cycles at load "
            f"{runs[first]['injection_rate_flits_node_cycle']}",
            printed,
            round(law, 4),
            f"law <= BookSim <= law + {QUEUEING:.0%} of queueing; no run at any load below the law",
            min(above) >= -5e-5 * zero_load_cycles(hops, flits, fabric.kind)
            and printed <= law * (1 + QUEUEING),
            note=f"law at the {runs[first]['hops_avg']} hops drawn; at our mean of {hops:.4f}: "
            f"{zero_load_cycles(hops, flits, fabric.kind):.4f}",
        )


def _played_off(fabric: Fabric, hops: Ints, flits: int = 4) -> float:
    """Most that an idle message of ours and the law differ, but for a cost of a network's ends."""
    wires = fabric.wires()
    source, target = traffic.all_to_all(wires.chips)
    legs = routes(wires, source, target).legs
    ends = (
        5 if fabric.kind in ("mesh", "torus") else -3
    )  # a terminal's wire is charged as a hop, and costs 1 cycle
    law = zero_load_cycles(hops.reshape(wires.chips, -1)[source, target], flits, fabric.kind)
    return float(np.abs(legs.latency_s + flits / 1.0 + ends - law).max())


def _packets(line: dict[str, str]) -> float:
    flits = float(line["accepted_flits_node_cycle"]) * int(line["nodes"]) * MEASURED_CYCLES
    return flits / int(line["packet_size_flits"])


def played_rate(wires: Wires, source: Ints, target: Ints) -> float:
    """The slowest of equal long messages that start together on all wires: flits per cycle."""
    ways = routes(wires, source, target, itself=True)
    starts = ways.legs.first[ways.first]
    crossed = [ways.legs.capacities[a:b].tolist() for a, b in pairwise(starts)]
    crossed = [links for links in crossed if links]
    at_once, flits = np.zeros(len(crossed)), np.ones(len(crossed))
    return 1 / float(finish_times(wires.bytes_per_s, crossed, at_once, at_once, flits).max())


def _butterflies(data_folder: Path) -> Iterator[Row]:
    """What BookSim's flies carry of fixed permutations, saturated: single flits, 8 virtual channels
    of 8."""
    files = [folder / PERMUTED for folder in (data_folder, data_folder / "reference")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        yield from absent("network", "N6", "saturation of flies", files[-1])
        return
    carried: dict[tuple[int, int, str], float] = {}
    for line in csv_rows(file):
        key = int(line["k"]), int(line["n"]), line["traffic"]
        if line["stable"] == "0":
            carried[key] = max(carried.get(key, 0.0), float(line["accepted_flits_node_cycle"]))
    for (k, n, name), published in carried.items():
        wires = Fabric("fly", k, n).wires()
        source, target = np.arange(wires.chips), traffic.PERMUTATIONS[_BOOKSIM[name]](wires.chips)
        drawn, played = (
            traffic.saturation(wires, source, target),
            played_rate(wires, source, target),
        )
        judged = name != "transpose"
        yield _row(
            f"{k}-ary {n}-fly, {name}: throughput, flits a node and cycle",
            published,
            drawn,
            "1 %" if judged else "read beside",
            abs(drawn / published - 1) <= 0.01 and abs(played / drawn - 1) < 1e-12
            if judged
            else None,
            note="1 / greatest link load, and as played"
            if judged
            else "its buffers hold BookSim back by 12 to 14 %; flows have none",
        )


def _textbook(quick: bool) -> Iterator[Row]:
    """Where the answer can be worked out by hand."""
    for k in (4, 8) if quick else (4, 8, 16):
        wires = Fabric("mesh", k, 2).wires()
        for pattern, load, why in (
            (
                "transpose",
                k - 1,
                "row y turns into the other axis at the diagonal: y messages from one side",
            ),
            (
                "bit_reverse",
                k - 1,
                "all of row y turn at column reverse(y), of the last row at the last column",
            ),
            ("bit_complement", k // 2, "half a row crosses its middle"),
            (
                "shuffle",
                k // 2,
                "a column takes two messages from each row of one half, and half of these k "
                "cross its middle",
            ),
        ):
            found = _load(wires, pattern)
            yield _row(
                f"{k} x {k} mesh, XY, {pattern}: most messages on a link",
                load,
                found,
                "exact",
                found == load,
                note=why,
            )
    for k, n in ((4, 2), (2, 4)) if quick else ((4, 2), (2, 4), (4, 3), (2, 6)):
        tree, sprayed = Fabric("fattree", k, n).wires(), Fabric("fattree", k, n).wires("spray")
        for pattern in ("transpose", "bit_reverse", "shuffle"):
            spread, fixed = _load(sprayed, pattern), _load(tree, pattern)
            yield _row(
                f"{k}-ary {n}-tree, packets sprayed, {pattern}: most messages on a link",
                1,
                round(spread, 12),
                "1e-12: full bisection",
                abs(spread - 1) < 1e-12,
                note=f"routed by the target's digits: {fixed:g}",
            )
    why = (
        "not claimed: flows share links fairly; BookSim's accepted rates depend on buffers, "
        "channels and allocators"
    )
    yield _row("saturation under uniform random traffic", None, None, "", None, note=why)


def _load(wires: Wires, pattern: str) -> float:
    source = np.arange(wires.chips)
    return float(traffic.link_load(wires, source, traffic.PERMUTATIONS[pattern](wires.chips)).max())
