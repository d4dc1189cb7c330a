"""The recorded window of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.facts.span import Span, Use


@dataclass
class Timeline:
    """The recorded window of a run: spans, uses, and the rate of each capacity in bytes/s."""

    spans: list[Span] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    capacities: dict[str, float] = field(default_factory=dict)
    owners: list[str] = field(default_factory=list)  # of tracks, those to be shown first
    truncated: int = 0  # spans that were played but not kept, because the limit was reached
