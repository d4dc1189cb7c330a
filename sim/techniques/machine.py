"""What a technique may assume of the hardware it compiles for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Machine(NamedTuple):
    """Numbers passed in to techniques, so that they need not know devices or networks."""

    l2_bytes: float
    hbm_bytes_per_s: float
    ranks: int
    matrix_flop_per_s: Mapping[str, float] = {}  # peaks, by dtype
