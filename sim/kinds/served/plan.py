"""Requests that are served, from specs to Outcome."""

from __future__ import annotations

from sim.engine.partition import Part, Spread
from sim.engine.service import run_service, serve_share
from sim.engine.steps import Progress
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome, Takes
from sim.facts.timeline import Timeline
from sim.graph.batch import NO_SHARING
from sim.hardware.device import ENGINE_LIMITS, Device, Fact
from sim.kinds.served.fleet import (
    ServedPlan,
    require_blocks,
    require_replicas,
    require_room,
    require_sessions,
    require_whole_prefixes,
    service,
)
from sim.kinds.served.spec import Served
from sim.machine.paid import paid
from sim.machine.pod import machinery
from sim.machine.traces import trace_of
from sim.machine.unused import refuse_unused
from sim.scenario import Variant
from sim.techniques.accuracy import is_lossy
from sim.traces.stream import gathered

_ANY_DEVICE = Fact("", "READ", "vLLM on devices that it does not name: get_batch_defaults")


def prepare(v: Variant, seed: int, alone: bool = True) -> ServedPlan:
    """Build the machine and the model, and see that the one fits the other; ValueError if it does
    not.  `alone`: nobody else may have a use for what the pod's section says."""
    work: Served = v.workload
    here = machinery(v, work.hbm_utilisation, work.max_batched_tokens)
    trace, warning = trace_of(work.trace, seed)
    if work.closed_loop:
        require_sessions(trace)
    if work.prefix_caching:
        require_blocks(trace, work)
    require_replicas(work, v.parallel.pipeline)
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
        prefill = machinery(
            own, work.hbm_utilisation, work.prefill.max_batched_tokens or work.max_batched_tokens
        )
        if work.prefill.pod:  # its numbers are changed there
            prefill.assumptions[:] = [
                row._replace(key=row.key and f"workload.prefill.{row.key}")
                for row in prefill.assumptions
            ]
    parts = [here, *([prefill] if prefill else [])]
    require_whole_prefixes(parts, work)
    above = [
        note
        for part, own, at in (
            (here, work.kv_tokens, ("workload", "kv_tokens")),
            (
                prefill,
                work.prefill and work.prefill.kv_tokens,
                ("workload", "prefill", "kv_tokens"),
            ),
        )
        if part and own
        for note in require_room(part, own, work.hbm_utilisation, at)
    ]
    if work.prefill and work.prefill.pod:
        refuse_unused(work.prefill.pod, parts[1:], ("workload", "prefill", "pod"))
        refuse_unused(v.pod, parts[:1])
    elif alone:
        refuse_unused(v.pod, parts)
    costs = tuple(map(paid, parts[::-1]))
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    rows = dict.fromkeys(
        [*_taken(work, here.device), *(row for part in parts for row in part.assumptions)]
    )
    return ServedPlan(v, here, prefill, trace, [*notes, *above, *warning], [*rows], seed, costs)


def takes(plan: ServedPlan) -> Takes:
    """All chips of all replicas, those included that a load may leave off."""
    chips = [part.parallel.chips * count for part, count in plan.pools]

    def sum_of(each: list[float | None]) -> float | None:
        known = [one for one in each if one is not None]
        return sum(n * x for n, x in zip(chips, known)) if len(known) == len(each) else None

    return Takes(
        sum(chips),
        sum_of([one.dollars_per_hour for one in plan.paid]),
        sum_of([one.dollars for one in plan.paid]),
    )


def _taken(work: Served, device: Device) -> list[Assumption]:
    """The limits that engines take on a device where the scenario says none."""
    return [
        Assumption(limit, f"{getattr(device, limit):,}", fact.tag, fact.source)
        for limit in ENGINE_LIMITS
        if getattr(work, limit) is None
        for fact in [device.facts.get(limit, _ANY_DEVICE)]
    ]


def play(
    plan: ServedPlan, progress: Progress = lambda share: None, spread: Spread | None = None
) -> Outcome:
    """Simulate one variant; `spread` are processes that may serve some of its replicas."""
    v, here = plan.variant, plan.machinery
    work: Served = v.workload
    timeline = Timeline() if v.record.enabled else None
    chunks = [gathered(plan.trace)] if work.closed_loop else plan.trace.chunks()
    hosts = [part.hosts for part in (plan.prefill, here) if part is not None]
    outcome = run_service(chunks, service(plan), hosts, timeline, progress, spread)
    complete(plan, outcome)
    outcome.warnings[:0] = plan.notes
    outcome.idle = [*plan.machinery.idle, *_never_taken(plan, outcome)]
    outcome.pays, outcome.lossy = here.pays, is_lossy(v.techniques)
    outcome.accuracy = here.accuracy
    outcome.assumptions = plan.assumptions
    if v.pod.chip and not (work.prefill and work.prefill.pod):
        outcome.paid = plan.paid[-1]
    return outcome


def play_share(plan: ServedPlan, share: int, shares: int) -> Part:
    """Serve some of the replicas of a workload of requests: what a process is asked to do for
    another."""
    hosts = [plan.machinery.hosts]
    return serve_share(plan.trace.chunks(), service(plan), hosts, share, shares)


def complete(plan: ServedPlan, outcome: Outcome) -> None:
    """Add to what was served what the scenario knows of it."""
    limits = {name: limit for name, limit in plan.variant.workload.slo if limit is not None}
    outcome.part = outcome.part._replace(slo_s=limits)
    outcome.warnings[:0] = plan.trace.warnings


def _never_taken(plan: ServedPlan, outcome: Outcome) -> list[str]:
    """That prefixes would have been expanded, and none ever was."""
    sharing = plan.machinery.sharing
    if sharing == NO_SHARING or outcome.part.expanded_share is not None:
        return []
    why = f"at most {outcome.part.most_users:,} met"
    if not plan.variant.workload.prefix_caching:
        why = "without prefix_caching none do"
    return [f"no prefix is expanded: it pays from {sharing.least:,.1f} sequences on one, and {why}"]
