"""Small inputs from practice, each of which stands for a kind: what is right for it.

The files are beside the project (`../shared/cases`); of each kind there is one more here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sim
from sim import catalog
from sim.dnn.gemm_file import read_gemms
from sim.graph.routing import recorded
from sim.scenario import ScenarioError
from sim.traces.arrivals import Arrivals
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


def test_ids_fit_with_a_partial_block_and_without_in_any_size(tmp_path):
    row = {"timestamp": 0, "input_length": 100, "output_length": 5, "hash_ids": [*range(7)]}
    for ids in (6, 7):  # 6 whole blocks of 16, and four tokens more
        path = rows(tmp_path, row | {"hash_ids": [*range(ids)]})
        assert len(gathered(open_trace(path, block_tokens=16))) == 1
    with pytest.raises(ValueError, match="names 7 blocks"):
        gathered(open_trace(rows(tmp_path, row), block_tokens=64))


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


def test_a_group_on_wires_of_its_own_and_one_without_a_closed_walk(tmp_path):
    """A ring of six by double wires among thin ones; and a line, which a ring goes as given."""
    walk = [0, 2, 4, 1, 5, 3]
    quick = {frozenset(pair) for pair in zip(walk, [*walk[1:], walk[0]])}
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    wide = [[a, b, {"bytes_per_s": "100 GB/s"}] for a, b in pairs if frozenset((a, b)) in quick]
    thin = [[a, b] for a, b in pairs if frozenset((a, b)) not in quick]
    head = (
        "device: h100_sxm\nlibrary: nccl\nshape: edges\n"
        "link: {bytes_per_s: 10 GB/s, latency_s: 1 us, tag: INFER, source: made up}\n"
    )

    def ring_s(edges, group):
        (tmp_path / "pod.yaml").write_text(f"name: pod\n{head}edges: {json.dumps(edges)}\n")
        scenario = tmp_path / "ring.yaml"
        job = f"{{collective: all_reduce, bytes: 60 MB, algorithm: ring, group: {group}}}"
        scenario.write_text(
            "question: q\npod: {topology: pod.yaml, change: {library: {launch_s: 0 s, step_s: 0 s, "
            f"link_efficiency: 1.0}}}}}}\nworkload: {{kind: collectives, jobs: {{a: {job}}}}}\n"
        )
        return times(scenario)["a"]

    assert ring_s(wide + thin, [*range(6)]) == pytest.approx(10 * (10e6 / 100e9 + 1e-6), rel=1e-6)
    line = [[at, at + 1] for at in range(5)]
    assert ring_s(line, [*range(6)]) >= 10 * (10e6 / 10e9 + 1e-6)


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


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 1000,
}


def config(tmp_path, **more):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | more))
    return catalog.model(str(path))


def test_biases_of_attention_and_of_an_mlp(tmp_path):
    bare = config(tmp_path).parameters
    qkv, o, mlp = 64 + 2 * 32, 64, 2 * 256 + 64
    assert config(tmp_path, attention_bias=True).parameters == bare + 2 * (qkv + o)
    assert config(tmp_path, mlp_bias=True).parameters == bare + 2 * mlp


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 4000),
        ({"type": "dynamic", "factor": 2.0}, 2000),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 500}, 2000),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 500}, 1000),
        ({"rope_type": "longrope", "original_max_position_embeddings": 500}, 1000),
        (None, 1000),
    ],
)
def test_contexts_as_rope_stretches_them(tmp_path, scaling, tokens):
    assert config(tmp_path, rope_scaling=scaling).max_tokens == tokens


# What a machine cannot hold.


@there
def test_10_a_cache_larger_than_the_hbm():
    with pytest.raises(ScenarioError, match=r"kv_tokens: 100,000,000 tokens .* 13\.1 TB"):
        sim.run(CASES / "10_kv_tokens.yaml")


@there
def test_11_a_product_with_too_many_tiles():
    with pytest.raises(ScenarioError, match="3,489,660,928 tile ops"):
        sim.run(CASES / "11_large_product.yaml")


ONE = "question: q\npod: {topology: dgx_h100}\nmodel: llama3.1-8b\n"


@pytest.mark.parametrize(
    ("work", "what"),
    [
        ("kind: requests, trace: {file: t.csv}, kv: reserve, kv_tokens: 100000000", "13.1 TB"),
        (
            "kind: requests, trace: {file: t.csv}, kv: paged, prefill: {replicas: 1, kv_tokens: "
            "100000000}",
            r"workload\.prefill\.kv_tokens: .*13\.1 TB",
        ),
        *(
            (
                f"kind: tenants, sharing: {sharing}, tenants: {{a: {{model: llama3.1-8b, trace: "
                "{file: t.csv}, kv: paged, kv_tokens: 100000000}, b: {model: llama3.1-8b, trace: "
                "{file: t.csv}}}",
                r"workload\.tenants\.a\.kv_tokens: .*13\.1 TB",
            )
            for sharing in ("partitioned", "time_sliced", "co_resident")
        ),
        ("kind: requests, trace: {file: t.csv}, max_batched_tokens: 100000000", "does not fit"),
        ("kind: decode, batch: 100000, prompt_tokens: 1000, output_tokens: 3", "not its KV-cache"),
    ],
)
def test_what_the_hbm_cannot_hold(tmp_path, work, what):
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n")
    scenario = tmp_path / "much.yaml"
    head = ONE.replace("model: llama3.1-8b\n", "") if "tenants" in work else ONE
    scenario.write_text(f"{head}workload: {{{work}}}\n")
    with pytest.raises(ScenarioError, match=what):
        sim.run(scenario)


def test_a_prompt_of_a_large_model_is_too_much_for_a_schedule(tmp_path):
    scenario = tmp_path / "large.yaml"
    scenario.write_text(
        "question: q\npod: {array: {pods: 256, rows: 32, cols: 32}}\nworkload: {kind: networks, "
        "networks: {n: {model: llama3.1-405b, phase: prefill, tokens: 8192}}}\n"
    )
    with pytest.raises(ScenarioError, match="108,869,406,720 tile ops"):
        sim.run(scenario)


def test_requests_have_no_constant_limit(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,3000000,2\n")
    assert gathered(open_trace(path)).prompt_tokens.tolist() == [3_000_000]


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


def test_an_id_that_an_earlier_prompt_had_twice(tmp_path):
    row = {"timestamp": 0, "input_length": 1024, "output_length": 5}
    first, second = row | {"hash_ids": [7, 7]}, row | {"timestamp": 9, "hash_ids": [7, 8]}
    assert described(open_trace(rows(tmp_path, first, second))).prefix_share == 0.25


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"experiments": []}, "a result of GenAI-Perf"),
        ({"benchmarks": [{"requests": {}}]}, "a result of GuideLLM"),
        ([{"number_input_tokens": 1, "ttft_s": 0.1}], "a result of LLMPerf"),
        ({"input_lens": [1, 2], "output_lens": [3]}, "as long as each other"),
        ({"session_id": "a", "turns": [{"input_length": 1}]}, "whole conversation"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_what_peers_save_is_refused_by_its_name(tmp_path, found, told, indent):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(found, indent=indent))
    if "turns" in found and indent:
        told = "one JSON object with the keys session_id, turns"
    with pytest.raises(ValueError, match=told):
        open_trace(path)


def test_a_result_without_times_comes_at_once_or_at_a_rate(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"input_lens": [10, 20], "output_lens": [5, 7]}))
    stream = open_trace(path)
    assert gathered(stream).arrival_s.tolist() == [0.0, 0.0]
    assert "has no times" in stream.warnings[0]
    stream = open_trace(path, arrivals=Arrivals(2.0))
    assert gathered(stream).arrival_s[1] > 0 and not stream.warnings
    for unused in ({"speed": 2.0}, {"ticks": 3.0}):
        with pytest.raises(ValueError, match="which a rate replaces"):
            open_trace(path, arrivals=Arrivals(2.0), **unused)


def test_a_key_given_twice_is_refused_by_every_reader(tmp_path):
    one = '{"arrival_s": 0, "prompt_tokens": 1, "prompt_tokens": 9, "output_tokens": 2}'
    texts = {
        "first.jsonl": one,
        "second.jsonl": one.replace(' "prompt_tokens": 9,', "") + "\n" + one,
        "list.json": f"[{one}]",
        "result.json": '{"input_lens": [1], "output_lens": [2], "input_lens": [3]}',
        "nested.jsonl": '{"created": 1, "usage": {"prompt_tokens": 1, "prompt_tokens": 2, '
        '"completion_tokens": 3}}',
        "csv.csv": "arrival_s,prompt_tokens,prompt_tokens,output_tokens\n0,1,9,2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text + "\n")
        with pytest.raises(ValueError, match="twice"):
            gathered(open_trace(tmp_path / name))
    (tmp_path / "counts.json").write_text('{"0": [1, 2], "0": [3, 4]}')
    with pytest.raises(ValueError, match="'0' is given twice"):
        recorded(tmp_path / "counts.json")
    (tmp_path / "config.json").write_text('{"quantization_config": {"bits": 4, "bits": 8}}')
    with pytest.raises(ScenarioError, match="bits: this key is given twice"):
        catalog.model(str(tmp_path / "config.json"))


def test_dates_and_tables_as_other_programs_write_them(tmp_path):
    dates = (
        "2024/05/01 10:00:00",
        "2024-05-01 10:01",
        "2024-05-01T10:01:01,5Z",
        "2024-05-01 10:01:02 UTC",
        "2024-05-01 12:01:03+02",
    )
    path = tmp_path / "dates.csv"
    path.write_text(
        "TIMESTAMP;ContextTokens;GeneratedTokens\n" + "".join(f"{date};1;2\n" for date in dates)
    )
    assert gathered(open_trace(path)).arrival_s.tolist() == [0.0, 60.0, 61.5, 62.0, 63.0]
    plain = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n"
    path.write_text(plain.replace(",", "|"))
    assert len(gathered(open_trace(path))) == 1
    for text, told in (
        (plain.encode("utf-16"), "UTF-16"),
        (plain.replace("\n", "\r").encode(), "CR alone"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n05/01/2024 10:00,1,2\n", "not a time like"),
    ):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=told):
            gathered(open_trace(path))


def test_lists_of_products_as_other_programs_write_them(tmp_path):
    path = tmp_path / "products.csv"
    for comma in ",;\t|":
        path.write_text("m,n,k\n4,5,6\n".replace(",", comma))
        [layer] = read_gemms(path)[0].layers
        assert (layer.m, layer.n, layer.k) == (4, 5, 6)
    path.write_text("Layer,M,N,K\nl0,64,32,16\n")
    with pytest.raises(ValueError, match="columns of SCALE-Sim and BLAS"):
        read_gemms(path)


@pytest.mark.parametrize(
    ("stamps", "asked"),
    [([1714070000, 1714070001], "clock: s"), ([0.25, 1.75], "clock: s"), ([1.7e18, 1.7e18], "ns")],
)
def test_a_clock_of_seconds_where_milliseconds_are_due(tmp_path, stamps, asked):
    row = {"input_length": 100, "output_length": 2}
    path = rows(tmp_path, *({"timestamp": stamp} | row for stamp in stamps))
    with pytest.raises(ValueError, match=asked):
        gathered(open_trace(path))
    found = gathered(open_trace(path, clock="s")).arrival_s.tolist()
    assert found == [0.0, stamps[1] - stamps[0]]


def test_milliseconds_from_the_start(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n86400000000,1,1\n")
    with pytest.raises(ValueError, match="in ms"):
        gathered(open_trace(path))
    assert gathered(open_trace(path, clock="ms")).arrival_s.tolist() == [0.0, 86_400_000.0]


# Right before, to be kept.


@there
def test_41_what_is_left_of_a_chunk_is_used():
    assert metrics(CASES / "41_chunk_budget.yaml")["steps"] == 2


@pytest.mark.parametrize(
    ("prompts", "steps"), [((4, 8), 2), ((3, 3, 10), 2), ((8, 8), 2), ((9,), 2)]
)
def test_chunks_fill_their_budget(tmp_path, prompts, steps):
    lines = "".join(f"0,{prompt},1\n" for prompt in prompts)
    (tmp_path / "t.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{lines}")
    scenario = tmp_path / "chunks.yaml"
    work = "kind: requests, trace: {file: t.csv}, policy: chunked, max_batched_tokens: 8"
    scenario.write_text(f"{ONE}workload: {{{work}}}\n")
    assert metrics(scenario)["steps"] == steps


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
