"""How well a layer fills one systolic array, as arithmetic on whatever its sizes are: numbers,
NumPy arrays, or tensors that carry gradients.

A layer is products X[m, n] W[n, k]. What stays in the cells is folded onto rows x cols of them, one
fold after the other; the rest streams by, a step a cycle. Not modelled: fill, drain, loading and
memory, so no simulated time is shorter. Normalisation, activation, pooling, identity take no time.
Source: U-Boost NAS (arXiv 2203.12412). Sizes by kind of layer: `area` is height x width of the
kernel, `positions` those of the output in the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.pod_array import PodArray

Number = Any  # a number, an array or a tensor; of several they broadcast
Ceiling = Callable[[Number], Number]

BYTES_AN_ELEMENT = 2  # of the roofline: the paper's
# Of the smooth ceiling, the paper's: steepness, height before the step, and its exponent.
STEEPNESS, BEFORE, EXPONENT = 20.0, 0.2, 2.0
_NEAR = 3  # steps farther away are 1 or 0 to 1e-25


class Product(NamedTuple):
    """X[m, n] W[n, k], `copies` of it one after the other."""

    m: Number
    n: Number
    k: Number
    area: int = 1  # so many elements of X are one of the image
    copies: Number = 1
    # n and k are no numbers of channels: their folds are counted, however channels are searched
    fixed: bool = False


Layer = tuple[Product, ...]


def conv(area: int, positions: int, channels: Number, filters: Number) -> Layer:
    """A convolution by im2col.  Dilation moves the taps of a kernel and changes no product."""
    return (Product(positions, area * channels, filters, area),)


def depthwise(area: int, positions: int, channels: Number, filters: Number = None) -> Layer:
    """A kernel for each channel, a product of one column each; `filters` are its channels."""
    return (Product(positions, area, 1, area, channels, fixed=True),)


def separable(area: int, positions: int, channels: Number, filters: Number) -> Layer:
    """Depthwise, then a 1 x 1 convolution."""
    return depthwise(area, positions, channels) + conv(1, positions, channels, filters)


def dense(rows: int, channels: Number, units: Number) -> Layer:
    """A fully connected layer; `rows` are the batch."""
    return conv(1, rows, channels, units)


LAYERS: dict[str, Callable[[int, int, Number, Number], Layer]] = {
    "conv": conv,
    "dilated": conv,
    "depthwise": depthwise,
    "separable": separable,
}


def smooth_ceil(x: Number, xp: ModuleType = np) -> Number:
    """A differentiable ceiling of x >= 0: a sum of generalised logistic steps, one a whole number.

    Steps are late by 0.125: a size just above a multiple looks better than it is, 0.909 of an array
    of 128 used by 136 channels, where 0.531 is. Below 1 it is no bound: 0.169 at 0.0625. `xp` is
    the module of x, which has floor, clip and exp. The paper adds up 300 steps; here those far
    below x count as 1 and those far above as 0, so that it never saturates.
    """
    first = xp.clip(xp.floor(x) - (_NEAR - 1), 0, None)
    # farther below, the exponential or its gradient would overflow in single precision
    steps = (xp.clip(x - first - i, -_NEAR, None) for i in range(2 * _NEAR))
    return first + sum((1 + xp.exp(-STEEPNESS * step) / BEFORE) ** -EXPONENT for step in steps)


def macs(layer: Layer) -> Number:
    """Multiply-accumulates."""
    return sum(each.m * each.n * each.k * each.copies for each in layer)


def cycles(layer: Layer, array: PodArray, ceil: Ceiling = np.ceil) -> Number:
    """Cycles in which the layer streams by; `ceil` makes them differentiable.

    ValueError if the array has several pods: which of them works on what is a schedule.
    """
    flow = _one(array)
    total: Number = 0
    for each in layer:
        sizes = dict(zip((flow.m, flow.n, flow.k), each[:3]))
        up = np.ceil if each.fixed else ceil
        folds = up(sizes["rows"] / array.rows) * up(sizes["cols"] / array.cols)
        total = total + each.copies * folds * sizes["partition"]
    return total


def utilisation(layer: Layer, array: PodArray, ceil: Ceiling = np.ceil) -> Number:
    """Multiply-accumulates over cells and cycles: 0 to 1, and above with a ceiling that is none."""
    return macs(layer) / (array.rows * array.cols * cycles(layer, array, ceil))


def flops_cycles(layer: Layer, array: PodArray) -> Number:
    """Cycles if all cells always worked: the baseline that knows operations alone."""
    _one(array)
    return macs(layer) / (array.rows * array.cols)


def memory_cycles(layer: Layer, array: PodArray) -> Number:
    """Cycles in which memory moves the image, weights and result of each product, once."""
    elements = sum(
        each.copies * (each.m * each.n / each.area + each.n * each.k + each.m * each.k)
        for each in layer
    )
    return BYTES_AN_ELEMENT * elements * array.clock_hz / array.dram_bytes_per_s


def roofline_cycles(layer: Layer, array: PodArray, xp: ModuleType = np) -> Number:
    """The longer of the two: the baseline that knows memory as well; `xp` has maximum."""
    return xp.maximum(memory_cycles(layer, array), flops_cycles(layer, array))


def _one(array: PodArray) -> Any:
    if array.pods != 1:
        raise ValueError(f"utilisation is of one array, not of {array.pods} pods; simulate those")
    return DATAFLOWS[array.dataflow]
