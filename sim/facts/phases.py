"""What a static batch did."""

from __future__ import annotations

from typing import NamedTuple


class Paid(NamedTuple):
    """What one chip takes to run and to make, as far as anybody said."""

    watts: float | None = None
    dollars_per_hour: float | None = None
    die_mm2: float | None = None
    dollars: float | None = None  # to make it, with memory and package


class Phases(NamedTuple):
    """Parts of the wall time, in seconds."""

    prefill_s: float
    decode_s: float
    decode_steps: int  # of each sequence
    paid: Paid = Paid()
