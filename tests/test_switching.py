"""Permutation traffic against the textbook, and N6 against BookSim's recorded runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.network import traffic
from sim.network.topology import build
from sim.network.traffic import PERMUTATIONS, link_load, saturation
from sim.network.wires import Wires
from sim.reproduce.switching import Fabric, played_rate, rows, zero_load_cycles

SHARED = Path(sim.__file__).resolve().parents[2] / "shared"
UNIT = {"bytes_per_s": 1.0, "latency_s": 0.0}


BOUND = "upper bound, up to 2x"
STEPS = """\
question: How long does it take?
pod: {{topology: {pod}}}
model: llama3-8b
parallel: {{tensor: {ranks}}}
workload: {{kind: decode, batch: 2, prompt_tokens: 30, output_tokens: 3}}
"""
JOBS = """\
question: How long does it take?
pod: {{topology: {pod}}}
workload:
  kind: collectives
  jobs: {{one: {{collective: all_reduce, bytes: 1 MiB, group: 0-{last}}}}}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STEPS.format(pod="storing", ranks=4), True),
        (STEPS.format(pod="storing", ranks=1), False),  # nothing is sent
        (JOBS.format(pod="storing", last=15), True),
        (JOBS.format(pod="irregular", last=7), True),
        (JOBS.format(pod="irregular", last=3), False),  # not over the switch that stores
        (JOBS.format(pod="cutting", last=15), False),
    ],
)
def test_times_over_switches_that_store_are_said_to_be_upper_bounds(text, said, tmp_path):
    pods = Path(sim.__file__).parents[1]
    named = {
        "storing": pods / "scenarios/pods/storing_switch_16.yaml",
        "cutting": pods / "scenarios/pods/switch_16.yaml",
        "irregular": pods / "topologies/irregular.yaml",
    }
    file = tmp_path / "scenario.yaml"
    for name, pod in named.items():
        text = text.replace(f"topology: {name}", f"topology: {pod}")
    file.write_text(text)
    result = sim.run(file)
    lines = [line for line in result.warnings if BOUND in line]
    rows = [row for row in result.outcomes["run"].assumptions if BOUND in row[1]]
    assert len(lines) == len(rows) == int(said)
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("name", PERMUTATIONS)
@pytest.mark.parametrize("chips", [1, 4, 16, 64])
def test_permutations_are_permutations(name, chips):
    assert sorted(PERMUTATIONS[name](chips).tolist()) == list(range(chips))


def test_permutations_by_hand():
    assert traffic.transpose(16)[0b0111] == 0b1101
    assert traffic.transpose(9).tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert traffic.bit_reverse(16)[0b0011] == 0b1100
    assert traffic.bit_complement(16)[0b0011] == 0b1100
    assert traffic.shuffle(16)[0b1010] == 0b0101
    assert traffic.shift(4, 3).tolist() == [3, 0, 1, 2]
    with pytest.raises(ValueError, match="shuffle needs a power of two of chips, not 6"):
        traffic.shuffle(6)
    with pytest.raises(ValueError, match="a square number of chips, not 8"):
        traffic.transpose(8)


def test_tornado_and_uniform_traffic_on_rings():
    """One way round only, k/2 - 1 links far: load k/2 - 1; a pair each: every link carries k**2 / 8
    and the ties."""
    for k in (4, 8, 16):
        ring = Wires(build("ring", k, 1.0, 0.0))
        assert link_load(ring, np.arange(k), traffic.shift(k, k // 2 - 1)).max() == k // 2 - 1
        assert link_load(ring, *traffic.all_to_all(k)).max() == k // 2 * (k // 2 + 1) / 2
        ring = Wires(build("ring", k, 1.0, 0.0, routing="spray"))
        assert link_load(ring, *traffic.all_to_all(k)).max() == pytest.approx(k * k / 8, rel=1e-12)


@given(st.sampled_from([(2, 3), (2, 4), (3, 2), (4, 2)]), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_any_permutation_of_a_fly_saturates_at_one_over_its_greatest_load(size, dice):
    k, n = size
    target = list(range(k**n))
    dice.shuffle(target)
    wires, source, target = Fabric("fly", k, n).wires(), np.arange(k**n), np.array(target)
    # After stage j a wire is known by the j + 1 high digits of the target and n - 1 - j of the
    # source: its high ones, for neighbours share the first switch.
    entry = source // k
    counted = max(
        np.bincount(target // k ** (n - 1 - j) * k ** (n - 1 - j) + entry % k ** (n - 1 - j)).max()
        for j in range(n)
    )
    assert link_load(wires, source, target).max() == counted
    assert saturation(wires, source, target) == pytest.approx(1 / counted, rel=1e-12)
    assert played_rate(wires, source, target) == pytest.approx(1 / counted, rel=1e-12)


@given(st.sampled_from([(2, 3), (3, 2), (4, 2)]), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_any_permutation_sprayed_over_a_fat_tree_or_benes_has_the_full_rate(size, dice):
    k, n = size
    target = list(range(k**n))
    dice.shuffle(target)
    for pod in (
        build("fat_tree", k=k, levels=n, routing="spray", **UNIT),
        build("benes", k=k, n=n, routing="spray", **UNIT),
    ):
        assert link_load(Wires(pod), np.arange(k**n), np.array(target)).max() <= 1 + 1e-12


@pytest.mark.parametrize(
    ("pattern", "load"), [("transpose", 16), ("bit_reverse", 16), ("bit_complement", 1)]
)
def test_worst_permutations_of_a_fly_load_a_wire_with_the_root_of_the_chips(pattern, load):
    fly = Wires(build("butterfly", k=2, n=8, terminals="shuffled", **UNIT))
    assert link_load(fly, np.arange(256), traffic.PERMUTATIONS[pattern](256)).max() == load


def test_expansion_relieves_a_fly():
    """Twice the wires between the stages, at most half the messages on each that is not a chip's
    own."""
    source = np.arange(64)
    loads = [
        link_load(
            Wires(build("butterfly", k=2, n=6, expansion=e, terminals="shuffled", **UNIT)),
            source,
            traffic.transpose(64),
        ).max()
        for e in (1, 2, 4)
    ]
    assert loads == [8, 4, 2]


def test_saturation_counts_in_units_of_a_chips_link():
    pod = build(
        "fat_tree",
        k=2,
        levels=3,
        oversubscription=2.0,
        routing="spray",
        bytes_per_s=5e9,
        latency_s=0.0,
    )
    assert saturation(Wires(pod), np.arange(8), traffic.bit_complement(8)) == pytest.approx(
        0.5, rel=1e-12
    )


def test_the_law_at_zero_load():
    assert zero_load_cycles(4.0, 1, "fly") == 18
    assert zero_load_cycles(5.0, 4, "torus") == 29
    assert Fabric("mesh", 8, 2).router_hops().mean() == 6.25
    assert Fabric("fattree", 4, 3).router_hops().mean() == 4.375
    assert set(Fabric("fly", 4, 3).router_hops().tolist()) == {3}


def test_n6():
    if not SHARED.exists():
        pytest.skip("BookSim's runs are not beside the checkout (../shared)")
    found = rows(SHARED)
    assert [row for row in found if row.ok is False] == []
    assert sum(row.ok is True for row in found) >= 70


def test_n6_without_the_recorded_runs(tmp_path):
    assert rows(tmp_path, quick=True)[0].ok is None
