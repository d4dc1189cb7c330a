"""What the simulation of one variant hands to the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.facts.accuracy import Accuracy
from sim.facts.assumption import Assumption
from sim.facts.requests import Requests
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals


class Pays(NamedTuple):
    """Under which conditions a technique makes a step quicker: `what` begins a sentence that goes
    on with each limit and its condition; `beside` are the other techniques of the variant."""

    what: str
    limits: tuple[tuple[str, str], ...]
    beside: tuple[str, ...] = ()


class Paid(NamedTuple):
    """What one chip takes to run and to make, as far as anybody said."""

    watts: float | None = None
    dollars_per_hour: float | None = None
    die_mm2: float | None = None
    dollars: float | None = None  # to make it, with memory and package


class Takes(NamedTuple):
    """What all the chips of a variant together come to; None: nobody said of some of them."""

    chips: int
    dollars_per_hour: float | None = None
    dollars: float | None = None  # to make them, with memory and package


@dataclass
class Outcome:
    """All that the results see of the engine: what every kind of work has, and one `part` that
    belongs to the kind.

    `rates` are the machine's peaks for utilisation: {"HBM": bytes/s, "L2": bytes/s, "link":
    bytes/s, "matrix": FLOP/s}. `assumptions` are what this variant's numbers rest on.
    """

    totals: Totals
    kind: str = ""  # name of the kind of work
    part: Any = None  # facts of that kind
    tokens: int = 0  # output tokens produced
    ranks: int = 1
    replicas: int = 1
    paid: Paid = field(default_factory=Paid)
    chip_s: float | None = None  # chip-seconds that were on; None: all, all the time
    requests: Requests = field(default_factory=lambda: Requests.of([]))
    timeline: Timeline = field(default_factory=Timeline)
    rates: dict[str, float] = field(default_factory=dict)
    assumptions: list[Assumption] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)  # techniques that changed nothing, and why
    pays: list[Pays] = field(default_factory=list)  # under which conditions techniques pay
    lossy: bool = False  # whether techniques change what the model computes
    accuracy: Accuracy | None = None  # then, if it is known
    fingerprint: str = ""
    stopped_s: float | None = None  # simulated time at which the run was interrupted
    ran: list[str] = field(default_factory=list)  # which loops were compiled, which not, and why
