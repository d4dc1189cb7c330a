"""What a scenario says of links that have a fault."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SkipValidation, WithJsonSchema, model_validator

from sim.scenario.fields import Seconds, Section, Share

_NUMBER = {"type": "integer", "minimum": 0}


def _link(value: Any) -> list[int | str]:
    good = isinstance(value, list) and len(value) == 2
    if not good or not all(
        isinstance(node, (int, str)) and not isinstance(node, bool) for node in value
    ):
        raise ValueError(
            f"{value!r} is no link; name the two nodes it joins, like [0, 1] or [leaf 0, spine 0]"
        )
    return value


class LinkFault(Section):
    """The wire between two nodes is slow, late, or gone; both ways alike."""

    link: Annotated[
        SkipValidation[list[int | str]],
        BeforeValidator(_link),
        WithJsonSchema(
            {
                "type": "array",
                "items": {"anyOf": [_NUMBER, {"type": "string"}]},
                "minItems": 2,
                "maxItems": 2,
            }
        ),
    ]
    bandwidth: Share = Field(default=1.0, description="share of its bandwidth that is left")
    latency: Seconds = Field(default=0.0, description="extra")
    failed: bool = Field(default=False, description="traffic goes round it")

    @model_validator(mode="after")
    def _some_fault(self) -> LinkFault:
        return self.unless(
            (
                self.failed and self.model_fields_set & {"bandwidth", "latency"},
                "a failed link has no bandwidth or latency left; give either 'failed' or these",
            ),
            (
                not self.failed and self.bandwidth == 1 and not self.latency,
                "nothing is wrong with this link: give 'bandwidth', 'latency' or 'failed: true'",
            ),
        )
