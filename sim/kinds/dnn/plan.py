"""Networks on an array of pods, from specs to Outcome: each alone, or tenants of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim import catalog
from sim.catalog.dnn_cards import card as dnn_card
from sim.dnn.decoder import decoder
from sim.dnn.files import read_dnn
from sim.dnn.found import dnn_of
from sim.dnn.gemms import Dnn
from sim.dnn.known import INPUTS, KNOWN
from sim.facts.array import FAR, ArrayRecord, ArrayRun, NetworkRecord
from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.facts.span import digest
from sim.facts.totals import Totals
from sim.kinds.dnn.spans import drawn, turns_drawn
from sim.kinds.dnn.spec import DnnSpec, Networks
from sim.machine.array import OURS, PAPER, array_assumptions, array_of, schedule_assumptions
from sim.machine.traces import trace_of
from sim.scenario import MisfitError, Variant, refuse
from sim.systolic import tenancy
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import interconnect
from sim.systolic.losses import ends, losses, occupancy
from sim.systolic.pod_array import PodArray
from sim.systolic.power import Budget, most_pods
from sim.systolic.schedule import schedule
from sim.systolic.tiling import MOST_TILE_OPS, tile, tile_ops
from sim.systolic.timing import simulate
from sim.text.strict_yaml import KeyPath, nearest
from sim.traces.stream import gathered

# Networks that interleave by a trace: each set of them that meets is a schedule of its own.
MOST_GANGS = 8
MOST_CELLS = 20_000_000  # pods x rounds of a run whose tiles are kept to be drawn
_AT: KeyPath = ("workload", "networks")


class ArrayPlan(NamedTuple):
    """A variant made ready: every network built and found to fit, nothing scheduled yet."""

    variant: Variant
    work: Networks
    array: PodArray
    dnns: dict[str, Dnn]
    what: dict[str, str]  # each network, in words
    pods: dict[str, int]
    arrivals: dict[str, np.ndarray]  # of networks with a trace, s
    notes: list[str]
    assumptions: list[Assumption]


class _Played(NamedTuple):
    """A schedule that was timed."""

    run: ArrayRun
    ends_s: tuple[float, ...]
    resume_s: float  # what it costs to go on after others ran: weights have to come again


def prepare(v: Variant, seed: int) -> ArrayPlan:
    """Build array and DNNs, and see that they fit; MisfitError with everything that does not."""
    work: Networks = v.workload
    array = array_of(v)
    pods = _pods(work, array)
    wrong: list[tuple[KeyPath, str]] = []
    dnns: dict[str, Dnn] = {}
    what: dict[str, str] = {}
    arrivals: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, spec in work.networks.items():
        at = (*_AT, name)
        try:
            dnns[name], what[name], said = network_of(name, spec, work)
            notes += [f"{name}: {each}" for each in said]
            part = array.part(pods[name])
            interconnect(part.interconnect, part.pods)
            cut = _partition(work, part, [dnns[name]])
            if (count := tile_ops(dnns[name].layers, part, cut)) > MOST_TILE_OPS:
                key = _largest(name, spec, work)
                fault = (
                    f"{name} has {count:,} tile ops, more than the {MOST_TILE_OPS:,} that a "
                    "schedule holds; take a smaller batch, fewer tokens or layers, or larger pods"
                )
                raise MisfitError([(key, fault)])
            for layer in dnns[name].layers:
                tile(layer, part, cut)
            if spec.trace:
                stream, warning = trace_of(spec.trace, seed)
                arrivals[name] = gathered(stream).arrival_s
                notes += [f"{name}: {each}" for each in [*warning, *stream.warnings]]
                if not len(arrivals[name]):
                    wrong.append(((*at, "trace"), f"{name} has no work: the trace has no requests"))
        except MisfitError as error:
            wrong += error.wrong
        except (ValueError, OSError) as error:
            wrong += [(at, line) for line in str(error).splitlines()]
    if work.sharing == "interleaved" and arrivals and len(work.networks) > MOST_GANGS:
        wrong.append(
            (
                _AT,
                f"{len(work.networks)} networks meet in too many ways to schedule each; at most "
                f"{MOST_GANGS} interleave by traces, or take time_sliced or partitioned",
            )
        )
    refuse(wrong)
    return ArrayPlan(
        variant=v,
        work=work,
        array=array,
        dnns=dnns,
        what=what,
        pods=pods,
        arrivals=arrivals,
        notes=notes,
        assumptions=[*array_assumptions(v, array), *_assumptions(work, array)],
    )


def _largest(name: str, spec: DnnSpec, work: Networks) -> KeyPath:
    """The key that makes a network so large: its batch, its input, or all of it."""
    given: dict[KeyPath, int] = {
        (*_AT, name, "batch"): spec.batch or 1,
        ("workload", "batch"): 1 if spec.batch else work.batch,
        (*_AT, name, "tokens"): spec.tokens if "tokens" in spec.model_fields_set else 1,
        **{(*_AT, name, key): getattr(spec, key) or 1 for key in INPUTS},
        **{("workload", key): getattr(work, key) for key in INPUTS if key in work.model_fields_set},
    }
    most = max(given, key=lambda key: given[key])
    return most if given[most] > 1 else (*_AT, name)


def _assumptions(work: Networks, array: PodArray) -> Iterator[Assumption]:
    habits = ", with the authors' habits" if work.exact else ""
    rules = f"first fit into rounds without conflicts{habits}"
    equal = f"{PAPER}: equal to its artifact to the cycle where `exact`"
    yield Assumption("array: schedule", rules, "CHECKED", equal)
    yield from schedule_assumptions(array)
    tenants = {
        "partitioned": "a network of its own for the pods of each, and as much of the memory's "
        "bandwidth",
        "time_sliced": "a schedule is not stopped but at the end of a turn; who goes on loads "
        "its weights again",
        "interleaved": "one schedule for all that wait when the array gets free; the next "
        "begins when it has ended",
    }
    if work.sharing in tenants and (
        work.sharing != "interleaved" or any(n.trace for n in work.networks.values())
    ):
        what = f"array: {work.sharing.replace('_', ' ')}"
        yield Assumption(what, tenants[work.sharing], "INFER", OURS)


def network_of(name: str, spec: DnnSpec, work: Networks) -> tuple[Dnn, str, Sequence[str]]:
    """A DNN, what it is in words, and what the user should know of it; ValueError, MisfitError."""
    batch = spec.batch or work.batch
    if spec.file is not None:
        found, notes = read_dnn(Path(spec.file), batch=batch, sizes=spec.sizes)
        return found, f"{Path(spec.file).name}, batch {batch}", notes
    if spec.model is not None:
        model = catalog.model(spec.model)
        found = decoder(
            model, phase=spec.phase, tokens=spec.tokens, batch=batch, layers=spec.layers
        )
        some = f", the first {spec.layers} layers" if spec.layers else ""
        return found, f"{model.name}, {spec.phase}, {spec.tokens} tokens, batch {batch}{some}", ()
    if spec.card is not None:
        card = dnn_card(spec.card)
        size = f"{card.image} x {card.image} pixels"
        made_for = f"searched for {card.array.rows} x {card.array.cols}"
        return dnn_of(card.found, batch), f"{card.name}, {made_for}, {size}, batch {batch}", ()
    known = spec.network or name
    if known not in KNOWN:
        hint = (
            nearest(known, KNOWN)
            or f"; choose one of {', '.join(KNOWN)}, or give a `card`, a `file` or a `model`"
        )
        raise ValueError(f"no network {known!r}{hint}")
    row = KNOWN[known]
    for other in INPUTS.values():
        if other != row.input and other.name in spec.model_fields_set:
            said = f"{known} takes {row.input.noun}, not {other.noun}"
            raise MisfitError([((*_AT, name, other.name), said)])
    size = getattr(spec, row.input.name) or getattr(work, row.input.name)
    repeated = work.exact and work.sharing == "alone"
    found = row.of(size, batch, exact=work.exact, repeated=repeated)
    return found, f"{known}, {row.input.text.format(size)}, batch {batch}", ()


def play(plan: ArrayPlan, progress: Callable[[float], None] = lambda share: None) -> Outcome:
    """Simulate one variant: schedule what runs together, and play it once or by the traces."""
    play = _Play(plan, progress)
    outcome = (_by_traces if plan.arrivals else _once)(plan, play)
    outcome.warnings[:0] = [*plan.notes, *_far_from_power(plan)]
    outcome.assumptions = plan.assumptions
    outcome.fingerprint = digest(
        [s for run in outcome.part.runs for s in (run.start_s, run.seconds, *run.parts_s.values())]
        + [each.seconds for each in outcome.part.networks]
    )
    return outcome


def _far_from_power(plan: ArrayPlan) -> Iterator[str]:
    """What to simulate where the array takes much less or more than the power that throughput is
    scaled to: networks do not fill twice the pods as they fill the pods."""
    array, spec = plan.array, plan.variant.pod.array
    assert spec is not None
    peak_w = float(array.power.total_w)
    if abs(peak_w / spec.power - 1) <= FAR:
        return
    budget = Budget(spec.power, array.interconnect, array.sram_joules_per_byte, array.clock_hz)
    pods = int(most_pods(float(array.rows), float(array.cols), budget))
    try:
        interconnect(array.interconnect, pods)
    except ValueError:
        pods = 1 << (pods.bit_length() - 1)
    yield (
        f"{array.pods} pods of {array.rows} x {array.cols} take {peak_w:,.0f} W, not "
        f"{spec.power:,.0f}: their throughput at that power is scaled linearly, which pods do not "
        f"follow; simulate {pods} pods"
    )


class _Play:
    """Schedules of a variant, each made once."""

    def __init__(self, plan: ArrayPlan, progress: Callable[[float], None]) -> None:
        self.plan, self.progress = plan, progress
        self.known: dict[tuple[tuple[str, ...], int], _Played] = {}
        self.notes: list[str] = []

    def __call__(self, names: Sequence[str], pods: int | None = None) -> _Played:
        """These networks together on so many pods; by default all."""
        key = tuple(names), pods or self.plan.array.pods
        if key not in self.known:
            self.known[key] = self._played(*key)
            self.progress(min(len(self.known) / (2 * len(self.plan.dnns) + 1), 1.0))
        return self.known[key]

    def _played(self, names: tuple[str, ...], pods: int) -> _Played:
        plan = self.plan
        array, dnns = plan.array.part(pods), [plan.dnns[name] for name in names]
        made = schedule(
            dnns, array, partition=_partition(plan.work, array, dnns), exact=plan.work.exact
        )
        timing, hz, tiles = simulate(made), array.clock_hz, None
        if plan.variant.record.enabled and len(timing.starts) * pods <= MOST_CELLS:
            tiles = occupancy(made, timing)
        elif plan.variant.record.enabled:
            self.notes.append(
                f"{' and '.join(names)}: {len(timing.starts):,} rounds are too many to draw"
            )
        run = ArrayRun(
            names=names,
            first_pod=0,
            pods=pods,
            start_s=0.0,
            seconds=timing.cycles / hz,
            times=0,
            ops=float(made.ops),
            rounds=len(timing.starts),
            tile_ops=timing.tile_ops,
            dram_bytes=timing.dram_bytes,
            parts_s={part: cycles / hz for part, cycles in losses(made, timing)._asdict().items()},
            tiles=tiles,
        )
        return _Played(
            run, tuple(end / hz for end in ends(made, timing)), timing.warm_up_cycles / hz
        )


def _once(plan: ArrayPlan, play: _Play) -> Outcome:
    """One inference of each network."""
    names, sharing = list(plan.dnns), plan.work.sharing
    runs: list[ArrayRun] = []
    ends_s: dict[str, float] = {}
    if sharing == "interleaved":
        all_of_them = play(names)
        runs.append(all_of_them.run._replace(times=1))
        ends_s = dict(zip(names, all_of_them.ends_s))
    else:
        now, first = 0.0, 0
        # In turns; whose is the first, all having come at once, is told by the names.
        for name in sorted(names) if sharing == "time_sliced" else names:
            run = play([name], plan.pods[name]).run
            runs.append(run._replace(first_pod=first, start_s=now, times=1))
            ends_s[name] = now + run.seconds if sharing != "alone" else run.seconds
            if sharing == "partitioned":
                first += run.pods
            else:
                now += run.seconds
    networks = [
        NetworkRecord(
            name=name,
            what=plan.what[name],
            ops=float(plan.dnns[name].ops),
            pods=plan.pods[name],
            seconds=ends_s[name],
            alone_s=play([name]).run.seconds,
            requests=None,
            alone_e2e_s=np.empty(0),
        )
        for name in names
    ]
    seconds = max(run.start_s + run.seconds for run in runs)
    totals = Totals(seconds=seconds, ops=sum(run.tile_ops for run in runs))
    return Outcome(
        totals,
        timeline=drawn(plan.variant.record, runs),
        part=_record(plan, networks, runs),
        warnings=play.notes,
    )


def _by_traces(plan: ArrayPlan, play: _Play) -> Outcome:
    """Inferences as they are asked for, and the same with each network alone on the array."""
    names, work, record = list(plan.dnns), plan.work, plan.variant.record
    asked, apart = [plan.arrivals[name] for name in names], work.sharing == "partitioned"
    keep = record.max_spans if record.enabled else 0
    if work.sharing == "interleaved":
        served = tenancy.in_gangs(asked, lambda who: play([names[i] for i in who]).ends_s, keep)
    else:
        each = [play([name], plan.pods[name]) for name in names]
        seconds, resume_s = [one.run.seconds for one in each], [one.resume_s for one in each]
        served = (
            tenancy.apart(asked, seconds, keep)
            if apart
            else tenancy.in_turns(asked, seconds, work.quantum, resume_s, keep, _by_name(names))
        )
    firsts = dict(zip(names, np.cumsum([0, *plan.pods.values()]).tolist()))
    networks, runs = [], []
    for who, times in sorted(served.gangs.items()):
        together = [names[i] for i in who]
        run = play(together, plan.pods[together[0]] if apart else None).run
        runs.append(run._replace(times=times, first_pod=firsts[together[0]] if apart else 0))
    for name, arrival_s, start_s, end_s in zip(names, asked, served.start_s, served.end_s):
        alone_s = play([name]).run.seconds
        alone = tenancy.apart([arrival_s], [alone_s])
        networks.append(
            NetworkRecord(
                name=name,
                what=plan.what[name],
                ops=float(plan.dnns[name].ops),
                pods=plan.pods[name],
                seconds=float((end_s - start_s).mean()),
                alone_s=alone_s,
                requests=_requests(arrival_s, start_s, end_s),
                alone_e2e_s=alone.end_s[0] - arrival_s,
            )
        )
    last_s = max(float(each.max()) for each in served.end_s)
    totals = Totals(
        seconds=last_s,
        idle_s=last_s - served.in_use_s,
        ops=sum(run.tile_ops * run.times for run in runs),
    )
    return Outcome(
        totals,
        requests=Requests.joined([each.requests for each in networks if each.requests is not None]),
        timeline=turns_drawn(record, names, served.turns, [plan.pods[name] for name in names]),
        part=_record(plan, networks, runs),
        warnings=play.notes,
    )


def _by_name(names: Sequence[str]) -> list[int]:
    """Places in the order of their names, which the order in the file has no part in."""
    return sorted(range(len(names)), key=lambda place: names[place])


def _requests(arrival_s: np.ndarray, start_s: np.ndarray, end_s: np.ndarray) -> Requests:
    """Inferences as requests that make no tokens."""
    none = np.zeros(len(arrival_s), np.int64)
    return Requests(
        id=np.arange(len(arrival_s)),
        arrival_s=arrival_s,
        prompt_tokens=none,
        output_tokens=none,
        scheduled_s=start_s,
        first_token_s=end_s,
        last_token_s=end_s,
        replica=none,
        hit_tokens=none,
        preemptions=none,
        retries=none,
        priority=none,
    )


def _record(plan: ArrayPlan, networks: list[NetworkRecord], runs: list[ArrayRun]) -> ArrayRecord:
    m, spec = plan.array, plan.variant.pod.array
    assert spec is not None
    settings: dict[str, float | str] = {
        "rows": m.rows,
        "cols": m.cols,
        "pods": m.pods,
        "network": m.interconnect,
        "dataflow": m.dataflow,
        "bank": m.bank_bytes / 1024,
        "memory": m.dram_bytes_per_s / 1e9,
        "partition": _partition(plan.work, m, plan.dnns.values()) or m.rows,
        "batch": plan.work.batch,
    }
    return ArrayRecord(
        sharing=plan.work.sharing,
        peak_ops_per_s=m.peak_ops_per_s,
        peak_power_w=float(m.power.total_w),
        power_w=spec.power,
        settings=settings,
        networks=networks,
        runs=runs,
    )


def _partition(work: Networks, array: PodArray, dnns: Iterable[Dnn]) -> int | None:
    """How much of what passes by a tile takes, as the schedule wants it."""
    if work.partition == "none":
        axis = DATAFLOWS[array.dataflow].streamed
        return max((layer.m, layer.n, layer.k)[axis] for each in dnns for layer in each.layers)
    return work.partition


def _pods(work: Networks, array: PodArray) -> dict[str, int]:
    """How many pods each network may use; MisfitError if there are too few."""
    if work.sharing != "partitioned":
        return dict.fromkeys(work.networks, array.pods)
    given = {name: spec.pods for name, spec in work.networks.items() if spec.pods is not None}
    others = len(work.networks) - len(given)
    left = array.pods - sum(given.values())
    if left < others:
        need = f"{sum(given.values())} pods" + (
            f" and one for each of {others} others" if others else ""
        )
        raise MisfitError([(_AT, f"the networks are given {need}; the array has {array.pods}")])
    return {name: spec.pods or left // others for name, spec in work.networks.items()}
