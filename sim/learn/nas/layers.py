"""Convolutions of a searched network, whose tensors can be given other numbers of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.dnn.found import Operation

Fill = Callable[[Tensor], None]


def refit(
    parameter: nn.Parameter,
    dim: int,
    size: int,
    fill: Fill,
    optimisers: Iterable[torch.optim.Optimizer] = (),
) -> None:
    """A parameter, and what optimisers keep of it, to `size` along `dim`.

    What is kept stays as it is. `fill` writes the new part of the parameter; that of an optimiser's
    state is zero, as at a start.
    """
    if parameter.shape[dim] == size:
        return
    parameter.grad = None
    old = parameter.data
    parameter.data = resized(old, dim, size, fill)
    for optimiser in optimisers:
        state = optimiser.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[name] = resized(value, dim, size, lambda new: None)


def resized(old: Tensor, dim: int, size: int, fill: Fill) -> Tensor:
    """`old` cut or continued along `dim`; `fill` writes what is new, which is zero before."""
    kept = min(size, old.shape[dim])
    new = old.new_zeros([size if at == dim else n for at, n in enumerate(old.shape)])
    new.narrow(dim, 0, kept).copy_(old.narrow(dim, 0, kept))
    if size > kept:
        fill(new.narrow(dim, kept, size - kept))
    return new


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU, and then the mask of a searched width.

    [B, channels, H, W] to [B, filters, H / stride, W / stride]. The mask stands behind the norm,
    which would undo it: what is masked is zero, so that a network that is cut to its likeliest
    widths computes the same. (The authors' stands before the norm.)
    """

    def __init__(self, operation: Operation, channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.operation, self.stride = operation, stride
        side = operation.side
        if operation.kind == "separable":
            self.depth: nn.Parameter | None = nn.Parameter(torch.empty(channels, 1, side, side))
            side = 1
        else:
            self.depth = None
        self.weight = nn.Parameter(torch.empty(filters, channels, side, side))
        self.scale = nn.Parameter(torch.ones(filters))
        self.shift = nn.Parameter(torch.zeros(filters))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(filters))
        self.register_buffer("variance", torch.ones(filters))
        if self.depth is not None:
            _he(self.depth.data, operation.area)
        _he(self.weight.data, channels * side**2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See the class."""
        return _masked(functional.relu(self.before(x)), mask)

    def before(self, x: Tensor) -> Tensor:
        """Up to the norm: what is computed for each channel, whatever is masked."""
        op, pad = self.operation, self.operation.side // 2
        by = 2 if op.kind == "dilated" else 1
        if self.depth is not None:
            x = functional.conv2d(x, self.depth, None, 1, pad, 1, x.shape[1])
            pad = 0
        y = functional.conv2d(x, self.weight, None, self.stride, pad * by, by)
        return functional.batch_norm(
            y, self.mean, self.variance, self.scale, self.shift, self.training
        )

    def fit(
        self, channels: int, filters: int, optimisers: Iterable[torch.optim.Optimizer] = ()
    ) -> None:
        """So many channels in and out: weights, norm and optimisers follow, new weights as at the
        start."""
        if self.depth is not None:
            refit(self.depth, 0, channels, partial(_he, inputs=self.operation.area), optimisers)
        start = partial(_he, inputs=channels * self.weight.shape[2] ** 2)
        refit(self.weight, 1, channels, start, optimisers)
        refit(self.weight, 0, filters, start, optimisers)
        refit(self.scale, 0, filters, _ones, optimisers)
        refit(self.shift, 0, filters, lambda new: None, optimisers)
        if len(self.mean) != filters:
            self.mean = resized(self.mean, 0, filters, lambda new: None)
            self.variance = resized(self.variance, 0, filters, _ones)


def _he(new: Tensor, inputs: int) -> None:
    """As He et al. (2015) begin."""
    new.normal_(0, math.sqrt(2 / inputs))


def _ones(new: Tensor) -> None:
    new.fill_(1)


def _masked(y: Tensor, mask: Tensor | None) -> Tensor:
    return y if mask is None else y * mask[:, None, None]


def added(x: Tensor | None, y: Tensor) -> Tensor:
    """The sum of feature maps; where one has fewer channels, its further ones are zero."""
    if x is None:
        return y
    wide = max(x.shape[1], y.shape[1])
    if x.shape[1] != y.shape[1]:
        x, y = (functional.pad(t, (0, 0, 0, 0, 0, wide - t.shape[1])) for t in (x, y))
    return x + y
