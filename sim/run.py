"""The whole path on one screen: scenario file in, Result out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import simpy

from sim import catalog, scenario
from sim.engine.group import Group
from sim.engine.serving import Limits, replay
from sim.engine.steps import StaticBatch, run_static
from sim.hardware.device import Device
from sim.network import topology
from sim.network.collectives import Network
from sim.results import Result, build
from sim.scenario import Scenario, ScenarioError, Variant
from sim.spans import Outcome, Timeline
from sim.techniques import Machine, apply
from sim.version import VERSION
from sim.workload.graph import Graph
from sim.workload.memory import Room, require, room
from sim.workload.model import Model
from sim.workload.requests import Trace, read_trace
from sim.workload.transformer import Batch, Precision, decode_batch, shard, transformer

Progress = Callable[[float, str], None]


def run(path: str | Path, overrides: scenario.Overrides = (), progress: Progress = lambda share, label: None) -> Result:
    """Run every variant of the scenario in file `path` (or the shipped one of that name).

    `overrides` are "key=value" texts, or a mapping from dotted key to value. Raises ScenarioError, listing every fault, if
    anything in the scenario is wrong.
    """
    s = scenario.load(path, overrides)
    plans = prepare(s)
    outcomes = {}
    for index, (name, plan) in enumerate(plans.items()):

        def step(share: float, index: int = index, name: str = name) -> None:
            progress((index + share) / len(plans), name)

        outcomes[name] = play(plan, step)
    return build(scenario=s.name, question=s.question, version=VERSION, seed=s.seed, outcomes=outcomes, expect=s.expect,
                 resolved=s.resolved)  # fmt: skip


class Plan(NamedTuple):
    """A variant made ready: every part built and found to fit, nothing played yet."""

    variant: Variant
    device: Device
    network: Network
    model: Model
    precision: Precision
    room: Room
    trace: Trace | None
    notes: list[str]
    assumptions: list[tuple[str, str, str, str]]


def prepare(s: Scenario) -> dict[str, Plan]:
    """Build the parts of every variant; ScenarioError with every fault that only shows when they are put together."""
    plans, faults = {}, []
    for name, variant in s.variants.items():
        try:
            plans[name] = _plan(variant)
        except ScenarioError as error:
            faults += error.faults
        except (ValueError, OSError) as error:
            faults.append(s.fault(name, str(error)))
    if faults:
        raise ScenarioError(dict.fromkeys(faults))
    return plans


def play(plan: Plan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    v, ranks = plan.variant, plan.variant.parallel.tensor
    machine = Machine(plan.device.l2_bytes, plan.device.hbm_bytes_per_s, ranks)

    def graph_of(batch: Batch) -> Graph:
        return apply(transformer(plan.model, plan.precision, ranks, batch), machine, v.techniques)

    def group_of(timeline: Timeline | None) -> Group:
        return Group(simpy.Environment(), plan.device, plan.network, ranks, stragglers=v.pod.stragglers, timeline=timeline,
                     max_spans=v.record.max_spans)  # fmt: skip

    timeline = Timeline() if v.record.enabled else None
    if v.workload.kind == "decode":
        work = StaticBatch(v.workload.batch, v.workload.prompt_tokens, v.workload.output_tokens, v.workload.every_step)
        outcome = run_static(group_of, graph_of, work, timeline, progress)
    else:
        assert plan.trace is not None
        limits = Limits(v.workload.max_batch, v.workload.max_batched_tokens, plan.room.kv_tokens)
        window = v.record.from_s, v.record.until_s or float("inf")
        outcome = replay(group_of(timeline), graph_of, plan.trace.requests, limits, window, progress)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
    return outcome


def _plan(v: Variant) -> Plan:
    pod = catalog.pod(v.pod.topology, v.pod.change.link.given())
    device = catalog.device(v.pod.device or pod.device, v.pod.change.device.given())
    library = catalog.library(v.pod.library or pod.library, v.pod.change.library.given())
    model, ranks = catalog.model(v.model), v.parallel.tensor
    precision = Precision(**v.precision.model_dump())
    graph = topology.build(pod.shape, pod.devices, pod.link_bytes_per_s, pod.link_latency_s)
    topology.neighbour_order(graph, ranks)  # the pod has that many chips
    notes, trace = list(shard(model, ranks).notes), None
    if v.workload.kind == "decode":
        work = v.workload
        space = room(model, precision, ranks, device.hbm_bytes, work.batch)
        require(model, space, precision, ranks, work.batch * (work.prompt_tokens + work.output_tokens))
    else:
        work = v.workload
        space = room(model, precision, ranks, device.hbm_bytes * work.hbm_utilisation, work.max_batched_tokens)
        trace = _trace(v, model)
        notes += trace.warnings
    probe = transformer(model, precision, ranks, decode_batch([1]))
    apply(probe, Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks), v.techniques)  # says now what does not apply
    facts = {device.name: device.facts, library.name: library.facts, pod.name: pod.facts}
    rows = [
        (f"{part}: {what}", fact.value, fact.tag, fact.source) for part in facts for what, fact in facts[part].items()
    ]
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    return Plan(v, device, Network(graph, library, v.pod.collective), model, precision, space, trace, notes, rows)


def _trace(v: Variant, model: Model) -> Trace:
    """The recorded trace, or the fallback with a warning that says so."""
    t = v.workload.trace
    file, warning = t.file, []
    if not Path(file).exists() and t.fallback:
        file, warning = (
            t.fallback,
            [f"{t.file} is not there; replaying the generated trace {Path(t.fallback).name} instead"],
        )
    read = read_trace(file, format=t.format, first=t.first, limit=t.limit, speed=t.speed, bad_rows=t.bad_rows,
                      max_tokens=model.max_tokens or 1_000_000)  # fmt: skip
    return read._replace(warnings=warning + read.warnings)
