"""What became of tenants that share a pod."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.facts.outcome import Outcome


class TenantRecord(NamedTuple):
    """One of the tenants of a pod: what became of it beside the others, and with its chips to
    itself."""

    name: str
    weight: float
    priority: int
    chips: int
    busy_s: float  # its iterations, summed over replicas
    outcome: Outcome
    alone_e2e_s: np.ndarray  # of each of its requests, alone on the same chips; NaN: turned away
    beside_e2e_s: dict[str, np.ndarray]  # the same, with only the other tenant of that name


class SharedPod(NamedTuple):
    """Tenants, and the way in which they share: partitioned, time_sliced or co_resident."""

    sharing: str
    tenants: list[TenantRecord]
