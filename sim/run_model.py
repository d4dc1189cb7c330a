"""A workload on a model, from specs to Outcome: a batch to decode, or requests to serve."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simpy

from sim import catalog
from sim.engine.chip import Tenancy
from sim.engine.group import Group
from sim.engine.serving import Service, run_service
from sim.engine.steps import StaticBatch, run_static
from sim.hardware.device import Device
from sim.network.network import Network
from sim.scenario import Variant
from sim.scenario.schema import Decode, Requests
from sim.scenario.schema import Trace as TraceSource
from sim.serving.fleet import POLICIES, ROUTERS, Rules, replica_of
from sim.spans import Outcome, Timeline
from sim.techniques import Machine, apply
from sim.wiring import Assumption, assumptions, wiring, with_faults
from sim.workload.graph import Graph
from sim.workload.memory import Room, require, room
from sim.workload.model import Model
from sim.workload.stream import TraceStream, gathered
from sim.workload.trace_stream import open_trace
from sim.workload.transformer import Batch, Precision, decode_batch, kv_bytes_per_token, shard, transformer


class ModelPlan(NamedTuple):
    """A variant made ready: every part built and found to fit, nothing played yet."""

    variant: Variant
    device: Device
    network: Network
    model: Model
    precision: Precision
    room: Room
    trace: TraceStream | None
    notes: list[str]
    assumptions: list[Assumption]
    seed: int


def prepare_model(v: Variant, work: Decode | Requests, seed: int) -> ModelPlan:
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
        trace, warning = _trace(work.trace, model)
        notes += warning
        if work.prefix_caching:
            _require_blocks(trace, work)
        wrong = [r for r in work.slow if r >= work.replicas]
        if wrong:
            raise ValueError(f"slow: no replica {wrong[0]}; they are 0 to {work.replicas - 1}")
    probe = transformer(model, precision, ranks, decode_batch([1]))
    apply(probe, Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks), v.techniques)  # says now what does not apply
    rows = assumptions({device.name: device.facts, library.name: library.facts, pod.name: pod.facts})
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    return ModelPlan(v, device, network, model, precision, space, trace, notes, rows, seed)


def play_model(plan: ModelPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    v, graph_of, group_of = plan.variant, partial(graph, plan), partial(group, plan)
    timeline = Timeline() if v.record.enabled else None
    work = v.workload
    if isinstance(work, Decode):
        static = StaticBatch(work.batch, work.prompt_tokens, work.output_tokens, work.every_step)
        outcome = run_static(group_of, graph_of, static, timeline, progress)
    else:
        assert plan.trace is not None and isinstance(work, Requests)
        chunks = [gathered(plan.trace)] if work.closed_loop else plan.trace.chunks()
        outcome = run_service(
            chunks, service(plan, work), group_of, graph_of, plan.device, plan.network, plan.model,
            timeline, progress,
        )  # fmt: skip
        complete(plan, outcome)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
    return outcome


def complete(plan: ModelPlan, outcome: Outcome) -> None:
    """Add to what was served what the scenario and the catalogue know of it."""
    work, serving = plan.variant.workload, outcome.serving
    assert isinstance(work, Requests) and serving is not None and plan.trace is not None
    outcome.serving = serving._replace(
        slo_s={name: limit for name, limit in work.slo if limit is not None}, power_w=plan.device.power_w,
        price_per_hour=plan.device.price_per_hour,
    )  # fmt: skip
    outcome.warnings[:0] = plan.trace.warnings


def graph(plan: ModelPlan, batch: Batch) -> Graph:
    """The op graph of one pass, techniques applied."""
    v, device, ranks = plan.variant, plan.device, plan.variant.parallel.tensor
    plain = transformer(plan.model, plan.precision, ranks, batch)
    return apply(plain, Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks), v.techniques)


def group(plan: ModelPlan, timeline: Timeline | None, tenancy: Tenancy | None = None) -> Group:
    """Idle ranks for the model, in a simulation of their own or on the chips of other tenants."""
    v = plan.variant
    return Group(
        tenancy.env if tenancy else simpy.Environment(), plan.device, plan.network,
        v.parallel.tensor, stragglers=v.pod.stragglers, unfold=bool(v.pod.faults), timeline=timeline,
        max_spans=v.record.max_spans, tenancy=tenancy,
    )  # fmt: skip


def _require_blocks(trace: TraceStream, work: Requests) -> None:
    """ValueError if the prefix cache has nothing to go by."""
    if not trace.block_tokens:
        raise ValueError(f"prefix_caching: the trace {trace.name} does not say which prefixes are equal")
    if trace.block_tokens % work.block_tokens:
        raise ValueError(
            f"prefix_caching: the trace names blocks of {trace.block_tokens} tokens, which block_tokens "
            f"({work.block_tokens}) must divide"
        )


def service(plan: ModelPlan, work: Requests) -> Service:
    """The fleet as the scenario wants it."""
    ranks = plan.variant.parallel.tensor
    unit = plan.trace.block_tokens or 0 if plan.trace and work.prefix_caching else 0
    blocks = int((work.kv_tokens or plan.room.kv_tokens) // work.block_tokens)
    if blocks < 1:
        raise ValueError(
            f"the KV-cache holds {plan.room.kv_tokens:,.0f} tokens, less than a block of {work.block_tokens}"
        )
    each = kv_bytes_per_token(plan.model, plan.precision, ranks)
    drafts = work.speculative.acceptance if work.speculative else []
    replicas = [
        replica_of(
            POLICIES[work.policy], work.max_batch, work.max_batched_tokens, work.block_tokens, blocks,
            reserve=work.kv == "reserve", swap_s=each / work.host_bandwidth if work.kv == "swap" else np.nan,
            drafts=len(drafts), overhead_s=work.overhead, slow=work.slow.get(r, 1.0),
        )
        for r in range(work.replicas)
    ]  # fmt: skip
    rules = Rules(ROUTERS[work.router], 0, plan.seed, work.fidelity == "step", work.closed_loop, unit, False,
                  work.prefix_eviction == "tail_first")  # fmt: skip
    record = plan.variant.record
    end_s = record.from_s + 0.1 if work.fidelity == "step" else np.inf
    return Service(
        rules, np.concatenate(replicas).view(np.recarray), work.fidelity == "op",
        (record.from_s, end_s if record.until_s is None else record.until_s), tuple(drafts), work.closed_loop,
        work.trace.limit or np.inf,
    )  # fmt: skip


def _trace(t: TraceSource, model: Model) -> tuple[TraceStream, list[str]]:
    """The recorded trace, or the fallback with a warning that says so."""
    file, warning = t.file, []
    if not Path(file).exists() and t.fallback:
        file, warning = (
            t.fallback,
            [f"{t.file} is not there; replaying the generated trace {Path(t.fallback).name} instead"],
        )
    stream = open_trace(file, format=t.format, first=t.first, limit=t.limit, speed=t.speed, bad_rows=t.bad_rows,
                        max_tokens=model.max_tokens or 1_000_000)  # fmt: skip
    for _ in itertools.islice(stream.chunks(), 1):
        pass  # what is wrong with the beginning is told before anything runs
    return stream, warning
