"""A pod with a share of a model on each of some of its chips."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import NamedTuple

import simpy

from sim import catalog
from sim.engine.group import Group, Tenancy, members_of
from sim.engine.pool import Host
from sim.facts.timeline import Timeline
from sim.graph.batch import Batch, Shared, decode_batch
from sim.graph.footprint import Room, room
from sim.graph.graph import Graph
from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.device import Device
from sim.machine.wiring import Assumption, assumptions, wiring, with_faults
from sim.network.network import Network
from sim.scenario import Variant
from sim.serving.step_time import NO_SHARING, Sharing
from sim.techniques import TECHNIQUES, Machine, apply
from sim.techniques.latent import cut
from sim.text.units import show

_TRACE_TOKENS = 2048  # of expanded prefixes, if the scenario does not say


class Machinery(NamedTuple):
    """A pod with a share of a model on each of some of its chips, and the room that is left."""

    variant: Variant
    device: Device
    network: Network
    model: Model
    precision: Precision
    parallel: Parallel
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
            members_of(self.device, partial(self.graph, stage=stage), ranks, slow),
            self.network_of(stage),
            unfold=bool(v.pod.faults),
            timeline=timeline,
            max_spans=v.record.max_spans,
            tenancy=tenancy,
            name=f"stage {stage}" if self.parts else "",
        )

    def graph(self, batch: Batch, stage: int = 0) -> Graph:
        """What a pass asks of one rank of a stage, techniques applied."""
        graph = transformer(self.model, self.precision, self.parallel, batch, stage)
        return apply(graph, self.machine, self.variant.techniques)

    def network_of(self, stage: int) -> Network:
        """The pod as the ranks of a stage see it: theirs come first, then those of the next
        stage."""
        return self.parts[stage] if self.parts else self.network

    @property
    def machine(self) -> Machine:
        """What techniques may know of it."""
        return _machine(self.device, self.parallel)

    @property
    def hosts(self) -> list[Host]:
        """The stages as the engine wants them."""
        return [
            Host(partial(self.group, stage=stage), self.sharing)
            for stage in range(self.parallel.pipeline)
        ]


def machinery(
    v: Variant, hbm_share: float, new_tokens: int, shared: tuple[Shared, ...] | None = None
) -> Machinery:
    """The pod and the model of a variant, `hbm_share` of its HBM for them.

    `shared` are the runs of tokens that sequences of a batch share, where they are known before
    time zero.
    """
    pod, library, graph = wiring(v)
    device = catalog.device(v.pod.device or pod.device, v.pod.change.device.given(), v.pod.kernels)
    model, parallel = catalog.model(v.model), v.parallel.degrees()
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
    notes = list(shard(model, parallel).notes)
    sharing, kept_bytes, said = _expanded(
        v, shared, model, precision, parallel, _machine(device, parallel)
    )
    notes += said
    space = room(model, precision, parallel, device.hbm_bytes * hbm_share, new_tokens, kept_bytes)
    rows = assumptions(
        {device.name: device.facts, library.name: library.facts, pod.name: pod.facts}
    )
    rows.append((model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source))
    found = Machinery(
        v,
        device,
        network,
        model,
        precision,
        parallel,
        space,
        sharing,
        notes,
        rows,
        parts if len(parts) > 1 else (),
    )
    for stage in range(parallel.pipeline):
        found.graph(decode_batch([1]), stage)  # says now if a technique does not apply
    return found


def _machine(device: Device, parallel: Parallel) -> Machine:
    return Machine(
        device.l2_bytes, device.hbm_bytes_per_s, parallel.ranks, device.matrix_flop_per_s
    )


def _expanded(
    v: Variant,
    shared: tuple[Shared, ...] | None,
    model: Model,
    precision: Precision,
    parallel: Parallel,
    machine: Machine,
) -> tuple[Sharing, float, list[str]]:
    """Which shared prefixes the techniques keep expanded, the bytes that takes on a rank, and what
    to say of it."""
    for name, options in v.techniques:
        expands = TECHNIQUES[name].expands
        if expands is None:
            continue
        found = expands(model, precision, parallel, machine, options)
        if shared is not None:
            in_a_pass = (run._replace(number=run.number / parallel.micro_batches) for run in shared)
            runs = cut(in_a_pass, found.least, found.most_tokens or inf)
            tokens = sum(run.tokens for run in runs)
            some = [
                f"no prefix is shared by the {found.least:,.1f} sequences from which it pays: "
                "all of it is absorb"
            ]
            return (
                Sharing(found.least),
                tokens * found.bytes_per_token,
                [] if runs else [f"{name}: {some[0]}"],
            )
        tokens = found.most_tokens or _TRACE_TOKENS
        nbytes = tokens * found.bytes_per_token
        said = (
            f"{name}: {show(nbytes, 'B')} a device are kept for {tokens:,.0f} tokens of "
            "expanded prefixes"
        )
        return (
            Sharing(found.least, tokens),
            nbytes,
            [] if found.most_tokens else [f"{said} (expanded_tokens)"],
        )
    return NO_SHARING, 0.0, []
