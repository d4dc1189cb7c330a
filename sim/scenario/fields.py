"""The kinds of value that a scenario's keys take: numbers, counts and quantities, each refused with
what is due."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sim.text import units
from sim.text.outside import MOST_S

Dtype = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"]


def whole(value: Any) -> Any:
    """A count as an int, also one written 1e3."""
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1e3 is a fair way to write a count
    if isinstance(value, str):
        raise ValueError(
            f"{value!r} is text, a whole number is due; write it like 1000, without quotes or "
            "a unit"
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            f"{value!r} is text, a number is due; write it like 1.5, without quotes or a unit"
        )
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**63:
        raise ValueError("a number of less than 20 digits is due")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is due")
    return value


def absurd(value: Any) -> bool:
    """Whether `value` is text with a number too large for exact arithmetic: 1e999999999 would take
    for ever."""
    return (
        isinstance(value, str)
        and bool(re.match(r"\s*[+-]?\d", value))
        and bool(_ABSURD.search(value))
    )


_ABSURD = re.compile(r"\d{40}|[eE][+-]?0*[1-9]\d{2}")


def _sane(value: Any) -> Any:
    if absurd(value):
        raise ValueError(f"{value[:40]!r} is out of range")
    return value


Count = Annotated[int, Field(ge=1, le=10**12), BeforeValidator(whole)]
Index = Annotated[int, Field(ge=0, le=10**12), BeforeValidator(whole)]
Factor = Annotated[float, Field(gt=0, le=1e12), BeforeValidator(_number)]
Amount = Annotated[float, Field(ge=0, le=1e12), BeforeValidator(_number)]
Probability = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
Bytes = Annotated[units.Bytes, Field(gt=0), BeforeValidator(_sane)]
BytesPerSecond = Annotated[units.BytesPerSecond, Field(gt=0), BeforeValidator(_sane)]
FlopPerSecond = Annotated[units.FlopPerSecond, Field(gt=0), BeforeValidator(_sane)]
Seconds = Annotated[units.Seconds, Field(ge=0, le=MOST_S), BeforeValidator(_sane)]
Watts = Annotated[units.Watts, Field(gt=0), BeforeValidator(_sane)]
Joules = Annotated[units.Joules, Field(gt=0), BeforeValidator(_sane)]
JoulesPerByte = Annotated[units.JoulesPerByte, Field(gt=0), BeforeValidator(_sane)]
Hertz = Annotated[units.Hertz, Field(gt=0), BeforeValidator(_sane)]


YAML_SUFFIXES = ("", ".yaml", ".yml")


def plain_name(noun: str, name: str) -> str:
    """The name of a `noun`, as it may be; ValueError if not."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            f"a {noun}'s name is made of letters, digits and '_', and begins with a letter"
        )
    return name


def _edges(name: str) -> str:
    if name == "cloud":
        raise ValueError("'cloud' is what edges send to; give a group of edges another name")
    return plain_name("group of edges", name)


@dataclass(frozen=True)
class Place:
    """Where a text in the file leads: to a name of the catalogue or of what ships, or to a file.

    `absent`: a file that is not there is no fault yet, for another may stand in for it.
    """

    noun: str
    table: str = ""  # of names: devices, models, libraries, topologies, traces; none: files only
    suffixes: tuple[str, ...] = ("",)
    absent: bool = False


TopologyName = Annotated[str, Place("topology", "topologies", YAML_SUFFIXES)]
DeviceName = Annotated[str, Place("device", "devices", YAML_SUFFIXES)]
LibraryName = Annotated[str, Place("library", "libraries", YAML_SUFFIXES)]
MODEL = Place("model", "models", (*YAML_SUFFIXES, "/config.json"))
ModelName = Annotated[str, MODEL]
CardName = Annotated[str, Place("card of a KV-cache", "kv", (*YAML_SUFFIXES, ".json"))]
DnnCardName = Annotated[str, Place("card of a searched network", "dnn", ("", ".json"))]
ChannelName = Annotated[str, Place("channel", "channels", YAML_SUFFIXES)]
EdgesName = Annotated[str, AfterValidator(_edges)]
FilePath = Annotated[str, Place("file")]
TraceFile = Annotated[str, Place("trace", "traces", absent=True)]
TraceFallback = Annotated[str, Place("trace", "traces")]


class Section(BaseModel):
    """A mapping in the file.  Unknown keys are refused; null means "the default"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value
            for key, value in data.items()
            if value is not None or key not in cls.model_fields
        }

    def given(self) -> dict[str, Any]:
        """The fields that the file sets, those of its parts too, by name, in SI units."""
        return self.model_dump(exclude_unset=True)

    def unless(self, *faults: tuple[Any, str]) -> Self:
        """Itself; ValueError with the text of the first of `faults` that is so."""
        for is_so, what in faults:
            if is_so:
                raise ValueError(what)
        return self
