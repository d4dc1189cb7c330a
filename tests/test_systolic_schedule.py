"""Laws of the schedule on small random networks: nothing lost, nothing used twice, nothing before
its operands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.systolic import compiled, placement
from sim.systolic import schedule as scheduling
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import INTERCONNECTS, Routes, interconnect
from sim.systolic.pod_array import PodArray
from sim.systolic.rounds import rounds_of
from sim.systolic.schedule import LayerPlan, Schedule, schedule
from sim.systolic.tiling import tile

NEVER = -1


@st.composite
def dnns_of_gemms(draw: st.DrawFn) -> Dnn:
    layers: list[GemmLayer] = []
    for index in range(draw(st.integers(1, 4))):
        m, n, k = (draw(st.integers(1, 40)) for _ in range(3))
        after = (
            draw(st.sets(st.sampled_from([layer.name for layer in layers]))) if layers else set()
        )
        layers.append(
            GemmLayer(f"g{index}", m, n, k, after=tuple(sorted(after)), raw_input=not after)
        )
    return Dnn("random", tuple(layers))


def route(routes: Routes, bank: int, pod: int, way: int = 0) -> tuple[int, ...]:
    """The links from a bank to a pod, in order."""
    if routes.order.shape[1] < 2:
        return tuple(routes.hops[bank, pod].tolist())
    return (*routes.heads[bank, way].tolist(), *routes.hops[way, pod].tolist())


def joined(array: PodArray) -> PodArray:
    """With 8 pods where its interconnect cannot join as many as it has."""
    try:
        interconnect(array.interconnect, array.pods)
    except ValueError:
        return replace(array, pods=8)
    return array


arrays = st.builds(
    PodArray,
    rows=st.sampled_from([2, 4, 8]),
    cols=st.sampled_from([2, 4, 8]),
    pods=st.sampled_from([1, 2, 4, 6, 8]),
    interconnect=st.sampled_from(list(INTERCONNECTS)),
    dataflow=st.sampled_from(list(DATAFLOWS)),
).map(joined)


def transfers(plan: LayerPlan, pods: int) -> Iterator[tuple[str, int, int, int, object]]:
    """(interconnect, round, bank, pod or adder, tile) of everything that a layer sends."""
    i, _, k = plan.tiling.shape
    for op in range(plan.tiling.tile_ops):
        j, row, col = op // (i * k), op // k % i, op % k
        t, pod = int(plan.round[op]), int(plan.pod[op])
        yield "x", t, (j * i + row) % pods, pod, (id(plan), row, j)
        yield "w", t, (j * k + col) % pods, pod, (id(plan), j, col)
        yield "out", t, int(plan.bank[op]), pod, (id(plan), op)
        if plan.source[op] >= 0:
            yield "in", t, int(plan.bank[plan.source[op]]), pod, (id(plan), op)
    for add, copies in enumerate(plan.add_round):
        for copy, t in enumerate(copies.tolist()):
            operands = plan.add_left[add], plan.add_right[add]
            left, right = operands[::-1] if copy else operands
            adder = int(plan.adder[add, copy])
            yield "left", t, bank_of(plan, left), adder, (id(plan), add, copy)
            yield "right", t, bank_of(plan, right), adder, (id(plan), add, copy)
            yield "sum", t, int(plan.add_bank[add]), adder, (id(plan), add, copy)


def bank_of(plan: LayerPlan, operand: int) -> int:
    ops = plan.tiling.tile_ops
    return int(plan.bank[operand] if operand < ops else plan.add_bank[operand - ops])


def check_conflicts(made: Schedule) -> None:
    """A bank sends or stores one tile in a round, a pod takes one, and a link carries one bank's
    data."""
    tiles: dict[tuple[str, int, int], object] = {}
    takers: set[tuple[str, int, int]] = set()
    links: dict[tuple[str, int, int], int] = {}
    for plan in made.layers:
        for name, t, bank, to, what in transfers(plan, made.array.pods):
            assert tiles.setdefault((name, t, bank), what) == what
            assert (name, t, to) not in takers
            takers.add((name, t, to))
            for link in (
                route(made.routes, bank, to) if made.routes.order.shape[1] == 1 else ()
            ):  # several ways: see below
                assert links.setdefault((name, t, link), bank) == bank


def check_order(plan: LayerPlan, ends: dict[str, int]) -> None:
    """Barriers hold; sums start from earlier ones; each P[i, k] ends as one sum of all its tile
    ops."""
    ops = plan.tiling.tile_ops
    i, _, k = plan.tiling.shape
    assert plan.first_round == max((ends[name] for name in plan.tiling.layer.after), default=-1) + 1
    assert plan.round.min() >= plan.first_round
    assert plan.last_round == max(plan.round.max(), plan.add_round.max(initial=NEVER))
    chained = np.flatnonzero(plan.source >= 0)
    assert np.all(plan.round[plan.source[chained]] < plan.round[chained])
    done = np.concatenate((plan.round, plan.add_round.max(axis=1, initial=NEVER)))
    for add, copies in enumerate(plan.add_round):
        operands = plan.add_left[add], plan.add_right[add]
        assert copies.min() > max(done[operand] for operand in operands)
    consumed = [*plan.source[chained], *plan.add_left, *plan.add_right]
    assert len(set(consumed)) == len(consumed)
    group = np.arange(ops) % (i * k)
    for add, left in enumerate(plan.add_left):
        group = np.append(group, group[left])
        assert group[left] == group[plan.add_right[add]]
    assert np.all(group[plan.source[chained]] == group[chained])
    final = np.delete(group, consumed)
    assert sorted(final.tolist()) == list(range(i * k))


@settings(max_examples=60, deadline=None)
@given(net=dnns_of_gemms(), other=dnns_of_gemms(), array=arrays, exact=st.booleans())
def test_schedules_are_free_of_conflicts_and_lose_nothing(
    net: Dnn, other: Dnn, array: PodArray, exact: bool
) -> None:
    made = schedule([net, other], array, exact=exact)
    check_conflicts(made)
    for index in (0, 1):
        ends: dict[str, int] = {}
        for plan in made.layers:
            if plan.dnn == index:
                check_order(plan, ends)
                ends[plan.tiling.layer.name] = plan.last_round
    rounds = rounds_of(made)
    assert rounds.macs.sum() == net.macs + other.macs == made.macs
    assert rounds.w_bytes.sum() == sum(layer.n * layer.k for layer in (*net.layers, *other.layers))
    assert rounds.tile_ops.max() <= array.pods
    assert rounds.tile_ops.sum() == made.tile_ops


@settings(max_examples=40, deadline=None)
@given(net=dnns_of_gemms(), pods=st.sampled_from([4, 8, 16]), exact=st.booleans())
def test_a_way_through_a_benes_network_is_free_when_it_is_taken(
    net: Dnn, pods: int, exact: bool
) -> None:
    benes, take, seen = interconnect("benes", pods), placement._take, []

    def checked(
        owner: list[int], first: int, net: placement.Net, way: int, bank: int, pod: int
    ) -> None:
        links = route(benes, bank, pod, way)
        assert all(owner[first + link] in (0, bank + 1) for link in links)
        take(owner, first, net, way, bank, pod)
        assert all(owner[first + link] == bank + 1 for link in links)
        seen.append(way)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_take", checked)
        patch.setattr(compiled.LOOPS, "native", lambda amount: None)
        made = schedule([net], PodArray(4, 4, pods, "benes"), exact=exact)
    assert len(seen) >= 3 * made.tile_ops


@settings(max_examples=60, deadline=None)
@given(
    tiles=st.tuples(*[st.integers(1, 12)] * 3),
    kind=st.sampled_from([k for k, row in INTERCONNECTS.items() if not row.ours and k != "bus"]),
    pods=st.sampled_from([1, 2, 4, 8]),
    exact=st.booleans(),
)
def test_more_pods_never_take_more_rounds_for_a_product(
    tiles: tuple[int, int, int], kind: str, pods: int, exact: bool
) -> None:
    """Rounds of tile ops.  Those of additions may grow: what shares a round cannot start from the
    other's sum."""
    net = Dnn("one", (GemmLayer("g", *(4 * count for count in tiles)),))
    few, many = (
        schedule([net], PodArray(4, 4, count, kind), exact=exact).layers[0]
        for count in (pods, 2 * pods)
    )
    assert many.round.max() <= few.round.max()
    assert few.round.max() + 1 >= -(-few.tiling.tile_ops // pods)


@settings(max_examples=30, deadline=None)
@given(net=dnns_of_gemms(), array=arrays, exact=st.booleans())
def test_a_network_first_placed_is_not_touched_by_what_follows(
    net: Dnn, array: PodArray, exact: bool
) -> None:
    """Later networks fill holes: the first runs as if alone, and both end no sooner than one."""
    alone = schedule([net], array, exact=exact)
    pair = schedule([net, net], array, exact=exact)
    for own, first in zip(alone.layers, pair.layers, strict=False):
        for field in ("round", "pod", "bank", "source", "add_round", "adder"):
            assert np.array_equal(getattr(own, field), getattr(first, field))
    assert max(plan.last_round for plan in pair.layers) >= max(
        plan.last_round for plan in alone.layers
    )


@pytest.mark.skipif(not find_spec("numba"), reason="needs numba")
@pytest.mark.parametrize("kind", ["butterfly_2", "crossbar", "benes"])
def test_compiled_loops_give_the_same_schedule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [dnn("bert_tiny", length=30), dnn("resnet18", image=64)]
    made = []
    for form in (compiled.LOOPS.native(1e9), None):
        monkeypatch.setattr(compiled.LOOPS, "native", lambda amount, form=form: form)
        made.append(schedule(nets, PodArray(pods=32, interconnect=kind), exact=True))
    for a, b in zip(made[0].layers, made[1].layers, strict=True):
        for field in fields(LayerPlan):
            if field.name != "tiling":
                assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_plain_loops_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling works on copies: what runs without a compiler is not replaced."""
    compiled.loops_for(10**9)
    monkeypatch.setattr(compiled.LOOPS, "native", lambda amount: None)
    loops = compiled.loops_for(1)
    assert loops.place_tiles is placement.place_tiles
    assert not loops.compiled


def test_forgetting_rounds_does_not_change_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    net, array = dnn("resnet18", image=96), PodArray(16, 16, 16)
    forgetful = schedule([net], array)
    monkeypatch.setattr(scheduling._Space, "forget_before", lambda self, round: None)
    for a, b in zip(forgetful.layers, schedule([net], array).layers, strict=True):
        assert np.array_equal(a.round, b.round)
        assert np.array_equal(a.add_round, b.add_round)


def test_tiles_at_the_edge_keep_their_size() -> None:
    tiling = tile(GemmLayer("conv", 70, 9 * 5, 40, kernel_area=9), PodArray(32, 16, 4))
    assert (tiling.x_rows.tolist(), tiling.w_rows.tolist(), tiling.w_cols.tolist()) == (
        [32, 32, 6],
        [32, 13],
        [16, 16, 8],
    )
    assert tiling.x_bytes.tolist() == [[113, 46], [113, 46], [21, 8]]
    assert tiling.macs == 70 * 45 * 40
    assert tile(GemmLayer("g", 70, 1, 1), PodArray(), partition=70).shape == (1, 1, 1)


def test_sums_that_share_a_round_are_added() -> None:
    """Four tile ops of one sum on four pods: none can start from another, so three additions make
    one of four."""
    net = Dnn("one", (GemmLayer("g", 4, 16, 4),))
    once = schedule([net], PodArray(4, 4, 4, "crossbar")).layers[0]
    assert once.round.tolist() == [0, 0, 0, 0]
    assert once.add_round.tolist() == [[1], [1], [2]]
    twice = schedule([net], PodArray(4, 4, 4, "crossbar"), exact=True).layers[0]
    assert twice.add_round.tolist() == [[1, 2], [1, 2], [3, 4]]
    chained = schedule([net], PodArray(4, 4, 1, "crossbar")).layers[0]
    assert chained.source.tolist() == [-1, 0, 1, 2]
    assert all(a < b for a, b in pairwise(chained.round.tolist()))
    assert len(chained.add_round) == 0


def test_what_cannot_be_scheduled_is_refused() -> None:
    with pytest.raises(ValueError, match="no DNN was given"):
        schedule([], PodArray())
    repeated = dnn("bert_tiny", exact=True)
    with pytest.raises(ValueError, match="none may be one part, repeated"):
        schedule([repeated, repeated], PodArray())
    with pytest.raises(ValueError, match="a tile of X of layer g has 320000 bytes, a bank 262144"):
        schedule([Dnn("one", (GemmLayer("g", 10**5, 64, 32),))], PodArray(), partition=10_000)
    with pytest.raises(ValueError, match="at least 1 row"):
        schedule([Dnn("one", (GemmLayer("g", 1, 1, 1),))], PodArray(), partition=0)
