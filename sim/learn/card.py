"""A run as cards: the fields of `kv_low_rank` and the bases, ready to be checked and written."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sim.learn.allocation import Ranks
from sim.learn.bases import losses
from sim.learn.perplexity import perplexity
from sim.learn.study import Study, read

FLOP_HOW = (
    "2 r_K head_dim of each KV head and layer: the cached keys are rebuilt before RoPE; their "
    "rotation is left out, and so is what attention saves at values of rank r_V"
)


class Made(NamedTuple):
    """A card without the place of its tensors, and the tensors by name."""

    card: dict[str, Any]
    tensors: dict[str, Tensor]


@torch.no_grad()
def card_of(
    study: Study, name: str, way: str, seed: int, pairs: list[Ranks], scored: str, command: str
) -> Made:
    """Of the bases that `way` gives at these ranks, whose perplexity stands under `scored`."""
    cache = study.cache(way, seed, pairs)()
    sizes, plan = study.model.sizes, study.plan
    found, x = [], study.model.embed(study.held_out)
    for at in range(sizes.layers):
        y = study.through(at, x)
        found.append(losses(study.model, at, x, y, cache.bases[at]))
        x = y
    tensors: dict[str, Tensor] = {}
    for at, bases in sorted(cache.bases.items()):
        tensors |= {f"k.{at}": bases.keys.contiguous(), f"v.{at}": bases.values.contiguous()}
    total = sum(map(sum, pairs))
    card = {
        "kind": "kv_low_rank",
        "version": 1,
        "name": name,
        "method": {"learned": "stiefel"}.get(way, way),
        "model": {
            "name": sizes.name,
            "layers": sizes.layers,
            "kv_heads": sizes.kv_heads,
            "query_heads": sizes.heads,
            "head_dim": sizes.head_dim,
            "sha256": sizes.sha256,
        },
        "data": {
            "calibration": f"{plan.calibration} windows of {plan.length} tokens of {plan.text}",
            "tokens": plan.calibration * plan.length,
            "licence": study.text.licence,
            "sha256": study.text.sha256,
        },
        "ranks": {"k": [k for k, _ in pairs], "v": [v for _, v in pairs]},
        "ratio": total / (2 * sizes.head_dim * sizes.layers),
        "errors": {
            "layer_output": [each.layer_output for each in found],
            "layer_output_no_first": [each.layer_output_no_first for each in found],
            "cosine_no_first": [1 - each.cosine_no_first for each in found],
        },
        "perplexity": _perplexity(study, scored),
        "flop_per_token": {
            "value": float(sum(2 * k * sizes.head_dim * sizes.kv_heads for k, _ in pairs)),
            "how": FLOP_HOW,
        },
        "seed": seed,
        "command": command,
        "made_with": {
            "podscope": version("podscope"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    return Made(card, tensors)


def others_of(study: Study) -> list[dict[str, Any]]:
    """The other ways to a smaller cache, as a card lists them; of those that were scored."""
    whole = read(study.folder / "scores/full.json")["bytes_per_token"]
    return [
        {
            "name": name,
            "techniques": techniques,
            "ratio": cache.bytes_per_token(study.model.sizes, study.plan.length) / whole,
            "perplexity": _perplexity(study, f"other {name}"),
        }
        for name, (cache, techniques) in study.others().items()
        if (study.folder / f"scores/other {name}.json").exists()
    ]


def _perplexity(study: Study, name: str) -> dict[str, Any]:
    full, less = (read(study.folder / f"scores/{each}.json") for each in ("full", name))

    def domain(text: str) -> dict[str, Any]:
        return {
            "full": perplexity(full[text]),
            "compressed": perplexity(less[text]),
            "text": text,
        }

    return {
        "in_domain": domain(study.plan.text),
        "out_of_domain": domain(study.plan.other),
        "windows": {"count": study.plan.scored, "tokens": study.plan.length},
    }
