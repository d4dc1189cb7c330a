"""Routing: where a message goes next.  One function a rule, for many messages at once; `ROUTINGS`
names them.  A rule that knows its way on some shapes only stands in their rows too.

A rule takes the wires and, by message, its source, where it is and its target (node numbers), and
returns the next node. It is deterministic: the same message always goes the same way. Structured
rules know their topology by what the shape wrote into `graph.graph`; a message whose way crosses a
failed link goes by `shortest` instead. `spray` is the one rule by which a message takes many ways
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.network.multistage import fly_entries, fly_stages
from sim.network.plans import Floats, Ints
from sim.network.wires import Paths, Wires

MOST_HOPS = 10_000  # a rule that goes in circles is our bug


class Routes(NamedTuple):
    """Message i goes over `legs` rows `first[i]` to `first[i + 1] - 1`, one after the other.

    One leg where every switch on the way cuts through; a leg ends at each that stores and forwards.
    """

    first: Ints
    legs: Paths


def shortest(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    """Fewest hops; of several next nodes as near, one picked by source and target, evenly
    (ECMP)."""
    toward = np.where(wires.find(at, target) >= 0, target, -1)
    far = np.flatnonzero(toward < 0)
    goals = _gates(wires)[target[far]]
    for goal, some in _by_goal(goals):
        rows = far[some]
        first, after, ways = wires.nearer(goal)
        here = at[rows]
        if not ways[here].all():
            lost = rows[ways[here] == 0][0]
            raise ValueError(
                f"there is no way from {wires.nodes[source[lost]]} to {wires.nodes[target[lost]]}"
            )
        toward[rows] = after[first[here] + (source[rows] + target[rows]) % ways[here]]
    return toward


def _gates(wires: Wires) -> Ints:
    """By node, its only neighbour on the way in, through which all its messages come; itself if it
    has several.

    One table then serves all the chips of a switch.
    """
    into = np.diff(wires.in_first)
    gate = np.arange(len(wires.nodes))
    single = np.flatnonzero(into == 1)
    gate[single] = wires.source[wires.in_edges[wires.in_first[single]]]
    return gate


def _by_goal(goals: Ints) -> list[tuple[int, Ints]]:
    """Rows by goal."""
    if not len(goals):
        return []
    order = np.argsort(goals, kind="stable")
    cuts = np.flatnonzero(np.diff(goals[order])) + 1
    return [(int(goals[rows[0]]), rows) for rows in np.split(order, cuts)]


def dimension_order(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    """Along the last axis first (XY routing), then the one before, and so on.

    On a torus the shorter way round, upwards when both are as long, so that all chips route alike.
    """
    dims, wraps = wires.graph.graph["dims"], wires.graph.graph["wraps"]
    toward, left, stride = at.copy(), np.ones(len(at), dtype=bool), 1
    for size in reversed(dims):
        here = at // stride % size
        off = target // stride % size - here
        moves = np.flatnonzero(left & (off != 0))
        step = off[moves]
        up = step % size * 2 <= size if wraps else step > 0
        ahead = (here[moves] + np.where(up, 1, -1)) % size
        toward[moves] += (ahead - here[moves]) * stride
        left[moves] = False
        stride *= size
    return toward


def bit_steered(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    """Destination tag: each stage of a butterfly takes the port that the target's next digit names.

    On a Benes network the digits of the source steer the first half, so that no two messages of a
    permutation meet there, and those of the target the second.
    """
    steer = _steer_unfolded if "turn" in wires.graph.graph else _steer_fly
    return steer(wires, source, at, target)


def _steer_unfolded(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    """Up to the stage at which a network of equal stages turns, by the source; on by the target."""
    facts, chips = wires.graph.graph, wires.chips
    k, turn = facts["k"], facts["turn"]
    rows = chips // k
    stage, row = (at - chips) // rows, (at - chips) % rows
    climbs = (at >= chips) & (stage < turn)
    digit = np.where(climbs, stage, np.maximum(2 * turn - 1 - stage, 0))
    power = k**digit
    new = np.where(climbs, source // power % k, target // power // k % k)
    steered = row + (new - row // power % k) * power
    ahead = np.where(at < chips, at // k, steered + (stage + 1) * rows) + chips
    return np.where(stage == 2 * turn, target, ahead)


def _steer_fly(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    facts, chips = wires.graph.graph, wires.chips
    shapes = np.array(fly_stages(facts["k"], facts["n"], facts["extra"]))
    base = chips + np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    stage = np.searchsorted(base, at, side="right") - 1  # -1: still at its chip
    low = np.where(stage < 0, fly_entries(wires.graph, at), (at - base[stage]) % shapes[stage, 1])
    then = np.minimum(stage + 1, len(shapes) - 1)
    tops, lows = shapes[then, 0], shapes[then, 1]
    ahead = base[then] + target // (chips // tops) * lows + low % lows
    return np.where(stage == len(shapes) - 1, target, ahead)


def up_down(wires: Wires, source: Ints, at: Ints, target: Ints) -> Ints:
    """Up to the lowest switch above both chips, and down; what there is to choose on the way up,
    the target decides.

    In a fat tree a switch of level l goes up by digit l of the target (D-mod-k, Zahavi 2010): each
    target has a tree of its own down, so messages to different chips meet on the way up only.
    Between the rails of a multi-node pod the spine is (node + rail of the target) % spines.
    """
    return _climb(wires, at, target, np.zeros(len(at), dtype=np.int64))[0]


def _climb(wires: Wires, at: Ints, target: Ints, turn: Ints) -> tuple[Ints, Ints]:
    """Next nodes of `up_down`, choices upwards turned on by `turn`; and how many choices there
    are."""
    climb = next((_CLIMBS[fact] for fact in _CLIMBS if fact in wires.graph.graph), None)
    if climb:
        return climb(wires, at, target, turn)
    near = wires.find(at, target) >= 0  # one switch or hub
    return np.where(near, target, _gates(wires)[target]), np.ones(len(at), dtype=np.int64)


def _climb_tree(wires: Wires, at: Ints, target: Ints, turn: Ints) -> tuple[Ints, Ints]:
    k, chips = wires.graph.graph["k"], wires.chips
    rows = chips // k
    level, row = (at - chips) // rows, (at - chips) % rows
    power = k ** np.maximum(level, 0)
    above = (at >= chips) & (row // power == target // power // k)  # the target is below
    upward = (at >= chips) & ~above
    up = row + ((target // power + turn) % k - row // power % k) * power
    lower = np.maximum(power // k, 1)
    down = row + (target // lower // k % k - row // lower % k) * lower
    ahead = np.where(upward, chips + (level + 1) * rows + up, chips + (level - 1) * rows + down)
    ahead = np.where(above & (level == 0), target, ahead)
    return np.where(at < chips, chips + at // k, ahead), np.where(upward, k, 1)


def _climb_rails(wires: Wires, at: Ints, target: Ints, turn: Ints) -> tuple[Ints, Ints]:
    facts, chips = wires.graph.graph, wires.chips
    (nodes, per_node), rails, spines = facts["dims"], facts["rails"], facts["spines"]
    leaf = chips + (nodes if per_node > 1 else 0)
    spine = leaf + rails
    node, rail = target // per_node, target % per_node % rails
    ahead = np.where(
        (at >= spine) | ((at < chips) & (at % per_node % rails == rail)), leaf + rail, target
    )
    ahead = np.where(
        (at < chips) & (at % per_node % rails != rail), leaf + at % per_node % rails, ahead
    )
    ahead = np.where((at < chips) & (at // per_node == node), chips + node, ahead)
    crosses = (at >= leaf) & (at < spine) & (at - leaf != rail)
    ahead = np.where(crosses, spine + (node + rail + turn) % spines, ahead)
    return ahead, np.where(crosses, spines, 1)


# By the fact that a shape has written into its graph, how to climb there where there is a choice.
_CLIMBS = {"levels": _climb_tree, "rails": _climb_rails}


def spray(wires: Wires, source: Ints, target: Ints) -> Routes:
    """Every message split evenly over all its shortest ways: ideal packet spraying, or perfect
    adaptive routing.

    Its latency is that of the slowest way. Not modelled: reordering, imbalance.
    """
    if wires.stores.any():
        raise ValueError(
            "routing 'spray' needs switches that cut through: a split message is not stored whole"
        )
    going = np.flatnonzero(source != target)
    message, at, delay = going, source[going], np.zeros(len(going))
    part: Floats = np.ones(len(going))
    latency, hops = np.zeros(len(source)), np.zeros(len(source), dtype=np.int64)
    found: list[tuple[Ints, Ints, Floats]] = []  # (message, capacity, share)
    size = len(wires.nodes)
    while len(message):
        if len(found) > 2 * MOST_HOPS:
            raise AssertionError("routing goes in circles")
        row, ahead, split = _spread(wires, at, target[message])
        message, share = message[row], part[row] * split
        link = wires.edges(at[row], ahead)
        core = wires.core[at[row]]
        found.append((message[core >= 0], core[core >= 0], share[core >= 0]))
        found.append((message, wires.capacity[link], share))
        key, place = np.unique(
            message * size + ahead, return_inverse=True
        )  # ways that meet again go on as one
        part = np.bincount(place, share, minlength=len(key))
        arrives = np.zeros(len(key))
        np.maximum.at(arrives, place, delay[row] + wires.latency_s[link])
        message, at, delay = key // size, key % size, arrives
        hops[message] += 1
        there = at == target[message]
        latency[message[there]] = delay[there]
        message, at, part, delay = message[~there], at[~there], part[~there], delay[~there]
    by = np.concatenate([going[:0], *(rows for rows, _, _ in found)])
    over = np.concatenate([going[:0], *(links for _, links, _ in found)])
    key, place = np.unique(by * len(wires.bytes_per_s) + over, return_inverse=True)
    shares: Floats = np.concatenate([latency[:0], *(parts for _, _, parts in found)])
    shares = np.bincount(place, shares, minlength=len(key))
    first = np.zeros(len(source) + 1, dtype=np.int64)
    first[1:] = np.cumsum(source != target)
    crossings = np.bincount(key // len(wires.bytes_per_s), minlength=len(source))[going]
    rows = np.concatenate([[0], np.cumsum(crossings)])
    return Routes(
        first,
        Paths(
            first=rows,
            capacities=key % len(wires.bytes_per_s),
            share=shares,
            latency_s=latency[going],
            hops=hops[going],
        ),
    )


def _spread(wires: Wires, at: Ints, target: Ints) -> tuple[Ints, Ints, Floats]:
    """All next nodes on shortest ways: the row each belongs to, the node, the part of the row's
    rate that goes on."""
    facts = wires.graph.graph
    if not facts.get("failed") and not _CLIMBS.keys().isdisjoint(facts):
        _, ways = _climb(wires, at, target, np.zeros(len(at), dtype=np.int64))
        row = np.repeat(np.arange(len(at)), ways)
        turn = np.arange(len(row)) - np.repeat(np.cumsum(ways) - ways, ways)
        return row, _climb(wires, at[row], target[row], turn)[0], 1.0 / ways[row]
    rows, nodes, parts = [], [], []
    for goal, some in _by_goal(target):
        first, after, ways = wires.nearer(goal)
        here = at[some]
        if not ways[here].all():
            raise ValueError(
                f"there is no way from {wires.nodes[here[ways[here] == 0][0]]} to "
                f"{wires.nodes[goal]}"
            )
        count = _ways(wires, goal)
        row = np.repeat(np.arange(len(some)), ways[here])
        step = np.arange(len(row)) - np.repeat(np.cumsum(ways[here]) - ways[here], ways[here])
        node = after[first[here[row]] + step]
        rows.append(some[row])
        nodes.append(node)
        parts.append(count[node] / count[here[row]])
    return np.concatenate(rows), np.concatenate(nodes), np.concatenate(parts)


def _ways(wires: Wires, goal: int) -> Floats:
    """By node, how many shortest ways lead to `goal`."""
    distance = wires.distances(goal)
    _, after, ways = wires.nearer(goal)
    count = np.zeros(len(wires.nodes))
    count[goal] = 1.0
    before = np.repeat(np.arange(len(wires.nodes)), ways)
    for hops in range(1, int(distance.max()) + 1):
        at_hops = distance[before] == hops
        count += np.bincount(before[at_hops], count[after[at_hops]], minlength=len(count))
    return count


ROUTINGS: dict[str, Callable[[Wires, Ints, Ints, Ints], Ints]] = {
    "shortest": shortest,
    "dimension_order": dimension_order,
    "bit_steered": bit_steered,
    "up_down": up_down,
}


def routes(wires: Wires, source: Ints, target: Ints, itself: bool = False) -> Routes:
    """The ways of messages from `source` to `target` (node numbers).  ValueError if there is none.

    What a chip sends to itself goes nowhere; with `itself` it takes all stages of a butterfly or
    Benes network, as in the literature, where the terminals on both sides are different ones.
    """
    rule = wires.graph.graph.get("routing", "shortest")
    if rule == "spray":
        return spray(wires, source, target)
    message, link, lost = _walk(
        wires, source, target, ROUTINGS[rule], itself and rule == "bit_steered"
    )
    if len(lost):
        message, link = (part[~np.isin(message, lost)] for part in (message, link))
        around, more, _ = _walk(wires, source[lost], target[lost], shortest)
        message, link = np.concatenate([message, lost[around]]), np.concatenate([link, more])
        order = np.argsort(message, kind="stable")
        message, link = message[order], link[order]
    return _legs(wires, len(source), message, link)


def _walk(
    wires: Wires,
    source: Ints,
    target: Ints,
    step: Callable[[Wires, Ints, Ints, Ints], Ints],
    itself: bool = False,
) -> tuple[Ints, Ints, Ints]:
    """The hops of messages, by message and in order: (message, link); and the messages that met a
    failed link."""
    at = source.copy()
    going = np.flatnonzero((at != target) | itself)
    hops: list[tuple[Ints, Ints]] = [(going[:0], going[:0])]
    lost = [going[:0]]
    while len(going):
        if len(hops) > MOST_HOPS:
            raise AssertionError("routing goes in circles")
        ahead = step(wires, source[going], at[going], target[going])
        to_switch = np.flatnonzero(np.maximum(source[going], target[going]) >= wires.chips)
        if len(to_switch):
            # Rules speak of chips; what a chip and its switch tell each other goes straight.
            ahead[to_switch] = target[going[to_switch]]
        if wires.graph.graph.get("failed"):
            link = wires.find(at[going], ahead)
            lost.append(going[link < 0])
            going, ahead, link = going[link >= 0], ahead[link >= 0], link[link >= 0]
        else:
            link = wires.edges(at[going], ahead)
        hops.append((going, link))
        at[going] = ahead
        going = going[ahead != target[going]]
    message = np.concatenate([rows for rows, _ in hops])
    order = np.argsort(message, kind="stable")  # by message, hops in order
    return message[order], np.concatenate([links for _, links in hops])[order], np.concatenate(lost)


def _legs(wires: Wires, count: int, message: Ints, link: Ints) -> Routes:
    """Hops by message to legs: cut where a switch stores, with the cores of blocking switches among
    the capacities."""
    begins = np.ones(len(message), dtype=bool)
    begins[1:] = message[1:] != message[:-1]
    head = begins | wires.stores[wires.source[link]]  # a hop out of a storing switch begins a leg
    leg_of_hop = np.cumsum(head) - 1
    legs = int(leg_of_hop[-1]) + 1 if len(leg_of_hop) else 0
    hops = np.bincount(leg_of_hop, minlength=legs)
    latency: Floats = np.bincount(leg_of_hop, wires.latency_s[link], minlength=legs)
    first = np.searchsorted(message[head], np.arange(count + 1))
    core = np.where(wires.core[wires.source[link]] >= 0, wires.core[wires.source[link]], -1)
    # The core is crossed on leaving the switch.
    crossed = np.stack([core, wires.capacity[link]], axis=1).ravel()
    kept = crossed >= 0
    per_leg = np.bincount(np.repeat(leg_of_hop, 2)[kept], minlength=legs)
    rows = np.zeros(legs + 1, dtype=np.int64)
    np.cumsum(per_leg, out=rows[1:])
    whole: Floats = np.ones(int(kept.sum()))
    return Routes(
        first,
        Paths(first=rows, capacities=crossed[kept], share=whole, latency_s=latency, hops=hops),
    )
