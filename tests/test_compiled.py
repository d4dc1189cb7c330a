"""Compiled loops: when they are made, kept, loaded and refused; plain Python gives the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from sim import compiled, run
from sim.compiled import Loops

pytest.importorskip("numba", reason="the compiled form needs numba")
ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
def total(n, values, out):
    for i in range(n):
        out[0] += _twice(values[i])
    return n

def _twice(x):
    return 2.0 * x
"""
SCENARIO = """question: How long?
pod: {topology: single}
model: smollm2-135m
workload:
  kind: requests
  trace: {file: azure_conv_like, limit: 110}
  policy: chunked
  max_batch: 8
  kv: paged
record: {enabled: false}
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Loops of one small module, each time as a new process would have them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "_ALL", [])
    monkeypatch.setattr(compiled, "_RAN", {})
    monkeypatch.setattr(compiled, "_TOLD", set())
    monkeypatch.setattr(compiled, "_FORESEEN", {})
    source = tmp_path / "totals.py"
    source.write_text(SOURCE)
    spec = spec_from_file_location("totals", source)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    floats = np.zeros(0)

    def loops() -> Loops:
        return Loops(
            "totals",
            (module,),
            lambda: {module.total: (0, floats, floats)},
            plain_s=1.0,
            compile_s=100.0,
        )

    return loops


def works(loops: Loops, amount: float) -> bool:
    """Whether it is compiled for so much work; and that it computes what it should."""
    native = loops.native(amount)
    if native is not None:
        out = np.zeros(1)
        assert native["total"](3, np.array([1.0, 2.0, 4.0]), out) == 3 and out[0] == 14.0
    return native is not None


def no_compiling(loops):
    raise AssertionError("it was compiled before")


def test_what_pays_is_compiled_once_and_kept_for_later_runs(make, monkeypatch, capsys):
    first = make()
    assert not works(first, 0.01) and not works(first, 3.9)
    assert compiled.ran() == ["totals: plain Python (there is little to do)"]
    assert capsys.readouterr().err == ""
    assert works(first, 0.2), "what was asked for adds up"
    assert compiled.ran() == ["totals: compiled"]
    assert capsys.readouterr().err == "podscope: compiling the totals loop, once, about 100 s\n"
    file = compiled.object_file(first)
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(compiled, "_compile", no_compiling)
    later = make()
    assert not works(later, 0.01), "below what loading takes"
    assert works(later, 0.1) and works(later, 0.0), "what is loaded is used"
    assert capsys.readouterr().err == ""


def test_what_is_foreseen_decides_at_the_first_call(make):
    loops = make()
    for _ in range(10):
        compiled.foresee("totals", 0.5)
    assert works(loops, 0.5)
    compiled.begin()
    assert compiled.ran() == []
    assert not works(make(), 0.01)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "writable"])
def test_a_file_that_is_not_whole_or_not_the_users_own_is_not_loaded(make, damage, capsys):
    assert works(make(), 10.0)
    file = compiled.object_file(make())
    whole = file.read_bytes()
    file.write_bytes(
        {"cut": whole[:-1], "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]}.get(
            damage, whole if damage == "writable" else b""
        )
    )
    if damage == "writable":
        file.chmod(0o666)
    assert compiled.read(file) is None
    assert not works(make(), 1.0), "too little to compile it again"
    assert works(make(), 10.0)
    assert compiled.read(file) is not None
    said = capsys.readouterr().err
    assert f"{file} is {'not yours alone' if damage == 'writable' else 'damaged'}" in said


@pytest.mark.parametrize("there", ["folder", "pipe", "foreign"])
def test_what_stands_where_a_file_is_due_stops_nobody(make, there, capsys):
    file = compiled.object_file(make())
    file.parent.mkdir(parents=True, exist_ok=True)
    if there == "folder":
        file.mkdir()
    elif there == "pipe":
        os.mkfifo(file)  # to open it would wait for ever
    else:
        compiled._keep(file, b"[]\n")  # whole, and the user's own, but not of these loops
    done = works(make(), 10.0)
    assert done == (there != "foreign") and capsys.readouterr().err
    assert sorted(each.suffix for each in file.parent.iterdir()) in ([".lock", ".o"], [".o"])


def test_another_source_is_another_file(make, tmp_path):
    first = compiled.object_file(make())
    (tmp_path / "totals.py").write_text(SOURCE + "\n")
    assert compiled.object_file(make()) != first


def test_a_cache_that_cannot_be_written_stops_nobody(make, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert works(make(), 10.0)
    assert "cannot be kept" in capsys.readouterr().err


def test_a_compiler_that_fails_or_is_not_there_leaves_plain_python(make, monkeypatch, capsys):
    def failing(loops):
        raise TypeError("not today\nbecause")

    monkeypatch.setattr(compiled, "_compile", failing)
    loops = make()
    assert not works(loops, 10.0) and not works(loops, 10.0)
    assert compiled.ran() == ["totals: plain Python (compiling failed: TypeError: not today)"]
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    loops = make()
    assert not works(loops, 10.0) and not works(loops, 10.0)
    assert compiled.ran() == ["totals: plain Python (numba is not installed)"]
    assert capsys.readouterr().err.count("plain Python, much slower: numba is not installed") == 1


def test_without_numba_the_answer_is_the_same_and_is_announced(tmp_path):
    """The one test for an install without a compiler: a process that cannot import it."""
    (tmp_path / "some.yaml").write_text(SCENARIO)
    code = (
        "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None; "
        "from sim.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "some.yaml", "--out", "plain"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "the serving loop runs in plain Python, much slower: numba is not" in done.stderr
    assert "loops: serving: plain Python (numba is not installed)" in done.stderr
    plain = (tmp_path / "plain" / "result.json").read_text()
    assert "plain Python" in (tmp_path / "plain" / "log.txt").read_text()
    fast = run(tmp_path / "some.yaml")
    assert fast.ran == ("serving: compiled",)
    assert fast.to_json() == plain and "compiled" not in json.dumps(json.loads(plain))
