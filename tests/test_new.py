"""Files to begin with: what `podscope new` writes runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim import catalog
from sim.cli.app import app


def ask(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        app([*words])
    return int(stop.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_chip_a_pod_and_a_question_of_ones_own_run_as_they_are_written(folder: Path) -> None:
    assert ask("new", "device", "mychip") == 0
    assert ask("new", "topology", "mypod", "--device", "./mychip.yaml") == 0
    assert ask("new", "scenario", "why", "--topology", "./mypod.yaml") == 0
    result = sim.run("why.yaml", {"workload.output_tokens": 2})
    assert result.comparison["preserve"]["speedup"] > 1.0
    rows = result.outcomes["plain"].assumptions
    assert {row.tag for row in rows if row.what.startswith("mychip: ")} == {"OWN"}
    pod = catalog.pod(folder / "mypod.yaml")
    assert pod.devices == 16 and pod.facts["link_bytes_per_s"].tag == "OWN"


def test_what_is_there_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mychip.yaml").write_text("mine")
    assert ask("new", "device", "mychip") == 2
    assert "left alone" in capsys.readouterr().err
    assert (folder / "mychip.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    "words, said",
    [
        (("new", "device", "../up"), "is no name"),
        (("new", "topology", "pod", "--device", "h100_sxn"), "did you mean 'h100_sxm'"),
        (("new", "scenario", "why", "--topology", "dgx_h10"), "did you mean"),
        (("new", "device", "chip", "--out", "no/such/folder/chip.yaml"), "no folder"),
    ],
)
def test_wrong_words_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert ask(*words) == 2
    assert said in capsys.readouterr().err
    assert not [*folder.iterdir()]


def test_a_card_without_an_engine_that_prefetches_says_what_is_taken(folder: Path) -> None:
    ask("new", "device", "mychip")
    text = (folder / "mychip.yaml").read_text()
    (folder / "mychip.yaml").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("prefetch_"))
    )
    ask("new", "scenario", "why")
    found = sim.run("why.yaml", {"pod.device": "./mychip.yaml", "workload.output_tokens": 2})
    assert any("names no engine that prefetches" in warning for warning in found.warnings)


def test_paths_in_a_topology_are_from_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("new", "device", "mychip")
    ask("new", "topology", "mypod", "--device", "./mychip.yaml")
    ask("new", "scenario", "why", "--topology", "./mypod.yaml")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    slow = (folder / "mychip.yaml").read_text().replace("400 TFLOP/s", "4 TFLOP/s")
    (elsewhere / "mychip.yaml").write_text(slow)  # another of that name is nobody's business
    monkeypatch.chdir(elsewhere)
    assert (
        catalog.device(catalog.pod(folder / "mypod.yaml").device).matrix_flop_per_s["bf16"] > 1e14
    )
    result = sim.run("../why.yaml", {"workload.output_tokens": 2})
    assert result.variants["plain"]["metrics"]["prefill_s"] < 1.0
    (folder / "mychip.yaml").unlink()
    assert ask("check", "../why.yaml") == 2


def test_what_no_format_of_the_device_holds_is_said_by_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("new", "device", "mychip")
    file = folder / "mychip.yaml"
    text = file.read_text()
    line = next(line for line in text.splitlines() if line.startswith("matrix_flop_per_s"))
    file.write_text(text.replace(line, "matrix_flop_per_s: {fp8: 800 TFLOP/s}"))
    ask("new", "scenario", "why")
    assert ask("check", "why.yaml", "--set", "pod.device=./mychip.yaml") == 2
    assert "multiplies none of fp16" in capsys.readouterr().err
    file.write_text(text.replace(line, "matrix_flop_per_s: {bf16: 800 TFLOP/s}"))
    found = sim.run("why.yaml", {"pod.device": "./mychip.yaml", "workload.output_tokens": 2})
    assert any("weights and attention are computed at its bf16 rate" in w for w in found.warnings)
