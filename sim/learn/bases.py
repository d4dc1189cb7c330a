"""Orthonormal bases of a layer's keys and values, what they lose, and those that an SVD gives.

Keys share a basis in a layer; values have one a KV head. The cache keeps K P and V P, the keys
before RoPE. Baselines: EigenAttention's Llama code takes the SVD of K alone, its paper that of K
and Q together (the stronger of the two). Unlike that code, no samples are averaged before the SVD.
Source: arXiv 2601.21686; github.com/UtkarshSaxena1/EigenAttn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sim.learn.decoder import Cache, Decoder, Sizes


class Bases(NamedTuple):
    """Columns are orthonormal."""

    keys: Tensor  # [d, r_K]
    values: Tensor  # [kv heads, d, r_V]

    @property
    def ranks(self) -> tuple[int, int]:
        """(r_K, r_V)."""
        return self.keys.shape[1], self.values.shape[2]

    def off(self) -> float:
        """Largest entry of |P'P - I|."""
        return max(
            float((p.mT @ p - torch.eye(p.shape[-1])).abs().max()) for p in (self.keys, self.values)
        )


class LowRank(Cache):
    """Keys and values as their projections on the bases of each layer."""

    def __init__(self, bases: dict[int, Bases] | list[Bases]) -> None:
        self.bases = bases if isinstance(bases, dict) else dict(enumerate(bases))

    def keys(self, layer: int, keys: Tensor) -> Tensor:
        """Projected and back."""
        p = self.bases[layer].keys
        return (keys @ p) @ p.mT

    def values(self, layer: int, values: Tensor) -> Tensor:
        """Projected and back."""
        p = self.bases[layer].values
        return (values @ p) @ p.mT

    def bytes_per_token(self, sizes: Sizes, context: int) -> float:
        """Of r_K + r_V numbers a KV head."""
        return 2.0 * sizes.kv_heads * sum(sum(each.ranks) for each in self.bases.values())


class Moments(NamedTuple):
    """Second moments of a layer's keys, queries, values, in float64; the SVD's bases follow."""

    keys: Tensor  # [d, d], over all KV heads
    queries: Tensor  # [d, d], over all heads
    values: Tensor  # [kv heads, d, d]


def moments(model: Decoder, at: int, x: Tensor) -> Moments:
    """Of a layer's inputs [B, T, hidden], before RoPE."""
    q, k, v = model.projected(at, x)

    def gram(rows: Tensor) -> Tensor:
        rows = rows.double()
        return rows.mT @ rows

    per_head = torch.stack([gram(v[:, head].flatten(0, 1)) for head in range(v.shape[1])])
    return Moments(gram(k.flatten(0, 2)), gram(q.flatten(0, 2)), per_head)


def _leading(moment: Tensor) -> Tensor:
    """Eigenvectors, the one of the largest eigenvalue first."""
    return torch.linalg.eigh(moment).eigenvectors.flip(-1).float()


def svd(of: Moments, r_k: int, r_v: int) -> Bases:
    """EigenAttention's Llama code: keys from K alone."""
    return Bases(_leading(of.keys)[:, :r_k], _leading(of.values)[..., :r_v])


def eigen_kq(of: Moments, r_k: int, r_v: int) -> Bases:
    """EigenAttention's paper: keys from K and Q."""
    return Bases(_leading(of.keys + of.queries)[:, :r_k], _leading(of.values)[..., :r_v])


def random_bases(of: Moments, r_k: int, r_v: int, seed: int = 0) -> Bases:
    """Orthonormal, whatever the data."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: torch.Size, r: int) -> Tensor:
        return torch.linalg.qr(torch.randn(shape, generator=generator)).Q[..., :r]

    return Bases(drawn(of.keys.shape, r_k), drawn(of.values.shape, r_v))


def cut_or_grown(bases: Bases, of: Moments, r_k: int, r_v: int) -> Bases:
    """The bases at other ranks: of fewer, the directions that hold most; of more, the leading ones
    of what they leave out."""
    return Bases(
        _resized(bases.keys, of.keys + of.queries, r_k), _resized(bases.values, of.values, r_v)
    )


def _resized(p: Tensor, moment: Tensor, rank: int) -> Tensor:
    if rank == p.shape[-1]:
        return p
    wide = p.double()
    if rank < p.shape[-1]:
        turned = torch.linalg.eigh(wide.mT @ moment @ wide).eigenvectors.flip(-1)
        return (wide @ turned[..., :rank]).float()
    rest = torch.eye(p.shape[-2], dtype=torch.float64) - wide @ wide.mT
    more = torch.linalg.eigh(rest @ moment @ rest).eigenvectors.flip(-1)
    grown = torch.cat((wide, more[..., : rank - p.shape[-1]]), -1)
    return torch.linalg.qr(grown).Q.float()


class Losses(NamedTuple):
    """What a layer loses; relative errors are Frobenius norms over the uncompressed ones'."""

    layer_output: float
    layer_output_no_first: float  # without the first token of each window
    cosine_no_first: float  # mean over tokens of 1 - cosine of the layer's output
    attention_no_first: float
    keys: float  # without the first token, as V's
    values: float


def losses(model: Decoder, at: int, x: Tensor, y: Tensor, bases: Bases) -> Losses:
    """Of a layer whose input [B, T, hidden] is uncompressed, and whose own output is y."""
    cache = LowRank({at: bases})
    sums = torch.zeros(5, 2, dtype=torch.float64)
    cosines = 0.0
    for part, want in zip(x.split(2), y.split(2)):
        q, k, v = model.projected(at, part)
        q = model.turn(q)
        k2, v2 = cache.keys(at, k), cache.values(at, v)
        whole = cache.attend(at, q, model.turn(k), v)
        less = cache.attend(at, q, model.turn(k2), v2)
        got = model.attended(at, part, less)
        pairs = [
            (got, want),
            (got[:, 1:], want[:, 1:]),
            (less[:, :, 1:], whole[:, :, 1:]),
            (k2[:, :, 1:], k[:, :, 1:]),
            (v2[:, :, 1:], v[:, :, 1:]),
        ]
        for i, (a, b) in enumerate(pairs):
            sums[i] += torch.stack(((a - b).double().square().sum(), b.double().square().sum()))
        cosines += float(
            (1 - torch.cosine_similarity(got[:, 1:].double(), want[:, 1:].double(), -1)).sum()
        )
    all_, rest, attention, keys, values = (sums[:, 0] / sums[:, 1]).sqrt().tolist()
    count = x.shape[0] * (x.shape[1] - 1)
    return Losses(all_, rest, cosines / count, attention, keys, values)
