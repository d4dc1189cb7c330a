"""The network beside other simulators, closed forms and measurements: N1 to N4, N6 and N7."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sim import catalog
from sim.calibrate.collectives import leave_one_size_out
from sim.calibrate.libraries import SOURCES
from sim.calibrate.tables import Measured, csv_rows
from sim.catalog import shipped
from sim.engine.isolated import finish_times, played, seconds_of
from sim.network import topology
from sim.network.collectives import COLLECTIVES
from sim.network.library import Library
from sim.network.network import Network
from sim.network.topology import Graph
from sim.reproduce import switching
from sim.reproduce.row import Progress, Row, absent, reads, rows_of, within

SHARED = Path("../shared")


switches = partial(switching.rows, SHARED)  # N6


def reproduce(quick: bool = False, progress: Progress = lambda done_fraction: None) -> list[Row]:
    """Rows of the system `network`; those without their data say so and are not judged."""
    parts: list[Callable[[bool], Iterable[Row]]] = [
        flows,
        closed_forms,
        peers,
        contended,
        measured,
        switches,
        choices,
    ]
    return rows_of((part(quick) for part in parts), len(parts), progress)


_row = partial(Row, "network")
_meets = partial(within, "network")
_reads = partial(reads, "network")


# N1: flows.


@_reads("N1", "finish times of max-min flows", lambda: SHARED / "reference/maxmin_flows.json")
def flows(file: Path, quick: bool) -> Iterator[Row]:
    """Finish times of SimGrid's max-min flows.

    SimGrid's CM02 shares a link in inverse proportion to the latency of each flow's path, as TCP
    would; a flow without latency has weight 1. That is a weight of ours.
    """
    for number, case in enumerate(json.loads(file.read_text())):
        wires = np.array([link["bandwidth_bytes_per_s"] for link in case["links"]], dtype=float)
        delay = np.array([link["latency_s"] for link in case["links"]], dtype=float)
        routes = [flow["links"] for flow in case["flows"]]
        latency = np.array([delay[route].sum() for route in routes])
        weight = np.where(latency > 0, 1 / np.where(latency > 0, latency, 1.0), 1.0)
        start, nbytes, end = (
            np.array([float(f[key]) for f in case["flows"]])
            for key in ("start_s", "bytes", "finish_s")
        )
        ours = finish_times(wires, routes, start, latency, nbytes, weight)
        yield _meets(
            "N1",
            f"case {number + 1}: {len(routes)} flows on {len(wires)} links, largest relative "
            "difference",
            float(np.abs(ours / end - 1).max()),
            1e-6,
            "SimGrid 3.32, CM02",
        )


# N2: played = closed form.

LINK: dict[str, Any] = {"bytes_per_s": 50e9, "latency_s": 0.5e-6}
IDLE: dict[str, Callable[[], Graph]] = {
    "ring of 8": lambda: topology.build("ring", devices=8, **LINK),
    "full mesh of 8": lambda: topology.build("full_mesh", devices=8, **LINK),
    "switch of 8": lambda: topology.build("switch", devices=8, **LINK),
    "4x4 torus": lambda: topology.build("torus", dims=(4, 4), **LINK),
    "4x4x4 torus": lambda: topology.build("torus", dims=(4, 4, 4), **LINK),
    "hypercube of 16": lambda: topology.build("hypercube", dimensions=4, **LINK),
    "2 nodes of 8": lambda: topology.build(
        "multi_node", nodes=2, chips=8, nic=LINK, spine=LINK, **LINK
    ),
    "fat tree of 16": lambda: topology.build("fat_tree", k=4, levels=2, **LINK),
}
# (rounds, bytes a rank sends / S) in a group of n on links of their own: the textbook.
TEXTBOOK: dict[tuple[str, str], Callable[[int], tuple[float, float]]] = {
    ("all_reduce", "ring"): lambda n: (2 * (n - 1), 2 * (n - 1) / n),
    ("all_reduce", "recursive_doubling"): lambda n: (np.log2(n), np.log2(n)),
    ("all_reduce", "halving_doubling"): lambda n: (2 * np.log2(n), 2 * (n - 1) / n),
    ("all_reduce", "two_shot"): lambda n: (2, 2 * (n - 1) / n),
    ("all_reduce", "one_shot"): lambda n: (1, n - 1),
    ("all_gather", "ring"): lambda n: (n - 1, (n - 1) / n),
    ("all_gather", "direct"): lambda n: (1, (n - 1) / n),
    ("all_gather", "recursive_doubling"): lambda n: (np.log2(n), (n - 1) / n),
    ("reduce_scatter", "ring"): lambda n: (n - 1, (n - 1) / n),
    ("reduce_scatter", "direct"): lambda n: (1, (n - 1) / n),
    ("reduce_scatter", "recursive_halving"): lambda n: (np.log2(n), (n - 1) / n),
    ("all_to_all", "direct"): lambda n: (1, (n - 1) / n),
    ("all_to_all", "pairwise"): lambda n: (n - 1, (n - 1) / n),
    ("send_receive", "direct"): lambda n: (1, 1.0),
}


def closed_forms(quick: bool = False) -> Iterator[Row]:
    """Every collective and algorithm on idle fabrics, played and folded; the textbook's switch."""
    library = Library("test", 3e-6, 0.5e-6)
    for name, build in list(IDLE.items())[:: 3 if quick else 1]:
        in_step, apart = [0.0], [0.0]
        for network, kind in _served(build(), library):
            for nbytes in (1e4, 64e6) if quick else (1.0, 1e4, 1e6, 64e6, 1e9):
                fold = network.fold(kind, network.wires.chips, nbytes)
                seconds = played(network, kind, network.wires.chips, nbytes).seconds
                (in_step if fold.exact else apart).append(seconds / fold.seconds - 1)
        yield _meets(
            "N2",
            f"{name}: {len(in_step) - 1} collectives in step, played against folded, largest "
            "relative difference",
            max(map(abs, in_step)),
            1e-9,
        )
        for which, off in (("least", min(apart)), ("largest", max(apart))):
            yield _row(
                "N2",
                f"{name}: {len(apart) - 1} collectives out of step, which have no closed form: "
                f"played / folded estimate - 1, {which}",
                None,
                off,
                "",
                None,
            )
    yield from _textbook(library, quick)
    yield from _shared_fabric(library, quick)


def _served(graph: Graph, library: Library) -> Iterator[tuple[Network, str]]:
    """Each collective, and a network that does it by each algorithm that serves all its chips."""
    for kind, collective in COLLECTIVES.items():
        for algorithm, row in collective.algorithms.items():
            network = Network(graph, library, algorithm)
            if not row.needs(network.members(network.wires.chips)):
                yield network, kind


def _textbook(library: Library, quick: bool) -> Iterator[Row]:
    worst = bytes_off = 0.0
    for n in (2, 4, 8) if quick else (2, 4, 8, 16, 64):
        for (kind, algorithm), form in TEXTBOOK.items():
            network = Network(topology.build("switch", n, **LINK), library, algorithm)
            (rounds, share), nbytes = form(n), 8e6
            wire_s = share * nbytes / LINK["bytes_per_s"]
            seconds = library.launch_s + rounds * (library.step_s + LINK["latency_s"]) + wire_s
            result = played(network, kind, n, nbytes)
            worst = max(worst, abs(result.seconds / seconds - 1))
            bytes_off = max(
                bytes_off, float(np.abs(result.sent_bytes / (share * nbytes) - 1).max())
            )
    what = f"{len(TEXTBOOK)} textbook formulas on a switch of 2 to 64, largest relative difference"
    yield _meets("N2", what, worst, 1e-9)
    what = "bytes sent by each rank against the algorithm's, largest relative difference"
    yield _meets("N2", what, bytes_off, 1e-9)


def _shared_fabric(library: Library, quick: bool) -> Iterator[Row]:
    """However thin the uplinks of two levels, no collective beats its closed form on full ones."""
    least = np.inf
    for oversubscription in (4.0,) if quick else (2.0, 4.0, 8.0):
        thin = {**LINK, "bytes_per_s": LINK["bytes_per_s"] / oversubscription}
        full = topology.build("multi_node", nodes=4, chips=4, nic=LINK, spine=LINK, **LINK)
        shared = topology.build("multi_node", nodes=4, chips=4, nic=thin, spine=thin, **LINK)
        for network, kind in _served(full, library):
            fold = network.fold(kind, 16, 8e6)
            if fold.exact:
                thinner = Network(shared, library, network.algorithm)
                least = min(least, played(thinner, kind, 16, 8e6).seconds / fold.seconds)
    what = "oversubscribed uplinks (up to 8 times): played / closed form on full ones, least"
    yield _row("N2", what, 1.0, least, ">= 1", least >= 1 - 1e-9)


# N3: a peer.

PEER_LINK: dict[str, Any] = {"bytes_per_s": 50 * 2**30, "latency_s": 500e-9}
# 10 ns at an endpoint for each message, and once more for the collective; 3 bytes of local traffic
# for each reduced.
PEER_LIBRARY = Library("ASTRA-sim's options", 10e-9, step_s=10e-9, reduce_bytes_per_s=1600e9 / 3)
_PEER_ALGORITHM = {
    ("ring", "all_reduce"): "ring",
    ("ring", "all_gather"): "ring",
    ("ring", "reduce_scatter"): "ring",
    ("ring", "all_to_all"): "ring",
    ("direct", "all_reduce"): "two_shot",
    ("direct", "all_gather"): "direct",
    ("direct", "reduce_scatter"): "direct",
    ("direct", "all_to_all"): "direct",
    ("halvingDoubling", "all_reduce"): "halving_doubling",
    ("halvingDoubling", "all_gather"): "recursive_doubling",
    ("halvingDoubling", "reduce_scatter"): "recursive_halving",
    ("ring+ring", "all_reduce"): "multi_dimensional",
    ("ring+ring", "all_gather"): "multi_dimensional",
    ("ring+ring", "reduce_scatter"): "multi_dimensional",
    ("ring+ring", "all_to_all"): "multi_dimensional",
}


def _peer_graph(vector: dict[str, str]) -> Graph:
    sides = [int(side) for side in vector["npus_per_dim"].split("x")]
    if vector["topology"] == "Switch":  # its latency is of each hop, ours of the way through
        link = {**PEER_LINK, "latency_s": 2 * PEER_LINK["latency_s"]}
        stores = vector["backend"] == "Aware"
        return topology.build(
            "switch",
            devices=sides[0],
            forwarding="store_and_forward" if stores else "cut_through",
            **link,
        )
    if vector["topology"] == "RingxRing":  # its first dimension is our fastest
        return topology.build("torus", dims=tuple(reversed(sides)), **PEER_LINK)
    return topology.build(
        {"Ring": "ring", "FullyConnected": "full_mesh"}[vector["topology"]], sides[0], **PEER_LINK
    )


def _against(vectors: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], float]]:
    """Each vector of the peer, and how far our played time is from its own, relative.

    Halving-doubling is less the reduction of the first message, which the peer does not charge.
    """
    networks: dict[tuple[str, ...], Network] = {}
    for vector in vectors:
        algorithm = _PEER_ALGORITHM[vector["algorithm"], vector["collective"]]
        key = (vector["backend"], vector["topology"], vector["npus_per_dim"], algorithm)
        if key not in networks:
            networks[key] = Network(_peer_graph(vector), PEER_LIBRARY, algorithm)
        chips = int(vector["npus"])
        nbytes = float(vector["comm_size_bytes"]) * (
            chips if vector["collective"] == "all_gather" else 1
        )
        seconds = played(networks[key], vector["collective"], chips, nbytes).seconds
        reduces = vector["collective"] in ("all_reduce", "reduce_scatter")
        if vector["algorithm"] == "halvingDoubling" and reduces:
            seconds -= nbytes / 2 / PEER_LIBRARY.reduce_bytes_per_s
        yield vector, seconds / (float(vector["time_ns_max"]) * 1e-9) - 1


@_reads(
    "N3", "ASTRA-sim's collective vectors", lambda: SHARED / "reference/astra_sim_collectives.csv"
)
def peers(file: Path, quick: bool) -> Iterator[Row]:
    """The collective vectors of ASTRA-sim, with its endpoint delay and local reduction."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for vector, off in _against(csv_rows(file)[:: 7 if quick else 1]):
        groups[vector["backend"], vector["topology"], vector["algorithm"]].append(off)
    for (backend, shape, algorithm), errors in sorted(groups.items()):
        worst = float(np.abs(errors).max())
        what = (
            f"{shape}, {algorithm}, {backend.lower()} backend: {len(errors)} vectors, "
            "largest relative difference"
        )
        if (backend, shape, algorithm) == ("Aware", "Switch", "direct"):
            note = (
                "differs on purpose: it serialises whole messages first come first served into the "
                "switch, ours share the port fairly, so that with store and forward all of them "
                "reach the switch late"
            )
            yield _row("N3", what, 0.0, worst, "", None, note=note)
        else:
            less = "less the reduction of the first message, which it does not charge"
            note = less if "halving" in algorithm else ""
            yield _row("N3", what, 0.0, worst, "1 %", worst <= 0.01, note=note)


# From here on a message's bytes outweigh the order in which the peer serves those of one link.
_LARGE = 16 * 2**20


@_reads(
    "N3",
    "ASTRA-sim's contended vectors",
    lambda: SHARED / "reference/astra_sim_contended.csv",
)
def contended(file: Path, quick: bool) -> Iterator[Row]:
    """Algorithms whose messages share links, by the backend that knows of contention."""
    groups: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    aware = [vector for vector in csv_rows(file) if vector["backend"] == "Aware"]
    for vector, off in _against(aware[:: 3 if quick else 1]):
        large = vector["algorithm"] != "direct" or int(vector["comm_size_bytes"]) >= _LARGE
        groups[vector["topology"], vector["algorithm"], large].append(off)
    for (shape, algorithm, large), errors in sorted(groups.items()):
        worst = float(np.abs(errors).max())
        size = "" if algorithm != "direct" else " from 16 MiB" if large else " below 16 MiB"
        what = (
            f"{shape}, {algorithm}{size}, links shared: {len(errors)} vectors, largest relative "
            "difference"
        )
        if large:
            yield _meets("N3", what, worst, 0.01, "ASTRA-sim, congestion-aware")
        else:
            note = "it serves messages of one link one by one, ours share it: read beside"
            yield _row("N3", what, 0.0, worst, "", None, note=note)


# N4: measured collectives.

BARS = {"all_reduce": 0.08, "all_gather": 0.12, "reduce_scatter": 0.12, "all_to_all": 0.12}


def measured(quick: bool = False) -> list[Row]:
    """Measured collectives against the catalogue's libraries on their pods, as `auto` chooses."""
    return [row for library in SOURCES for row in _measured(library)]


def _measured(name: str) -> Iterator[Row]:
    source = SOURCES[name]
    file = SHARED / "data/collectives" / source.file
    if not file.exists():
        yield from absent("network", "N4", f"measured collectives of {name}", file)
        return
    if file.suffix == ".parquet" and not find_spec("pyarrow"):
        note = "the extra parquet is not there"
        yield _row("N4", f"measured collectives of {name}", None, None, "", None, note=note)
        return
    network = Network(source.pod(), catalog.library(name))
    for forms, own in source.fits(file.parent):
        unseen = leave_one_size_out(own, network.graph, forms)
        for kind in dict.fromkeys(row.kind for row in own):
            yield from _errors(name, network, kind, own, unseen)
    yield from _held_out(name, network, source.read(file), source.ranks)


def _errors(
    name: str, network: Network, kind: str, own: list[Measured], unseen: np.ndarray
) -> Iterator[Row]:
    barred = [row.kind == kind and (row.nbytes <= 2**29 or row.ranks > 8) for row in own]
    rows = [row for row, judged in zip(own, barred) if judged]
    errors, left_out = _relative(network, rows), np.abs(unseen[barred])
    bar = 0.15 if rows[0].ranks > 8 else BARS[kind]
    published = name in ("nccl", "nccl_a100", "nccl_p5", "nccl_a3mega")
    what = f"{name}: {kind} of {rows[0].ranks} GPUs, {len(rows)} sizes, mean absolute error"
    note = (
        f"unseen size {left_out.mean():.1%} (worst {left_out.max():.0%}); worst here "
        f"{errors.max():.0%}"
    )
    fitted = "launch, step and efficiency of each way, to these rows"
    yield _row(
        "N4",
        what,
        0.0,
        float(errors.mean()),
        f"{bar:.0%}",
        bool(errors.mean() <= bar) if published else None,
        fitted,
        note,
    )
    if kind == "all_reduce" and name in ("nccl", "nccl_a100"):
        what = f"{name}: {kind} of {rows[0].ranks} GPUs, worst of {len(rows)} sizes"
        yield _row("N4", what, 0.0, float(errors.max()), "20 %", bool(errors.max() <= 0.2), fitted)


def _held_out(name: str, network: Network, table: list[Measured], ranks: int) -> Iterator[Row]:
    """Smaller groups of the same machine: predictions."""
    for fewer in sorted({row.ranks for row in table if row.ranks < ranks}):
        for kind in dict.fromkeys(row.kind for row in table):
            rows = [
                row
                for row in table
                if row.kind == kind and row.ranks == fewer and row.nbytes >= 8192
            ]
            if rows:
                errors = _relative(network, rows)
                what = f"{name}: {kind} of {fewer} GPUs, {len(rows)} sizes, mean absolute error"
                note = f"not in the fit; worst {errors.max():.0%}"
                yield _row("N4", what, 0.0, float(errors.mean()), "", None, note=note)


def _relative(network: Network, rows: list[Measured]) -> np.ndarray:
    times = np.array([network.fold(row.kind, row.ranks, float(row.nbytes)).seconds for row in rows])
    return np.abs(times / np.array([row.seconds for row in rows]) - 1)


# N7: what `auto` takes.

CHOSEN = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def choices(quick: bool = False) -> Iterator[Row]:
    """The algorithm that `auto` takes against the quickest as played, on the shipped pods."""
    worst, cases = 1.0, 0
    for name in shipped.names("topologies")[:: 5 if quick else 1]:
        pod = catalog.pod(name)
        network = Network(pod.graph(), catalog.library(pod.library), play=seconds_of)
        for kind, ranks in product(CHOSEN, (4, 8, 16, 32, 64)):
            if ranks > network.wires.chips:
                continue
            for nbytes in (64e3, 4e6, 256e6):
                took, *others = (
                    seconds_of(network, kind, ranks, nbytes, fold)
                    for fold in (
                        network.fold(kind, ranks, nbytes),
                        *network.candidates(kind, ranks, nbytes),
                    )
                )
                worst, cases = max(worst, took / min(others)), cases + 1
    what = f"auto against the quickest as played, {cases} cases on shipped pods, largest ratio"
    yield _row("N7", what, 1.0, worst, "2 %", worst <= 1.02)
