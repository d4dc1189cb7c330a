"""Channels between edges and a cloud: YAML files of numbers with sources, and what-if edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from sim.catalog.files import checked, find
from sim.catalog.hardware import STRICT, Number, Rate, Text, Time, changed, told
from sim.catalog.ranges import over
from sim.network.channel import Channel
from sim.text import strict_yaml
from sim.text.units import Watts

Power = Number[Annotated[Watts, Field(gt=0)]]


class ChannelFile(BaseModel):
    """A file in `sim/catalog/channels`; the fields are those of `sim.network.channel.Channel`."""

    model_config = STRICT
    name: Text
    up_bytes_per_s: Rate
    down_bytes_per_s: Rate
    latency_s: Time
    jitter_s: Time | None = None
    loss: Number[Annotated[float, Field(ge=0, lt=1, strict=True)]] | None = None
    send_w: Power | None = None
    receive_w: Power | None = None


def channel(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> Channel:
    """The channel of that name in the catalogue, or in a file; `changes` maps fields to values in
    SI units.  ValueError, ScenarioError."""
    doc = strict_yaml.read(find("channels", name_or_path))
    file = checked(ChannelFile, doc)
    given: dict[str, Any] = {}
    facts = {}
    for key, entry in file:
        if isinstance(entry, Number):
            given[key] = entry.value
            facts[key] = told(entry, doc, (key,))
        elif entry is not None:
            given[key] = entry
    return changed(Channel(**given, facts=facts), over(file.name, facts, changes))
