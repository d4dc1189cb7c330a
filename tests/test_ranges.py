"""How sure a verdict is: ranges of constants, and what a run says when they vary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim import catalog
from sim.catalog.ranges import drawn, rule_of, with_range
from sim.cli.app import app
from sim.explore import ranges
from sim.explore.ranges import hypercube, ranged
from sim.facts.assumption import Range
from sim.hardware.device import Fact
from sim.results.sure import Constant
from sim.text.strict_yaml import ScenarioError
from sim.text.units import in_unit_of, quantity, show_field

ROOT = Path(__file__).resolve().parent.parent
# Constants that no scenario can set.
_NO_KEY = ("tile_rows", "tile_columns", "max_batch", "max_batched_tokens", "ways")
SCENARIO = {
    "question": "Does it pay?",
    "pod": {"topology": "atlas_800t_a2"},
    "model": {"name": "llama3-8b", "change": {"layers": 2}},
    "parallel": {"tensor": 4},
    "workload": {"kind": "decode", "batch": 4, "prompt_tokens": 256, "output_tokens": 4},
    "variants": {"plain": {}, "fetching": {"techniques": ["preserve"]}},
}


def test_every_constant_that_is_no_number_of_a_data_sheet_has_a_range() -> None:
    missing = []
    for name in catalog.names("devices"):
        card = catalog.device(name)
        for key, fact in card.facts.items():
            if fact.tag in ("READ", "CHECKED") or key in _NO_KEY:
                continue
            known = fact.range
            if known is None or not known.low <= known.value <= known.high or not known.source:
                missing.append(f"{name}: {key}")
    for name in catalog.names("libraries"):
        for key, fact in catalog.library(name).facts.items():
            own = ": " not in key and "times" not in catalog.library(name).facts
            if own and fact.range is None:
                missing.append(f"{name}: {key}")
    assert not missing


def test_shares_and_fixed_costs_have_a_range_whatever_their_tag() -> None:
    card = catalog.device("ascend_910b2")
    assert card.facts["matrix_efficiency"].tag == "READ"
    assert card.facts["matrix_efficiency"].range is not None
    assert card.facts["hbm_bytes_per_s"].range is None  # of a data sheet


def test_a_share_stays_a_share() -> None:
    fact = with_range("hbm_efficiency", Fact("0.97", "FITTED", "a fit"), 0.97)
    assert fact.range is not None and fact.range.high == 1.0
    assert rule_of("hbm_bytes", "READ") is None


@given(st.floats(1e-9, 1e12), st.floats(1.01, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_a_range_rises_from_low_to_high_in_even_ratios(
    low: float, factor: float, a: float, b: float
) -> None:
    known = Range(low, low, low * factor, "")
    assert known.at(0.0) == pytest.approx(low)
    assert known.at(1.0) == pytest.approx(low * factor)
    assert known.at((a + b) / 2) == pytest.approx((known.at(a) * known.at(b)) ** 0.5)


def test_a_range_from_zero_rises_evenly() -> None:
    assert Range(0.5, 0.0, 1.0, "").at(0.25) == 0.25


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 60), st.integers(0, 1000))
def test_a_hypercube_has_one_draw_in_each_part_of_each_axis(
    axes: int, draws: int, seed: int
) -> None:
    found = hypercube(axes, draws, seed)
    assert found.shape == (draws, axes)
    for axis in found.T:
        assert sorted(np.floor(axis * draws).astype(int)) == [*range(draws)]


@given(st.floats(1e-12, 1e15))
def test_a_value_is_written_exactly(value: float) -> None:
    for field in ("pod.change.device.kernel_overhead_s", "pod.change.device.l2_bytes_per_s"):
        written = in_unit_of(field, value)
        assert quantity(written)[0] == pytest.approx(value, rel=1e-15)
    assert in_unit_of("pod.change.device.hbm_efficiency", 0.5) == 0.5


def test_units_of_nested_fields() -> None:
    assert show_field("Ascend 910B2: matrix_flop_per_s.bf16", 3.5e14) == "350 TFLOP/s"


SKETCH = """
name: mine
matrix_flop_per_s: {bf16: 100 TFLOP/s}
vector_flop_per_s: 5 TFLOP/s
hbm_bytes: 32 GiB
hbm_bytes_per_s: {value: 1 TB/s, range: [0.8 TB/s, 1.2 TB/s]}
l2_bytes: 32 MiB
l2_bytes_per_s: 3 TB/s
kernel_overhead_s: 4 us
vector_overhead_s: 4 us
"""


def test_a_sketch_of_ones_own_has_bare_numbers_and_ranges(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SKETCH)
    card = catalog.device(file)
    told = card.facts["hbm_bytes_per_s"]
    assert (told.tag, told.source, told.value) == ("OWN", "mine", "1 TB/s")
    assert told.range == Range(1e12, 0.8e12, 1.2e12, "mine")
    assert card.facts["l2_bytes"].range is None
    assert card.facts["kernel_overhead_s"].range is not None  # a fixed cost is never known exactly


def test_a_range_that_does_not_hold_its_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SKETCH.replace("0.8 TB/s, 1.2", "1.1 TB/s, 1.2"))
    with pytest.raises(ScenarioError, match=r"hbm_bytes_per_s.*does not hold"):
        catalog.device(file)


def test_cards_are_read_as_drawn_and_a_scenario_still_has_the_last_word() -> None:
    name = "Ascend 910B2: hbm_efficiency"
    with drawn({name: 0.0}) as cards:
        low = catalog.device("ascend_910b2")
        set_by_hand = catalog.device("ascend_910b2", {"hbm_efficiency": 0.5})
    assert low.hbm_efficiency == pytest.approx(0.88 * 0.664)
    assert set_by_hand.hbm_efficiency == 0.5
    assert name in cards.seen
    assert catalog.device("ascend_910b2").hbm_efficiency == 0.664


def test_whatever_is_read_of_any_card_can_be_drawn() -> None:
    with drawn({}) as cards:
        for name in catalog.names("devices"):
            catalog.device(name)
        for name in catalog.names("libraries"):
            catalog.library(name)
        catalog.device("ascend_910b2", engine="sdma")
    for share in (0.0, 1.0):
        with drawn(dict.fromkeys(cards.seen, share)):
            for name in catalog.names("devices"):
                catalog.device(name)
            for name in catalog.names("libraries"):
                catalog.library(name)
            sdma = catalog.device("ascend_910b2", engine="sdma")
    assert sdma.prefetch_tail_share == pytest.approx(5 * 0.0005)


def test_the_times_of_a_library_stretch_all_its_ways() -> None:
    card, slow = catalog.library("nccl"), catalog.library("nccl", {"times": 2.0})
    for way, other in zip(card.ways, slow.ways):
        assert other.launch_s == 2 * way.launch_s and other.step_s == 2 * way.step_s
        assert other.link_efficiency == way.link_efficiency / 2
    assert slow.launch_s == 2 * card.launch_s


class _Line:
    """Runs whose judged number is the constant over 300 GB/s."""

    def at(self, what: str, points: list[dict[str, str]]) -> list[float]:
        return [quantity(point["rate_bytes_per_s"])[0] / 300e9 for point in points]


def test_the_threshold_is_where_the_number_passes_one() -> None:
    known = Range(1e12, 0.1e12, 2e12, "")
    constant = Constant("copy engine: rate_bytes_per_s", "INFER", "1 TB/s", known)
    knob = ranges._Knob(constant, ("rate_bytes_per_s",))
    curve, crossing = ranges._curve(_Line(), knob, True)  # type: ignore[arg-type]
    assert crossing == pytest.approx(300e9)
    assert len(curve) == ranges.CURVE


@pytest.mark.slow
def test_a_verdict_says_how_sure_it_is_whoever_computes_it() -> None:
    result = sim.run(SCENARIO)
    one = ranged(SCENARIO, (), result, draws=10, workers=1)
    assert one == ranged(SCENARIO, (), result, draws=10, workers=2)
    assert one.judged == "fetching.speedup"
    assert one.nominal == result.comparison["fetching"]["speedup"]
    assert len(one.draws) + one.lost == 10
    low, high = one.interval
    assert min(one.draws) <= low <= high <= max(one.draws)
    # The engine that fills L2 does not move what does not prefetch: only one variant has its key.
    engine = next(s for s in one.swings if "prefetch_bytes_per_s" in s.constant.name)
    assert engine.low < engine.high or engine.low == pytest.approx(engine.high)
    assert "inferred" in one.sentence and "four of five draws" in one.sentence


@pytest.mark.slow
def test_a_constant_at_its_own_value_changes_nothing() -> None:
    result = sim.run(SCENARIO)
    _, knobs, _ = ranges._knobs(SCENARIO, (), result)
    assert knobs
    point = {k: v for knob in knobs for k, v in knob.at(knob.constant.known.value).items()}
    again = sim.run(SCENARIO, {key: str(value) for key, value in point.items()})
    for name, variant in result.variants.items():
        for metric, value in variant["metrics"].items():
            assert again.variants[name]["metrics"][metric] == pytest.approx(value, rel=1e-12)


@pytest.mark.slow
def test_run_with_ranges_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.text import strict_yaml

    file, out = tmp_path / "pays.yaml", tmp_path / "out"
    file.write_text(strict_yaml.dump({**SCENARIO, "range": {"draws": 10}}))
    with pytest.raises(SystemExit) as stop:
        app(["run", str(file), "--out", str(out), "--workers", "1"])
    assert not stop.value.code
    told = json.loads((out / "result.json").read_text())["range"]
    assert told["judged"] == "fetching.speedup" and len(told["draws"]) + told["lost"] == 10
    assert "How sure" in (out / "report.html").read_text()
    assert "How sure" in capsys.readouterr().out.replace("\n", " ")


def test_wrong_ranges_are_refused(tmp_path: Path) -> None:
    for wrong in ({"draws": 5}, {"drawz": 50}, "yes please"):
        with pytest.raises(ScenarioError, match="range"):
            sim.load({**SCENARIO, "range": wrong})
    assert sim.load({**SCENARIO, "range": True}).range is not None
    assert sim.load({**SCENARIO, "range": False}).range is None
