"""The static schedule of DNNs on an array of pods: rounds of tile ops, without conflicts.

In a round a pod takes one tile op, a bank sends one tile (to any number of pods) or stores one, and
the links of seven interconnects carry one source each: X, W, partial sums in and out of the pods,
two inputs and one output of the post-processors. Layers are placed one after the other, each behind
the layers it reads: a barrier, so that only layers that do not depend on each other share a round.
Source: arXiv 2203.11540 and its artifact; the loops are in `sim.systolic.placement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.dnn.gemms import Dnn
from sim.systolic.compiled import loops_for
from sim.systolic.interconnect import Routes, interconnect
from sim.systolic.placement import Adds, Grid, Net, Placed, Window
from sim.systolic.pod_array import PodArray
from sim.systolic.tiling import Tiling, tile


@dataclass(frozen=True)
class LayerPlan:
    """Where one layer's tile ops and additions run.  Tile ops in the order j, i, k: k is inside."""

    dnn: int  # which of them
    tiling: Tiling
    first_round: int  # it may start here: its barrier
    last_round: int  # of a tile op or addition
    round: np.ndarray  # [tile op]
    pod: np.ndarray  # [tile op]
    bank: np.ndarray  # [tile op], of P
    source: np.ndarray  # [tile op], the op whose sum it starts from, or -1
    add_left: np.ndarray  # [addition], a tile op, or the number of tile ops + an addition
    add_right: np.ndarray  # [addition]
    add_bank: np.ndarray  # [addition]
    add_round: np.ndarray  # [addition, copy]
    adder: np.ndarray  # [addition, copy]

    def cube(self, of_ops: np.ndarray) -> np.ndarray:
        """An array by tile op as [j, i, k]."""
        i, j, k = self.tiling.shape
        return of_ops.reshape(j, i, k)

    @property
    def add_group(self) -> np.ndarray:
        """Which P[i, k] each addition is for, as i x the number of k + k.  [addition]"""
        i, _, k = self.tiling.shape
        operand, ops = self.add_left.copy(), self.tiling.tile_ops
        while np.any(deep := operand >= ops):
            operand[deep] = self.add_left[operand[deep] - ops]
        return operand % (i * k)

    @property
    def add_rows(self) -> np.ndarray:
        """Rows of the sum that each addition makes.  [addition]"""
        return self.tiling.x_rows[self.add_group // self.tiling.shape[2]]


@dataclass(frozen=True)
class Schedule:
    """The plan of all layers, in the order in which they were placed."""

    array: PodArray
    routes: Routes
    dnns: tuple[Dnn, ...]
    layers: tuple[LayerPlan, ...]
    exact: bool

    @property
    def latency_cycles(self) -> int:
        """One way between a bank and a pod."""
        return self.routes.latency_cycles + self.exact * self.routes.recounted_cycles

    @property
    def repeats(self) -> int:
        """How often the whole is run."""
        return self.dnns[0].repeats

    @property
    def tile_ops(self) -> int:
        """Tile products of all repeats."""
        return self.repeats * sum(plan.tiling.tile_ops for plan in self.layers)

    @property
    def ops(self) -> int:
        """Operations asked for, two a MAC."""
        return sum(dnn.ops for dnn in self.dnns)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the tile ops do."""
        return self.repeats * sum(plan.tiling.macs for plan in self.layers)


def schedule(
    dnns: Sequence[Dnn], array: PodArray, *, partition: int | None = None, exact: bool = False
) -> Schedule:
    """Places all layers; those of a later DNN fill what earlier ones leave, from round 0 on.

    `exact` makes every addition twice, as the artifact does: two post-processors, operands swapped,
    the same target. Banks are large enough here, if a tile fits (see `tile`): that partial sums
    outgrow them is a matter of time.
    """
    if not dnns:
        raise ValueError("nothing to schedule: no DNN was given")
    if len(dnns) > 1 and any(dnn.repeats > 1 for dnn in dnns):
        raise ValueError("DNNs that run together are placed whole: none may be one part, repeated")
    routes = interconnect(array.interconnect, array.pods)
    tilings = [[tile(layer, array, partition) for layer in dnn.layers] for dnn in dnns]
    loops = loops_for(sum(tiling.tile_ops for each in tilings for tiling in each))
    space = _Space(routes, loops.compiled)
    plans: list[LayerPlan] = []
    for index, dnn in enumerate(dnns):
        ready = _Ready(dnn)
        for at, tiling in enumerate(tilings[index]):
            first = ready.first(at)
            if index == len(dnns) - 1 and space.is_mostly_before(first):
                space.forget_before(ready.earliest(at))
            plan = _place_layer(index, tiling, first, space, loops, 2 if exact else 1)
            ready.placed(at, plan.last_round)
            plans.append(plan)
    return Schedule(array=array, routes=routes, dnns=tuple(dnns), layers=tuple(plans), exact=exact)


class _Ready:
    """Layers to come whose inputs are all placed, by the round where each may start.

    No other may start before the earliest of them, for it waits for one of them; so what is ahead
    is known without a look at all of it.
    """

    def __init__(self, dnn: Dnn) -> None:
        self.layers, self.ends = dnn.layers, dict[str, int]()
        self.lacking = [len({*layer.after}) for layer in dnn.layers]
        self.waiting: dict[str, list[int]] = {}  # by layer, those that read it
        self.ready: list[tuple[int, int]] = []  # (round, layer), a heap
        for at, layer in enumerate(dnn.layers):
            for name in {*layer.after}:
                self.waiting.setdefault(name, []).append(at)
            if not layer.after:
                self.ready.append((0, at))

    def first(self, at: int) -> int:
        """The first round of a layer whose inputs are placed."""
        return max((self.ends[name] for name in self.layers[at].after), default=-1) + 1

    def placed(self, at: int, last_round: int) -> None:
        """A layer, the next in order, ends in this round."""
        name = self.layers[at].name
        self.ends[name] = last_round
        for other in self.waiting.get(name, ()):
            self.lacking[other] -= 1
            if not self.lacking[other]:
                heappush(self.ready, (self.first(other), other))

    def earliest(self, start: int) -> int:
        """The first round that any layer from `start` on may still use."""
        while self.ready[0][1] < start:
            heappop(self.ready)
        return self.ready[0][0]


class _Space:
    """The rounds looked at, as the loops want them: from `base` on, growing at the end."""

    def __init__(self, routes: Routes, compiled: bool) -> None:
        self.compiled, self.base = compiled, 0
        flat = (lambda a: a.ravel()) if compiled else (lambda a: a.ravel().tolist())
        self.net = Net(
            ports=routes.ports,
            stages=routes.hops.shape[2],
            links=routes.links,
            writers=routes.writers,
            hops=flat(routes.hops),
            ways=routes.heads.shape[1],
            tries=routes.order.shape[1],
            head_stages=routes.heads.shape[2],
            heads=flat(routes.heads),
            order=flat(routes.order),
        )
        self.names = 1, 1  # of the next tiles of X and W
        wide = {"links": routes.links, "count": 1}
        self._widths = [wide.get(name.split("_")[-1], routes.ports) for name in Window._fields]
        self._types = [np.int16 if name.endswith("links") else np.int32 for name in Window._fields]
        self.window = Window(*(self.vector(0, kind) for kind in self._types))
        self.grow()

    def vector(self, size: int, kind: Any = np.int32) -> Any:
        """So many zeros."""
        return np.zeros(size, kind) if self.compiled else [0] * size

    def grow(self) -> None:
        """As many rounds again."""
        more = max(len(self.window.count), 32)
        fresh = [self.vector(more * width, kind) for width, kind in zip(self._widths, self._types)]
        join = (lambda a, b: np.concatenate((a, b))) if self.compiled else (lambda a, b: a + b)
        self.window = Window(*map(join, self.window, fresh))

    def is_mostly_before(self, round: int) -> bool:
        """Whether most of the rounds looked at are before it."""
        return 2 * (round - self.base) > len(self.window.count)

    def forget_before(self, round: int) -> None:
        """Drops rounds that nobody will use, if they are most: lists are copied for it."""
        gone = round - self.base
        if self.is_mostly_before(round):
            self.window = Window(
                *(field[gone * width :] for field, width in zip(self.window, self._widths))
            )
            self.base = round


def _place_layer(
    dnn: int, tiling: Tiling, first: int, space: _Space, loops: SimpleNamespace, copies: int
) -> LayerPlan:
    i, j, k = tiling.shape
    ops, most = tiling.tile_ops, i * k * (j - 1)
    while first - space.base >= len(space.window.count):
        space.grow()
    x, w = space.names
    grid = Grid(i=i, j=j, k=k, first_round=first - space.base, first_x=x, first_w=w)
    space.names = x + i * j, w + j * k
    placed = Placed(*(space.vector(ops) for _ in Placed._fields))
    done = 0
    while (done := loops.place_tiles(done, grid, space.net, space.window, placed)) < ops:
        space.grow()
    adds = Adds(
        *(
            space.vector(most * (copies if name in ("round", "adder") else 1))
            for name in Adds._fields
        )
    )
    count = loops.chain(grid, space.net, space.window, placed, adds, space.vector(2 * j))
    done = 0
    while (
        done := loops.place_adds(done, count, copies, space.net, space.window, placed, adds)
    ) < count * copies:
        space.grow()
    made = count * copies
    rounds = np.asarray(placed.round) + space.base
    add_rounds = np.asarray(adds.round[:made], int).reshape(count, copies) + space.base
    return LayerPlan(
        dnn=dnn,
        tiling=tiling,
        first_round=first,
        last_round=int(max(rounds.max(), add_rounds.max(initial=-1))),
        round=rounds,
        pod=np.asarray(placed.pod),
        bank=np.asarray(placed.bank),
        source=np.asarray(placed.source),
        add_left=np.asarray(adds.left[:count], int),
        add_right=np.asarray(adds.right[:count], int),
        add_bank=np.asarray(adds.bank[:count], int),
        add_round=add_rounds,
        adder=np.asarray(adds.adder[:made], int).reshape(count, copies),
    )
