"""What `podscope reproduce stief` reads from the record of the long run, and the cards of it."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from sim.catalog.files import names
from sim.catalog.kv_cards import card
from sim.reproduce import stief

PARTS = [
    stief.layers,
    stief.ranks,
    stief.perplexities,
    stief.allocations,
    stief.exactness,
    stief.published,
    stief.independent,
    stief.cost,
    stief.others,
]


@pytest.mark.parametrize("part", PARTS)
def test_what_is_judged_holds(part) -> None:
    rows = list(part())
    assert rows
    assert not [row for row in rows if row.ok is False]


def test_every_bar_of_the_record_is_judged_but_what_the_paper_says_of_another_model() -> None:
    judged = {row.id for part in PARTS for row in part() if row.ok is not None}
    assert judged == {"K1", "K2", "K3", "K4", "K5", "K9", "K10"}


def test_the_curves_fall_and_are_of_every_layer_learned() -> None:
    text = (files("sim.reproduce") / "stief_run" / "curves.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    runs = {(row["seed"], row["rank"], row["layer"]) for row in rows}
    plan = stief.record()["plan"]
    layers = stief.record()["sizes"]["layers"]
    assert len(runs) == layers * sum(len(ranks) for _, ranks in plan["passes"])
    steps = plan["recipe"]["steps"]

    def mean(wanted: set[int]) -> float:
        found = [float(row["loss"]) for row in rows if int(row["step"]) in wanted]
        assert len(found) >= len(runs)
        return sum(found) / len(found)

    assert mean({steps - 5, steps - 1}) < 0.8 * mean({0, 5})


def test_shipped_cards_say_what_the_record_says() -> None:
    record = stief.record()
    ours = [card(name) for name in names("kv") if name.startswith("smollm2")]
    assert {made.method for made in ours} == {"stiefel", "eigen_kq"}
    for made in ours:
        assert made.model.sha256 == record["model"]
        assert made.data.sha256 == record["texts"][0]
        full = made.perplexity.in_domain.full
        assert full == pytest.approx(stief.perplexity("full", "wikipedia"), rel=1e-4)
        rank = round(64 * made.ratio)
        if {*made.ranks.k, *made.ranks.v} == {rank}:
            way = {"stiefel": "learned"}.get(made.method, made.method)
            assert list(made.errors.layer_output_no_first) == pytest.approx(
                stief.losses(rank, way), rel=1e-3
            )


def test_ways_on_the_cards_are_the_records() -> None:
    """Every way that was scored with seed 0 and a row of the table in the docs is on each card."""
    scores, whole = stief.record()["scores"], stief.record()["whole_bytes_per_token"]
    ours = [made for name in names("kv") if (made := card(name)).others]
    assert len(ours) == 6 and all(made.others == ours[0].others for made in ours)
    known = {other.name: other for other in ours[0].others}
    labels = {"learned": "", "eigen_kq": "EigenAttention, ", "svd": "SVD of K, "}
    due = {
        f"{label}rank {rank}": f"{way}-{rank}-seed0"
        for way, label in labels.items()
        for rank in stief.RANKS
    }
    due |= {"random, rank 32": "random-32-seed0"}
    due |= {
        f"ranks by layer, ratio {ratio:g}": f"sequential-plain-{ratio:g}"
        for ratio in (0.75, 0.625, 0.5)
    }
    due |= {name.removeprefix("other "): name for name in scores if name.startswith("other ")}
    assert known.keys() == due.keys()
    for name, score in due.items():
        perplexity = known[name].perplexity
        assert known[name].ratio == pytest.approx(scores[score]["bytes_per_token"] / whole, 1e-4)
        for domain, text in (("in_domain", "wikipedia"), ("out_of_domain", "news")):
            got = getattr(perplexity, domain).compressed
            assert got == pytest.approx(stief.perplexity(score, text), rel=1e-4)


def test_equal_ranks_of_the_budgets_that_are_compared_are_equal_bytes() -> None:
    scores = stief.record()["scores"]
    whole = stief.record()["whole_bytes_per_token"]
    for ratio in (0.75, 0.625, 0.5):
        uniform = scores[f"learned-{round(64 * ratio)}-seed0"]["bytes_per_token"]
        assert uniform == whole * ratio
        for name, score in scores.items():
            if name.endswith(f"-{ratio:g}"):
                assert score["bytes_per_token"] <= uniform
