"""Kernels of latent attention from measured layers: absorb by request, and TyphoonMLA.

A layer takes a fixed time, and then arithmetic and HBM traffic one after the other (`overlap` 0 on
the cards), as the benchmark of an Ascend 910B2 asks for: linear in the constants, so a fit is a
least squares of relative error, its rates at most the chip's. The one exception is the absorb
branch of TyphoonMLA, a kernel that waits for HBM: a token of a suffix costs as much with 64 heads
as with 128.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

# Of DeepSeek-V3 and Kimi K2: FLOP of a query-key pair and head, bytes in bf16.
_SOFTMAX = 5
ABSORB_FLOP, NAIVE_FLOP = 2 * (2 * 512 + 64) + _SOFTMAX, 2 * (192 + 128) + _SOFTMAX
LATENT_BYTES, EXPANDED_BYTES = 2 * (512 + 64), 2 * (192 + 128)
HEAD_FLOP = 2 * 2 * 128 * 512  # into the latent space and out of it, of a query and head


class Shape(NamedTuple):
    """One attention layer: `batch` requests with a shared prefix and a suffix of their own."""

    heads: int
    suffix: int
    batch: int
    prefix: int


class Fit(NamedTuple):
    """Constants of a layer, in seconds, FLOP/s and bytes/s; inf: no such cost is seen."""

    fixed_s: float
    absorb_flop_per_s: float
    absorb_bytes_per_s: float
    naive_flop_per_s: float = np.inf
    naive_bytes_per_s: float = np.inf
    head_flop_per_s: float = np.inf

    def seconds(self, shapes: Collection[Shape]) -> np.ndarray:
        """Time of TyphoonMLA's layer."""
        return _typhoon(shapes) @ _costs(self)

    def absorb_seconds(self, shapes: Collection[Shape]) -> np.ndarray:
        """Time of absorb on everything."""
        return _absorb(shapes) @ _costs(self)[:3]


class Peaks(NamedTuple):
    """Rates that no kernel exceeds."""

    flop_per_s: float
    bytes_per_s: float


def fit_absorb(
    shapes: Collection[Shape], seconds: np.ndarray, peaks: Peaks, told: bool = True
) -> Fit:
    """Absorb on everything, which reads the context of each request.

    With one number of heads FLOP and bytes go together and cannot be `told` apart: the HBM rate is
    then the peak.
    """
    least = [1 / rate for rate in peaks]
    return Fit(*_solved(_absorb(shapes), seconds, least, () if told else (2,)))


def fit_typhoon(shapes: Collection[Shape], seconds: np.ndarray, peaks: Peaks) -> Fit:
    """Naive on the prefix, absorb on the suffix, whose arithmetic hides behind its reads."""
    flop_s, byte_s = (1 / rate for rate in peaks)
    columns = np.delete(_typhoon(shapes), 1, axis=1)
    fixed_s, *rates = _solved(columns, seconds, [byte_s, flop_s, byte_s, flop_s])
    return Fit(fixed_s, np.inf, *rates)


def _absorb(shapes: Collection[Shape]) -> np.ndarray:
    heads, suffix, batch, prefix = np.array([*shapes], float).T
    pairs = batch * (prefix + suffix)
    return np.column_stack([np.ones(len(pairs)), pairs * heads * ABSORB_FLOP, pairs * LATENT_BYTES])


def _typhoon(shapes: Collection[Shape]) -> np.ndarray:
    heads, suffix, batch, prefix = np.array([*shapes], float).T
    return np.column_stack(
        [
            np.ones(len(batch)),
            batch * suffix * heads * ABSORB_FLOP,
            batch * suffix * LATENT_BYTES,
            batch * prefix * heads * NAIVE_FLOP,
            prefix * heads * EXPANDED_BYTES,
            batch * heads * HEAD_FLOP,
        ]
    )


def _costs(fit: Fit) -> np.ndarray:
    return np.array([fit.fixed_s, *(1.0 / rate for rate in fit[1:])])


def _solved(
    columns: np.ndarray, seconds: np.ndarray, least: Sequence[float], held: Sequence[int] = ()
) -> list[float]:
    """A cost and rates of least relative squares, none below `least`, those `held` at it."""
    scaled = columns / seconds[:, None]
    costs = np.array([0.0, *least])
    free = [c for c in range(columns.shape[1]) if c not in held]
    while True:
        fixed = [c for c in range(columns.shape[1]) if c not in free]
        due = 1.0 - scaled[:, fixed] @ costs[fixed]
        found = np.linalg.lstsq(scaled[:, free], due, rcond=None)[0]
        # By how much time each is too small.
        short = (costs[free] - found) * scaled[:, free].mean(axis=0)
        if short.max() <= 0.0:
            break
        free.pop(int(short.argmax()))
    costs[free] = found
    with np.errstate(divide="ignore"):
        return [float(costs[0]), *(1.0 / costs[1:]).tolist()]
