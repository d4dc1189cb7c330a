"""What a scenario says of tenants that share a pod."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sim.kinds.served.spec import Served
from sim.scenario.fields import Count, Factor, Section, plain_name
from sim.scenario.machine import Precision
from sim.scenario.model import ModelUse


class TenantSpec(Served):
    """One of those who share a pod: a model, its requests, and what it is entitled to."""

    model: ModelUse
    tensor: Count = Field(default=1, description="chips that the model is split over")
    precision: Precision | None = Field(default=None, description="default: that of the scenario")
    weight: Factor = Field(
        default=1.0, description="its part of shared chips, against that of the others"
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="the highest goes first; of time_sliced"
    )


TenantName = Annotated[str, AfterValidator(partial(plain_name, "tenant"))]


class Tenants(Section):
    """Several models that serve requests on one pod, each on chips of its own or all on the same
    ones."""

    kind: Literal["tenants"]
    sharing: Literal["partitioned", "time_sliced", "co_resident"] = Field(
        description="partitioned: each has chips of its own; time_sliced: all have the same, "
        "one iteration at a time; co_resident: their iterations run at the same time and share "
        "engines, HBM and links"
    )
    quantum: Count = Field(
        default=1, description="iterations of one tenant before the next choice; of time_sliced"
    )
    fidelity: Literal["step", "op"] | None = Field(
        default=None,
        description="as of `requests`; default: step, of co_resident op, which has no other",
    )
    interference: bool = Field(
        default=True, description="also run the tenants two by two, where they are three"
    )
    tenants: dict[TenantName, TenantSpec] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _in_place(self) -> Tenants:
        return self.unless(
            (
                self.sharing == "co_resident" and self.fidelity == "step",
                "co_resident tenants slow each other within an iteration, which has no price "
                "beforehand: write 'fidelity: op', or take it out",
            )
        )
