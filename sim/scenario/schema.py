"""What a scenario may say: one frozen pydantic model a section, quantities in SI once read.

`Variant` is what the rest of the program sees. `json_schema` describes the file to an editor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SkipValidation,
    create_model,
    model_validator,
)

from sim.scenario.fields import Count, Index, Seconds, Section
from sim.scenario.machine import Parallel, Pod, Precision
from sim.scenario.model import Model, ModelUse
from sim.scenario.sweep import Sweep

Specs = Mapping[str, type[BaseModel]]  # class of the section `workload`, by kind of work


class Record(Section):
    """The window of which spans are kept."""

    from_s: Seconds = 0.0
    until_s: Seconds | None = Field(
        default=None,
        description="default: the end; of requests some iterations, from from_s on or, if that is "
        "not said either, where the load was the highest",
    )
    max_spans: Index = 20_000
    enabled: bool = True

    @model_validator(mode="after")
    def _window(self) -> Record:
        ends = self.until_s is not None and self.until_s <= self.from_s
        return self.unless((ends, "until_s must be after from_s"))


class Technique(NamedTuple):
    """One entry of `techniques`: a name in `sim.techniques.TECHNIQUES` and an instance of its
    options' model."""

    name: str
    options: Any


class Variant(Section):
    """One machine, one workload, and what else the kind of workload reads: a model, techniques to
    apply in order, ..."""

    pod: Pod
    model: ModelUse = Field(
        default=Model(name=""),
        description="of workloads on one model; elsewhere there is none",
    )
    precision: Precision = Precision()
    parallel: Parallel = Parallel()
    workload: Any
    techniques: SkipValidation[tuple[Technique, ...]] = ()
    record: Record = Record()


@cache
def variant_of(spec: type[BaseModel]) -> type[Variant]:
    """The class of variants whose workload is a `spec`."""
    return create_model("Variant", __base__=Variant, workload=(spec, ...))


class Ranging(Section):
    """How `podscope run` tells how sure the verdict is."""

    draws: Annotated[Count, Field(ge=10, le=10_000)] = Field(
        default=40, description="of all constants together, within what is known of them"
    )
    seed: Index = 0


def _asked(given: Any) -> Any:
    return ({} if given else None) if isinstance(given, bool) else given


class Head(Section):
    """What a scenario file says once, for all its variants."""

    question: str = Field(min_length=1)
    extends: str | None = Field(
        default=None, description="a scenario, by name or path, to be merged under this one"
    )
    seed: Index = 0
    variants: dict[str, dict[str, Any] | None] = Field(default={})
    sweep: Sweep | None = Field(default=None, description="what `podscope sweep` varies")
    range: Annotated[Ranging | None, BeforeValidator(_asked)] = Field(
        default=None, description="true, or {draws, seed}: how sure the verdict is"
    )
    expect: list[str] = Field(default=[])


SECTIONS = tuple(Variant.model_fields)


def file_of(specs: Specs) -> type[BaseModel]:
    """The class of the top of a scenario file: its head, and what all variants share."""
    some: Any = Annotated[Union[tuple(specs.values())], Field(discriminator="kind")]  # noqa: UP007
    return create_model("File", __base__=(Variant, Head), workload=(some, ...))


def json_schema(specs: Specs) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a scenario file, techniques' options included.

    Since a section may be given in part here and in part in what it extends or in a variant,
    nothing is `required` but `question` or `extends`; `podscope check` finds what is missing.
    """
    # Here, because the techniques' options use the field types above.
    from sim.techniques import TECHNIQUES

    top = file_of(specs).model_json_schema(ref_template="#/$defs/{model}", mode="validation")
    defs = top.pop("$defs", {})
    choices: list[dict[str, Any]] = [{"enum": sorted(TECHNIQUES)}]
    for name, technique in sorted(TECHNIQUES.items()):
        options = technique.options.model_json_schema(ref_template="#/$defs/{model}")
        defs.update(options.pop("$defs", {}))
        defs[f"technique_{name}"] = options
        reference = {"anyOf": [{"$ref": f"#/$defs/technique_{name}"}, {"type": "null"}]}
        choices.append(
            {
                "type": "object",
                "properties": {name: reference},
                "required": [name],
                "maxProperties": 1,
            }
        )
    techniques = {"type": "array", "items": {"anyOf": choices}}
    variant = {name: top["properties"][name] for name in SECTIONS} | {"techniques": techniques}
    defs["Variant"] = {"type": "object", "properties": variant, "additionalProperties": False}
    top["properties"]["techniques"] = techniques
    either = {"anyOf": [{"$ref": "#/$defs/Variant"}, {"type": "null"}]}
    top["properties"]["variants"] = {"type": "object", "additionalProperties": either}
    partial = _rewritten({**top, "$defs": defs}, _as_part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **partial,
        "title": "podscope scenario",
        "anyOf": [{"required": ["question"]}, {"required": ["extends"]}],
    }


def _rewritten(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(node, dict):
        return change({key: _rewritten(value, change) for key, value in node.items()})
    return [_rewritten(item, change) for item in node] if isinstance(node, list) else node


def _as_part(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema node: sections in part, patterns anchored, a union by its members alone."""
    new = dict(schema)
    if isinstance(new.get("required"), list) and new.get("maxProperties") != 1:
        del new["required"]
    if isinstance(new.get("discriminator"), dict):
        del new["discriminator"]
        new["anyOf"] = new.pop("oneOf")
    if isinstance(new.get("pattern"), str) and not new["pattern"].startswith("^"):
        new["pattern"] = f"^(?:{new['pattern']})$"
    return new
