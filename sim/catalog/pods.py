"""Pods: which devices, wired how, driven by which library.  One YAML file each in `topologies/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from sim import shipped, strict_yaml
from sim.catalog import hardware
from sim.catalog.files import checked, find
from sim.hardware.device import Fact
from sim.units import BytesPerSecond, Seconds


@dataclass(frozen=True)
class PodSpec:
    """A pod as its file says it.

    The link is one direction of one pair (full_mesh), of a device's port into the switch (switch), or between
    neighbours (ring); its latency is the whole way. Not modelled: a second level of wires, links of unequal rates.
    """

    name: str
    shape: str
    devices: int
    device: str
    library: str
    link_bytes_per_s: float
    link_latency_s: float
    facts: Mapping[str, Fact] = field(default_factory=dict)


class LinkFile(hardware.Sourced):
    """The `link:` of a topology file; one source for both numbers."""

    bytes_per_s: Annotated[BytesPerSecond, Field(gt=0)]
    latency_s: Annotated[Seconds, Field(ge=0)]


class PodFile(BaseModel):
    """A file in `topologies/`."""

    model_config = hardware.STRICT
    name: hardware.Text
    shape: Literal["full_mesh", "switch", "ring"]
    devices: Annotated[int, Field(ge=1, strict=True)]
    device: hardware.Text
    library: hardware.Text
    link: LinkFile


def pod(name_or_path: str | Path, changes: Mapping[str, float] | None = None) -> PodSpec:
    """The pod of that name, or in a file; `changes` sets `bytes_per_s` and `latency_s` of its links, in SI units."""
    path = find("topologies", name_or_path, shipped.folder("topologies"), shipped.names("topologies"))
    doc = strict_yaml.read(path)
    file = checked(PodFile, doc)
    facts = {f"link_{key}": hardware.fact(file.link, doc.raw(("link", key))) for key in ("bytes_per_s", "latency_s")}
    spec = PodSpec(
        file.name,
        file.shape,
        file.devices,
        file.device,
        file.library,
        file.link.bytes_per_s,
        file.link.latency_s,
        facts,
    )
    return hardware.changed(spec, {f"link_{key}": value for key, value in (changes or {}).items()})
