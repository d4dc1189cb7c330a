"""PRESERVE: while a collective runs, a second stream pulls the next weights and KV-cache from HBM
into L2.

Yüzügüler, Zhuang, Cavigelli, arXiv 2501.08192. The pass follows the authors' insertion algorithm:
from each collective, breadth-first to the next one; at a MatMul the weight, at an attention the
KV-cache except its newest entries; until the bytes of the segment reach the cap. Says nothing of
how the copy engine is programmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.graph.graph import After, Graph, Layer, Op, Tensor, is_collective
from sim.techniques.machine import Machine
from sim.text.units import Bytes

# Which experts' weights will be read is not known before the router has run: they are not fetched.
_WEIGHTS = ("matmul", "head_matmul")
_CACHES = ("attention", "absorb", "naive", "rebuild")


class Options(BaseModel):
    """Options of `preserve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cap: Bytes | None = Field(
        None,
        description="bytes to prefetch per segment; default: L2 less the activations' working set",
    )
    join: bool = Field(
        False,
        description="make the op after a collective wait until the segment's prefetches have ended",
    )
    prefetch: Literal["both", "weights", "kv"] = Field("both", description="what to prefetch")
    whole_tensors: bool = Field(
        False,
        description="stop at the first tensor that does not fit whole, instead of taking its head",
    )


def preserve(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Insert the prefetches of every segment; the result shares layers as `graph` does."""
    if not any(is_collective(op) for layer in dict.fromkeys(graph.layers) for op in layer.ops):
        raise ValueError(
            "preserve: the graph has no collective to hide prefetches under (tensor parallel "
            "degree 1?)"
        )
    cap = (
        options.cap if options.cap is not None else max(machine.l2_bytes - working_set(graph), 0.0)
    )
    made: dict[tuple[Layer, ...], Layer] = {}
    layers = []
    for index in range(len(graph.layers)):
        window = graph.layers[
            index : index + 2
        ]  # no segment of a decoder reaches past the next layer's first collective
        if window not in made:
            made[window] = _with_prefetches(window, cap, options)
        layers.append(made[window])
    return Graph(tuple(layers))


def working_set(graph: Graph) -> float:
    """The most bytes of activations that one op touches: what must stay in L2 beside the prefetched
    data."""
    return max(
        sum(t.nbytes for t in (*op.reads, *op.writes) if t.kind == "activation")
        for layer in dict.fromkeys(graph.layers)
        for op in layer.ops
    )


def segment(window: tuple[Layer, ...], collective: int) -> Iterator[tuple[int, Op]]:
    """Ops from the one after `collective` (its place in the first layer) up to the next collective,
    as (layers ahead, op)."""
    for ahead, layer in enumerate(window):
        for op in layer.ops[collective + 1 if ahead == 0 else 0 :]:
            if is_collective(op):
                return
            yield ahead, op


def _with_prefetches(window: tuple[Layer, ...], cap: float, options: Options) -> Layer:
    layer = window[0]
    ops: list[Op] = []
    joins: tuple[After, ...] = ()
    for place, op in enumerate(layer.ops):
        ops.append(replace(op, after=op.after + joins) if joins and op.stream == "compute" else op)
        if joins and op.stream == "compute":
            joins = ()
        if not is_collective(op):
            continue
        fetched = [
            # A prefetch starts when its collective may: it waits for the same ops.
            Op(
                f"prefetch {tensor.name}",
                "prefetch",
                "prefetch",
                reads=(tensor._replace(ahead=ahead),),
                after=op.after,
            )
            for ahead, tensor in _choose(window, place, cap, options)
        ]
        ops += fetched
        if options.join and fetched:
            joins = (After(fetched[-1].name),)
    return Layer(layer.name, tuple(ops))


def _choose(
    window: tuple[Layer, ...], place: int, cap: float, options: Options
) -> Iterator[tuple[int, Tensor]]:
    used, chosen = 0.0, set()
    for ahead, op in segment(window, place):
        for tensor in () if op.idle else op.reads:
            wanted = (
                tensor.kind == "weight" and op.kind in _WEIGHTS and options.prefetch != "kv"
            ) or (tensor.kind == "kv" and op.kind in _CACHES and options.prefetch != "weights")
            if not wanted or not tensor.nbytes or tensor.name in chosen:
                continue
            chosen.add(tensor.name)
            room = cap - used
            if room <= 0 or (options.whole_tensors and tensor.nbytes > room):
                return
            used += tensor.nbytes
            yield ahead, tensor._replace(nbytes=min(tensor.nbytes, room))
