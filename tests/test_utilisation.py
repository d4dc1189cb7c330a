"""How well a layer fills one array: closed forms, laws, and the simulator beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.learn.pareto import Point, area_to_ideal, front, hypervolume
from sim.reproduce import nas
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.lookup import ONE_ARRAY, Lookup, network_of, simulated
from sim.systolic.pod_array import PodArray
from sim.systolic.single import folded_cycles
from sim.systolic.utilisation import (
    LAYERS,
    Product,
    conv,
    cycles,
    dense,
    depthwise,
    flops_cycles,
    macs,
    memory_cycles,
    roofline_cycles,
    separable,
    smooth_ceil,
    utilisation,
)

SMALL = PodArray(8, 4, 1, "crossbar", bank_bytes=1 << 20)
sizes = st.integers(1, 40)
points = st.lists(st.builds(Point, st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=6)


@pytest.mark.parametrize("name", nas.FORMULAS)
def test_the_formulas_by_hand(name):
    layer, known, work = nas.FORMULAS[name]
    assert cycles(layer, ONE_ARRAY) == known
    assert utilisation(layer, ONE_ARRAY) == pytest.approx(work / known, rel=1e-12)
    assert flops_cycles(layer, ONE_ARRAY) == pytest.approx(work, rel=1e-12)


@given(sizes, sizes, sizes, st.sampled_from(sorted(DATAFLOWS)))
def test_cycles_are_those_of_single_arrays_without_fill_and_load(m, n, k, flow):
    array = replace(SMALL, dataflow=flow)
    row = DATAFLOWS[flow]
    whole = folded_cycles(row, m, n, k, array.rows, array.cols)
    step = dict(zip((row.m, row.n, row.k), (m, n, k)))["partition"]
    extra = (0 if row.stays == "P" else array.rows) + array.rows + array.cols - 2
    assert cycles((Product(m, n, k),), array) * (step + extra) == whole * step


@given(st.sampled_from(sorted(LAYERS)), st.sampled_from([1, 9, 25]), sizes, sizes, sizes)
def test_no_layer_fills_more_than_the_array_nor_beats_flops(kind, area, positions, c, f):
    layer = LAYERS[kind](area, positions, c, f)
    assert 0 < utilisation(layer, SMALL) <= 1
    assert cycles(layer, SMALL) >= flops_cycles(layer, SMALL)
    assert roofline_cycles(layer, SMALL) >= flops_cycles(layer, SMALL)


@given(st.sampled_from(sorted(LAYERS)), st.sampled_from([1, 9]), sizes, sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_what_is_simulated_never_lasts_less(kind, area, positions, c, f):
    layer = LAYERS[kind](area, positions, c, f)
    found = simulated(layer, array=SMALL, exact=False)
    assert cycles(layer, SMALL) <= found.cycles
    assert utilisation(layer, SMALL) >= found.utilisation


def test_multiples_of_the_array_fill_it_and_one_more_does_not():
    assert utilisation(conv(1, 10, 8, 4), SMALL) == 1
    assert utilisation(conv(1, 10, 16, 8), SMALL) == 1
    assert utilisation(conv(1, 10, 9, 4), SMALL) == 9 / 16
    assert utilisation(conv(1, 10, 8, 5), SMALL) == 5 / 8


def test_a_separable_layer_is_its_two_and_a_dilated_one_a_convolution():
    both = separable(9, 50, 12, 7)
    assert cycles(both, SMALL) == cycles(depthwise(9, 50, 12), SMALL) + cycles(
        conv(1, 50, 12, 7), SMALL
    )
    assert macs(both) == 9 * 50 * 12 + 50 * 12 * 7
    assert LAYERS["dilated"](9, 50, 12, 7) == conv(9, 50, 12, 7)
    assert dense(3, 12, 7) == conv(1, 3, 12, 7)


def test_arrays_of_sizes_are_as_numbers():
    c, f = np.arange(1, 20)[:, None], np.arange(1, 15)[None, :]
    for kind, ceil in ((kind, ceil) for kind in LAYERS for ceil in (np.ceil, smooth_ceil)):
        table = cycles(LAYERS[kind](9, 30, c, f), SMALL, ceil) + np.zeros((19, 14))
        one = cycles(LAYERS[kind](9, 30, 7, 5), SMALL, ceil)
        assert table[6, 4] == pytest.approx(one, rel=1e-12)


def test_bytes_of_the_roofline():
    layer = conv(9, 100, 8, 4)
    elements = 100 * 8 + 9 * 8 * 4 + 100 * 4
    array = replace(SMALL, clock_hz=1e9, dram_bytes_per_s=1e9)
    assert memory_cycles(layer, array) == 2 * elements
    assert roofline_cycles(layer, array) == max(2 * elements, 100 * 72 * 4 / 32)


@pytest.mark.parametrize(("x", "known"), nas.SMOOTH.items())
def test_the_smooth_ceiling_as_published(x, known):
    assert smooth_ceil(np.float64(x)) == pytest.approx(known, abs=1e-3)


@given(st.floats(0, 250))
def test_the_smooth_ceiling_is_the_sum_of_300_steps(x):
    steps = x - np.arange(300)
    whole = ((1 + np.exp(-20 * np.clip(steps, -2, 2)) / 0.2) ** -2.0).sum()
    assert smooth_ceil(np.float64(x)) == pytest.approx(whole, rel=1e-12)


def test_the_smooth_ceiling_rises_never_saturates_and_is_a_ceiling_between_steps():
    found = smooth_ceil(np.linspace(0, 1000, 20001))
    assert (np.diff(found) > -1e-9).all()
    middle = np.arange(0, 1000) + 0.6
    assert smooth_ceil(middle) == pytest.approx(np.ceil(middle), abs=1e-3)


def test_a_size_just_above_the_array_looks_better_than_it_is():
    used = [utilisation(conv(1, 1, 128, f), ONE_ARRAY, smooth_ceil) for f in (128, 136, 144)]
    whole = smooth_ceil(np.float64(1))
    assert np.array(used) * whole == pytest.approx([0.973, 0.909, 0.749], abs=1e-3)
    assert utilisation(conv(1, 1, 128, 136), ONE_ARRAY) == pytest.approx(0.531, abs=1e-3)


def test_depthwise_keeps_its_folds_under_the_smooth_ceiling():
    layer = depthwise(9, 64, 32)
    assert cycles(layer, ONE_ARRAY, smooth_ceil) == cycles(layer, ONE_ARRAY) == 64 * 32


def test_several_pods_are_refused():
    with pytest.raises(ValueError, match="of one array, not of 4 pods"):
        cycles(conv(1, 1, 1, 1), replace(SMALL, pods=4))
    with pytest.raises(ValueError, match="rows of a pod array is at least 1, not 0"):
        PodArray(0, 4, 1, "crossbar")


def test_a_network_of_layers_waits_for_the_one_before():
    made = network_of(separable(9, 16, 3, 5), dense(1, 5, 2))
    assert [layer.name for layer in made.layers] == ["0_0", "0_1", "0_2", "1_0", "2_0"]
    assert made.layers[3].after == ("0_0", "0_1", "0_2")
    assert made.layers[4].after == ("1_0",)
    assert made.macs == macs(separable(9, 16, 3, 5)) + macs(dense(1, 5, 2))


def test_a_lookup_takes_the_nearest_size():
    table = Lookup("conv", 9, 16, SMALL, channels=(8, 4))
    assert table.nearest(5.9, 8) == simulated(conv(9, 16, 4, 8), array=SMALL)
    assert table.nearest(6, 6.1) == simulated(conv(9, 16, 4, 8), array=SMALL)
    with pytest.raises(ValueError, match="100 filters: the table goes from 4 to 8"):
        table.nearest(5.9, 100)
    with pytest.raises(ValueError, match="convolve"):
        Lookup("convolve", 9, 16, SMALL)


def test_a_front_and_the_areas_of_a_staircase():
    made = [Point(1, 60), Point(2, 80), Point(2, 70), Point(3, 80)]
    assert front(made) == [Point(1, 60), Point(2, 80)]
    assert area_to_ideal(made) == 40 + 20
    assert hypervolume(made, Point(4, 50)) == 1 * 10 + 2 * 30
    assert hypervolume(made, Point(1, 50)) == 0


def test_a_further_point_can_worsen_the_papers_area():
    one, two = Point(1.05, 87.9), Point(0.77, 86.3)
    assert area_to_ideal([one]) < area_to_ideal([one, two])
    assert hypervolume([one], Point(7, 70)) < hypervolume([one, two], Point(7, 70))


@given(points, points)
def test_a_further_point_never_lowers_the_hypervolume(some, more):
    worst = Point(8, 20)
    assert hypervolume(some + more, worst) >= hypervolume(some, worst) - 1e-9


@given(points)
def test_the_hypervolume_is_the_area_dominated(some):
    worst = Point(10, 0)
    t = np.linspace(0, 10, 4001)
    best = [max((p.accuracy for p in some if p.time <= at), default=0) for at in t]
    assert hypervolume(some, worst) == pytest.approx(10 * np.mean(best), abs=2)


@pytest.mark.parametrize("bad", [Point(-1, 50), Point(1, 101), Point(float("nan"), 5)])
def test_a_point_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="no time and accuracy"):
        front([bad])


def test_an_empty_front_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        front([])


def test_the_lookup_samples_are_met_to_the_printed_digit():
    for row in nas.samples():
        assert row.ok
        digits = len(str(row.published).partition(".")[2])
        assert row.simulated == pytest.approx(row.published, abs=1.01 * 10**-digits), row
