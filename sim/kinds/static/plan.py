"""A static batch, from specs to Outcome."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from sim.engine.pipeline import run_static
from sim.engine.steps import Progress, StaticBatch
from sim.facts.outcome import Outcome, Paid
from sim.facts.timeline import Timeline
from sim.graph.batch import Shared
from sim.graph.footprint import require
from sim.graph.parallel import Parallel
from sim.kinds.static.spec import Decode
from sim.machine.paid import paid
from sim.machine.pod import Machinery, machinery
from sim.machine.unused import refuse_unused
from sim.scenario import MisfitError, Variant
from sim.techniques.accuracy import is_lossy


class StaticPlan(NamedTuple):
    """A variant made ready: machine and model found to fit, nothing played yet."""

    variant: Variant
    machinery: Machinery
    paid: Paid


def prepare(v: Variant, seed: int) -> StaticPlan:
    """Build the machine and the model, and see that the one fits the other; ValueError if it does
    not."""
    work: Decode = v.workload
    micro = v.parallel.degrees().micro_batches
    if micro > work.batch:
        what = (
            f"a batch of {work.batch} cannot be cut into {micro} micro-batches; at most "
            f"{work.batch}"
        )
        raise MisfitError([(("parallel", "micro_batches"), what)])
    here = machinery(v, 1.0, -(-work.batch // micro), shared_runs(work))
    kept = min(stage.most_tokens for stage in here.footprints)
    if work.shared and kept < inf:
        what = (
            f"the cache keeps {kept:,.0f} tokens of each sequence, others of each, so none share "
            "any; take this or the technique out"
        )
        raise MisfitError([(("workload", "shared"), what)])
    require(here.model.name, here.room, _unique_tokens(work, here.parallel, kept))
    longest, most = work.prompt_tokens + work.output_tokens, here.model.max_tokens
    if 0 < most < longest:
        here.notes.append(
            f"{here.model.name} was made for {most:,} tokens; this run goes to {longest:,}"
        )
    refuse_unused(v.pod, [here])
    return StaticPlan(v, here, paid(here))


def shared_runs(work: Decode) -> tuple[Shared, ...]:
    """What the prompts of a static batch have in common."""
    return tuple(Shared(run.sequences or work.batch, run.tokens) for run in work.shared)


def _unique_tokens(work: Decode, parallel: Parallel, kept: float) -> int:
    """Tokens that the KV-caches hold at the end, of each sequence `kept` at most: what sequences
    share stands once in each data-parallel group."""
    again = sum(max(run.number - parallel.data, 0) * run.tokens for run in shared_runs(work))
    return work.batch * int(min(work.prompt_tokens + work.output_tokens, kept)) - int(again)


def play(plan: StaticPlan, progress: Progress = lambda share: None) -> Outcome:
    """Simulate one variant."""
    v, here = plan.variant, plan.machinery
    work: Decode = v.workload
    timeline = Timeline() if v.record.enabled else None
    static = StaticBatch(
        batch=work.batch,
        prompt_tokens=work.prompt_tokens,
        output_tokens=work.output_tokens,
        every_step=work.every_step,
        shared=shared_runs(work),
        micro_batches=here.parallel.micro_batches,
    )
    outcome = run_static([host.group_of for host in here.hosts], static, timeline, progress)
    outcome.paid = plan.paid
    outcome.warnings[:0] = here.notes
    outcome.idle, outcome.pays = here.idle, here.pays
    outcome.lossy, outcome.accuracy = is_lossy(v.techniques), here.accuracy
    outcome.assumptions = here.assumptions
    return outcome
