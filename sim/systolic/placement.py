"""Where and when tile ops run: the scheduler's inner loops, plain Python that a compiler may take.

First fit: an op goes into the first round, to the first pod, that has its ports and routes free.
Everything is flat and of whole numbers. The same code runs on lists, where there is no compiler,
and on arrays, where there is (`sim.compiled`): the answers are the same. 0 is "free"
throughout, so names of tiles and sources count from 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Ints = Any  # a list of int or an array of integers


class Net(NamedTuple):
    """Routes as the loops want them, flattened: from b to p they are heads[b, way], hops[way, p].

    Where there is one way the bank is its number, and a route is hops[b, p]; else a bank tries ways
    by its `order`.
    """

    ports: int
    stages: int  # of `hops`
    links: int
    writers: int  # pods that can store in one round, at most
    hops: Ints
    ways: int
    tries: int  # of them; 1: there is but one way
    head_stages: int
    heads: Ints
    order: Ints  # [bank, try]


class Window(NamedTuple):
    """What is taken in the rounds looked at, by round and pod, bank or link.

    Pods: busy, and how many are; tiles that banks of X and W send; banks of P written and read;
    links by source. Then the same of the post-processors, which have two inputs and one output.
    """

    count: Ints  # [round]
    pod: Ints  # [round, pod]
    x_tile: Ints  # [round, bank]
    w_tile: Ints
    written: Ints
    read: Ints
    x_links: Ints  # [round, link]
    w_links: Ints
    out_links: Ints
    in_links: Ints
    adder: Ints  # [round, post-processor]
    left_read: Ints  # [round, bank]
    right_read: Ints
    sum_written: Ints
    left_links: Ints  # [round, link]
    right_links: Ints
    sum_links: Ints


class Lanes(NamedTuple):
    """The part of a window that units of one kind use: each reads two banks and writes one."""

    unit: Ints  # [round, pod or post-processor], taken
    left: Ints  # [round, bank], what it sends; -1 is nobody else's
    right: Ints
    written: Ints  # [round, bank], taken
    left_links: Ints  # [round, link]
    right_links: Ints
    out_links: Ints


class Placed(NamedTuple):
    """Tile ops of a layer, in the order j, i, k: where they run, and whose sum they take."""

    round: Ints  # in the window
    pod: Ints
    bank: Ints
    source: Ints  # another op of the layer, or -1


class Adds(NamedTuple):
    """Additions that are left, by `copies` each: their operands, and where they run."""

    left: Ints  # [add]: an op, or the number of ops and an addition
    right: Ints
    bank: Ints  # of the sum
    round: Ints  # [add, copy]
    adder: Ints


class Grid(NamedTuple):
    """A layer's numbers of tiles, its first round in the window, its first tiles' names."""

    i: int
    j: int
    k: int
    first_round: int
    first_x: int
    first_w: int


def place_tiles(start: int, grid: Grid, net: Net, window: Window, placed: Placed) -> int:
    """Places the ops from `start` on; the first that finds no round, or the number of ops.

    Tiles of X and W are dealt to the banks in turn, j outside.
    """
    rounds = len(window.count)
    ops = grid.i * grid.j * grid.k
    first_round = grid.first_round
    lanes = Lanes(
        window.pod,
        window.x_tile,
        window.w_tile,
        window.written,
        window.x_links,
        window.w_links,
        window.out_links,
    )
    for op in range(start, ops):
        j = op // (grid.i * grid.k)
        x = j * grid.i + op // grid.k % grid.i
        w = j * grid.k + op % grid.k
        while first_round < rounds and window.count[first_round] == net.writers:
            first_round += 1
        t = first_round
        at = -1
        while t < rounds:
            if window.count[t] < net.writers:
                at = _place(
                    t,
                    x % net.ports,
                    grid.first_x + x,
                    w % net.ports,
                    grid.first_w + w,
                    -1,
                    net,
                    lanes,
                )
                if at >= 0:
                    window.count[t] += 1
                    break
            t += 1
        if at < 0:
            return op
        placed.round[op] = t
        placed.pod[op] = at // net.ports
        placed.bank[op] = at % net.ports
        placed.source[op] = -1
    return ops


def _place(
    t: int,
    left: int,
    left_name: int,
    right: int,
    right_name: int,
    target: int,
    net: Net,
    lanes: Lanes,
) -> int:
    """Puts an op, or an addition, into round t: unit x ports + bank, or -1 if it does not fit.

    It reads a bank left and right, what the bank sends having a name: -1 is read by nobody else.
    The sum goes to the bank `target`, or if that is -1 to any.
    """
    ports = net.ports
    at, links = t * ports, t * net.links
    if lanes.left[at + left] != 0 and (left_name < 0 or lanes.left[at + left] != left_name):
        return -1
    if lanes.right[at + right] != 0 and (right_name < 0 or lanes.right[at + right] != right_name):
        return -1
    if target >= 0 and lanes.written[at + target] != 0:
        return -1
    first = target if target >= 0 else 0
    end = target + 1 if target >= 0 else ports
    for unit in range(ports):
        if lanes.unit[at + unit] != 0:
            continue
        left_way = _way(lanes.left_links, links, net, left, unit)
        if left_way < 0:
            continue
        right_way = _way(lanes.right_links, links, net, right, unit)
        if right_way < 0:
            continue
        for bank in range(first, end):
            if lanes.written[at + bank] != 0:
                continue
            way = _way(lanes.out_links, links, net, bank, unit)
            if way >= 0:
                lanes.unit[at + unit] = 1
                lanes.left[at + left] = left_name
                lanes.right[at + right] = right_name
                lanes.written[at + bank] = 1
                _take(lanes.left_links, links, net, left_way, left, unit)
                _take(lanes.right_links, links, net, right_way, right, unit)
                _take(lanes.out_links, links, net, way, bank, unit)
                return unit * ports + bank
    return -1


def chain(grid: Grid, net: Net, window: Window, placed: Placed, adds: Adds, waiting: Ints) -> int:
    """Lets ops start from earlier sums, at no cost; lists and counts the additions that are left.
    `waiting` is room for 2 j numbers.

    For each P[i, k] in turn: every op, by ascending j, hands its sum to the first op of a later
    round that has none yet and whose round can still read it. What nobody takes is added in pairs,
    oldest first, sums behind.
    """
    ports = net.ports
    total, count = grid.i * grid.j * grid.k, 0
    step = grid.i * grid.k
    for group in range(step):
        free = 0  # ops before this j have a sum to start from
        tail = 0
        for j in range(grid.j):
            op = j * step + group
            while free < grid.j and placed.source[free * step + group] >= 0:
                free += 1
            taken = False
            for later in range(free, grid.j):
                to = later * step + group
                t = placed.round[to]
                if placed.source[to] >= 0 or t <= placed.round[op]:
                    continue
                bank = placed.bank[op]
                if window.read[t * ports + bank] != 0:
                    continue
                way = _way(window.in_links, t * net.links, net, bank, placed.pod[to])
                if way >= 0:
                    _take(window.in_links, t * net.links, net, way, bank, placed.pod[to])
                    window.read[t * ports + bank] = 1
                    placed.source[to] = op
                    taken = True
                    break
            if not taken:
                waiting[tail] = op
                tail += 1
        head = 0
        while tail - head > 1:
            adds.left[count] = waiting[head]
            adds.right[count] = waiting[head + 1]
            head += 2
            waiting[tail] = total + count
            tail += 1
            count += 1
    return count


def place_adds(
    start: int, count: int, copies: int, net: Net, window: Window, placed: Placed, adds: Adds
) -> int:
    """Places additions from `start` on; the first that finds no round, or their number.

    Each counts as addition x copies + copy. The copies of an addition read its operands with sides
    swapped and write the same bank. An addition comes after both operands, and after all copies of
    them.
    """
    ops, rounds = len(placed.round), len(window.count)
    lanes = Lanes(
        window.adder,
        window.left_read,
        window.right_read,
        window.sum_written,
        window.left_links,
        window.right_links,
        window.sum_links,
    )
    for index in range(start, count * copies):
        add, flip = index // copies, index % copies
        left = adds.right[add] if flip else adds.left[add]
        right = adds.left[add] if flip else adds.right[add]
        t = (
            max(_ready(left, ops, copies, placed, adds), _ready(right, ops, copies, placed, adds))
            + 1
        )
        left_bank = placed.bank[left] if left < ops else adds.bank[left - ops]
        right_bank = placed.bank[right] if right < ops else adds.bank[right - ops]
        bank = adds.bank[add] if flip else -1
        at = -1
        while t < rounds:
            at = _place(t, left_bank, -1, right_bank, -1, bank, net, lanes)
            if at >= 0:
                break
            t += 1
        if at < 0:
            return index
        adds.round[index] = t
        adds.adder[index] = at // net.ports
        adds.bank[add] = at % net.ports
    return count * copies


def _ready(operand: int, ops: int, copies: int, placed: Placed, adds: Adds) -> int:
    """The last round in which an operand is computed."""
    if operand < ops:
        return placed.round[operand]
    last = adds.round[(operand - ops) * copies]
    if copies > 1:
        last = max(last, adds.round[(operand - ops) * copies + 1])
    return last


def _way(owner: Ints, first: int, net: Net, bank: int, pod: int) -> int:
    """The first way from a bank to a pod whose links are free or carry this bank's data, or -1."""
    if net.tries == 1:
        return (
            bank
            if _free(
                owner, first, net.hops, (bank * net.ports + pod) * net.stages, net.stages, bank + 1
            )
            else -1
        )
    for turn in range(bank * net.tries, (bank + 1) * net.tries):
        way = net.order[turn]
        head, tail = (bank * net.ways + way) * net.head_stages, (way * net.ports + pod) * net.stages
        if _free(owner, first, net.hops, tail, net.stages, bank + 1) and _free(
            owner, first, net.heads, head, net.head_stages, bank + 1
        ):
            return way
    return -1


def _take(owner: Ints, first: int, net: Net, way: int, bank: int, pod: int) -> None:
    """Marks the links of a way as the bank's."""
    tail = (way * net.ports + pod) * net.stages
    for s in range(tail, tail + net.stages):
        owner[first + net.hops[s]] = bank + 1
    if net.tries > 1:
        head = (bank * net.ways + way) * net.head_stages
        for s in range(head, head + net.head_stages):
            owner[first + net.heads[s]] = bank + 1


def _free(owner: Ints, first: int, hops: Ints, path: int, stages: int, source: int) -> bool:
    """Whether every link of a part of a route is free or has this source."""
    for s in range(path, path + stages):
        now = owner[first + hops[s]]
        if now != 0 and now != source:
            return False
    return True
