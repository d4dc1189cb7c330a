"""Pods: which devices, wired how, driven by which library.  One YAML file each in `topologies/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator

from sim.catalog import hardware, shipped
from sim.catalog.files import checked, find
from sim.hardware.device import Fact
from sim.network import topology
from sim.network.topology import Graph
from sim.text import strict_yaml
from sim.text.strict_yaml import Document, Fault, KeyPath, ScenarioError, nearest
from sim.text.units import BytesPerSecond, Seconds


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
        link: dict[str, Any] = {
            "bytes_per_s": self.link_bytes_per_s,
            "latency_s": self.link_latency_s,
        }
        if self.shape == "edges":
            return topology.from_edges(**self.parameters, **link)
        return topology.build(self.shape, **self.parameters, **link)


Duplex = Literal["full", "half"]
Whole = Annotated[int, Field(ge=1, strict=True)]
_Rate = Annotated[BytesPerSecond, Field(gt=0)]
_Latency = Annotated[Seconds, Field(ge=0)]


class LinkFile(hardware.Sourced):
    """The `link:` of a topology file; one source for both numbers."""

    bytes_per_s: _Rate
    latency_s: _Latency
    duplex: Duplex = "full"


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


ShapeName = Literal[
    "full_mesh",
    "switch",
    "crossbar",
    "ring",
    "mesh",
    "torus",
    "hypercube",
    "star",
    "fat_tree",
    "butterfly",
    "benes",
    "dragonfly",
    "multi_node",
    "edges",
]
_OWN = ("name", "shape", "device", "library", "link", "edges", "switches", "core", "nic", "spine")
_EVERY = (
    "name",
    "shape",
    "device",
    "library",
    "link",
)  # keys that any pod has; `routing` is the last, and optional
_WRITTEN = {
    "core_bytes_per_s": "core",
    "nodes": "switches",
}  # parameters that a file calls otherwise


def _known_shape(value: object) -> object:
    if value not in get_args(ShapeName):
        choice = ", ".join(get_args(ShapeName))
        raise ValueError(
            f"no topology shape {value!r}{nearest(value, get_args(ShapeName))}; choose one of "
            f"{choice}"
        )
    return value


def _listed(value: object) -> object:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a list of whole numbers is due, like [4, 4], not {value!r}")
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


def _wires(value: object) -> object:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"a list of wires is due, like [[0, 1], [1, 2]], not {value!r}")
    return value


Node = Annotated[int | str, PlainValidator(_node)]
Wire = Annotated[tuple[Node, Node, EdgeFacts], BeforeValidator(_wire)]


class PodFile(BaseModel):
    """A file in `topologies/`.

    Which parameters a shape has is written at its function in `sim/network`.
    """

    model_config = hardware.STRICT
    name: hardware.Text
    shape: Annotated[ShapeName, BeforeValidator(_known_shape)]
    device: hardware.Text
    library: hardware.Text
    link: LinkFile
    devices: Whole | None = None
    dims: Annotated[tuple[Whole, ...], Field(min_length=1), BeforeValidator(_listed)] | None = None
    dimensions: Whole | None = None
    k: Whole | None = None
    levels: Whole | None = None
    n: Whole | None = None
    expansion: Whole | None = None
    groups: Whole | None = None
    routers: Whole | None = None
    chips: Whole | None = None
    global_links: Whole | None = None
    nodes: Whole | None = None
    rails: Whole | None = None
    spines: Whole | None = None
    oversubscription: Annotated[float, Field(ge=1)] | None = None
    nic: UplinkFile | None = None
    spine: UplinkFile | None = None
    core: _Rate | None = None
    forwarding: Literal["cut_through", "store_and_forward"] | None = None
    routing: Literal["shortest", "dimension_order", "bit_steered", "up_down", "spray"] | None = None
    edges: Annotated[tuple[Wire, ...], BeforeValidator(_wires)] | None = None
    switches: dict[hardware.Text, SwitchFacts] | None = None
    chips_forward: Annotated[bool, Field(strict=True)] | None = None

    def parameters(self) -> dict[str, Any]:
        """What the shape's function is called with, beside rate and latency of the link."""
        given = {key: getattr(self, key) for key in type(self).model_fields if key not in _OWN}
        given = {key: value for key, value in given.items() if value is not None}
        if self.link.duplex != "full":
            given["duplex"] = self.link.duplex
        if self.core is not None:
            given["core_bytes_per_s"] = self.core
        given |= {
            key: up.link() for key in ("nic", "spine") if (up := getattr(self, key)) is not None
        }
        if self.edges is not None:
            given["edges"] = [(a, b, own.model_dump(exclude_none=True)) for a, b, own in self.edges]
            given["nodes"] = {
                name: {"forwarding": facts.forwarding}
                | ({"bytes_per_s": facts.core} if facts.core else {})
                for name, facts in (self.switches or {}).items()
            }
        return given


def pod(name_or_path: str | Path, changes: Mapping[str, float] | None = None) -> PodSpec:
    """The pod of that name, or in a file.

    `changes` sets `bytes_per_s` and `latency_s` of its links, in SI units.

    ScenarioError with every fault of the file, those that only building it shows among them.
    """
    path = find(
        "topologies", name_or_path, shipped.folder("topologies"), shipped.names("topologies")
    )
    doc = strict_yaml.read(path)
    file = _read(doc)
    facts = {
        f"link_{key}": hardware.fact(file.link, doc.raw(("link", key)))
        for key in ("bytes_per_s", "latency_s")
    }
    for level in ("nic", "spine"):
        if (up := getattr(file, level)) is not None:
            tag, source = (up.tag, up.source) if up.source else (file.link.tag, file.link.source)
            facts |= {
                f"{level}_{key}": Fact(doc.raw((level, key)) or "", tag or "INFER", source, "")
                for key in ("bytes_per_s", "latency_s")
            }
    spec = PodSpec(
        file.name,
        file.shape,
        0,
        file.device,
        file.library,
        file.link.bytes_per_s,
        file.link.latency_s,
        file.parameters(),
        facts,
    )
    return hardware.changed(
        _counted(spec, doc), {f"link_{key}": value for key, value in (changes or {}).items()}
    )


def _read(doc: Document) -> PodFile:
    """The file, if its keys are those of its shape; ScenarioError with every fault."""
    wrong = list(_foreign_keys(doc))
    try:
        file = checked(PodFile, doc)
    except ScenarioError as error:
        told = {fault.key for fault in wrong}
        wrong += [fault for fault in error.faults if fault.key not in told]
    if wrong:
        raise ScenarioError(sorted(wrong, key=lambda fault: fault.line))
    return file


def _foreign_keys(doc: Document) -> Iterator[Fault]:
    """Faults of keys that the shape does not have, and of those it needs and lacks."""
    shape = doc.data.get("shape")
    if not isinstance(shape, str) or shape not in get_args(ShapeName):
        return
    build = topology.from_edges if shape == "edges" else topology.SHAPES[shape]
    names = {
        _WRITTEN.get(name, name) if shape == "edges" or name != "nodes" else name: parameter
        for name, parameter in signature(build).parameters.items()
        if parameter.kind is not Parameter.VAR_KEYWORD
    }
    kind = "an edge list" if shape == "edges" else f"a {shape}"
    known = [*_EVERY, *names, *([] if "routing" in names else ["routing"])]
    for key in doc.data:
        if key not in known:
            yield doc.fault(
                (key,),
                f"unknown key of {kind}{nearest(key, known)}; known here: {', '.join(known)}",
            )
    for name, parameter in names.items():
        if parameter.default is Parameter.empty and name not in doc.data:
            yield Fault(
                str(doc.path), doc.line(("shape",)), name, f"this key is missing; {kind} needs it"
            )


def _counted(spec: PodSpec, doc: Document) -> PodSpec:
    """The spec with its number of chips; ScenarioError if it cannot be built."""
    try:
        graph = spec.graph()
    except ValueError as error:
        raise ScenarioError([doc.fault(_blamed(spec, doc, str(error)), str(error))]) from None
    return replace(spec, devices=sum(isinstance(node, int) for node in graph))


def _blamed(spec: PodSpec, doc: Document, what: str) -> KeyPath:
    """The key that a fault of building is about: a wire, a parameter it names, or the shape."""
    if spec.shape == "edges":
        found = [
            i
            for i, (a, b, _) in enumerate(spec.parameters["edges"])
            if what.startswith(f"the link {a} - {b} ")
        ]
        return (
            ("edges", found[-1])
            if found
            else ("switches",)
            if "has facts but no link" in what
            else ("edges",)
        )
    words = what.replace("'", " ").replace(",", " ").split()
    return (next((word for word in words if word in doc.data and word not in _EVERY), "shape"),)
