"""A workload of requests, from traces to Outcome: a fleet is made, run at the fidelity asked for,
and added up."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sim.engine.partition import Part, Spread, in_order, of_share, sums_only, whole
from sim.engine.pool import Host, Pool, lanes_of, together
from sim.engine.replay import serve_fleet
from sim.engine.scaling import Autoscale, Failure, Scaler, failures
from sim.engine.steps import Progress
from sim.engine.stretch import Stretch, Window
from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.facts.serving import Serving
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.hardware.device import Device
from sim.serving.fleet import (
    GAP_BINS,
    GAP_FINEST_S,
    GAP_RATIO,
    LONE_PAIRS,
    NONE,
    PATTERN,
    PER_PATTERN,
    SERIES,
    SHARED_PAIRS,
    Arrivals,
    Fleet,
    Rules,
    plain_arrivals,
    pool_of,
    series_of,
)
from sim.serving.router import apart
from sim.traces.columns import Columns

_MOST_BLOCKS = 4_000_000  # names of prefix blocks that are held at once


class Service(NamedTuple):
    """How requests are served: the rules of the fleet, its replicas by pool, and what is kept.

    Requests come to the first pool. `classes` gives a chunk's requests the class of their queue and
    how long they wait for their first token before they are turned away.
    """

    rules: Rules
    replicas: np.recarray
    pools: np.recarray
    op: bool  # play every op of every iteration
    window: Window = Window()  # of the timeline
    acceptance: tuple[float, ...] = ()
    closed_loop: bool = False
    expected: float = np.inf  # about how many requests
    failures: tuple[Failure, ...] = ()
    autoscale: Autoscale | None = None
    ranks: int = 1
    classes: Callable[[Arrivals], Arrivals] = lambda asked: asked
    recorded_tokens: int = 0  # of a prefix block that the trace names


def run_service(
    chunks: Iterable[Columns],
    service: Service,
    hosts: Sequence[Sequence[Host]],
    timeline: Timeline | None,
    progress: Progress = lambda _: None,
    spread: Spread | None = None,
) -> Outcome:
    """Serve the requests of `chunks` (by arrival) to the end, pool i on `hosts[i]` (one a stage);
    or, interrupted, as far as it got.

    At fidelity `step` the ops that the timeline shows are played all the same; their times are
    those that a price would have given.
    """
    chunks, expected = counted(chunks, service.expected)
    lanes = lanes_of(service.replicas)
    names = [f"micro-batch {lane}" for lane in range(lanes)] if lanes > 1 else []
    stretch = Stretch(timeline, service.window, range(lanes), names) if timeline else None
    served = [
        _served(stages, service, pool, stretch if pool == 0 else None)
        for pool, stages in enumerate(hosts)
    ]
    scaler = Scaler(service.autoscale) if service.autoscale else None
    spreads = spread is not None and expected >= spread.least and _apart(service, served)
    shares = min(spread.shares, len(service.replicas)) if spread and spreads else 1
    others = [spread.begin(share, shares) for share in range(1, shares)] if spread else []
    part = _part(chunks, expected, service, served, stretch, scaler, progress, 0, shares)
    parts = [part, *(other() for other in others)]
    last = whole([part.fleet for part in parts])
    stopped_s = max((part.stopped_s for part in parts if part.stopped_s is not None), default=None)
    records = np.concatenate([part.records for part in parts]) if len(parts) > 1 else part.records
    del part, parts  # a million records are 100 MB
    table: np.recarray = records[np.argsort(records["id"], kind="stable")].view(np.recarray)
    del records
    makespan_s = float(np.nanmax(table.last_s, initial=0.0))
    count = int((service.replicas.lane == 0).sum())
    table.replica[table.replica != NONE] //= lanes_of(service.replicas)
    totals = together([each.totals(last) for each in served])
    use_of_time(totals, last, makespan_s * count)
    paid = _paid(served, scaler, makespan_s)
    most_on = count - len(scaler.members) + scaler.most if scaler else count
    return Outcome(
        totals,
        tokens=int(table.output[table.replica >= 0].sum()),
        ranks=served[0].ranks,
        replicas=count,
        requests=requests_of(table),
        part=serving_of(last, paid, most_on),
        chip_s=sum(chip_s for _, chip_s in paid),
        timeline=timeline or Timeline(),
        rates=_mean_rates(served),
        warnings=warnings_of(table, service),
        fingerprint=digest_of(table[table.replica != NONE]),
        stopped_s=stopped_s,
    )


def serve_share(
    chunks: Iterable[Columns],
    service: Service,
    hosts: Sequence[Sequence[Host]],
    share: int,
    shares: int,
) -> Part:
    """One of `shares` parts of `run_service`, for which the replicas know nothing of each other."""
    chunks, expected = counted(chunks, service.expected)
    served = [_served(hosts[0], service, 0, None)]
    return _part(chunks, expected, service, served, None, None, lambda _: None, share, shares)


def _served(stages: Sequence[Host], service: Service, pool: int, stretch: Stretch | None) -> Pool:
    return Pool(stages, service.replicas, service.pools[pool], service.op, stretch)


def _apart(service: Service, served: Sequence[Pool]) -> bool:
    """Whether each replica goes its way once requests are routed, and routing does not ask how
    replicas are."""
    alone = apart(service.rules.router) and not service.rules.coupled
    events = service.failures or service.autoscale
    priced = len(served) == 1 and bool(served[0].forms) and lanes_of(service.replicas) == 1
    return alone and not events and not service.op and priced


def _part(
    chunks: Iterable[Columns],
    expected: float,
    service: Service,
    served: Sequence[Pool],
    stretch: Stretch | None,
    scaler: Scaler | None,
    progress: Progress,
    share: int,
    shares: int,
) -> Part:
    replicas, events = (
        service.replicas.copy(),
        failures(service.failures, lanes_of(service.replicas)),
    )
    if scaler is not None:
        events += scaler.begin(replicas)
    if stretch is not None:
        events += stretch.begin(replicas)
    asked, pools, first = arrivals_of(chunks, service), service.pools, 0
    if shares > 1:
        first, end = (len(replicas) * at // shares for at in (share, share + 1))
        asked = of_share(asked, service.rules, len(replicas), range(first, end))
        replicas = replicas[first:end].view(np.recarray)
        replicas.pool = np.arange(len(replicas))
        pools = np.concatenate([pool_of(r, 1) for r in range(len(replicas))]).view(np.recarray)
        expected /= shares
    found: list[np.recarray] = []
    last: Fleet | None = None
    done, stopped_s = 0, None
    try:
        for records, fleet in serve_fleet(
            asked,
            service.rules,
            replicas,
            pools,
            [kind for each in served for kind in each.kinds],
            events=events,
            show=None if service.op else served[0].recorded,
            ranks=service.ranks,
            acceptance=service.acceptance,
            expected=expected,
        ):
            found.append(records)
            last = fleet
            done += len(records)
            progress(min(done / expected, 1.0))
    except KeyboardInterrupt:
        if not done or last is None:
            raise
        times_s = last.replicas.now_s
        stopped_s = float(times_s[np.isfinite(times_s)].max())
    assert last is not None
    table = np.concatenate(found).view(np.recarray) if len(found) > 1 else found[0]
    del found
    table.replica[table.replica != NONE] += first
    return Part(table, sums_only(last), stopped_s)


def use_of_time(totals: Totals, fleet: Fleet, seconds: float) -> None:
    """Write down how much of so many seconds, over all replicas, something was done in."""
    me = fleet.replicas
    own_s = me.iterations * me.overhead_s + me.moved_tokens * np.nan_to_num(me.swap_s)
    delayed_s = (me.busy_s - me.lost_s - own_s) * (1 - 1 / me.slow)
    # Busy time in which no op ran.
    totals.seconds, totals.engine_s = seconds, float((me.lost_s + own_s + delayed_s).sum())
    under_way_s = float(me.busy_s.sum())
    if lanes_of(me) > 1 or me.stages.max() > 1:
        busy_s = fleet.stage_busy_s.sum(axis=1) / me.stages
        under_way_s = float(me.flight_s.sum())
        totals.engine_s = float((busy_s * (1 - 1 / me.slow)).sum())
        totals.bubble_s = max(under_way_s - float(busy_s.sum()), 0.0)
    totals.idle_s = max(seconds - under_way_s, 0.0)


def _mean_rates(served: Sequence[Pool]) -> dict[str, float]:
    """What a rank's capacities carry at most, the mean over replicas."""
    count = sum(each.count for each in served)
    rates = [each.plain[0].rates() for each in served]
    return {
        name: sum(rate[name] * each.count for rate, each in zip(rates, served)) / count
        for name in rates[0].keys() & rates[-1].keys()
    }


def counted(chunks: Iterable[Columns], most: float) -> tuple[Iterable[Columns], float]:
    """The same chunks, and about how many requests there are: exactly, if there is only one."""
    rest = iter(chunks)
    first = [*itertools.islice(rest, 2)]
    if len(first) < 2:
        most = sum(map(len, first))
    return itertools.chain(first, rest), most


def arrivals_of(chunks: Iterable[Columns], service: Service) -> Iterator[Arrivals]:
    """Chunks of a trace as the fleet takes them."""
    first = 0
    for chunk in chunks if service.closed_loop else _pieces(chunks, service):
        count = len(chunk)
        asked = plain_arrivals(chunk.arrival_s, chunk.prompt_tokens, chunk.output_tokens, first)
        if chunk.session is not None:
            # A request on its own is a session of its own.
            asked = asked._replace(
                session=np.where(chunk.session < 0, -1 - asked.id, chunk.session)
            )
        if service.rules.unit_tokens:
            asked = asked._replace(**_engine_blocks(chunk, service))
        if service.closed_loop:
            asked = _in_turn(asked, chunk)
        yield service.classes(asked)
        first += count


def _pieces(chunks: Iterable[Columns], service: Service) -> Iterator[Columns]:
    """The same chunks, but short ones where prompts have very many blocks."""
    for chunk in chunks:
        unit = service.rules.unit_tokens
        blocks = int(chunk.prompt_tokens.sum()) // unit if unit else 0
        rows = len(chunk) * _MOST_BLOCKS // max(blocks, _MOST_BLOCKS)
        for start in range(0, len(chunk), max(rows, 1)):
            yield chunk[start : start + max(rows, 1)]


def _engine_blocks(chunk: Columns, service: Service) -> dict[str, np.ndarray]:
    """The prefixes of a chunk in blocks of the engine: each that a trace names holds several, and
    the last of a prompt only those that the prompt fills."""
    if chunk.blocks is None or chunk.block_from is None:
        return {}
    unit = service.rules.unit_tokens
    parts = service.recorded_tokens // unit
    count = np.minimum(np.diff(chunk.block_from) * parts, chunk.prompt_tokens // unit)
    block_from = np.concatenate(([0], np.cumsum(count)))
    within = np.arange(block_from[-1]) - np.repeat(block_from[:-1], count)
    named = chunk.blocks[np.repeat(chunk.block_from[:-1], count) + within // parts]
    return {"block_from": block_from, "blocks": named * parts + within % parts}


def _in_turn(asked: Arrivals, chunk: Columns) -> Arrivals:
    """Each turn of a session after the answer to the one before and its think time: the whole trace
    is one chunk."""
    if chunk.session is None:
        return asked
    rows = np.lexsort((asked.id, asked.session))
    follows = np.flatnonzero(asked.session[rows[1:]] == asked.session[rows[:-1]])
    turns = np.full(len(asked.id), NONE)
    turns[rows[follows]] = rows[follows + 1]
    later = np.zeros(len(asked.id), bool)
    later[rows[follows + 1]] = True
    think_s = np.nan_to_num(chunk.think_s) if chunk.think_s is not None else np.zeros(len(asked.id))
    asked = asked._replace(
        arrival_s=np.where(later, np.inf, asked.arrival_s),
        next=turns,
        think_s=np.maximum(think_s, 0.0),
    )
    return in_order(asked, np.argsort(later, kind="stable"))  # first turns first


def requests_of(table: np.recarray) -> Requests:
    """Records as columns."""
    return Requests(
        *(
            np.ascontiguousarray(table[name])
            for name in (
                "id",
                "arrival_s",
                "prompt",
                "output",
                "scheduled_s",
                "first_s",
                "last_s",
                "replica",
                "hit",
                "preempted",
                "retried",
                "rank",
            )
        )
    )


def digest_of(table: np.recarray) -> str:
    """Equal for equal times, to 1 ps."""
    times = np.column_stack([table.scheduled_s, table.first_s, table.last_s])
    return hashlib.sha256(np.rint(times * 1e12).tobytes()).hexdigest()[:12]


def _paid(
    served: Sequence[Pool], scaler: Scaler | None, makespan_s: float
) -> list[tuple[Device, float]]:
    """Chip-seconds that each pool's replicas were on."""
    scaled = scaler.members if scaler else range(0)
    return [
        (
            each.plain[0].members[0].device,
            each.ranks
            * sum(
                scaler.on_s(r, makespan_s) if scaler and r in scaled else makespan_s
                for r in range(each.first, each.first + each.recorded.count)
            ),
        )
        for each in served
    ]


def serving_of(fleet: Fleet, paid: Sequence[tuple[Device, float]], most_on: int) -> Serving:
    """Sums over all replicas; `paid` are devices and the chip-seconds they were on."""
    me, lanes = fleet.replicas, lanes_of(fleet.replicas)
    bin_s, series = series_of(fleet)
    series[:, :2] /= (
        lanes  # shares of time and of the KV-cache: a replica's is the mean of its lanes'
    )
    last = int(np.flatnonzero(series[:, 0])[-1]) + 1 if series[:, 0].any() else 0
    power = [chip_s * device.power_w for device, chip_s in paid if device.power_w is not None]
    price = [
        chip_s / 3600 * device.price_per_hour
        for device, chip_s in paid
        if device.price_per_hour is not None
    ]
    return Serving(
        replicas=len(me) // lanes,
        kv_share_s=float(me.kv_s.sum()) / lanes,
        kv_peak=float((me.peak_blocks / me.blocks).max()),
        preemptions=int(me.preemptions.sum()),
        blocks_looked_up=int(me.looked_up.sum()),
        blocks_found=int(me.found.sum()),
        drafted=int(me.drafted.sum()),
        accepted=int(me.accepted.sum()),
        gaps=fleet.gaps.sum(axis=0),
        gap_ends_s=GAP_FINEST_S * GAP_RATIO ** np.arange(GAP_BINS),
        bin_s=bin_s,
        series=dict(zip(SERIES, series[:last].T)),
        slo_s={},
        chip_s=sum(chip_s for _, chip_s in paid),
        joules=sum(power) if len(power) == len(paid) else None,
        dollars=sum(price) if len(price) == len(paid) else None,
        most_on=most_on,
        limited_s=(
            ("max_batch", float(me.by_batch_s.sum()) / lanes),
            ("max_batched_tokens", float(me.by_tokens_s.sum()) / lanes),
            ("KV-cache", float(me.by_kv_s.sum()) / lanes),
        ),
        most_users=int(me.most_users.max()),
        expanded_share=_expanded_share(fleet),
    )


def _expanded_share(fleet: Fleet) -> float | None:
    """None where nothing is expanded."""
    sums = fleet.sums.sum(axis=0)
    lone = float(sums[PATTERN + LONE_PAIRS :: PER_PATTERN].sum())
    return float(sums[SHARED_PAIRS]) / lone if sums[SHARED_PAIRS] else None


def warnings_of(table: np.recarray, service: Service) -> list[str]:
    """What the user should know of who was turned away or had to wait."""
    warnings, me = [], service.replicas
    away = table[table.replica == NONE]
    cache = me.blocks * me.block_tokens
    room = min(int(np.where(me.keeps > cache, cache, me.longest).min()), int(me.longest.min()))
    long = away[away.prompt + away.output > room]
    if len(long):
        first = long[0]
        what = "KV-cache" if room < int(me.longest.min()) else "model's context"
        warnings.append(
            f"{len(long):,} of {len(table):,} requests rejected: longer than the {what} of "
            f"{room:,} tokens "
            f"(the first is request {first['id']} with {first['prompt'] + first['output']:,})"
        )
    if len(away) > len(long):
        warnings.append(
            f"{len(away) - len(long):,} of {len(table):,} requests turned away: they waited "
            "past their deadline"
        )
    served = table[table.replica != NONE]
    if len(served) > 1:
        last_s = float(served.arrival_s.max())
        waiting = int((served.scheduled_s > last_s).sum())
        most_waits = max(int(service.replicas.sequences.sum()), 100)
        if waiting > most_waits:
            more_s = float(served.last_s.max()) - last_s
            warnings.append(
                "overload: requests came faster than they were served; when the last one came, "
                f"{waiting:,} waited, and they took another {more_s:,.1f} s"
            )
    return warnings
