"""The whole path on one screen: scenario file in, Result out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sim import compiled, scenario
from sim.catalog.installed import add_installed
from sim.engine.partition import Part, Spread
from sim.facts.outcome import Outcome
from sim.facts.version import VERSION
from sim.kinds import KINDS, Kind
from sim.results import Result, build
from sim.scenario import MisfitError, Scenario, ScenarioError, Variant
from sim.workers import opened

Progress = Callable[[float, str], None]
_SPREAD_FROM = 100_000  # requests: below, another process costs more than it saves


class Plan(NamedTuple):
    """A variant made ready: its kind of work, and what that has built."""

    kind: Kind
    built: Any


def load(path: scenario.Source, overrides: scenario.Overrides = ()) -> Scenario:
    """The scenario in file `path`, or the shipped one of that name, or given as a mapping.

    `overrides` are "dotted.key=value" texts, or a mapping from dotted key to value; text values are
    read as YAML. They apply to the common part and over each variant; `variants.NAME.key` reaches
    one variant. Raises ScenarioError.
    """
    add_installed()
    return scenario.load(path, overrides, KINDS)


def run(
    path: scenario.Source,
    overrides: scenario.Overrides = (),
    progress: Progress = lambda share, label: None,
    *,
    workers: int = 1,
    cluster: str | None = None,
) -> Result:
    """Run every variant of the scenario in file `path` (or the shipped one of that name, or given
    as a mapping).

    `overrides` are "key=value" texts, or a mapping from dotted key to value. `workers` processes
    share the variants, or the replicas of the only one; with `cluster`, the address of a Dask
    scheduler, its workers do, where the same podscope and the same files are. The result does not
    depend on their number. Raises ScenarioError, listing every fault, if anything in the scenario
    is wrong.
    """
    compiled.begin()
    s = load(path, overrides)
    plans = prepare(s)
    outcomes: dict[str, Outcome] = {}
    try:
        _spread(path, overrides, plans, workers, progress, cluster, outcomes)
    except KeyboardInterrupt:
        if not outcomes:
            raise
        raise Interrupted(
            result_of(s, {name: outcomes[name] for name in plans if name in outcomes}, [*plans])
        ) from None
    return result_of(s, {name: outcomes[name] for name in plans})


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; `result` is what there was by then, marked partial."""

    def __init__(self, result: Result) -> None:
        super().__init__("interrupted")
        self.result = result


def result_of(s: Scenario, outcomes: dict[str, Outcome], wanted: Sequence[str] = ()) -> Result:
    """What the outcomes say; of an interrupted run, `wanted` are all its variants."""
    warnings = [
        f"interrupted: {name} "
        + (
            f"was at {outcomes[name].stopped_s:,.6g} s of simulated time"
            if name in outcomes
            else "was not run to its end"
        )
        for name in wanted
        if name not in outcomes or outcomes[name].stopped_s is not None
    ]
    return build(
        scenario=s.name,
        question=s.question,
        version=VERSION,
        seed=s.seed,
        outcomes=outcomes,
        kinds=KINDS,
        expect=[] if wanted else s.expect,
        resolved=s.resolved,
        warnings=warnings,
        partial=bool(wanted),
    )


def prepare(s: Scenario) -> dict[str, Plan]:
    """Build the parts of every variant; ScenarioError with every fault that only shows when they
    are put together."""
    plans: dict[str, Plan] = {}
    faults = []
    for name, variant in s.variants.items():
        try:
            plans[name] = _prepared(variant, s.seed)
        except ScenarioError as error:
            faults += error.faults
        except MisfitError as error:
            faults += [s.fault(name, what, at) for at, what in error.wrong]
        except (ValueError, OSError) as error:
            faults.append(s.fault(name, str(error)))
    if faults:
        raise ScenarioError(
            sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line))
        )
    return plans


def _prepared(v: Variant, seed: int) -> Plan:
    kind = KINDS[v.workload.kind]
    return Plan(kind, kind.prepare(v, seed))


def play(
    plan: Plan,
    progress: Callable[[float], None] = lambda share: None,
    spread: Spread | None = None,
) -> Outcome:
    """Simulate one variant; `spread` are processes that may do a share of it, where its kind of
    work can be shared."""
    others = {"spread": spread} if plan.kind.share else {}
    outcome = plan.kind.play(plan.built, progress, **others)
    outcome.kind, outcome.ran = plan.kind.name, compiled.ran()
    return outcome


def _spread(
    path: scenario.Source,
    overrides: scenario.Overrides,
    plans: dict[str, Plan],
    workers: int,
    progress: Progress,
    cluster: str | None,
    outcomes: dict[str, Outcome],
) -> None:
    """Play the variants into `outcomes`; the last (with one worker, all of them) in this process,
    which can tell how far it is, and if it is the only one, its replicas where they can be
    apart."""
    names = list(plans)
    with _elsewhere(workers, cluster) as (submit, others):
        away = names[:-1] if others else []
        sent = {name: submit(play_named, path, overrides, name) for name in away}

        def begin(share: int, shares: int) -> Callable[[], Part]:
            return submit(play_named_share, path, overrides, names[0], share, shares).result

        spread = Spread(1 + others, _SPREAD_FROM, begin) if others and len(names) == 1 else None
        for index, name in enumerate(name for name in names if name not in sent):

            def step(share: float, index: int = index, name: str = name) -> None:
                progress((index + share) / (len(names) - len(sent)), name)

            outcomes[name] = play(plans[name], step, spread)
            if outcomes[name].stopped_s is not None:
                break
        try:
            if _stopped(outcomes):
                raise KeyboardInterrupt
            for name, future in sent.items():
                outcomes[name] = future.result()
        except KeyboardInterrupt:  # what the others have done by now is kept, the rest dropped
            ended = {n: f for n, f in sent.items() if f.done() and not f.cancelled()}
            outcomes |= {n: f.result() for n, f in ended.items() if f.exception() is None}
            raise
    if _stopped(outcomes):
        raise KeyboardInterrupt


def _stopped(outcomes: Mapping[str, Outcome]) -> bool:
    return any(outcome.stopped_s is not None for outcome in outcomes.values())


@contextmanager
def _elsewhere(workers: int, cluster: str | None) -> Iterator[tuple[Callable[..., Any], int]]:
    """How to have something done by other processes, here or on a cluster, and how many there
    are."""
    others = workers - 1 if cluster is None else 1
    if not others:
        yield _nobody, 0
        return
    # Each reads the scenario again, quicker than to ship it.
    with opened(others, cluster) as elsewhere:
        yield elsewhere.submit, elsewhere.count


def _nobody(*work: Any) -> Any:
    raise AssertionError("there is nobody to ask")


def play_named(path: scenario.Source, overrides: scenario.Overrides, name: str) -> Outcome:
    """Play one variant of a scenario file: what a worker process is asked to do."""
    compiled.begin()
    s = load(path, overrides)
    return play(_prepared(s.variants[name], s.seed))


def play_named_share(
    path: scenario.Source, overrides: scenario.Overrides, name: str, share: int, shares: int
) -> Part:
    """Serve a share of the replicas of a variant: the same, for a part of one."""
    s = load(path, overrides)
    plan = _prepared(s.variants[name], s.seed)
    assert plan.kind.share is not None
    return plan.kind.share(plan.built, share, shares)
