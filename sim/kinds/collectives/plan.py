"""A workload of collectives alone, from specs to Outcome: what `sim.run` does for models, for
jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sim.engine.jobs import Job, Recording, Trouble, play_jobs
from sim.facts.outcome import Outcome
from sim.kinds.collectives.spec import Collectives, JobSpec
from sim.machine.wiring import Assumption, assumptions, wiring, with_faults
from sim.network.collectives import COLLECTIVES, algorithm
from sim.network.network import Network
from sim.scenario import MisfitError, Variant
from sim.text.strict_yaml import KeyPath

# sends of one collective in which everybody sends to everybody: some GB of host memory
MOST_PAIRS = 200_000_000


class JobsPlan(NamedTuple):
    """A variant made ready: pod, jobs and groups found to fit, nothing played yet."""

    variant: Variant
    network: Network
    jobs: list[Job]
    trouble: Trouble
    notes: list[str]
    assumptions: list[Assumption]


def prepare(v: Variant, seed: int) -> JobsPlan:
    """Build the pod and find each job's chips and algorithm on it; MisfitError with everything that
    does not fit."""
    work: Collectives = v.workload
    wires = wiring(v)
    chips = sum(isinstance(node, int) for node in wires.graph)
    wrong: list[tuple[KeyPath, str]] = []
    groups: dict[str, tuple[int, ...]] = {}
    healthy = Network(wires.graph, wires.library, v.pod.collective)
    for name, spec in work.jobs.items():
        try:
            groups[name] = spec.group.of(chips)
            healthy.members(groups[name])
        except ValueError as error:
            wrong.append((("workload", "jobs", name, "group"), str(error)))
    for chip in v.pod.stragglers:
        if chip >= chips:
            wrong.append(
                (
                    ("pod", "stragglers", chip),
                    f"chip {chip} is not in the pod: its chips are 0 to {chips - 1}",
                )
            )
    if wrong:
        raise MisfitError(wrong)
    faulty = with_faults(wires.graph, v.pod.faults, groups.values())
    network = healthy if faulty is wires.graph else Network(faulty, wires.library, v.pod.collective)
    jobs = []
    for name, spec in work.jobs.items():
        what = _unfit(spec, healthy, groups[name])
        wrong += [(("workload", "jobs", name, "algorithm"), what)] if what else []
        jobs.append(_job(name, spec, groups[name], network, healthy))
    if wrong:
        raise MisfitError(wrong)
    busy = {chip for group in groups.values() for chip in group}
    notes = [
        f"straggler chip {chip} takes part in no job"
        for chip in v.pod.stragglers
        if chip not in busy
    ]
    rows = assumptions({wires.library.name: wires.library.facts, wires.pod.name: wires.pod.facts})
    return JobsPlan(v, network, jobs, Trouble(v.pod.stragglers, v.pod.jitter, seed), notes, rows)


def play(plan: JobsPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    record = plan.variant.record
    keep = (
        Recording(record.from_s, record.until_s or float("inf"), record.max_spans)
        if record.enabled
        else None
    )
    outcome = play_jobs(plan.network, plan.jobs, plan.trouble, keep, progress)
    outcome.warnings[:0] = plan.notes
    outcome.assumptions = plan.assumptions
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
        if chosen != "auto":
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
        name,
        spec.collective,
        spec.bytes,
        group,
        own if network is healthy else using(network),
        own,
        spec.start,
        spec.repeat,
        spec.gap,
        spec.background,
        spec.weight,
    )
