"""Tenants on the same chips: one fleet with a pool of replicas for each, which take turns or run at
the same time.

Replica i of every tenant is on the same chips. Taking turns is a matter of the fleet's loop
(`sim.serving.turns`), at both fidelities. At the same time is a matter of the chips: the iterations
of all are played in one simulation, where their ops share engines, HBM, L2 port and links max-min
fairly by weight, and an iteration ends when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import simpy

from sim.engine.group import GraphOf, Group, Tenancy
from sim.engine.lines import patterns_of
from sim.engine.partition import in_order, rows_of
from sim.engine.pool import Host, Pool, played_totals
from sim.engine.replay import Answer, Kind, Player, batch_of, serve_fleet
from sim.engine.service import (
    Service,
    arrivals_of,
    counted,
    digest_of,
    requests_of,
    serving_of,
    use_of_time,
    warnings_of,
)
from sim.engine.steps import Progress
from sim.engine.stretch import Stretch
from sim.facts.outcome import Outcome
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.graph.batch import Batch
from sim.graph.graph import Graph
from sim.serving.fleet import NEXT, NONE, PENDING, RECORD, Arrivals, Fleet, new_rows, pool_of
from sim.traces.columns import Columns, joined

_WHOSE = 40  # a request's number in the fleet is its tenant << _WHOSE, plus its own


class GroupOf(Protocol):
    """Ranks for a replica."""

    def __call__(self, timeline: Timeline | None, tenancy: Tenancy | None = None) -> Group:
        """A group of its own, or one on the chips of another."""


class Tenant(NamedTuple):
    """One who shares chips: what it is asked, how it serves, and its part of the chips."""

    name: str
    chunks: Iterable[Columns]
    service: Service
    group_of: GroupOf
    weight: float = 1.0
    priority: int = 0


class Shared(NamedTuple):
    """What became of each tenant, and of the chips: time in which somebody used them, mean over the
    replicas."""

    outcomes: list[Outcome]
    busy_s: list[float]  # by tenant, summed over its replicas
    in_use_s: float


def share_chips(
    tenants: Sequence[Tenant],
    quantum: int,
    timeline: Timeline | None,
    progress: Progress = lambda _: None,
) -> Shared:
    """Serve all tenants to the end, in turns of `quantum` iterations, or at the same time if that
    is 0.

    All have equally many replicas, and agree in what the rules and the acceptance of drafts say for
    the whole fleet.
    """
    count = len(tenants[0].service.replicas)
    whose = [slice(t * count, (t + 1) * count) for t in range(len(tenants))]
    rules = max((tenant.service.rules for tenant in tenants), key=lambda each: each.unit_tokens)
    rules = rules._replace(coupled=True, quantum=quantum)
    drafting = [tenant.service.acceptance for tenant in tenants if tenant.service.acceptance]
    stretch = None
    if timeline is not None:
        names = [tenant.name for tenant in tenants]
        firsts = [mine.start for mine in whose]
        stretch = Stretch(timeline, tenants[0].service.window, firsts, names)
    clock = None if quantum else _Together(tenants, count, stretch)
    pools = np.concatenate([pool_of(mine.start, count) for mine in whose]).view(np.recarray)
    replicas = _replicas(tenants)
    turns = (
        []
        if clock
        else [
            Pool(
                [Host(partial(_named, tenant))],
                replicas,
                pool,
                tenant.service.op,
                stretch,
            )
            for tenant, pool in zip(tenants, pools)
        ]
    )
    kinds = (
        [kind for turn in turns for kind in turn.kinds]
        if clock is None
        else [Kind(None, patterns_of(groups), clock) for groups in clock.groups]
    )
    show: Player | None = None
    if turns and not tenants[0].service.op:

        def show(fleet: Fleet, r: int) -> Answer:
            return turns[r // count].recorded(fleet, r)

    chunks, expected = _merged(tenants)
    found: list[np.recarray] = []
    fleet: Fleet | None = None
    for records, now in serve_fleet(
        chunks,
        rules,
        replicas,
        pools,
        kinds,
        events=stretch.begin(replicas) if stretch else (),
        show=show,
        acceptance=drafting[0] if drafting else (),
        expected=expected,
        clock=clock,
    ):
        found.append(records)
        fleet = now
        progress(min(sum(map(len, found)) / expected, 1.0))
    assert fleet is not None
    table = np.concatenate(found).view(np.recarray) if found else new_rows(RECORD, 0)
    outcomes = []
    for t, tenant in enumerate(tenants):
        mine = table[table.id >> _WHOSE == t]
        mine = mine[np.argsort(mine.id, kind="stable")].view(np.recarray)
        mine.id &= (1 << _WHOSE) - 1
        mine.replica[mine.replica != NONE] -= whose[t].start
        totals = (
            played_totals([[group] for group in clock.groups[t]])
            if clock
            else turns[t].totals(fleet)
        )
        plain = clock.groups[t][0] if clock else turns[t].plain[0]
        outcomes.append(_outcome(tenant, mine, _part(fleet, t, whose[t]), totals, plain))
    busy_s = [float(fleet.replicas.busy_s[mine].sum()) for mine in whose]
    return Shared(outcomes, busy_s, clock.in_use_s / count if clock else sum(busy_s) / count)


def _replicas(tenants: Sequence[Tenant]) -> np.recarray:
    """The replicas of all, those of one tenant after those of the other."""
    tables = []
    for t, tenant in enumerate(tenants):
        rows = tenant.service.replicas.copy()
        rows.pool = rows.kind = t
        rows.chips, rows.weight, rows.priority = (
            np.arange(len(rows)),
            tenant.weight,
            tenant.priority,
        )
        tables.append(rows)
    return np.concatenate(tables).view(np.recarray)


def _part(fleet: Fleet, t: int, mine: slice) -> Fleet:
    """The fleet as if it were that of one tenant."""
    kind = slice(t, t + 1)
    return fleet._replace(
        replicas=fleet.replicas[mine].view(np.recarray),
        of_tokens=fleet.of_tokens[kind],
        of_logits=fleet.of_logits[kind],
        of_lone=fleet.of_lone[kind],
        sums=fleet.sums[mine],
        row_sums=fleet.row_sums[mine],
        series=fleet.series[mine],
        gaps=fleet.gaps[mine],
        bin_s=fleet.bin_s[mine],
    )


def _outcome(
    tenant: Tenant, table: np.recarray, fleet: Fleet, totals: Totals, plain: Group
) -> Outcome:
    count, makespan_s = len(fleet.replicas), float(np.nanmax(table.last_s, initial=0.0))
    use_of_time(totals, fleet, makespan_s * count)
    paid = [(plain.members[0].device, plain.ranks * count * makespan_s)]
    return Outcome(
        totals,
        tokens=int(table.output[table.replica >= 0].sum()),
        ranks=plain.ranks,
        replicas=count,
        requests=requests_of(table),
        part=serving_of(fleet, paid, count),
        chip_s=sum(chip_s for _, chip_s in paid),
        rates=plain.rates(),
        warnings=[f"{tenant.name}: {text}" for text in warnings_of(table, tenant.service)],
        fingerprint=digest_of(table[table.replica != NONE]),
    )


class _Together:
    """Iterations that run at the same time: processes of one simulation, on chips that the tenants
    share."""

    def __init__(self, tenants: Sequence[Tenant], count: int, stretch: Stretch | None) -> None:
        self.tenants, self.count, self.stretch = tenants, count, stretch
        timeline = stretch.timeline if stretch else None
        self.groups: list[list[Group]] = [[] for _ in tenants]
        self.env = simpy.Environment()
        for r in range(count):
            first: Group | None = None
            for tenant, groups in zip(tenants, self.groups):
                tenancy = Tenancy(self.env, first, tenant.weight, tenant.name)
                groups.append(tenant.group_of(timeline if r == 0 else None, tenancy))
                first = groups[-1] if first is None else first
        self.in_use_s = 0.0  # summed over the replicas
        self._users = [0] * count  # iterations under way, by chips
        self._since_s = [0.0] * count
        self._until_s = -1.0  # to when the fleet may have been run
        self._ended: list[
            tuple[int, float]
        ] = []  # replica, and what its iteration took beside what the engine adds

    def __call__(self, fleet: Fleet, r: int) -> Answer:
        """Begin an iteration of replica `r`: its end will be told by `reach`."""
        if fleet.replicas[r].now_s > self.env.now:
            self.env.run(float(fleet.replicas[r].now_s))
        self.env.process(self._run(fleet, r))
        return Answer(np.inf)

    def _run(self, fleet: Fleet, r: int):
        place = r % self.count
        group, me, env = self.groups[r // self.count][place], fleet.replicas[r], self.env
        shown = self.stretch
        kept = shown is not None and place == 0 and shown.keeps(fleet, r)
        group.record(kept)
        graphs = group.graphs(batch_of(fleet, r))
        self._use(place, 1)
        start_s = env.now
        yield from group.run(*graphs)
        took_s = env.now - start_s
        if kept and shown is not None:
            shown.show(fleet, r, start_s, env.now)
            group.record(False)
        more_s = took_s * (float(me.slow) - 1) + float(me.overhead_s) + float(me.delay_s)
        if more_s > 0:
            yield env.timeout(more_s)
        self._use(place, -1)
        self._ended.append((r, took_s))

    def _use(self, place: int, change: int) -> None:
        now = self.env.now
        self.in_use_s += (now - self._since_s[place]) * (self._users[place] > 0)
        self._since_s[place] = now
        self._users[place] += change

    def reach(self, fleet: Fleet, asked: Arrivals, until_s: float) -> float:
        """Go on to the first end of an iteration, the next arrival, or `until_s`.

        What begins at the time that is returned waits, for somebody may arrive then; so it is a
        little later.
        """
        env, cursor = self.env, fleet.cursor
        soon_s = min(until_s, float(np.nextafter(env.now, np.inf)))
        if self._until_s < soon_s:  # the chunk before ended now: what waited for this one may begin
            self._until_s = soon_s
            return soon_s
        next_s = min(
            until_s,
            float(asked.arrival_s[cursor[NEXT]]) if cursor[NEXT] < len(asked.arrival_s) else np.inf,
            float(fleet.pending_s[0]) if cursor[PENDING] else np.inf,
        )
        while not self._ended and env.peek() <= next_s and np.isfinite(env.peek()):
            env.step()
        if not self._ended and np.isfinite(next_s) and next_s > env.now:
            env.run(next_s)
        for r, took_s in self._ended:
            fleet.replicas[r].base_s, fleet.replicas[r].end_s = took_s, env.now
        reached_s = env.now if self._ended else next_s
        self._ended.clear()
        self._until_s = min(until_s, float(np.nextafter(reached_s, np.inf)))
        return self._until_s


def _named(tenant: Tenant, timeline: Timeline | None) -> Group:
    """Ranks whose graphs have their tenant's name in them, for a timeline on which all tenants
    are."""
    group = tenant.group_of(timeline)
    made = {each.graph_of: partial(_labelled, tenant.name, each.graph_of) for each in group.members}
    group.members = [each._replace(graph_of=made[each.graph_of]) for each in group.members]
    return group


def _labelled(name: str, graph_of: GraphOf, batch: Batch) -> Graph:
    graph = graph_of(batch)
    layers = {id(layer): replace(layer, name=f"{name}, {layer.name}") for layer in graph.layers}
    return Graph(tuple(layers[id(layer)] for layer in graph.layers))


def _merged(tenants: Sequence[Tenant]) -> tuple[Iterator[Arrivals], float]:
    """The requests of all by arrival, each to its tenant's pool; and about how many they are."""
    expected, streams = 0.0, []
    closed = any(tenant.service.closed_loop for tenant in tenants)
    for t, tenant in enumerate(tenants):
        # A session goes on from one row of a chunk to another, so then everything is one chunk.
        chunks: Iterable[Columns] = [joined([*tenant.chunks])] if closed else tenant.chunks
        chunks, more = counted(chunks, tenant.service.expected)
        expected += more
        streams.append(map(partial(_of_tenant, t), arrivals_of(chunks, tenant.service)))
    return iter([_one([next(stream) for stream in streams])]) if closed else _in_step(
        streams
    ), expected


def _of_tenant(t: int, asked: Arrivals) -> Arrivals:
    return asked._replace(id=asked.id + (t << _WHOSE), pool=np.full(len(asked.id), t))


def _in_step(streams: Sequence[Iterator[Arrivals]]) -> Iterator[Arrivals]:
    """Chunks of several streams as chunks of one: as far as the stream whose chunk ends first."""
    held = {
        s: chunk for s, stream in enumerate(streams) if (chunk := next(stream, None)) is not None
    }
    while held:
        until_s = min(chunk.arrival_s[-1] for chunk in held.values())
        cut = {
            s: int(np.searchsorted(chunk.arrival_s, until_s, side="right"))
            for s, chunk in held.items()
        }
        yield _one([rows_of(held[s], np.arange(n)) for s, n in cut.items()])
        for s, n in cut.items():
            left = np.arange(n, len(held[s].id))
            following = rows_of(held[s], left) if len(left) else next(streams[s], None)
            if following is None:
                del held[s]
            else:
                held[s] = following


def _one(parts: Sequence[Arrivals]) -> Arrivals:
    """Several chunks as one, by arrival; of those that come at once, in the order of `parts`."""
    if len(parts) == 1:
        return parts[0]
    rows = np.cumsum([0, *(len(part.id) for part in parts)])
    blocks = np.cumsum([0, *(len(part.blocks) for part in parts)])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Arrivals._fields
    }
    columns["next"] = np.concatenate(
        [np.where(part.next == NONE, NONE, part.next + first) for part, first in zip(parts, rows)]
    )
    columns["block_from"] = np.concatenate(
        [[0], *(part.block_from[1:] + first for part, first in zip(parts, blocks))]
    ).astype(np.int64)
    whole = Arrivals(**columns)
    return in_order(whole, np.argsort(whole.arrival_s, kind="stable"))
