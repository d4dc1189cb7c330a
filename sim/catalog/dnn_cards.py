"""Cards of searched networks: the cells that a search found for a machine, with what it was asked
for and how right the trained network is.

A card is a JSON file. It is found by name in `sim/catalog/dnn`, in an installed package (entry
point `dnn_card.NAME`), or by its path. Weights are not in it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from sim.catalog.cards import STRICT, Count, Seed, Text, reader
from sim.dnn.found import EDGES, Cell, Found, edge_name

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ArraySize(BaseModel):
    """The systolic array that the network was searched for."""

    model_config = STRICT
    rows: Count
    cols: Count


class CellOf(BaseModel):
    """Operations by edge, and output channels by convolution (those of the inputs too)."""

    model_config = STRICT
    operations: dict[str, str]
    widths: dict[str, Count]
    pool: bool

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        due = [edge_name(edge) for edge in EDGES]
        if sorted(self.operations) != sorted(due):
            raise ValueError(f"operations are of the edges {', '.join(due)}")
        self.cell  # noqa: B018
        return self

    @property
    def cell(self) -> Cell:
        """As `sim.dnn` has it; ValueError for what is no cell."""
        return Cell(
            tuple(self.operations[edge_name(edge)] for edge in EDGES), self.widths, self.pool
        )


class Data(BaseModel):
    """The images: how many it learned from, and how many it was measured on."""

    model_config = STRICT
    images: Text
    train: Count
    test: Count


class Simulated(BaseModel):
    """One image through the array simulator, on the array that it was searched for."""

    model_config = STRICT
    cycles: Count
    utilisation: Annotated[float, Field(gt=0, le=1)]


class DnnCard(BaseModel):
    """A card, as it stands in its file."""

    model_config = STRICT
    kind: Literal["found_network"]
    version: Literal[1]
    name: Text
    method: Literal["uboost", "flops", "roofline", "blackbox"]
    widths: Literal["fixed", "flexible"]
    latency_weight: Weight
    utilisation_weight: Weight
    array: ArraySize
    image: Count
    classes: Count
    stem: Count
    cells: Annotated[tuple[CellOf, ...], Field(min_length=1)]
    accuracy: Annotated[float, Field(ge=0, le=100, description="per cent of the test images")]
    data: Data
    simulated: Simulated
    seed: Seed
    command: Text
    made_with: dict[str, str]

    @model_validator(mode="after")
    def _is_a_network(self) -> Self:
        self.found  # noqa: B018
        return self

    @property
    def found(self) -> Found:
        """The network; ValueError where poolings do not divide the image."""
        cells = tuple(each.cell for each in self.cells)
        return Found(self.name, self.image, self.classes, self.stem, cells)


card = reader("dnn", DnnCard)
