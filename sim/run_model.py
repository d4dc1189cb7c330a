"""A workload on a model, from specs to Outcome: a batch to decode, or requests to serve."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simpy

from sim import catalog
from sim.engine.chip import Tenancy
from sim.engine.group import Group
from sim.engine.lines import sharing_of
from sim.engine.pipeline import Stage, run_static
from sim.engine.scaling import Autoscale, Failure
from sim.engine.served import Host
from sim.engine.serving import Service, run_service, serve_share
from sim.engine.shares import Part, Spread
from sim.engine.steps import StaticBatch
from sim.facts.outcome import Outcome
from sim.facts.timeline import Timeline
from sim.graph.batch import NO_SHARING, Batch, Shared, Sharing, decode_batch
from sim.graph.footprint import Footprint, Room, footprint, require, room
from sim.graph.graph import Graph
from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.device import Device
from sim.machine.wiring import Assumption, assumptions, wiring, with_faults
from sim.network.network import Network
from sim.scenario import MisfitError, Variant
from sim.scenario.workloads import Decode, Prefill, Requests
from sim.scenario.workloads import Trace as TraceSource
from sim.serving.fleet import ORDERS, POLICIES, ROUTERS, Arrivals, Rules, pool_of, replica_of
from sim.techniques import Machine, apply
from sim.text.strict_yaml import KeyPath
from sim.text.units import show
from sim.traces.reading import open_trace
from sim.traces.stream import TraceStream, gathered

_TRACE_TOKENS = 2048  # of expanded prefixes, if the scenario does not say


class Machinery(NamedTuple):
    """A pod with a share of a model on each of some of its chips, what each stage of it occupies
    there, and the room that is left."""

    variant: Variant
    device: Device
    network: Network
    model: Model
    precision: Precision
    parallel: Parallel
    footprints: list[Footprint]
    room: Room
    sharing: Sharing
    notes: list[str]
    assumptions: list[Assumption]
    parts: tuple[Network, ...] = ()  # as each pipeline stage sees it, where there are several

    def group(
        self, timeline: Timeline | None, tenancy: Tenancy | None = None, stage: int = 0
    ) -> Group:
        """The ranks of a stage, idle, in a simulation of their own or on the chips of other
        tenants."""
        v, ranks = self.variant, self.parallel.ranks
        slow = {
            chip - stage * ranks: factor
            for chip, factor in v.pod.stragglers.items()
            if chip // ranks == stage
        }
        return Group(
            tenancy.env if tenancy else simpy.Environment(),
            self.device,
            self.network_of(stage),
            ranks,
            stragglers=slow,
            unfold=bool(v.pod.faults),
            timeline=timeline,
            max_spans=v.record.max_spans,
            tenancy=tenancy,
            name=f"stage {stage}" if self.parts else "",
        )

    def graph(self, batch: Batch, stage: int = 0) -> Graph:
        """What a pass asks of one rank of a stage, techniques applied."""
        graph = transformer(self.model, self.precision, self.parallel, batch, stage)
        return apply(graph, _machine(self.device, self.parallel), self.variant.techniques)

    def network_of(self, stage: int) -> Network:
        """The pod as the ranks of a stage see it: theirs come first, then those of the next
        stage."""
        return self.parts[stage] if self.parts else self.network

    @property
    def hosts(self) -> list[Host]:
        """The stages as the engine wants them."""
        return [
            Host(
                partial(self.group, stage=stage),
                partial(self.graph, stage=stage),
                self.device,
                self.network_of(stage),
                self.sharing,
            )
            for stage in range(self.parallel.pipeline)
        ]


class ModelPlan(NamedTuple):
    """A variant made ready: every part built and found to fit, nothing played yet."""

    variant: Variant
    machinery: Machinery
    prefill: Machinery | None  # of a pool of its own
    trace: TraceStream | None
    notes: list[str]
    assumptions: list[Assumption]
    seed: int


def prepare_model(v: Variant, work: Decode | Requests, seed: int) -> ModelPlan:
    """Build the machine and the model, and see that the one fits the other; ValueError if it does
    not."""
    if isinstance(work, Decode):
        micro = v.parallel.degrees().micro_batches
        if micro > work.batch:
            raise MisfitError(
                [
                    (
                        ("parallel", "micro_batches"),
                        f"a batch of {work.batch} cannot be cut into {micro} "
                        f"micro-batches; at most {work.batch}",
                    )
                ]
            )
        here = _machinery(v, 1.0, -(-work.batch // micro))
        longest = work.prompt_tokens + work.output_tokens
        require(here.model.name, here.room, _unique_tokens(work, here.parallel))
        if 0 < here.model.max_tokens < longest:
            most = here.model.max_tokens
            here.notes.append(
                f"{here.model.name} was made for {most:,} tokens; this run goes to {longest:,}"
            )
        return ModelPlan(v, here, None, None, here.notes, here.assumptions, seed)
    here = _machinery(v, work.hbm_utilisation, work.max_batched_tokens)
    trace, warning = trace_of(work.trace)
    if work.prefix_caching:
        _require_blocks(trace, work)
    _require_replicas(work, v.parallel.pipeline)
    prefill = None
    if work.prefill:
        own = v.model_copy(
            update={
                "pod": work.prefill.pod or v.pod,
                "parallel": v.parallel.model_copy(
                    update={"tensor": work.prefill.tensor or v.parallel.tensor}
                ),
            }
        )
        prefill = _machinery(
            own, work.hbm_utilisation, work.prefill.max_batched_tokens or work.max_batched_tokens
        )
    parts = [here, *([prefill] if prefill else [])]
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    rows = dict.fromkeys(row for part in parts for row in part.assumptions)
    return ModelPlan(v, here, prefill, trace, [*notes, *warning], [*rows], seed)


def _machinery(v: Variant, hbm_share: float, new_tokens: int) -> Machinery:
    """The pod and the model of a variant, `hbm_share` of its HBM for them."""
    pod, library, graph = wiring(v)
    device = catalog.device(v.pod.device or pod.device, v.pod.change.device.given(), v.pod.kernels)
    model, parallel = catalog.model(v.model.name, v.model.changes()), v.parallel.degrees()
    ranks, chips = parallel.ranks, parallel.chips
    precision = Precision(**v.precision.model_dump())
    network = Network(with_faults(graph, v.pod.faults, [range(chips)]), library, v.pod.collective)
    if chips > 1:
        network.members(chips)  # the pod has that many chips
    for chip in v.pod.stragglers:
        if chip >= chips:
            raise ValueError(
                f"straggler rank {chip} is not in the group: ranks are 0 to {chips - 1}"
            )
    parts = tuple(
        network.part(tuple((first + chip) % chips for chip in range(chips)))
        for first in range(0, chips, ranks)
    )
    rows = assumptions(
        {device.name: device.facts, library.name: library.facts, pod.name: pod.facts}
    )
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    rows += [
        (f"{model.name}: {what}", str(value), "CHANGED", "set by the scenario")
        for what, value in v.model.changes().items()
    ]
    found = Machinery(
        variant=v,
        device=device,
        network=network,
        model=model,
        precision=precision,
        parallel=parallel,
        footprints=[],
        room=Room(0.0, 0.0, 0.0, 0.0),
        sharing=NO_SHARING,
        notes=list(shard(model, parallel).notes),
        assumptions=rows,
        parts=parts if len(parts) > 1 else (),
    )
    # This says also if a technique does not apply.
    of_rank = sharing_of(found.graph(decode_batch([1])))
    runs, sharing = _reshaped(v.workload, parallel, of_rank)
    stages = [
        footprint(partial(found.graph, stage=stage), parallel, new_tokens, runs)
        for stage in range(parallel.pipeline)
    ]
    kept_bytes = max(stage.kept_bytes for stage in stages)
    if runs and not kept_bytes:
        found.notes.append(
            f"no prefix is shared by the {sharing.least:,.1f} sequences from which it pays to "
            "expand it: all of it is absorb"
        )
    elif sharing.most < inf == of_rank.most:
        found.notes.append(
            f"{show(kept_bytes, 'B')} a device are kept for {sharing.most:,.0f} tokens of "
            "expanded prefixes (expanded_tokens)"
        )
    return found._replace(
        footprints=stages,
        room=room(model.name, stages, parallel, device.hbm_bytes * hbm_share, new_tokens),
        sharing=sharing,
    )


def _machine(device: Device, parallel: Parallel) -> Machine:
    return Machine(
        device.l2_bytes, device.hbm_bytes_per_s, parallel.ranks, device.matrix_flop_per_s
    )


def _reshaped(work: object, parallel: Parallel, of_rank: Sharing) -> tuple[list[Shared], Sharing]:
    """The prefixes that techniques keep in a form of their own at the same time, and which of the
    whole batch's those are."""
    if of_rank == NO_SHARING:
        return [], NO_SHARING
    least = of_rank.least * parallel.data
    if isinstance(work, Decode):
        micro = parallel.micro_batches
        in_a_pass = [run._replace(number=run.number / micro) for run in shared_runs(work)]
        return in_a_pass, Sharing(least)
    tokens = of_rank.most if of_rank.most < inf else _TRACE_TOKENS
    return [Shared(ceil(of_rank.least) * parallel.data, tokens)], Sharing(least, tokens)


def shared_runs(work: Decode) -> tuple[Shared, ...]:
    """What the prompts of a static batch have in common."""
    return tuple(Shared(run.sequences or work.batch, run.tokens) for run in work.shared)


def _unique_tokens(work: Decode, parallel: Parallel) -> int:
    """Tokens that the KV-caches hold at the end: what sequences share stands once in each
    data-parallel group."""
    again = sum(max(run.number - parallel.data, 0) * run.tokens for run in shared_runs(work))
    return work.batch * (work.prompt_tokens + work.output_tokens) - int(again)


def play_model(
    plan: ModelPlan,
    progress: Callable[[float], None] = lambda share: None,
    spread: Spread | None = None,
) -> Outcome:
    """Simulate one variant; `spread` are processes that may serve some of its replicas."""
    v, here = plan.variant, plan.machinery
    timeline = Timeline() if v.record.enabled else None
    work = v.workload
    if isinstance(work, Decode):
        static = StaticBatch(
            work.batch,
            work.prompt_tokens,
            work.output_tokens,
            work.every_step,
            shared_runs(work),
            here.parallel.micro_batches,
        )
        stages = [Stage(host.group_of, host.graph_of) for host in here.hosts]
        outcome = run_static(stages, static, timeline, progress)
    else:
        assert plan.trace is not None and isinstance(work, Requests)
        chunks = [gathered(plan.trace)] if work.closed_loop else plan.trace.chunks()
        hosts = [part.hosts for part in (plan.prefill, here) if part is not None]
        outcome = run_service(chunks, service(plan, work), hosts, timeline, progress, spread)
        complete(plan, outcome)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
    return outcome


def play_share(plan: ModelPlan, share: int, shares: int) -> Part:
    """Serve some of the replicas of a workload of requests: what a process is asked to do for
    another."""
    work, here = plan.variant.workload, plan.machinery
    assert plan.trace is not None and isinstance(work, Requests)
    recorded = plan.variant.record.enabled
    return serve_share(
        plan.trace.chunks(), service(plan, work), [here.hosts], recorded, share, shares
    )


def complete(plan: ModelPlan, outcome: Outcome) -> None:
    """Add to what was served what the scenario knows of it."""
    work, serving = plan.variant.workload, outcome.serving
    assert isinstance(work, Requests) and serving is not None and plan.trace is not None
    outcome.serving = serving._replace(
        slo_s={name: limit for name, limit in work.slo if limit is not None}
    )
    outcome.warnings[:0] = plan.trace.warnings


def _require_replicas(work: Requests, pipeline: int) -> None:
    """MisfitError if replicas are named that are not there, or none would be left."""
    prefills = work.prefill.replicas if work.prefill else 0
    total = work.replicas + prefills
    which = f"they are 0 to {total - 1}" + (", those that prefill first" if prefills else "")
    named: list[tuple[KeyPath, int]] = [
        (("workload", "slow", replica), replica) for replica in work.slow
    ]
    named += [
        (("workload", "failures", i, "replica"), fault.replica)
        for i, fault in enumerate(work.failures)
    ]
    wrong: list[tuple[KeyPath, str]] = [
        (at, f"no replica {replica}; {which}") for at, replica in named if replica >= total
    ]
    for_good = {fault.replica for fault in work.failures if fault.duration is None}
    for first, count in ((0, prefills), (prefills, work.replicas)):
        if count and for_good >= set(range(first, first + count)):
            wrong.append(
                (
                    ("workload", "failures"),
                    "no replica would be left; give one of them a `duration`",
                )
            )
    if work.autoscale and pipeline > 1:
        wrong.append(
            (("workload", "autoscale"), "not modelled for a model in pipeline stages; take it out")
        )
    if work.autoscale and work.autoscale.least > work.replicas:
        most = work.replicas
        wrong.append(
            (
                ("workload", "autoscale", "least"),
                f"{work.autoscale.least} is more than there are; at most {most}",
            )
        )
    if work.admission.shed and not work.admission.ttft and work.slo.ttft is None:
        wrong.append(
            (
                ("workload", "admission", "shed"),
                "this needs a deadline; give admission.ttft or slo.ttft",
            )
        )
    if wrong:
        raise MisfitError(wrong)


def _require_blocks(trace: TraceStream, work: Requests) -> None:
    """ValueError if the prefix cache has nothing to go by."""
    if not trace.block_tokens:
        raise ValueError(
            f"prefix_caching: the trace {trace.name} does not say which prefixes are equal"
        )
    if trace.block_tokens % work.block_tokens:
        raise ValueError(
            f"prefix_caching: the trace names blocks of {trace.block_tokens} tokens, which "
            "block_tokens "
            f"({work.block_tokens}) must divide"
        )


def service(plan: ModelPlan, work: Requests) -> Service:
    """The fleet as the scenario wants it."""
    unit = plan.trace.block_tokens or 0 if plan.trace and work.prefix_caching else 0
    pools: list[np.recarray] = []
    tables: list[np.recarray] = []
    for pool, part in enumerate(
        part for part in (plan.prefill, plan.machinery) if part is not None
    ):
        own, lanes = work.prefill if part is plan.prefill else None, part.parallel.micro_batches
        first, count = (
            sum(len(table) for table in tables),
            (own.replicas if own else work.replicas) * lanes,
        )
        each = part.footprints[0].kv_bytes_per_token
        pools.append(
            pool_of(first, count, next=1, transfer_s=each / own.link, latency_s=own.latency)
            if own
            else pool_of(first, count)
        )
        rows = [_replica(work, own, part, pool, first + i, each) for i in range(count)]
        tables.append(np.concatenate(rows).view(np.recarray))
    admission = work.admission
    coupled = work.closed_loop or work.prefill is not None
    rules = Rules(
        ROUTERS[work.router],
        ORDERS[admission.order],
        plan.seed,
        work.fidelity == "step",
        coupled,
        unit,
        admission.shed,
        work.prefix_eviction == "tail_first",
    )
    record = plan.variant.record
    end_s = record.from_s + 0.1 if work.fidelity == "step" else np.inf
    scale = work.autoscale
    return Service(
        rules,
        np.concatenate(tables).view(np.recarray),
        np.concatenate(pools).view(np.recarray),
        work.fidelity == "op",
        (record.from_s, end_s if record.until_s is None else record.until_s),
        tuple(work.speculative.acceptance) if work.speculative else (),
        work.closed_loop,
        work.trace.limit or np.inf,
        tuple(
            Failure(fault.replica, fault.at, np.inf if fault.duration is None else fault.duration)
            for fault in work.failures
        ),
        Autoscale(
            int(pools[-1][0]["first"]),
            work.replicas,
            scale.least,
            scale.requests,
            scale.every,
            scale.start_up,
            scale.cool_down,
        )
        if scale
        else None,
        admission.classes,
        partial(_classed, work, plan.seed),
    )


def _replica(
    work: Requests, own: Prefill | None, part: Machinery, pool: int, number: int, kv_bytes: float
) -> np.recarray:
    """One row of the fleet: a replica, or the lane of one of its micro-batches; `own` says what is
    different in a pool that only prefills."""
    given, stages, lanes = own or work, part.parallel.pipeline, part.parallel.micro_batches
    tokens = (given.kv_tokens or part.room.kv_tokens) / lanes
    blocks = int(tokens // work.block_tokens)
    if blocks < 1:
        of = " for each micro-batch" if lanes > 1 else ""
        raise ValueError(
            f"the KV-cache holds {tokens:,.0f} tokens{of}, less than a block of {work.block_tokens}"
        )
    drafts = len(work.speculative.acceptance) if work.speculative and own is None else 0
    return replica_of(
        POLICIES[work.policy],
        given.max_batch or work.max_batch,
        given.max_batched_tokens or work.max_batched_tokens,
        work.block_tokens,
        blocks,
        pool=pool,
        kind=pool * stages,
        reserve=work.kv == "reserve",
        swap_s=kv_bytes / work.host_bandwidth if work.kv == "swap" else np.nan,
        drafts=drafts,
        overhead_s=work.overhead
        + (drafts * work.speculative.drafting if work.speculative else 0.0),
        slow=work.slow.get(number // lanes, 1.0),
        longest=part.model.max_tokens or 2**62,
        stages=stages,
        lanes=lanes,
        lane=number % lanes,
    )


def _classed(work: Requests, seed: int, asked: Arrivals) -> Arrivals:
    """Requests with the class of their queue and the deadline of their first token."""
    admission = work.admission
    rank = asked.rank
    if admission.shares:
        chances = np.random.default_rng((seed, *asked.id[:1])).random(len(asked.id))
        rank = np.minimum(
            np.searchsorted(np.cumsum(admission.shares), chances, side="right"),
            admission.classes - 1,
        )
    elif admission.prompt_tokens:
        rank = np.searchsorted(admission.prompt_tokens, asked.prompt)
    limits = np.array(
        admission.ttft or [np.inf if work.slo.ttft is None else work.slo.ttft] * admission.classes
    )
    return asked._replace(rank=rank.astype(np.int64), patience_s=limits[rank])


def trace_of(t: TraceSource) -> tuple[TraceStream, list[str]]:
    """The recorded trace, or the fallback with a warning that says so."""
    file, warning = t.file, []
    if not Path(file).exists() and t.fallback:
        file, warning = (
            t.fallback,
            [
                f"{t.file} is not there; replaying the generated trace {Path(t.fallback).name} "
                "instead"
            ],
        )
    stream = open_trace(
        file, format=t.format, first=t.first, limit=t.limit, speed=t.speed, bad_rows=t.bad_rows
    )
    for _ in itertools.islice(stream.chunks(), 1):
        pass  # what is wrong with the beginning is told before anything runs
    return stream, warning
