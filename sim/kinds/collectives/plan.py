"""A workload of collectives alone, from specs to Outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sim.engine.isolated import seconds_of
from sim.engine.jobs import Job, Recording, Trouble, play_jobs
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.kinds.collectives.spec import Collectives, JobSpec
from sim.machine.wiring import (
    assumptions,
    beyond_library,
    strange_stragglers,
    whole_at_each_hop,
    wiring,
    with_faults,
)
from sim.network.collectives import AUTO, COLLECTIVES, algorithm
from sim.network.network import Network
from sim.scenario import Variant, refuse
from sim.scenario.machine import Pod
from sim.text.strict_yaml import KeyPath

# sends of one collective in which everybody sends to everybody: some GB of host memory
MOST_PAIRS = 200_000_000


class JobsPlan(NamedTuple):
    """A variant made ready: pod, jobs and groups found to fit, nothing played yet."""

    variant: Variant
    network: Network
    jobs: list[Job]
    trouble: Trouble
    assumptions: list[Assumption]
    notes: list[str]


def prepare(v: Variant, seed: int) -> JobsPlan:
    """Build the pod and find each job's chips and algorithm on it; MisfitError with everything that
    does not fit."""
    work: Collectives = v.workload
    wires = wiring(v)
    chips = sum(isinstance(node, int) for node in wires.graph)
    wrong: list[tuple[KeyPath, str]] = []
    groups: dict[str, tuple[int, ...]] = {}
    healthy = Network(wires.graph, wires.library, v.pod.collective, seconds_of)
    for name, spec in work.jobs.items():
        try:
            groups[name] = spec.group.of(chips)
            healthy.members(groups[name])
        except ValueError as error:
            wrong.append((("workload", "jobs", name, "group"), str(error)))
    refuse([*wrong, *strange_stragglers(v.pod, chips)])
    faulty = with_faults(wires.graph, v.pod.faults, groups.values())
    network = (
        healthy
        if faulty is wires.graph
        else Network(faulty, wires.library, v.pod.collective, seconds_of)
    )
    jobs = []
    for name, spec in work.jobs.items():
        what = _unfit(spec, healthy, groups[name])
        own = ("workload", "jobs", name, "algorithm") if spec.algorithm else ("pod", "collective")
        wrong += [(own, what)] if what else []
        jobs.append(_job(name, spec, groups[name], network, healthy))
    if v.pod.collective != AUTO and all(spec.algorithm for spec in work.jobs.values()):
        wrong.append((("pod", "collective"), "every job names its own `algorithm`; take this out"))
    refuse(wrong)
    refuse(_unused(v.pod, jobs))
    rows = assumptions(
        {wires.library.name: wires.library.facts, wires.pod.name: wires.pod.facts},
        {wires.library.name: "pod.change.library", wires.pod.name: "pod.change.link"},
    )
    trouble = Trouble(v.pod.stragglers, v.pod.jitter, seed)
    stored = whole_at_each_hop(network, groups.values())
    rows += [Assumption("switches that store and forward", note, "INFER", "") for note in stored]
    notes = [*beyond_library(Path(wires.pod.device).stem, wires.library), *stored]
    return JobsPlan(v, network, jobs, trouble, rows, notes)


def _unused(pod: Pod, jobs: list[Job]) -> Iterator[tuple[KeyPath, str]]:
    """Stragglers and faults that no job would feel."""
    for chip in pod.stragglers:
        ways = [
            job.network.fold(job.collective, job.ranks, job.nbytes).way
            for job in jobs
            if chip in job.ranks
        ]
        if not any(way.launch_s or way.step_s for way in ways):
            no_cost = "has steps that cost nothing by this library" if ways else "is in no job"
            yield ("pod", "stragglers", chip), f"chip {chip} {no_cost}; take this out"
    used = {
        wire
        for job in jobs
        if pod.faults
        for network in (job.healthy, job.network)
        for wire in network.wires_used(job.collective, job.ranks, job.nbytes)
    }
    few = ", ".join(sorted(" - ".join(sorted(map(str, wire))) for wire in used)[:6])
    # Of several failed links, one may carry what goes round another, until it fails too.
    several = sum(fault.failed for fault in pod.faults) > 1
    for index, fault in enumerate(pod.faults):
        if frozenset(fault.link) not in used and not (fault.failed and several):
            yield (
                ("pod", "faults", index, "link"),
                f"no message crosses the link {fault.link[0]} - {fault.link[1]}; those of the "
                f"jobs cross {few}{' ...' * (len(used) > 6)}",
            )


def play(plan: JobsPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    record = plan.variant.record
    window = Recording(record.from_s, record.until_s or float("inf"), record.max_spans)
    keep = window if record.enabled else None
    outcome = play_jobs(plan.network, plan.jobs, plan.trouble, keep, progress)
    outcome.assumptions = plan.assumptions
    outcome.warnings[:0] = plan.notes
    return outcome


def _unfit(spec: JobSpec, network: Network, group: tuple[int, ...]) -> str:
    """Why the job's algorithm does not serve its group; '' where it does."""
    rows, chosen = COLLECTIVES[spec.collective].algorithms, spec.algorithm or network.algorithm
    asked = [rows[chosen]] if chosen in rows else rows.values()
    if all(row.crowded for row in asked) and len(group) ** 2 > MOST_PAIRS:
        return (
            f"among {len(group):,} chips everybody sends to everybody, which takes too much "
            "memory to play"
        )
    try:
        if chosen != AUTO:
            algorithm(spec.collective, chosen, network.members(group))
    except ValueError as error:
        return str(error)
    return ""


def _job(
    name: str, spec: JobSpec, group: tuple[int, ...], network: Network, healthy: Network
) -> Job:
    def using(pod: Network) -> Network:
        return pod if spec.algorithm in (None, pod.algorithm) else pod.using(spec.algorithm)

    own = using(healthy)
    return Job(
        name=name,
        collective=spec.collective,
        nbytes=spec.bytes,
        ranks=group,
        network=own if network is healthy else using(network),
        healthy=own,
        start_s=spec.start,
        repeat=spec.repeat,
        gap_s=spec.gap,
        background=spec.background,
        weight=spec.weight,
    )
