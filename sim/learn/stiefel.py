"""StiefAttention: bases of keys and values learned from what a decoder layer puts out.

The objective is the layer's output against the uncompressed layer's, on uncompressed inputs, as a
share of its norm. The first token of each window is left out: its activations are so large that the
share over all tokens would see it alone. Bases are orthonormal by construction, P = QR(A), start at
the SVD of K and Q, and are learned by Adam with a rise and a cosine of the rate. The network from
the statistics of K and V to A that the paper has is `network=True`.
Source: arXiv 2601.21686, v1 and v2; what it leaves open stands in docs/stief.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sim.learn.bases import Bases, Moments, eigen_kq
from sim.learn.decoder import Decoder, causal


class Recipe(NamedTuple):
    """How bases are learned."""

    steps: int = 60
    warm: int = 8  # steps over which the rate rises; without, the first throw away the SVD's start
    windows: int = 2  # of a step
    rate: float = 2e-2
    network: bool = False
    bf16: bool = False  # matrix products of the search in bfloat16; bases and what is measured not
    seed: int = 0


class Learned(NamedTuple):
    """The bases after the last step, or the last good ones, and how it went."""

    bases: Bases
    curve: list[float]  # loss of each step
    stopped: str  # why before the last step; empty: it was not
    cpu_s: float


DEFAULT = Recipe()
Told = Callable[[int, float], None]  # step, loss


class _Direct(nn.Module):
    """A itself."""

    def __init__(self, start: Bases) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(p.clone()) for p in start)

    def forward(self) -> Bases:
        return Bases(_orthonormal(self.keys), _orthonormal(self.values))


class _Network(nn.Module):
    """Mean and variance of K or V -> three hidden layers -> A, to which the start is added.

    One network for keys, one for values, which all KV heads share.
    """

    HIDDEN = 128

    def __init__(self, start: Bases, seen: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.start, self.seen = start, seen
        self.nets = nn.ModuleList(
            self._net(p.shape[-2], p.shape[-2] * p.shape[-1]) for p in (start.keys, start.values)
        )

    def _net(self, d: int, out: int) -> nn.Sequential:
        h = self.HIDDEN
        hidden = [nn.Linear(2 * d, h), nn.GELU(), nn.Linear(h, h), nn.GELU(), nn.Linear(h, h)]
        last = nn.Linear(h, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*hidden, nn.GELU(), last)

    def forward(self) -> Bases:
        k, v = (
            _orthonormal(p + net(seen).view(p.shape))
            for p, net, seen in zip(self.start, self.nets, self.seen)
        )
        return Bases(k, v)


def _orthonormal(a: Tensor) -> Tensor:
    return torch.linalg.qr(a).Q


@torch.enable_grad()
def learn(
    model: Decoder,
    at: int,
    x: Tensor,
    of: Moments,
    ranks: tuple[int, int],
    recipe: Recipe = DEFAULT,
    told: Told = lambda step, loss: None,
) -> Learned:
    """Bases of one layer from its inputs x [B, T, hidden]; `of` are the moments of the same.

    Stops at a loss that is not finite, with the last good bases. ValueError: ranks out of range.
    """
    check_ranks(ranks, model.sizes.head_dim)
    began = time.process_time()
    start = eigen_kq(of, *ranks)
    with torch.no_grad():
        q, k, v = (torch.cat(p) for p in zip(*(model.projected(at, each) for each in x.split(2))))
        q = model.turn(q)
        y = torch.cat([_output(model, at, *part) for part in _split(x, q, k, v)])
    torch.manual_seed(recipe.seed * 1_000 + at)
    made: _Direct | _Network = _Network(start, _seen(k, v)) if recipe.network else _Direct(start)
    optimiser = torch.optim.Adam(made.parameters(), lr=recipe.rate * (0.1 if recipe.network else 1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_rate, recipe))
    order = torch.cat([torch.randperm(len(x)) for _ in range(_epochs(recipe, len(x)))])
    curve: list[float] = []
    good, stopped = start, ""
    for step in range(recipe.steps):
        rows = order[step * recipe.windows :][: recipe.windows]
        bases = made()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            kept_k = (k[rows] @ bases.keys) @ bases.keys.mT
            kept_v = (v[rows] @ bases.values) @ bases.values.mT
            got = _output(model, at, x[rows], q[rows], kept_k, kept_v)
        want = y[rows, 1:]
        loss = (got[:, 1:] - want).square().sum() / want.square().sum()
        value = float(loss.detach())
        if not torch.isfinite(loss):
            stopped = f"the loss became {value} at step {step}; kept are the bases before it"
            break
        curve.append(value)
        good = Bases(*(p.detach() for p in bases))
        told(step, value)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    else:
        with torch.no_grad():
            good = made()
    good = Bases(*(p.detach().clone() for p in good))
    return Learned(good, curve, stopped, time.process_time() - began)


def check_ranks(ranks: tuple[int, int], head_dim: int) -> None:
    """ValueError: a rank below 1 or above the head's dimension."""
    for name, rank in zip(("K", "V"), ranks):
        if not 1 <= rank <= head_dim:
            raise ValueError(f"rank {rank} of {name} is not within 1 and head_dim = {head_dim}")


def _rate(recipe: Recipe, step: int) -> float:
    """Share of the rate: a rise, and a cosine over all steps."""
    rise = min((step + 1) / recipe.warm, 1.0) if recipe.warm else 1.0
    return rise * (1 + math.cos(math.pi * step / recipe.steps)) / 2


def _epochs(recipe: Recipe, windows: int) -> int:
    return -(-recipe.steps * recipe.windows // windows)


def _split(*tensors: Tensor) -> zip:
    return zip(*(each.split(2) for each in tensors))


def _output(model: Decoder, at: int, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The layer's output; q after RoPE, k before it."""
    return model.attended(at, x, causal(q, model.turn(k), v))


def _seen(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) of K [2d] over all tokens and heads, of V [kv heads, 2d] a head."""
    rows, heads = k.flatten(0, 2), v.transpose(0, 1).flatten(1, 2)
    return (
        torch.cat((rows.mean(0), rows.var(0))),
        torch.cat((heads.mean(1), heads.var(1)), -1),
    )
