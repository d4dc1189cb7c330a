"""What passed over time, in a few hundred bins however long it takes."""

from __future__ import annotations

import numpy as np

_BINS = 512


class Binned:
    """Sums over time in at most 512 bins, which grow twice as wide when they do not reach."""

    def __init__(self, bin_s: float = 1e-3) -> None:
        self.bin_s = bin_s
        self.sums = np.zeros(_BINS)

    def add(self, start_s: float, end_s: float, rate: float) -> None:
        """What goes on at `rate` (per second) from `start_s` to `end_s`; both at least 0."""
        while end_s > self.bin_s * _BINS:
            self.sums = np.append(self.sums.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2))
            self.bin_s *= 2
        first, last = int(start_s / self.bin_s), min(int(end_s / self.bin_s), _BINS - 1)
        if first == last:
            self.sums[first] += rate * (end_s - start_s)
            return
        self.sums[first] += rate * ((first + 1) * self.bin_s - start_s)
        self.sums[first + 1 : last] += rate * self.bin_s
        self.sums[last] += rate * (end_s - last * self.bin_s)

    def rates(self, until_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the bins up to `until_s`, in seconds, and the mean rate in each."""
        bins = max(1, min(int(np.ceil(until_s / self.bin_s)), _BINS))
        edges = np.minimum(np.arange(bins + 1) * self.bin_s, max(until_s, 1e-12))
        return edges, self.sums[:bins] / np.maximum(np.diff(edges), 1e-12)
