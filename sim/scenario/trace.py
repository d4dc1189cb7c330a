"""What a scenario says of a request trace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.scenario.fields import Count, Factor, Index, Section, TraceFallback, TraceFile
from sim.text.choice import Choice
from sim.traces.formats import FORMATS


class Trace(Section):
    """Which rows of which recording to replay."""

    file: TraceFile
    format: Annotated[str, Choice(FORMATS, "auto")] = "auto"
    fallback: TraceFallback | None = Field(
        default=None, description="read instead, with a warning, where `file` is missing"
    )
    first: Index = 0
    limit: Count | None = None
    speed: Factor = Field(default=1.0, description="2.0: requests arrive twice as fast")
    bad_rows: Literal["error", "skip"] = "error"
