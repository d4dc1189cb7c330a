"""The recorded window of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sim.facts.span import Span, Use


@dataclass
class Timeline:
    """The recorded window of a run: spans, uses, and the rate of each capacity in bytes/s."""

    spans: list[Span] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    capacities: dict[str, float] = field(default_factory=dict)
    owners: list[str] = field(default_factory=list)  # of tracks, those to be shown first
    truncated: int = 0  # spans that were played but not kept, because the limit was reached
    full_s: float | None = None  # when it was reached: nothing is kept from then on
    chosen: bool = False  # the window, by the run: it is another in each variant
    lanes: list[Span] = field(default_factory=list)  # iterations, and requests in them

    def clear(self) -> None:
        """Forget what was kept so far."""
        self.spans.clear()
        self.lanes.clear()
        self.uses.clear()
        self.truncated, self.full_s = 0, None

    def use(self, use: Use) -> None:
        """Keep a use of a capacity, while there is room for the spans beside it."""
        if self.full_s is None:
            self.uses.append(use)

    def begun(self) -> Timeline:
        """The same from its `origin_s` on."""
        at_s = self.origin_s
        if not at_s:
            return self

        def moved(some: Span | Use) -> Any:
            return some._replace(start_s=some.start_s - at_s, end_s=some.end_s - at_s)

        return replace(
            self,
            spans=[moved(span) for span in self.spans],
            lanes=[moved(lane) for lane in self.lanes],
            uses=[moved(use) for use in self.uses],
        )

    @property
    def origin_s(self) -> float:
        """Where its time axis begins: 0, or where a window begins that the run has chosen."""
        return min((s.start_s for s in self.spans), default=0.0) if self.chosen else 0.0
