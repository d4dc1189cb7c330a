"""What a technique may assume of the hardware it compiles for, and of the model it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sim.graph.model import Model


class Machine(NamedTuple):
    """Numbers passed in to techniques, so that they need not know devices or networks."""

    l2_bytes: float
    hbm_bytes_per_s: float
    ranks: int
    matrix_flop_per_s: Mapping[str, float] = {}  # peaks, by dtype
    model: Model | None = None  # the whole of it,
    layers: range = range(0)  # and those of its layers that the graph has
    l2_set_aside_bytes: float = 0.0  # of the L2: only for what is prefetched
