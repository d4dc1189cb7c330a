"""Small inputs from practice, each of which stands for a kind: what is right for it.

The files are beside the project (`../shared/cases`); of each kind there is one more here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sim
from sim import catalog
from sim.scenario import ScenarioError
from sim.traces.description import described
from sim.traces.reading import open_trace
from sim.traces.stream import gathered

CASES = Path(__file__).parents[2] / "shared" / "cases"
there = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")


def metrics(path, overrides=()) -> dict[str, float]:
    return next(iter(sim.run(path, overrides).variants.values()))["metrics"]


def times(path) -> dict[str, float]:
    """Seconds of each job of a scenario of collectives."""
    part = next(iter(sim.run(path).outcomes.values())).part
    return {job.name: job.instances[0].end_s - job.instances[0].start_s for job in part.jobs}


def rows(tmp_path, *found, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


# What a format usually is, taken for what this file is: ticks.


@there
def test_01_stamps_that_are_no_ticks_stay():
    found = metrics(CASES / "01_burst_ms.yaml")
    assert found["ttft_mean_s"] == pytest.approx(75.6e-3, rel=1e-3)
    assert found["makespan_s"] == pytest.approx(1.324, rel=1e-3)
    assert found == metrics(CASES / "01_burst_same.yaml")


def test_ticks_are_found_kept_or_set(tmp_path):
    def arrivals(stamps, **how):
        row = {"input_length": 100, "output_length": 2}
        stream = open_trace(rows(tmp_path, *({"timestamp": s} | row for s in stamps)), **how)
        return gathered(stream).arrival_s.tolist(), stream.warnings

    ticks = [0, 3000, 3000, 6001, 9000]
    spread, said = arrivals(ticks)
    assert spread == [0.0, 3.0, 4.5, 6.001, 9.0] and "ticks of 3 s" in said[0]
    assert arrivals(ticks, ticks=False) == ([0.0, 3.0, 3.0, 6.001, 9.0], [])
    assert arrivals([0, 3000, 6000, 9000]) == ([0.0, 3.0, 6.0, 9.0], [])  # nothing is moved
    assert arrivals([0, 3000, 3000, 6500]) == ([0.0, 3.0, 3.0, 6.5], [])
    assert arrivals([0, 1000, 1000, 2000], ticks=1.0)[0] == [0.0, 1.0, 1.5, 2.0]


# Ids of prefix blocks that do not fit the length.


@there
def test_02_blocks_are_too_many_for_the_prompt():
    path = CASES / "02_blocks_of_16.jsonl"
    with pytest.raises(
        ValueError, match=r"4 blocks.* blocks of 512; in blocks of 16 they are right"
    ):
        gathered(open_trace(path))
    assert described(open_trace(path, block_tokens=16)).prefix_share == 0.25


def test_blocks_are_too_few_for_the_prompt(tmp_path):
    row = {"timestamp": 0, "input_length": 2000, "output_length": 5, "hash_ids": [1, 2]}
    with pytest.raises(ValueError, match="names 2 blocks"):
        gathered(open_trace(rows(tmp_path, row)))
    assert len(gathered(open_trace(rows(tmp_path, row | {"hash_ids": [1, 2, 3]})))) == 1


# Prefix hits in the engine's blocks.


@there
def test_03_a_prompt_that_comes_again_is_found_but_for_a_block():
    assert metrics(CASES / "03_prompt_again_512.yaml")["prefix_hit_rate"] == 3 * 496 / 2048


def test_a_part_of_a_recorded_block_is_found(tmp_path):
    row = {"input_length": 1000, "output_length": 2, "hash_ids": [1, 2]}
    rows(tmp_path, {"timestamp": 0} | row, {"timestamp": 5000} | row)
    scenario = tmp_path / "again.yaml"
    scenario.write_text(
        "question: q\npod: {topology: dgx_h100}\nmodel: llama3.1-8b\nworkload: {kind: requests, "
        "trace: {file: rows.jsonl}, prefix_caching: true, block_tokens: 64}\n"
    )
    assert metrics(scenario)["prefix_hit_rate"] == 960 / 2000  # 15 blocks of 64 of the second


# Optional keys that the first row does not have.


@there
def test_04_a_session_that_begins_later():
    assert metrics(CASES / "04_session_later.yaml")["makespan_s"] == pytest.approx(3.36, rel=2e-3)


def test_a_tenant_that_is_named_later(tmp_path):
    row = {"prompt_tokens": 10, "output_tokens": 2}
    path = rows(tmp_path, {"arrival_s": 0} | row, {"arrival_s": 1, "tenant": "a"} | row)
    stream = open_trace(path)
    assert gathered(stream).tenant.tolist() == [0, 1] and stream.tenants == ["", "a"]
    late = {"arrival_s": 1, "blocks_16": [1]} | row
    with pytest.raises(ValueError, match="row 2: blocks_16 is not in the first row"):
        gathered(open_trace(rows(tmp_path, {"arrival_s": 0} | row, late)))


def test_a_closed_loop_without_sessions(tmp_path):
    (tmp_path / "some.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n")
    scenario = tmp_path / "loop.yaml"
    scenario.write_text(
        "question: q\npod: {topology: dgx_h100}\nmodel: llama3.1-8b\nworkload: {kind: requests, "
        "trace: {file: some.csv}, closed_loop: true}\n"
    )
    with pytest.raises(ScenarioError, match=r"closed_loop: .* has no sessions"):
        sim.run(scenario)


# The quickest collective, and the order of a ring.


@there
@pytest.mark.parametrize("name", ["05_all_to_all_2x8", "05_all_to_all_8x2"])
def test_05_auto_is_the_quickest_as_played(name):
    found = times(CASES / f"{name}.yaml")
    assert found["auto"] == pytest.approx(found["direct"], rel=1e-9)
    assert found["auto"] == pytest.approx(0.426e-3, rel=2e-3)


@there
def test_06_a_ring_along_the_quickest_wires():
    found = times(CASES / "06_ring_over_cube_mesh.yaml")
    assert found["auto"] == pytest.approx(1.839e-3, rel=1e-3)
    assert found["auto"] == pytest.approx(found["on_double_links"], rel=1e-12)


# What a config.json says beside the sizes.


@there
def test_07_weights_as_the_file_stores_them():
    path = CASES / "07_70b_fp8.yaml"
    found = sim.run(path)
    told = next(iter(found.variants.values()))["metrics"]
    assert told["tpot_mean_s"] == pytest.approx(17.37e-3, rel=1e-3)
    assert told == metrics(path, {"precision.weights": "fp8"})
    assert any("fp8" in warning for warning in found.warnings)
    assert metrics(path, {"precision.weights": "fp16"})["tpot_mean_s"] == pytest.approx(
        29.02e-3, rel=1e-3
    )


@there
def test_08_biases():
    assert catalog.model(str(CASES / "08_llama_biases.json")).parameters == 99_902_464


@there
def test_09_a_stretched_context():
    assert metrics(CASES / "09_yarn.yaml")["requests"] == 2
    assert catalog.model(str(CASES / "09_yarn.json")).max_tokens == 131_072


@there
def test_12_a_family_whose_parts_are_there():
    model = catalog.model(str(CASES / "12_glm4_moe.json"))
    assert model.parameters == pytest.approx(352.8e9, rel=1e-4)
    assert model.active_parameters == pytest.approx(33.6e9, rel=1e-3)
    assert 2 * 2 * model.kv_heads * model.head_dim * model.layers == 376_832


# What a machine cannot hold.


@there
def test_10_a_cache_larger_than_the_hbm():
    with pytest.raises(ScenarioError, match=r"kv_tokens: 100,000,000 tokens .* 13\.1 TB"):
        sim.run(CASES / "10_kv_tokens.yaml")


@there
def test_11_a_product_with_too_many_tiles():
    with pytest.raises(ScenarioError, match="3,489,660,928 tile ops"):
        sim.run(CASES / "11_large_product.yaml")


# Peers' files, ids twice, clocks.


@there
def test_13_a_result_of_a_benchmark():
    stream = open_trace(CASES / "13_bench_result.json")
    found = gathered(stream)
    assert found.arrival_s.tolist() == [0.0, 1.0]
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([10, 20], [5, 7])
    assert "1 row skipped, failed" in stream.warnings[0]


def test_lists_conversations_and_other_commas(tmp_path):
    row = {"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 2}
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([row, row | {"arrival_s": 3}], indent=1))
    assert gathered(open_trace(listed)).arrival_s.tolist() == [0.0, 3.0]
    talk = rows(tmp_path, {"conversations": [{"from": "human", "value": "hi"}]})
    with pytest.raises(ValueError, match="whole conversation"):
        open_trace(talk)
    for comma in ";\t":
        text = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1.5,20,6\n".replace(",", comma)
        (tmp_path / "other.csv").write_text(text)
        assert gathered(open_trace(tmp_path / "other.csv")).prompt_tokens.tolist() == [10, 20]


@there
def test_14_an_id_twice_in_one_prompt():
    assert described(open_trace(CASES / "14_id_twice.jsonl")).prefix_share == 0.0
    assert described(open_trace(CASES / "43_ids_of_64_bits.jsonl")).prefix_share == pytest.approx(
        1 / 3
    )


@there
def test_15_nanoseconds_under_a_name_of_seconds():
    path = CASES / "15_nanoseconds.yaml"
    with pytest.raises(ScenarioError, match=r"1\.7e\+18 s, .* in ns\?"):
        sim.run(path)
    assert metrics(path, {"workload.trace.clock": "ns"})["makespan_s"] < 2


def test_milliseconds_from_the_start(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n86400000000,1,1\n")
    with pytest.raises(ValueError, match="in ms"):
        gathered(open_trace(path))
    assert gathered(open_trace(path, clock="ms")).arrival_s.tolist() == [0.0, 86_400_000.0]


# Right before, to be kept.


@there
def test_40_to_49_stay_as_they_were():
    found = metrics(CASES / "40_small_cache.yaml")
    assert (found["requests"], found["preemptions"]) == (200, 163)
    assert metrics(CASES / "42_unequal_pools.yaml")["requests"] == 20
    hops = times(CASES / "44_hops.yaml")
    assert [*hops.values()] == pytest.approx([7e-6, 8e-6, 9e-6, 10e-6], rel=1e-4)
    found = times(CASES / "45_ring_and_two_shot.yaml")
    assert [found[name] for name in ("ring", "two_shot", "gather")] == pytest.approx(
        [3.51914e-3, 3.50702e-3, 1.18648e-3], rel=1e-5
    )
    assert metrics(CASES / "46_tp1_ep4.yaml")["makespan_s"] > 0
    sizes = {
        name: catalog.model(str(CASES / f"{name}.json")).parameters / 1e9
        for name in ("47_phi4_mini", "48_moonlight_16b")
    }
    assert [*sizes.values()] == pytest.approx([3.836, 15.960], rel=1e-4)
    found = gathered(open_trace(CASES / "49_azure_bom_crlf.csv"))
    assert len(found) == 3 and found.arrival_s[-1] == pytest.approx(98.1e-3, rel=1e-3)
