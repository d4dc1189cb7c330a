"""What the parts of a network take on an edge and on a cloud: by device cards, or as they were
measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sim.dnn.trained import Network
from sim.graph.graph import Graph, Op, Tensor
from sim.graph.training import Held, held, training_step
from sim.hardware.cost import alone
from sim.hardware.device import Device
from sim.text import strict_json

Numbers = Mapping[str, float]


class Seconds(NamedTuple):
    """Of one batch on one side: forward, the head and its gradients, backward; the optimiser's step
    is in the backward."""

    forward_s: float
    exit_s: float
    backward_s: float


class Halves(Protocol):
    """What a batch takes on either side of a cut after so many stages."""

    def edge(self, stages: int) -> Seconds:
        """The stages before the cut, and the exit there."""

    def cloud(self, stages: int, batches: int, returns: bool) -> Seconds:
        """Those after it, of so many batches at once; `returns`: with the gradient of what came."""


class Priced(NamedTuple):
    """By device cards: every op of every pass alone on its device, one after the other."""

    network: Callable[[int], Network]  # of a batch of so many samples
    batch: int
    edge_device: Device
    cloud_device: Device
    optimiser: str

    def edge(self, stages: int) -> Seconds:
        """See `Halves`."""
        network = self.network(self.batch)
        step = training_step(network.first(stages), self.optimiser)
        # The exit's gradient goes on into what is before it.
        at = network.stages[stages - 1].output.name if stages else ""
        own = training_step(network.exit(stages), self.optimiser, asked=(at,)) if stages else None
        device = self.edge_device
        return Seconds(
            _seconds(step.forward, device),
            sum(_seconds(graph, device) for graph in own) if own else 0.0,
            _seconds(step.backward, device) + _seconds(step.update, device),
        )

    def cloud(self, stages: int, batches: int, returns: bool) -> Seconds:
        """See `Halves`."""
        network = self.network(self.batch * batches)
        at = (network.stages[stages - 1].output.name,) if returns and stages else ()
        step = training_step(network.rest(stages), self.optimiser, asked=at)
        device = self.cloud_device
        after = _seconds(step.backward, device) + _seconds(step.update, device)
        return Seconds(_seconds(step.forward, device), 0.0, after)


def _seconds(graph: Graph, device: Device) -> float:
    return sum(float(alone(op, device).seconds) for _, op in graph.ops())


def averaged_s(nbytes: float, device: Device) -> float:
    """Adding one edge's parameters to a sum: both are read, and the sum is written."""
    weights = Tensor("parameters", nbytes, "weight")
    op = Op(
        "average",
        "add",
        engine="vector",
        dtype="fp32",
        flop=nbytes / 4,
        reads=(weights, Tensor("sum", nbytes, "weight")),
        writes=(Tensor("sum", nbytes, "activation"),),
    )
    return float(alone(op, device).seconds)


class Measured(NamedTuple):
    """As a run has measured its layers (`podscope learn hierarchical --record`)."""

    layers: list[dict[str, Any]]
    heads: Mapping[str, Numbers]
    source: str

    def edge(self, stages: int) -> Seconds:
        """See `Halves`."""
        exit_s = sum(self._head(stages).values()) if stages else 0.0
        return Seconds(
            self._sum("edge_forward_s", 0, stages),
            exit_s,
            self._sum("edge_backward_s", 0, stages),
        )

    def cloud(self, stages: int, batches: int, returns: bool) -> Seconds:
        """See `Halves`; the last head is the classifier's."""
        if batches > 1:
            raise ValueError(f"{self.source} has the times of one batch, not of {batches} at once")
        last = self._head(len(self.layers))
        return Seconds(
            self._sum("cloud_forward_s", stages, len(self.layers)) + last["forward_s"],
            0.0,
            self._sum("cloud_backward_s", stages, len(self.layers)) + last["backward_s"],
        )

    def _head(self, stages: int) -> Numbers:
        return self.heads[self.layers[stages - 1]["name"]]

    def _sum(self, key: str, first: int, last: int) -> float:
        return sum(layer[key] for layer in self.layers[first:last])


class RecordFile(NamedTuple):
    """A recording of layer times, and of the link that it was made with."""

    times: Measured
    facts: Mapping[str, Any]  # network, width, image, batch
    link: Numbers
    machine: str


def read_record(path: str | Path) -> RecordFile:
    """A training record; ValueError says what is wrong with it, OSError that it cannot be read."""
    text = Path(path).read_text(encoding="utf-8")
    data = strict_json.loads(text)
    if not isinstance(data, dict) or data.get("kind") != "training_record":
        raise ValueError(f"{path} is no training record; `podscope learn hierarchical --record`")
    if data.get("version") != 1:
        raise ValueError(f"{path} has version {data.get('version')!r} of the format, not 1")
    try:
        layers = [_checked(layer) for layer in data["layers"]]
        heads = {name: _checked(each) for name, each in data["heads"].items()}
        missing = [layer["name"] for layer in layers if layer["name"] not in heads]
        if missing or not layers:
            raise ValueError(f"{path} has no times of a head at {', '.join(missing) or 'any cut'}")
        facts = {
            "network": data["network"],
            "width": float(data["width"]),
            "image": int(data["input"][1]),
            "batch": int(data["batch"]),
        }
        for layer in layers:
            for side in ("edge", "cloud"):
                for way in ("forward", "backward"):
                    layer[f"{side}_{way}_s"]
        for each in heads.values():
            each["forward_s"], each["backward_s"]
        link = _checked(data["link"])
        return RecordFile(
            Measured(layers, heads, Path(path).name), facts, link, str(data.get("machine", ""))
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} lacks {error} of a training record") from None


def _checked(each: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in each.items():
        if key.endswith("_s") and not (isinstance(value, int | float) and 0 <= value < 1e9):
            raise ValueError(f"{key} of a training record is {value!r}; seconds from 0 on are due")
    return dict(each)


def on_edge(network: Network, stages: int, optimiser: str, exits: bool) -> Held:
    """Bytes that training the stages before a cut keeps on the edge; without a stage, the batch
    that is sent."""
    if not stages:
        batch = network.batch * network.input.elements * 4.0
        return Held(0.0, 0.0, 0.0, batch)
    layers = network.first(stages).layers
    if exits:
        layers = (*layers, *network.exit(stages).layers)
    return held(layers, optimiser)
