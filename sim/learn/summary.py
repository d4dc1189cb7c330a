"""A whole run in a few small files: what `podscope reproduce stief` reads, without torch."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sim.learn.allocation import Ranks
from sim.learn.decoder import WHOLE
from sim.learn.study import POLICIES, Study, read
from sim.text.replacing import replacing

_EVERY = 5  # steps of a line in the curves


def summary(study: Study) -> dict[str, Any]:
    """Plan, losses of layers, nats of windows, ranks, cost. Numbers to five digits."""
    folder, sizes = study.folder, study.model.sizes
    passes = {}
    for seed, ranks in study.plan.passes:
        for rank in ranks:
            files = sorted((folder / f"seed{seed}/rank{rank}").glob("*.json"))
            passes[f"{rank}-seed{seed}"] = _pass([read(file) for file in files])
    scores = {file.stem: read(file) for file in sorted((folder / "scores").glob("*.json"))}
    ranks_of = {file.stem: read(file) for file in sorted((folder / "ranks").glob("*.json"))}
    surfaces = [read(file) for file in sorted((folder / "surfaces").glob("*.json"))]
    cpu_s = {
        "learning": sum(sum(each["cpu_s"]) for each in passes.values()),
        "inputs of layers": study.walk_cpu_s() * len(study.plan.passes),
        "losses of layers": sum(each["measured_cpu_s"] for each in passes.values()),
        "perplexities": sum(each["cpu_s"] for each in scores.values()),
        "surfaces": sum(each["cpu_s"] for each in surfaces),
        "allocation": sum(each["cpu_s"] for each in ranks_of.values()),
    }
    return {
        **read(folder / "plan.json"),
        "sizes": {
            "name": sizes.name,
            "layers": sizes.layers,
            "heads": sizes.heads,
            "kv_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
        },
        "made_with": {"torch": torch.__version__, "python": platform.python_version()},
        "passes": passes,
        "scores": {
            name: {key: _short(value) for key, value in each.items() if key != "cpu_s"}
            for name, each in scores.items()
        },
        "whole_bytes_per_token": WHOLE.bytes_per_token(sizes, study.plan.length),
        "ranks": {name: each["ranks"] for name, each in ranks_of.items()},
        "cpu_s": {key: round(value) for key, value in cpu_s.items()},
        "full_rank_off": study.full_rank_off(),
    }


def _pass(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one seed and rank: lists over layers."""
    ways = layers[0]["losses"]
    return {
        "losses": {
            way: {key: [_short(each["losses"][way][key]) for each in layers] for key in ways[way]}
            for way in ways
        },
        "off": max(each["off"] for each in layers),
        "cpu_s": [round(each["cpu_s"], 2) for each in layers],
        "measured_cpu_s": round(sum(each["measured_cpu_s"] for each in layers), 1),
        "peak_bytes": max(each["peak_bytes"] for each in layers),
        "stopped": [each["stopped"] for each in layers if each["stopped"]],
    }


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def curves(study: Study, to: Path) -> None:
    """The loss of every fifth step and the last as CSV: seed, rank, layer, step, loss."""
    with replacing(to) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["seed", "rank", "layer", "step", "loss"])
        for each in sorted(study.folder.glob("seed*/rank*/*.json")):
            seed, rank = each.parts[-3][4:], each.parts[-2][4:]
            curve = read(each)["curve"]
            for step, loss in enumerate(curve):
                if step % _EVERY == 0 or step == len(curve) - 1:
                    table.writerow([seed, rank, int(each.stem), step, f"{loss:.4g}"])


def cards(study: Study) -> Iterator[tuple[str, str, list[Ranks], str]]:
    """(name, way, ranks, its score) of each card of a run: for each budget one of equal ranks,
    one of ranks by layer, and EigenAttention's."""
    d = study.model.sizes.head_dim
    for ratio in study.plan.budgets:
        rank = round(ratio * d)
        uniform = [(rank, rank)] * study.layers
        yield f"smollm2-135m-{ratio:g}", "learned", uniform, f"learned-{rank}-seed0"
        yield f"smollm2-135m-{ratio:g}-eigen", "eigen_kq", uniform, f"eigen_kq-{rank}-seed0"
        name = study.allocation(POLICIES[-1], False, ratio)
        pairs = [(k, v) for k, v in read(study.folder / f"ranks/{name}.json")["ranks"]]
        yield f"smollm2-135m-{ratio:g}-by-layer", "learned", pairs, name
