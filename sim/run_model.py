"""A workload on a model, from specs to Outcome: a batch to decode, or requests to serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import simpy

from sim import catalog
from sim.engine.group import Group
from sim.engine.serving import Limits, replay
from sim.engine.steps import StaticBatch, run_static
from sim.hardware.device import Device
from sim.network.network import Network
from sim.scenario import Variant
from sim.scenario.schema import Decode, Requests
from sim.scenario.schema import Trace as TraceSource
from sim.spans import Outcome, Timeline
from sim.techniques import Machine, apply
from sim.wiring import Assumption, assumptions, wiring, with_faults
from sim.workload.graph import Graph
from sim.workload.memory import Room, require, room
from sim.workload.model import Model
from sim.workload.requests import Trace, read_trace
from sim.workload.transformer import Batch, Precision, decode_batch, shard, transformer


class ModelPlan(NamedTuple):
    """A variant made ready: every part built and found to fit, nothing played yet."""

    variant: Variant
    device: Device
    network: Network
    model: Model
    precision: Precision
    room: Room
    trace: Trace | None
    notes: list[str]
    assumptions: list[Assumption]


def prepare_model(v: Variant, work: Decode | Requests) -> ModelPlan:
    """Build the machine and the model, and see that the one fits the other; ValueError if it does not."""
    pod, library, graph = wiring(v)
    device = catalog.device(v.pod.device or pod.device, v.pod.change.device.given())
    model, ranks = catalog.model(v.model), v.parallel.tensor
    precision = Precision(**v.precision.model_dump())
    network = Network(with_faults(graph, v.pod.faults, [range(ranks)]), library, v.pod.collective)
    if ranks > 1:
        network.members(ranks)  # the pod has that many chips
    notes, trace = list(shard(model, ranks).notes), None
    if isinstance(work, Decode):
        longest = work.prompt_tokens + work.output_tokens
        space = room(model, precision, ranks, device.hbm_bytes, work.batch)
        require(model, space, precision, ranks, work.batch * longest)
        if 0 < model.max_tokens < longest:
            notes.append(f"{model.name} was made for {model.max_tokens:,} tokens; this run goes to {longest:,}")
    else:
        space = room(model, precision, ranks, device.hbm_bytes * work.hbm_utilisation, work.max_batched_tokens)
        trace = _trace(work.trace, model)
        notes += trace.warnings
    probe = transformer(model, precision, ranks, decode_batch([1]))
    apply(probe, Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks), v.techniques)  # says now what does not apply
    rows = assumptions({device.name: device.facts, library.name: library.facts, pod.name: pod.facts})
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    return ModelPlan(v, device, network, model, precision, space, trace, notes, rows)


def play_model(plan: ModelPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    v, ranks = plan.variant, plan.variant.parallel.tensor
    machine = Machine(plan.device.l2_bytes, plan.device.hbm_bytes_per_s, ranks)

    def graph_of(batch: Batch) -> Graph:
        return apply(transformer(plan.model, plan.precision, ranks, batch), machine, v.techniques)

    def group_of(timeline: Timeline | None) -> Group:
        return Group(
            simpy.Environment(), plan.device, plan.network, ranks, stragglers=v.pod.stragglers,
            unfold=bool(v.pod.faults), timeline=timeline, max_spans=v.record.max_spans,
        )  # fmt: skip

    timeline = Timeline() if v.record.enabled else None
    work = v.workload
    if isinstance(work, Decode):
        static = StaticBatch(work.batch, work.prompt_tokens, work.output_tokens, work.every_step)
        outcome = run_static(group_of, graph_of, static, timeline, progress)
    else:
        assert plan.trace is not None and isinstance(work, Requests)
        limits = Limits(work.max_batch, work.max_batched_tokens, plan.room.kv_tokens)
        window = v.record.from_s, v.record.until_s or float("inf")
        outcome = replay(group_of(timeline), graph_of, plan.trace.requests, limits, window, progress)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
    return outcome


def _trace(t: TraceSource, model: Model) -> Trace:
    """The recorded trace, or the fallback with a warning that says so."""
    file, warning = t.file, []
    if not Path(file).exists() and t.fallback:
        file, warning = (
            t.fallback,
            [f"{t.file} is not there; replaying the generated trace {Path(t.fallback).name} instead"],
        )
    read = read_trace(file, format=t.format, first=t.first, limit=t.limit, speed=t.speed, bad_rows=t.bad_rows,
                      max_tokens=model.max_tokens or 1_000_000)  # fmt: skip
    return read._replace(warnings=warning + read.warnings)
