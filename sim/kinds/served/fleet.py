"""The fleet of a scenario as the engine wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sim.engine.scaling import Autoscale, Failure
from sim.engine.service import Service
from sim.engine.stretch import Window
from sim.facts.assumption import Assumption
from sim.facts.outcome import Paid
from sim.kinds.served.spec import Prefill, Served, ServedTrace
from sim.machine.pod import Machinery
from sim.scenario import MisfitError, Variant, refuse
from sim.serving.fleet import POLICIES, Arrivals, Rules, number, pool_of, replica_of
from sim.serving.order import ORDERS
from sim.serving.router import ROUTERS
from sim.text.strict_yaml import KeyPath
from sim.text.units import show
from sim.traces.stream import TraceStream


class ServedPlan(NamedTuple):
    """A variant made ready: every part built and found to fit, nothing played yet."""

    variant: Variant
    machinery: Machinery
    prefill: Machinery | None  # of a pool of its own
    trace: TraceStream
    notes: list[str]
    assumptions: list[Assumption]
    seed: int
    paid: tuple[Paid, ...]  # by a chip of each pool, that which prefills first

    @property
    def pools(self) -> list[tuple[Machinery, int]]:
        """The machine of each pool, that which prefills first, and its replicas."""
        work: Served = self.variant.workload
        own = [(self.prefill, work.prefill.replicas)] if self.prefill and work.prefill else []
        return [*own, (self.machinery, work.replicas)]


def require_replicas(work: Served, pipeline: int) -> None:
    """MisfitError if replicas are named that are not there, or none would be left."""
    prefills = work.prefill.replicas if work.prefill else 0
    total = work.replicas + prefills
    which = f"they are 0 to {total - 1}" + (", those that prefill first" if prefills else "")
    named: list[tuple[KeyPath, int]] = [
        (("workload", "slow", replica), replica) for replica in work.slow
    ]
    named += [
        (("workload", "failures", i, "replica"), fault.replica)
        for i, fault in enumerate(work.failures)
    ]
    for_good = {fault.replica for fault in work.failures if fault.duration is None}
    pools = (range(prefills), range(prefills, total))
    least = work.autoscale.least if work.autoscale else 0
    faults: list[tuple[Any, KeyPath, str]] = [
        *((replica >= total, at, f"no replica {replica}; {which}") for at, replica in named),
        *(
            (
                pool and for_good.issuperset(pool),
                ("workload", "failures"),
                "no replica would be left; give one of them a `duration`",
            )
            for pool in pools
        ),
        (
            work.autoscale and pipeline > 1,
            ("workload", "autoscale"),
            "not modelled for a model in pipeline stages; take it out",
        ),
        (
            least > work.replicas,
            ("workload", "autoscale", "least"),
            f"{least} is more than there are; at most {work.replicas}",
        ),
        (
            work.admission.shed and not work.admission.ttft and work.slo.ttft is None,
            ("workload", "admission", "shed"),
            "this needs a deadline; give admission.ttft or slo.ttft",
        ),
    ]
    refuse((at, what) for is_so, at, what in faults if is_so)


def require_sessions(trace: TraceStream) -> None:
    """MisfitError if a closed loop has nothing to go by."""
    if not any(c.session is not None and (c.session >= 0).any() for c in trace.chunks()):
        what = (
            f"the trace {trace.name} has no sessions, so no turn waits for an answer; take it out"
        )
        raise MisfitError([(("workload", "closed_loop"), what)])


def require_room(part: Machinery, kv_tokens: int, share: float, at: KeyPath) -> Iterator[str]:
    """MisfitError if no HBM can hold so many tokens of KV-cache; a note if the `share` of it that
    engines take cannot."""
    room = part.room
    spare = part.device.hbm_bytes * (1 - share) / room.token_bytes
    if kv_tokens <= room.kv_tokens:
        return
    what = (
        f"{kv_tokens:,} tokens of KV-cache need {show(kv_tokens * room.token_bytes, 'B')} a "
        f"device; {room.kv_tokens:,.0f} fit beside weights and activations"
    )
    if kv_tokens > room.kv_tokens + spare:
        raise MisfitError([(at, f"{what}, {room.kv_tokens + spare:,.0f} with all of its HBM")])
    yield f"{'.'.join(map(str, at))}: {what} in {share:.0%} of its HBM (hbm_utilisation)"


def require_blocks(trace: TraceStream, work: Served) -> None:
    """ValueError if the prefix cache has nothing to go by."""
    if not trace.block_tokens:
        raise ValueError(
            f"prefix_caching: the trace {trace.name} does not say which prefixes are equal"
        )
    if trace.block_tokens % work.block_tokens:
        raise ValueError(
            f"prefix_caching: the trace names blocks of {trace.block_tokens} tokens, which "
            f"block_tokens ({work.block_tokens}) must divide"
        )


def require_whole_prefixes(parts: Sequence[Machinery], work: Served) -> None:
    """MisfitError if requests are to share entries that each of them drops by itself."""
    kept = min(part.footprints[0].most_tokens for part in parts)
    if work.prefix_caching and kept < np.inf:
        what = (
            f"the cache keeps {kept:,.0f} tokens of each sequence, others of each, so no prefix is "
            "there for another; take this or the technique out"
        )
        raise MisfitError([(("workload", "prefix_caching"), what)])


def service(plan: ServedPlan) -> Service:
    """The fleet as the scenario wants it."""
    work: ServedTrace = plan.variant.workload
    pools: list[np.recarray] = []
    tables: list[np.recarray] = []
    for pool, part in enumerate(filter(None, (plan.prefill, plan.machinery))):
        own = work.prefill if part is plan.prefill else None
        first = sum(map(len, tables))
        count = (own or work).replicas * part.parallel.micro_batches
        each = part.footprints[0].kv_bytes_per_token
        onward: dict[str, Any] = (
            {"next": 1, "transfer_s": each / own.link, "latency_s": own.latency} if own else {}
        )
        pools.append(pool_of(first, count, **onward))
        rows = [_replica(work, own, part, pool, first + i, each) for i in range(count)]
        tables.append(np.concatenate(rows).view(np.recarray))
    record, scale = plan.variant.record, work.autoscale
    named = "from_s" in record.model_fields_set or record.until_s is not None
    return Service(
        rules=Rules(
            router=number(ROUTERS, work.router),
            order=number(ORDERS, work.admission.order),
            seed=plan.seed,
            jump=work.fidelity == "step",
            coupled=work.closed_loop or work.prefill is not None,
            unit_tokens=work.block_tokens if work.prefix_caching else 0,
            shed=work.admission.shed,
            tail_first=work.prefix_eviction == "tail_first",
        ),
        replicas=np.concatenate(tables).view(np.recarray),
        pools=np.concatenate(pools).view(np.recarray),
        op=work.fidelity == "op",
        window=Window(record.from_s if named else None, record.until_s),
        acceptance=tuple(work.speculative.acceptance) if work.speculative else (),
        closed_loop=work.closed_loop,
        expected=work.trace.limit or np.inf,
        failures=tuple(
            Failure(fault.replica, fault.at, np.inf if fault.duration is None else fault.duration)
            for fault in work.failures
        ),
        autoscale=Autoscale(
            first=int(pools[-1][0]["first"]),
            most=work.replicas,
            least=scale.least,
            target=scale.requests,
            every_s=scale.every,
            start_up_s=scale.start_up,
            cool_down_s=scale.cool_down,
        )
        if scale
        else None,
        ranks=work.admission.classes,
        classes=partial(_classed, work, plan.seed),
        recorded_tokens=plan.trace.block_tokens,
    )


def _replica(
    work: Served, own: Prefill | None, part: Machinery, pool: int, number: int, kv_bytes: float
) -> np.recarray:
    """One row of the fleet: a replica, or the lane of one of its micro-batches; `own` says what is
    different in a pool that only prefills."""
    given, stages, lanes = own or work, part.parallel.pipeline, part.parallel.micro_batches
    tokens = (given.kv_tokens or part.room.kv_tokens) / lanes
    blocks = int(tokens // work.block_tokens)
    if blocks < 1:
        of = " for each micro-batch" if lanes > 1 else ""
        raise ValueError(
            f"the KV-cache holds {tokens:,.0f} tokens{of}, less than a block of {work.block_tokens}"
        )
    drafts = len(work.speculative.acceptance) if work.speculative and own is None else 0
    return replica_of(
        POLICIES[work.policy],
        given.max_batch or work.max_batch or part.device.max_batch,
        given.max_batched_tokens or work.max_batched_tokens or part.device.max_batched_tokens,
        work.block_tokens,
        blocks,
        pool=pool,
        kind=pool * stages,
        reserve=work.kv == "reserve",
        swap_s=kv_bytes / work.host_bandwidth if work.kv == "swap" else np.nan,
        drafts=drafts,
        overhead_s=work.overhead
        + (drafts * work.speculative.drafting if work.speculative else 0.0),
        slow=work.slow.get(number // lanes, 1.0),
        longest=part.model.max_tokens or 2**62,
        keeps=int(min(part.footprints[0].most_tokens, 2**62)),
        stages=stages,
        lanes=lanes,
        lane=number % lanes,
    )


def _classed(work: Served, seed: int, asked: Arrivals) -> Arrivals:
    """Requests with the class of their queue and the deadline of their first token."""
    admission = work.admission
    rank = asked.rank
    if admission.shares:
        chances = np.random.default_rng((seed, *asked.id[:1])).random(len(asked.id))
        rank = np.minimum(
            np.searchsorted(np.cumsum(admission.shares), chances, side="right"),
            admission.classes - 1,
        )
    elif admission.prompt_tokens:
        rank = np.searchsorted(admission.prompt_tokens, asked.prompt)
    limits = np.array(
        admission.ttft or [np.inf if work.slo.ttft is None else work.slo.ttft] * admission.classes
    )
    return asked._replace(rank=rank.astype(np.int64), patience_s=limits[rank])
