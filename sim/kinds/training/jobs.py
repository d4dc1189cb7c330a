"""The job that a variant asks of the engine: what a batch takes on each sort of edge and on the
cloud."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import inf
from typing import NamedTuple

from sim.dnn.trained import Network
from sim.engine.lanes import Job, Outage, Work
from sim.graph.precision import BYTES
from sim.hardware.device import Device
from sim.kinds.training import methods
from sim.kinds.training.methods import Method, steps_of
from sim.kinds.training.spec import Training
from sim.machine.split import Halves, averaged_s, on_edge
from sim.network.channel import Channel
from sim.network.frames import FORMATS, HEADER, frame_bytes
from sim.scenario import Variant
from sim.scenario.machine import Edges


class Group(NamedTuple):
    """Edges that are alike, with their numbers resolved."""

    name: str
    spec: Edges
    channel: Channel
    device: Device | None
    halves: Halves
    memory: float  # bytes; inf: not known


class Machine(NamedTuple):
    """What a variant trains on: groups of edges, a cloud, and the network by batch."""

    groups: list[Group]
    cloud: Device | None
    network: Callable[[int], Network]


def job_of(
    v: Variant, machine: Machine, method: Method, at: int, seed: int, alone: bool = False
) -> Job:
    """What is to be played; `alone`: one batch of every edge, synchronous, without what goes
    wrong, delays being what they are in the mean."""
    work: Training = v.workload
    names: list[str] = []
    groups: list[str] = []
    works: list[Work] = []
    where: dict[str, range] = {}
    for group in machine.groups:
        first = len(names)
        count = group.spec.count
        names += [group.name] if count == 1 else [f"{group.name} {n}" for n in range(count)]
        groups += [group.name] * count
        works += [_work(v, machine, method, group, at, steady=alone)] * count
        where[group.name] = range(first, len(names))
    job = Job(
        steps=steps_of(method, work.pipelined and not alone),
        names=names,
        groups=groups,
        works=works,
        cloud_s=cache(partial(_cloud_s, machine, method, work, at)),
        batches=1 if method.rounds else work.batches,
        rounds=work.rounds,
        together=method.rounds or work.rounds > 1 or work.deadline is not None or work.drop > 0,
        deadline_s=work.deadline_s,
        absent=partial(_absent, work.drop, seed),
        merge=work.merge,
        robust=method.robust,
        numbered=method.robust and work.deadline is None,
        queue=work.queue,
        save_every=work.checkpoint_every,
        outages=[
            Outage(
                outage.start,
                outage.end,
                outage.of == "cloud",
                where.get(outage.of, ()),
                outage.killed,
            )
            for outage in work.outages
        ],
        uplink=v.pod.uplink or inf,
        downlink=v.pod.downlink or inf,
        seed=seed,
    )
    if not alone:
        return job
    return job._replace(
        batches=1, rounds=1, together=False, deadline_s=inf, outages=(), absent=lambda e, t: False
    )


def _absent(drop: float, seed: int, edge: int, turn: int) -> bool:
    return drop > 0 and random.Random(f"{seed} {edge} {turn}").random() < drop


def _work(
    v: Variant, machine: Machine, method: Method, group: Group, at: int, steady: bool
) -> Work:
    work: Training = v.workload
    spent, slower = group.halves.edge(at), group.spec.slower
    passes = {
        methods.FORWARD: spent.forward_s,
        methods.EXIT: spent.exit_s if method.exits else 0.0,
        methods.BACKWARD: spent.backward_s,
    }
    passes[methods.LOCAL] = sum(passes.values()) * work.batches
    own = group.channel
    if steady:
        own = replace(own, jitter_s=0.0, overhead_s=own.overhead_s + own.jitter_s)
    return Work(
        seconds={name: seconds * slower for name, seconds in passes.items()},
        nbytes=_bytes(work, method, machine.network(work.batch), at),
        channel=own,
        power_w=(group.device.power_w or 0.0) if group.device else 0.0,
        idle_w=(group.device.idle_power_w or 0.0) if group.device else 0.0,
        battery_j=inf if group.spec.battery is None else group.spec.battery,
    )


def _bytes(work: Training, method: Method, network: Network, at: int) -> dict[str, float]:
    """Bytes of a message, header and labels counted."""
    if method.sent == "parameters":
        numbers = on_edge(network, at, work.optimiser, method.exits).weights / BYTES[work.dtype]
        both = HEADER.size + numbers * FORMATS[work.features]
        return {methods.UPLOAD: both, methods.DOWNLOAD: both}
    shape = network.stages[at - 1].output if at else network.input
    form = work.features if at else (work.input or work.features)
    both = float(frame_bytes(work.batch, shape.elements, form))
    return {methods.UPLOAD: both, methods.DOWNLOAD: both}


def _cloud_s(
    machine: Machine, method: Method, work: Training, at: int, step: str, batches: int
) -> float:
    """Seconds of a step on the cloud of so many batches at once."""
    if step == methods.AVERAGE:
        assert machine.cloud is not None
        network = machine.network(work.batch)
        weights = on_edge(network, at, work.optimiser, method.exits).weights
        return averaged_s(weights, machine.cloud) * batches
    spent = machine.groups[0].halves.cloud(at, batches, method.returns)
    return spent.forward_s if step == methods.CLOUD_FORWARD else spent.backward_s
