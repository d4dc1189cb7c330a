"""Indirect networks: chips at the edge of switches, one function per shape.  `sim.network.topology`
registers them.

Chips do not forward for each other here (`chips_forward` is False): what loses its switches is cut
off. Switches are numbered in the order in which routing counts on: stage by stage (level by level,
upwards), row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import Any

import networkx as nx
import numpy as np

Link = Mapping[str, Any]  # facts of a wire: bytes_per_s, latency_s, duplex, tier


def switch(
    devices: int,
    core_bytes_per_s: float | None = None,
    forwarding: str = "cut_through",
    **link: Any,
) -> nx.DiGraph:
    """Every chip on one switch (NVSwitch); a link is a chip's port, one way.

    The latency of the link is that of the whole way through the switch, half of it on each side.
    Non-blocking, unless `core_bytes_per_s` says what all ports together can pass.
    `store_and_forward` takes a message in before sending it. A crossbar is a non-blocking one, by
    the name that the literature of interconnects gives it.
    """
    graph = _started(devices)
    core = {} if core_bytes_per_s is None else {"bytes_per_s": core_bytes_per_s}
    graph.add_node("switch", forwarding=forwarding, **core)
    _both_ways(graph, ((chip, "switch") for chip in range(devices)), _halved(link))
    return graph


def multi_node(
    nodes: int,
    chips: int,
    nic: Link | None = None,
    spine: Link | None = None,
    rails: int | None = None,
    spines: int = 1,
    oversubscription: float = 1.0,
    **link: Any,
) -> nx.DiGraph:
    """Nodes of `chips` on a switch of their own; every chip has a NIC to the leaf of its rail,
    leaves meet in spines.

    Chip c of a node is on rail c % rails (all chips on rails of their own, unless told otherwise).
    Within a node the node's switch serves, within a rail its leaf; from rail to rail a spine.
    `link` are the wires inside a node, `nic` those from chip to leaf, `spine` those from leaf to
    spine, each with the latency of the whole way up and down. A leaf's wires to the spines carry
    together what its NICs do, divided by `oversubscription`, unless `spine` says how much each
    carries. Not modelled: several leaves to a rail, the PCIe between chip and NIC.
    """
    rails = chips if rails is None else rails
    if not 1 <= rails <= chips:
        raise ValueError(
            f"{rails} rails do not fit nodes of {chips} chips; there may be 1 to {chips}"
        )
    if nic is None and nodes > 1:
        raise ValueError(
            f"{nodes} nodes need nic facts: bytes_per_s and latency_s of each chip's wire to its "
            "leaf"
        )
    if spine and "bytes_per_s" in spine and oversubscription != 1:
        raise ValueError(
            "oversubscription says what a spine's wires carry: give it or their bytes_per_s, not "
            "both"
        )
    total = nodes * chips
    graph = _started(0, dims=(nodes, chips), node_chips=chips, rails=rails, spines=spines)
    graph.add_nodes_from(
        (n * chips + c, {"at": (n, c)}) for n in range(nodes) for c in range(chips)
    )
    if chips > 1:
        names = [f"node {n} switch" for n in range(nodes)]
        graph.add_nodes_from(names)
        pairs = zip(range(total), chain.from_iterable([name] * chips for name in names))
        _both_ways(graph, pairs, {"tier": "node", **_halved(link)})
    if nic is None:
        return graph
    leaves = [f"leaf {r}" for r in range(rails)]
    graph.add_nodes_from(leaves)
    _both_ways(
        graph,
        ((i, leaves[i % chips % rails]) for i in range(total)),
        {"tier": "NIC", **_halved(nic)},
    )
    if rails > 1:
        tops = [f"spine {s}" for s in range(spines)]
        graph.add_nodes_from(tops)
        for r, leaf in enumerate(leaves):
            below = nodes * len(range(r, chips, rails)) * nic["bytes_per_s"]
            up = {
                "tier": "spine",
                **nic,
                "bytes_per_s": below / oversubscription / spines,
                **(spine or {}),
            }
            _both_ways(graph, ((leaf, top) for top in tops), _halved(up))
    return graph


def dragonfly(
    groups: int, routers: int, chips: int, global_links: int = 1, **link: Any
) -> nx.DiGraph:
    """Groups of `routers`, each router with `chips` chips; routers of a group all wired together,
    and groups too.

    Every router has `global_links` wires to other groups; a group's wires go round the other groups
    in turn, as many to each as fit (Kim, Dally, Scott and Abts, ISCA 2008). Two wires between the
    same routers are one of twice the rate. All wires have the same facts, chips' included. Not
    modelled: Valiant routing (`spray` spreads over the shortest ways only).
    """
    ports = routers * global_links
    if groups > 1 and ports < groups - 1:
        raise ValueError(
            f"{groups} groups need {groups - 1} global wires each; {routers} routers of "
            f"{global_links} have {ports}"
        )
    per_group = routers * chips
    graph = _started(0, dims=(groups, routers, chips), group_chips=per_group)
    at = ((g, r, c) for g in range(groups) for r in range(routers) for c in range(chips))
    graph.add_nodes_from((i, {"at": where}) for i, where in enumerate(at))
    names = [[f"group {g} router {r}" for r in range(routers)] for g in range(groups)]
    graph.add_nodes_from(chain.from_iterable(names))
    _both_ways(
        graph,
        ((i, names[i // per_group][i % per_group // chips]) for i in range(groups * per_group)),
        {"tier": "chip", **link},
    )
    local = ((group[a], group[b]) for group in names for a in range(routers) for b in range(a))
    _both_ways(graph, local, {"tier": "local", **link})
    wires: dict[tuple[str, str], int] = {}
    for g in range(groups if groups > 1 else 0):
        for port in range(ports // (groups - 1) * (groups - 1)):
            turn, away = divmod(port, groups - 1)
            back = turn * (groups - 1) + groups - 2 - away
            pair = (
                names[g][port // global_links],
                names[(g + away + 1) % groups][back // global_links],
            )
            wires[pair] = wires.get(pair, 0) + 1
    graph.add_edges_from(
        (a, b, {"tier": "global", **link, "bytes_per_s": link["bytes_per_s"] * times})
        for (a, b), times in wires.items()
    )
    return graph


def fat_tree(k: int, levels: int, oversubscription: float = 1.0, **link: Any) -> nx.DiGraph:
    """The k-ary n-tree: k**levels chips under `levels` levels of k**(levels - 1) switches, full
    bisection.

    A switch has k wires down and k up (none above the top). Number a switch of a level by its row,
    in base-k digits: one of level l is wired to those of level l + 1 whose row differs in digit l
    only; chip p to row p // k of level 0 (Petrini and Vanneschi, 1997). BookSim's `fattree` merges
    the k**l switches of a subtree into one with as many wires: same hops, same rates. The wires to
    the top level carry 1 / oversubscription of the others.
    """
    rows, chips = k ** (levels - 1), k**levels
    graph = _started(chips, k=k, levels=levels)
    names = [[f"level {level} row {row}" for row in range(rows)] for level in range(levels)]
    graph.add_nodes_from(chain.from_iterable(names))
    _both_ways(graph, ((p, names[0][p // k]) for p in range(chips)), {"tier": "chip", **link})
    for level in range(levels - 1):
        facts = {"tier": f"level {level + 1}", **link}
        if level == levels - 2:
            facts["bytes_per_s"] = link["bytes_per_s"] / oversubscription
        pairs = (
            (low, names[level + 1][up])
            for row, low in enumerate(names[level])
            for up in _fan(row, level, k)
        )
        _both_ways(graph, pairs, facts)
    return graph


def butterfly(
    k: int, n: int, expansion: int = 1, terminals: str = "neighbours", **link: Any
) -> nx.DiGraph:
    """The k-ary n-fly of k**n chips, each both a source (before the first stage) and a target
    (after the last).

    The digits of the target steer, the highest first: on leaving stage j a message is on the wire
    of the highest j + 1 digits of its target and the lower digits of its source, so there is one
    way only. With `expansion` = k**e it is the Butterfly-k of SOSA (arXiv 2203.11540): a fly of e
    more stages of which only the sources 0 to k**n - 1 and every k**e-th target are used, so that
    `expansion` times as many wires lie between the stages; switches that no way crosses are left
    out. Chips enter the first stage as `neighbours`, k to a switch (Dally and Towles, BookSim), or
    `shuffled`, each to the switch of its lowest digits (SOSA).
    """
    extra = next(stages for stages in count() if k**stages >= expansion)
    if k**extra != expansion:
        raise ValueError(f"the expansion of a {k}-ary butterfly is a power of {k}, not {expansion}")
    chips = k**n
    shapes = fly_stages(k, n, extra)
    graph = _started(chips, k=k, n=n, extra=extra, shuffled=terminals == "shuffled")
    names = [
        [f"stage {j} row {row}" for row in range(tops * lows)]
        for j, (tops, lows) in enumerate(shapes)
    ]
    graph.add_nodes_from(chain.from_iterable(names))
    graph.add_edges_from(
        (
            (p, names[0][entry % shapes[0][1]])
            for p, entry in enumerate(fly_entries(graph, np.arange(chips)).tolist())
        ),
        tier="chip",
        **link,
    )
    for j, (tops, lows) in enumerate(shapes[:-1]):
        tops_next, lows_next = shapes[j + 1]
        fan = tops_next // tops  # k while the target's digits last, then 1
        graph.add_edges_from(
            (
                (
                    name,
                    names[j + 1][(row // lows * fan + digit) * lows_next + row % lows % lows_next],
                )
                for row, name in enumerate(names[j])
                for digit in range(fan)
            ),
            tier=f"stage {j + 1}",
            **link,
        )
    fan = chips // shapes[-1][0]
    graph.add_edges_from(
        ((names[-1][p // fan], p) for p in range(chips)),
        tier="chip",
        **link,
    )
    return graph


def fly_entries(graph: nx.DiGraph, chips: np.ndarray) -> np.ndarray:
    """The numbers whose digits say which wires of a butterfly a message of each chip begins on:
    without a shuffle, the chip's with the lowest digit in front."""
    facts = graph.graph
    if facts["shuffled"]:
        return chips
    return chips // facts["k"] + chips % facts["k"] * facts["k"] ** (facts["n"] - 1)


def fly_stages(k: int, n: int, extra: int) -> list[tuple[int, int]]:
    """By stage of a butterfly, in how many target prefixes times how many source suffixes its
    switches differ."""
    return [(k ** min(j, n), k ** min(n + extra - 1 - j, n)) for j in range(n + extra)]


def benes(k: int, n: int, **link: Any) -> nx.DiGraph:
    """A Benes network of k**n chips: 2 n - 1 stages of k x k switches, k**(n - 1) ways from chip to
    chip.

    It is the fat tree unfolded: stages 0 to n - 1 climb its levels, the others descend them. Every
    permutation can be laid through it without two messages meeting; `bit_steered` does not look for
    that, `spray` meets its rate.
    """
    rows, chips, stages = k ** (n - 1), k**n, 2 * n - 1
    graph = _started(chips, k=k, n=n, turn=n - 1)
    names = [[f"stage {j} row {row}" for row in range(rows)] for j in range(stages)]
    graph.add_nodes_from(chain.from_iterable(names))
    graph.add_edges_from(((p, names[0][p // k]) for p in range(chips)), tier="chip", **link)
    for j in range(stages - 1):
        free = j if j < n - 1 else 2 * n - 3 - j  # the digit of the row that this hop sets
        pairs = (
            (name, names[j + 1][to])
            for row, name in enumerate(names[j])
            for to in _fan(row, free, k)
        )
        graph.add_edges_from(pairs, tier=f"stage {j + 1}", **link)
    graph.add_edges_from(((names[-1][p // k], p) for p in range(chips)), tier="chip", **link)
    return graph


def _fan(row: int, digit: int, k: int) -> range:
    """The rows that differ from `row` in one base-k digit at most."""
    lowest = row - row // k**digit % k * k**digit
    return range(lowest, lowest + k ** (digit + 1), k**digit)


def _started(chips: int, **facts: Any) -> nx.DiGraph:
    graph = nx.DiGraph(chips_forward=False, **facts)
    graph.add_nodes_from(range(chips))
    return graph


def _both_ways(graph: nx.DiGraph, pairs: Iterable[tuple[Any, Any]], link: Link) -> None:
    pairs = list(pairs)
    graph.add_edges_from(pairs, **link)
    graph.add_edges_from([(b, a) for a, b in pairs], **link)


def _halved(link: Link) -> dict[str, Any]:
    return {**link, "latency_s": link.get("latency_s", 0.0) / 2}
