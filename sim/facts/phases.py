"""What a static batch did."""

from __future__ import annotations

from typing import NamedTuple


class Phases(NamedTuple):
    """Parts of the wall time, in seconds."""

    prefill_s: float
    decode_s: float
    decode_steps: int  # of each sequence
