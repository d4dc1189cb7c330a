"""A smaller KV-cache: what it holds, what it costs, and what is said of a card that is wrong."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import simpy
from machines import DEVICE, network

import sim
from sim import catalog
from sim.catalog.kv_cards import card
from sim.engine.group import Group, members_of
from sim.engine.lines import features_of_batch, patterns_of
from sim.engine.pricing import pricing
from sim.graph.batch import Batch, Sequences, attended, decode_batch, prefill_batch
from sim.graph.footprint import footprint
from sim.graph.graph import Op
from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard, stage_layers
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.cost import Sizes, cost
from sim.hardware.device import Kernel
from sim.serving.fleet import ROW_SUMS
from sim.serving.step_time import steps_seconds
from sim.techniques import TECHNIQUES, Machine, apply

LLAMA = catalog.model("llama3-8b")
SMALL = Model(
    "small", layers=4, hidden=1024, heads=8, kv_heads=2, head_dim=64, ffn=4096, vocab=32000
)
# Attention whose arithmetic and reads do not overlap, as on some cards, and a slow vector engine.
CHIP = replace(
    DEVICE,
    vector_flop_per_s=2e12,
    l2_bytes=20e6,
    kernels={"attention": Kernel(7e-6, 0.6, 0.8, 0.3)},
)


def chosen(*techniques):
    """(name, options), read as a scenario's are."""
    return [
        (name, TECHNIQUES[name].options.model_validate(options, strict=True))
        for name, options in techniques
    ]


def low(ratio=0.5, **options):
    return "kv_low_rank", {"ratio": ratio, **options}


def graph_of(model, techniques, parallel=None, precision=None, stage=0):
    """Batch -> graph of a rank."""
    parallel, built = parallel or Parallel(), cache(transformer)
    machine = Machine(
        CHIP.l2_bytes,
        CHIP.hbm_bytes_per_s,
        parallel.ranks,
        {},
        model,
        stage_layers(model.layers, parallel.pipeline)[stage],
    )
    pairs = chosen(*techniques)
    return lambda batch: apply(
        built(model, precision or Precision(), parallel, batch, stage), machine, pairs
    )


def read(graph, kind):
    return sum(t.nbytes for _, op in graph.ops() for t in op.reads if t.kind == kind)


@pytest.fixture
def a_card(tmp_path):
    """Writes a card for SMALL with some things changed; `tensors`: with bases beside it."""

    def write(name="card", tensors=False, **changes):
        k, v = (16, 32, 48, 64), (64, 32, 16, 40)
        own = {
            "kind": "kv_low_rank",
            "version": 1,
            "name": name,
            "method": "stiefel",
            "model": {
                "name": "small",
                "layers": 4,
                "kv_heads": 2,
                "query_heads": 8,
                "head_dim": 64,
                "sha256": "0" * 64,
            },
            "data": {"calibration": "wiki", "tokens": 9, "licence": "CC0", "sha256": "1" * 64},
            "ranks": {"k": k, "v": v},
            "ratio": (sum(k) + sum(v)) / (2 * 64 * 4),
            "errors": {
                "layer_output": [0.1] * 4,
                "layer_output_no_first": [0.1] * 4,
                "cosine_no_first": [0.99] * 4,
            },
            "perplexity": {
                "in_domain": {"full": 20.0, "compressed": 37.0},
                "out_of_domain": {"full": 35.0, "compressed": 68.0},
                "windows": {"count": 8, "tokens": 512},
            },
            "flop_per_token": {"value": 1.0, "how": "2 r_K head_dim for each KV head and layer"},
            "tensors": None,
            "seed": 0,
            "command": "podscope learn stiefel",
            "made_with": {"torch": "2"},
        }
        if tensors:
            own["tensors"] = {"file": f"{name}.safetensors", "sha256": bases(own, tmp_path, name)}
        for key, value in changes.items():
            at = own
            *parts, last = key.split("__")
            for part in parts:
                at = at[part]
            at[last] = value
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(own, indent=1))
        return path

    return write


def bases(own, folder, name, scale=1.0):
    """A file of orthonormal bases beside a card; its hash."""
    safetensors = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    tensors = {}
    for layer, (k, v) in enumerate(zip(own["ranks"]["k"], own["ranks"]["v"])):
        tensors[f"k.{layer}"] = scale * np.linalg.qr(rng.normal(size=(64, k)))[0]
        tensors[f"v.{layer}"] = np.linalg.qr(rng.normal(size=(2, 64, v)))[0]
    path = folder / f"{name}.safetensors"
    safetensors.save_file({k: v.astype(np.float32) for k, v in tensors.items()}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What arithmetic costs that is done beside.


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_what_is_beside_fills_the_wait(overlap):
    """Longest of: all arithmetic; what the kernel takes without it."""
    card_ = replace(CHIP, kernels={"attention": Kernel(7e-6, 0.6, 0.8, overlap)})
    rate, vector, port = 0.6 * 400e12, 2e12, 0.8e12
    for flop, beside, wide, nbytes in product(
        (1e9, 4e10), (0.0, 1e9, 3e10), (0.0, 3e8), (1e6, 5e8)
    ):
        op = Sizes(
            "attention",
            "matrix",
            "fp16",
            flop + beside,
            beside_flop=beside,
            vector_flop=wide,
            hbm_bytes=nbytes,
        )
        own_s, beside_s, read_s = flop / rate, beside / rate + wide / vector, nbytes / port
        without_s = max(own_s, read_s) + (1 - overlap) * min(own_s, read_s)
        found = cost(op, card_).alone(nbytes, 0.0, card_)
        assert found.seconds == pytest.approx(7e-6 + max(own_s + beside_s, without_s), rel=1e-12)


def test_costs_of_columns_are_those_of_each():
    columns = np.array([1e9, 2e10]), np.array([1e8, 1e10]), np.array([3e7, 5e8])
    many = cost(
        Sizes(
            "attention",
            "matrix",
            "fp16",
            columns[0],
            lone_flop=np.zeros(2),
            beside_flop=columns[1],
            vector_flop=columns[2],
        ),
        CHIP,
    )
    for place, (flop, beside, wide) in enumerate(zip(*columns)):
        one = cost(
            Sizes("attention", "matrix", "fp16", flop, beside_flop=beside, vector_flop=wide), CHIP
        )
        assert many.arithmetic_s[place] == pytest.approx(one.arithmetic_s, rel=1e-12)
        assert many.beside_s[place] == pytest.approx(one.beside_s, rel=1e-12)


WAYS = {
    "low": [low(overlap=0.4)],
    "low, hidden": [low(0.75, overlap=1.0)],
    "low, in turn": [low(0.25, overlap=0.0)],
    "two kernels": [low(kernel="two")],
    "int4": [("kv_quantised", {"format": "int4", "overlap": 0.5})],
    "int2 of a low rank": [low(overlap=0.5), ("kv_quantised", {"format": "int2", "group": 16})],
    "two kernels, fp8": [low(kernel="two"), ("kv_quantised", {"format": "fp8"})],
    "sinks": [("kv_eviction", {"keep": "sinks", "window": 508})],
    "heavy hitters": [("kv_eviction", {"keep": "heavy_hitters", "budget": 700})],
    "all": [
        low(overlap=0.5),
        ("kv_eviction", {"keep": "heavy_hitters", "budget": 700}),
        ("kv_quantised", {"format": "int4"}),
    ],
}
BATCHES = [
    decode_batch([5]),
    decode_batch(range(100, 900, 7)),
    decode_batch([30_000] * 3),
    prefill_batch([700, 3]),
    Batch((Sequences(1, 256, 512), Sequences(9, 1, 80)), 9),
    Batch((Sequences(40, 1, 3000), Sequences(2, 40, 3000)), 41),
]
WIRES = network(8)


def formed(graphs, ranks):
    some = Group(simpy.Environment(), members_of(CHIP, graphs, ranks), WIRES)
    patterns = patterns_of([some])
    form = pricing(graphs, CHIP, WIRES, ranks, patterns)
    assert form is not None
    return form, patterns


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", [1, 4])
def test_closed_form_meets_the_play(way, ranks):
    graphs = graph_of(SMALL, WAYS[way], Parallel(ranks))
    form, patterns = formed(graphs, ranks)
    table = form.table(800, 120)
    for batch in BATCHES:
        some = Group(simpy.Environment(), members_of(CHIP, graphs, ranks), WIRES)
        some.env.run(some.env.process(some.run(graphs(batch))))
        found = np.array(features_of_batch(patterns, batch))
        sums = np.zeros((table.times.shape[1], ROW_SUMS))
        got = steps_seconds(table, 0, found, 0 * found, 1, sums)
        assert got == pytest.approx(some.env.now, rel=1e-8)


@pytest.mark.parametrize("way", ["low", "int2 of a low rank", "low, hidden"])
@pytest.mark.parametrize("vector", [0.05e12, 0.4e12, 2e12])
def test_a_jump_over_steps_is_their_sum(way, vector, monkeypatch):
    """Also where what is beside begins to show, or ceases to, on the way."""
    monkeypatch.setitem(globals(), "CHIP", replace(CHIP, vector_flop_per_s=vector))
    form, patterns = formed(graph_of(SMALL, WAYS[way]), 1)
    table = form.table(100, 100)
    first, second = (
        np.array(features_of_batch(patterns, decode_batch([1 + i, 200 + i]))) for i in (0, 1)
    )
    sums = np.zeros((table.times.shape[1], ROW_SUMS))
    each = sum(
        steps_seconds(table, 0, first + i * (second - first), 0 * first, 1, sums)
        for i in range(4000)
    )
    again = np.zeros_like(sums)
    assert steps_seconds(table, 0, first, second - first, 4000, again) == pytest.approx(
        each, rel=1e-11
    )
    assert again == pytest.approx(sums, rel=1e-9)


# Bytes and capacity.


def test_llama_at_32k_and_batch_4_is_16_gib():
    """The figure published for Llama3-8B in 16 bits."""
    batch = decode_batch([32_767] * 4)
    held = sum(
        t.occupied for _, op in graph_of(LLAMA, [])(batch).ops() for t in op.reads if t.kind == "kv"
    )
    assert held == 16 * 2**30


@pytest.mark.parametrize("ratio", [0.85, 0.67, 0.61, 0.5])
@pytest.mark.parametrize("kernel", ["fused", "two"])
def test_bytes_are_the_ratio(ratio, kernel):
    ranks = max(round(2 * 128 * ratio), 2)
    batch = decode_batch([32_767] * 4)
    plain, less = (graph_of(LLAMA, some)(batch) for some in ([], [low(ratio, kernel=kernel)]))
    assert read(less, "kv") / read(plain, "kv") == pytest.approx(ranks / 256, rel=1e-12)
    some, fewer = (
        footprint(graph_of(LLAMA, t), Parallel(), 64) for t in ([], [low(ratio, kernel=kernel)])
    )
    assert some.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert fewer.kv_bytes_per_token == 32 * 8 * ranks * 2


def test_each_layer_has_its_own_ranks(a_card):
    path = a_card()
    found = card(path)
    assert found.ratio == found.ratio_of_ranks
    way = [("kv_low_rank", {"card": str(path)})]
    less = footprint(graph_of(SMALL, way), Parallel(), 64)
    plain = footprint(graph_of(SMALL, []), Parallel(), 64)
    assert less.kv_bytes_per_token / plain.kv_bytes_per_token == pytest.approx(found.ratio, 1e-12)
    stages = [
        footprint(graph_of(SMALL, way, Parallel(pipeline=2), stage=stage), Parallel(pipeline=2), 9)
        for stage in (0, 1)
    ]
    assert [stage.kv_bytes_per_token for stage in stages] == [
        2 * 2 * (16 + 64 + 32 + 32),
        2 * 2 * (48 + 16 + 64 + 40),
    ]
    batch = decode_batch([1000] * 3)
    widths = [
        op.reads[0].nbytes / 2
        for _, op in graph_of(SMALL, way)(batch).ops()
        if op.name in ("qkv", "o")
    ]
    assert widths == [
        columns
        for k, v in zip(found.ranks.k, found.ranks.v)
        for columns in (1024 * (512 + 2 * (k + v)), 8 * v * 1024)
    ]


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_ranks_that_replicate_kv_heads(degree):
    """Of SMALL's two KV heads each of 4 or 8 ranks has one; its cache is the ratio of that."""
    heads = shard(SMALL, Parallel(degree)).kv_heads
    found = footprint(graph_of(SMALL, [low(0.5)], Parallel(degree)), Parallel(degree), 64)
    assert found.kv_bytes_per_token == 4 * heads * (32 + 32) * 2


def test_full_rank_changes_nothing():
    batch = decode_batch([500] * 3)
    plain = graph_of(SMALL, [])(batch)
    full = apply(plain, Machine(1.0, 1.0, 1, {}, SMALL, range(4)), chosen(low(1.0)))
    assert all(a is b for a, b in zip(plain.layers, full.layers))


def changed_ops(a, b):
    return {
        x.name
        for (_, x), (_, y) in zip(a.ops(), b.ops())
        if any(getattr(x, f.name) != getattr(y, f.name) for f in fields(Op) if f.name != "work")
    }


def test_values_alone(a_card):
    """With keys of full rank only projections, and attention on the values, change."""
    path = a_card("values", ranks={"k": [64] * 4, "v": [32] * 4}, ratio=0.75)
    batch = decode_batch([500] * 3)
    plain = graph_of(SMALL, [])(batch)
    less = graph_of(SMALL, [("kv_low_rank", {"card": str(path)})])(batch)
    assert changed_ops(plain, less) == {"qkv", "rope", "attention", "o"}
    rope = [next(op for _, op in some.ops() if op.name == "rope") for some in (plain, less)]
    assert rope[0].flop == rope[1].flop, "keys are rotated before they are cached, as ever"


def test_rebuilding_is_2_r_d_for_each_entry_and_kv_head():
    batch = decode_batch([999] * 3)
    entries, ranks = 3 * 1000, 32
    due = 2 * ranks * 64 * 2 * entries * SMALL.layers
    rotation = 6 * 64 * 2 * entries * SMALL.layers
    for way in ({"overlap": 0.0}, {"overlap": 0.25}, {"overlap": 1.0}, {"kernel": "two"}):
        graph = graph_of(SMALL, [low(0.5, **way)])(batch)
        ops = [op for _, op in graph.ops()]
        own = sum(op.flop for op in ops if op.kind in ("prepare", "rebuild"))
        assert own + sum(op.beside_flop for op in ops) == pytest.approx(due, rel=1e-12)
        assert sum(op.vector_flop for op in ops) == pytest.approx(rotation, rel=1e-12)
        attention = sum(op.flop - op.beside_flop for op in ops if op.kind == "attention")
        assert attention == (2 * (64 + ranks) + 5) * 8 * entries * SMALL.layers
        rope = sum(op.flop for op in ops if op.name == "rope")
        assert rope == 6 * 3 * 8 * 64 * SMALL.layers, "queries alone"


def test_two_kernels_write_and_read_whole_keys():
    graph = graph_of(SMALL, [low(0.5, kernel="two")])(decode_batch([999] * 3))
    layer = graph.layers[1]
    whole = 3 * 1000 * 2 * 64 * 2
    assert layer.op("k_rebuild").writes[0].nbytes == whole
    assert sum(t.nbytes for t in layer.op("attention").reads if t.name == "kv_whole_keys") == whole


@pytest.mark.parametrize(
    "form, group, bits",
    [("fp8", None, 8), ("int4", 32, 5), ("int4", 64, 4.5), ("int2", 32, 3), ("int2", 16, 4)],
)
def test_scales_are_bytes_of_the_cache(form, group, bits):
    way = [("kv_quantised", {"format": form} | ({"group": group} if group else {}))]
    found = footprint(graph_of(SMALL, way), Parallel(), 64)
    assert found.kv_bytes_per_token == pytest.approx(4 * 2 * 2 * 64 * bits / 8, rel=1e-12)


def test_a_group_of_values_is_no_longer_than_a_head_has():
    """Rank 20 has one group of 32 channels: a scale for 20 elements."""
    way = [low(20 / 64), ("kv_quantised", {"format": "int4", "group": 32})]
    found = footprint(graph_of(SMALL, way), Parallel(), 64)
    keys, values = 20 * (4 + 32 / 32) / 8, (20 * 4 + 32) / 8
    assert found.kv_bytes_per_token == pytest.approx(4 * 2 * (keys + values), rel=1e-12)


# Eviction.


@pytest.mark.parametrize("new, past", [(1, 3), (1, 700), (50, 20), (50, 690), (300, 9000)])
def test_a_pass_sees_what_is_kept_and_itself(new, past):
    from sim.graph.batch import Pattern
    from sim.serving.step_time import KEPT
    from sim.serving.step_time import attended as compiled

    pattern = Pattern("kept", 700)
    kept = min(past, 700)
    pairs = min(past + 1, 700) if new == 1 else sum(kept + i + 1 for i in range(new))
    entries = pairs if new == 1 else kept + new
    assert attended(pattern, new, past) == (pairs, entries)
    assert compiled(KEPT, 700, 1, new, past) == (pairs, entries)


def test_a_cache_that_keeps_so_many_tokens():
    budget = 700
    way = WAYS["heavy hitters"]
    plain, found = (footprint(graph_of(SMALL, some), Parallel(), 64) for some in ([], way))
    assert found.most_tokens == budget and plain.most_tokens == np.inf
    assert found.kv_bytes_per_token == plain.kv_bytes_per_token + 4 * 2 * 4, "scores of four bytes"
    graph = graph_of(SMALL, way)(decode_batch([9000] * 3))
    read_bytes = 3 * (budget - 1) * found.kv_bytes_per_token
    assert read(graph, "kv") == pytest.approx(read_bytes, rel=1e-12)


# Whole runs.

SERVED = """
question: What does a smaller cache buy?
pod: {topology: single, device: h100_sxm}
model: smollm2-135m
workload:
  kind: requests
  fidelity: %s
  max_batched_tokens: 256
  kv_tokens: 6000
  trace: {file: azure_conv_like, limit: 16, speed: 20}
techniques: %s
"""
LISTED = {
    "low": "[{kv_low_rank: {ratio: 0.5, overlap: 0.5}}]",
    "two": "[{kv_low_rank: {ratio: 0.5, kernel: two}}]",
    "both": "[{kv_low_rank: {ratio: 0.75}}, {kv_quantised: {format: int4}}]",
    "kept": "[{kv_eviction: {keep: heavy_hitters, budget: 300}}]",
}


def run(text, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return sim.run(path)


@pytest.mark.parametrize("way", LISTED)
def test_step_and_op_tell_the_same(way, tmp_path):
    """Times of every request, and what was read."""
    step, op = (
        next(iter(run(SERVED % (fidelity, LISTED[way]), tmp_path).outcomes.values()))
        for fidelity in ("step", "op")
    )
    for name in ("scheduled_s", "first_token_s", "last_token_s"):
        assert getattr(step.requests, name) == pytest.approx(
            getattr(op.requests, name), rel=1e-6, nan_ok=True
        )
    assert step.part.preemptions == op.part.preemptions
    assert step.totals.bytes["HBM"] == pytest.approx(op.totals.bytes["HBM"], rel=1e-6)
    assert step.totals.flop == pytest.approx(op.totals.flop, rel=1e-6)
    assert step.totals.seconds == pytest.approx(op.totals.seconds, rel=1e-6)


@pytest.mark.parametrize("fidelity", ["step", "op"])
def test_capacity_is_the_hand_sum(fidelity, tmp_path):
    """Of 90 % of the HBM what weights and activations leave, over the bytes of a token; a request
    of one token more is turned away."""
    m, ranks, tokens = catalog.model("smollm2-135m"), (43 + 42), 256
    projected = 576 * (9 * 64 + 3 * ranks) + 9 * 42 * 576 + 64 * 43  # with P_K
    mlp = 3 * 576 * 1536
    weights = 2 * (m.layers * (projected + mlp + 2 * 576) + 49152 * 576)
    graph = transformer(m, Precision(), Parallel(), Batch((Sequences(tokens, 1, 0),), tokens))
    buffers: dict[str, float] = {}
    for _, op in graph.ops():
        for t in (*op.reads, *op.writes):
            if t.kind == "activation":
                buffers[t.name] = max(buffers.get(t.name, 0.0), t.occupied)
    buffers["qkv"] = 2 * tokens * (9 * 64 + 3 * ranks)
    text = SERVED % (fidelity, "[{kv_low_rank: {ratio: 0.664, overlap: 1}}]")
    text = text.replace("  kv_tokens: 6000\n", "")
    (tmp_path / "s.yaml").write_text(text)
    from sim.kinds.served.plan import prepare
    from sim.run import load

    here = prepare(next(iter(load(tmp_path / "s.yaml").variants.values())), 0).machinery
    left = 0.9 * 80 * 2**30 - weights - sum(buffers.values())
    assert here.room.weight_bytes == weights
    assert here.room.activation_bytes == sum(buffers.values())
    assert here.room.kv_tokens == pytest.approx(left / (m.layers * 3 * ranks * 2), rel=1e-12)


def test_prefetches_are_of_fewer_bytes():
    """PRESERVE takes what attention reads, whichever kernel reads it."""
    batch = decode_batch([999] * 3)

    def fetched(*ways):
        ways = [*ways, ("preserve", {"cap": "1 GB", "prefetch": "kv"})]
        graph = graph_of(SMALL, ways, Parallel(2))(batch)
        return sum(op.hbm_bytes for _, op in graph.ops() if op.kind == "prefetch")

    plain = fetched()
    assert plain > 0
    assert fetched(low(0.5)) == pytest.approx(plain / 2, rel=1e-12)
    assert fetched(low(0.5, kernel="two")) == pytest.approx(plain / 2, rel=1e-12)
    int4 = ("kv_quantised", {"format": "int4"})
    assert fetched(low(0.5), int4) == pytest.approx(plain / 2 * 5 / 16, rel=1e-12)


def test_beside_a_narrower_cache():
    """precision.kv halves the bytes of what the low rank leaves."""
    wide, narrow = (
        footprint(graph_of(SMALL, [low(0.5)], precision=some), Parallel(), 64).kv_bytes_per_token
        for some in (Precision(), Precision(kv="fp8"))
    )
    assert narrow == wide / 2


@pytest.mark.parametrize(
    "model, ways, said",
    [
        ("deepseek-v3", [low()], "kv_low_rank: the model has latent attention"),
        ("deepseek-v3", [("kv_quantised", {"format": "int4"})], "kv_quantised: .* latent"),
        ("deepseek-v3", [("kv_eviction", {"keep": "sinks", "window": 9})], "kv_eviction: .*latent"),
        ("gpt-oss-20b", [("kv_eviction", {"keep": "sinks", "window": 9})], "sees no whole context"),
        ("qwen3-8b", [low()], "normalises its keys"),
        ("llama3-8b", [low(), low()], "list kv_low_rank before it"),
        ("llama3-8b", [("kv_quantised", {"format": "int4"}), low()], "list kv_low_rank before it"),
        (
            "llama3-8b",
            [("kv_quantised", {"format": "int4"}), ("kv_quantised", {"format": "fp8"})],
            "give one of precision.kv and this",
        ),
        ("llama3-8b", [("preserve", {}), low()], "list kv_low_rank before that one"),
    ],
)
def test_what_does_not_go_together_is_said(model, ways, said):
    with pytest.raises(ValueError, match=said):
        graph_of(catalog.model(model), ways, Parallel(2 if model != "deepseek-v3" else 8))(
            decode_batch([100])
        )


def test_windows_are_kept_in_a_low_rank():
    model = catalog.model("gpt-oss-20b")
    batch = decode_batch([5000] * 2)
    plain, less = (graph_of(model, ways)(batch) for ways in ([], [low(0.5)]))
    assert read(less, "kv") == pytest.approx(read(plain, "kv") / 2, rel=1e-12)


@pytest.mark.parametrize(
    "options, said",
    [
        ("{}", "give one of card and ratio"),
        ("{ratio: 0.5, card: x}", "kv_low_rank.card: no .*'x'"),
        ("{ratio: 0}", "it must be > 0"),
        ("{ratio: 1.5}", "it must be <= 1"),
        ("{ratio: 0.5, kernel: two, overlap: 1}", "overlap is of a fused kernel"),
        ("{ratio: 0.5, apply: ratios}", "apply is of a card"),
        ("{ratio: 0.5, overlap: 2}", "it must be <= 1"),
        ("{rato: 0.5}", "did you mean 'ratio'"),
    ],
)
def test_options_that_cannot_be(options, said, tmp_path):
    with pytest.raises(ValueError, match=said) as caught:
        run(SERVED % ("step", f"[{{kv_low_rank: {options}}}]"), tmp_path)
    assert "s.yaml:11" in str(caught.value)


def test_eviction_leaves_no_prefix_for_others(tmp_path):
    text = SERVED % ("step", "[{kv_eviction: {keep: sinks, window: 60}}]")
    text = text.replace("azure_conv_like", "shared_prompt")
    text = text.replace("workload:\n", "workload:\n  prefix_caching: true\n")
    with pytest.raises(ValueError, match=r"workload.prefix_caching: the cache keeps 64 tokens"):
        run(text, tmp_path)
    low_rank = text.replace("kv_eviction: {keep: sinks, window: 60}", "kv_low_rank: {ratio: 0.5}")
    low_rank = low_rank.replace("kv_tokens: 6000", "kv_tokens: 60000")
    low_rank = low_rank.replace("smollm2-135m", "{name: smollm2-135m, change: {max_tokens: 99999}}")
    found = next(iter(run(low_rank, tmp_path).outcomes.values()))
    assert found.part.blocks_found > 0


def test_what_a_run_says(a_card, tmp_path):
    """Ranks that were rounded, an overlap that nobody knows, accuracy of another model."""
    text = SERVED % ("step", "[{kv_low_rank: {ratio: 0.51}}]")
    said = "\n".join(next(iter(run(text, tmp_path).outcomes.values())).warnings)
    assert "ratio 0.51 is taken as ranks 33 and 32 of 64, 0.5078" in said
    assert "50% of rebuilding the keys is taken to hide" in said
    a_card()
    text = SERVED % ("step", "[{kv_low_rank: {card: card.json, apply: ratios, overlap: 1}}]")
    said = "\n".join(next(iter(run(text, tmp_path).outcomes.values())).warnings)
    assert "ranks of small are taken as ratios for smollm2-135m" in said
    assert "accuracy is that of small, in windows of 512 tokens; sizes are" in said
    with pytest.raises(ValueError, match="4 layers, not 30, 2 KV heads, not 3, 8 query heads"):
        run(SERVED % ("step", "[{kv_low_rank: {card: card.json}}]"), tmp_path)
    text = SERVED % ("step", "[{kv_low_rank: {ratio: 1}}]")
    assert "changes no op" in next(iter(run(text, tmp_path).outcomes.values())).idle[0]


# Cards.


def test_a_card_with_its_bases(a_card):
    assert card(a_card(tensors=True)).tensors is not None


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"kind": "device"}, r"card.json:2: kind: this is no card of a KV-cache"),
        ({"version": 2}, r"card.json:3: version: version 2; this podscope reads version 1"),
        ({"ranks__k": [0, 32, 48, 64]}, "ranks.k: rank 0 of layer 0 is not within 1 to 64"),
        ({"ranks__v": [64, 65, 16, 40]}, "ranks.v: rank 65 of layer 1 is not within 1 to 64"),
        ({"ranks__v": [64, 32, 16]}, "ranks.v has 3 entries, and small has 4 layers"),
        ({"errors__layer_output": [0.1]}, "errors.layer_output has 1 entries"),
        ({"ratio": 0.5}, "ratio is 0.5, and the ranks come to 0.609375"),
        ({"method": "pca"}, "method: .*'stiefel'.*, not 'pca'"),
        ({"perplexity__in_domain__full": float("nan")}, "perplexity.in_domain.full"),
        ({"model__sha256": "xyz"}, "model.sha256"),
        ({"model__query_heads": 7}, "7 query heads cannot share 2 KV heads evenly"),
        ({"extra": 1}, "unknown key of a card of a KV-cache"),
    ],
)
def test_a_card_that_is_wrong(changes, said, a_card):
    with pytest.raises(ValueError, match=said) as caught:
        card(a_card(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_bases_that_are_wrong(a_card, tmp_path):
    path = a_card("other", tensors=True)
    own = json.loads(path.read_text())
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"other.safetensors is another file than the card's"):
        card(path)

    def beside(name, **changes):
        data = {**own, "name": name}
        data["ranks"] = own["ranks"] | changes.get("ranks", {})
        data["tensors"] = {
            "file": f"{name}.safetensors",
            "sha256": changes.get("sha256") or bases(data, tmp_path, name, changes.get("scale", 1)),
        }
        data["ranks"] = own["ranks"]
        new = tmp_path / f"{name}.json"
        new.write_text(json.dumps(data))
        return new

    with pytest.raises(ValueError, match=r"columns of k.0 are not orthonormal: .* is 0.02,"):
        card(beside("skew", scale=1.01))
    with pytest.raises(ValueError, match=r"v.2 is of shape \(2, 64, 17\), and \(2, 64, 16\)"):
        card(beside("shape", ranks={"v": (64, 32, 17, 40)}))
    garbage = tmp_path / "cut.safetensors"
    garbage.write_bytes(b"\x08")
    with pytest.raises(ValueError, match=r"cut.safetensors cannot be read"):
        card(beside("cut", sha256=hashlib.sha256(b"\x08").hexdigest()))


def test_a_file_that_is_no_card(tmp_path):
    twice = '{"kind": 1, "kind": 2}'
    for name, text in (("empty.json", ""), ("list.json", "[]"), ("twice.json", twice)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            card(tmp_path / name)
    with pytest.raises(ValueError, match="no card of a KV-cache 'nothing'"):
        card("nothing")
    with pytest.raises(ValueError, match=r"kv_low_rank.card: no .*'nothing'") as caught:
        run(SERVED % ("step", "[{kv_low_rank: {card: nothing}}]"), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="no such file"):
        card(tmp_path / "absent.json")


# What the reproduction shows.


def test_where_it_pays_is_as_worked_out_by_hand():
    """K6 and K8, at one shape."""
    from sim.reproduce.stief_machine import rows

    found = rows(quick=True)
    assert {row.id for row in found} == {"K6", "K8"}
    assert [row for row in found if row.ok is False] == []
    crossed = [row.simulated for row in found if "pays below" in row.what]
    assert crossed == sorted(crossed[:3]) + sorted(crossed[3:]) and crossed[0] < 0.8


# Accuracy beside speed.

MEASURED = [
    ("int4", [{"kv_quantised": {"format": "int4"}}], 0.3125, 21.0),
    ("both", [{"kv_low_rank": {}}, {"kv_quantised": {"format": "int4"}}], 0.19, 39.0),
    ("equal", [{"kv_low_rank": {"ratio": 0.5}}, {"kv_quantised": {"format": "int4"}}], 0.16, 40.0),
]
PLOTTED = """
question: What does accuracy cost?
pod: {topology: single, device: h100_sxm}
model: smollm2-135m
workload: {kind: decode, batch: 4, prompt_tokens: 4000, output_tokens: 8}
variants:
  whole: {}
  low: {techniques: [{kv_low_rank: {card: <b>.json, apply: ratios}}]}
  int4: {techniques: [{kv_quantised: {format: int4, card: <b>.json, measured: int4}}]}
  both:
    techniques:
      - kv_low_rank: {card: <b>.json, apply: ratios}
      - kv_quantised: {format: int4, card: <b>.json, measured: both}
  unknown: {techniques: [{kv_eviction: {keep: sinks, window: 508}}]}
"""


@pytest.fixture
def measured(a_card):
    def perplexity(value):
        pair = {"full": 20.0, "compressed": value}
        return {
            "in_domain": pair,
            "out_of_domain": pair | {"full": 35.0},
            "windows": {"count": 8, "tokens": 512},
        }

    others = [
        {"name": name, "techniques": ways, "ratio": ratio, "perplexity": perplexity(value)}
        for name, ways, ratio, value in MEASURED
    ]
    return a_card("<b>", others=others)


def test_a_report_shows_accuracy_over_speed(measured, tmp_path):
    found = run(PLOTTED, tmp_path)
    known = {name: one.accuracy for name, one in found.outcomes.items()}
    assert known["whole"] is None and known["unknown"] is None
    of = [known[name].in_domain.compressed for name in ("low", "int4", "both")]
    assert of == [37.0, 21.0, 39.0]
    page = found.report()
    section = page.partition("<h2>Accuracy and speed</h2>")[2].partition("<h2>")[0]
    assert "measured on small, in windows of 512 tokens" in section
    assert "Of unknown no accuracy is known" in section
    assert section.count("<circle") == 8 and "<b>" not in section
    ways = page.partition("<h2>Ways to a smaller KV-cache, measured on small</h2>")[2]
    ways = ways.partition("<h2>")[0]
    assert ways.count("<circle") == 2 * len(MEASURED)
    assert "<td class=num>68.8 %</td><td class=num>21.00</td>" in ways  # of int4, bytes saved
    said = [text for text in found.warnings if "accuracy is that of small" in text]
    assert len(said) == 1 and said[0].startswith("low, int4, both: ")
    assert "pays below a ratio of" in found.verdict and "(overlap 0)" in found.verdict
    assert found.verdict.count("if half does") == 1 and "; with kv_quantised " in found.verdict
    assert "No other is better in both TPOT and perplexity (of small, in domain)" in found.verdict
    assert (
        "<h2>Accuracy and speed</h2>" not in run(PLOTTED.partition("  low:")[0], tmp_path).report()
    )


@pytest.mark.parametrize("layers, head_dim", [(32, 128), (4, 64), (30, 64), (3, 32), (7, 48)])
def test_ratios_for_another_model_add_up_to_the_cards(a_card, layers, head_dim):
    """To half a rank each of keys and values, and each layer within one of what is at its depth."""
    from sim.techniques.kv_low_rank import Options, ranks_of

    found = card(a_card())
    other = replace(SMALL, name="other", layers=layers, head_dim=head_dim)
    got = ranks_of(Options(card=str(a_card()), apply="ratios"), other)
    for mine, own in zip(zip(*got), (found.ranks.k, found.ranks.v)):
        due = sum(own) * head_dim / 64 * layers / 4
        assert abs(sum(mine) - due) <= 0.5
        assert all(1 <= rank <= head_dim for rank in mine)
        fine = np.repeat(own, layers).reshape(layers, 4).mean(axis=1) * head_dim / 64
        assert np.abs(np.array(mine) - fine).max() <= 1.0


def test_a_measurement_of_other_options_is_said(measured, tmp_path):
    """Ranks by layer are not the equal ones that were measured, nor int4 of groups of 16 of 32."""
    text = (
        PLOTTED.partition("  both:")[0]
        + """\
  other:
    techniques:
      - kv_low_rank: {ratio: 0.25}
      - kv_quantised: {format: int4, card: <b>.json, measured: equal}
  by_layer:
    techniques:
      - kv_low_rank: {card: <b>.json, apply: ratios}
      - kv_quantised: {format: int4, card: <b>.json, measured: equal}
  equal:
    techniques:
      - kv_low_rank: {ratio: 0.5}
      - kv_quantised: {format: int4, card: <b>.json, measured: equal}
"""
    )
    said = {
        name: [text for text in one.warnings if "measured otherwise" in text]
        for name, one in run(text, tmp_path).outcomes.items()
    }
    low = "accuracy was measured otherwise: kv_low_rank with ratio 0.5 "
    assert said["other"] == [low + "there, 0.25 here"]
    assert said["by_layer"] == [low + "in all layers there, card <b> here"]
    assert not said["equal"] and not said["int4"] and not said["low"]


def test_names_of_dots_cover_nothing():
    from sim.results.charts import scatter

    points = {f"a variant {i}": (i % 5 + 0.01 * i, 10.0 - i % 7) for i in range(40)}
    drawn = scatter(points, dict.fromkeys(points, "#000"), "t", "", "x", wide=860, high=460)
    found = re.findall(r'<text class="soft" x="([\d.]+)" y="([\d.]+)">a variant \d+<', drawn)
    assert len(found) > 20
    at = [(float(x), float(y)) for x, y in found]
    for i, (x, y) in enumerate(at):
        assert not [1 for a, b in at[:i] if abs(a - x) < 60 and abs(b - y) < 11]


def test_whom_no_other_betters():
    from sim.results.charts import scatter, unbettered

    points = {"a": (3.0, 1.0), "b": (2.0, 2.0), "c": (2.5, 2.5), "d": (1.0, 9.0), "e": (1.0, 9.5)}
    assert unbettered(points) == ["d", "b", "a"]
    drawn = scatter(points, dict.fromkeys(points, "#000"), "t", "", "x")
    assert drawn.count("<circle") == 5
    assert scatter({"one": (1.0, 1.0)}, {"one": "#000"}, "t", "", "x").count("<circle") == 1
    assert scatter({}, {}, "t", "", "x") == ""


@pytest.mark.parametrize(
    "way, said",
    [
        ("{kv_quantised: {format: int4, card: <b>.json}}", "card and measured go together"),
        (
            "{kv_quantised: {format: int4, card: <b>.json, measured: int5}}",
            "measured no 'int5', did you mean 'int4'",
        ),
        (
            "{kv_eviction: {keep: sinks, window: 60, card: <b>.json, measured: int4}}",
            "measured as 'int4' is kv_quantised, and this variant has kv_eviction",
        ),
    ],
)
def test_accuracy_of_something_else(way, said, measured, tmp_path):
    with pytest.raises(ValueError, match=said):
        run(SERVED % ("step", f"[{way}]"), tmp_path)
