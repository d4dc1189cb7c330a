"""Hostile inputs for `benchmarks/fuzz.py`: right files of each kind, and what is done to them.

All dice are the caller's `random.Random`, so equal seeds give equal bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
INF, NAN = float("inf"), float("nan")
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    1000,
    10**6,
    2**31,
    2**40,
    2**63,
    10**18,
    10**30,
    10**400,
    -(2**63),
    0.5,
    -0.0,
    1e-300,
    5e-324,
    1e17,
    1e300,
    INF,
    -INF,
    NAN,
    "",
    " ",
    "x",
    "x" * 3000,
    "0",
    "-1",
    "1e999",
    "nan",
    "inf",
    "\x1b[31mred\x1b[0m",
    "[bold]x[/bold]",
    "<b>",
    "a\nb",
    "\0",
    "é",
    "../../etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "1 GB",
    "1e99 s",
    "1e-99 s",
    "0 B/s",
    "-5 us",
    [],
    {},
    [[]],
    [{}],
    [1],
    ["x"],
    {"a": 1},
    {"a": {"b": []}},
    [None],
    [1, "x", {}],
    [0] * 300,
]


def hostile(dice: random.Random) -> Any:
    """A value that nobody foresaw."""
    return deepcopy(dice.choice(VALUES))


def changed(data: Any, dice: random.Random) -> Any:
    """A tree in which some values or keys are others, are gone, or are there twice; one in seven
    is as it was."""
    data = deepcopy(data)
    for _ in range(dice.choice((0, 1, 1, 1, 1, 2, 3))):
        holders: list[tuple[Any, Any]] = []
        todo = [data] if isinstance(data, (dict, list)) else []
        while todo:
            node = todo.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node))
            holders += [(node, key) for key in keys]
            todo += [node[key] for key in keys if isinstance(node[key], (dict, list))]
        if not holders:
            break
        node, key = dice.choice(holders)
        what = dice.random()
        if what < 0.6:
            node[key] = hostile(dice)
        elif what < 0.7:
            del node[key]
        elif what < 0.8 and isinstance(node, dict):
            name = dice.choice([f"{key}x", "a", 7, dice.choice([*node])])
            node[name] = node.pop(key)
        elif what < 0.9 and isinstance(node, list):
            node += [deepcopy(node[key])] * dice.choice((1, 50))
        else:
            other, place = dice.choice(holders)
            node[key] = deepcopy(other[place])
    return data


def torn(data: bytes, dice: random.Random) -> bytes:
    """Bytes of which some are others, are gone, or are there again."""
    found = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(found))
        what = dice.randrange(5)
        if what == 0 and found:
            found[at % len(found)] = dice.randrange(256)
        elif what == 1:
            del found[at : at + dice.randint(1, 40)]
        elif what == 2:
            found[at:at] = dice.randbytes(dice.randint(1, 8))
        elif what == 3:
            found[at:at] = found[at : at + 60] * dice.choice((1, 3, 200))
        else:
            del found[at:]
    return bytes(found)


def as_yaml(data: Any, dice: random.Random) -> bytes:
    """A tree as YAML, now and then torn."""
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    return torn(text, dice) if dice.random() < 0.2 else text


def as_json(data: Any, dice: random.Random) -> bytes:
    """A tree as JSON, now and then torn."""
    text = json.dumps(data, skipkeys=True).encode()
    return torn(text, dice) if dice.random() < 0.2 else text


def of_files(pattern: str, dump: Callable[[Any, random.Random], bytes] = as_yaml) -> Any:
    """Makes inputs from the shipped files that match."""
    files = sorted(ROOT.glob(pattern))
    assert files, pattern
    seeds = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    seeds = [seed for seed in seeds if len(str(seed)) < 6000]
    return lambda dice: dump(changed(dice.choice(seeds), dice), dice)


def cell(dice: random.Random, right: Any) -> str:
    """A field of a table."""
    value = hostile(dice) if dice.random() < 0.08 else right
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:400]


def table(dice: random.Random) -> bytes:
    """A trace in CSV."""
    header = dice.choice(
        (
            ["arrival_s", "prompt_tokens", "output_tokens"],
            ["arrival_s", "prompt_tokens", "output_tokens", "session", "think_s", "tenant"],
            ["arrival_s", "prompt_tokens", "output_tokens", "blocks_16"],
            ["Timestamp", "Request tokens", "Response tokens", "Session ID", "Elapsed time"],
            ["arrived_at", "num_prefill_tokens", "num_decode_tokens"],
            ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
        )
    )
    lines = [",".join(header)]
    now = 0.0
    for _ in range(dice.choice((1, 3, 20, 200))):
        now += dice.expovariate(1.0)
        when = f"2023-11-16 18:{int(now) % 60:02}:00" if header[0] == "TIMESTAMP" else round(now, 3)
        right = [when, dice.randint(1, 500), dice.randint(1, 90), dice.randint(0, 4), 1.5, "t"]
        if header[-1] == "blocks_16":
            right[3] = "1 2 3"
        rate = 0.02 if dice.random() < 0.5 else 1.0
        lines.append(
            ",".join(
                cell(dice, v) if dice.random() < rate else str(v) for v in right[: len(header)]
            )
        )
        if dice.random() < 0.01:
            lines += [""] * dice.choice((1, 500))
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def rows(dice: random.Random) -> bytes:
    """A trace in JSON Lines, or one JSON document."""
    kind = dice.randrange(5)
    found: list[Any] = []
    now = 0.0
    for at in range(dice.choice((1, 3, 30))):
        now += dice.expovariate(1.0)
        found.append(
            (
                {"arrival_s": now, "prompt_tokens": 64, "output_tokens": 5, "session": at % 3},
                {
                    "timestamp": int(now * 1000),
                    "input_length": 1024,
                    "output_length": 9,
                    "hash_ids": [at, at + 1],
                },
                {
                    "chat_id": at,
                    "parent_chat_id": at - 1,
                    "timestamp": now,
                    "input_length": 40,
                    "output_length": 5,
                    "hash_ids": [1, 2, 3],
                },
                {
                    "created": 1_700_000_000 + at,
                    "model": "m",
                    "usage": {"prompt_tokens": 5, "completion_tokens": 3},
                },
                {"arrival_s": now, "prompt_tokens": 64, "output_tokens": 5, "blocks_16": [1, 2]},
            )[kind]
        )
    if dice.random() < 0.2:
        document = {
            "input_lens": [10] * len(found),
            "output_lens": [5] * len(found),
            "start_times": [1.0 * at for at in range(len(found))],
            "errors": [""] * len(found),
        }
        return as_json(changed(document, dice) if dice.random() < 0.8 else document, dice)
    if dice.random() < 0.7:
        found = changed(found, dice)
    if dice.random() < 0.15:
        return as_json(found, dice)
    return b"".join(json.dumps(row, skipkeys=True).encode() + b"\n" for row in found)


def packed(dice: random.Random) -> bytes:
    """A trace in gzip or zstd, of one frame or more, often torn."""
    import zstandard

    found = b""
    for _ in range(dice.choice((1, 1, 2))):
        text = dice.choice((table(dice), b"\n" * dice.choice((10, 10**6)), b"0" * 10**6))
        if dice.random() < 0.5:
            found += gzip.compress(text, 1, mtime=0)
        else:
            found += zstandard.ZstdCompressor(level=1).compress(text)
    return torn(found, dice) if dice.random() < 0.6 else found


def parquet(dice: random.Random) -> bytes:
    """A trace in Parquet, with columns of any type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = dice.choice((0, 1, 3, 50))
    right: dict[str, Any] = {
        "arrival_s": pa.array([float(at) for at in range(count)]),
        "prompt_tokens": pa.array([64] * count, pa.int64()),
        "output_tokens": pa.array([5] * count, pa.int64()),
    }
    extras: dict[str, Any] = {
        "session": pa.array([at % 3 for at in range(count)], pa.int64()),
        "think_s": pa.array([1.0] * count),
        "tenant": pa.array(["t"] * count),
        "blocks_16": pa.array([[1, 2]] * count, pa.list_(pa.int64())),
    }
    right |= {name: each for name, each in extras.items() if dice.random() < 0.3}
    odd: list[Callable[[], Any]] = [
        lambda: pa.array([None] * count),
        lambda: pa.array([{"a": 1}] * count, pa.struct([("a", pa.int64())])),
        lambda: pa.array([[[1]]] * count, pa.list_(pa.list_(pa.int64()))),
        lambda: pa.array([b"\xff\0"] * count, pa.binary()),
        lambda: pa.array([10**9] * count, pa.timestamp("ns")),
        lambda: pa.array([True] * count),
        lambda: pa.array([str(at) for at in range(count)]),
        lambda: pa.array(list(range(count)), pa.decimal128(20, 3)),
        lambda: pa.array([dice.choice((INF, NAN, -1.0, 1e300, 2.5)) for _ in range(count)]),
        lambda: pa.array([dice.choice((-(2**63), 2**63 - 1, 0, 2**40)) for _ in range(count)]),
        lambda: pa.array([2**64 - 1] * count, pa.uint64()),
        lambda: pa.array([dice.choice((None, 1)) for _ in range(count)], pa.int64()),
        lambda: pa.array([[dice.choice((None, 2**62, 3, -1))]] * count, pa.list_(pa.int64())),
        lambda: pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        lambda: pa.array(["x"] * count).dictionary_encode(),
        lambda: pa.array([["x"]] * count, pa.large_list(pa.string())),
        lambda: pa.array([[1, 2]] * count, pa.list_(pa.int64(), 2)),
        lambda: pa.array([1.5] * count, pa.float32()),
        lambda: pa.array([b"0" * 4] * count, pa.binary(4)),
    ]
    for name in list(right):
        if dice.random() < 0.25:
            right[name] = dice.choice(odd)()
        elif dice.random() < 0.03:
            del right[name]
    out = io.BytesIO()
    pq.write_table(pa.table(right), out, compression=dice.choice(("snappy", "gzip", "none")))
    return torn(out.getvalue(), dice) if dice.random() < 0.25 else out.getvalue()


def servegen(dice: random.Random) -> bytes:
    """An archive of clients; about half of them are right."""
    wrong = dice.random() < 0.6
    files: dict[str, bytes] = {}
    for number in range(dice.randint(1, 3)):
        lines = []
        for window in range(dice.randint(2, 5)):
            fields = [
                600.0 * window,
                dice.random() / 10,
                1.0,
                dice.choice(("Gamma", "Weibull")),
                1.1,
                3.0,
            ]
            if wrong and dice.random() < 0.2:
                fields[dice.randrange(6)] = dice.choice((*VALUES, "1e5", "1e9", 10**12, 999999))
            lines.append(",".join(str(each)[:400] for each in fields))
        law = {dice.randint(1, 900): dice.random() for _ in range(4)}
        data: dict[Any, Any] = {
            0: {"input_tokens": str(law), "output_tokens": str(law)},
            1200: {"input_tokens": str(law), "output_tokens": ""},
        }
        if wrong and dice.random() < 0.3:
            data = changed(data, dice)
        if wrong and dice.random() < 0.2:
            data[0] = {"input_tokens": str(changed(law, dice)), "output_tokens": "{1: 1}"}
        files[f"chunk-{number}-trace.csv"] = "\n".join(lines).encode("utf-8", "replace")
        files[f"chunk-{number}-dataset.json"] = repr(data).encode("utf-8", "replace")
    if wrong and dice.random() < 0.2:
        files.pop(dice.choice(list(files)))
    out = io.BytesIO()
    form = dice.choice(("w", "w:gz", "w:bz2", "w:xz"))
    with tarfile.open(fileobj=out, mode=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(dice.choice(("", "model/", "/etc/", "../../")) + name)
            member.size = len(content)
            if wrong and dice.random() < 0.05:
                member.type = dice.choice((tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
                member.size = 0
            archive.addfile(member, io.BytesIO(content))
    return torn(out.getvalue(), dice) if wrong and dice.random() < 0.3 else out.getvalue()


def gemms(dice: random.Random) -> bytes:
    """A list of matrix products in CSV."""
    names = ["m", "n", "k", *dice.choice(([], ["name"], ["name", "after"], ["kernel_area"]))]
    lines = [",".join(names)]
    for at in range(dice.choice((1, 4, 40))):
        right = {"m": 64, "n": 32, "k": 16, "name": f"g{at}", "after": f"g{at - 1}" if at else ""}
        right["kernel_area"] = 1
        wrong = 0.01 if dice.random() < 0.5 else 0.3
        lines.append(
            ",".join(
                cell(dice, right[n]) if dice.random() < wrong else str(right[n]) for n in names
            )
        )
    text = "\n".join(lines).encode("utf-8", "replace")
    return torn(text, dice) if dice.random() < 0.2 else text


def onnx_model(dice: random.Random) -> bytes:
    """A network of a few operations whose shapes fit; in about half of them something does not."""
    from onnx import TensorProto, helper

    wide, nodes, weights = 8, [], []
    last, shape = "x", [2, wide]
    for at in range(dice.randint(1, 6)):
        kind = dice.choice(("Gemm", "MatMul", "Relu", "Add", "Softmax", "Reshape"))
        inputs, attributes = [last], {}
        if kind in ("Gemm", "MatMul"):
            out = dice.choice((4, 8, 16))
            weights.append(
                helper.make_tensor(
                    f"w{at}",
                    TensorProto.FLOAT,
                    [shape[1], out],
                    b"\0" * 4 * shape[1] * out,
                    raw=True,
                )
            )
            inputs.append(f"w{at}")
            shape = [shape[0], out]
        elif kind == "Add":
            inputs.append(last)
        elif kind == "Reshape":
            weights.append(helper.make_tensor(f"s{at}", TensorProto.INT64, [2], shape))
            inputs.append(f"s{at}")
        nodes.append(helper.make_node(kind, inputs, [f"t{at}"], name=f"n{at}", **attributes))
        last = f"t{at}"
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, wide])]
    functions: list[Any] = []
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    if dice.random() < 0.6:
        node = dice.choice(nodes)
        what = dice.randrange(14)
        if what == 0:
            del node.input[dice.randrange(len(node.input)) :]
        elif what == 1:
            node.input[0] = dice.choice((nodes[-1].output[0], "nowhere", "", node.output[0]))
        elif what == 2:
            del node.output[:]
        elif what == 3:
            node.op_type = dice.choice(
                (
                    "Conv",
                    "ConvTranspose",
                    "QLinearMatMul",
                    "QLinearConv",
                    "Loop",
                    "If",
                    "Einsum",
                    "MatMulInteger",
                    "Gemm",
                )
            )
        elif what == 4:
            names = ("group", "transA", "transB", "axis", "shape", "kernel_shape", "pads", "body")
            values = (0, -1, 2**40, 1.5, "x", [1, 2], [2**62] * 3)
            node.attribute.append(helper.make_attribute(dice.choice(names), dice.choice(values)))
        elif what == 5:
            dims = dice.choice(
                (
                    [0, 8],
                    [-1, 8],
                    [2**62, 8],
                    ["n", 8],
                    ["n", "m"],
                    [],
                    [2, 8, 8, 8],
                    [2**31] * 3 + [8],
                    [8] * 300,
                )
            )
            given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
        elif what == 6 and weights:
            tensor = dice.choice(weights)
            del tensor.dims[:]
            tensor.dims.extend(
                dice.choice(([], [8], [-8, 8], [2**60, 2**60], [0, 0], [1] * 200, [50000, 8, 4]))
            )
        elif what == 7:
            node.domain = "own"
        elif what in (8, 9):
            depth = dice.choice((1, 3, 30))
            for level in range(depth):
                inner = "f" + str((level + 1) % depth if what == 8 else level + 1)
                last_of = "Relu" if what == 9 and level == depth - 1 else inner
                calls = [
                    helper.make_node(
                        last_of, ["a"], ["b"], domain="" if last_of == "Relu" else "own"
                    )
                ] * 2
                functions.append(
                    helper.make_function("own", f"f{level}", ["a"], ["b"], calls, opsets)
                )
            node.op_type, node.domain = "f0", "own"
        elif what == 10:
            nodes.reverse()
        elif what == 11:
            nodes += nodes * dice.choice((1, 40))
        elif what == 12:
            given = []
        else:
            node.name = node.output[0] = dice.choice(("", "x", "\x1b[31m", "n" * 3000))
    result = [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, result, weights)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    data: bytes = model.SerializeToString()
    return torn(data, dice) if dice.random() < 0.15 else data


def config(dice: random.Random) -> bytes:
    """A model's config.json, of one of the families."""
    base: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "vocab_size": 1000,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_scaling": {"type": "yarn", "factor": 2.0},
        "sliding_window": 128,
        "use_sliding_window": True,
        "attention_bias": True,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "ignore": ["re:.*lm_head"],
            "config_groups": {
                "g": {
                    "weights": {"type": "float", "num_bits": 8, "group_size": 32},
                    "targets": ["Linear"],
                }
            },
        },
    }
    kinds: dict[str, dict[str, Any]] = {
        "llama": {},
        "qwen3": {},
        "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2},
        "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
        "deepseek_v3": {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 64,
            "kv_lora_rank": 64,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 32,
            "v_head_dim": 32,
            "first_k_dense_replace": 1,
            "attention_bias": False,
        },
        "gemma3": {"text_config": {**base, "model_type": "gemma3_text"}, "vision_config": {"x": 1}},
        "phi3small": {
            "ff_intermediate_size": 64,
            "dense_attention_every_n_layers": 2,
            "blocksparse_block_size": 64,
            "blocksparse_num_local_blocks": 16,
            "blocksparse_vert_stride": 8,
        },
    }
    kind = dice.choice(list(kinds))
    found = {"model_type": kind, **base, **kinds[kind]}
    for key in dice.sample(list(base), dice.randint(0, 5)):
        if key not in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"):
            found.pop(key, None)
    return as_json(changed(found, dice), dice)
