"""Widths that grow and shrink while they are searched, and what a search needs of memory.

The published method (arXiv 2306.08021) is an abstract: channels are allocated as they are wanted,
the range not being fixed beforehand. The rule here is ours, its thresholds fitted on one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sim.learn.nas.choice import Width
from sim.learn.nas.network import Network


class Rule(NamedTuple):
    """Of each width, after each step of the decisions."""

    block: int = 2  # options that come or go at once
    grow: float = 0.02  # probability of the last option from which a block is allocated
    shrink: float = 1e-6  # of the last and the block before it, below which a block is freed
    rate: float = 0.5  # of the middles at first, in options a step; half a cosine to 0


def adapted(width: Width, rule: Rule) -> int:
    """How many options it is to have."""
    p = width.probabilities
    if float(p[-1]) > rule.grow:
        return width.count + rule.block
    if width.count > rule.block + 2 and float(p[-1 - rule.block :].sum()) < rule.shrink:
        return width.count - rule.block
    return width.count


def adapt(
    network: Network, rule: Rule, optimisers: Iterable[torch.optim.Optimizer]
) -> dict[str, int]:
    """All widths by the rule, and with them whatever depends on them; those that changed, and by
    how many channels."""
    changed = {}
    for name, width in network.widths.items():
        before = width.allocated
        if (count := adapted(width, rule)) != width.count:
            width.resize(count)
            changed[name] = width.allocated - before
    if changed:
        network.fit(optimisers)
    return changed


def saved_bytes(compute: Callable[[], Any], weights: Iterable[Tensor]) -> tuple[int, Any]:
    """Bytes of the tensors that a forward pass keeps for its gradient, without the weights, each
    storage once; and what it computes."""
    own = {each.untyped_storage().data_ptr() for each in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return sum(kept.values()), result
