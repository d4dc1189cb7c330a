"""`podscope learn stiefel` from end to end on a model of a few thousand weights, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sim.cli.app import app

RUN = CliRunner()


def run(*args: object) -> Any:
    return RUN.invoke(app, ["learn", "stiefel", *map(str, args)])


def test_without_torch_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sim.cli.learn.find_spec", lambda name: None if name == "torch" else name)
    got = run("--out", tmp_path / "a.json", "--rank", 4)
    assert got.exit_code == 2
    assert "`podscope learn` needs torch: pip install 'podscope[learn]'" in got.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give one of --rank and --ratio"),
        (("--rank", 4, "--ratio", 0.5), "give one of --rank and --ratio"),
        (("--rank", 4, "--weighted"), "--policy, --weighted and --ranks are of --ratio"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, args: tuple, said: str) -> None:
    got = run("--out", tmp_path / "a.json", *args)
    assert got.exit_code == 2
    assert said in got.output


def test_a_card_is_a_json_file(tmp_path: Path) -> None:
    got = run("--out", tmp_path / "a.yaml", "--rank", 4)
    assert (got.exit_code, "a card is a .json file" in got.output) == (2, True)


for _needed in ("torch", "gguf", "tokenizers", "safetensors"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed (make test-learn)")

import tiny_models as tiny  # noqa: E402

from sim.catalog.kv_cards import card  # noqa: E402


@pytest.fixture
def given(tmp_path: Path) -> list[object]:
    (tmp_path / "in.txt").write_text(tiny.some_text())
    (tmp_path / "other.txt").write_text(tiny.some_text(seed=1))
    model = tiny.write_gguf(tmp_path / "tiny.gguf")
    texts = ["--text", tmp_path / "in.txt", "--other", tmp_path / "other.txt"]
    size = ["--windows", 8, "--length", 32, "--scored", 2, "--steps", 10]
    return ["--out", tmp_path / "made.json", "--model", model, *texts, *size]


def test_a_card_of_one_rank(tmp_path: Path, given: list[object]) -> None:
    got = run(*given, "--rank", 4, "--others")
    assert got.exit_code == 0, got.output
    made = card(tmp_path / "made.json")
    assert made.method == "stiefel"
    assert made.ratio == 0.5
    assert made.ranks.k == made.ranks.v == (4,) * tiny.LAYERS
    assert made.model.name == "tiny"
    assert made.flop_per_token.value == 2 * 4 * tiny.D * tiny.KV_HEADS * tiny.LAYERS
    assert made.perplexity.in_domain.full != made.perplexity.in_domain.compressed
    ratios = {other.name: other.ratio for other in made.others}
    assert (tmp_path / "made.work" / "curves.csv").read_text().count("\n") == 1 + 3 * tiny.LAYERS
    assert ratios["fp8"] == 0.5
    assert ratios["rank 4, fp8"] == 0.25
    assert ratios["heavy hitters 16"] == 0.5
    alone = {other.name: other for other in made.others if other.method}
    assert alone["rank 4"].perplexity == made.perplexity
    assert alone["EigenAttention, rank 4"].method == "eigen_kq"
    assert alone["rank 4"].ratio == alone["EigenAttention, rank 4"].ratio == 0.5


@pytest.mark.parametrize("policy", ["error", "budget", "sequential"])
def test_a_card_with_ranks_by_layer(tmp_path: Path, given: list[object], policy: str) -> None:
    got = run(*given, "--ratio", 0.7, "--policy", policy, "--weighted", "--ranks", "4,6")
    assert got.exit_code == 0, got.output
    made = card(tmp_path / "made.json")
    assert made.ratio <= 0.7
    assert {*made.ranks.k, *made.ranks.v} <= {4, 6, 7}


def test_what_is_finished_is_not_learned_again(
    tmp_path: Path, given: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sim.learn.study as module

    real, learned = module.learn, []

    def killed(model: Any, at: int, *more: Any) -> Any:
        if at == 2 and not learned.count("killed"):
            learned.append("killed")
            raise KeyboardInterrupt
        learned.append(at)
        return real(model, at, *more)

    monkeypatch.setattr(module, "learn", killed)
    assert run(*given, "--rank", 4).exit_code == 130
    assert not (tmp_path / "made.json").exists()
    assert run(*given, "--rank", 4).exit_code == 0
    assert learned == [0, 1, "killed", 2]
    first = json.loads((tmp_path / "made.json").read_text())
    assert run(*given, "--rank", 4, "--work", tmp_path / "anew").exit_code == 0
    anew = json.loads((tmp_path / "made.json").read_text())
    assert anew["errors"] == first["errors"]
    assert anew["tensors"] == first["tensors"]
    got = run(*given, "--rank", 5)
    assert got.exit_code == 2
    assert "holds a run of another plan" in got.output


def test_a_loss_that_is_not_finite_is_said_and_loses_nothing(
    tmp_path: Path, given: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sim.learn.study as module

    real = module.learn

    def wild(model: Any, at: int, x: Any, of: Any, ranks: Any, recipe: Any) -> Any:
        return real(model, at, x, of, ranks, recipe._replace(rate=float("inf")))

    monkeypatch.setattr(module, "learn", wild)
    got = run(*given, "--rank", 4)
    assert got.exit_code == 0
    assert got.output.count("warning: seed 0, rank 4, layer") == tiny.LAYERS
    assert "the loss became nan at step 1; kept are the bases before it" in got.output
    assert card(tmp_path / "made.json").ratio == 0.5


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--rank", 0), "rank 0 of K is not within 1 and head_dim = 8"),
        (("--rank", 9), "rank 9 of K is not within 1 and head_dim = 8"),
        (("--ratio", 0.5, "--ranks", "4,x"), "write them like 32,40,48"),
        (("--ratio", 0.5, "--ranks", "3,4,5,6,7"), "at most 4 are learned"),
        (
            ("--ratio", 0.95),
            "is not within 0.5 and 0.875, which ranks 4, 5, 6, 7 of 8",
        ),
        (("--ratio", 0), "--ratio 0 is not within"),
        (("--rank", 4, "--length", 200_000), "give a longer text"),
        (("--rank", 4, "--length", 300), "longer than the 256 that tiny attends to"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, given: list[object], args: tuple, said: str) -> None:
    got = run(*given, *args)
    assert got.exit_code == 2
    assert said in got.output
    assert "Traceback" not in got.output
    assert not (tmp_path / "made.json").exists()
