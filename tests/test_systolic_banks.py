"""Partial sums that leave full banks: the loops against a clock with queues, and the figures that
they explain."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from dataclasses import replace
from importlib.util import find_spec
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_systolic_schedule import bank_of, dnns_of_gemms

from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.reproduce.sosa_rows import TEN
from sim.reproduce.sosa_runs import Case, run
from sim.systolic import compiled
from sim.systolic.interconnect import INTERCONNECTS
from sim.systolic.partial_sums import banks_hold, sums_of
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.rounds import rounds_of
from sim.systolic.schedule import LayerPlan, Schedule, schedule
from sim.systolic.timing import simulate

Sum = tuple[int, int]  # layer, tile op or number of tile ops + addition


class Clock:
    """The artifact's memory and banks of partial sums, cycle by cycle, on records and queues of its
    own."""

    def __init__(self, made: Schedule) -> None:
        self.array, self.once = made.array, rounds_of(made)
        self.rate = int(made.array.dram_bytes_per_s / made.array.clock_hz)
        self.size: dict[Sum, int] = {}
        self.bank: dict[Sum, int] = {}
        self.reads: dict[int, list[tuple[tuple[int, int], Sum]]] = defaultdict(
            list
        )  # by round: place, sum
        self.makes: dict[int, list[tuple[int, int, Sum]]] = defaultdict(
            list
        )  # by round: bank, kind, sum
        for index, plan in enumerate(made.layers):
            self.enter(index, plan)
        self.queues: list[OrderedDict[Sum, int]] = [OrderedDict() for _ in range(made.array.pods)]
        self.here: set[Sum] = set()
        self.known: set[Sum] = set()
        self.come: dict[Sum, int] = defaultdict(int)
        self.asked: list[tuple[int, Sum]] = []
        w, raw = self.once.w_bytes, self.once.raw_bytes
        self.due = deque([t, int(size)] for t in range(len(w)) for size in (w[t], raw[t]) if size)
        self.clock = self.stalls = self.back = 0

    def enter(self, index: int, plan: LayerPlan) -> None:
        i, _, k = plan.tiling.shape
        ops = plan.tiling.tile_ops
        for op in range(ops + len(plan.add_left)):
            root = op
            while root >= ops:
                root = int(plan.add_left[root - ops])
            name = (index, op)
            self.size[name] = int(
                2 * plan.tiling.x_rows[root // k % i] * plan.tiling.w_cols[root % k]
            )
            self.bank[name] = bank_of(plan, op)
        for op in range(ops):
            t = int(plan.round[op])
            self.makes[t].append((self.bank[index, op], 0, (index, op)))
            if plan.source[op] >= 0:
                self.reads[t].append(((0, int(plan.pod[op])), (index, int(plan.source[op]))))
        for add, rounds in enumerate(plan.add_round):
            for copy, t in enumerate(rounds.tolist()):
                adder, total = int(plan.adder[add, copy]), (index, ops + add)
                self.makes[t].append((self.bank[total], 1, total))
                for place, what in enumerate((plan.add_left[add], plan.add_right[add], ops + add)):
                    self.reads[t].append(((1 + place, adder), (index, int(what))))

    def room(self, what: Sum, t: int) -> bool:
        queue = self.queues[self.bank[what]]
        while sum(self.size[held] for held in queue) + self.size[what] > self.array.bank_bytes:
            if not queue:
                return False
            oldest, until = next(iter(queue.items()))
            if until >= t:
                return False
            del queue[oldest]
            self.here.discard(oldest)
        return True

    def keep(self, what: Sum, until: int) -> None:
        queue = self.queues[self.bank[what]]
        queue[what] = max(queue.pop(what, until), until)

    def cycle(self, t: int) -> None:
        self.clock += 1
        budget = self.rate
        while budget and self.asked:
            until, what = self.asked[-1]
            if what in self.here:
                self.keep(what, until)
                self.asked.pop()
                continue
            if not self.come[what]:
                if not self.room(what, t):
                    return
                self.keep(what, until)
            part = min(budget, self.size[what] - self.come[what])
            budget, self.back = budget - part, self.back + part
            self.come[what] = (self.come[what] + part) % self.size[what]
            if not self.come[what]:
                self.here.add(what)
        while budget and self.due and self.due[0][0] < t + self.array.prefetch_rounds:
            part = min(budget, self.due[0][1])
            budget, self.due[0][1] = budget - part, self.due[0][1] - part
            if not self.due[0][1]:
                self.due.popleft()

    def ready(self, t: int) -> bool:
        for _, _, what in sorted(self.makes[t], key=lambda entry: entry[1]):
            if what not in self.known:
                assert self.room(what, t)
                self.keep(what, t)
                self.known.add(what)
                self.here.add(what)
        there = not self.due or self.due[0][0] > t
        started = False
        for (kind, _), what in sorted(self.reads[t]):
            if what not in self.here and not (kind == 0 and started):
                self.asked.append((t, what))
                started |= kind == 0
                there = False
        return there


def by_the_clock(made: Schedule) -> tuple[int, int, int]:
    """Cycles, stalls, and bytes of sums that came back; the last round is free."""
    clock, once, latency = Clock(made), rounds_of(made), made.latency_cycles
    for _ in range(ceil(int(once.w_bytes[0]) / clock.rate) + int(once.loaded[0]) + 1):
        clock.cycle(0)
    for t in range(-1, len(once.streamed) - 1):
        if t >= 0:
            rows = max(once.streamed[t], once.loaded[t + 1], once.add_rows[t], 2 * latency + 1)
            for _ in range(1 + rows):
                clock.cycle(t)
        while not clock.ready(t + 1):
            clock.cycle(max(t, 0))
            clock.stalls += 1
    return clock.clock + latency + 1, clock.stalls, clock.back


small = st.builds(
    PodArray,
    rows=st.just(4),
    cols=st.sampled_from([2, 4]),
    pods=st.sampled_from([1, 2, 4]),
    interconnect=st.sampled_from(list(INTERCONNECTS)),
    bank_bytes=st.sampled_from([384, 448, 512]),
    dram_bytes_per_s=st.sampled_from([3e9, 8e9, 32e9]),
    prefetch_rounds=st.integers(2, 5),
)


@settings(max_examples=80, deadline=None)
@given(net=dnns_of_gemms(), array=small)
def test_full_banks_are_those_of_a_clock_with_queues(net: Dnn, array: PodArray) -> None:
    made = schedule([net], array, exact=True)
    timing = simulate(made)
    streamed = sum(int(x.sum()) for x in (rounds_of(made).w_bytes, rounds_of(made).raw_bytes))
    assert (timing.cycles, timing.stall_cycles, timing.dram_bytes - streamed) == by_the_clock(made)


@settings(max_examples=40, deadline=None)
@given(net=dnns_of_gemms(), array=small, times=st.integers(1, 3))
def test_banks_hold_exactly_what_never_comes_back(net: Dnn, array: PodArray, times: int) -> None:
    made = schedule([Dnn("repeated", net.layers, times)], array)
    timing = simulate(made)
    roomy = simulate(
        schedule([Dnn("repeated", net.layers, times)], replace(array, bank_bytes=1 << 20))
    )
    held = banks_hold(sums_of(made, len(timing.starts)), array.bank_bytes)
    assert held == (timing.dram_bytes == roomy.dram_bytes)
    assert timing.cycles == roomy.cycles if held else timing.cycles >= roomy.cycles


@pytest.mark.skipif(not find_spec("numba"), reason="needs numba")
def test_compiled_banks_give_the_same_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    made = schedule(
        [dnn("resnet18", image=96)], PodArray(16, 16, 16, "butterfly_1", bank_bytes=4 << 10)
    )
    runs = []
    for form in (compiled.LOOPS.native(1e9), None):
        monkeypatch.setattr(compiled.LOOPS, "native", lambda amount, form=form: form)
        runs.append(simulate(made))
    assert runs[0].stall_cycles == runs[1].stall_cycles > 0
    assert runs[0].dram_bytes == runs[1].dram_bytes
    assert np.array_equal(runs[0].starts, runs[1].starts)


def test_banks_too_small_for_a_round_are_refused() -> None:
    made = schedule(
        [Dnn("one", (GemmLayer("g", 13, 37, 33),))], PodArray(4, 4, 4, "butterfly_1", bank_bytes=96)
    )
    with pytest.raises(
        ValueError, match="banks of 96 bytes hold too few partial sums for round 10 to start"
    ):
        simulate(made)


@pytest.mark.slow
def test_butterflies_without_expansion_wait_for_sums() -> None:
    """Harmonic mean of the ten networks on 64 pods, raw TOPS.  Without full banks it would be
    95.15."""
    runs = [run(Case((name,), PodArray(pods=64, interconnect="butterfly_1"))).tops for name in TEN]
    assert round(float(harmonic_mean(np.array(runs))), 2) == 94.50
