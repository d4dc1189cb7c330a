"""Rows: a technique, a metric, a trace format."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from sim.facts.outcome import Outcome
from sim.graph.graph import Graph, Layer, Op
from sim.results.metric import Metric
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
