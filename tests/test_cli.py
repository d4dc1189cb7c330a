"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
from typer.testing import CliRunner

from sim.catalog import shipped
from sim.cli.app import app
from sim.facts.version import VERSION
from sim.reproduce.row import Row
from sim.run import load

ROOT = Path(__file__).resolve().parent.parent
BAD = "question: What?\npod: {topology: atlas_800t_a2, devise: x}\nmodel: llama3-8b\nmodel: x\n"


def podscope(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def podscope_process(*args: str, cwd: Path, code: str = "from sim.cli import main; main()") -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


class FakeResult:
    """Stands in for a Result: says what it is told to, and saves a file."""

    def __init__(self, ok: bool) -> None:
        self.expect = [{"text": "preserve.speedup >= 1.2", "value": 1.3, "ok": ok}]
        self.warnings, self.partial = ["[bold] rows were skipped"], False
        self.ran: tuple[str, ...] = ()

    def table(self) -> str:
        return "the table"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text('{"scenario": "", "version": "", "variants": {}}')


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replaces the simulation; returns the calls it got."""

    def replace(ok: bool = True, error: BaseException | None = None) -> list[Any]:
        calls: list[Any] = []

        def run(
            path: str, overrides: list[str], progress: Callable[[float, str], None], **more: Any
        ) -> FakeResult:
            calls.append((path, overrides))
            progress(0.5, "vanilla")
            if error is not None:
                raise error
            return FakeResult(ok)

        monkeypatch.setitem(
            sys.modules, "sim.run", SimpleNamespace(Interrupted=GeneratorExit, load=load, run=run)
        )
        return calls

    return replace


def test_run_prints_the_table_and_writes_the_folder(
    here: Path, simulated: Callable[..., list[Any]]
) -> None:
    calls = simulated()
    result = podscope("run", "preserve", "--set", "workload.batch=2", "--set", "seed=1")
    assert result.exit_code == 0, result.output
    assert calls == [("preserve", ["workload.batch=2", "seed=1"])]
    assert "the table" in result.stdout and "runs/preserve" in result.stdout
    assert "[bold] rows were skipped" in result.stderr and "skipped" not in result.stdout
    assert (here / "runs/preserve/result.json").exists()
    assert (
        podscope("run", "preserve", "--out", "mine").exit_code == 0
        and (here / "mine/result.json").exists()
    )


def test_run_of_several_scenarios(here: Path, simulated: Callable[..., list[Any]]) -> None:
    simulated()
    assert podscope("run", "preserve", "azure_llama3-8b", "--out", "all").exit_code == 0
    assert sorted(path.name for path in (here / "all").iterdir()) == ["azure_llama3-8b", "preserve"]
    twice = podscope("run", "preserve", shipped.folder("scenarios") / "preserve.yaml")
    assert twice.exit_code == 2 and "share a run folder" in twice.stderr


def test_record_and_fidelity_are_short_for_overrides(
    here: Path, simulated: Callable[..., list[Any]]
) -> None:
    calls = simulated()
    for window, ends in (("10s..10.2s", ("10s", "10.2s")), ("900 ms..", ("900 ms", "null"))):
        done = podscope(
            "run", "azure_llama3-8b", "--set", "seed=1", "--record", window, "--fidelity", "op"
        )
        assert done.exit_code == 0, done.output
        want = [
            "seed=1",
            f"record.from_s={ends[0]}",
            f"record.until_s={ends[1]}",
            "workload.fidelity=op",
        ]
        assert calls.pop() == ("azure_llama3-8b", want)
        variants = load("azure_llama3-8b", want).variants.values()
        assert {v.workload.fidelity for v in variants} == {"op"}
        assert {(v.record.from_s, v.record.until_s) for v in variants} == {
            (10.0, 10.2) if ends[0] == "10s" else (0.9, None)
        }
    assert podscope("run", "network_two_jobs", "--record", "0 s..1 ms").exit_code == 0


@pytest.mark.parametrize(
    "window",
    [
        "",
        "10",
        "10s",
        "10..11",
        "..",
        "..1s",
        "1s..2s..3s",
        "2s..1s",
        "1s..1s",
        "-1s..1s",
        "1s..2m",
    ],
)
def test_a_window_that_is_none_exits_2(
    here: Path, simulated: Callable[..., list[Any]], window: str
) -> None:
    calls = simulated()
    result = podscope("run", "azure_llama3-8b", f"--record={window}")
    assert result.exit_code == 2 and not calls and result.stderr.count("\n") == 1
    assert (
        result.stderr.startswith("podscope: --record: ")
        and "write it like 10s..10.2s, or 10s.." in result.stderr
    )


def test_record_and_fidelity_where_they_mean_nothing(
    here: Path, simulated: Callable[..., list[Any]]
) -> None:
    calls = simulated()
    for args, what in (
        (
            ["preserve", "--record", "1s..2s"],
            "--record: preserve has a workload that does not read record.from_s; take",
        ),
        (
            ["preserve", "--fidelity", "op"],
            "--fidelity: preserve has a workload that does not read workload.fidelity; take",
        ),
        (["network_two_jobs", "--fidelity", "step"], "--fidelity: network_two_jobs has a workload"),
        (["array_granularity", "--record", "0s.."], "does not read record; take this option out"),
        (["preserve", "--set", "workload.fidelity=op"], "--set: workload.fidelity: unknown key"),
        (["azure_llama3-8b", "--fidelity", "layer"], "step"),
    ):
        result = podscope("run", *args)
        assert result.exit_code == 2 and what in result.stderr
    assert not calls


def test_a_failed_expectation_exits_3_and_still_writes(
    here: Path, simulated: Callable[..., list[Any]]
) -> None:
    simulated(ok=False)
    assert podscope("run", "preserve").exit_code == 3
    assert (here / "runs/preserve/result.json").exists()


def test_an_interrupt_exits_130(here: Path, simulated: Callable[..., list[Any]]) -> None:
    simulated(error=KeyboardInterrupt())
    result = podscope("run", "preserve")
    assert (
        result.exit_code == 130 and "interrupted" in result.stderr and not (here / "runs").exists()
    )


@pytest.mark.parametrize("error", [ValueError("does not fit"), OSError("disk full")])
def test_the_users_mistakes_exit_2(
    here: Path, simulated: Callable[..., list[Any]], error: Exception
) -> None:
    simulated(error=error)
    result = podscope("run", "preserve")
    assert (
        result.exit_code == 2
        and result.stderr == f"podscope: {error}\n"
        and "Traceback" not in result.output
    )


def test_our_mistakes_keep_their_traceback(here: Path, simulated: Callable[..., list[Any]]) -> None:
    simulated(error=AssertionError("a bug"))
    assert isinstance(podscope("run", "preserve").exception, AssertionError)
    simulated(error=ValueError("asked for"))
    assert isinstance(podscope("--traceback", "run", "preserve").exception, ValueError)


def test_nothing_but_a_run_is_replaced(here: Path, simulated: Callable[..., list[Any]]) -> None:
    calls = simulated()
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter1.tex").write_text("")
    (here / "file").write_text("")
    for out in ("thesis", "file"):
        result = podscope("run", "preserve", "--out", out)
        assert result.exit_code == 2 and out in result.stderr
    assert not calls and (here / "thesis" / "chapter1.tex").exists()


def test_check(here: Path) -> None:
    good = podscope("check", "preserve", "--set", "workload.batch=2")
    assert good.exit_code == 0 and good.stdout.startswith(
        "preserve: ok, 3 variant(s) (vanilla, fused, preserve)"
    )
    (here / "bad.yaml").write_text(BAD)
    (here / "worse.yaml").write_text("")
    bad = podscope("check", "preserve", "bad.yaml", "worse.yaml", "preserv")
    lines = bad.stderr.splitlines()
    assert bad.exit_code == 2 and bad.stdout == ""
    assert lines[0].startswith("bad.yaml:4: model: this key is given twice") and lines[
        1
    ].startswith("worse.yaml:1: ")
    assert "did you mean 'preserve'?" in lines[2]


def test_faults_in_a_process_have_no_traceback(tmp_path: Path) -> None:
    def process(*args: str) -> Any:
        return forked.podscope(*args, cwd=tmp_path, path=tmp_path)

    (tmp_path / "bad.yaml").write_text(BAD)
    for command in ("check", "run"):
        done = process(command, "bad.yaml")
        assert (
            done.returncode == 2
            and done.stderr.startswith("bad.yaml:4: ")
            and "Traceback" not in done.stderr
        )
    assert process("run", "preserve", "--set", "expect=[preserve.speedup > 99]").returncode == 3
    assert (tmp_path / "runs/preserve/result.json").exists()


def test_an_answer_at_once_imports_nothing_slow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sim.cli.app import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit as e: assert not e.code\n"
        "print(sorted({'plotly', 'torch', 'pandas', 'pyarrow', 'hypothesis'} & set(sys.modules)))"
    )
    for args in (["--version"], ["check", "preserve"]):
        done = podscope_process(*args, cwd=tmp_path, code=code)
        assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_usage() -> None:
    assert podscope("--version").stdout == f"podscope {VERSION}\n"
    for command in ("run", "check", "schema", "list", "reproduce"):
        assert command in podscope("--help").stdout
        assert podscope(command, "--help").exit_code == 0
    assert (
        podscope("run").exit_code
        == podscope("list", "nonsense").exit_code
        == podscope("nonsense").exit_code
        == 2
    )


def test_schema() -> None:
    schema = json.loads(podscope("schema").stdout)
    assert schema["$schema"].endswith("2020-12/schema") and "variants" in schema["properties"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("devices", "ascend_910b2"),
        ("channels", "3g"),
        ("models", "llama3-8b"),
        ("networks", "resnet50"),
        ("libraries", "hccl"),
        ("topologies", "atlas_800t_a2"),
        ("techniques", "preserve"),
        ("scenarios", "preserve"),
    ],
)
def test_list(kind: str, name: str) -> None:
    table = podscope("list", kind)
    assert table.exit_code == 0 and name in table.stdout
    rows = json.loads(podscope("list", kind, "--json").stdout)
    assert name in [row["name"] for row in rows] and "NaN" not in table.stdout


def test_listed_models_name_their_parts() -> None:
    rows = {row["name"]: row for row in json.loads(podscope("list", "models", "--json").stdout)}
    assert (
        rows["deepseek-v3"]["latent"]["kv_rank"] == 512
        and rows["deepseek-v3"]["experts"]["chosen"] == 8
    )
    assert rows["llama3-8b"]["experts"] is None
    assert rows["llama3-8b"]["active_parameters"] == rows["llama3-8b"]["parameters"]
    assert rows["mixtral-8x7b"]["active_parameters"] == pytest.approx(12.9e9, rel=0.01)


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Two published systems; returns the `quick` that each was called with."""
    quick_calls: list[bool] = []

    def preserve(quick: bool = False, progress: Callable[[float], None] = print) -> list[Row]:
        quick_calls.append(quick)
        return [
            Row("preserve", "P1", "largest speed-up", 1.61, 1.6, "0.1", True, "a constant"),
            Row("preserve", "P2", "smallest [speed-up]", None, float("nan"), "", False, note="n/a"),
        ]

    def broken(quick: bool = False, progress: Callable[[float], None] = print) -> list[Row]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(
        "sim.reproduce.SYSTEMS", {"preserve": preserve, "broken": broken}, raising=False
    )
    return quick_calls


def test_reproduce(here: Path, systems: list[bool]) -> None:
    result = podscope("reproduce", "preserve", "--quick", "--json", "out/rows.json")
    assert result.exit_code == 0 and systems == [True]
    assert "P1" in result.stdout and "[speed-up]" in result.stdout and "NO" in result.stdout
    keys = ["system", "id", "what", "published", "simulated", "tolerance", "ok", "fitted", "note"]
    rows = json.loads((here / "out/rows.json").read_text())
    assert [list(row) for row in rows] == [keys, keys]
    assert rows[0]["simulated"] == 1.6 and rows[1]["simulated"] is None and rows[1]["ok"] is False
    assert [path.name for path in (here / "out").iterdir()] == ["rows.json"]


def test_reproduce_gone_wrong(here: Path, systems: list[bool]) -> None:
    unknown = podscope("reproduce", "preserv")
    assert unknown.exit_code == 2 and "did you mean 'preserve'?" in unknown.stderr
    (here / "rows.json").write_text("old")
    assert isinstance(
        podscope("reproduce", "broken", "--json", "rows.json").exception, RuntimeError
    )
    assert (here / "rows.json").read_text() == "old"
    assert podscope("reproduce", "preserve", "--json", str(here)).exit_code == 2 and systems == []
    other = podscope("reproduce", "preserve", "--rerun", "here")
    assert other.exit_code == 2 and "--rerun is of nas alone" in other.output and systems == []


SLOW = """question: How long?
pod: {topology: single}
model: smollm2-135m
record: {enabled: false}
workload: {kind: requests, trace: {file: TRACE}, policy: chunked, max_batch: 4, kv: paged}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_what_there_is_marked_partial(here):
    rows = "".join(f"{i / 10},{200 + i % 7},{40 + i % 11}\n" for i in range(20_000))
    (here / "long.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    (here / "slow.yaml").write_text(SLOW.replace("TRACE", str(here / "long.csv")))

    def interrupted() -> Any:
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from "
            "sim.cli import main; main()"
        )
        command = [sys.executable, "-c", code, "run", "slow.yaml", "--out", "out", "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(here / "empty")}
        # Interpreted, this takes minutes: without numba nothing is compiled.
        environment["PYTHONPATH"] = f"{here / 'without'}{os.pathsep}{ROOT}"
        started = subprocess.Popen(
            command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert started.stderr is not None
        while b"plain Python" not in (line := started.stderr.readline()):  # it says so as it begins
            assert line, "it ended before it began"
        time.sleep(0.6)
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=60)
        return started.returncode

    (here / "without").mkdir()
    (here / "without" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'numba' else find(name, *more)\n"
    )
    assert interrupted() == 130
    partial = json.loads((here / "out" / "result.json").read_text())
    assert partial["partial"] and "of simulated time" in partial["warnings"][0]
    assert 0 < partial["variants"]["run"]["metrics"]["requests"] < 20_000
    (here / "out" / "result.json").write_text(json.dumps({**partial, "partial": False}))
    assert interrupted() == 130, "a complete run stays"
    assert not json.loads((here / "out" / "result.json").read_text())["partial"]
    assert json.loads((here / "out.partial" / "result.json").read_text())["partial"]
