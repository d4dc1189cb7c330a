"""What a scenario says of a request trace."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SkipValidation, WithJsonSchema

from sim.scenario.fields import Count, Factor, Index, Section, TraceFallback, TraceFile, absurd
from sim.text.choice import Choice
from sim.text.units import parse
from sim.traces.formats import FORMATS


def _ticks(value: Any) -> Any:
    if value in ("auto", "keep"):
        return value
    seconds = math.inf if absurd(value) else parse(value, "s")
    if not 0 < seconds < math.inf:
        raise ValueError(f"auto, keep, or how long a tick is, is due, not {value!r}")
    return seconds


Ticks = Annotated[
    SkipValidation[str | float], BeforeValidator(_ticks), WithJsonSchema({"type": "string"})
]


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
    rate: Factor | None = Field(
        default=None, description="requests a second, at Poisson times instead of the file's"
    )
    ticks: Ticks = Field(
        default="auto",
        description="of a recorder that rounds arrivals, whose requests are spread over the tick: "
        "how long one is; auto: as the format has them, if the file does; keep: leave all as it is",
    )
    block_tokens: Count | None = Field(
        default=None, description="tokens of a recorded prefix block; default: as the format has"
    )
    clock: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of the file's times; default: as the format has"
    )
    bad_rows: Literal["error", "skip"] = "error"
