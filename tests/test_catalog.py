"""The catalogue: every file loads, every number has a parent, faults are told with their line, fits
can be redone."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import sim
from sim import catalog
from sim.catalog import shipped
from sim.graph.model import Model
from sim.hardware.device import ENGINE_LIMITS, Device
from sim.network.library import Library
from sim.network.network import Network
from sim.text.strict_yaml import ScenarioError

# What a card of a device that serves tells; a device that trains at an edge has the defaults.
OF_SERVING = ("prefetch_overhead_s", *ENGINE_LIMITS)
TAGS = {"READ", "CHECKED", "INFER", "RECALLED", "FITTED"}
SHARED = Path(sim.__file__).parents[2] / "shared" / "data"
PODS = [
    "atlas_800t_a2",
    "atlas_900_a3_node",
    "dgx_a100",
    "dgx_h100",
    "hgx_b200",
    "hgx_h20",
    "hgx_h200",
    "mi300x_platform",
    "single",
    "tpu_v4_ring",
    "tpu_v5e_ring",
]
# As published on the model cards, in 1e9.
PARAMETERS = {
    "llama2-7b": 6.74,
    "llama3-8b": 8.03,
    "llama3.1-8b": 8.03,
    "llama3-70b": 70.6,
    "llama3.1-405b": 405.9,
    "qwen2-7b": 7.62,
    "qwen2-72b": 72.7,
    "qwen3-8b": 8.19,
    "qwen3-32b": 32.8,
    "phi-3-small": 7.39,
    "phi-3-medium": 13.96,
    "smollm2-135m": 0.1345,
    "deepseek-v3": 671,
    "deepseek-r1": 671,
    "deepseek-v2-lite": 15.7,
    "kimi-k2": 1026,
    "mixtral-8x7b": 46.7,
    "qwen3-30b-a3b": 30.5,
    "qwen3-235b-a22b": 235,
    "gpt-oss-120b": 116.8,
    "gpt-oss-20b": 20.9,
}


def recorded(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs the shared recording ../shared/data/{name}")
    return path


# ---- every file


def numbers(card) -> dict[str, float]:
    found = {}
    for f in dataclasses.fields(card):
        value = getattr(card, f.name)
        if (
            f.name == "facts"
            or isinstance(value, (str, tuple, Library))
            or value in (None, float("inf"))
        ):
            continue
        for key, part in value.items() if isinstance(value, dict) else ():
            parts = part._asdict() if hasattr(part, "_asdict") else {"": part}
            found |= {
                f"{f.name}.{key}{'.' * bool(k)}{k}": v for k, v in parts.items() if v is not None
            }
        if not isinstance(value, dict):
            found[f.name] = value
    return found


def every_number_has_a_parent(card, exempt=()):
    for key in numbers(card).keys() - {*exempt, "times"}:
        fact = card.facts[key]
        assert fact.tag in TAGS and fact.value and len(fact.source) > 10, (card.name, key, fact)
        assert fact.residual or fact.tag != "FITTED", (card.name, key)


@pytest.mark.parametrize("name", catalog.names("devices"))
def test_device(name):
    device = catalog.device(name)
    every_number_has_a_parent(device, [key for key in OF_SERVING if key not in device.facts])
    assert device.hbm_bytes_per_s < device.l2_bytes_per_s
    if "prefetch_bytes_per_s" in device.facts:  # what prefetch fills is what HBM delivers
        assert device.prefetch_bytes_per_s == pytest.approx(
            device.hbm_bytes_per_s * device.hbm_efficiency, rel=2e-3
        )
    if "bf16" not in device.matrix_flop_per_s:  # of a device that trains at an edge
        assert "\n# No bf16" in catalog.files.find("devices", name).read_text()
    peak = max(device.matrix_flop_per_s.values())
    assert 1e11 < device.vector_flop_per_s <= peak < 1e16
    assert 1e9 < device.hbm_bytes < 1e12 and 1e10 < device.hbm_bytes_per_s < 1e13
    assert (device.idle_power_w or 0.0) < (device.power_w or float("inf"))


def test_devices_that_serve_have_what_serving_asks_for():
    """Of edge devices nobody knows a copy engine for L2, and half of them have no bf16."""
    edges = {"quadro_k620", "rtx_2080_ti", "jetson_orin_nano", "phone_npu"}
    for name in set(catalog.names("devices")) - edges:
        device = catalog.device(name)
        assert {*OF_SERVING, "prefetch_bytes_per_s"} <= device.facts.keys(), name
        assert "bf16" in device.matrix_flop_per_s
        assert 1e12 < device.vector_flop_per_s < max(device.matrix_flop_per_s.values())
        assert device.hbm_bytes_per_s > 1e11


@pytest.mark.parametrize("name", catalog.names("channels"))
def test_channel(name):
    from sim.catalog.channels import channel

    found = channel(name)
    absent = ("jitter_s", "loss", "overhead_s")  # 0 where the card does not tell of them
    every_number_has_a_parent(found, [key for key in absent if not getattr(found, key)])
    assert found.up_bytes_per_s <= found.down_bytes_per_s
    # A radio's energy: some 10 nJ to some uJ a byte, and sending costs no less a byte.
    sent, received = (
        found.send_w / found.up_bytes_per_s,
        found.receive_w / found.down_bytes_per_s,
    )
    assert 1e-9 < received <= sent < 2e-5


@pytest.mark.parametrize("name", catalog.names("libraries"))
def test_library(name):
    library = catalog.library(name)
    every_number_has_a_parent(library)
    assert 0 <= library.launch_s < 1e-4 and 0 <= library.step_s < 1e-4


def test_files_have_the_fields_of_what_they_describe():
    from sim.catalog.architecture import ModelFile
    from sim.catalog.hardware import DeviceFile, LibraryFile

    for file, card in ((DeviceFile, Device), (LibraryFile, Library), (ModelFile, Model)):
        fields = {f.name for f in dataclasses.fields(card)} - {"facts", "times"}  # of what-ifs
        of_files = {
            Model: {"tag", "residual"},
            Library: {"also"},
        }  # whose ways a library takes over
        assert fields == file.model_fields.keys() - of_files.get(card, set())


def test_there_is_what_the_project_promises():
    assert set(catalog.names("devices")) >= {
        "ascend_910b2",
        "ascend_910b4",
        "ascend_910c",
        "h100_sxm",
        "h200",
        "h20",
        "a100_80g",
        "mi300x",
        "b200",
        "tpu_v4",
        "tpu_v5e",
    }
    assert set(catalog.names("libraries")) >= {"hccl", "nccl", "rccl", "one_shot"}
    assert set(shipped.names("topologies")) >= set(PODS)


@pytest.mark.parametrize("name", shipped.names("topologies"))
def test_pod(name):
    pod = catalog.pod(name)
    assert pod.name == name
    every_number_has_a_parent(
        pod, exempt=("devices", *(f"parameters.{key}" for key in pod.parameters))
    )
    library = catalog.library(pod.library)
    assert catalog.device(pod.device)
    graph = pod.graph()
    if pod.devices > 1:
        assert 0 < Network(graph, library).fold("all_reduce", pod.devices, 65536.0).seconds < 1


@pytest.mark.parametrize("name", catalog.names("models"))
def test_model(name):
    model = catalog.model(name)
    assert model.name == name and len(model.source) > 10
    assert model.parameters == pytest.approx(PARAMETERS[name] * 1e9, rel=0.01)


def test_phi_3_small_alternates_sparse_and_dense():
    model = catalog.model("phi-3-small")
    assert model.attention == ("blocksparse", "dense") and model.gated
    assert (model.window_tokens, model.sparse_stride) == (1024, 8)


# ---- names, paths and faults


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no device 'ascend_910b', did you mean 'ascend_910b."):
        catalog.device("ascend_910b")
    with pytest.raises(
        ValueError, match=r"no model 'llama3_8b', did you mean 'llama3-8b'.*there are deepseek-r1"
    ):
        catalog.model("llama3_8b")
    with pytest.raises(ValueError, match="no library 'ncl'"):
        catalog.library("ncl")
    with pytest.raises(ValueError, match="no topology 'dgx_h10', did you mean 'dgx_h100'"):
        catalog.pod("dgx_h10")
    with pytest.raises(ValueError, match="did you mean 'devices'"):
        catalog.names("device")
    with pytest.raises(ValueError, match="topologies"):
        shipped.folder("topology")
    with pytest.raises(ScenarioError, match="no such file"):
        catalog.device("./nothing_here.yaml")


def copied(tmp_path, kind, name, *edits) -> str:
    text = (Path(catalog.__file__).parent / kind / f"{name}.yaml").read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def faults(read, path) -> list[tuple[str, str]]:
    with pytest.raises(ScenarioError) as caught:
        read(path)
    assert all(fault.file == path and fault.line > 0 for fault in caught.value.faults)
    return [(fault.key, fault.what) for fault in caught.value.faults]


def test_a_file_of_ones_own(tmp_path):
    mine = copied(tmp_path, "devices", "h100_sxm", ("value: 80 GiB", "value: 96 GiB"))
    assert catalog.device(mine).hbm_bytes == 96 * 2**30
    assert catalog.device(Path(mine)) == catalog.device(mine)
    assert catalog.model(copied(tmp_path, "models", "qwen3-8b")) == catalog.model("qwen3-8b")


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        ("value: 80 GiB", "value: 80", "hbm_bytes.value", "bare number"),
        ("value: 80 GiB", "value: 80 GB/s", "hbm_bytes.value", "is in B/s, but B is due"),
        ("value: 80 GiB", "value: -80 GiB", "hbm_bytes.value", "greater than 0"),
        ("value: 3.76 us", "value: -1 us", "kernel_overhead_s.value", "greater than or equal to 0"),
        ("value: 0.877", "value: 1.2", "hbm_efficiency.value", "less than or equal to 1"),
        ("value: 0.877", "value: yes", "hbm_efficiency.value", "number"),
        ("hbm_bytes:", "hbm_byte:", "hbm_byte", "did you mean 'hbm_bytes'"),
        ("  bf16:", "  bf17:", "matrix_flop_per_s.bf17", "'bf16'"),
        (
            "tag: READ\n  source: ../shared",
            "tag: SEEN\n  source: ../shared",
            "hbm_bytes.tag",
            "'READ'",
        ),
        ("tag: READ\n  source: ../shared", "source: ../shared", "hbm_bytes.tag", "missing"),
        (
            "tag: READ\n  source: ../shared",
            "tag: FITTED\n  source: ../shared",
            "hbm_bytes",
            "residual",
        ),
        ("name: NVIDIA H100 SXM\n", "name: NVIDIA H100 SXM\nname: again\n", "name", "twice"),
        ("value: 80 GiB\n", "value: 80 GiB\n  vale: 3\n", "hbm_bytes.vale", "did you mean 'value'"),
    ],
)
def test_device_faults(tmp_path, old, new, key, what):
    found = faults(catalog.device, copied(tmp_path, "devices", "h100_sxm", (old, new)))
    assert any(k == key and what in w for k, w in found), found


def test_source_is_not_optional_and_all_faults_come_at_once(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nlaunch_s: 3 us\nstep_s: {value: 1 us, tag: READ}\n"
        "link_efficiency: {value: 0.5, source: '', tag: READ}\n"
    )
    # A bare number is its writer's own; one that says where it is from says all of it.
    assert [key for key, _ in faults(catalog.library, str(path))] == [
        "step_s.source",
        "link_efficiency.source",
    ]


def test_model_and_pod_faults(tmp_path):
    def model_faults(*edits):
        return faults(catalog.model, copied(tmp_path, "models", "phi-3-small", *edits))

    assert model_faults(("layers: 32", "layers: 0"))[0][0] == "layers"
    assert model_faults(("layers: 32", "layers: '32'"))[0][0] == "layers"
    assert (
        "missing"
        in model_faults(("source:", "sauce:"))[0][1] + model_faults(("source:", "sauce:"))[1][1]
    )
    assert "sparse_stride" in model_faults(("sparse_stride: 8", "sparse_stride: 0"))[0][1]
    assert "evenly" in model_faults(("kv_heads: 8", "kv_heads: 7"))[0][1]
    pod = tmp_path / "pod.yaml"
    text = (shipped.folder("topologies") / "dgx_h100.yaml").read_text()
    pod.write_text(
        text.replace("shape: switch", "shape: moebius").replace(
            "bytes_per_s: 450 GB/s", "bytes_per_s: 450"
        )
    )
    assert [key for key, _ in faults(catalog.pod, str(pod))] == ["shape", "link.bytes_per_s"]


# ---- what-if edits


def test_changes():
    device = catalog.device(
        "h100_sxm", {"l2_bytes": 0.0, "matrix_flop_per_s": {"bf16": 5e14}, "power_w": None}
    )
    stock = catalog.device("h100_sxm")
    assert device.l2_bytes == 0 and device.power_w == stock.power_w
    assert device.matrix_flop_per_s == {**stock.matrix_flop_per_s, "bf16": 5e14}
    assert device.facts["matrix_flop_per_s.bf16"][:4] == (
        "500 TFLOP/s",
        "CHANGED",
        "set by the scenario",
        "",
    )
    assert device.facts["l2_bytes"].tag == "CHANGED" and stock.facts["l2_bytes"].tag == "READ"
    kernel = catalog.device("rtx_pro_6000", {"kernels": {"absorb": {"hbm_efficiency": 0.5}}})
    assert kernel.kernels["absorb"] == kernel.kernels["attention"]._replace(hbm_efficiency=0.5), (
        "it was like attention"
    )
    assert kernel.facts["kernels.absorb.hbm_efficiency"].tag == "CHANGED"
    every_number_has_a_parent(kernel, ("kernels.absorb.hbm_efficiency",))
    assert catalog.library("hccl", {"launch_s": 3e-5}).facts["launch_s"].value == "30 us"
    pod = catalog.pod("atlas_800t_a2", {"bytes_per_s": 14e9})
    assert (pod.link_bytes_per_s, pod.link_latency_s) == (14e9, 5e-7)
    assert pod.facts["link_bytes_per_s"].tag == "CHANGED"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"l2_byte": 1.0}, "did you mean 'l2_bytes'"),
        ({"name": "x"}, "no number 'name'"),
        ({"hbm_bytes": 0.0}, "too small"),
        ({"hbm_efficiency": 1.5}, "more than the whole"),
        ({"hbm_bytes": "1 GB"}, "a number is due"),
        ({"kernels": {"attention": {"tile": 0.5}}}, "kernels.attention.tile: 0.5 is too small"),
        ({"kernels": {"attention": {"hbm_share": 0.5}}}, "no 'hbm_share'.*hbm_efficiency"),
        ({"kernels": {"attn": {"tile": 2.0}}}, "'attn' is no kind of kernel"),
        ({"matrix_flop_per_s": 1e15}, "one number for each format"),
        ({"hbm_bytes": float("nan")}, "a number is due"),
    ],
)
def test_impossible_changes(change, what):
    with pytest.raises(ValueError, match=what):
        catalog.device("h100_sxm", change)


def test_a_chosen_kernel_brings_the_parents_of_its_numbers():
    whole, chosen = (
        catalog.device("ascend_910b2"),
        catalog.device("ascend_910b2", kernels={"absorb": "catlass"}),
    )
    assert chosen.kernels["absorb"] == whole.kernels["absorb/catlass"] != whole.kernels["absorb"]
    every_number_has_a_parent(chosen)
    mine = {key: fact for key, fact in chosen.facts.items() if key.startswith("kernels.absorb")}
    assert {key.rpartition(".")[2] for key in mine} == {"overhead_s", "hbm_efficiency"}, (
        "no other's stays"
    )
    assert all(
        fact.source.startswith("catlass: ") and fact.tag == "FITTED" for fact in mine.values()
    )
    assert not [name for name in chosen.kernels if "/" in name] and "naive" in chosen.kernels
    with pytest.raises(
        ValueError,
        match=r"no kernel 'catlas' for absorb, did you mean 'catlass'.*torch_npu, catlass",
    ):
        catalog.device("ascend_910b2", kernels={"absorb": "catlas"})


# ---- fits, done again from the recordings


def line(nbytes, seconds) -> tuple[float, float]:
    """(overhead, bytes per second) of seconds = overhead + nbytes / rate, by least squares of the
    relative error."""
    nbytes, seconds = np.asarray(nbytes, float), np.asarray(seconds, float)
    overhead, slope = np.linalg.lstsq(
        np.c_[1 / seconds, nbytes / seconds], np.ones(len(seconds)), rcond=None
    )[0]
    return float(overhead), float(1 / slope)


def test_ascend_overhead_and_bandwidth():
    path = recorded("recorded_ops/a3_qwen3-32b_tp16_decode_b16_kernels.csv")
    rows = [row for row in csv.DictReader(path.open()) if row["op"] == "MatMulV2"]
    weights = [
        2 * np.prod([int(n) for n in row["input_shapes"].split(";")[1].split(",")]) for row in rows
    ]
    times = [float(row["mean_us"]) * 1e-6 for row in rows]
    overhead_s, bytes_per_s = line(weights, times)
    for name in ("ascend_910c", "ascend_910b2"):
        device = catalog.device(name)
        delivered = device.hbm_bytes_per_s * device.hbm_efficiency
        assert device.kernel_overhead_s == pytest.approx(overhead_s, rel=0.01)
        assert delivered == pytest.approx(bytes_per_s, rel=0.01)
        modelled = [device.kernel_overhead_s + w / delivered for w in weights]
        assert modelled == pytest.approx(times, rel=0.03)


@pytest.mark.parametrize(
    ("name", "table"),
    [("h100_sxm", "h100_sxm__gemm__vllm__0.24.0"), ("a100_80g", "a100_sxm__gemm__vllm__0.14.0")],
)
def test_gpu_gemms(name, table):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    path = recorded(f"kernels/{table}__gemm_perf.parquet")

    def measured(dtype):
        columns = parquet.read_table(path, filters=[("gemm_dtype", "=", dtype)]).to_pydict()
        m, n, k, ms = (np.array(columns[c], float) for c in ("m", "n", "k", "latency"))
        return m, n, k, ms * 1e-3

    m, n, k, seconds = measured("bfloat16")
    device = catalog.device(name)
    decode, large = (m <= 64) & (n * k >= 2**25), (m >= 1024) & (n * k >= 2**25)
    overhead_s, bytes_per_s = line(2 * (n * k + m * k + m * n)[decode], seconds[decode])
    assert device.kernel_overhead_s == pytest.approx(overhead_s, rel=0.01)
    assert device.hbm_efficiency == pytest.approx(bytes_per_s / device.hbm_bytes_per_s, rel=0.01)
    reached = np.median((2 * m * n * k / seconds)[large]) / device.matrix_flop_per_s["bf16"]
    assert device.matrix_efficiency == pytest.approx(reached, rel=0.01)
    if "fp8" in device.matrix_flop_per_s:
        m, n, k, seconds = measured("fp8")
        reached = (
            np.median((2 * m * n * k / seconds)[(m >= 1024) & (n * k >= 2**25)])
            / device.matrix_flop_per_s["fp8"]
        )
        assert device.kernels["matmul"].matrix_efficiency_8bit == pytest.approx(reached, rel=0.01)


def all_reduces(name: str, **where) -> list[tuple[int, int, float]]:
    """(ranks, bytes, seconds) of the 2-byte all-reduces in a recorded table."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    where = {"op_name": "all_reduce", **where}
    rows = parquet.read_table(recorded(f"collectives/{name}")).to_pylist()
    rows = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return [(row["num_gpus"], 2 * row["message_size"], row["latency"] * 1e-3) for row in rows]


def relative_errors(pod_name, library, algorithm, rows):
    pod = catalog.pod(pod_name)
    graph = pod.graph()
    network = Network(graph, catalog.library(library), algorithm)
    return np.array(
        [network.fold("all_reduce", n, nbytes).seconds / seconds - 1 for n, nbytes, seconds in rows]
    )


@pytest.mark.parametrize(
    ("pod", "library", "table"),
    [
        ("dgx_h100", "nccl", "h100_sxm__comm__nccl__2.29.2"),
        ("dgx_a100", "nccl_a100", "a100_sxm__comm__nccl__2.27.3"),
    ],
)
def test_nccl(pod, library, table):
    rows = [
        row
        for row in all_reduces(f"{table}__nccl_perf.parquet", nccl_dtype="half")
        if row[1] >= 8192
    ]
    eight = relative_errors(pod, library, "auto", [row for row in rows if row[0] == 8])
    assert abs(eight).mean() < 0.06 and abs(eight).max() < 0.12
    four = relative_errors(
        pod, library, "auto", [row for row in rows if row[0] == 4]
    )  # not in the fit
    assert abs(four).mean() < 0.05 and abs(four).max() < 0.15


def test_one_shot():
    name = "h100_sxm__comm__vllm__0.24.0__custom_allreduce_perf.parquet"
    rows = [row for row in all_reduces(name, backend="vllm_graph") if row[1] <= 2**22]
    errors = relative_errors("dgx_h100", "one_shot", "auto", rows)
    assert abs(errors).mean() < 0.06 and abs(errors).max() < 0.29
