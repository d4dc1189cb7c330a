"""Cycles of pod arrays, against the artifact of arXiv 2203.11540: whole numbers are equal to its
simulator's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_systolic_schedule import arrays, dnns_of_gemms

from sim.dnn.bert import bert
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.systolic.pod_array import PodArray
from sim.systolic.rounds import rounds_of
from sim.systolic.schedule import Schedule, schedule
from sim.systolic.timing import ops_per_s, simulate

WHOLE = PodArray()  # 256 pods of 32 x 32, butterfly-2


@pytest.mark.parametrize(("batch", "tops"), [(2, 288.55), (4, 387.47)])
def test_batches_are_those_of_the_artifact(batch: int, tops: float) -> None:
    made = schedule([bert("medium", 100, batch, exact=True)], WHOLE, exact=True)
    assert round(ops_per_s(made, simulate(made)) / 1e12, 2) == tops


def test_one_tile_op_by_hand() -> None:
    """W: 16 bytes at 8 a cycle, then 4 rows to load and one cycle; X: 16 bytes; a round of max(4, 2
    x 1 + 1) + 1."""
    net = Dnn("one", (GemmLayer("g", 4, 4, 4, raw_input=True),))
    array = PodArray(4, 4, 1, "crossbar", dram_bytes_per_s=8e9)
    clean = simulate(schedule([net], array))
    assert (clean.warm_up_cycles, clean.stall_cycles, clean.lengths.tolist()) == (2 + 4 + 1, 0, [5])
    assert clean.cycles == 7 + 5 + 1 + 1
    last_is_free = simulate(schedule([net], array, exact=True))
    assert last_is_free.cycles == 7 + 1 + 1
    slow = simulate(schedule([net], PodArray(4, 4, 1, "crossbar", dram_bytes_per_s=1e9)))
    assert (slow.warm_up_cycles, slow.stall_cycles) == (16 + 4 + 1, 32 - 21)


@settings(max_examples=60, deadline=None)
@given(
    net=dnns_of_gemms(),
    array=arrays,
    exact=st.booleans(),
    gbytes_per_s=st.sampled_from([1, 4, 32]),
)
def test_rounds_follow_each_other_and_memory_keeps_its_rate(
    net: Dnn, array: PodArray, exact: bool, gbytes_per_s: int
) -> None:
    array = replace(array, dram_bytes_per_s=gbytes_per_s * 1e9, prefetch_rounds=2 + array.pods)
    made = schedule([net], array, exact=exact)
    t = simulate(made)
    waits = np.diff(t.starts) - t.lengths[:-1]
    assert np.all(waits >= 0)
    assert waits.sum() + t.starts[0] - t.warm_up_cycles == t.stall_cycles
    assert t.dram_bytes <= t.starts[-1] * gbytes_per_s + 1e-6
    assert t.dram_bytes >= sum(layer.n * layer.k for layer in net.layers)
    twice = replace(array, dram_bytes_per_s=2 * gbytes_per_s * 1e9)
    assert simulate(schedule([net], twice, exact=exact)).cycles <= t.cycles


def cycle_by_cycle(made: Schedule) -> tuple[int, int]:
    """Cycles and stalls with a queue of tiles and a clock, as the artifact counts them; its last
    round is free."""
    array, latency = made.array, made.latency_cycles
    rate = int(array.dram_bytes_per_s / array.clock_hz)
    once = rounds_of(made)
    queue = [
        [t, size]
        for t in range(len(once.w_bytes))
        for size in (once.w_bytes[t], once.raw_bytes[t])
        if size
    ]
    weights = int(once.w_bytes[0])
    clock = fetched = 0

    def load(t: int) -> None:
        nonlocal clock, fetched
        clock += 1
        budget = rate
        while budget and queue and queue[0][0] < t + array.prefetch_rounds:
            part = min(budget, queue[0][1])
            budget, queue[0][1], fetched = budget - part, queue[0][1] - part, fetched + part
            if not queue[0][1]:
                queue.pop(0)

    while fetched < weights:
        load(0)
    for _ in range(once.loaded[0] + 1):
        load(0)
    stalls = 0
    for t in range(-1, len(once.streamed) - 1):
        if t >= 0:
            rows = max(once.streamed[t], once.loaded[t + 1], once.add_rows[t], 2 * latency + 1)
            for _ in range(1 + rows):
                load(t)
        while queue and queue[0][0] <= t + 1:
            load(max(t, 0))
            stalls += 1
    return clock + latency + 1, stalls


@settings(max_examples=60, deadline=None)
@given(net=dnns_of_gemms(), array=arrays, rate=st.integers(1, 9), ahead=st.integers(2, 5))
def test_memory_as_a_level_is_memory_as_a_queue(
    net: Dnn, array: PodArray, rate: int, ahead: int
) -> None:
    array = replace(array, dram_bytes_per_s=rate * 1e9, prefetch_rounds=ahead)
    made = schedule([net], array, exact=True)
    timing = simulate(made)
    assert (timing.cycles, timing.stall_cycles) == cycle_by_cycle(made)


@settings(max_examples=30, deadline=None)
@given(net=dnns_of_gemms(), times=st.integers(2, 4), array=arrays)
def test_repeats_cost_the_rounds_again(net: Dnn, times: int, array: PodArray) -> None:
    once = simulate(schedule([net], array))
    more = simulate(schedule([Dnn("more", net.layers, times)], array))
    assert more.tile_ops == times * once.tile_ops
    assert more.last_main_round == once.last_main_round + (times - 1) * len(once.lengths)
    assert more.dram_bytes == times * once.dram_bytes


def test_the_model_without_habits_is_faster_by_its_additions() -> None:
    """By default an addition is made once, so that a pairing tree takes half the rounds; the last
    round counts."""
    made = schedule([dnn("resnet50", image=299)], WHOLE)
    clean = simulate(made)
    artifact = simulate(schedule([dnn("resnet50", image=299, exact=True)], WHOLE, exact=True))
    assert clean.tile_ops == artifact.tile_ops
    assert (clean.cycles, clean.last_main_round, clean.last_add_round) == (
        34434,
        982,
        985,
    )  # recorded, not published
    assert (artifact.cycles, artifact.last_main_round, artifact.last_add_round) == (
        35442,
        1019,
        1025,
    )
