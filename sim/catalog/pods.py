"""Pods: which devices, wired how, driven by which library.  One YAML file each in `topologies/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from sim import shipped, strict_yaml
from sim.catalog import hardware
from sim.catalog.files import checked, find
from sim.hardware.device import Fact
from sim.network import topology
from sim.network.topology import Graph
from sim.strict_yaml import Document, Fault, ScenarioError
from sim.units import BytesPerSecond, Seconds


@dataclass(frozen=True)
class PodSpec:
    """A pod as its file says it.

    The link is one direction of one wire; on a switch its latency is the whole way through. `parameters` are what the
    shape is built with beside it, in SI units; `devices` the chips it makes. `graph` builds it.
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
        link: dict[str, Any] = {"bytes_per_s": self.link_bytes_per_s, "latency_s": self.link_latency_s}
        if self.shape == "edges":
            return topology.from_edges(**self.parameters, **link)
        return topology.build(self.shape, **self.parameters, **link)


Duplex = Literal["full", "half"]
Whole = Annotated[int, Field(ge=1, strict=True)]
Node = Annotated[int, Field(ge=0, strict=True)] | hardware.Text
_Rate = Annotated[BytesPerSecond, Field(gt=0)]
_Latency = Annotated[Seconds, Field(ge=0)]


class LinkFile(hardware.Sourced):
    """The `link:` of a topology file; one source for both numbers."""

    bytes_per_s: _Rate
    latency_s: _Latency
    duplex: Duplex = "full"


class UplinkFile(BaseModel):
    """The `nic:` or `spine:` of several nodes; without a source of its own, the link's stands for it."""

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
    "full_mesh", "switch", "crossbar", "ring", "mesh", "torus", "hypercube", "star", "fat_tree", "butterfly", "benes",
    "dragonfly", "multi_node", "edges",
]  # fmt: skip
_OWN = ("name", "shape", "device", "library", "link", "edges", "switches", "core", "nic", "spine")


class PodFile(BaseModel):
    """A file in `topologies/`.  Which parameters a shape has is written at its function in `sim/network`."""

    model_config = hardware.STRICT
    name: hardware.Text
    shape: ShapeName
    device: hardware.Text
    library: hardware.Text
    link: LinkFile
    devices: Whole | None = None
    dims: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
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
    edges: tuple[tuple[Node, Node] | tuple[Node, Node, EdgeFacts], ...] | None = None
    switches: dict[hardware.Text, SwitchFacts] | None = None
    chips_forward: Annotated[bool, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _an_edge_list_has_edges(self) -> Self:
        if (self.shape == "edges") != (self.edges is not None):
            raise ValueError("shape: edges goes with a list of `edges`, and no other shape does")
        if self.edges is None and (self.switches is not None or self.chips_forward is not None):
            raise ValueError("`switches` and `chips_forward` belong to an edge list; a shape knows its own")
        return self

    def parameters(self) -> dict[str, Any]:
        """What the shape's function is called with, beside rate and latency of the link."""
        given = {key: getattr(self, key) for key in type(self).model_fields if key not in _OWN}
        given = {key: value for key, value in given.items() if value is not None}
        if self.link.duplex != "full":
            given["duplex"] = self.link.duplex
        if self.core is not None:
            given["core_bytes_per_s"] = self.core
        given |= {key: up.link() for key in ("nic", "spine") if (up := getattr(self, key)) is not None}
        if self.edges is not None:
            given["edges"] = [(a, b, own[0].model_dump(exclude_none=True) if own else {}) for a, b, *own in self.edges]
            given["nodes"] = {
                name: {"forwarding": facts.forwarding} | ({"bytes_per_s": facts.core} if facts.core else {})
                for name, facts in (self.switches or {}).items()
            }
        return given


def pod(name_or_path: str | Path, changes: Mapping[str, float] | None = None) -> PodSpec:
    """The pod of that name, or in a file; `changes` sets `bytes_per_s` and `latency_s` of its links, in SI units.

    ScenarioError with every fault of the file, those that only building it shows among them.
    """
    path = find("topologies", name_or_path, shipped.folder("topologies"), shipped.names("topologies"))
    doc = strict_yaml.read(path)
    file = checked(PodFile, doc)
    facts = {f"link_{key}": hardware.fact(file.link, doc.raw(("link", key))) for key in ("bytes_per_s", "latency_s")}
    for level in ("nic", "spine"):
        if (up := getattr(file, level)) is not None:
            tag, source = (up.tag, up.source) if up.source else (file.link.tag, file.link.source)
            facts |= {
                f"{level}_{key}": Fact(doc.raw((level, key)) or "", tag or "INFER", source, "")
                for key in ("bytes_per_s", "latency_s")
            }
    spec = PodSpec(file.name, file.shape, 0, file.device, file.library, file.link.bytes_per_s, file.link.latency_s,
                   file.parameters(), facts)  # fmt: skip
    return hardware.changed(_counted(spec, doc), {f"link_{key}": value for key, value in (changes or {}).items()})


def _counted(spec: PodSpec, doc: Document) -> PodSpec:
    """The spec with its number of chips; ScenarioError if it cannot be built."""
    try:
        graph = spec.graph()
    except ValueError as error:
        raise ScenarioError([Fault(str(doc.path), doc.line(("shape",)), "shape", str(error))]) from None
    return replace(spec, devices=sum(isinstance(node, int) for node in graph))
