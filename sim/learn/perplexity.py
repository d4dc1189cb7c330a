"""How well a model predicts a text, with its whole cache or a smaller one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as fn

from sim.learn.decoder import WHOLE, Cache, Decoder


@torch.no_grad()
def nats(model: Decoder, windows: Tensor, cache: Cache = WHOLE) -> list[float]:
    """Mean negative log-likelihood of each window's tokens [N, T] after its first, in nats."""
    found: list[float] = []
    for part in windows.split(2):
        logits = model(part, cache)
        for row, tokens in zip(logits, part):
            found.append(float(fn.cross_entropy(row[:-1], tokens[1:])))
    return found


def perplexity(found: Iterable[float]) -> float:
    """Of windows of one length."""
    values = list(found)
    return math.exp(sum(values) / len(values))
