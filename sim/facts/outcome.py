"""What the simulation of one variant hands to the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sim.facts.array import ArrayRecord, GridRecord
from sim.facts.jobs import JobRecord, LinkUse
from sim.facts.requests import Requests
from sim.facts.serving import Serving
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals


class TenantRecord(NamedTuple):
    """One of the tenants of a pod: what became of it beside the others, and with its chips to
    itself."""

    name: str
    weight: float
    priority: int
    chips: int
    busy_s: float  # its iterations, summed over replicas
    outcome: Outcome
    alone_e2e_s: (
        np.ndarray
    )  # of each request of `outcome`, with the same chips to itself; NaN: turned away
    beside_e2e_s: dict[
        str, np.ndarray
    ]  # the same, with only the other tenant of that name there too


@dataclass
class Outcome:
    """What one variant's simulation hands to the results: the only thing they see of the engine.

    `phases` holds named parts of the wall time in seconds ("prefill", "decode"). `rates` are the
    machine's peaks for utilisation: {"HBM": bytes/s, "L2": bytes/s, "link": bytes/s, "matrix":
    FLOP/s}. `assumptions` are rows (what, value as text, source) that this variant's numbers rest
    on, each with its tag (READ, INFER, FITTED, ...).
    """

    totals: Totals
    phases: dict[str, float] = field(default_factory=dict)
    tokens: int = 0  # output tokens produced
    decode_steps: int = 0  # of a static batch
    ranks: int = 1
    replicas: int = 1
    requests: Requests = field(default_factory=lambda: Requests.of([]))
    serving: Serving | None = None  # of a workload of requests
    timeline: Timeline = field(default_factory=Timeline)
    rates: dict[str, float] = field(default_factory=dict)
    jobs: list[JobRecord] = field(default_factory=list)  # of a collectives workload
    tenants: list[TenantRecord] = field(default_factory=list)  # of a pod that several share
    sharing: str = ""  # in which way they do
    links: list[LinkUse] = field(default_factory=list)  # those that carried anything, fullest first
    array: ArrayRecord | None = None  # of a workload of networks
    grid: GridRecord | None = None  # of a workload of granularity
    assumptions: list[tuple[str, str, str, str]] = field(
        default_factory=list
    )  # what, value, tag, source
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""
    stopped_s: float | None = None  # simulated time at which the run was interrupted
