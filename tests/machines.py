"""Small machines and models for tests: round numbers, so that answers can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import simpy

from sim.engine.group import Group, members_of
from sim.facts.timeline import Timeline
from sim.graph.footprint import Footprint, footprint
from sim.graph.model import Model
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.device import Device
from sim.network import topology
from sim.network.library import Library
from sim.network.network import Network
from sim.techniques import TECHNIQUES, Machine, apply

DEVICE = Device(
    name="test chip",
    matrix_flop_per_s={"fp16": 400e12, "int8": 800e12},
    vector_flop_per_s=10e12,
    hbm_bytes=64e9,
    hbm_bytes_per_s=1e12,
    l2_bytes=200e6,
    l2_bytes_per_s=5e12,
    kernel_overhead_s=4e-6,
    vector_overhead_s=5e-6,
    prefetch_overhead_s=1e-6,
)
INT8 = Precision("int8", "int8", "fp16")
MODEL = Model(
    "test model", layers=4, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=32000
)
LIBRARY = Library("test library", launch_s=30e-6, step_s=0.5e-6)


def network(
    ranks=8, shape="full_mesh", bytes_per_s=25e9, latency_s=1e-6, library=LIBRARY, algorithm="auto"
):
    return Network(topology.build(shape, ranks, bytes_per_s, latency_s), library, algorithm)


def group(
    device=DEVICE,
    ranks=8,
    timeline=None,
    pod=None,
    library=LIBRARY,
    graph_of=None,
    stragglers=None,
    **more,
) -> Group:
    """Equal members but for stragglers; `graph_of` is not needed where passes are handed over."""
    return Group(
        simpy.Environment(),
        members_of(device, graph_of, ranks, stragglers),
        pod or network(max(ranks, 2), library=library),
        timeline=timeline,
        **more,
    )


def graph(batch, *techniques, model=MODEL, ranks=8, device=DEVICE, precision=INT8):
    """The op graph of `batch`; `techniques` are names or (name, {option: value})."""
    chosen = []
    for technique in techniques:
        name, options = (technique, {}) if isinstance(technique, str) else technique
        chosen.append(
            (
                name,
                TECHNIQUES[name].options.model_construct(
                    **{**TECHNIQUES[name].options().model_dump(), **options}
                ),
            )
        )
    return apply(
        transformer(model, precision, Parallel(ranks), batch),
        Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks),
        chosen,
    )


def occupied(model, precision, parallel, stage=0, new_tokens=1000) -> Footprint:
    """What a rank of a model occupies without techniques."""
    return footprint(
        lambda batch: transformer(model, precision, parallel, batch, stage), parallel, new_tokens
    )


def seconds(some_graph, device=DEVICE, ranks=8, passes=1, **more) -> float:
    """Time of the last of `passes` plays of a graph."""
    some = group(device, ranks, **more)
    start = 0.0
    for _ in range(passes):
        start = some.env.now
        some.env.run(some.env.process(some.run(some_graph)))
    return some.env.now - start


def recorded(some_graph, device=DEVICE, ranks=8, **more) -> tuple[Timeline, Group]:
    timeline = Timeline()
    some = group(device, ranks, timeline, **more)
    some.env.run(some.env.process(some.run(some_graph)))
    some.close()
    return timeline, some


__all__ = [
    "DEVICE",
    "LIBRARY",
    "MODEL",
    "graph",
    "group",
    "network",
    "occupied",
    "recorded",
    "replace",
    "seconds",
]


def flop_of(graph):
    """FLOP of one rank."""
    return sum(op.flop for _, op in graph.ops())


def read_bytes(graph, kind):
    """Bytes of tensors of `kind` that the compute stream's ops read."""
    ops = (op for _, op in graph.ops() if op.stream == "compute" and not op.idle)
    return sum(t.nbytes for op in ops for t in op.reads if t.kind == kind)
