"""What a scenario says of a model: its name, and what-if edits of its numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticKnownError

from sim.scenario.fields import MODEL, Count, Index, ModelName, Section


class LatentChange(Section):
    """What-if edits of a latent attention; the names are the fields of `sim.graph.model.Latent`."""

    kv_rank: Count | None = None
    rope: Count | None = None
    nope: Count | None = None
    value: Count | None = None
    q_rank: Index | None = None


class ExpertsChange(Section):
    """What-if edits of a mixture of experts; the names are the fields of
    `sim.graph.model.Experts`."""

    routed: Count | None = None
    chosen: Count | None = None
    ffn: Count | None = None
    shared_ffn: Index | None = None
    first_dense: Index | None = None


class ModelChange(Section):
    """What-if edits of the model; the names are the fields of `sim.graph.model.Model`."""

    layers: Count | None = None
    hidden: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None
    head_dim: Count | None = None
    ffn: Count | None = None
    vocab: Count | None = None
    attention: list[Literal["dense", "window", "blocksparse"]] | None = None
    window_tokens: Index | None = None
    sparse_stride: Index | None = None
    max_tokens: Index | None = None
    latent: LatentChange | None = None
    experts: ExpertsChange | None = None


class Model(Section):
    """A model of the catalogue, or in a file, by its name alone or with edits:
    `model: {name: llama3-8b, change: {layers: 16}}`."""

    name: ModelName
    change: ModelChange = ModelChange()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if not isinstance(data, (dict, Model)):
            raise PydanticKnownError("string_type")
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        mapping = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "string"}, mapping]}


ModelUse = Annotated[Model, MODEL]
