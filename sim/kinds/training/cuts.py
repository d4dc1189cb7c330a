"""Where to cut: what each cut would take, which of them is the best that can be, and how that moves
with the rate of the way up."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from sim.engine.edge_cloud import Play
from sim.engine.lanes import Job
from sim.facts.training import Cut
from sim.kinds.training.jobs import Machine, job_of
from sim.kinds.training.methods import METHODS, Method
from sim.kinds.training.spec import Training
from sim.machine.split import on_edge
from sim.scenario import MisfitError, Variant
from sim.text.units import show

RATES = np.geomspace(0.1e6 / 8, 10e9 / 8, 41)  # of the figure of times over rates, bytes/s


def judged(v: Variant, machine: Machine, method: Method, stages: int) -> Cut:
    """What a cut would take, and whether it can be."""
    work: Training = v.workload
    network = machine.network(work.batch)
    name = network.cuts[stages - 1]
    kept = on_edge(network, stages, work.optimiser, method.exits).total
    short = [group for group in machine.groups if group.memory < kept]
    accuracy = work.accuracy.get(name)
    why = ""
    if short:
        why = f"{show(kept, 'B')} of memory, {short[0].name} has {show(short[0].memory, 'B')}"
    elif work.least_accuracy is not None and accuracy is None:
        why = "accuracy not measured"
    elif (
        work.least_accuracy is not None and accuracy is not None and accuracy < work.least_accuracy
    ):
        why = f"accuracy {accuracy:g} below {work.least_accuracy:g}"
    played = Play(job_of(v, machine, method, stages, 0, alone=True)).run()
    return Cut(
        name=name,
        ratio=network.ratio(stages),
        batch_s=played.seconds,
        edge_joules=float(played.edges.joules.mean()),
        memory_bytes=kept,
        fits=not short,
        accuracy=accuracy,
        why_not=why,
    )


def choice(work: Training, cuts: list[Cut]) -> Cut:
    """The best of those that can be; MisfitError if there is none."""
    able = [cut for cut in cuts if not cut.why_not]
    if not able:
        said = "; ".join(f"{cut.name}: {cut.why_not}" for cut in cuts)
        raise MisfitError([(("workload", "cut"), f"no cut can be chosen: {said}")])
    if work.minimise == "energy":
        return min(able, key=lambda cut: cut.edge_joules)
    return min(able, key=lambda cut: cut.batch_s)


def curves(v: Variant, machine: Machine) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Time of a batch of one edge of the first group, alone, over the rate of its way up: by cut,
    and of `cloud only`."""
    first = machine.groups[0]
    alone = machine._replace(
        groups=[first._replace(spec=first.spec.model_copy(update={"count": 1}))]
    )
    network = machine.network(v.workload.batch)
    found = {}
    rows = [("cloud only", METHODS["cloud_only"], 0)] if v.workload.method != "split" else []
    rows += [(name, METHODS[v.workload.method], n) for n, name in enumerate(network.cuts, 1)]
    for name, method, at in rows:
        job = job_of(v, alone, method, at, 0, alone=True)
        times = np.array([_at_rate(job, rate) for rate in RATES])
        found[name] = (RATES, times)
    return found


def _at_rate(job: Job, rate: float) -> float:
    """Seconds of a batch where the way up has another rate, and nobody else is on it."""
    work = job.works[0]
    changed = work._replace(channel=replace(work.channel, up_bytes_per_s=float(rate)))
    return Play(job._replace(works=[changed], uplink=inf)).run().seconds
