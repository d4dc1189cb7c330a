"""Decode of multi-head latent attention in NumPy: naive, absorb, and both merged exactly
(TyphoonMLA, arXiv 2509.21081).

Shapes: B queries (one a sequence), H heads, L entries of a context; D_l the latent rank, D_r of the
rotated key that all heads share, D_n the rest of a query, D_v a value. A query is [q_nope, q_rope],
D_qk = D_n + D_r wide. The cache of an entry is a latent (D_l) and a rotated key (D_r); keys and
values of head h are latent @ w_k[h].T and latent @ w_v[h].

    w_k [H, D_n, D_l]    w_v [H, D_l, D_v]

An attention over a part of the context gives its result and the log of the sum of exponentials
(LSE) of its scores; parts merge by them. float16 is added up in float32 and handed on in float16,
as kernels do; NumPy has no bfloat16. Not modelled: masks (a query
sees all of its context), dropout, block-sparse caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Partial(NamedTuple):
    """Attention over a part of the context: `out` [B, H, D] and `lse` [B, H]; of an empty part 0
    and -inf."""

    out: Array
    lse: Array


def expand(latent: Array, rope: Array, w_k: Array, w_v: Array) -> tuple[Array, Array]:
    """Keys [L, H, D_qk] and values [L, H, D_v] of entries: `latent` [L, D_l], `rope` [L, D_r]."""
    wide = _wide(latent)
    keys = np.einsum("ld,hnd->lhn", wide, _wide(w_k), optimize=True).astype(latent.dtype)
    values = np.einsum("ld,hdv->lhv", wide, _wide(w_v), optimize=True).astype(latent.dtype)
    shared = np.broadcast_to(rope[:, None, :], (*keys.shape[:2], rope.shape[1]))
    return np.concatenate([keys, shared], axis=2), values


def naive(q: Array, keys: Array, values: Array, scale: float | None = None) -> Partial:
    """All queries [B, H, D_qk] on one context of `keys` [L, H, D_qk] and `values` [L, H, D_v];
    `scale` of the scores, by default 1 / sqrt(D_qk)."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    # [H, B, L]
    scores = np.matmul(_wide(q).transpose(1, 0, 2), _wide(keys).transpose(1, 2, 0)) * scale
    return _weighted(scores, _wide(values).transpose(1, 0, 2), q.dtype)


def absorb(
    q: Array,
    latent: Array,
    rope: Array,
    begin: Array,
    w_k: Array,
    w_v: Array,
    scale: float | None = None,
) -> Partial:
    """Each query [B, H, D_qk] on a context of its own in the latent cache: entries begin[b] to
    begin[b + 1] of `latent` [N, D_l] and `rope` [N, D_r]; a context may be empty.

    ValueError if `begin` does not have B + 1 numbers that rise from 0 to N.
    """
    batch, heads, width = q.shape
    if (
        len(begin) != batch + 1
        or begin[0] != 0
        or begin[-1] != len(latent)
        or (np.diff(begin) < 0).any()
    ):
        raise ValueError(
            f"begin: {batch + 1} numbers are due, rising from 0 to {len(latent)}, not {begin}"
        )
    scale = width**-0.5 if scale is None else scale
    q_nope, q_rope = q[:, :, : w_k.shape[1]], q[:, :, w_k.shape[1] :]
    inner = np.einsum("bhn,hnd->bhd", _wide(q_nope), _wide(w_k), optimize=True).astype(q.dtype)
    absorbed = np.concatenate([_wide(inner), _wide(q_rope)], axis=2)  # [B, H, D_l + D_r]
    cache = np.concatenate([_wide(latent), _wide(rope)], axis=1)
    context = np.zeros((batch, heads, latent.shape[1]), absorbed.dtype)
    lse = np.full((batch, heads), -np.inf, absorbed.dtype)
    for b, (first, last) in enumerate(pairwise(begin)):
        if last > first:
            # [H, L]: heads are queries on one context.
            scores = absorbed[b] @ cache[first:last].T * scale
            part = _weighted(scores[None], _wide(latent[first:last])[None], q.dtype)
            context[b], lse[b] = part.out[:, 0], part.lse[:, 0]
    context = context.astype(q.dtype)
    out = np.einsum("bhd,hdv->bhv", _wide(context), _wide(w_v), optimize=True).astype(q.dtype)
    return Partial(out, lse)


def mixed(
    q: Array,
    prefix: tuple[Array, Array],
    latent: Array,
    rope: Array,
    begin: Array,
    w_k: Array,
    w_v: Array,
    scale: float | None = None,
) -> Array:
    """TyphoonMLA: naive on the expanded `prefix` (keys, values) that all share, absorb on each
    one's own, merged; the result [B, H, D_v].

    ValueError if a query has nothing to attend to.
    """
    merged = merge([naive(q, *prefix, scale), absorb(q, latent, rope, begin, w_k, w_v, scale)])
    if np.isneginf(merged.lse).any():
        raise ValueError(
            f"query {int(np.isneginf(merged.lse).any(axis=1).argmax())} has nothing to attend to"
        )
    return merged.out


def merge(parts: Sequence[Partial]) -> Partial:
    """Parts of one attention as a whole: finite whatever the scores, and an empty part changes
    nothing."""
    share, lse = _shares([part.lse for part in parts])
    out = sum(each[..., None] * _wide(part.out) for each, part in zip(share, parts))
    return Partial(np.asarray(out).astype(parts[0].out.dtype), lse)


def _wide(values: Array) -> Array:
    """As it is added up."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _weighted(scores: Array, values: Array, dtype: np.dtype) -> Partial:
    """Softmax of scores [H, B, L] over `values` [H or 1, L, D]."""
    if scores.shape[2] == 0:
        heads, batch, _ = scores.shape
        none = np.full((batch, heads), -np.inf, scores.dtype)
        return Partial(np.zeros((batch, heads, values.shape[2]), dtype), none)
    most = scores.max(axis=2, keepdims=True)
    weights = np.exp(scores - most)
    total = weights.sum(axis=2)
    # As kernels do, what is added up is the weights in the format of the values.
    out = np.matmul(weights.astype(dtype).astype(weights.dtype), values) / total[..., None]
    return Partial(out.transpose(1, 0, 2).astype(dtype), (most[..., 0] + np.log(total)).T)


def _shares(lses: Sequence[Array]) -> tuple[list[Array], Array]:
    """Weights of the parts, which add up to 1 (all 0 where every part is empty), and the LSE of the
    whole."""
    most = np.max(lses, axis=0)
    base = np.where(np.isneginf(most), 0.0, most)
    weights = [np.exp(lse - base) for lse in lses]
    total = np.asarray(sum(weights))
    with np.errstate(divide="ignore"):
        lse = base + np.log(total)
    return [weight / np.where(total > 0.0, total, 1.0) for weight in weights], lse
