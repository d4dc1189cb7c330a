"""What fits in HBM is read off the op graph: closed forms, and techniques that change it without a
hook."""

from __future__ import annotations

import pytest
from machines import MODEL, occupied, replace
from pydantic import BaseModel

import sim
from sim import catalog
from sim.graph.batch import DENSE, Batch, Pattern, Sequences, decode_batch
from sim.graph.footprint import footprint
from sim.graph.parallel import Parallel, shard, stage_layers
from sim.graph.precision import BYTES, Precision
from sim.graph.transformer import transformer
from sim.run import load, prepare
from sim.scenario import ScenarioError
from sim.techniques import TECHNIQUES, Machine, Technique, apply

MACHINE = Machine(200e6, 1e12, 2, {"fp16": 400e12, "bf16": 400e12})


def kv_bytes(model, precision, parallel, stage):
    """Of a token, by the model's numbers."""
    part = shard(model, parallel)
    elements = model.latent.cached if model.latent else 2 * part.kv_heads * model.head_dim
    layers = len(stage_layers(model.layers, parallel.pipeline)[stage])
    return layers * elements * BYTES[precision.kv] / (parallel.data * parallel.sequence)


def weight_bytes(model, precision, parallel, stage):
    """On one rank, by the model's numbers; embedding, head, norms and routers stay wide."""
    part, d = shard(model, parallel), model.hidden
    wide, narrow = BYTES[precision.communication], BYTES[precision.weights]
    attention = d * (2 * part.heads + 2 * part.kv_heads) * model.head_dim
    if model.latent:
        m = model.latent
        queries = m.q_rank * (d + part.heads * m.query) if m.q_rank else d * part.heads * m.query
        halves = part.heads * 2 * m.kv_rank * (m.nope + m.value)  # the expansion is kept twice
        attention = queries + d * m.cached + halves + part.heads * m.value * d
    up = 3 if model.gated else 2
    layers = stage_layers(model.layers, parallel.pipeline)[stage]
    dense = sum(layer < model.dense_layers for layer in layers)
    total = len(layers) * (attention * narrow + 2 * d * wide) + dense * up * d * part.ffn * narrow
    if model.experts:
        e = model.experts
        shared = e.shared_ffn if parallel.data > 1 else e.shared_ffn / parallel.tensor
        own = BYTES[precision.experts or precision.weights] * part.experts * part.expert_ffn
        layer = up * d * (own + shared * narrow) + d * e.routed * wide
        total += (len(layers) - dense) * layer
    head, embedding = part.vocab * d * wide, model.vocab * d * wide
    if parallel.pipeline == 1:
        return total + head + (0 if model.tied_embeddings else embedding)
    return total + (embedding if stage == 0 else head if stage == parallel.pipeline - 1 else 0.0)


def activation_bytes(model, precision, parallel, tokens):
    """Of a pass on one rank, as engines reckon: four hidden states, queries, keys and values, and
    an MLP's three."""
    part = shard(model, parallel)
    width = 4 * model.hidden + (3 * part.ffn if model.dense_layers else 0.0)
    width = (width + (part.heads + 2 * part.kv_heads) * model.head_dim) / parallel.data
    if part.load:
        width += part.load.pairs * (2 * model.hidden + 3 * part.expert_ffn)
    return tokens * width * BYTES[precision.communication]


LAYOUTS = [
    Parallel(),
    Parallel(8),
    Parallel(4, 1, 1, 2),
    Parallel(12, 1, 1, 3),
    Parallel(2, pipeline=2),
    Parallel(8, 1, 8),
    Parallel(1, 8, 8),
    Parallel(2, 4),
]


@pytest.mark.parametrize("name", ["llama3-8b", "smollm2-135m", "gpt-oss-20b", "deepseek-v3"])
@pytest.mark.parametrize(
    "precision",
    [Precision(), Precision("int4", "fp16", "fp8", "bf16", "int8")],
    ids=["fp16", "mixed"],
)
def test_what_is_read_off_the_graph_is_the_closed_form(name, precision):
    """To the last bit: sums of whole numbers."""
    model, seen = catalog.model(name), 0
    for parallel in LAYOUTS:
        try:
            shard(model, parallel)
        except ValueError:
            continue
        for stage in range(parallel.pipeline):
            found = occupied(model, precision, parallel, stage, new_tokens=512)
            assert found.kv_bytes_per_token == kv_bytes(model, precision, parallel, stage)
            assert found.weight_bytes == weight_bytes(model, precision, parallel, stage)
            if stage == 0:  # a later stage may have none of the dense layers
                assert found.activation_bytes == activation_bytes(model, precision, parallel, 512)
            assert found.kept_bytes == 0.0
            seen += 1
    assert seen >= 2


# Techniques as somebody would write them.


class NoOptions(BaseModel):
    pass


def half_kv(graph, machine, options):
    """The KV-cache holds half the bytes of each element."""
    return graph.attending(lambda work: replace(work, cache_bytes=work.cache_bytes / 2))


def windowed(graph, machine, options):
    """A query sees the last 64 tokens."""
    return graph.attending(lambda work: replace(work, pattern=Pattern("window", 64)))


def int8_weights(graph, machine, options):
    """The weights of every GEMM take half the bytes."""

    def narrow(op):
        if op.kind != "matmul" or op.name == "lm_head":
            return op
        halved = (t.scaled(0.5) if t.kind == "weight" else t for t in op.reads)
        return replace(op, reads=tuple(halved))

    return graph.mapped(narrow)


def forgetful(graph, machine, options):
    """Keeps no more than 4,000 tokens: no capacity in tokens."""

    def cut(op):
        limit = {t.name: min(t.held or 0.0, 4e7) for t in op.reads if t.kind == "kv"}
        reads = (t._replace(held=limit[t.name]) if t.name in limit else t for t in op.reads)
        return replace(op, reads=tuple(reads))

    return graph.mapped(cut)


def uneven(graph, machine, options):
    """Long contexts cost more than their sum says: on no line, and no function of the sums."""

    def longer(op):
        if op.kind != "attention":
            return op
        more = sum(g.number * g.past**2 for g in op.work.sequences)
        return replace(op, flop=op.flop + more)

    return graph.mapped(longer)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for technique in (half_kv, windowed, int8_weights, forgetful, uneven):
        entry = Technique(technique, NoOptions, technique.__doc__)
        monkeypatch.setitem(TECHNIQUES, technique.__name__, entry)


@pytest.mark.parametrize("name", ["llama3-8b", "deepseek-v3", "gpt-oss-20b"])
def test_half_the_bytes_are_those_of_another_format(name):
    """Every size of the graph, and the capacity, that `precision.kv: fp8` gives."""
    model = catalog.model(name)
    batch = decode_batch([0, 7, 900])
    plain, narrow = (
        transformer(model, Precision(kv=kv), Parallel(2), batch) for kv in ("fp16", "fp8")
    )
    halved = apply(plain, MACHINE, [("half_kv", NoOptions())])
    assert [(op.flop, op.reads, op.writes) for _, op in halved.ops()] == [
        (op.flop, op.reads, op.writes) for _, op in narrow.ops()
    ]

    def graph_of(batch):
        graph = transformer(model, Precision(), Parallel(2), batch)
        return apply(graph, MACHINE, [("half_kv", NoOptions())])

    assert footprint(graph_of, Parallel(2), 64) == occupied(
        model, Precision(kv="fp8"), Parallel(2), new_tokens=64
    )


@pytest.mark.parametrize("name", ["llama3-8b", "deepseek-v3"])
def test_a_windowed_technique_is_a_windowed_model(name):
    dense = catalog.model(name)
    model = replace(dense, attention=("window",), window_tokens=64)
    for batch in (decode_batch([0, 7, 900]), mixed(33, 50), mixed(200, 20)):
        asked = transformer(model, Precision(), Parallel(2), batch)
        made = apply(
            transformer(dense, Precision(), Parallel(2), batch),
            MACHINE,
            [("windowed", NoOptions())],
        )
        assert [(op.flop, op.lone_flop, op.reads, op.writes) for _, op in made.ops()] == [
            (op.flop, op.lone_flop, op.reads, op.writes) for _, op in asked.ops()
        ]


def mixed(new, past):
    return Batch((Sequences(2, new, past), Sequences(3, 1, 400)), 3)


def test_quantised_weights_leave_room():
    """Also where a tensor occupies more than an op touches of it."""
    plain = occupied(MODEL, Precision(), Parallel(2))

    def graph_of(batch):
        graph = transformer(MODEL, Precision(), Parallel(2), batch)
        return apply(graph, MACHINE, [("int8_weights", NoOptions())])

    wide = 2 * (MODEL.vocab * MODEL.hidden * 1.5 + 2 * MODEL.layers * MODEL.hidden)
    found = footprint(graph_of, Parallel(2), 1000)
    assert found.weight_bytes - wide == (plain.weight_bytes - wide) / 2
    assert found._replace(weight_bytes=plain.weight_bytes) == plain


def test_what_cannot_be_told_is_refused():
    def graph_of(batch, *names):
        chosen = [(name, TECHNIQUES[name].options()) for name in names]
        return apply(transformer(MODEL, Precision(), Parallel(2), batch), MACHINE, chosen)

    with pytest.raises(ValueError, match="does not grow by the same bytes with each token"):
        footprint(lambda batch: graph_of(batch, "forgetful"), Parallel(2), 100)
    batch = decode_batch([900])
    with pytest.raises(ValueError, match="size another technique has settled; list"):
        graph_of(batch, "preserve", "half_kv")
    with pytest.raises(ValueError, match="are not those of its work"):
        graph_of(batch, "uneven", "half_kv")
    fetched = graph_of(batch, "half_kv", "preserve")
    sizes = {t.nbytes for _, op in fetched.ops() for t in op.reads if t.name == "kv"}
    assert sizes == {900 * 2 * 4 * 128}, "what is fetched is what is read: a byte an element"
    deep = transformer(catalog.model("deepseek-v3"), Precision(), Parallel(), batch)
    with pytest.raises(ValueError, match="does not see all of its context"):
        apply(deep, MACHINE, [("windowed", NoOptions()), typhoon()])
    with pytest.raises(ValueError, match="changed how shared prefixes are read"):
        apply(deep, MACHINE, [typhoon(), typhoon()])


def typhoon():
    return "typhoon_mla", TECHNIQUES["typhoon_mla"].options(threshold=8)


# Through a scenario: a trace with so little room that requests are preempted.

TRACE = "arrival_s,prompt_tokens,output_tokens\n" + "\n".join(
    f"{0.001 * i},{60 + 37 * i % 200},{20 + 11 * i % 40}" for i in range(20)
)
SCENARIO = """\
question: What is in the KV-cache?
pod: {topology: single, change: {device: {hbm_bytes: 1130 MB}}}
model: {name: llama3-8b, change: {layers: 2, vocab: 4000}}
workload:
  kind: requests
  trace: {file: small.csv}
  policy: prefill_first
  max_batch: 16
  max_batched_tokens: 512
  kv: paged
variants:
  technique: {techniques: [TECHNIQUE]}
"""
OTHERS = """\
  base: {}
  other: OTHER
"""


@pytest.fixture
def metrics(tmp_path):
    """Of each variant: with the technique, and if there is an `other`, that one and the base."""

    def run(technique, other="", **overrides):
        (tmp_path / "small.csv").write_text(TRACE)
        file = tmp_path / "s.yaml"
        text = SCENARIO + (OTHERS if other else "")
        file.write_text(text.replace("TECHNIQUE", technique).replace("OTHER", other))
        given = {key.replace("__", "."): value for key, value in overrides.items()}
        return {name: each["metrics"] for name, each in sim.run(file, given).variants.items()}

    return run


@pytest.mark.parametrize("fidelity", ["step", "op"])
def test_a_technique_that_halves_the_cache_makes_room(metrics, fidelity):
    """What `precision.kv: fp8` makes of an fp16 model: capacity, preemptions and every time."""
    found = metrics("half_kv", "{precision: {kv: fp8}}", workload__fidelity=fidelity)
    assert found["technique"] == pytest.approx(found["other"], rel=1e-9)
    assert found["base"]["preemptions"] > found["technique"]["preemptions"] + 3
    assert found["base"]["makespan_s"] > found["technique"]["makespan_s"]


@pytest.mark.parametrize("fidelity", ["step", "op"])
def test_a_windowed_technique_serves_as_a_windowed_model(metrics, fidelity):
    model = "{model: {change: {attention: [window], window_tokens: 64}}}"
    found = metrics("windowed", model, workload__fidelity=fidelity)
    assert found["technique"] == pytest.approx(found["other"], rel=1e-9)
    assert found["base"]["preemptions"] == found["technique"]["preemptions"] > 3
    assert found["base"]["makespan_s"] > found["technique"]["makespan_s"]


@pytest.mark.parametrize("technique", ["windowed", "uneven", "windowed, preserve", "half_kv"])
def test_fidelities_agree_where_a_technique_bends_sizes(metrics, technique):
    """Where no line goes through the sizes, or the sums over a batch do not tell them, iterations
    are played."""
    machine = {"pod__topology": "atlas_800t_a2", "parallel__tensor": 2}
    machine["workload__trace__limit"] = 6
    machine["pod__change__device__hbm_bytes"] = "591 MB"
    step, op = (
        metrics(technique, workload__fidelity=fidelity, **machine) for fidelity in ("step", "op")
    )
    for name, value in op["technique"].items():
        if name == "kv_occupancy":
            continue  # of steps that are taken in one go, the mean of both ends
        assert step["technique"][name] == pytest.approx(value, rel=1e-6), name


def test_a_model_with_edits_says_so(tmp_path):
    (tmp_path / "small.csv").write_text(TRACE)
    file = tmp_path / "s.yaml"
    text = (SCENARIO + OTHERS).replace("[TECHNIQUE]", "[]")
    file.write_text(text.replace("OTHER", "{model: llama3-70b}"))
    s = load(file)
    assert s.variants["base"].model.change.given() == {"layers": 2, "vocab": 4000}
    assert s.variants["other"].model.change.given() == {}, "another model"
    plans = prepare(load(file, {"variants.other.model": "smollm2-135m"}))
    rows = plans["base"].built.machinery.assumptions
    assert ("llama3-8b: layers", "2", "CHANGED", "set by the scenario") in [r[:4] for r in rows]
    assert any(row[0] == "llama3-8b" and row[1].startswith("0.47 G") for row in rows)
    with pytest.raises(ScenarioError, match="layerz: unknown key, did you mean 'layers'"):
        load(file, {"model.change.layerz": 3})
    for edit, words in (
        ("latent.kv_rank", "llama3-8b has no latent to change"),
        ("kv_heads", "32 heads cannot share 7 kv_heads evenly"),
    ):
        with pytest.raises(ScenarioError, match=words):
            prepare(load(file, {f"model.change.{edit}": 7}))


def test_the_pattern_of_a_model_is_its_own():
    sparse = replace(MODEL, attention=("dense", "blocksparse"), window_tokens=16, sparse_stride=4)
    assert sparse.patterns == (DENSE, Pattern("blocksparse", 16, 4))
