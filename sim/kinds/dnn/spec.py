"""What a scenario says of neural networks on an array of pods."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sim.dnn.known import INPUTS, KNOWN
from sim.scenario.fields import Count, FilePath, ModelName, Seconds, Section
from sim.scenario.trace import Trace
from sim.text.choice import Choice

# Options of a network, and what they belong to.
_OF_KNOWN, _OF_MODELS, _OF_FILES = tuple(INPUTS), ("phase", "tokens", "layers"), ("sizes",)


class DnnSpec(Section):
    """One neural network, known by name, read from a file, or a decoder of the catalogue."""

    network: Annotated[str, Choice(KNOWN)] | None = Field(
        default=None, description="default: the name it has here"
    )
    file: FilePath | None = Field(
        default=None, description="matrix products in CSV, or a network in ONNX"
    )
    model: ModelName | None = Field(
        default=None, description="a decoder: name of the catalogue, or a file"
    )
    image: Count | None = Field(
        default=None, description="pixels each way; default: that of the workload"
    )
    length: Count | None = Field(
        default=None, description="tokens, of a BERT; default: that of the workload"
    )
    batch: Count | None = Field(default=None, description="default: that of the workload")
    phase: Literal["prefill", "decode"] = Field(default="prefill", description="of a decoder")
    tokens: Count = Field(
        default=128, description="of a decoder: the prompt, or in `decode` the context"
    )
    layers: Count | None = Field(
        default=None, description="of a decoder, the first so many; default: all"
    )
    sizes: dict[str, Count] = Field(
        default={}, description="of an ONNX file: its free dimensions but the batch"
    )
    pods: Count | None = Field(
        default=None, description="of its own, where partitioned; default: an equal share"
    )
    trace: Trace | None = Field(
        default=None, description="when inferences are asked for; default: one, at the start"
    )

    @model_validator(mode="after")
    def _one_source(self) -> DnnSpec:
        named = [key for key in ("network", "file", "model") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(
                f"{' and '.join(named)} are two ways to say which network this is; give one"
            )
        source = named[0] if named else "network"
        fitting = {"network": _OF_KNOWN, "model": _OF_MODELS, "file": _OF_FILES}
        for owner, keys in fitting.items():
            stray = [key for key in keys if key in self.model_fields_set and owner != source]
            if stray:
                raise ValueError(
                    f"{stray[0]} has no part in a network given by `{source}`; take it out"
                )
        return self


def network_name(name: str) -> str:
    """The name of a network or family, as it may be; ValueError if not."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            "a network's name is made of letters, digits and '_', and begins with a letter"
        )
    return name


def _empty(networks: Any) -> Any:
    """`resnet50:` with nothing behind it is the network of that name, as it is."""
    if not isinstance(networks, dict):
        return networks
    return {name: {} if network is None else network for name, network in networks.items()}


NetworksByName = Annotated[
    dict[Annotated[str, AfterValidator(network_name)], DnnSpec],
    Field(min_length=1, max_length=64),
    BeforeValidator(_empty),
]


class Networks(Section):
    """Inference of several networks on a pod array: each alone, or tenants of it."""

    kind: Literal["networks"]
    networks: NetworksByName
    sharing: Literal["alone", "interleaved", "partitioned", "time_sliced"] = Field(
        default="alone",
        description="alone: each by itself, one after the other, a benchmark; the others are "
        "tenants. interleaved: one "
        "schedule for all that have work, later ones filling what earlier ones leave; "
        "partitioned: each has pods of "
        "its own, and as much of the memory's bandwidth; time_sliced: one at a time, in turns",
    )
    quantum: Seconds | None = Field(
        default=None,
        description="of time_sliced: how long a turn lasts at most; default: an inference",
    )
    image: Count = INPUTS["image"].default
    length: Count = INPUTS["length"].default
    batch: Count = 1
    partition: Count | Literal["none"] | None = Field(
        default=None,
        description="rows of X in a tile; none: all of them; default: as many as an array has rows",
    )
    exact: bool = Field(
        default=False, description="keep the habits of the authors' simulator; see docs/systolic.md"
    )

    @model_validator(mode="after")
    def _who_comes_when(self) -> Networks:
        traced = [name for name, network in self.networks.items() if network.trace]
        if traced and len(traced) < len(self.networks):
            without = next(name for name in self.networks if name not in traced)
            raise ValueError(
                f"{traced[0]} has a trace and {without} has none; give all of them one, or none"
            )
        if traced and self.sharing == "alone":
            raise ValueError(
                "a network that is `alone` is run once; say how they share the array, or take "
                "trace out"
            )
        if self.quantum is not None and (self.sharing != "time_sliced" or not traced):
            raise ValueError("quantum is for time_sliced networks that have traces; take it out")
        if self.quantum == 0:
            raise ValueError("a quantum is longer than 0 s")
        own = [name for name, network in self.networks.items() if network.pods is not None]
        if own and self.sharing != "partitioned":
            raise ValueError(
                f"{own[0]} has pods of its own, which only partitioned networks have; take pods out"
            )
        return self
