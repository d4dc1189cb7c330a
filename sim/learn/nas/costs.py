"""What a machine says of layers while a network is searched: a row for each model of it.

All count one array, and give cycles and utilisation of blocks as tensors. U-Boost's has a gradient
in channels through its smooth ceiling; FLOPS and Roofline have one too, and see no array; Blackbox
is the array simulator at the nearest size, without a gradient. Source: U-Boost NAS (arXiv
2203.12412).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sim.dnn.found import Operation
from sim.systolic.lookup import simulated
from sim.systolic.pod_array import PodArray
from sim.systolic.utilisation import (
    LAYERS,
    Layer,
    cycles,
    flops_cycles,
    roofline_cycles,
    smooth_ceil,
    utilisation,
)
from sim.text.pick import pick

_GRID = 8  # Blackbox: sizes are looked up at every eighth of the array, as the paper's 16 of 128

Both = tuple[Tensor, Tensor]  # cycles and utilisation


class Block(NamedTuple):
    """A convolution on the machine; channels and filters may be tensors that carry gradients."""

    operation: Operation
    positions: int  # of the whole batch
    channels: Tensor | float
    filters: Tensor | float


def _uboost(layer: Layer, array: PodArray) -> Both:
    ceil = partial(smooth_ceil, xp=torch)
    return cycles(layer, array, ceil), utilisation(layer, array, ceil)


def _flops(layer: Layer, array: PodArray) -> Both:
    found = flops_cycles(layer, array)
    return found, torch.ones_like(found)


def _roofline(layer: Layer, array: PodArray) -> Both:
    found = roofline_cycles(layer, array, torch)
    return found, flops_cycles(layer, array) / found


SMOOTH: dict[str, Callable[[Layer, PodArray], Both]] = {
    "uboost": _uboost,
    "flops": _flops,
    "roofline": _roofline,
}
METHODS = (*SMOOTH, "blackbox")


def costs(method: str, blocks: Sequence[Block], array: PodArray, like: Tensor) -> Both:
    """Cycles and utilisation of each block, [blocks], of the type and device of `like`.

    ValueError for an unknown method.
    """
    pick(dict.fromkeys(METHODS), method, "model of the machine")
    if method == "blackbox":
        found = [_looked_up(block, array) for block in blocks]
        time, used = (like.new_tensor(each) for each in zip(*found))
        return time, used
    alike: dict[tuple[bool, int], list[int]] = {}  # blocks that are one expression
    for at, block in enumerate(blocks):
        op = block.operation
        alike.setdefault((op.kind == "separable", op.area), []).append(at)
    order, times, uses = [], [], []
    for (separable, area), group in alike.items():
        some = [blocks[at] for at in group]
        positions: Any = _stacked([block.positions for block in some], like)  # a column of them
        layer = LAYERS["separable" if separable else "conv"](
            area,
            positions,
            _stacked([block.channels for block in some], like),
            _stacked([block.filters for block in some], like),
        )
        time, used = SMOOTH[method](layer, array)
        order += group
        times.append(time)
        uses.append(used)
    back = torch.tensor(order).argsort()
    return torch.cat(times)[back], torch.cat(uses)[back]


def _stacked(values: Sequence[Tensor | float], like: Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(value).to(like) for value in values])


def _looked_up(block: Block, array: PodArray) -> tuple[float, float]:
    step = max(1, array.cols // _GRID)
    op = block.operation
    sizes = (
        max(1, round(float(torch.as_tensor(size).detach()) / step)) * step for size in block[2:]
    )
    return _simulated(op.kind, op.area, block.positions, *sizes, array)


@cache
def _simulated(
    kind: str, area: int, positions: int, channels: int, filters: int, array: PodArray
) -> tuple[float, float]:
    found = simulated(LAYERS[kind](area, positions, channels, filters), array=array)
    return float(found.cycles), found.utilisation
