"""The whole path on one screen: scenario file in, Result out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import simpy

from sim import catalog, scenario
from sim.engine.group import Group
from sim.engine.serving import Limits, replay
from sim.engine.steps import StaticBatch, run_static
from sim.hardware.device import Device
from sim.network import topology
from sim.network.network import Network
from sim.results import Result, build
from sim.scenario import Scenario, ScenarioError, Variant
from sim.scenario.schema import Decode
from sim.scenario.schema import Trace as TraceSource
from sim.spans import Outcome, Timeline
from sim.techniques import Machine, apply
from sim.version import VERSION
from sim.workload.graph import Graph
from sim.workload.memory import Room, require, room
from sim.workload.model import Model
from sim.workload.requests import Trace, read_trace
from sim.workload.transformer import Batch, Precision, decode_batch, shard, transformer

Progress = Callable[[float, str], None]


def run(
    path: str | Path,
    overrides: scenario.Overrides = (),
    progress: Progress = lambda share, label: None,
    *,
    workers: int = 1,
) -> Result:
    """Run every variant of the scenario in file `path` (or the shipped one of that name).

    `overrides` are "key=value" texts, or a mapping from dotted key to value. `workers` processes share the variants;
    the result does not depend on their number. Raises ScenarioError, listing every fault, if anything in the scenario
    is wrong.
    """
    s = scenario.load(path, overrides)
    plans = prepare(s)
    outcomes = _spread(path, overrides, plans, min(workers, len(plans)), progress)
    return build(
        scenario=s.name, question=s.question, version=VERSION, seed=s.seed,
        outcomes={name: outcomes[name] for name in plans}, expect=s.expect, resolved=s.resolved,
    )  # fmt: skip


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
        env, slow, most = simpy.Environment(), v.pod.stragglers, v.record.max_spans
        return Group(env, plan.device, plan.network, ranks, stragglers=slow, timeline=timeline, max_spans=most)

    timeline = Timeline() if v.record.enabled else None
    work = v.workload
    if isinstance(work, Decode):
        static = StaticBatch(work.batch, work.prompt_tokens, work.output_tokens, work.every_step)
        outcome = run_static(group_of, graph_of, static, timeline, progress)
    else:
        assert plan.trace is not None
        limits = Limits(work.max_batch, work.max_batched_tokens, plan.room.kv_tokens)
        window = v.record.from_s, v.record.until_s or float("inf")
        outcome = replay(group_of(timeline), graph_of, plan.trace.requests, limits, window, progress)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
    return outcome


def _spread(
    path: str | Path, overrides: scenario.Overrides, plans: dict[str, Plan], workers: int, progress: Progress
) -> dict[str, Outcome]:
    """Play the variants; the last (with one worker, all of them) in this process, which can tell how far it is."""
    names = list(plans)
    away = names[:-1] if workers > 1 else []
    # Fresh processes, not forks: a caller may have threads. Each reads the scenario again, quicker than to ship it.
    fresh = get_context("spawn")
    with ProcessPoolExecutor(workers - 1, mp_context=fresh) if away else nullcontext() as pool:
        sent = {name: pool.submit(play_named, path, overrides, name) for name in away} if pool else {}
        here = {}
        for index, name in enumerate(name for name in names if name not in sent):

            def step(share: float, index: int = index, name: str = name) -> None:
                progress((index + share) / (len(names) - len(sent)), name)

            here[name] = play(plans[name], step)
        return here | {name: future.result() for name, future in sent.items()}


def play_named(path: str | Path, overrides: scenario.Overrides, name: str) -> Outcome:
    """Play one variant of a scenario file: what a worker process is asked to do."""
    s = scenario.load(path, overrides)
    return play(_plan(s.variants[name]))


def _plan(v: Variant) -> Plan:
    pod = catalog.pod(v.pod.topology, v.pod.change.link.given())
    device = catalog.device(v.pod.device or pod.device, v.pod.change.device.given())
    library = catalog.library(v.pod.library or pod.library, v.pod.change.library.given())
    model, ranks = catalog.model(v.model), v.parallel.tensor
    precision = Precision(**v.precision.model_dump())
    graph = topology.build(pod.shape, pod.devices, pod.link_bytes_per_s, pod.link_latency_s)
    network = Network(graph, library, v.pod.collective)
    if ranks > 1:
        network.members(ranks)  # the pod has that many chips
    notes, trace = list(shard(model, ranks).notes), None
    work = v.workload
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
    facts = {device.name: device.facts, library.name: library.facts, pod.name: pod.facts}
    rows = [
        (f"{part}: {what}", fact.value, fact.tag, fact.source) for part in facts for what, fact in facts[part].items()
    ]
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    return Plan(v, device, network, model, precision, space, trace, notes, rows)


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
