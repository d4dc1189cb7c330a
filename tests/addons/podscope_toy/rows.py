"""Rows: a technique, a metric, a trace format; an interconnect, a dataflow, a DNN and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sim.dnn.files import Format
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import LENGTH, Known
from sim.facts.outcome import Outcome
from sim.graph.graph import Graph, Layer, Op
from sim.results.metric import Metric
from sim.serving.fleet import Seen
from sim.serving.order import Head, Order
from sim.serving.router import Asks, Router
from sim.systolic.dataflow import Dataflow
from sim.systolic.interconnect import Interconnect, crossbar
from sim.techniques import Technique
from sim.techniques.machine import Machine
from sim.traces.formats import FORMATS


class Options(BaseModel):
    """Options of `half_flop`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: float = 0.5


def _half(op: Op, share: float) -> Op:
    return replace(op, flop=op.flop * share, lone_flop=op.lone_flop * share)


def _rewrite(graph: Graph, machine: Machine, options: Options) -> Graph:
    made = {
        layer: Layer(layer.name, tuple(_half(op, options.share) for op in layer.ops))
        for layer in dict.fromkeys(graph.layers)
    }
    return Graph(tuple(made[layer] for layer in graph.layers))


HALF_FLOP = Technique(_rewrite, Options, "every op does a share of its FLOP")


def _bytes_a_token(outcome: Outcome) -> float | None:
    moved = outcome.totals.bytes.get("HBM", 0.0)
    return moved / outcome.tokens if outcome.tokens else None


BYTES_A_TOKEN = Metric(
    name="hbm_bytes_a_token",
    unit="B",
    better="lower",
    label="HBM bytes a token",
    of="bytes over the HBM port of one rank / output tokens",
    value=_bytes_a_token,
)
SEMICOLONS = replace(FORMATS["plain"], columns=("when", "asked", "answered"))


def _mlp(length: int, batch: int = 1) -> Dnn:
    return Dnn("mlp", (GemmLayer("up", length * batch, 64, 96, raw_input=True),))


def _read(path: Path, *, batch: int = 1) -> tuple[Dnn, tuple[str, ...]]:
    return _mlp(int(path.read_text()), batch), ("it was read",)


TWIN = Interconnect("twin", crossbar, lambda ports: 3.0 * ports, free=True, ours=True)
TURNED = Dataflow(name="turned", stays="W", m="partition", n="cols", k="rows", scale_sim="")
MLP = Known("mlp", _mlp, LENGTH)
MLP_FILE = Format(".mlp", "MLP", _read)


def _last(seen: Seen, asks: Asks) -> int:
    return max(r for r in range(seen.first, seen.first + seen.replicas) if seen.up[r])


def _sooner(a: Head, b: Head) -> bool:
    return a.rank > b.rank


LAST = Router("last", "the last replica that is up", _last)
PATIENT = Order("patient", "the least urgent class first", _sooner)
