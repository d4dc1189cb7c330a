"""Models: YAML files of numbers with one source each, or a published `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from sim.catalog import huggingface
from sim.catalog.files import checked, find
from sim.catalog.hardware import STRICT, Dtype, Sourced, Text
from sim.graph.model import Experts, Latent, Model, Stored
from sim.graph.routing import recorded
from sim.text import strict_yaml
from sim.text.outside import bounded


def _counted(kind: str, least: int = 1) -> tuple[Any, ...]:
    return Field(ge=least, strict=True), AfterValidator(partial(bounded, kind))


Layers = Annotated[int, *_counted("layers")]
Heads = Annotated[int, *_counted("heads")]
Width = Annotated[int, *_counted("width")]
WidthOrNone = Annotated[int, *_counted("width", 0)]
Routed = Annotated[int, *_counted("experts")]
Vocabulary = Annotated[int, *_counted("vocabulary")]
TokensOrNone = Annotated[int, *_counted("context", 0)]
Flag = Annotated[bool, Field(strict=True)]
_PARTS: dict[str, Any] = {"latent": Latent, "experts": Experts, "stored": Stored}


class LatentFile(BaseModel):
    """`latent:` of a model; the fields are those of `sim.graph.model.Latent`."""

    model_config = STRICT
    kv_rank: Width
    rope: Width
    nope: Width
    value: Width
    q_rank: WidthOrNone = 0


class ExpertsFile(BaseModel):
    """`experts:` of a model; the fields are those of `sim.graph.model.Experts`."""

    model_config = STRICT
    routed: Routed
    chosen: Routed
    ffn: Width
    shared_ffn: WidthOrNone = 0
    first_dense: WidthOrNone = 0

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.chosen > self.routed:
            raise ValueError(f"a token cannot be sent to {self.chosen} of {self.routed} experts")
        return self


class StoredFile(BaseModel):
    """`stored:` of a model; the fields are those of `sim.graph.model.Stored`."""

    model_config = STRICT
    attention: Dtype | Literal[""] = ""
    mlp: Dtype | Literal[""] = ""
    experts: Dtype | Literal[""] = ""
    told: Text = "its card"
    layers: tuple[tuple[int, Literal["attention", "mlp", "experts"], Dtype | Literal[""]], ...] = ()


class ModelFile(Sourced):
    """A file in `sim/catalog/models`; the fields are those of `sim.graph.model.Model`."""

    name: Text
    layers: Layers
    hidden: Width
    heads: Heads
    kv_heads: Heads
    head_dim: Width
    ffn: Width
    vocab: Vocabulary
    latent: LatentFile | None = None
    experts: ExpertsFile | None = None
    gated: Flag = True
    tied_embeddings: Flag = False
    qkv_bias: Flag = False
    o_bias: Flag = False
    mlp_bias: Flag = False
    qk_norm: Flag = False
    norms: Heads = 2
    sinks: Flag = False
    attention: Annotated[
        tuple[Literal["dense", "window", "blocksparse"], ...], Field(min_length=1)
    ] = ("dense",)
    window_tokens: TokensOrNone = 0
    sparse_stride: TokensOrNone = 0
    max_tokens: TokensOrNone = 0
    stored: StoredFile = StoredFile()
    routing: str = ""
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        shared, sparse = self.heads % self.kv_heads == 0, "blocksparse" in self.attention
        narrow = sparse or "window" in self.attention
        rules = (
            (shared, f"{self.heads} heads cannot share {self.kv_heads} kv_heads evenly"),
            (
                self.window_tokens or not narrow,
                "window or blocksparse attention needs window_tokens",
            ),
            (self.sparse_stride or not sparse, "blocksparse attention needs sparse_stride"),
        )
        if wrong := [what for met, what in rules if not met]:
            raise ValueError("; ".join(wrong))
        return self


def model(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> Model:
    """The model of that name: the catalogue's, a YAML file's, or a Hugging Face `config.json`'s.

    The last may be given by its folder. `changes` sets some of its numbers, also those of its
    parts, by name; ValueError if it has no such part, or if they do not fit together any more.
    """
    path = find("models", name_or_path)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        found = huggingface.model(path)
    else:
        found = _model(checked(ModelFile, strict_yaml.read(path)))
    return _changed(found, changes) if changes else found


@cache
def profile(name: str) -> tuple[tuple[float, ...], ...]:
    """How often each expert was chosen, a row a layer, by the measured profile of that name."""
    return recorded(Path(__file__).parent / "routing" / f"{name}.json")


def _changed(card: Model, changes: Mapping[str, Any]) -> Model:
    given = {**vars(card), **changes}
    for key in _PARTS:
        own = getattr(card, key)
        if own is None and given[key]:
            raise ValueError(f"{card.name} has no {key} to change")
        given[key] = own and own._asdict() | changes.get(key, {})
    try:
        return _model(ModelFile(**given | {"attention": tuple(given["attention"])}, tag="INFER"))
    except ValidationError as error:
        what = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise ValueError(f"{card.name} as it is changed: {what}") from None


def _model(file: ModelFile) -> Model:
    given = file.model_dump(exclude={"tag", "residual"})
    for key, part in _PARTS.items():
        given[key] = part(**given[key]) if given[key] else None
    return Model(**given)
