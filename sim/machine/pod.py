"""A pod with a share of a model on each of some of its chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple

import simpy

from sim import catalog
from sim.engine.group import Group, Tenancy, members_of
from sim.engine.isolated import seconds_of
from sim.engine.lines import sharing_of
from sim.engine.pool import Host
from sim.facts.accuracy import Accuracy
from sim.facts.assumption import Assumption
from sim.facts.outcome import Pays
from sim.facts.timeline import Timeline
from sim.graph.batch import NO_SHARING, Batch, Sequences, Shared, Sharing, decode_batch
from sim.graph.footprint import Footprint, Room, footprint, room
from sim.graph.graph import Graph, Op
from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard, stage_layers
from sim.graph.precision import Part, Precision
from sim.graph.routing import Routing
from sim.graph.transformer import transformer
from sim.hardware.cost import alone, multiplied_in
from sim.hardware.device import ENGINE_LIMITS, Device
from sim.machine.wiring import (
    assumptions,
    beyond_library,
    whole_at_each_hop,
    wiring,
    with_faults,
)
from sim.network.library import Library
from sim.network.network import Network
from sim.scenario import Variant
from sim.scenario.machine import Precision as PrecisionSpec
from sim.scenario.machine import Routing as RoutingSpec
from sim.techniques import TECHNIQUES, Machine, accuracy, apply
from sim.techniques.accuracy import accuracy_of
from sim.text.units import show

_STEP_SEQUENCES, _STEP_TOKENS = 8, 32_768  # of the step by which it is told when something pays
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
    idle: list[str]  # techniques that change nothing, and why
    pays: list[Pays]  # when techniques pay
    assumptions: list[Assumption]
    accuracy: Accuracy | None = None
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
        return apply(graph, self.seen_by_techniques(stage), self.variant.techniques)

    def seen_by_techniques(self, stage: int) -> Machine:
        """What techniques may know of a stage and its machine."""
        device, p = self.device, self.parallel
        return Machine(
            l2_bytes=device.l2_bytes,
            l2_set_aside_bytes=device.l2_set_aside_bytes or 0.0,
            hbm_bytes_per_s=device.hbm_bytes_per_s,
            ranks=p.ranks,
            matrix_flop_per_s=device.matrix_flop_per_s,
            model=self.model,
            layers=stage_layers(self.model.layers, p.pipeline)[stage],
        )

    def network_of(self, stage: int) -> Network:
        """The pod as the ranks of a stage see it: theirs come first, then those of the next
        stage."""
        return self.parts[stage] if self.parts else self.network

    @property
    def hosts(self) -> list[Host]:
        """The stages as the engine wants them."""
        return [
            Host(partial(self.group, stage=stage), self.sharing)
            for stage in range(self.parallel.pipeline)
        ]


def machinery(
    v: Variant, hbm_share: float, new_tokens: int | None, shared: tuple[Shared, ...] | None = None
) -> Machinery:
    """The pod and the model of a variant, `hbm_share` of its HBM for them.

    `shared` are the runs of tokens that sequences of a batch share, where they are known before
    time zero. `new_tokens` at a time take room for activations; None: as many as engines take.
    """
    pod, library, graph = wiring(v)
    device = catalog.device(
        v.pod.device or pod.device,
        v.pod.change.device.given(),
        v.pod.kernels,
        v.pod.prefetch_engine,
    )
    if (device.l2_set_aside_bytes or 0.0) > device.l2_bytes:
        raise ValueError(
            f"l2_set_aside_bytes is {show(device.l2_set_aside_bytes or 0.0, 'B')}, more than all "
            f"of {device.name}'s L2, {show(device.l2_bytes, 'B')}"
        )
    new_tokens = new_tokens or device.max_batched_tokens
    model, parallel = catalog.model(v.model.name, v.model.change.given()), v.parallel.degrees()
    ranks, chips = parallel.ranks, parallel.chips
    parallel, popular = routing_of(v.parallel.routing, model, parallel)
    precision, said = precision_of(v.precision, model)
    network = Network(
        with_faults(graph, v.pod.faults, [range(chips)]), library, v.pod.collective, seconds_of
    )
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
    own = {what: fact for what, fact in device.facts.items() if what not in ENGINE_LIMITS}
    rows = assumptions(
        {device.name: own, library.name: library.facts, pod.name: pod.facts},
        {
            device.name: "pod.change.device",
            library.name: "pod.change.library",
            pod.name: "pod.change.link",
        },
    )
    rows.append(
        Assumption(model.name, f"{model.parameters / 1e9:.2f} G parameters", "READ", model.source)
    )
    beyond = [*beyond_cards(v, pod, device, library if chips > 1 else None, precision, model)]
    rows += [Assumption("beyond what was measured", note, "INFER", "") for note in beyond]
    stored = whole_at_each_hop(network, [chips] if chips > 1 else [])
    rows += [Assumption("switches that store and forward", note, "INFER", "") for note in stored]
    if said:
        rows.append(Assumption(f"{model.name}: weights", said, "READ", model.source))
    rows += [
        Assumption(f"{model.name}: {what}", str(value), "CHANGED", "set by the scenario")
        for what, value in v.model.change.given().items()
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
        notes=[
            *shard(model, parallel).notes,
            *beyond,
            *stored,
            *popular,
            *(
                [
                    f"{model.name}: weights are {said}, and activations {precision.activations}; "
                    "`precision` sets others"
                ]
                if said
                else []
            ),
            *(f"{model.name}: {note}" for note in model.notes),
        ],
        idle=[],
        pays=[],
        assumptions=rows,
        accuracy=accuracy_of(v.techniques),
        parts=parts if len(parts) > 1 else (),
    )
    # This says also if a technique does not apply.
    step = found.graph(decode_batch([1]))
    of_rank = sharing_of(step)
    if any(op.kind == "prefetch" for _, op in step.ops()):
        found.notes.extend(_inferred_engine(device, catalog.device(v.pod.device or pod.device)))
    seen = found.seen_by_techniques(0)
    for place, (name, options) in enumerate(v.techniques):
        found.notes.extend(TECHNIQUES[name].notes(seen, options))
        step_s, which = step_of(found, place)
        others = tuple(each.name for at, each in enumerate(v.techniques) if at != place)
        told = TECHNIQUES[name].pays(seen, options, step_s, which)
        found.pays.extend(each._replace(beside=others) for each in told)
    found.notes.extend(accuracy.notes(found.accuracy, model.name))
    runs, sharing = _reshaped(shared, parallel, of_rank)
    stages = [
        footprint(partial(found.graph, stage=stage), parallel, new_tokens, runs)
        for stage in range(parallel.pipeline)
    ]
    kept_bytes = max(stage.kept_bytes for stage in stages)
    found.idle.extend(unchanging(found))
    if sharing != NO_SHARING and not kept_bytes:
        most = max((run.number for run in shared or ()), default=0)
        found.idle.append(
            f"no prefix is expanded: it pays from {sharing.least:,.1f} sequences that share one, "
            f"and at most {most:,.0f} do"
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


def step_of(here: Machinery, place: int) -> tuple[Callable[[Any], float], str]:
    """What a decode step takes, op after op without its exchanges, with other options of the
    technique at `place`, or without it (None); and which step it is."""
    model, chosen = here.model, here.variant.techniques
    context = min(_STEP_TOKENS, model.max_tokens or _STEP_TOKENS)
    batch = decode_batch([context - 1] * _STEP_SEQUENCES)

    def seconds(options: Any) -> float:
        own = () if options is None else ((chosen[place].name, options),)
        techniques = (*chosen[:place], *own, *chosen[place + 1 :])
        graph = here._replace(variant=here.variant.model_copy(update={"techniques": techniques}))
        times = Counter(graph.graph(batch).layers)
        return sum(
            count * float(alone(op, here.device).seconds)
            for layer, count in times.items()
            for op in layer.ops
            if op.engine != "none" and not op.idle
        )

    what = f"{_STEP_SEQUENCES} sequences with {context:,} tokens"
    return seconds, f"In a decode step of {model.name} ({what}) on {here.device.name}"


def unchanging(here: Machinery) -> Iterator[str]:
    """Techniques that change no op, of a prefill or of a decode step."""
    batches = Batch((Sequences(1, 512, 0),), 1), decode_batch([1024] * 8)
    chosen = here.variant.techniques
    for place, technique in enumerate(chosen):
        before, after = (
            [
                here._replace(variant=here.variant.model_copy(update={"techniques": some})).graph(b)
                for b in batches
            ]
            for some in (chosen[:place], chosen[: place + 1])
        )
        if all(map(_same, before, after)):
            yield f"{technique.name} changes no op of {here.model.name} on this machine"


def _same(a: Graph, b: Graph) -> bool:
    """Whether two graphs ask for the same ops."""
    pairs = dict.fromkeys(zip(a.layers, b.layers))
    return len(a.layers) == len(b.layers) and all(
        len(x.ops) == len(y.ops) and all(map(_same_op, x.ops, y.ops)) for x, y in pairs
    )


def _same_op(a: Op, b: Op) -> bool:
    return all(getattr(a, field.name) == getattr(b, field.name) for field in fields(Op))


def beyond_cards(
    v: Variant,
    pod: catalog.PodSpec,
    device: Device,
    library: Library | None,
    precision: Precision,
    model: Model,
) -> Iterator[str]:
    """Where a run uses cards for what they were not measured on."""
    name = Path(v.pod.device or pod.device).stem
    if device.measured_on:
        yield (
            f"{device.name}: its kernels were not measured; shares of its peaks and fixed costs "
            f"are those of {' and '.join(device.measured_on)}"
        )
    yield from beyond_library(name, library)
    at: dict[tuple[str, str], list[str]] = {}
    for part in ("weights", "attention", "experts") if model.experts else ("weights", "attention"):
        dtype = precision.arithmetic(part)
        if (used := multiplied_in(device, dtype)) != dtype:
            at.setdefault((dtype, used), []).append(part)
    for (dtype, used), parts in at.items():
        what = " and ".join(parts)
        yield f"{device.name} has no rate for {dtype}: {what} are computed at its {used} rate"


def _inferred_engine(device: Device, card: Device) -> Iterator[str]:
    """That nobody measured what prefetches copy with, and which engines were measured."""
    fact = device.facts.get("prefetch_bytes_per_s")
    if fact is None:
        yield (
            f"{device.name}: its card names no engine that prefetches; one is taken that is as "
            "quick as HBM and costs nothing to start, the most that any could gain "
            "(prefetch_bytes_per_s, prefetch_overhead_s)"
        )
        return
    if fact.tag != "INFER":
        return
    others = ", ".join(
        f"{name} ({show(each.bytes_per_s, 'B/s')}, {show(each.overhead_s, 's')})"
        for name, each in card.prefetch_engines.items()
    )
    yield (
        f"{device.name}: the engine that prefetches is inferred "
        f"({show(device.prefetch_bytes_per_s, 'B/s')}, {show(device.prefetch_overhead_s, 's')} a "
        "copy), and what prefetching gains hangs on it"
        + (f"; measured: {others}, by `pod.prefetch_engine`" if others else "")
    )


def routing_of(asked: RoutingSpec, model: Model, parallel: Parallel) -> tuple[Parallel, list[str]]:
    """The degrees with the popularity of experts that was measured for the model's family, unless
    the scenario says another, and what to say of it."""
    if not model.routing or asked.skew is not None or asked.file:
        return parallel, []
    parallel = replace(parallel, routing=Routing(counts=catalog.profile(model.routing)))
    part = shard(model, parallel)
    assert part.load is not None and model.experts is not None
    busiest = part.load.pairs * parallel.expert / model.experts.chosen
    across = f": the busiest of {parallel.expert} ranks has {busiest:.2f} x the mean"
    return parallel, [
        f"{model.name}: experts are as popular as measured ({model.routing})"
        f"{across * (parallel.expert > 1)}; parallel.routing sets others"
    ]


def precision_of(asked: PrecisionSpec, model: Model) -> tuple[Precision, str]:
    """The formats of a run, and what the model's file says of them, where that counts.

    What the scenario says goes before what the model is stored as, and that before 16 bits;
    `weights` alone stands for all parts.
    """
    given, file = asked.model_dump(exclude_none=True), model.stored
    stored = {"weights": file.mlp, "attention": file.attention, "experts": file.experts}
    if "weights" in given or not (any(stored.values()) or file.layers):
        return Precision(**given), ""
    formats = {part: dtype or Precision().weights for part, dtype in stored.items()} | given
    parts: dict[str, Part] = {"mlp": "weights", "attention": "attention", "experts": "experts"}
    told: dict[str, list[str]] = {formats[part]: [] for part in parts.values()}
    for name, part in parts.items():
        if name != "experts" or model.experts:
            told[formats[part]].append(name)
    each = ", ".join(f"{dtype} ({', '.join(names)})" for dtype, names in told.items() if names)
    layers = []
    single: dict[tuple[str, str], list[int]] = {}
    for layer, name, dtype in file.layers:
        if parts[name] not in given:
            layers.append((layer, parts[name], dtype or Precision().weights))
            single.setdefault((dtype or Precision().weights, name), []).append(layer)
    each += "".join(
        f", {dtype} ({name} of layer{'s' * (len(some) > 1)} "
        f"{', '.join(map(str, some[:6]))}{', ...' * (len(some) > 6)})"
        for (dtype, name), some in single.items()
    )
    said = f"{each}, as {file.told} says"
    return Precision(**formats, layers=tuple(layers)), said


def _reshaped(
    shared: tuple[Shared, ...] | None, parallel: Parallel, of_rank: Sharing
) -> tuple[list[Shared], Sharing]:
    """The prefixes that techniques keep in a form of their own at the same time, and which of the
    whole batch's those are."""
    if of_rank == NO_SHARING:
        return [], NO_SHARING
    least = of_rank.least * parallel.data
    if shared is not None:
        micro = parallel.micro_batches
        return [run._replace(number=run.number / micro) for run in shared], Sharing(least)
    tokens = of_rank.most if of_rank.most < inf else _TRACE_TOKENS
    return [Shared(ceil(of_rank.least) * parallel.data, tokens)], Sharing(least, tokens)
