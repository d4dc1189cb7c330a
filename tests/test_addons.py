"""What installed packages add: a package of somebody else's, found by its entry points alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import forked
import pytest
import yaml
from addons.podscope_toy.wires import TABLE_OF_SIX

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ADDONS = HERE / "addons"
ENTRIES = {
    "kind.coins": "podscope_toy.coins:KIND",
    "technique.half_flop": "podscope_toy.rows:HALF_FLOP",
    "metric.hbm_bytes_a_token": "podscope_toy.rows:BYTES_A_TOKEN",
    "format.semicolons": "podscope_toy.rows:SEMICOLONS",
    "router.last": "podscope_toy.rows:LAST",
    "order.patient": "podscope_toy.rows:PATIENT",
    "interconnect.twin": "podscope_toy.rows:TWIN",
    "dataflow.turned": "podscope_toy.rows:TURNED",
    "dnn.mlp": "podscope_toy.rows:MLP",
    "dnn_file..mlp": "podscope_toy.rows:MLP_FILE",
    "device.toy_chip": "podscope_toy.files:DEVICE",
    "kv_card.toy_card": "podscope_toy.files:CARD",
    "dnn_card.toy_cells": "podscope_toy.files:CELLS",
    "topology.toy_pod": "podscope_toy.files:POD",
    "shape.cycle": "podscope_toy.wires:CYCLE",
    "algorithm.all_reduce.gather_and_add": "podscope_toy.wires:GATHER_AND_ADD",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder that looks as if the package had been installed into it."""
    return installed(tmp_path / "site", ENTRIES)


def installed(site: Path, entries: dict[str, str]) -> Path:
    info = site / "podscope_toy-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: podscope-toy\nVersion: 0.3\n")
    lines = "\n".join(f"{name} = {where}" for name, where in entries.items())
    (info / "entry_points.txt").write_text(f"[podscope]\n{lines}\n")
    (site / "podscope_toy").symlink_to(ADDONS / "podscope_toy", target_is_directory=True)
    return site


def podscope(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return forked.podscope(*args, cwd=site, path=site)


def run(site: Path, scenario: dict, *args: str) -> tuple[dict, Path, str]:
    (site / "asked.yaml").write_text(yaml.safe_dump({"question": "?", **scenario}))
    done = podscope(site, "run", "asked.yaml", "--out", "out", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((site / "out" / "result.json").read_text()), site / "out", done.stdout


def test_a_kind_runs_from_yaml_to_report(toy: Path) -> None:
    found, out, shown = run(
        toy,
        {
            "pod": {"topology": "single"},
            "workload": {"kind": "coins", "flips": 4},
            "variants": {"few": {}, "many": {"workload": {"flips": 8}}},
            "expect": ["many.heads == 4", "many.speedup == 0.5", "few.makespan_s == 0.004"],
        },
    )
    assert found["variants"]["few"]["metrics"] == {"heads": 2.0, "makespan_s": 0.004}
    assert all(claim["ok"] for claim in found["expect"])
    page = (out / "report.html").read_text()
    assert "All coins of few, many have landed." in page and "few: 2 heads. many: 4 heads." in page
    assert "coins that landed on their heads" in page and "heads" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"workload": {"kind": "coins", "flips": 3}},
            "an odd number of flips cannot come out even",
        ),
        ({"workload": {"kind": "coins", "flip": 4}}, "unknown key, did you mean 'flips'?"),
        ({"workload": {"kind": "coin", "flips": 4}}, "did you mean 'coins'?"),
        ({"model": "llama3-8b"}, "a workload of coins reads workload, pod, record"),
        ({"expect": ["run.tails > 0"]}, "'tails' is not a metric of a workload of coins"),
    ],
)
def test_a_mistake_in_it_is_told_as_of_any_other(toy: Path, change: dict, said: str) -> None:
    scenario = {
        "question": "?",
        "pod": {"topology": "single"},
        "workload": {"kind": "coins", "flips": 4},
        **change,
    }
    (toy / "asked.yaml").write_text(yaml.safe_dump(scenario))
    done = podscope(toy, "check", "asked.yaml")
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "asked.yaml:" in done.stderr and "Traceback" not in done.stderr


_BATCH = {"kind": "decode", "batch": 2, "prompt_tokens": 40, "output_tokens": 8}


def test_a_technique_a_device_and_a_metric(toy: Path) -> None:
    found, out, shown = run(
        toy,
        {
            "pod": {"topology": "toy_pod"},
            "model": "llama3-8b",
            "workload": _BATCH,
            "variants": {"plain": {}, "half": {"techniques": [{"half_flop": {"share": 0.25}}]}},
            "expect": ["half.hbm_bytes_a_token > 1e9", "half.hbm_bytes_a_token_ratio == 1"],
        },
    )
    plain, half = (found["variants"][name]["metrics"] for name in ("plain", "half"))
    assert half["mfu"] * half["makespan_s"] == pytest.approx(plain["mfu"] * plain["makespan_s"] / 4)
    assert plain["hbm_bytes_a_token"] == plain["hbm_bytes"] / 16
    assert "HBM bytes a token" in shown and "GB" in shown
    assert (
        "bytes over the HBM port of one rank / output tokens" in (out / "report.html").read_text()
    )
    assert "Toy chip" in (out / "report.html").read_text()


def test_a_trace_format(toy: Path) -> None:
    (toy / "some.csv").write_text("when,asked,answered\n0.5,20,3\n1.0,30,4\n")
    found, _, _ = run(
        toy,
        {
            "pod": {"topology": "toy_pod"},
            "model": "llama3-8b",
            "workload": {"kind": "requests", "trace": {"file": "some.csv"}},
        },
    )
    assert found["variants"]["run"]["metrics"]["requests"] == 2


def test_an_array_with_an_interconnect_a_dataflow_a_dnn_and_its_file(toy: Path) -> None:
    (toy / "net.mlp").write_text("40")
    found, out, _ = run(
        toy,
        {
            "pod": {"array": {"rows": 8, "cols": 8, "pods": 4, "network": "crossbar"}},
            "workload": {"kind": "networks", "networks": {"mlp": {"length": 40}}},
            "variants": {
                "plain": {},
                "joined": {"pod": {"array": {"network": "twin"}}},
                "turned": {"pod": {"array": {"dataflow": "turned"}}},
                "read": {"workload": {"networks": {"mlp": {"length": None, "file": "net.mlp"}}}},
            },
            "expect": ["plain.effective_ops_per_s_ratio == 1", "plain.peak_power_w_ratio > 1"],
        },
    )
    assert all(claim["ok"] for claim in found["expect"])
    metrics = {name: each["metrics"] for name, each in found["variants"].items()}
    assert metrics["turned"] == metrics["plain"] == metrics["read"]
    assert any("it was read" in text for text in found["warnings"])
    page = (out / "report.html").read_text()
    assert "array: twin" in page and "array: turned" in page
    listed = json.loads(podscope(toy, "list", "interconnects", "--json").stdout)
    of = {row["name"]: row["from"] for row in listed}
    assert of["twin"] == "podscope-toy 0.3" and of["crossbar"] == ""


def test_a_shape_and_an_algorithm(toy: Path) -> None:
    (toy / "six.yaml").write_text(TABLE_OF_SIX)
    found, _, _ = run(
        toy,
        {
            "pod": {"topology": "six.yaml", "collective": "gather_and_add"},
            "workload": {
                "kind": "collectives",
                "jobs": {"a": {"collective": "all_reduce", "bytes": "1 MB"}},
            },
        },
    )
    job = found["variants"]["run"]["tenants"]["a"]
    assert job["rounds"] == 5
    assert job["mean_s"] == pytest.approx(5 * (1e-6 + 1e6 / 10e9), rel=1e-9)
    shown = podscope(toy, "topology", "six.yaml").stdout
    assert "wires a chip" in shown and "4" in shown and "2 hops" in shown
    listed = json.loads(podscope(toy, "list", "shapes", "--json").stdout)
    of = {row["name"]: (row["from"], row["parameters"]) for row in listed}
    assert of["cycle"] == ("podscope-toy 0.3", ["chips", "chords"]) and of["ring"][0] == ""
    (toy / "six.yaml").write_text(TABLE_OF_SIX.replace("chords: 2", "cords: 2"))
    wrong = podscope(toy, "topology", "six.yaml").stderr
    assert "unknown key of a cycle, did you mean 'chords'?" in wrong


def test_a_router_and_a_queue_order(toy: Path) -> None:
    from pyarrow import parquet

    rows = "".join(f"{i / 1000},{20 if i % 2 else 40},30\n" for i in range(12))
    (toy / "some.csv").write_text(f"when,asked,answered\n{rows}")
    work = {"kind": "requests", "trace": {"file": "some.csv"}, "replicas": 2, "max_batch": 1}
    classes = {"order": "priority", "prompt_tokens": [30]}
    _, out, _ = run(
        toy,
        {
            "pod": {"topology": "toy_pod"},
            "model": "smollm2-135m",
            "workload": {**work, "router": "last", "admission": classes},
            "variants": {
                "urgent": {},
                "patient": {"workload": {"admission": {"order": "patient"}}},
            },
        },
    )
    served = parquet.read_table(out / "requests.parquet").to_pylist()
    assert {row["replica"] for row in served} == {1}
    late = {}
    for name in ("urgent", "patient"):
        mine = sorted(
            (row["scheduled_s"], row["priority"]) for row in served if row["variant"] == name
        )
        late[name] = [rank for _, rank in mine[-4:]]
    assert late == {"urgent": [1] * 4, "patient": [0] * 4}
    assert "last is not of this package" in (out / "log.txt").read_text()


def test_a_card_of_a_kv_cache_is_found_by_name(toy: Path) -> None:
    low_rank = [{"kv_low_rank": {"card": "toy_card", "overlap": 1}}]
    found, _, _ = run(
        toy,
        {
            "pod": {"topology": "single", "device": "h100_sxm"},
            "model": "smollm2-135m",
            "workload": {"kind": "decode", "batch": 8, "prompt_tokens": 4000, "output_tokens": 9},
            "variants": {"full": {}, "half": {"techniques": low_rank}},
            "expect": ["half.speedup > 1"],
        },
    )
    assert all(claim["ok"] for claim in found["expect"])
    listed = {
        row["name"]: row for row in json.loads(podscope(toy, "list", "kv_cards", "--json").stdout)
    }
    assert listed["toy_card"]["from"] == "podscope-toy 0.3" and listed["toy_card"]["ratio"] == 0.5


def test_a_card_of_a_searched_network_is_found_by_name(toy: Path) -> None:
    found, _, _ = run(
        toy,
        {
            "pod": {"array": {"rows": 8, "cols": 8, "pods": 4}},
            "workload": {"kind": "networks", "networks": {"mine": {"card": "toy_cells"}}},
            "variants": {"one": {}},
        },
    )
    assert found["variants"]["one"]["tenants"]["mine"]["ops"] > 0
    listed = {
        row["name"]: row for row in json.loads(podscope(toy, "list", "dnn_cards", "--json").stdout)
    }
    assert listed["toy_cells"]["from"] == "podscope-toy 0.3" and listed["toy_cells"]["image"] == 8
    assert listed["searched-32x32"]["from"] == ""


def test_the_list_says_where_a_row_is_from(toy: Path) -> None:
    listed = json.loads(podscope(toy, "list", "techniques", "--json").stdout)
    of = {row["name"]: row["from"] for row in listed}
    assert of["half_flop"] == "podscope-toy 0.3" and of["preserve"] == ""
    assert "podscope-toy 0.3" in podscope(toy, "list", "devices").stdout


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"technique.preserve": "podscope_toy.rows:HALF_FLOP"}, "there is a technique 'preserve'"),
        ({"tecnique.x": "podscope_toy.rows:HALF_FLOP"}, "no table 'tecnique', did you mean"),
        (
            {"technique.x": "podscope_toy.rows:NOTHING"},
            "podscope_toy.rows:NOTHING cannot be loaded",
        ),
    ],
)
def test_what_cannot_be_added_is_told(tmp_path: Path, entries: dict[str, str], said: str) -> None:
    site = installed(tmp_path / "site", entries)
    done = podscope(site, "check", "preserve")
    assert done.returncode == 2 and said in done.stderr and "podscope-toy 0.3" in done.stderr
    assert "Traceback" not in done.stderr
