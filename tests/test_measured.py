"""Engines under the load of a benchmark: what must hold whatever was measured."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sim.reproduce import host, measured
from sim.reproduce.host import one_replica
from sim.reproduce.measured import Load, Seen, Setup, recorded, under_load
from sim.traces.columns import Columns

SHARED = Path(__file__).resolve().parents[2] / "shared"
KIMI = measured.STAND_IN
QWEN = Setup("Qwen/Qwen3-235B-A22B-FP8", "h200_sxm", "sglang", 2, 1, format="fp8_block")
LOADS = (Load(1, 1000, 40), Load(6, 1000, 40), Load(6, 3000, 40))


@pytest.fixture(scope="module", autouse=True)
def graphs():
    """Each load has its machine priced anew: the graphs for it are built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "transformer", cache(host.transformer))
        yield


@pytest.mark.parametrize("setup", [KIMI, QWEN], ids=lambda setup: setup.model)
def test_tpot_under_load_is_never_below_a_decode_step_of_all_clients_at_the_shortest_context(setup):
    found = under_load(setup.host, LOADS)
    for load, seen in found.items():
        same = np.full(load.clients, int(0.8 * load.prompt))
        replica = one_replica("prefill_first", load.clients, same.sum(), 16 * same.sum())
        alone = setup.host.serve(
            Columns(np.zeros(load.clients), same, np.full(load.clients, 2)), replica
        ).requests
        assert seen.tpot_s >= (alone.last_token_s - alone.first_token_s).max()
    tpots = [found[load].tpot_s for load in LOADS]
    assert tpots == sorted(tpots), "more clients, or longer prompts of theirs, are never quicker"


def test_a_load_does_not_know_of_those_before_it():
    together = under_load.__wrapped__(KIMI.host, LOADS)
    assert together == under_load(KIMI.host, LOADS)
    for load in LOADS:
        assert under_load(KIMI.host, (load,))[load] == pytest.approx(together[load], rel=1e-6)


def test_a_load_that_the_kv_cache_has_no_room_for_is_left_out():
    assert not under_load(QWEN.host, (Load(1, 90_000, 10),))


HEADER = (
    "model_path,system,backend,mode,tp_size,moe_ep_size,gpus,moe_quant_mode,batch_size,clients,"
    "isl,osl,silicon_tpot_ms,silicon_ttft_ms,flag"
)
KIMI_8 = f"{KIMI.model},h200_sxm,vllm,agg,8,1,8,int4_wo,16,16,1024,8192"


def table(tmp_path, *rows):
    file = tmp_path / "measured.csv.gz"
    file.write_bytes(gzip.compress("\n".join([HEADER, *rows]).encode()))
    return file


def test_recorded_takes_the_median_of_repeats_and_leaves_out_what_the_data_marks(tmp_path):
    file = table(
        tmp_path,
        *(f"{KIMI_8},{tpot}," for tpot in ("63.98,884", "16.0,196", "16.004,195")),
        *(f"{KIMI_8},1,1,{flag}" for flag in ("duplicate", "impossible", "outlier_recorder")),
        "meta-llama/Llama-3.1-70B,h200_sxm,vllm,agg,8,1,8,fp8,16,16,1024,8192,20,200,",
    )
    ((setup, loads),) = recorded(file).items()
    assert setup == KIMI
    assert list(loads) == [Load(16, 1024, 8192)]
    assert loads[Load(16, 1024, 8192)] == pytest.approx(Seen(0.016004, 0.196))


def test_layouts_are_what_the_gpus_say(tmp_path):
    """Attention with data parallelism; a degree that was multiplied by itself; clients of all
    ranks."""
    model = "moonshotai/Kimi-K2.5,h200_sxm,vllm,agg"
    file = table(
        tmp_path,
        f"{model},2,1,8,int4_wo,4,16,1024,8192,20,200,",
        f"{model},4,16,4,int4_wo,4,,1024,8192,20,200,label_square_tp",
    )
    found = {
        (setup.tensor, setup.data, setup.expert): [*loads]
        for setup, loads in recorded(file).items()
    }
    assert found == {
        (2, 4, 1): [Load(16, 1024, 8192)],
        (4, 1, 4): [Load(4, 1024, 8192)],
    }


def test_every_set_up_is_judged_or_said_not_to_be_modelled(tmp_path, monkeypatch):
    """Whatever is in the table has a row; what can be played has a verdict, right or wrong."""
    load = "4,4,1024,1024"
    file = table(
        tmp_path,
        f"openai/gpt-oss-120b,h200_sxm,vllm,agg,1,1,1,nvfp4,{load},10,200,",
        f"openai/gpt-oss-120b,h200_sxm,vllm,agg,2,1,2,nvfp4,{load},10,200,",
        f"openai/gpt-oss-120b,b300_sxm,vllm,agg,2,1,2,nvfp4,{load},10,200,",
        f"moonshotai/Kimi-K2.5,b200_sxm,vllm,agg,8,1,8,nvfp4,{load},10,200,",
        f"zhipuai/GLM-5,h200_sxm,sglang,agg,8,1,8,fp8_block,{load},10,200,",
        f"deepseek-ai/DeepSeek-R1,gb200,sglang,agg,72,1,72,fp8_block,{load},10,200,",
    )
    monkeypatch.setattr(measured, "MEASURED", file)
    tpot = {1: 0.0121, 2: 0.005}  # off by +21 and -50 %
    monkeypatch.setattr(
        measured,
        "under_load",
        lambda host, loads: {at: Seen(tpot[host.parallel.tensor], 1.0) for at in loads},
    )
    rows = measured.measured()
    told = {row.what.partition(": TPOT")[0]: row for row in rows}
    judged = {what: row.simulated for what, row in told.items() if row.ok is not None}
    assert judged == pytest.approx(
        {
            "gpt-oss-120b on h200_sxm x 1, EP 1, vllm": 0.21,
            "gpt-oss-120b on h200_sxm x 2, EP 1, vllm": 0.5,
            "gpt-oss-120b on h200_sxm, vllm, all 2 layouts": 0.355,
        }
    )
    assert not any(told[what].ok for what in judged)
    why = {what: row.note for what, row in told.items() if what not in judged}
    assert "no card of the GPU" in why["gpt-oss-120b on b300_sxm, vllm, experts in nvfp4"]
    assert "experts in nvfp4" in why["Kimi-K2.5 on b200_sxm, vllm, experts in nvfp4"]
    assert "no card of the model" in why["GLM-5 on h200_sxm, sglang, experts in fp8_block"]
    assert "72" in why["DeepSeek-R1 on gb200, sglang, experts in fp8_block"]
    assert len(why) == 5 and all(told[what].simulated is None for what in why)


def test_without_data_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "MEASURED", tmp_path / "measured.csv.gz")
    (row,) = measured.measured()
    assert row.simulated is None and row.ok is None and "is not there" in row.note


def test_the_stand_in_for_deepseek_r1_is_met(monkeypatch):
    monkeypatch.setattr(measured, "MEASURED", SHARED / "data/end_to_end/measured_ttft_tpot.csv.gz")
    if not measured.MEASURED.exists():
        pytest.skip(f"{SHARED} is not there")
    judged = [row for row in measured.measured(quick=True) if row.ok is not None]
    assert [row.ok for row in judged] == [True]
