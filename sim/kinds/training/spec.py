"""What a scenario says of edges and a cloud that train together."""

from __future__ import annotations

from math import inf
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.dnn.trained import MOST_IMAGE, TRAINED
from sim.graph.training import OPTIMISERS
from sim.kinds.training.methods import METHODS
from sim.network.frames import FORMATS
from sim.scenario.fields import Count, Factor, Probability, Seconds, Section
from sim.text.choice import Choice

AUTO = "auto"
_CUTS = [name for name, row in METHODS.items() if row.at == "cut"]


class OutageSpec(Section):
    """A time in which the cloud, or a group of edges, is out of reach."""

    of: str = Field(description="cloud, or the name of a group of edges")
    start: Seconds
    end: Seconds
    killed: bool = Field(
        default=False,
        description="what it had not written down is lost, too; else only the connection is",
    )

    @model_validator(mode="after")
    def _some_time(self) -> OutageSpec:
        return self.unless((self.end <= self.start, "end must be after start"))


class Training(Section):
    """One network, trained by edges and a cloud together."""

    kind: Literal["training"]
    network: Annotated[str, Choice(TRAINED)] = "resnet18"
    image: Annotated[Count, Field(le=MOST_IMAGE)] = Field(default=32, description="pixels a side")
    classes: Count = 10
    width: Annotated[Factor, Field(le=16)] = Field(default=1.0, description="of all channels")
    dtype: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="of the arithmetic")
    batch: Count = Field(default=32, description="samples in a batch of one edge")
    batches: Count = Field(default=8, description="of one edge, in a round")
    rounds: Count = Field(
        default=1, description="a round begins when all edges are done with the one before"
    )
    method: Annotated[str, Choice(METHODS)] = "hierarchical"
    cut: str = Field(
        default=AUTO,
        description="after which stage the edge ends; auto: where a batch takes least, see "
        "`minimise`",
    )
    minimise: Literal["time", "energy"] = Field(
        default="time", description="of a batch, by the choice of the cut; energy: the edge's"
    )
    accuracy: dict[str, Factor] = Field(
        default={}, description="what each cut reaches, in per cent, as you have measured it"
    )
    least_accuracy: Factor | None = Field(
        default=None, description="a cut that is below, or not measured, is not chosen"
    )
    features: Annotated[str, Choice(FORMATS)] = Field(
        default="fp32", description="format of what is sent: feature maps, gradients, parameters"
    )
    input: Annotated[str, Choice(FORMATS)] | None = Field(
        default=None, description="format of an input that is sent; default: as features"
    )
    optimiser: Annotated[str, Choice(OPTIMISERS)] = "momentum"
    pipelined: bool = Field(
        default=False,
        description="the edge begins a batch while the last one is on its way; else when all is "
        "done with it, as in the paper",
    )
    merge: Count = Field(
        default=1, description="batches of several edges that the cloud takes at once, at most"
    )
    deadline: Seconds | None = Field(
        default=None, description="of a round: who is not done by then is not waited for"
    )
    drop: Annotated[Probability, Field(lt=1)] = Field(
        default=0.0, description="how likely an edge is absent from a round, drawn by the seed"
    )
    queue: Count = Field(
        default=16, description="batches that an edge holds for a cloud that is out of reach"
    )
    checkpoint_every: Count = Field(default=8, description="batches, on both sides")
    outages: list[OutageSpec] = Field(default=[])

    @model_validator(mode="after")
    def _fits(self) -> Training:
        row = METHODS[self.method]
        own = self.model_fields_set
        numbers = [outage.killed for outage in self.outages]
        return self.unless(
            (
                row.at != "cut" and "cut" in own and self.cut != AUTO,
                f"{self.method} has no cut; those with one are {', '.join(_CUTS)}",
            ),
            (
                self.pipelined and (row.returns or len({step.lane for step in row.steps}) == 1),
                f"nothing of {self.method} can overlap with the next batch; take pipelined out",
            ),
            (
                self.input is not None and row.sent not in ("input", "features"),
                f"{self.method} sends no input and no feature map; take `input` out",
            ),
            (self.deadline == 0.0, "a deadline of 0 s leaves no time for a round"),
            (
                any(numbers) and not row.robust,
                f"a kill is simulated of hierarchical, which has checkpoints; {self.method} can "
                "lose a connection",
            ),
            (
                any(numbers) and self.deadline is not None,
                "a kill and a deadline do not go together: batches that a round does not wait for "
                "are not trained again",
            ),
            (
                bool(self.outages) and not any(step.lane != "edge" for step in row.steps),
                f"{self.method} has no connection to lose; take outages out",
            ),
            (
                self.least_accuracy is not None and not self.accuracy,
                "least_accuracy needs `accuracy`: what each cut reaches",
            ),
            (
                self.minimise != "time" and (row.at != "cut" or self.cut != AUTO),
                "minimise is for `cut: auto`; take it out",
            ),
        )

    @property
    def deadline_s(self) -> float:
        """Of a round; inf: none."""
        return inf if self.deadline is None else self.deadline
