"""Hostile inputs: each is refused where it is wrong, before anything of its size is made.

The files of the first part are beside the project (`../shared/cases`); of each kind there are more
here, and `benchmarks/fuzz.py` makes others without end.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sim
from benchmarks.fuzz import fuzz, readers
from sim import catalog
from sim.cli.app import app
from sim.cli.text import visible
from sim.dnn.files import read_dnn
from sim.dnn.gemms import Dnn, GemmLayer
from sim.run import load, prepare
from sim.scenario import ScenarioError
from sim.systolic import tenancy
from sim.systolic.schedule import _Ready
from sim.text.outside import MOST, bounded, meeting, opened, read_bytes
from sim.text.strict_yaml import parse
from sim.traces.description import described
from sim.traces.lines import TraceError
from sim.traces.reading import open_trace
from sim.traces.stream import gathered

CASES = Path(__file__).parents[2] / "shared" / "cases"
there = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
HEADER = "arrival_s,prompt_tokens,output_tokens"
MODEL = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
    "num_hidden_layers": 2, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": 201088, "sliding_window": 128, "num_local_experts": 128,
    "num_experts_per_tok": 4, "attention_bias": True,
}  # fmt: skip


def networks(tmp_path: Path, file: Path, pods: str = "{pods: 16}", more: str = "") -> Path:
    path = tmp_path / "networks.yaml"
    path.write_text(
        f"question: q\npod: {{array: {pods}}}\n"
        f"workload: {{kind: networks, networks: {{x: {{file: {file}{more}}}}}}}\n"
    )
    return path


def config(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**MODEL, **changes}))
    return path


def archive(path: Path, files: dict[str, bytes], form: str = "w:gz") -> Path:
    with tarfile.open(path, form) as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def clients(tmp_path: Path, trace: str, dataset: str | None = None, name="x.tar.gz") -> Path:
    law = "{0: {'input_tokens': '{10: 1.0}', 'output_tokens': '{5: 1.0}'}}"
    files = {"chunk-0-trace.csv": trace, "chunk-0-dataset.json": dataset or law}
    return archive(tmp_path / name, {name: text.encode() for name, text in files.items()})


# Row by row.


@there
def test_01_a_window_that_starts_at_infinity():
    with pytest.raises(TraceError, match=r"abuse_01\.tar\.xz: chunk-0-trace\.csv: row 2: .* inf"):
        open_trace(CASES / "abuse_01.tar.xz")


@there
def test_03_mappings_among_the_layer_types():
    with pytest.raises(ScenarioError, match=r"abuse_03\.json:1: layer_types: .* not \{\}"):
        catalog.model(CASES / "abuse_03.json")


@there
def test_05_a_time_that_no_clock_resolves_beside_the_first(tmp_path):
    for clock in (None, "s"):
        with pytest.raises(TraceError, match=r"abuse_05\.csv: row 3: arrival_s spans 1e\+300 s"):
            gathered(open_trace(CASES / "abuse_05.csv", clock=clock))


@there
def test_07_a_column_of_structs():
    pytest.importorskip("pyarrow")
    with pytest.raises(TraceError, match=r"abuse_07\.parquet: .*'blocks_16' holds struct"):
        open_trace(CASES / "abuse_07.parquet")


@there
def test_09_a_product_without_an_operand(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ScenarioError, match=r"abuse_09\.onnx: QLinearMatMul '' has 2 inputs"):
        prepare(load(networks(tmp_path, CASES / "abuse_09.onnx")))


@there
def test_11_a_batch_of_too_many_tile_ops():
    with pytest.raises(
        ScenarioError, match=r":3: workload\.networks\.resnet152\.batch: .* tile op"
    ):
        prepare(load(CASES / "abuse_11.yaml"))


def test_13_a_stranger_s_folder_is_left_alone(tmp_path):
    (tmp_path / "result.json").write_text('{"mine": 1}')
    (tmp_path / "notes.txt").write_text("keep")
    done = CliRunner().invoke(app, ["run", "preserve", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "so it is left alone" in done.output
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_15_time_to_place_layers_grows_with_them():
    """What is ahead is known from the layers that may start, not from a look at all."""
    looked = []

    class Layers(tuple):
        def __getitem__(self, at):
            looked.append(at)
            return super().__getitem__(at)

    count = 300
    layers = tuple(
        GemmLayer(f"g{i}", 1, 1, 1, after=(f"g{i - 1}",) if i else ()) for i in range(count)
    )
    ready = _Ready(Dnn("chain", layers))
    ready.layers = Layers(layers)
    for at in range(count):
        assert ready.earliest(at) == at
        ready.placed(at, at)
    assert len(looked) <= 3 * count


def test_15_what_is_ahead_is_what_a_look_at_all_layers_finds():
    dice = random.Random(1)
    for _ in range(200):
        layers: list[GemmLayer] = []
        for at in range(dice.randint(1, 12)):
            after = dice.sample(layers, min(at, dice.randint(0, 3)))
            layers.append(GemmLayer(f"g{at}", 1, 1, 1, after=tuple(each.name for each in after)))
        ready = _Ready(Dnn("any", tuple(layers)))
        for at in range(len(layers)):
            bound, firsts = dict(ready.ends), []
            for layer in layers[at:]:
                firsts.append(max((bound[name] for name in layer.after), default=-1) + 1)
                bound[layer.name] = firsts[-1]
            assert ready.earliest(at) == min(firsts)
            ready.placed(at, ready.first(at) + dice.randint(0, 4))


@there
@pytest.mark.slow
def test_15_eight_thousand_rows_run(tmp_path):
    found = sim.run(networks(tmp_path, CASES / "abuse_15.csv"))
    assert next(iter(found.variants.values()))["metrics"]["makespan_s"] > 0


@there
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_17_clients_are_converted(tmp_path, ending):
    out = tmp_path / f"out{ending}"
    done = CliRunner().invoke(app, ["trace", "convert", str(CASES / "abuse_17.tar.xz"), str(out)])
    assert done.exit_code == 0, done.output
    assert "tenant" in out.read_text().splitlines()[0]
    again, first = gathered(open_trace(out)), gathered(open_trace(CASES / "abuse_17.tar.xz"))
    assert again.tenant.tolist() == first.tenant.tolist()
    assert again.arrival_s.tolist() == first.arrival_s.tolist()


# Others of each kind.


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("nan,0.1,1,Gamma,1,1", "cannot start at nan"),
        ("-600,0.1,1,Gamma,1,1", "cannot start at -600"),
        ("1e300,0,1,Gamma,1,1", "cannot start at 1e300"),
        ("0,0,1,Gamma,1,1", "starts before the one above"),
        ("600,inf,1,Gamma,1,1", "is no window"),
        ("600,nan,1,Gamma,1,1", "is no window"),
        ("600,0.1,1,Gamma,nan,1", "is no window"),
        ("600,9e5,1,Gamma,1,1", "540,000,000 requests of a client in a window are too many"),
    ],
)
def test_windows_of_clients(tmp_path, row, what):
    path = clients(tmp_path, f"0,0.1,1,Gamma,1,1\n{row}\n")
    with pytest.raises(TraceError, match="row 2: .*" + what):
        open_trace(path)


@pytest.mark.parametrize(
    "dataset",
    [
        "[]", "{0: 1}", "{0: {'input_tokens': 5, 'output_tokens': '{1: 1}'}}", "{" * 5000, "{1: ",
        "{0: {'input_tokens': '[1]', 'output_tokens': '{1: 1}'}}", "{(): {}}",
        "{0: {'input_tokens': '{1: 1e999}', 'output_tokens': '{1: 1}'}}",
        "{0: {'input_tokens': '{1: \"x\"}', 'output_tokens': '{1: 1}'}}",
        "{0: {'input_tokens': '{1j: 1}', 'output_tokens': '{1: 1}'}}",
        "{1e999: {'input_tokens': '{1: 1}', 'output_tokens': '{1: 1}'}}",
        "{0: {'input_tokens': '{1: 1e308, 2: 1e308}', 'output_tokens': '{1: 1}'}}",
        "{" + "1:1," * 500_000 + "}",
    ],
)  # fmt: skip
def test_lengths_of_clients(tmp_path, dataset):
    path = clients(tmp_path, "0,0.1,1,Gamma,1,1\n600,0.1,1,Gamma,1,1\n", dataset)
    with pytest.raises(TraceError, match=r"chunk-0-dataset\.json"):
        open_trace(path)


def test_archives(tmp_path, monkeypatch):
    """Bombs, too many members, links, names that lead elsewhere, data that end early."""
    monkeypatch.setitem(MOST, "archive bytes", MOST["archive bytes"]._replace(most=2**20))
    monkeypatch.setitem(MOST, "archive members", MOST["archive members"]._replace(most=50))
    for form in ("w", "w:gz", "w:bz2", "w:xz"):
        bomb = archive(tmp_path / "bomb.tar", {"chunk-0-trace.csv": b"0" * 2**21}, form)
        with pytest.raises(TraceError, match=r"bomb\.tar: .* bytes of an archive"):
            open_trace(bomb)
    beside = archive(tmp_path / "beside.tar", {"other.bin": b"0" * 2**21})
    with pytest.raises(TraceError, match="bytes of an archive"):
        open_trace(beside)
    many = archive(tmp_path / "many.tar", {f"{i}": b"" for i in range(60)})
    with pytest.raises(TraceError, match="files of a folder or an archive are too many"):
        open_trace(many)
    right = "0,0.1,1,Gamma,1,1\n600,0.1,1,Gamma,1,1\n"
    law = b"{0: {'input_tokens': '{10: 1.0}', 'output_tokens': '{5: 1.0}'}}"
    named = archive(
        tmp_path / "named.tar",
        {"/etc/chunk-0-trace.csv": right.encode(), "../../chunk-0-dataset.json": law},
    )
    assert len(gathered(open_trace(named)))  # nothing is unpacked to disk, so they lead nowhere
    data = clients(tmp_path, right).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(TraceError, match=r"cut\.tar\.gz: cannot be unpacked, at "):
        open_trace(tmp_path / "cut.tar.gz")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in MODEL if key not in ("model_type", "attention_bias") for value in
          ({}, [], [1], "x", -1, 1.5, True, 10**30)],
        ("layer_types", {"a": 1}), ("layer_types", [["full_attention"]]), ("layer_types", "x"),
        ("layer_types", 7), ("layer_types", [None, None]), ("num_hidden_layers", 3000),
        ("rope_scaling", [1]), ("rope_scaling", {"type": "yarn", "factor": {}}),
        ("rope_scaling", {"type": "yarn", "factor": 1e308}), ("attention_bias", {}),
        ("rope_scaling", {"type": "yarn", "factor": 2, "original_max_position_embeddings": [1]}),
        ("mlp_bias", "yes"), ("max_position_embeddings", {}), ("model_type", {}),
    ],
)  # fmt: skip
def test_keys_of_a_config(tmp_path, key, value):
    path = config(tmp_path, **{"max_position_embeddings": 4096, key: value})
    with pytest.raises(ScenarioError, match=rf"config\.json:1: {key}: "):
        catalog.model(path)


def test_a_pattern_of_more_layers_than_there_are(tmp_path):
    sizes = ("blocksparse_block_size", "blocksparse_num_local_blocks", "blocksparse_vert_stride")
    path = config(
        tmp_path,
        model_type="phi3small",
        ff_intermediate_size=64,
        dense_attention_every_n_layers=2**40,
        num_local_experts=None,
        num_experts_per_tok=None,
        **dict.fromkeys(sizes, 8),
    )
    with pytest.raises(ScenarioError, match=r":1: dense_attention_every_n_layers: .* too many"):
        catalog.model(path)


@pytest.mark.parametrize(
    "given",
    [
        [1], "x", {"config_groups": {"g": 1}, "ignore": 5},
        {"config_groups": {"g": {"weights": {"num_bits": {}}}}},
        {"config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}, "targets": 7}}},
        {"config_groups": {"g": {"weights": {"num_bits": 8}}}, "ignore": ["re:(a+)+$"]},
        {"config_groups": {"g": {"weights": {"num_bits": 8}}}, "ignore": ["re:["]},
        {"config_groups": {"g": {"weights": {"num_bits": 8}}}, "ignore": ["x"] * 300_000},
    ],
)  # fmt: skip
def test_formats_of_weights_that_are_none(tmp_path, given):
    """Said, and 16 bits are taken: what a file stores is not what it is."""
    found = catalog.model(config(tmp_path, quantization_config=given))
    assert "weights are taken as 16 bits" in " ".join(found.notes)


def test_a_model_s_numbers_are_bounded(tmp_path):
    text = (Path(catalog.__file__).parent / "models" / "llama3-8b.yaml").read_text()
    path = tmp_path / "model.yaml"
    for key in ("layers", "hidden", "heads", "ffn", "vocab"):
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        path.write_text("\n".join([*lines, f"{key}: {10**400}"]))
        with pytest.raises(ScenarioError, match=rf"model\.yaml:\d+: {key}: .*too many"):
            catalog.model(path)


@pytest.mark.parametrize("value", ["1e300", "4e9", "-1", "nan", "inf", "-inf", "1e999", "{}", "x"])
@pytest.mark.parametrize("column", [0, 1, 2, 4])
def test_numbers_of_a_trace(tmp_path, value, column):
    """Of a table, as of rows of JSON; a session's name is any text."""
    right = ["1", "10", "5", "s", "1"]
    names = [*HEADER.split(","), "session", "think_s"]
    wrong = [*right]
    wrong[column] = value
    path = tmp_path / "x.csv"
    path.write_text("\n".join([",".join(row) for row in (names, right, wrong, wrong)]) + "\n")
    with pytest.raises(TraceError, match=r"x\.csv: row 3: "):
        gathered(open_trace(path, clock="s"))
    text = value if value in ("{}", "4e9", "-1", "1e300") else json.dumps(value)
    rows = ['{"' + '", "'.join(f'{n}": "{v}' for n, v in zip(names, right)) + '"}'] * 2
    rows[1] = rows[1].replace(f'"{names[column]}": "{right[column]}"', f'"{names[column]}": {text}')
    (tmp_path / "x.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(TraceError, match=r"x\.jsonl: row 2: "):
        gathered(open_trace(tmp_path / "x.jsonl", clock="s"))


def test_clocks_of_dates_resolve_too(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "1700-01-01 00:00:00,5,5\n2250-01-01 00:00:00,5,5\n"
    )
    with pytest.raises(TraceError, match="row 3: TIMESTAMP spans"):
        gathered(open_trace(path))


def test_a_speed_at_which_no_clock_resolves(tmp_path):
    (tmp_path / "x.csv").write_text(f"{HEADER}\n0,5,5\n1000,5,5\n")
    with pytest.raises(ValueError, match="later than a clock resolves"):
        gathered(open_trace(tmp_path / "x.csv", speed=1e-9))


def odd_columns():
    pa = pytest.importorskip("pyarrow")
    return {
        "nested": pa.array([[[1]]] * 2, pa.list_(pa.list_(pa.int64()))),
        "struct": pa.array([{"a": 1}] * 2, pa.struct([("a", pa.int64())])),
        "map": pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "binary": pa.array([b"\xff"] * 2, pa.binary()),
        "timestamp": pa.array([10**9] * 2, pa.timestamp("ns")),
        "bool": pa.array([True] * 2),
    }


@pytest.mark.parametrize("kind", ["nested", "struct", "map", "binary", "timestamp", "bool"])
@pytest.mark.parametrize(
    "column",
    [*HEADER.split(","), "session", "think_s", "tenant", "blocks_16"],
)
def test_columns_of_any_type(tmp_path, kind, column):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    right = {"arrival_s": [0.0, 1.0], "prompt_tokens": [64, 64], "output_tokens": [5, 5]}
    table = pa.table({**right, column: odd_columns()[kind]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(TraceError, match=rf"x\.parquet: .*column '{column}' holds "):
        gathered(open_trace(tmp_path / "x.parquet"))


def test_columns_that_are_read(tmp_path):
    """Decimals, texts, coded texts; nulls where one may be."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "arrival_s": pa.array([0, 1], pa.decimal128(9, 2)),
            "prompt_tokens": pa.array(["64", "65"]),
            "output_tokens": pa.array([5, 6], pa.uint64()),
            "tenant": pa.array(["b", "a"]).dictionary_encode(),
            "session": pa.array([None, 3], pa.int64()),
            "blocks_16": pa.array([[1, 2], [1, 2]], pa.large_list(pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    stream = open_trace(tmp_path / "x.parquet")
    found = gathered(stream)
    assert found.prompt_tokens.tolist() == [64, 65] and stream.tenants == ["b", "a"]
    assert found.session.tolist() == [-1, 0] and found.blocks.tolist() == [0, 1, 0, 1]


def onnx_of(tmp_path: Path, nodes, dims=(2, 8), weights=(), functions=()) -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)
    end = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    graph = helper.make_graph(list(nodes), "g", [given], [end], list(weights))
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "x.onnx"


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("MatMul", ["x"]), ("MatMul", []), ("Gemm", ["x"]), ("Conv", ["x"]),
        ("QLinearConv", ["x", "x", "x"]), ("QLinearMatMul", ["x"]), ("ConvTranspose", []),
        ("MatMul", ["x", "y"]), ("MatMul", ["y", "x"]), ("Conv", ["x", "x"]),
        ("MatMul", ["nowhere", "x"]),
    ],
)  # fmt: skip
def test_operations_without_operands_or_in_circles(tmp_path, kind, inputs):
    onnx = pytest.importorskip("onnx")
    path = onnx_of(tmp_path, [onnx.helper.make_node(kind, inputs, ["y"], name="here")])
    with pytest.raises(ValueError, match=r"x\.onnx: .*(here|no matrix product)"):
        read_dnn(path)


def test_sizes_of_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    product = [node("MatMul", ["x", "w"], ["y"], name="here")]
    for dims, what in (((2**50, 8), "of a size"), ((2**21, 2**20, 8), "matrix products|of a size")):
        weight = tensor("w", onnx.TensorProto.FLOAT, [8, 8], b"\0" * 256, raw=True)
        with pytest.raises(ValueError, match=rf"x\.onnx: .*{what} are too many"):
            read_dnn(onnx_of(tmp_path, product, dims, [weight]))
    stacks = onnx_of(tmp_path, [node("MatMul", ["x", "x"], ["y"], name="here")], (10**9, 8, 8))
    with pytest.raises(ValueError, match=r"MatMul 'here'.* matrix products are too many"):
        read_dnn(stacks)
    many = [node("MatMul", ["x", "x"], [f"y{i}"]) for i in range(3)]
    assert len(read_dnn(onnx_of(tmp_path, many, (8, 8)))[0].layers) == 3


@pytest.mark.parametrize("circle", [True, False])
def test_functions_of_an_onnx_file(tmp_path, circle):
    """One that calls itself, and a chain of which each calls the next twice."""
    onnx = pytest.importorskip("onnx")
    node, depth = onnx.helper.make_node, 30
    opsets = [onnx.helper.make_opsetid("own", 1), onnx.helper.make_opsetid("", 17)]
    functions = []
    for level in range(depth):
        last = level == depth - 1
        calls = ("Relu", "") if last and not circle else (f"f{(level + 1) % depth}", "own")
        nodes = [node(calls[0], ["a"], ["b"], domain=calls[1])] * 2
        functions.append(onnx.helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, opsets))
    path = onnx_of(tmp_path, [node("f0", ["x"], ["y"], domain="own")], functions=functions)
    with pytest.raises(ValueError, match="calls itself" if circle else "operations of a network"):
        read_dnn(path)


def test_lists_of_products(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    cases = {
        "m,n,k\n" + "1,1,1\n" * 30: "line 12: 11 matrix products are too many",
        "m,n,k\n" + "\n" * 30 + "1,1,1\n": "more than 20 blank lines",
        f"m,n,k\n{2**40},{2**40},{2**40}\n": "multiply-accumulates are too many",
        f"m,n,k\n{10**30},1,1\n": "line 2: m is",
        "m,n,k\n1,1\n": "line 2: 2 cells",
        "m,n,k\n1e300,nan,inf\n": "line 2: m is '1e300'",
    }
    monkeypatch.setitem(MOST, "matrix products", MOST["matrix products"]._replace(most=10))
    monkeypatch.setattr("sim.dnn.gemm_file._MOST_BLANK", 20)
    for text, what in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=r"x\.csv: .*" + what):
            read_dnn(path)
    path.write_text("m,n,k\n1000000,1,1\n")
    with pytest.raises(ScenarioError, match=r"batch: .*(tile ops|of a size)"):
        prepare(load(networks(tmp_path, path, more=", batch: 1000000")))


# Files that have no end, or nothing behind them.


@pytest.fixture(params=["pipe", "device"])
def endless(request, tmp_path) -> Path:
    if request.param == "device":
        return Path("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize(
    "read",
    [
        open_trace, load, catalog.device, catalog.model, catalog.library, catalog.pod,
        lambda path: read_bytes(path, "table bytes"), "config.json",
    ],
)  # fmt: skip
def test_pipes_and_devices(endless, read, tmp_path):
    if read == "config.json":
        (tmp_path / "x.json").symlink_to(endless)
        endless, read = tmp_path / "x.json", catalog.model
    with pytest.raises(ValueError, match=r"is a (pipe|device), which may have no end"):
        read(endless)


def test_networks_in_pipes(tmp_path):
    for ending in (".csv", ".onnx"):
        os.mkfifo(tmp_path / f"x{ending}")
        with pytest.raises(ValueError, match=f"x{ending}: is a pipe"):
            read_dnn(tmp_path / f"x{ending}")
    os.mkfifo(tmp_path / "chunk-0-trace.csv")
    with pytest.raises(TraceError, match=r"chunk-0-trace\.csv: is a pipe"):
        open_trace(tmp_path)


def test_lines_without_end(tmp_path, monkeypatch):
    monkeypatch.setitem(MOST, "blank lines", MOST["blank lines"]._replace(most=1000))
    path = tmp_path / "x.csv"
    text = f"{HEADER}\n0,5,5\n".encode()
    path.write_bytes(gzip.compress(text + b"\n" * 5_000_000))
    with pytest.raises(TraceError, match=r"row 3 and those below it: .* blank lines in a row are"):
        gathered(open_trace(path))
    path.write_bytes(gzip.compress(text + b"0" * 2**25))
    with pytest.raises(TraceError, match="row 3 is longer than 16 MiB"):
        gathered(open_trace(path))
    path.write_bytes(text + b"\n" * 900 + b"1,5,5\r\n" + b"\r\n" * 900 + b"2,5,5\n")
    assert len(gathered(open_trace(path))) == 3


def test_sparse_files(tmp_path):
    """A terabyte that takes no room on disk."""
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(2**40)
    for read in (open_trace, load, catalog.model, catalog.device, read_dnn):
        with pytest.raises(ValueError, match=r"x\.csv"):
            read(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [" + "[]," * 150_000 + "]", ":1: more than 100,000 values"),
        ("- a\n" * 150_000, ":100000: more than 100,000 values"),
        ("a: " + "[" * 100_000, ":1: nested deeper than 60"),
        ("a: " + "{b: " * 100_000, ":1: nested deeper than 60"),
        ("a: &a {" + ",".join(f"k{i}: 1" for i in range(500)) + "}\nb: ["
         + ", ".join(["{<<: *a}"] * 500) + "]\n", ":1: more than 100,000 values"),
        ("a: &a [1, 2]\n" + "".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijkl")
        ), ":1: more than 100,000 values"),
        ("a: &a [*a]\n", "refers to the mapping or list it stands in"),
    ],
)  # fmt: skip
def test_yaml_that_says_too_much(text, what):
    with pytest.raises(ScenarioError, match=what):
        parse(text)


def test_json_that_grows(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[" + "{}," * 2_100_000 + "{}]")
    with pytest.raises(TraceError, match=r"values of a JSON text are too many"):
        open_trace(path)
    path.write_text("[" * 500_000)
    with pytest.raises(TraceError, match=r"x\.json: .*nested too deeply"):
        open_trace(path)


def test_block_ids_as_large_as_can_be(tmp_path):
    """A table of ids would take memory for all that are not there."""
    path = tmp_path / "x.jsonl"
    row = {"arrival_s": 0, "prompt_tokens": 32, "output_tokens": 5}
    rows = [{**row, "blocks_16": ids} for ids in ([2**26, 5], [2**62, 2**26], [5, 10**30])]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert gathered(open_trace(path)).blocks.tolist() == [0, 1, 2, 0, 1, 3]


# The mechanism.


def test_what_a_reader_meets_is_told_from_our_own_mistakes():
    for wrong in (lambda: {}["a"], lambda: [][0], lambda: None + 1, lambda: int(float("inf"))):
        with pytest.raises(ValueError, match="row 3: not what is due there"), meeting("row 3"):
            wrong()
    for mistake in (NameError, AssertionError, ImportError, NotImplementedError):
        with pytest.raises(mistake), meeting("row 3"):
            raise mistake


def test_every_count_is_bounded():
    for kind, most in MOST.items():
        assert bounded(kind, most.most) == most.most
        for count in (most.most + 1, 10**400, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"here: .*{most.noun} are too many; at most"):
                bounded(kind, count, "here")


def test_a_regular_file_is_opened(tmp_path):
    (tmp_path / "x").write_text("a")
    with opened(tmp_path / "x") as file:
        assert file.read() == b"a"
    with pytest.raises(IsADirectoryError):
        opened(tmp_path)


def test_names_are_shown_and_not_obeyed(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"{HEADER},tenant\n0,5,5,\x1b[31m[bold]red\x07\n1,5,5,\u202eb\n")
    done = CliRunner().invoke(app, ["trace", "describe", str(path)])
    assert done.exit_code == 0 and "\u241b[31m[bold]red" in done.output
    assert not {"\x1b", "\x07", "\u202e"} & {*done.output}
    path.write_text("\x1b[2J\n")
    done = CliRunner().invoke(app, ["trace", "describe", str(path)])
    assert done.exit_code == 2 and "\x1b" not in done.output
    assert visible("a\tb\nc") == "a\tb\nc"


def test_turns_at_one_time_are_told_by_name_not_by_place():
    asked = [np.zeros(3), np.zeros(2), np.zeros(4)]
    seconds, resume = [1.0, 2.0, 0.5], [0.1, 0.1, 0.1]
    first = tenancy.in_turns(asked, seconds, 0.7, resume, order=(0, 1, 2))
    places = [2, 0, 1]
    moved = tenancy.in_turns(
        [asked[p] for p in places], [seconds[p] for p in places], 0.7, resume,
        order=[places.index(p) for p in range(3)],
    )  # fmt: skip
    for at, place in enumerate(places):
        assert moved.end_s[at].tolist() == first.end_s[place].tolist()


@pytest.mark.parametrize("sharing", ["time_sliced", "co_resident"])
def test_tenants_in_any_order_are_the_same(tmp_path, sharing):
    one = "{trace: {file: azure_conv_like, limit: 12}, model: llama3-8b, tensor: 1}"
    found = []
    for names in ("ab", "ba"):
        path = tmp_path / "x.yaml"
        path.write_text(
            "question: q\npod: {topology: dgx_h100}\n"
            f"workload: {{kind: tenants, sharing: {sharing}, tenants: {{"
            + ", ".join(f"{name}: {one}" for name in names)
            + "}}\nrecord: {enabled: false}\n"
        )
        tenants = next(iter(sim.run(path).variants.values()))["tenants"]
        found.append({name: tenants[name]["e2e_mean_s"] for name in "ab"})
    assert found[0] == found[1]


def test_a_trace_in_chunks_keeps_its_tenants(tmp_path):
    """Also where it is cut, and where it gets other times: a writer names them as it goes."""
    path = clients(tmp_path, "0,0.1,1,Gamma,1,1\n600,0.1,1,Gamma,1,1\n")
    for stream in (open_trace(path, chunk_rows=7), open_trace(path, first=3, chunk_rows=7)):
        for chunk in stream.chunks():
            assert [stream.tenants[at] for at in chunk.tenant.tolist()]
    assert described(open_trace(path)).name == "x.tar.gz"


# Without end.


@pytest.mark.parametrize("name", list(readers()))
def test_a_few_inputs_of_the_fuzzer(tmp_path, name):
    for package in {"trace.parquet": ["pyarrow"], "network.onnx": ["onnx"]}.get(name, []):
        pytest.importorskip(package)
    if name == "trace.packed":
        pytest.importorskip("zstandard")
    found = fuzz(readers()[name], 0, 40, tmp_path)
    assert found.faults == []
    assert found.taken + found.refused == 40
