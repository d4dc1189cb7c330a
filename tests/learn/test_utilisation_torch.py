"""The utilisation model on tensors: the values of NumPy, and their gradients."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from sim.systolic.lookup import ONE_ARRAY
from sim.systolic.utilisation import (
    LAYERS,
    cycles,
    flops_cycles,
    roofline_cycles,
    smooth_ceil,
    utilisation,
)

torch = pytest.importorskip("torch", reason="needs the extra learn")
SMOOTH = partial(smooth_ceil, xp=torch)
WIDTHS = 64.0, 101.3, 128.0, 136.0, 200.7, 280.0


def pairs(of=np.array):
    grid = np.array([(c, f) for c in WIDTHS for f in WIDTHS])
    return of(grid[:, 0]), of(grid[:, 1])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("area", [1, 9, 25])
def test_values_are_those_of_numpy(kind, area):
    for ours, theirs in (
        (partial(cycles, array=ONE_ARRAY), partial(cycles, array=ONE_ARRAY, ceil=torch.ceil)),
        (
            partial(cycles, array=ONE_ARRAY, ceil=smooth_ceil),
            partial(cycles, array=ONE_ARRAY, ceil=SMOOTH),
        ),
        (
            partial(utilisation, array=ONE_ARRAY, ceil=smooth_ceil),
            partial(utilisation, array=ONE_ARRAY, ceil=SMOOTH),
        ),
        (partial(flops_cycles, array=ONE_ARRAY), partial(flops_cycles, array=ONE_ARRAY)),
        (
            partial(roofline_cycles, array=ONE_ARRAY),
            partial(roofline_cycles, array=ONE_ARRAY, xp=torch),
        ),
    ):
        known = ours(LAYERS[kind](area, 256, *pairs()))
        for dtype in (torch.float64, torch.float32):
            made = theirs(LAYERS[kind](area, 256, *pairs(partial(torch.tensor, dtype=dtype))))
            off = np.abs(np.asarray(made) / known - 1).max()
            assert off <= (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_finite_differences(kind):
    c, f = pairs(partial(torch.tensor, requires_grad=True))

    def of(quantity):
        return lambda c, f: quantity(LAYERS[kind](9, 256, c, f), ONE_ARRAY, SMOOTH)

    sizes = (c,) if kind == "depthwise" else (c, f)
    known = torch.tensor(pairs()[1])
    assert torch.autograd.gradcheck(
        lambda c, f=known: of(cycles)(c, f), sizes, eps=1e-4, rtol=1e-4, atol=1e-6
    )
    if kind != "depthwise":  # whose utilisation is one number, whatever its channels
        assert torch.autograd.gradcheck(of(utilisation), sizes, eps=1e-4, rtol=1e-4, atol=1e-7)


def test_gradients_are_finite_far_above_and_below_a_step():
    x = torch.tensor([0.0, 1e-4, 0.999, 1.5, 299.0, 5000.0], requires_grad=True)
    SMOOTH(x).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad >= 0).all()
