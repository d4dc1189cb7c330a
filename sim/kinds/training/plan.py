"""Edges and a cloud that train together, from specs to Outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import inf
from typing import NamedTuple

import numpy as np

from sim import catalog
from sim.catalog.channels import channel
from sim.dnn.trained import TRAINED, Network
from sim.engine.edge_cloud import Play
from sim.engine.lanes import Job
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.facts.span import digest
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.facts.training import Cut, PlayedTraining, TrainingRecord
from sim.hardware.device import Device
from sim.kinds.training import methods
from sim.kinds.training.cuts import choice, curves, judged
from sim.kinds.training.jobs import Group, Machine, job_of
from sim.kinds.training.methods import METHODS, Method
from sim.kinds.training.spec import AUTO, Training
from sim.machine.split import Priced, RecordFile, on_edge, read_record
from sim.machine.wiring import assumptions
from sim.network.frames import MOST_BYTES
from sim.scenario import MisfitError, Variant, refuse
from sim.text.strict_yaml import KeyPath, nearest
from sim.text.units import show

MOST_EDGES = 100_000
RANKED_UNASKED = 100  # edges, up to which cuts are ranked although the scenario names one
_PASSES = Assumption(
    "training: time of a pass",
    "its ops one after the other, each alone on its device; backward and update derived from the "
    "forward; no fusion, no recomputation",
    "INFER",
    "an extension of podscope",
)
_LOSS = Assumption(
    "channel: loss",
    "what is lost is sent again: a rate carries 1 - loss, and a message waits 2 loss / (1 - loss) "
    "latencies more; acknowledgements take no time",
    "INFER",
    "an extension of podscope; no congestion control",
)


class TrainingPlan(NamedTuple):
    """A variant made ready: the cut chosen, nothing played yet."""

    variant: Variant
    method: Method
    machine: Machine
    at: int  # stages on the edge
    cuts: list[Cut]
    job: Job
    assumptions: list[Assumption]
    notes: list[str]


def prepare(v: Variant, seed: int) -> TrainingPlan:
    """Build the machine and choose the cut; MisfitError with everything that does not fit."""
    work: Training = v.workload
    method, recorded = METHODS[work.method], _recorded(v)
    refuse(_machine_wrong(v, method))
    machine = _machine(v, recorded)
    refuse(_outages_wrong(v))
    network = machine.network(work.batch)
    at = _named_cut(work, method, network)
    cuts: list[Cut] = []
    edges = sum(group.spec.count for group in machine.groups)
    if method.at == "cut" and (at is None or edges <= RANKED_UNASKED):
        cuts = [judged(v, machine, method, stages) for stages in range(1, len(network.cuts) + 1)]
    if at is None:
        at = network.cuts.index(choice(work, cuts).name) + 1
    refuse(_too_large(work, method, machine, network, at))
    job = job_of(v, machine, method, at, seed)
    rows = [_PASSES] if recorded is None else []
    facts = {group.channel.name: group.channel.facts for group in machine.groups}
    devices = [*(group.device for group in machine.groups), machine.cloud]
    facts |= {device.name: device.facts for device in devices if device}
    keys = {g.channel.name: f"pod.edges.{g.name}.change.channel" for g in machine.groups}
    keys |= {g.device.name: f"pod.edges.{g.name}.change.device" for g in machine.groups if g.device}
    if machine.cloud:
        keys[machine.cloud.name] = "pod.cloud.change.device"
    rows += [_LOSS, *assumptions(facts, keys)]
    notes = [*_notes(v, machine, method, job)]
    if recorded:
        said = Assumption("layer times", recorded.times.source, "READ", recorded.machine)
        rows.insert(0, said)
        notes.append(f"layer times are those of {recorded.times.source}, links those of channels")
    return TrainingPlan(v, method, machine, at, cuts, job, rows, notes)


def _recorded(v: Variant) -> RecordFile | None:
    """The training record that a variant names; MisfitError if it is of another network."""
    if v.pod.measured is None:
        return None
    work: Training = v.workload
    try:
        found = read_record(v.pod.measured)
    except (ValueError, OSError) as error:
        raise MisfitError([(("pod", "measured"), str(error))]) from None
    asked = {key: getattr(work, key) for key in found.facts}
    wrong: list[tuple[KeyPath, str]] = [
        (
            ("workload", key),
            f"{found.times.source} was measured with {key} {there!r}, not {value!r}",
        )
        for key, value in asked.items()
        if (there := found.facts[key]) != value
    ]
    refuse(wrong)
    network = TRAINED[work.network](work.image, 1, work.classes, work.width)
    names = [layer["name"] for layer in found.times.layers]
    if names != network.cuts:
        what = f"{found.times.source} has stages {', '.join(names)}, not {', '.join(network.cuts)}"
        raise MisfitError([(("pod", "measured"), what)])
    return found


def _machine_wrong(v: Variant, method: Method) -> Iterator[tuple[KeyPath, str]]:
    """What the machine lacks for the method, and what it has in vain."""
    work: Training = v.workload
    pod, lanes = v.pod, {step.lane for step in method.steps}
    measured = pod.measured is not None
    if "cloud" in lanes and pod.cloud is None and not measured:
        yield ("pod",), f"{method.name} needs a `cloud: {{device: ...}}`"
    if measured and pod.cloud is not None:
        yield ("pod", "cloud"), "`measured` has the cloud's times; take this out"
    if measured and (method.rounds or work.merge > 1):
        key = "method" if method.rounds else "merge"
        yield ("workload", key), "a training record has no times of this; name devices instead"
    for name, group in pod.edges.items():
        at: KeyPath = ("pod", "edges", name)
        if measured and (group.device or group.change.device.given()):
            yield (*at, "device"), "`measured` has the edge's times; take this out"
        if not measured and not group.device:
            yield at, "a group of edges needs a device (or the pod `measured` layer times)"
        if measured and group.battery is not None:
            yield (*at, "battery"), "of a measured machine no power is known; take this out"
    edges = sum(group.count for group in pod.edges.values())
    if edges > MOST_EDGES:
        yield ("pod", "edges"), f"{edges:,} edges are more than {MOST_EDGES:,}"
    for key in ("uplink", "downlink"):
        if getattr(pod, key) is not None and key.removesuffix("link") not in lanes:
            yield ("pod", key), f"nothing of {method.name} goes that way; take this out"


def _machine(v: Variant, recorded: RecordFile | None) -> Machine:
    work: Training = v.workload

    @cache
    def network(batch: int) -> Network:
        try:
            return TRAINED[work.network](work.image, batch, work.classes, work.width, work.dtype)
        except ValueError as error:
            raise MisfitError([(("workload", "image"), str(error))]) from None

    network(work.batch)
    spec = v.pod.cloud
    cloud = catalog.device(spec.device, spec.change.device.given()) if spec else None
    groups = []
    for name, group in v.pod.edges.items():
        own = channel(group.channel, group.change.channel.given())
        if recorded is not None:
            groups.append(Group(name, group, own, None, recorded.times, group.memory or inf))
            continue
        device = catalog.device(group.device, group.change.device.given())
        halves = Priced(network, work.batch, device, cloud or device, work.optimiser)
        groups.append(Group(name, group, own, device, halves, group.memory or device.hbm_bytes))
    return Machine(groups, cloud, network)


def _named_cut(work: Training, method: Method, network: Network) -> int | None:
    """How many stages are on the edge; None: that is to be chosen."""
    if method.at != "cut":
        return 0 if method.at == "none" else len(network.cuts)
    if work.cut == AUTO:
        return None
    if work.cut not in network.cuts:
        close = nearest(work.cut, network.cuts)
        what = f"{network.name} has no cut {work.cut!r}{close}; {', '.join(network.cuts)} or auto"
        raise MisfitError([(("workload", "cut"), what)])
    return network.cuts.index(work.cut) + 1


def _outages_wrong(v: Variant) -> Iterator[tuple[KeyPath, str]]:
    for index, outage in enumerate(v.workload.outages):
        if outage.of not in ("cloud", *v.pod.edges):
            names = ["cloud", *v.pod.edges]
            what = f"no {outage.of!r}{nearest(outage.of, names)}; one of {', '.join(names)}"
            yield ("workload", "outages", index, "of"), what
    strange = [name for name in v.workload.accuracy if name not in _cuts(v.workload)]
    for name in strange:
        what = f"{v.workload.network} has no such cut{nearest(name, _cuts(v.workload))}"
        yield ("workload", "accuracy", name), what


@cache
def _cuts_of(network: str, image: int) -> tuple[str, ...]:
    return tuple(TRAINED[network](image).cuts)


def _cuts(work: Training) -> tuple[str, ...]:
    return _cuts_of(work.network, work.image)


def _too_large(
    work: Training, method: Method, machine: Machine, network: Network, at: int
) -> Iterator[tuple[KeyPath, str]]:
    """Groups of edges whose memory does not hold a batch."""
    kept = on_edge(network, at, work.optimiser, method.exits)
    for group in machine.groups:
        if kept.total > group.memory:
            each = kept.activations / work.batch
            most = int((group.memory - (kept.total - kept.activations)) // each)
            fits = f"at most {most:,} fit" if most > 0 else "not even one sample fits"
            yield (
                ("workload", "batch"),
                f"a batch of {work.batch:,} takes {show(kept.total, 'B')} on {group.name}, which "
                f"has {show(group.memory, 'B')}; {fits}",
            )


def _notes(v: Variant, machine: Machine, method: Method, job: Job) -> Iterator[str]:
    """What is to be said at the top."""
    work: Training = v.workload
    devices = {device.name: device for device in (*_devices(machine), machine.cloud) if device}
    for device in devices.values():
        if work.dtype not in device.matrix_flop_per_s:
            yield (
                f"{device.name}'s card has no {work.dtype}: its products are taken at the rate of "
                "the next format that it has"
            )
    unknown = sorted({d.name for d in _devices(machine) if d.power_w is None})
    if unknown:
        yield f"no power is known of {', '.join(unknown)}: energy is of the radio alone"
    quiet = sorted({g.channel.name for g in machine.groups if not g.channel.send_w})
    if quiet and "up" in {step.lane for step in method.steps}:
        yield f"no power is known of the radio of {', '.join(quiet)}: it counts for nothing"
    largest = max((w.nbytes.get(methods.UPLOAD, 0.0) for w in job.works), default=0.0)
    if method.sent in ("features", "input") and largest > MOST_BYTES:
        yield (
            f"a frame of {show(largest, 'B')} is above the cap of {show(MOST_BYTES, 'B')} that "
            "`podscope cloud` has unless told otherwise"
        )
    if idle := sorted(_without_effect(v, method, job)):
        yield f"without effect here: {', '.join(idle)}"


def _without_effect(v: Variant, method: Method, job: Job) -> Iterator[str]:
    """Keys of the workload that the scenario sets and that change nothing in what is played."""
    work: Training = v.workload
    lanes = {step.lane for step in method.steps}
    idle = {
        "merge": "cloud" not in lanes or len(job.names) == 1 or method.rounds,
        "queue": not job.numbered,
        "checkpoint_every": not job.numbered,
        "features": not method.sent,
        "dtype": v.pod.measured is not None,
        "optimiser": v.pod.measured is not None,
    }
    yield from (key for key, nothing in idle.items() if nothing and key in work.model_fields_set)


def _devices(machine: Machine) -> list[Device]:
    return [group.device for group in machine.groups if group.device is not None]


# Playing.


def play(plan: TrainingPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant."""
    v, work = plan.variant, plan.variant.workload
    timeline = Timeline()
    window = (v.record.from_s, inf if v.record.until_s is None else v.record.until_s)
    kept = timeline if v.record.enabled else None
    found = Play(plan.job, kept, window, v.record.max_spans, progress).run()
    network = plan.machine.network(work.batch)
    cut = network.cuts[plan.at - 1] if plan.method.at == "cut" else ""
    if plan.method.rounds:  # the engine's batch is a round
        found.edges.done *= work.batches
        found.edges.late *= work.batches
    record = TrainingRecord(
        method=work.method,
        network=network.name,
        cut=cut,
        chosen=plan.method.at == "cut" and work.cut == AUTO,
        batch=work.batch,
        samples=round(float(found.edges.done.sum()) * work.batch),
        played=found,
        cuts=plan.cuts,
        memory=on_edge(network, plan.at, work.optimiser, plan.method.exits)._asdict(),
        up_rate=plan.machine.groups[0].channel.up_bytes_per_s,
        curves=curves(v, plan.machine) if plan.cuts else {},
    )
    timeline.owners = _in_turns(plan.job.names, plan.job.groups)
    return Outcome(
        Totals(seconds=found.seconds, steps=float(found.edges.done.sum())),
        part=record,
        timeline=timeline,
        assumptions=plan.assumptions,
        warnings=[*plan.notes, *_said(plan, found)],
        fingerprint=digest([found.seconds, *found.edges.end_s.tolist()]),
        stopped_s=found.seconds if found.stopped else None,
    )


def _in_turns(names: list[str], groups: list[str]) -> list[str]:
    """The cloud, then the first edge of each group, then the second: where not all can be shown,
    some of each are."""
    place: dict[str, int] = {}
    turns = []
    for name, group in zip(names, groups):
        place[group] = place.get(group, -1) + 1
        turns.append((place[group], name))
    return ["cloud", *(name for _, name in sorted(turns, key=lambda turn: turn[0]))]


def _said(plan: TrainingPlan, found: PlayedTraining) -> Iterator[str]:
    edges = found.edges
    if edges.late.any():
        yield f"{edges.late.sum():,.0f} batches were not done when their round, or a battery, ended"
    if edges.alone.any():
        yield (
            f"{edges.alone.sum():,.0f} batches were trained on the edge alone: the queue of "
            f"{plan.variant.workload.queue} was full while the cloud was out of reach"
        )
    if edges.absent.any():
        yield f"edges were absent from {edges.absent.sum():,.0f} rounds of theirs"
    after = [each for each in plan.variant.workload.outages if each.start >= found.seconds]
    if after and not found.stopped:
        yield f"{len(after)} outages begin after the end and change nothing"
    if np.isfinite(edges.empty_s).any():
        yield f"the batteries of {np.isfinite(edges.empty_s).sum():,} edges ran empty"
