"""What a scenario says of neural networks on an array of pods."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sim.dnn.known import INPUTS, KNOWN
from sim.scenario.fields import (
    Count,
    DnnCardName,
    FilePath,
    ModelName,
    Seconds,
    Section,
    plain_name,
)
from sim.scenario.trace import Trace
from sim.text.choice import Choice

# Options of a network, by what they belong to.
_OPTIONS = {
    "network": (*INPUTS,),
    "model": ("phase", "tokens", "layers"),
    "file": ("sizes",),
    "card": (),
}


class DnnSpec(Section):
    """One neural network, known by name, read from a file or a card, or a decoder of the
    catalogue."""

    network: Annotated[str, Choice(KNOWN)] | None = Field(
        default=None, description="default: the name it has here"
    )
    file: FilePath | None = Field(
        default=None, description="matrix products in CSV, or a network in ONNX"
    )
    model: ModelName | None = Field(
        default=None, description="a decoder: name of the catalogue, or a file"
    )
    card: DnnCardName | None = Field(
        default=None, description="of a searched network: a name, or a JSON file"
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
        named = [
            key for key in ("network", "file", "model", "card") if getattr(self, key) is not None
        ]
        source = named[0] if named else "network"
        return self.unless(
            (
                len(named) > 1,
                f"{' and '.join(named)} are two ways to say which network this is; give one",
            ),
            *(
                (
                    key in self.model_fields_set,
                    f"{key} has no part in a network given by `{source}`; take it out",
                )
                for owner, keys in _OPTIONS.items()
                if owner != source
                for key in keys
            ),
        )


def _empty(networks: Any) -> Any:
    """`resnet50:` with nothing behind it is the network of that name, as it is."""
    if not isinstance(networks, dict):
        return networks
    return {name: {} if network is None else network for name, network in networks.items()}


NetworkName = Annotated[str, AfterValidator(partial(plain_name, "network"))]
NetworksByName = Annotated[
    dict[NetworkName, DnnSpec],
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
        "tenants. interleaved: one schedule for all that have work, later ones filling what "
        "earlier ones leave; partitioned: each has pods of its own, and as much of the memory's "
        "bandwidth; time_sliced: one at a time, in turns",
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
        bare = [name for name in self.networks if name not in traced]
        own = [name for name, network in self.networks.items() if network.pods is not None]
        return self.unless(
            (
                traced and bare,
                f"{' '.join(traced[:1])} has a trace and {' '.join(bare[:1])} has none; give all "
                "of them one, or none",
            ),
            (
                traced and self.sharing == "alone",
                "a network that is `alone` is run once; say how they share the array, or take "
                "trace out",
            ),
            (
                self.quantum is not None and (self.sharing != "time_sliced" or not traced),
                "quantum is for time_sliced networks that have traces; take it out",
            ),
            (self.quantum == 0, "a quantum is longer than 0 s"),
            (
                own and self.sharing != "partitioned",
                f"{' '.join(own[:1])} has pods of its own, which only partitioned networks have; "
                "take pods out",
            ),
        )
