"""A run as cards: the fields of `kv_low_rank` and the bases, ready to be checked and written."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sim.learn.allocation import Ranks
from sim.learn.bases import losses
from sim.learn.perplexity import perplexity
from sim.learn.study import POLICIES, Study, read

FLOP_HOW = (
    "2 r_K head_dim of each KV head and layer: the cached keys are rebuilt before RoPE; their "
    "rotation is left out, and so is what attention saves at values of rank r_V"
)
_METHODS = {"learned": "stiefel"}
_LABELS = {"learned": "", "eigen_kq": "EigenAttention, ", "svd": "SVD of K, ", "random": "random, "}


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
        "method": _METHODS.get(way, way),
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
    """Ways to a smaller cache, as a card lists them; of those that were scored."""
    found = [
        {"name": name, "techniques": techniques, "score": f"other {name}"}
        for name, (_, techniques) in study.others().items()
    ]
    return [
        {key: value for key, value in each.items() if key != "score"}
        | {
            "ratio": _read(study, each["score"])["bytes_per_token"]
            / _read(study, "full")["bytes_per_token"],
            "perplexity": _perplexity(study, each["score"]),
        }
        for each in [*_low_ranks(study), *found]
        if (study.folder / f"scores/{each['score']}.json").exists()
    ]


def _low_ranks(study: Study) -> Iterator[dict[str, Any]]:
    """A low rank alone, equal in all layers by the bases of each way, and learned by layer."""
    d, seed = study.model.sizes.head_dim, study.plan.passes[0][0]
    ranks = sorted({rank for at, some in study.plan.passes if at == seed for rank in some})
    for way, label in _LABELS.items():
        for rank in reversed(ranks):
            yield {
                "name": f"{label}rank {rank}",
                "techniques": [{"kv_low_rank": {"ratio": rank / d}}],
                "method": _METHODS.get(way, way),
                "score": f"{way}-{rank}-seed{seed}",
            }
    for ratio in study.plan.budgets:
        yield {
            "name": f"ranks by layer, ratio {ratio:g}",
            "techniques": [{"kv_low_rank": {"ratio": ratio}}],
            "method": _METHODS["learned"],
            "score": study.allocation(POLICIES[-1], False, ratio),
        }


def _read(study: Study, score: str) -> Any:
    return read(study.folder / f"scores/{score}.json")


def _perplexity(study: Study, name: str) -> dict[str, Any]:
    full, less = _read(study, "full"), _read(study, name)

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
