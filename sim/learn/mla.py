"""`sim.learn.mla_numpy` in torch: the same shapes, differentiable, and on a CUDA GPU compiled.

Suffixes are padded to the longest: [B, L] with `lengths` [B], for a GPU has no ragged loop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def naive(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(out [B, H, D_v], lse [B, H]) of queries [B, H, D_qk] on one context of keys [L, H, D_qk],
    values [L, H, D_v]."""
    scores = _wide(torch.einsum("bhd,lhd->bhl", q, keys)) * scale
    return _weighted(
        scores, lambda weights: torch.einsum("bhl,lhv->bhv", weights.to(q.dtype), values), q
    )


def absorb(
    q: Tensor, latent: Tensor, rope: Tensor, lengths: Tensor, w_k: Tensor, w_v: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The same on contexts of each query's own in the latent cache: latent [B, L, D_l], rope [B, L,
    D_r], of which the first lengths[b] count; w_k [H, D_n, D_l], w_v [H, D_l, D_v]."""
    nope = w_k.shape[1]
    inner = torch.einsum("bhn,hnd->bhd", q[..., :nope], w_k)
    scores = torch.einsum("bhd,bld->bhl", inner, latent) + torch.einsum(
        "bhr,blr->bhl", q[..., nope:], rope
    )
    absent = torch.arange(latent.shape[1], device=q.device)[None, :] >= lengths[:, None]
    scores = (_wide(scores) * scale).masked_fill(absent[:, None, :], float("-inf"))
    out, lse = _weighted(
        scores, lambda weights: torch.einsum("bhl,bld->bhd", weights.to(q.dtype), latent), q
    )
    return torch.einsum("bhd,hdv->bhv", out, w_v), lse


def merge(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Parts of one attention as a whole; finite, and so are its gradients, whatever the scores."""
    lses = torch.stack([lse for _, lse in parts])
    most = lses.amax(dim=0)
    base = torch.where(torch.isneginf(most), torch.zeros_like(most), most).detach()
    weights = torch.exp(lses - base)
    total = weights.sum(dim=0)
    share = weights / torch.where(total > 0, total, torch.ones_like(total))
    outs = torch.stack([out for out, _ in parts])
    return (share[..., None] * _wide(outs)).sum(dim=0).to(outs.dtype), base + torch.log(total)


def mixed(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    latent: Tensor,
    rope: Tensor,
    lengths: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    scale: float,
) -> Tensor:
    """TyphoonMLA: naive on the expanded prefix that all share, absorb on each one's own, merged:
    [B, H, D_v]."""
    return merge(
        [naive(q, keys, values, scale), absorb(q, latent, rope, lengths, w_k, w_v, scale)]
    )[0]


def _wide(values: Tensor) -> Tensor:
    """As it is added up."""
    return values if values.dtype == torch.float64 else values.float()


def _weighted(
    scores: Tensor, weigh: Callable[[Tensor], Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax of scores [B, H, L], weighed; an empty context gives 0 and -inf."""
    if scores.shape[2] == 0:
        return weigh(scores), torch.full(scores.shape[:2], float("-inf"), device=like.device)
    most = scores.amax(dim=2, keepdim=True)
    weights = torch.exp(scores - torch.where(torch.isneginf(most), torch.zeros_like(most), most))
    total = weights.sum(dim=2)
    some = torch.where(total > 0, total, torch.ones_like(total))
    return (weigh(weights) / some[..., None].to(like.dtype)), most[..., 0] + torch.log(some)
