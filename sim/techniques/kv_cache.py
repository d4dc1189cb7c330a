"""What the techniques that make a KV-cache smaller have in common: how the work of attention is
changed, and the op for what a kernel does to entries in turn with the rest.

They change a cache of keys and values. A latent cache (MLA) is a low rank already, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.graph.graph import Graph, Layer, Op
from sim.graph.work import AttentionWork

Change = Callable[[AttentionWork], AttentionWork]


def attended(layer: Layer, name: str) -> tuple[Op, AttentionWork] | None:
    """The attention of a layer, if it has one, and its work; ValueError where the technique `name`
    cannot change it."""
    for op in layer.ops:
        if op.work is not None and op.work.latent is not None:
            raise ValueError(
                f"{name}: the model has latent attention (MLA), whose cache is of a low rank "
                "already and holds no keys and values to compress; precision.kv narrows it"
            )
        if op.kind == "prefetch" or (op.work is None and any(t.kind == "kv" for t in op.reads)):
            raise ValueError(
                f"{name}: another technique has settled what {op.name} reads; list {name} before "
                "that one"
            )
    for op in layer.ops:
        if op.kind == "attention" and op.work is not None:
            return op, op.work
    return None


def changed(graph: Graph, name: str, change: Change) -> Graph:
    """The graph with the work of each attention changed; layers that were one stay one."""
    made = {layer: _changed(layer, name, change) for layer in dict.fromkeys(graph.layers)}
    return Graph(tuple(made[layer] for layer in graph.layers))


def _changed(layer: Layer, name: str, change: Change) -> Layer:
    found = attended(layer, name)
    if found is None:
        return layer
    work = change(found[1])
    return layer if work == found[1] else with_work(layer, work)


def with_work(layer: Layer, work: AttentionWork) -> Layer:
    """The layer with this work of its attention.

    What its kernel does to entries in turn with the rest is an op before it, which is not launched:
    it is a part of that kernel.
    """
    ops: list[Op] = []
    for op in layer.ops:
        if op.kind == "prepare":
            continue
        op = op if op.work is None else op.attending(work)
        if op.kind == "attention" and any(each.overlap < 1.0 for each in work.prepared):
            own = Op("kv_prepare", "prepare", engine="matrix", dtype=op.dtype, launch=False)
            ops.append(replace(own.attending(work), after=op.after))
            op = replace(op, after=())
        ops.append(op)
    return Layer(layer.name, tuple(ops))
