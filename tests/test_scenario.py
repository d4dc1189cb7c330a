"""Scenarios: what a file may say, how its layers merge, and what is said of a file that is
wrong."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.catalog import shipped
from sim.kinds import KINDS
from sim.run import load
from sim.scenario import Scenario, ScenarioError, json_schema
from sim.text.strict_yaml import dump

GOOD: dict[str, Any] = {
    "question": "What does PRESERVE buy?",
    "pod": {"topology": "atlas_800t_a2", "device": "ascend_910b2"},
    "model": "llama3-8b",
    "parallel": {"tensor": 8},
    "workload": {"kind": "decode", "batch": 4, "prompt_tokens": 100, "output_tokens": 50},
    "variants": {"vanilla": None, "preserve": {"techniques": ["preserve"]}},
    "expect": ["preserve.speedup >= 1.0"],
}
REQUESTS = {"kind": "requests", "trace": {"file": "trace.csv"}}
SPECS = {name: kind.spec.found for name, kind in KINDS.items()}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes GOOD, deeply changed as told (None deletes), beside an empty trace; the current folder
    is elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n")

    def make(name: str = "x.yaml", text: str | None = None, **changes: Any) -> Path:
        data = copy.deepcopy(GOOD)
        for key, value in changes.items():
            data[key] = value
            if value is None:
                del data[key]
        (tmp_path / name).write_text(text if text is not None else dump(data), encoding="utf-8")
        return tmp_path / name

    return make


def faults(path: Path | str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> list[str]:
    """Faults as "line key: what"."""
    with pytest.raises(ScenarioError) as error:
        load(path, overrides)
    return [f"{fault.line} {fault.key}: {fault.what}" for fault in error.value.faults]


def test_a_good_scenario(write: Write) -> None:
    s = load(write(workload={**GOOD["workload"], "batch": 1e1}, seed=3))
    assert (s.name, s.seed, list(s.variants), s.path.parent) == (
        "x",
        3,
        ["vanilla", "preserve"],
        s.path.parent,
    )
    assert [t.name for t in s.variants["preserve"].techniques] == ["preserve"] and not s.variants[
        "vanilla"
    ].techniques
    assert (
        s.variants["vanilla"].workload.batch == 10 and s.variants["vanilla"].precision.kv == "fp16"
    )
    assert (
        s.fault("preserve", "does not fit").key == "variants.preserve"
        and s.fault("preserve", "").line > 1
    )


def test_quantities_become_si(write: Write) -> None:
    change = {
        "device": {
            "l2_bytes": "64 MiB",
            "hbm_bytes_per_s": "1 TB/s",
            "hbm_efficiency": 0.8,
            "kernel_overhead_s": "1 us",
            "kernels": {"attention": {"hbm_efficiency": 0.9, "overhead_s": "9 us"}},
        },
        "library": {"launch_s": "20 us"},
        "link": {"bytes_per_s": "224 Gb/s", "latency_s": None},
    }
    pod = (
        load(write(pod={**GOOD["pod"], "change": change, "stragglers": {3: 1.3}}))
        .variants["vanilla"]
        .pod
    )
    assert pod.change.device.given() == {
        "l2_bytes": 64 * 2**20,
        "hbm_bytes_per_s": 1e12,
        "hbm_efficiency": 0.8,
        "kernel_overhead_s": 1e-6,
        "kernels": {"attention": {"overhead_s": 9e-6, "hbm_efficiency": 0.9}},
    }
    assert pod.change.library.given() == {"launch_s": 20e-6} and pod.change.link.given() == {
        "bytes_per_s": 28e9
    }
    assert pod.stragglers == {3: 1.3}


def test_without_variants_there_is_one(write: Write) -> None:
    assert list(load(write(variants=None, expect=None)).variants) == ["run"]


def test_every_fault_at_once_each_with_its_line(write: Write) -> None:
    text = """\
question: no
extens: x
pod:
  topology: atlas_800t_a2
  device: ascend_910b22
  change: {device: {l2_bytes: 64, hbm_bytes_per_s: 1 TB, hbm_efficiency: 1.4, \
kernel_overhead_s: 1e999999999 s}}
  stragglers: {3: 0, x: 2}
model: llama38b
precision: {weights: int9}
parallel: {tensor: "8", pipeline: 0}
workload:
  kind: decode
  batch: 4
  prompt_token: 10923
  every_step: 1
record: {from_s: 3}
variants:
  vanilla: {workload: {output_tokens: -1}}
  preserve:
    techniques: [preserv, {preserve: {jion: true}}, {preserve: 3}, 4, {a: 1, b: 2}]
    seed: 3
  wrong.name: {}
  scalar: 4
expect: ["preserve.speedup >= 1.2", "preserv.speedup > 1", "faster please", 3]
"""
    expected = [
        "1 question: text is due, not no (without quotes it means false in YAML); write it as 'no'",
        "2 extens: unknown key, did you mean 'extends'?",
        "5 pod.device: no device 'ascend_910b22', did you mean 'ascend_910b2'?",
        "6 pod.change.device.l2_bytes: 64 is a bare number where a unit is due",
        "6 pod.change.device.hbm_bytes_per_s: '1 TB' is in B, but B/s is due",
        "6 pod.change.device.hbm_efficiency: 1.4 is out of range, it must be <= 1",
        "6 pod.change.device.kernel_overhead_s: '1e999999999 s' is out of range",
        "7 pod.stragglers[3]: 0 is out of range, it must be > 0",
        "7 pod.stragglers.x: a whole number is due, not 'x'",
        "8 model: no model 'llama38b', did you mean 'llama3-8b'?",
        "9 precision.weights: 'int9' is not allowed here, did you mean 'int8'?",
        "10 parallel.tensor: '8' is text, a whole number is due",
        "10 parallel.pipeline: 0 is out of range, it must be >= 1",
        "11 workload.prompt_tokens: this key is missing",
        "14 workload.prompt_token: unknown key, did you mean 'prompt_tokens'?",
        "15 workload.every_step: true or false is due, not 1",
        "16 record.from_s: 3 is a bare number where a unit is due",
        "18 variants.vanilla.workload.output_tokens: -1 is out of range, it must be >= 1",
        "20 variants.preserve.techniques[0]: no technique 'preserv', did you mean 'preserve'?",
        "20 variants.preserve.techniques[1].preserve.jion: unknown key, did you mean 'join'?; "
        "known keys: ",
        "20 variants.preserve.techniques[2].preserve: a mapping ('key: value' lines) is due, not 3",
        "20 variants.preserve.techniques[3]: no technique 4",
        "20 variants.preserve.techniques[4]: one name to its options is due",
        "21 variants.preserve.seed: unknown key; known keys: pod, model, ",
        "22 variants.wrong.name: a variant's name is made of",
        "23 variants.scalar: a mapping ('key: value' lines) of what this variant changes is due",
        "24 expect[1]: no variant 'preserv', did you mean 'preserve'?",
        "24 expect[2]: ",
        "24 expect[3]: text is due, not 3",
    ]
    found = faults(write(text=text))
    assert [e for e in expected if not any(f.startswith(e) for f in found)] == []
    lines = [int(f.split()[0]) for f in found]
    assert lines == sorted(lines) and len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"question": None}, "question: this key is missing"),
        ({"question": ""}, "question: the text is empty"),
        ({"pod": None}, "pod: this key is missing"),
        ({"model": 5}, "model: text is due, not 5; write it as '5'"),
        ({"model": "nowhere/config.json"}, "model: no such file 'nowhere/config.json'"),
        ({"workload": {"batch": 1}}, "workload.kind: this key is missing; it is one of decode, "),
        (
            {"workload": {**GOOD["workload"], "kind": "decod"}},
            "workload.kind: 'decod' is not allowed here, did you mean 'decode'?",
        ),
        ({"workload": 3}, "workload: a mapping ('key: value' lines) is due, not 3"),
        ({"workload": {"kind": ["decode"]}}, "workload.kind: a list is not allowed here; choose"),
        (
            {"workload": {**GOOD["workload"], "batch": "1e3 "}},
            "workload.batch: '1e3 ' is text, a whole number is due",
        ),
        (
            {"workload": {**REQUESTS, "max_batch": 0}},
            "workload.max_batch: 0 is out of range, it must be >= 1",
        ),
        (
            {"workload": {**REQUESTS, "hbm_utilisation": float("nan")}},
            "workload.hbm_utilisation: a finite number is due",
        ),
        (
            {"workload": {**REQUESTS, "trace": {"file": "none.csv"}}},
            "workload.trace.file: no such file 'none.csv'",
        ),
        (
            {"workload": {**REQUESTS, "trace": {"file": "trace.csv", "fallback": "zzz"}}},
            "workload.trace.fallback: no trace",
        ),
        ({"techniques": "preserve"}, "techniques: a list is due"),
        (
            {"techniques": [{"preserve": {"join": "maybe"}}]},
            "techniques[0].preserve.join: true or false is due",
        ),
        (
            {"techniques": [{"preserve": {"cap": "1e999999999 B"}}]},
            "techniques[0].preserve.cap: '1e999999999 B' is out of",
        ),
        ({"variants": [1]}, "variants: a mapping"),
        (
            {"variants": {f"v{i}": {} for i in range(201)}},
            "variants: 201 variants are more than 200",
        ),
        ({"expect": "preserve.speedup > 1"}, "expect: a list is due"),
        ({"record": {"from_s": "2 s", "until_s": "1 s"}}, "record: until_s must be after from_s"),
        ({"seed": -1}, "seed: -1 is out of range, it must be >= 0"),
        ({"extends": "no_such_scenario"}, "extends: no such scenario 'no_such_scenario'"),
    ],
)
def test_one_fault(write: Write, changes: dict[str, Any], fault: str) -> None:
    found = [line.split(" ", 1)[1] for line in faults(write(**changes))]
    assert any(line.startswith(fault) for line in found), found


def test_a_wrong_common_value_is_seen_though_every_variant_overrides_it(write: Write) -> None:
    variants = {name: {"precision": {"kv": "int8"}} for name in ("a", "b")}
    (found,) = faults(write(precision={"kv": "int7"}, variants=variants, expect=None))
    assert "precision.kv: 'int7'" in found


def test_variants_merge_deeply_and_lists_replace(write: Write) -> None:
    variants = {
        "a": {},
        "b": {"workload": {"batch": 8}, "precision": {"kv": "int8"}, "techniques": []},
        "c": {"workload": REQUESTS},
        "d": {"precision": None},
    }
    s = load(
        write(
            techniques=["preserve"], precision={"weights": "int8"}, variants=variants, expect=None
        )
    )
    a, b, c, d = s.variants.values()
    assert (a.workload.batch, b.workload.batch, b.workload.prompt_tokens) == (4, 8, 100)
    assert (b.precision.weights, b.precision.kv, d.precision.weights) == ("int8", "int8", None)
    assert len(a.techniques) == 1 and not b.techniques
    assert (
        c.workload.kind == "requests"
    )  # another kind is another workload: nothing of the old one is left


def test_extends_lies_under_and_circles_are_listed(write: Write, tmp_path: Path) -> None:
    write("under.yaml", precision={"weights": "int8", "kv": "int8"})
    over = write(
        "over.yaml",
        text="extends: under\nquestion: Another?\nprecision: {kv: fp8}\nvariants: {more: "
        "{model: llama3-70b}}\n",
    )
    s = load(over)
    assert (s.question, list(s.variants)) == ("Another?", ["vanilla", "preserve", "more"])
    assert (s.variants["more"].precision.weights, s.variants["more"].precision.kv) == (
        "int8",
        "fp8",
    )
    for name, under in (("a", "b"), ("b", "c.yaml"), ("c", "a")):
        write(f"{name}.yaml", extends=under)
    assert "extends runs in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml" in " ".join(
        faults(tmp_path / "a.yaml")
    )
    assert "extends runs in a circle: me.yaml -> me.yaml" in " ".join(
        faults(write("me.yaml", extends="me.yaml"))
    )


def test_faults_of_what_is_extended_name_its_file(write: Write) -> None:
    write("under.yaml", precision={"weights": "int9"})
    with pytest.raises(ScenarioError) as error:
        load(write("over.yaml", text="extends: under\nprecision: {kv: fp9}\n"))
    assert [(Path(f.file).name, f.key) for f in error.value.faults] == [
        ("over.yaml", "precision.kv"),
        ("under.yaml", "precision.weights"),
    ]


def test_a_broken_file_below_is_reported_alone(write: Write) -> None:
    write("under.yaml", text="a: [")
    with pytest.raises(ScenarioError) as error:
        load(write("over.yaml", text="extends: under\nprecision: {kv: fp9}\n"))
    found = [(Path(f.file).name, f.key) for f in error.value.faults]
    assert ("under.yaml", "") in found and ("over.yaml", "precision.kv") in found
    assert ("over.yaml", "model") not in found  # out of reach, not missing


def test_overrides_reach_every_variant(write: Write) -> None:
    path = write(variants={"a": {"workload": {"batch": 8}}, "b": {}}, expect=None)
    s = load(
        path,
        ["workload.batch=16", "seed=7", "variants.b.precision.kv=int8", "pod.stragglers.2=1.5"],
    )
    assert [v.workload.batch for v in s.variants.values()] == [16, 16] and s.seed == 7
    assert s.variants["b"].precision.kv == "int8" and s.variants["a"].pod.stragglers == {2: 1.5}
    s = load(
        path,
        {"model": "llama3-70b", "techniques": ["preserve"], "pod.change.device.l2_bytes": "64 MiB"},
    )
    assert {v.model.name for v in s.variants.values()} == {"llama3-70b"}
    assert all(v.techniques and v.pod.change.device.l2_bytes == 2**26 for v in s.variants.values())


def test_wrong_overrides_are_faults_of_set(write: Write) -> None:
    with pytest.raises(ScenarioError) as error:
        load(
            write(),
            [
                "workload.bach=3",
                "noequals",
                "variants.x.model=a",
                "model=[",
                "..=1",
                "model.x.y=2",
                "model=zz",
            ],
        )
    assert {f.file for f in error.value.faults} == {"--set"}
    assert str(error.value).splitlines()[0].startswith("--set: ")
    keys = {f.key for f in error.value.faults}
    assert {"workload.bach", "noequals", "variants.x.model", "model", ".."} <= keys


def test_paths_start_at_the_file_then_above_then_here(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    text = dump({**GOOD, "workload": {**REQUESTS, "trace": {"file": "data/t.csv"}}})
    path = folder / "x.yaml"
    path.write_text(text)
    for base in (tmp_path / "elsewhere", tmp_path, folder):  # each is nearer than the one before
        found = base / "data" / "t.csv"
        found.parent.mkdir(exist_ok=True)
        found.write_text("")
        assert load(path).variants["vanilla"].workload.trace.file == str(found)


def test_a_missing_trace_may_have_a_fallback(write: Write, tmp_path: Path) -> None:
    work = {**REQUESTS, "trace": {"file": "none.csv.gz", "fallback": "trace.csv"}}
    trace = load(write(workload=work)).variants["vanilla"].workload.trace
    assert (trace.file, trace.fallback) == ("none.csv.gz", str(tmp_path / "trace.csv"))
    for name in shipped.names("traces"):
        work = {**REQUESTS, "trace": {"file": "none.csv.gz", "fallback": name}}
        assert Path(
            load(write(workload=work)).variants["vanilla"].workload.trace.fallback or ""
        ).is_file()


def test_a_model_may_be_a_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    for text in ("m/config.json", "m"):
        assert load(write(model=text)).variants["vanilla"].model.name == str(
            tmp_path / "m" / "config.json"
        )


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    (found,) = faults("preserv")
    assert "did you mean 'preserve'?" in found
    assert "no such file" in faults(str(tmp_path / "x.yaml"))[0]


def test_resolved_gives_the_same_variants(write: Write, tmp_path: Path) -> None:
    write("under.yaml", workload=REQUESTS, expect=None)
    over = write(
        "over.yaml",
        text="extends: under\nmodel: llama3-70b\nvariants: {more: {parallel: {tensor: 4}}}\n",
    )
    s = load(over, ["workload.max_batch=7", "seed=5", "workload.trace.limit=3"])
    again = tmp_path / "elsewhere" / "again.yaml"
    again.write_text(s.resolved, encoding="utf-8")
    t = load(again)
    assert (t.variants, t.question, t.seed, t.expect) == (s.variants, s.question, s.seed, s.expect)
    assert t.resolved == s.resolved and "extends" not in s.resolved


@pytest.mark.parametrize("name", shipped.names("scenarios"))
def test_what_ships_loads(name: str) -> None:
    assert isinstance(load(name), Scenario)


def _allows(schema: Any, value: Any, defs: dict[str, Any]) -> bool:
    """As much of JSON Schema as ours uses."""
    if "$ref" in schema:
        return _allows(defs[schema["$ref"].removeprefix("#/$defs/")], value, defs)
    if "anyOf" in schema and not any(
        _allows({"type": schema.get("type", "any")} | s, value, defs) for s in schema["anyOf"]
    ):
        return False
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if schema.get("type", "any") != "any" and not isinstance(value, types[schema["type"]]):
        return False
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        if any(key not in value for key in schema.get("required", [])) or (
            rest is False and set(value) - set(known)
        ):
            return False
        return all(
            _allows(known.get(k, rest if isinstance(rest, dict) else {}), v, defs)
            for k, v in value.items()
        )
    if isinstance(value, list):
        return all(_allows(schema.get("items", {}), item, defs) for item in value)
    return not (isinstance(value, str) and "pattern" in schema) or bool(
        re.search(schema["pattern"], value)
    )


def test_json_schema_agrees_with_the_loader() -> None:
    schema = json.loads(json.dumps(json_schema(SPECS)))
    defs = schema["$defs"]

    def allows(**changes: Any) -> bool:
        return _allows(schema, {**GOOD, **changes}, defs)

    assert allows() and allows(variants={"b": {"workload": {"batch": 3}}})
    assert allows(pod={"topology": "x", "change": {"device": {"l2_bytes": "64 MiB"}}})
    assert allows(techniques=[{"preserve": {"join": True}}, "preserve"])
    jobs = {"kind": "collectives", "jobs": {"a": {"bytes": "1 MiB", "group": [0, "2-4"]}}}
    assert allows(workload=jobs) and allows(
        pod={"faults": [{"link": [0, "leaf 0"], "failed": True}], "jitter": "1 us"}
    )
    assert allows(workload={"jobs": {"a": {"group": {"every": 2}, "algorithm": "ring"}}})
    assert not allows(workload={"jobs": {"a": {"group": 3}}}) and not allows(pod={"jitter": 3})
    assert not allows(pod={"topology": "x", "change": {"device": {"l2_bytes": 64}}})
    assert not allows(pod={"topology": "x", "change": {"device": {"l2_bytes": "64"}}})
    assert not allows(techniques=[{"preserve": {"jion": True}}]) and not allows(
        techniques=["preserv"]
    )
    assert not allows(nonsense=1) and not allows(variants={"b": {"nonsense": 1}})
    assert not _allows(schema, {}, defs) and _allows(schema, {"extends": "preserve"}, defs)
    assert all(
        ref.removeprefix("#/$defs/") in defs
        for ref in re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema))
    )


def _loads_or_faults(text: str, overrides: Sequence[str] = ()) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.yaml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert isinstance(load(path, overrides), Scenario)
        except ScenarioError as error:
            assert error.faults and all(fault.what for fault in error.faults)


_LEAVES = st.sampled_from(
    [
        *(
            "",
            "no",
            "1e400",
            "-1",
            "0",
            "1",
            ".nan",
            ".inf",
            "1 GB",
            "1e999999999 B",
            "64 MiB",
            "1 s",
            "llama3-8b",
            "~",
        ),
        *(
            "preserve",
            "decode",
            "requests",
            "/",
            ".",
            "..",
            "~x/y",
            "a/b.yaml",
            "preserve.speedup > 1",
            '"\\0"',
        ),
        *("9" * 30, "x" * 300, "collectives", "0-7", "all_reduce"),
    ]
)
_KEY_WORDS = """
question extends seed pod topology device library change link stragglers model kind precision kv
parallel tensor pipeline workload trace file fallback batch every_step techniques preserve cap
record from_s until_s variants a expect 3 l2_bytes null << jobs bytes group collective background
faults jitter every
"""
_KEYS = st.sampled_from(_KEY_WORDS.split())
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(_KEYS, inner, max_size=5).map(
            lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"
        )
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_gives_a_scenario_or_its_faults(text: str) -> None:
    _loads_or_faults(text)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(_KEYS, _TREES, max_size=4),
    st.lists(st.tuples(st.lists(_KEYS, min_size=1, max_size=4), _TREES), max_size=2),
)
def test_any_mapping_gives_a_scenario_or_its_faults(
    sections: dict[str, str], pairs: list[tuple[list[str], str]]
) -> None:
    good = {key: json.dumps(value) for key, value in GOOD.items()}
    text = "".join(f"{key}: {value}\n" for key, value in {**good, **sections}.items())
    _loads_or_faults(text, [f"{'.'.join(keys)}={value}" for keys, value in pairs])


# Collectives alone

JOB = {"collective": "all_reduce", "bytes": "64 MiB"}
NETWORK: dict[str, Any] = {
    "model": None,
    "parallel": None,
    "pod": {"topology": "dgx_h100"},
    "workload": {"kind": "collectives", "jobs": {"a": JOB}},
    "variants": None,
    "expect": None,
}


def network(**changes: Any) -> dict[str, Any]:
    """NETWORK with keys of the first job, or of the pod (`pod_...`), changed."""
    job = {key: value for key, value in changes.items() if not key.startswith("pod_")}
    pod = {
        key.removeprefix("pod_"): value for key, value in changes.items() if key.startswith("pod_")
    }
    work = {"kind": "collectives", "jobs": {"a": {**JOB, **job}}}
    return {**NETWORK, "pod": {**NETWORK["pod"], **pod}, "workload": work}


def test_jobs_are_read(write: Write) -> None:
    faults = [{"link": [0, "switch"], "bandwidth": 0.5}, {"link": [1, "switch"], "failed": True}]
    told = network(
        pod_faults=faults, pod_jitter="2 us", group="0-3", gap="1 ms", repeat=3, algorithm="ring"
    )
    v = load(write(**told)).variants["run"]
    job = v.workload.jobs["a"]
    assert (job.bytes, job.gap, job.repeat, job.algorithm, job.start) == (2**26, 1e-3, 3, "ring", 0)
    assert v.pod.jitter == 2e-6 and not v.model.name
    assert [(f.link, f.bandwidth, f.latency, f.failed) for f in v.pod.faults] == [
        ([0, "switch"], 0.5, 0.0, False),
        ([1, "switch"], 1.0, 0.0, True),
    ]


@pytest.mark.parametrize(
    ("group", "chips"),
    [
        ("all", range(12)),
        ("0-3", range(4)),
        ("0-1, 8", [0, 1, 8]),
        ([8, 9, "2-4"], [8, 9, 2, 3, 4]),
        ({"every": 4}, [0, 4, 8]),
        ({"every": 4, "from": 1, "count": 2}, [1, 5]),
        ({"from": 9}, [9, 10, 11]),
    ],
)
def test_groups(write: Write, group: Any, chips: Any) -> None:
    assert load(write(**network(group=group))).variants["run"].workload.jobs["a"].group.of(
        12
    ) == tuple(chips)


def test_the_choices_of_a_job_are_the_rows_of_the_tables(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that comes late counts: in the file, and in the schema that an editor reads."""
    from sim.network.collectives import ALGORITHM_NAMES, COLLECTIVES, Algorithm

    def asked(name: str) -> str | None:
        return load(write(**network(algorithm=name))).variants["run"].workload.jobs["a"].algorithm

    with pytest.raises(ScenarioError, match="'own' is not allowed here"):
        asked("own")
    plan = COLLECTIVES["all_reduce"].algorithms["ring"].plan
    monkeypatch.setitem(COLLECTIVES["all_reduce"].algorithms, "own", Algorithm(plan))
    assert asked("own") == "own"
    job = json_schema(SPECS)["$defs"]["JobSpec"]["properties"]
    assert job["collective"]["enum"] == list(COLLECTIVES)
    assert job["algorithm"]["anyOf"][0]["enum"] == ["auto", *ALGORITHM_NAMES]


def collectives(**work: Any) -> dict[str, Any]:
    return {**NETWORK, "workload": {"kind": "collectives", **work}}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            network(collective="allreduce"),
            "workload.jobs.a.collective: 'allreduce' is not allowed here, did you mean",
        ),
        (
            network(algorithm="rng"),
            "workload.jobs.a.algorithm: 'rng' is not allowed here, did you mean 'ring'?",
        ),
        (
            network(pod_collective="rng"),
            "pod.collective: 'rng' is not allowed here, did you mean 'ring'?",
        ),
        (
            network(bytes="-1 MiB"),
            "workload.jobs.a.bytes: '-1 MiB' is out of range, it must be > 0",
        ),
        (network(bytes="0 B"), "workload.jobs.a.bytes: '0 B' is out of range, it must be > 0"),
        (network(bytes=64), "workload.jobs.a.bytes: 64 is a bare number where a unit is due"),
        (network(byts="1 B"), "workload.jobs.a.byts: unknown key, did you mean 'bytes'?"),
        (network(group="7-3"), "workload.jobs.a.group: the range 7-3 runs backwards; write '3-7'"),
        (network(group=4), "workload.jobs.a.group: 4 is no group of chips; write 'all', '0-7'"),
        (
            network(group=[0, -1]),
            "workload.jobs.a.group: -1 is neither a chip's number nor a range of them",
        ),
        (
            network(group={"evry": 2}),
            "workload.jobs.a.group: unknown key 'evry' in a group, did you mean 'every'?",
        ),
        (
            network(group={"every": 0}),
            "workload.jobs.a.group: every of a group is a whole number of at least 1",
        ),
        (
            network(background=True, repeat=3),
            "workload.jobs.a: a background job goes on until the others are done",
        ),
        (
            network(background=True),
            "workload: all jobs are in the background, so the run would have no end",
        ),
        (network(weight=0), "workload.jobs.a.weight: 0 is out of range, it must be > 0"),
        (collectives(), "workload.jobs: this key is missing"),
        (collectives(jobs={}), "workload.jobs: at least one entry is due"),
        (
            collectives(jobs={"a.b": JOB}),
            "workload.jobs.a.b: a job's name is made of letters, digits",
        ),
        (
            collectives(jobs={"a": 3}),
            "workload.jobs.a: a mapping ('key: value' lines) is due, not 3",
        ),
        (
            network(pod_faults=[{"link": [0], "failed": True}]),
            "pod.faults[0].link: [0] is no link; name the two nodes",
        ),
        (network(pod_faults=[{"link": [0, 1]}]), "pod.faults[0]: nothing is wrong with this link"),
        (
            network(pod_faults=[{"link": [0, 1], "failed": True, "latency": "1 s"}]),
            "pod.faults[0]: a failed link",
        ),
        (
            network(pod_faults=[{"link": [0, 1], "bandwidth": 2}]),
            "pod.faults[0].bandwidth: 2 is out of range",
        ),
        (network(pod_jitter=2), "pod.jitter: 2 is a bare number where a unit is due"),
        (
            {**network(), "model": "llama3-8b"},
            "model: unknown key: a workload of collectives reads workload, pod, record; take this "
            "out, or set it to null",
        ),
        (
            {**network(), "parallel": {"tensor": 2}},
            "parallel: unknown key: a workload of collectives reads workload, pod, record; take",
        ),
        (
            {**network(), "techniques": ["preserve"]},
            "techniques: unknown key: a workload of collectives reads workload, pod, record; take",
        ),
        (
            network(pod_device="h100_sxm"),
            "pod.device: unknown key: a workload of collectives reads topology, library, change, ",
        ),
        (
            {"pod": {**GOOD["pod"], "jitter": "1 us"}},
            "pod.jitter: unknown key: a workload of decode reads topology, device, library, change",
        ),
        ({**network(), "expect": ["run.b.mean_s > 1"]}, "expect[0]: no job 'b' in variant 'run'"),
        (
            {**network(), "expect": ["run.a.mean_s > 2 * rn.a.mean_s"]},
            "expect[0]: no variant 'rn', did you mean 'run'",
        ),
    ],
)
def test_one_fault_of_collectives(write: Write, changes: dict[str, Any], fault: str) -> None:
    found = [line.split(" ", 1)[1] for line in faults(write(**changes))]
    assert len(found) == 1 and found[0].startswith(fault), found


def test_a_misspelt_key_is_one_fault_also_where_its_section_is_half_read(write: Write) -> None:
    pod = {**GOOD["pod"], "jiter": "1 us", "change": {"devise": {}}}
    found = sorted(line.split(" ", 1)[1] for line in faults(write(pod=pod)))
    assert len(found) == 2 and found[0].startswith(
        "pod.change.devise: unknown key, did you mean 'device'?; known keys: "
    )
    assert found[1].startswith("pod.jiter: unknown key, did you mean 'jitter'?; known keys: ")


def test_a_variant_may_leave_the_model_out(write: Write) -> None:
    work = {"kind": "collectives", "jobs": {"a": JOB}}
    s = load(
        write(
            variants={"a": None, "b": {"workload": work, "model": None, "parallel": None}},
            expect=None,
            pod={"topology": "dgx_h100"},
        )
    )
    assert s.variants["a"].model.name and not s.variants["b"].model.name
    again = s.path.parent / "again.yaml"
    again.write_text(s.resolved, encoding="utf-8")
    assert load(again).variants == s.variants
