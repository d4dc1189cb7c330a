"""Replicas served by several processes, here or on a cluster: the same bytes as by one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

import sim.run  # noqa: F401  (the function `sim.run` hides the module)
from sim import run

SCENARIO = """question: The same?
pod: {{topology: atlas_800t_a2}}
model: {model}
parallel: {{tensor: {tensor}}}
record: {{from_s: 0.1 s, until_s: 0.12 s}}
workload:
  kind: requests
  trace: {{file: asked.jsonl, block_tokens: 64}}
  replicas: 5
  router: {router}
  policy: {policy}
  max_batch: 8
  max_batched_tokens: 256
  kv: paged
  kv_tokens: 6000
  prefix_caching: {caching}
  admission: {{order: priority, shares: [0.3, 0.7]}}
"""


@pytest.fixture
def module(monkeypatch):
    import sys

    found = sys.modules["sim.run"]
    monkeypatch.setattr(found, "_SPREAD_FROM", 1)
    return found


def write(folder, router="round_robin", policy="chunked", caching="false", tensor=1, requests=250):
    model = (
        "smollm2-135m" if tensor == 1 else "llama3-8b"
    )  # the small one's weights would stay in L2: no closed form
    dice = np.random.default_rng(5)
    rows = []
    for i in range(requests):
        prompt, family = int(dice.integers(1, 900)), int(dice.integers(0, 6))
        blocks = [family * 100 + b if b < 5 else 1000 * (i + 1) + b for b in range(prompt // 64)]
        rows.append(
            f'{{"timestamp": {i * 4}, "input_length": {prompt}, '
            f'"output_length": {int(dice.integers(1, 80))}, '
            f'"chat_id": {int(dice.integers(0, 40))}, "hash_ids": {blocks}}}'
        )
    (folder / "asked.jsonl").write_text("\n".join(rows) + "\n")
    path = folder / "scenario.yaml"
    path.write_text(
        SCENARIO.format(router=router, policy=policy, caching=caching, tensor=tensor, model=model)
    )
    return path


@contextmanager
def threads(workers, cluster):
    """In place of processes, which take a second each to start."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit, workers - 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"router": "sticky"},
        {"caching": "true"},
        {
            "policy": "prefill_first",
            "tensor": 4,
        },  # whole prompts make the price table grow, when they come
        {"router": "sticky", "policy": "prefill_first", "caching": "true"},
        {"router": "least_loaded"},  # asks how replicas are: stays in one process
    ],
    ids=str,
)
def test_the_number_of_processes_changes_no_byte(how, tmp_path, module, monkeypatch):
    path = write(tmp_path, **how)
    alone = run(path).files()
    monkeypatch.setattr(module, "_elsewhere", threads)
    begun = []
    real = module.play_named_share
    monkeypatch.setattr(
        module, "play_named_share", lambda *more: begun.append(more[-2:]) or real(*more)
    )
    for workers in (2, 3, 7):
        assert run(path, workers=workers).files() == alone
    spread = how.get("router") != "least_loaded"
    assert sorted(begun) == sorted((i, n) for n in (2, 3, 5) for i in range(1, n)) * spread


def test_in_processes_of_their_own(tmp_path, monkeypatch):
    # Chunks of more rows than are known beforehand count as many.
    path = write(tmp_path, requests=150)
    alone = run(path)
    import sys

    monkeypatch.setattr(sys.modules["sim.run"], "_SPREAD_FROM", 1)
    assert run(path, workers=2).files() == alone.files()


def test_on_a_cluster(tmp_path, module):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    path = write(tmp_path, requests=150)
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": False,
        "dashboard_address": None,
    }
    with distributed.LocalCluster(**options) as cluster:
        assert run(path, cluster=cluster.scheduler_address).files() == run(path).files()


def test_a_cluster_that_does_not_answer_is_one_error(tmp_path, module, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

    def silent(address, timeout):
        raise OSError(f"Timed out trying to connect to {address}")

    monkeypatch.setattr(distributed, "Client", silent)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at .tcp:"):
        run(write(tmp_path), cluster="tcp://127.0.0.1:1")
