"""A workload of tenants, from specs to Outcome: each is a workload of requests, on its part of the
pod or on shared chips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from sim.engine.steps import Progress, Sums, sums_of, totals_of
from sim.engine.tenants import Shared, Tenant, share_chips
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.facts.shared_pod import SharedPod, TenantRecord
from sim.facts.timeline import Timeline
from sim.kinds.served.fleet import ServedPlan, service
from sim.kinds.served.plan import complete
from sim.kinds.served.plan import play as play_served
from sim.kinds.served.plan import prepare as prepare_served
from sim.kinds.served.spec import Served, ServedTrace
from sim.kinds.tenants.spec import Tenants, TenantSpec
from sim.machine.unused import refuse_unused
from sim.machine.wiring import strange_stragglers, wiring, with_faults
from sim.scenario import MisfitError, Variant, refuse
from sim.scenario.machine import Parallel
from sim.text.strict_yaml import KeyPath
from sim.text.units import show

# Keys of a tenant in which those on the same chips must agree, for one loop serves them all.
_ALIKE = ("tensor", "replicas", "router", "hbm_utilisation")
# Keys that mean something where chips are shared.
_SHARED = {
    *_ALIKE,
    "model",
    "precision",
    "weight",
    "priority",
    "trace",
    "policy",
    "max_batch",
    "max_batched_tokens",
    "kv",
    "block_tokens",
    "kv_tokens",
    "host_bandwidth",
    "prefix_caching",
    "prefix_eviction",
    "closed_loop",
    "overhead",
    "slow",
    "speculative",
    "slo",
}


class TenantsPlan(NamedTuple):
    """A variant made ready: each tenant a variant of its own, on its chips, nothing played yet."""

    variant: Variant
    work: Tenants
    plans: dict[str, ServedPlan]
    chips: int  # that are used, of all tenants together
    notes: list[str]
    assumptions: list[Assumption]


def prepare(v: Variant, seed: int) -> TenantsPlan:
    """Find each tenant's chips on the pod and see that all fit; MisfitError with everything that
    does not."""
    work: Tenants = v.workload
    apart = work.sharing == "partitioned"
    wires = wiring(v)
    chips = sum(isinstance(node, int) for node in wires.graph)
    wrong = [*_unlike(work)] if not apart else []
    wrong += strange_stragglers(v.pod, chips)
    need = {name: spec.tensor * spec.replicas for name, spec in work.tenants.items()}
    used = sum(need.values()) if apart else max(need.values())
    if used > chips:
        each = ", ".join(f"{name} {count}" for name, count in need.items())
        what = f"need {used} chips ({each})" if apart else f"share {used} chips"
        hint = (
            ": 'time_sliced' and 'co_resident' tenants share chips"
            if apart and max(need.values()) <= chips
            else ""
        )
        wrong.append((("workload", "tenants"), f"the tenants {what}, the pod has {chips}{hint}"))
    refuse(wrong)
    firsts = np.cumsum([0, *need.values()]).tolist() if apart else [0] * len(need)
    mine = {name: range(first, first + need[name]) for name, first in zip(need, firsts)}
    busy = {chip for name, spec in work.tenants.items() for chip in mine[name][: spec.tensor]}
    wrong = [
        (("pod", "stragglers", chip), f"chip {chip} is none of a first replica's; take this out")
        for chip in v.pod.stragglers
        if chip not in busy
    ]
    refuse(wrong)
    with_faults(wires.graph, v.pod.faults, mine.values())
    plans: dict[str, ServedPlan] = {}
    for name, spec in work.tenants.items():
        try:
            plan = prepare_served(_alone(v, work, spec, mine[name]), seed, alone=False)
            here = plan.machinery
            plans[name] = plan._replace(
                machinery=here._replace(network=here.network.part(tuple(mine[name])))
            )
        except MisfitError as error:
            own = ("workload", "tenants", name)
            wrong += [
                ((*own, *at[1:]) if at[0] == "workload" else at, what) for at, what in error.wrong
            ]
        except ValueError as error:
            wrong.append((("workload", "tenants", name), str(error)))
    refuse(wrong)
    refuse_unused(v.pod, [plan.machinery for plan in plans.values()])
    notes = [f"{name}: {note}" for name, plan in plans.items() for note in plan.notes]
    if apart:
        _see_that_they_serve(work, plans)
    else:
        units = {spec.block_tokens for spec in work.tenants.values() if spec.prefix_caching}
        if len(units) > 1:
            sizes = " and ".join(map(str, sorted(units)))
            what = f"prefix_caching: the tenants have blocks of unlike sizes, {sizes} tokens"
            raise MisfitError([(("workload", "tenants"), what)])
        for some in _runs(plans):
            _divided(work, {name: plans[name] for name in some})
    if work.sharing != "time_sliced":
        notes += [
            f"{key} has no part in {work.sharing}"
            for key, given in (
                ("quantum", "quantum" in work.model_fields_set),
                ("priority", any(spec.priority for spec in work.tenants.values())),
            )
            if given
        ]
    rows = list(dict.fromkeys(row for plan in plans.values() for row in plan.assumptions))
    return TenantsPlan(v, work, plans, used, notes, rows)


def play(plan: TenantsPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant: all tenants together, and where they share chips, each alone and each
    two of them."""
    apart = plan.work.sharing == "partitioned"
    timeline = Timeline() if plan.variant.record.enabled else None
    runs = [(name,) for name in plan.plans] if apart else _runs(plan.plans, plan.work.interference)
    shared: dict[tuple[str, ...], Shared] = {}
    for number, names in enumerate(runs):

        def step(share: float, number: int = number) -> None:
            progress((number + share) / len(runs))

        if apart:
            outcome = play_served(plan.plans[names[0]], step)
            shared[names] = Shared([outcome], [outcome.totals.seconds - outcome.totals.idle_s], 0.0)
        else:
            shared[names] = _together(plan, names, None if number else timeline, step)
    return _whole(plan, _records(plan, shared), shared, timeline)


def _runs(names: Iterable[str], pairs: bool = True) -> list[tuple[str, ...]]:
    """Who is on the chips in each run: all, each alone, and each two of them."""
    everybody = tuple(names)
    two = combinations(everybody, 2) if pairs else ()
    return list(dict.fromkeys([everybody, *((name,) for name in everybody), *two]))


def _together(
    plan: TenantsPlan, names: Sequence[str], timeline: Timeline | None, progress: Progress
) -> Shared:
    """Play these tenants on the chips that all of them have.

    Who goes first of those that are equal is told by the names, not by the order in the file.
    """
    work, order = plan.work, sorted(names)
    tenants = []
    for name, each in _divided(work, {name: plan.plans[name] for name in order}).items():
        spec, here, serving = work.tenants[name], each.machinery, service(each)
        tenants.append(
            Tenant(
                name=name,
                chunks=each.trace.chunks(),
                service=serving,
                group_of=here.group,
                weight=spec.weight,
                priority=spec.priority,
            )
        )
    quantum = work.quantum if work.sharing == "time_sliced" else 0
    shared = share_chips(tenants, quantum, timeline, progress)
    for name, outcome in zip(order, shared.outcomes):
        complete(plan.plans[name], outcome)
    places = [order.index(name) for name in names]
    return shared._replace(
        outcomes=[shared.outcomes[place] for place in places],
        busy_s=[shared.busy_s[place] for place in places],
    )


def _records(plan: TenantsPlan, shared: Mapping[tuple[str, ...], Shared]) -> list[TenantRecord]:
    """What became of each tenant in the runs it had a part in."""
    work, everybody = plan.work, tuple(plan.plans)
    apart = work.sharing == "partitioned"

    def outcome(name: str, names: tuple[str, ...]) -> Outcome:
        return shared[names].outcomes[names.index(name)]

    def e2e_s(name: str, names: tuple[str, ...]) -> np.ndarray:
        requests = outcome(name, names).requests
        return requests.last_token_s - requests.arrival_s

    records = []
    for name, spec in work.tenants.items():
        mine = (name,) if apart else everybody
        beside = {
            other: e2e_s(name, (name,) if apart else pair)
            for pair in combinations(everybody, 2)
            for other in pair
            if name in pair and other != name and (apart or pair in shared)
        }
        records.append(
            TenantRecord(
                name=name,
                weight=spec.weight,
                priority=spec.priority,
                chips=spec.tensor * spec.replicas,
                busy_s=shared[mine].busy_s[mine.index(name)],
                outcome=outcome(name, mine),
                alone_e2e_s=e2e_s(name, (name,)),
                beside_e2e_s=beside,
            )
        )
    return records


def _whole(
    plan: TenantsPlan,
    records: list[TenantRecord],
    shared: Mapping[tuple[str, ...], Shared],
    timeline: Timeline | None,
) -> Outcome:
    """The pod as one: what adds up over tenants is a mean over the chips, requests stand tenant by
    tenant."""
    apart = plan.work.sharing == "partitioned"
    parts = [record.outcome for record in records]
    sums: Sums = {}
    for part in parts:
        for key, value in sums_of(part.totals).items():
            share = 1.0 if key in (("steps",), ("ops",)) else part.ranks / plan.chips
            sums[key] = sums.get(key, 0.0) + value * share
    totals = totals_of(sums)
    totals.seconds = max(part.totals.seconds / part.replicas for part in parts)
    in_use_s = sum(each.busy_s * each.outcome.ranks / plan.chips for each in records)
    totals.idle_s = max(
        totals.seconds - (in_use_s if apart else shared[tuple(plan.plans)].in_use_s), 0.0
    )
    prints = " ".join(f"{record.name} {record.outcome.fingerprint}" for record in records)
    return Outcome(
        totals,
        tokens=sum(part.tokens for part in parts),
        ranks=plan.chips,
        requests=Requests.joined([part.requests for part in parts]),
        timeline=(_side_by_side(records) if apart else timeline) or Timeline(),
        rates=parts[0].rates,
        part=SharedPod(plan.work.sharing, records),
        assumptions=plan.assumptions,
        warnings=[*plan.notes, *(text for part in parts for text in part.warnings)],
        fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:12],
    )


def _side_by_side(records: Sequence[TenantRecord]) -> Timeline:
    """The timelines of tenants on chips of their own as one: each in its own stretch, from its
    begin on, if the run has chosen one."""
    whole = Timeline()
    for record in records:
        one = record.outcome.timeline.begun()
        from_s = record.outcome.timeline.origin_s
        name = f"{record.name} from {from_s:.6g} s" if from_s else record.name
        whole.spans += [span._replace(track=f"{name} {span.track}") for span in one.spans]
        whole.lanes += [span._replace(track=name + span.track) for span in one.lanes]
        whole.uses += [use._replace(capacity=f"{record.name} {use.capacity}") for use in one.uses]
        whole.capacities |= {f"{record.name} {name}": rate for name, rate in one.capacities.items()}
        whole.truncated += one.truncated
        whole.full_s = one.full_s if whole.full_s is None else whole.full_s
        whole.chosen |= one.chosen
    return whole


def _unlike(work: Tenants) -> Iterator[tuple[KeyPath, str]]:
    """Where tenants that are to share chips differ in what they cannot."""
    (first, base), *others = work.tenants.items()
    for name, spec in others:
        for key in _ALIKE:
            if getattr(spec, key) != getattr(base, key) and (key != "router" or spec.replicas > 1):
                what = (
                    f"{work.sharing} tenants have the same chips, so {key} is the same for "
                    f"all: {first} has "
                )
                yield (
                    ("workload", "tenants", name, key),
                    f"{what}{getattr(base, key)}, not {getattr(spec, key)}",
                )
    for what, key in (
        ("tokens are accepted", "speculative"),
        ("prefix blocks are given up", "prefix_eviction"),
    ):
        chosen = {
            name: getattr(spec, key) for name, spec in work.tenants.items() if _has(spec, key)
        }
        for name, value in list(chosen.items())[1:]:
            if value != next(iter(chosen.values())):
                yield (
                    ("workload", "tenants", name, key),
                    (
                        f"{work.sharing} tenants agree in how {what}: {key} of "
                        f"{next(iter(chosen))} is another"
                    ),
                )
    for name, spec in work.tenants.items():
        for key in sorted(spec.model_fields_set - _SHARED):
            yield (
                ("workload", "tenants", name, key),
                f"{key} is not modelled where tenants share chips; take it out",
            )


def _has(spec: TenantSpec, key: str) -> bool:
    return spec.speculative is not None if key == "speculative" else spec.prefix_caching


def _alone(v: Variant, work: Tenants, spec: TenantSpec, chips: range) -> Variant:
    """The variant in which a tenant is all there is."""
    slow = {
        chip - chips[0]: factor
        for chip, factor in v.pod.stragglers.items()
        if chip in chips[: spec.tensor]
    }
    pod = v.pod.model_copy(update={"stragglers": slow})
    change = {"pod": pod, "model": spec.model, "parallel": Parallel(tensor=spec.tensor)}
    change |= {"workload": _requests(work, spec), "precision": spec.precision or v.precision}
    return v.model_copy(update=change)


def _requests(work: Tenants, spec: TenantSpec) -> ServedTrace:
    fidelity = work.fidelity or ("op" if work.sharing == "co_resident" else "step")
    given = {name: getattr(spec, name) for name in Served.model_fields}
    return ServedTrace.model_construct(kind="requests", fidelity=fidelity, **given)


def _divided(work: Tenants, plans: Mapping[str, ServedPlan]) -> dict[str, ServedPlan]:
    """The plans of tenants that share chips: HBM holds the weights and activations of all, and what
    is left is split by weight; of co-residents L2 too.

    Who says `kv_tokens` has just that, and the others split the rest.
    """
    specs = {name: work.tenants[name] for name in plans}
    rooms = {name: plan.machinery.room for name, plan in plans.items()}
    used = {name: room.weight_bytes + room.activation_bytes for name, room in rooms.items()}
    held = sum(used.values())
    given = sum((spec.kv_tokens or 0) * rooms[name].token_bytes for name, spec in specs.items())
    weight = sum(spec.weight for spec in specs.values() if not spec.kv_tokens)
    (first, plan), *_ = plans.items()
    whole = plan.machinery.device.hbm_bytes * work.tenants[first].hbm_utilisation
    left = whole - held - given
    if left < 0 or (left == 0 and weight):
        parts = ", ".join(f"{name} {show(nbytes, 'B')}" for name, nbytes in used.items())
        kv = f", and {show(given, 'B')} of KV-cache" if given else ""
        what = (
            f"the tenants do not fit into HBM together: weights and activations of {parts}{kv} "
            f"need {show(held + given, 'B')} of {show(whole, 'B')} a chip"
        )
        raise MisfitError([(("workload", "tenants"), what)])
    total = sum(spec.weight for spec in specs.values())
    found = {}
    for name, spec in specs.items():
        here, room = plans[name].machinery, rooms[name]
        tokens = spec.kv_tokens or left * spec.weight / weight / room.token_bytes
        device = here.device
        if work.sharing == "co_resident":
            device = replace(device, l2_bytes=device.l2_bytes * spec.weight / total)
        here = here._replace(room=room._replace(kv_tokens=tokens), device=device)
        found[name] = plans[name]._replace(machinery=here)
    _see_that_they_serve(work, found)
    return found


def _see_that_they_serve(work: Tenants, plans: Mapping[str, ServedPlan]) -> None:
    wrong: list[tuple[KeyPath, str]] = []
    for name, plan in plans.items():
        try:
            service(plan)
        except ValueError as error:
            wrong.append((("workload", "tenants", name), str(error)))
    refuse(wrong)
