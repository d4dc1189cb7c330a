"""What a chip costs: the sources' own numbers, and what must hold for any."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import DEVICE

from sim.hardware.chip_cost import (
    ESTIMATES,
    ChipCost,
    dies_per_wafer,
    estimate,
    facts_of,
    made,
    murphy,
    negative_binomial,
    poisson,
)
from sim.scenario import ScenarioError
from sim.scenario.machine import Chip


@pytest.mark.parametrize(
    ("die_yield", "share", "dollars"),
    [
        (negative_binomial(6 * 0.09, 10), 0.591, 175),
        (negative_binomial(6 * 0.15, 3), 0.455, 227),
        (poisson(6 * 0.15), 0.407, 254),
    ],
)
def test_a_die_of_600_mm2_costs_what_the_sources_say(die_yield, share, dollars):
    assert dies_per_wafer(600) == pytest.approx(90.6, abs=0.05)
    assert die_yield == pytest.approx(share, abs=5e-4)
    assert 9_346 / (dies_per_wafer(600) * die_yield) == pytest.approx(dollars, abs=0.5)


@given(st.floats(1e-6, 5.0), st.floats(0.5, 50.0))
def test_clustered_defects_leave_more_dies_and_poisson_is_the_limit(defects, clustering):
    found = negative_binomial(defects, clustering)
    assert 0 < poisson(defects) <= found * (1 + 1e-12) and found <= 1
    assert negative_binomial(defects, 1e9) == pytest.approx(poisson(defects), rel=1e-6)
    assert poisson(defects) <= murphy(defects) * (1 + 1e-9) and murphy(defects) <= 1


@given(st.floats(1.0, 190.0), st.floats(1.0, 190.0))
def test_more_l2_is_more_area_and_dearer(one, other):
    low, high = (
        made(replace(DEVICE, l2_bytes=size * 2**20), 175e9, estimate())
        for size in sorted((one, other))
    )
    assert low.die_mm2 <= high.die_mm2 and low.dollars <= high.dollars
    assert low.die_yield >= high.die_yield
    assert high.die_mm2 - low.die_mm2 == pytest.approx(abs(one - other) * 0.67, abs=1e-6)


def test_the_parts_of_a_die_by_hand():
    """400 TFLOP/s, 1 TB/s and so three stacks, 7 links."""
    chip = made(replace(DEVICE, l2_bytes=100 * 2**20), 175e9, estimate(other_mm2=10.0))
    assert chip.parts_mm2 == pytest.approx(
        {
            "matrix units": 288.0,
            "L2": 67.0,
            "HBM": 3 * 16.15,
            "links": 7 * 1.89,
            "host": 7.7,
            "other": 10.0,
        }
    )
    assert chip.watts == pytest.approx(520.0)
    area = chip.die_mm2
    assert chip.dollars == pytest.approx((chip.die_dollars + 64 * 7.0 + area * 2 * 0.022) / 0.95)


@pytest.mark.parametrize("node", ESTIMATES)
def test_every_constant_has_a_range_around_it_a_tag_and_a_source(node):
    wanted = {field.name for field in fields(ChipCost)} - {"node", "hbm_stacks"}
    assert ESTIMATES[node].keys() == wanted
    for name, each in ESTIMATES[node].items():
        assert 0 <= each.low <= each.value <= each.high < inf, name
        assert each.tag in ("READ", "INFER", "RECALLED") and len(each.source) > 10
    assert facts_of(estimate(node, link_mm2=3.0))["link_mm2"].tag == "CHANGED"


def test_wrong_constants_are_one_error():
    with pytest.raises(ValueError, match="no process node '6 nm'; there are 7 nm, 5 nm"):
        estimate("6 nm")
    with pytest.raises(ValueError, match=r"has no 'wafer_dollar'.*wafer_dollars"):
        estimate(wafer_dollar=1.0)
    with pytest.raises(ValueError, match="link_mm2: -1 is below zero"):
        estimate(link_mm2=-1.0)
    with pytest.raises(ValueError, match="does not fit on a wafer"):
        made(DEVICE, 175e9, estimate(other_mm2=1e6))


SCENARIO = """
question: q
pod: {topology: atlas_800t_a2%s}
model: llama3-8b
precision: {weights: int8, activations: int8}
parallel: {tensor: 4}
workload: {kind: decode, batch: 1, prompt_tokens: 64, output_tokens: 4}
"""
_BY_MAKING = {"die_mm2", "chip_dollars", "output_tokens_per_s_per_mm2"}


def metrics_of(tmp_path, pod):
    from sim.run import run

    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO % pod)
    result = run(file)
    return next(iter(result.variants.values()))["metrics"], result


def test_what_a_token_costs_follows_from_what_a_chip_does(tmp_path):
    change = "change: {device: {power_w: 400 W, price_per_hour: 3.6}}"
    found, _ = metrics_of(tmp_path, f", chip: {{}}, {change}")
    each = found["output_tokens_per_s_per_chip"]
    assert found["joules_per_token"] == pytest.approx(400 / each)
    assert found["dollars_per_million_tokens"] == pytest.approx(1e-3 / each * 1e6)
    assert found["output_tokens_per_s_per_watt"] == pytest.approx(each / 400)
    assert found["output_tokens_per_s_per_mm2"] == pytest.approx(each / found["die_mm2"])
    assert found["output_tokens_per_s_per_dollar"] == pytest.approx(each / found["chip_dollars"])


def test_without_a_chip_nothing_is_said_of_making_one_nor_without_a_price_of_cost(tmp_path):
    found, _ = metrics_of(tmp_path, "")
    assert not _BY_MAKING & found.keys() and "dollars_per_million_tokens" not in found
    found, result = metrics_of(tmp_path, ", chip: {sram_mm2_per_mib: 2.7}")
    assert found.keys() >= _BY_MAKING
    told = [
        row
        for row in next(iter(result.outcomes.values())).assumptions
        if "a chip of 7 nm" in row[0]
    ]
    changed = ("a chip of 7 nm: sram_mm2_per_mib", "2.7", "CHANGED", "set by the scenario")
    assert changed in [row[:4] for row in told]
    assert any("0.29 to 0.86" in row[1] for row in told)


def test_a_die_beyond_the_reticle_is_said_and_one_beyond_the_wafer_refused(tmp_path):
    _, result = metrics_of(tmp_path, ", chip: {other_mm2: 700}")
    assert any("larger than the 858 mm2" in text for text in result.warnings)
    with pytest.raises(ScenarioError, match=r"pod\.chip: a die of .* does not fit on a wafer"):
        metrics_of(tmp_path, ", chip: {other_mm2: 1e6}")


def test_a_scenario_may_set_every_constant_by_its_name():
    assert Chip.model_fields.keys() == {field.name for field in fields(ChipCost)}
