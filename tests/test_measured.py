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
KIMI = Setup("moonshotai/Kimi-K2.5", "h200_sxm", "vllm", 8, 1)
QWEN = Setup("Qwen/Qwen3-235B-A22B-FP8", "h200_sxm", "sglang", 2, 1)
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


def test_recorded_takes_the_median_of_repeats_and_leaves_out_data_parallel_attention(tmp_path):
    file = tmp_path / "measured.csv.gz"
    lines = [
        "model_path,system,backend,mode,tp_size,pp_size,moe_tp_size,moe_ep_size,batch_size,isl,osl,silicon_tpot_ms,"
        "silicon_ttft_ms",
        *(
            f"{KIMI.model},h200_sxm,vllm,agg,8,1,8,1,16,1024,8192,{tpot},{ttft}"
            for tpot, ttft in ((63.98, 884), (16.0, 196), (16.004, 195))
        ),
        f"{KIMI.model},h200_sxm,vllm,agg,1,1,8,1,16,1024,8192,20,200",
        f"{KIMI.model},b200_sxm,vllm,agg,8,1,8,1,16,1024,8192,20,200",
    ]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    ((setup, loads),) = recorded(file).items()
    assert setup == KIMI
    assert list(loads) == [Load(16, 1024, 8192)]
    assert loads[Load(16, 1024, 8192)] == pytest.approx(Seen(0.016004, 0.196))


def test_without_data_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "MEASURED", tmp_path / "measured.csv.gz")
    (row,) = measured.measured()
    assert row.simulated == "not run" and row.ok is None and "is not there" in row.note


def test_the_stand_in_for_deepseek_r1_is_met(monkeypatch):
    monkeypatch.setattr(measured, "MEASURED", SHARED / "data/end_to_end/measured_ttft_tpot.csv.gz")
    if not measured.MEASURED.exists():
        pytest.skip(f"{SHARED} is not there")
    assert [row.ok for row in measured.measured(quick=True)] == [None, True, None]
