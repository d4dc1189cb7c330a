"""Pods: which devices, wired how, driven by which library.  One YAML file each in `topologies/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    create_model,
    model_validator,
)

from sim.catalog import hardware, shipped
from sim.catalog.files import beside, checked, find
from sim.catalog.ranges import over, with_range
from sim.hardware.device import Fact
from sim.network import topology
from sim.network.topology import SHAPES, Graph
from sim.text import strict_yaml
from sim.text.choice import Choice
from sim.text.strict_yaml import Document, KeyPath, ScenarioError
from sim.text.units import BytesPerSecond, Seconds, show_field


@dataclass(frozen=True)
class PodSpec:
    """A pod as its file says it.

    The link is one direction of one wire; on a switch its latency is the whole way through.
    `parameters` are what the shape is built with beside it, in SI units; `devices` the chips it
    makes. `graph` builds it.
    """

    name: str
    shape: str
    devices: int
    device: str
    library: str
    link_bytes_per_s: float
    link_latency_s: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def graph(self) -> Graph:
        """The pod's wires; ValueError if they cannot be."""
        return topology.build(
            self.shape,
            **self.parameters,
            bytes_per_s=self.link_bytes_per_s,
            latency_s=self.link_latency_s,
        )


_SHOWN = 4  # wires that are named

Duplex = Literal["full", "half"]
Whole = Annotated[int, Field(ge=1, strict=True)]
_Rate = Annotated[BytesPerSecond, Field(gt=0)]
_Latency = Annotated[Seconds, Field(ge=0)]


class LinkFile(hardware.Sourced):
    """The `link:` of a topology file; one source for both numbers, its writer's own without."""

    bytes_per_s: _Rate
    latency_s: _Latency
    duplex: Duplex = "full"

    @model_validator(mode="before")
    @classmethod
    def _own(cls, given: Any) -> Any:
        return hardware.owned(given) if isinstance(given, Mapping) else given


class UplinkFile(BaseModel):
    """The `nic:` or `spine:` of several nodes; without a source of its own, it has the link's."""

    model_config = hardware.STRICT
    bytes_per_s: _Rate
    latency_s: _Latency
    source: hardware.Text | None = None
    tag: hardware.Tag | None = None

    def link(self) -> dict[str, float]:
        """What the shape wants to know."""
        return {"bytes_per_s": self.bytes_per_s, "latency_s": self.latency_s}


class EdgeFacts(BaseModel):
    """What a wire of an edge list has of its own, beside the link's."""

    model_config = hardware.STRICT
    bytes_per_s: _Rate | None = None
    latency_s: _Latency | None = None
    duplex: Literal["full", "half", "simplex"] | None = None


class SwitchFacts(BaseModel):
    """What a switch of an edge list is like."""

    model_config = hardware.STRICT
    core: _Rate | None = None
    forwarding: Literal["cut_through", "store_and_forward"] = "cut_through"

    def node(self) -> dict[str, Any]:
        """What the shape wants to know."""
        return {"forwarding": self.forwarding} | ({"bytes_per_s": self.core} if self.core else {})


def _listed(due: str, least: int, value: Any) -> Any:
    """A list, as a file has it; `due` says of what, with an example."""
    if not isinstance(value, (list, tuple)) or len(value) < least:
        raise ValueError(f"a list of {due}, not {value!r}")
    return value


def _node(value: object) -> int | str:
    chip = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (chip or (isinstance(value, str) and value)):
        raise ValueError(
            f"the number of a chip (from 0) or the name of a switch is due, not {value!r}"
        )
    return value  # type: ignore[return-value]


def _wire(value: object) -> object:
    """A wire in any of its spellings as [a, b, facts]."""
    if isinstance(value, Mapping) and {"from", "to"} <= value.keys():
        return [
            value["from"],
            value["to"],
            {key: fact for key, fact in value.items() if key not in ("from", "to")},
        ]
    if isinstance(value, (list, tuple)) and len(value) in (2, 3):
        return [*value, {}] if len(value) == 2 else list(value)
    raise ValueError(
        f"a wire is [a, b], [a, b, {{bytes_per_s: ...}}] or {{from: a, to: b}}, not {value!r}"
    )


Node = Annotated[int | str, PlainValidator(_node)]
Wire = Annotated[tuple[Node, Node, EdgeFacts], BeforeValidator(_wire)]


# How a file writes each kind of parameter (`sim.network.topology.Parameter`).
_FIELDS: dict[str, Any] = {
    "whole": Whole,
    "sides": Annotated[
        tuple[Whole, ...],
        Field(min_length=1),
        BeforeValidator(partial(_listed, "whole numbers is due, like [4, 4]", 0)),
    ],
    "ratio": Annotated[float, Field(ge=1)],
    "rate": _Rate,
    "link": UplinkFile,
    "terminals": Literal["neighbours", "shuffled"],
    "forwarding": Literal["cut_through", "store_and_forward"],
    "wires": Annotated[
        tuple[Wire, ...],
        BeforeValidator(partial(_listed, "wires is due, like [[0, 1], [1, 2]]", 1)),
    ],
    "switches": dict[hardware.Text, SwitchFacts],
    "flag": Annotated[bool, Field(strict=True)],
}
# And what the shape's function is called with, where that is another thing.
_GIVEN: dict[str, Callable[[Any], Any]] = {
    "link": UplinkFile.link,
    "wires": lambda wires: [(a, b, own.model_dump(exclude_none=True)) for a, b, own in wires],
    "switches": lambda switches: {name: facts.node() for name, facts in switches.items()},
}


class PodFile(BaseModel):
    """What a file in `topologies/` says of any pod; the rest are the parameters of its shape."""

    model_config = ConfigDict(frozen=True, defer_build=True)
    name: hardware.Text
    shape: Annotated[str, Choice(SHAPES)]
    device: hardware.Text
    library: hardware.Text
    link: LinkFile
    routing: hardware.Text | None = None

    def parameters(self) -> dict[str, Any]:
        """What the shape is built with, beside rate and latency of the link."""
        given = {
            name: _GIVEN.get(parameter.kind, lambda value: value)(value)
            for name, parameter in SHAPES[self.shape].parameters.items()
            if (value := getattr(self, parameter.key or name)) is not None
        }
        if self.link.duplex != "full":
            given["duplex"] = self.link.duplex
        return given | ({"routing": self.routing} if self.routing else {})


@cache
def _form(name: str) -> type[PodFile]:
    """The keys of a file of the shape of that name."""
    shape, fields = SHAPES[name], dict[str, Any]()
    for name, default in topology.defaults(shape).items():
        parameter = shape.parameters[name]
        kind = _FIELDS[parameter.kind]
        needed = default is topology.REQUIRED
        fields[parameter.key or name] = (kind, ...) if needed else (kind | None, None)
    return create_model(
        "PodOfAShape", __base__=PodFile, __cls_kwargs__={"extra": "forbid"}, **fields
    )


def pod(name_or_path: str | Path, changes: Mapping[str, float] | None = None) -> PodSpec:
    """The pod of that name, or in a file.

    `changes` sets `bytes_per_s` and `latency_s` of its links, in SI units.

    ScenarioError with every fault of the file, those that only building it shows among them.
    """
    path = find(
        "topologies", name_or_path, shipped.folder("topologies"), shipped.names("topologies")
    )
    doc = strict_yaml.read(path)
    shape = str(doc.data.get("shape"))
    form, of = (_form(shape), topology.called(shape)) if shape in SHAPES else (PodFile, "a pod")
    file = checked(form, doc, of)
    facts = {
        f"link_{key}": with_range(
            f"link_{key}", hardware.fact(file.link, doc.raw(("link", key))), getattr(file.link, key)
        )
        for key in ("bytes_per_s", "latency_s")
    }
    for level, up in file:
        if isinstance(up, UplinkFile):
            tag, source = (up.tag, up.source) if up.source else (file.link.tag, file.link.source)
            facts |= {
                f"{level}_{key}": Fact(doc.raw((level, key)) or "", tag or "INFER", source, "")
                for key in ("bytes_per_s", "latency_s")
            }
    facts |= _odd_wires(file)
    spec = PodSpec(
        name=file.name,
        shape=file.shape,
        devices=0,
        device=_named(doc, "device", file.device),
        library=_named(doc, "library", file.library),
        link_bytes_per_s=file.link.bytes_per_s,
        link_latency_s=file.link.latency_s,
        parameters=file.parameters(),
        facts=facts,
    )
    given = {f"link_{key}": value for key, value in (changes or {}).items()}
    return hardware.changed(_counted(spec, doc), over(file.name, facts, given))


def _odd_wires(file: PodFile) -> dict[str, Fact]:
    """That some wires of an edge list are not as `link` says, the first of them by name."""
    own = [
        f"{a} - {b}: {', '.join(show_field(key, each) for key, each in numbers.items())}"
        for a, b, wire in getattr(file, "edges", ())
        if (numbers := wire.model_dump(exclude_none=True, include={"bytes_per_s", "latency_s"}))
    ]
    if not own:
        return {}
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    said = "; ".join(own[:_SHOWN]) + more
    return {"wires of their own": Fact(said, file.link.tag, file.link.source)}


def _named(doc: Document, key: str, name: str) -> str:
    """A card that the file names, whose path is from the file's folder; ScenarioError where it
    names none that is there."""
    found = beside(name, doc.path)
    if found != name and not Path(found).is_file():
        raise ScenarioError([doc.fault((key,), f"no such file {name!r} (looked for {found})")])
    return found


def _counted(spec: PodSpec, doc: Document) -> PodSpec:
    """The spec with its number of chips; ScenarioError if it cannot be built."""
    try:
        graph = spec.graph()
    except ValueError as error:
        raise ScenarioError([doc.fault(_blamed(spec, doc, str(error)), str(error))]) from None
    return replace(spec, devices=sum(isinstance(node, int) for node in graph))


def _blamed(spec: PodSpec, doc: Document, what: str) -> KeyPath:
    """The key that a fault of building is about: a wire of the list, a parameter that it names, or
    the shape."""
    for index, (a, b, _) in reversed(list(enumerate(spec.parameters.get("edges", ())))):
        if what.startswith(f"the link {a} - {b} "):
            return ("edges", index)
    words = what.replace("'", " ").replace(",", " ").split()
    own = [key for key in doc.data if key not in PodFile.model_fields or key == "routing"]
    return (next((word for word in [*words, "edges"] if word in own), "shape"),)
