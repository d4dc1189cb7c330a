"""A workload of requests, from traces to Outcome: a fleet is made, run at the fidelity asked for, and added up."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sim.engine.fleet import Answer, Kind, Player, Window, player, serve_fleet
from sim.engine.group import Group
from sim.engine.pieces import Pieces
from sim.engine.pricing import Pricing, pricing
from sim.engine.steps import GraphOf, GroupOf, Progress, Sums, sums_of, totals_of
from sim.hardware.device import Device
from sim.network.network import Network
from sim.serving.fleet import (
    GAP_BINS,
    GAP_FINEST_S,
    GAP_RATIO,
    NONE,
    RECORD,
    SERIES,
    Arrivals,
    Fleet,
    Rules,
    new_rows,
    plain_arrivals,
    pool_of,
)
from sim.spans import Outcome, Requests, Serving, Timeline, Totals
from sim.workload.columns import Columns
from sim.workload.model import Model


class Service(NamedTuple):
    """How requests are served: the rules of the fleet, its replicas, and what is kept."""

    rules: Rules
    replicas: np.recarray
    op: bool  # play every op of every iteration
    window: tuple[float, float]  # iterations that begin in it are recorded
    acceptance: tuple[float, ...] = ()
    closed_loop: bool = False
    expected: float = np.inf  # about how many requests


def run_service(
    chunks: Iterable[Columns], service: Service, group_of: GroupOf, graph_of: GraphOf, device: Device, network: Network,
    model: Model, timeline: Timeline | None, progress: Progress = lambda _: None,
) -> Outcome:  # fmt: skip
    """Serve the requests of `chunks` (by arrival) to the end.

    At fidelity `step` the ops of the window are played all the same, so that they can be looked at; their times are
    those that a price would have given.
    """
    chunks, expected = _expected(chunks, service.expected)
    count = len(service.replicas)
    patterns = len(set(model.attention))
    groups: list[Group] = []
    recorded = _Recorded(lambda r: group_of(timeline if r == 0 else None), graph_of, groups, count)
    plain = group_of(None)
    window, pieces, form = None, None, None
    if service.op:
        kind = Kind(None, patterns, recorded)
        recorded.window = service.window
    else:
        form = pricing(graph_of, device, network, plain.ranks, model) if plain.folded else None
        pieces = None if form else Pieces(plain, graph_of, set(model.attention) == {"dense"})
        kind = Kind(form, patterns, pieces)
        if timeline is not None:
            window = Window(*service.window, recorded)
    found: list[np.recarray] = []
    last: Fleet | None = None
    done = 0
    for records, fleet in serve_fleet(
        _arrivals(chunks, service), service.rules, service.replicas, pool_of(0, count), [kind], window=window,
        acceptance=service.acceptance, expected=expected,
    ):  # fmt: skip
        found.append(records)
        last = fleet
        done += len(records)
        progress(min(done / expected, 1.0))
    assert last is not None
    table = np.concatenate(found).view(np.recarray) if found else new_rows(RECORD, 0)
    table = table[np.argsort(table.id, kind="stable")].view(np.recarray)
    requests = _requests(table)
    totals = _totals(last, form, pieces, groups)
    makespan_s = float(np.nanmax(table.last_s, initial=0.0))
    totals.seconds = makespan_s * count
    totals.idle_s = max(totals.seconds - float(last.replicas.busy_s.sum()), 0.0)
    for group in groups:
        group.close()
    return Outcome(
        totals,
        tokens=int(table.output[table.replica >= 0].sum()),
        ranks=plain.ranks,
        replicas=count,
        requests=requests,
        serving=_serving(last),
        timeline=timeline or Timeline(),
        rates=plain.rates(),
        warnings=_warnings(table, service),
        fingerprint=_digest(table[table.replica != NONE]),
    )  # fmt: skip


class _Recorded:
    """Plays iterations on each replica's own ranks; spans are kept of those that begin in the window."""

    def __init__(
        self, group_of: Callable[[int], Group], graph_of: GraphOf, groups: list[Group], count: int, first: int = 0
    ) -> None:
        self.group_of, self.graph_of, self.groups, self.count, self.first = group_of, graph_of, groups, count, first
        self.window = (0.0, np.inf)
        self._play: Player | None = None

    def __call__(self, fleet: Fleet, r: int) -> Answer:
        if not self.groups:
            self.groups += [self.group_of(r) for r in range(self.count)]
            self._play = player(self.groups, self.graph_of, self.first)
        assert self._play is not None
        # A timeline shows one replica: the first.
        shown = r == self.first
        self.groups[r - self.first].record(shown and self.window[0] <= fleet.replicas[r].now_s < self.window[1])
        return self._play(fleet, r)


def _expected(chunks: Iterable[Columns], most: float) -> tuple[Iterable[Columns], float]:
    """The same chunks, and about how many requests there are: exactly, if there is only one."""
    rest = iter(chunks)
    first = [*itertools.islice(rest, 2)]
    if len(first) < 2:
        most = sum(map(len, first))
    return itertools.chain(first, rest), most


def _arrivals(chunks: Iterable[Columns], service: Service) -> Iterator[Arrivals]:
    first = 0
    for chunk in chunks:
        count = len(chunk)
        asked = plain_arrivals(chunk.arrival_s, chunk.prompt_tokens, chunk.output_tokens, first)
        if chunk.session is not None:
            # A request on its own is a session of its own.
            asked = asked._replace(session=np.where(chunk.session < 0, -1 - asked.id, chunk.session))
        if service.rules.unit_tokens and chunk.blocks is not None and chunk.block_from is not None:
            asked = asked._replace(block_from=chunk.block_from, blocks=chunk.blocks)
        if service.closed_loop:
            asked = _in_turn(asked, chunk)
        yield asked
        first += count


def _in_turn(asked: Arrivals, chunk: Columns) -> Arrivals:
    """Each turn of a session after the answer to the one before and its think time: the whole trace is one chunk."""
    if chunk.session is None:
        return asked
    rows = np.lexsort((asked.id, asked.session))
    follows = np.flatnonzero(asked.session[rows[1:]] == asked.session[rows[:-1]])
    turns = np.full(len(asked.id), NONE)
    turns[rows[follows]] = rows[follows + 1]
    later = np.zeros(len(asked.id), bool)
    later[rows[follows + 1]] = True
    think_s = np.nan_to_num(chunk.think_s) if chunk.think_s is not None else np.zeros(len(asked.id))
    order = np.argsort(later, kind="stable")  # first turns first
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    turns = np.where(turns == NONE, NONE, place[turns])
    begin, size = asked.block_from[:-1], np.diff(asked.block_from)
    edges = np.concatenate([[0], np.cumsum(size[order])])
    blocks = asked.blocks[
        np.arange(edges[-1]) - np.repeat(edges[:-1], size[order]) + np.repeat(begin[order], size[order])
    ]
    asked = asked._replace(
        arrival_s=np.where(later, np.inf, asked.arrival_s), next=turns, think_s=np.maximum(think_s, 0.0)
    )
    moved = {name: getattr(asked, name)[order] for name in asked._fields if name not in ("block_from", "blocks")}
    return Arrivals(**moved, block_from=edges, blocks=blocks)


def _requests(table: np.recarray) -> Requests:
    return Requests(
        *(np.ascontiguousarray(table[name]) for name in
          ("id", "arrival_s", "prompt", "output", "scheduled_s", "first_s", "last_s", "replica", "hit", "preempted"))
    )  # fmt: skip


def _totals(fleet: Fleet, form: Pricing | None, pieces: Pieces | None, groups: list[Group]) -> Totals:
    """Sums over all replicas, one rank of each."""
    if form is not None:
        return form.totals(fleet, 0)
    sums: Sums = {}
    if pieces is not None:
        for r in range(len(fleet.replicas)):
            pieces.settle(fleet, r)
        sums = pieces.sums
    for group in groups:
        for key, value in sums_of(group.chips[0].totals).items():
            sums[key] = sums.get(key, 0.0) + value
    return totals_of(sums)


def _digest(table: np.recarray) -> str:
    """Equal for equal times, to 1 ps."""
    times = np.column_stack([table.scheduled_s, table.first_s, table.last_s])
    return hashlib.sha256(np.rint(times * 1e12).tobytes()).hexdigest()[:12]


def _serving(fleet: Fleet) -> Serving:
    me = fleet.replicas
    series = fleet.series.sum(axis=0)
    last = int(np.flatnonzero(series[:, 0])[-1]) + 1 if series[:, 0].any() else 0
    return Serving(
        replicas=len(me), kv_share_s=float(me.kv_s.sum()), kv_peak=float((me.peak_blocks / me.blocks).max()),
        preemptions=int(me.preemptions.sum()), blocks_looked_up=int(me.looked_up.sum()),
        blocks_found=int(me.found.sum()), drafted=int(me.drafted.sum()), accepted=int(me.accepted.sum()),
        gaps=fleet.gaps.sum(axis=0), gap_ends_s=GAP_FINEST_S * GAP_RATIO ** np.arange(GAP_BINS),
        bin_s=float(fleet.bin_s[0]), series=dict(zip(SERIES, series[:last].T)), slo_s={}, power_w=None,
        price_per_hour=None,
    )  # fmt: skip


def _warnings(table: np.recarray, service: Service) -> list[str]:
    warnings = []
    away = table[table.replica == NONE]
    if len(away):
        most = int((service.replicas.blocks * service.replicas.block_tokens).max())
        first = away[0]
        warnings.append(
            f"{len(away)} of {len(table)} requests refused: longer than the KV-cache of {most:,} tokens "
            f"(the first is request {first['id']} with {first['prompt'] + first['output']:,})"
        )
    served = table[table.replica != NONE]
    if len(served) > 1:
        last_s = float(served.arrival_s.max())
        waiting = int((served.scheduled_s > last_s).sum())
        most_waits = max(int(service.replicas.sequences.sum()), 100)
        if waiting > most_waits:
            more_s = float(served.last_s.max()) - last_s
            warnings.append(
                f"overload: requests came faster than they were served; when the last one came, {waiting:,} waited, "
                f"and they took another {more_s:,.1f} s"
            )
    return warnings
