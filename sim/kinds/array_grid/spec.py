"""What a scenario says of a grid of sizes of an array."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sim.kinds.dnn.spec import NetworkName, NetworksByName
from sim.scenario.fields import Count, Section


class Steps(Section):
    """Numbers from `first` to `last`, `step` apart."""

    first: Count = 2
    last: Count = 256
    step: Count = 2

    @model_validator(mode="after")
    def _some(self) -> Steps:
        return self.unless(
            (self.last < self.first, f"last ({self.last}) is less than first ({self.first})"),
            (
                (self.last - self.first) // self.step >= 1000,
                "more than 1,000 sizes; take a larger step",
            ),
        )

    def numbers(self) -> list[int]:
        """All of them."""
        return list(range(self.first, self.last + 1, self.step))


class Family(Section):
    """DNNs that count as one: harmonic means over each one's sizes, then over them."""

    networks: NetworksByName
    images: list[Count] = Field(default=[], description="default: 224; of convolutional networks")
    lengths: list[Count] = Field(default=[], description="default: 128; of BERT")
    batch: Count = 1

    @model_validator(mode="after")
    def _sizes_are_shared(self) -> Family:
        return self.unless(
            *(
                (
                    key in network.model_fields_set,
                    f"{name}: {key} has no part here; the family says images, lengths and batch",
                )
                for name, network in self.networks.items()
                for key in ("image", "length", "batch", "trace", "pods")
            )
        )


class Granularity(Section):
    """How large an array should be: operations a joule over rows and columns, by a closed form.

    As many pods as `pod.array.power` allows; `pod.array` also says which network joins them. What
    it says of rows, columns and pods is the array that the best is compared with.
    """

    kind: Literal["granularity"]
    families: dict[NetworkName, Family] = Field(min_length=1, max_length=16)
    rows: Steps = Steps()
    cols: Steps = Steps()
