"""Jobs that issue collectives on one pod, alone or against each other, every message played on the
links it crosses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import count
from typing import NamedTuple

import numpy as np
import simpy

from sim.engine.exchange import Exchange, Known
from sim.engine.fabric import Fabric
from sim.engine.isolated import played
from sim.facts.jobs import Instance, JobRecord, LinkUse, Traffic
from sim.facts.outcome import Outcome
from sim.facts.span import Span, Use, digest
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.network.network import Fold, Network
from sim.network.plans import Floats, Ints, Plan

FOLD_ABOVE = 4096  # chips: a larger group that goes in step, alone on a healthy pod, is not played
LANES = 12  # links whose use the timeline shows, the fullest
USES_A_SPAN = 10  # uses of links that are kept, for each span that may be


class Job(NamedTuple):
    """One collective after the other, each when all ranks are done with the last and `gap_s` has
    gone by."""

    name: str
    collective: str
    nbytes: float  # the buffer of one rank
    ranks: tuple[int, ...]
    network: Network  # as it is, with the job's algorithm
    healthy: Network  # without its faults
    start_s: float = 0.0
    repeat: int = 1
    gap_s: float = 0.0
    background: bool = False  # goes on until all others are done
    weight: float = 1.0


class Trouble(NamedTuple):
    """What is wrong besides the links: chip -> how much longer its own steps take; mean of each
    message's delay."""

    slow: Mapping[int, float] = {}
    jitter_s: float = 0.0
    seed: int = 0


WELL = Trouble()


class Recording(NamedTuple):
    """Which spans to keep."""

    from_s: float = 0.0
    until_s: float = float("inf")
    max_spans: int = 20_000


def play_jobs(
    network: Network,
    jobs: list[Job],
    trouble: Trouble = WELL,
    recording: Recording | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Play the jobs until all that are not in the background are done.

    A group of more than `FOLD_ABOVE` chips that goes in step, alone on a healthy pod, takes its
    closed form.
    """
    env, timeline = simpy.Environment(), Timeline()
    fabric = Fabric(env, network.wires.bytes_per_s, cache(network.wires.name))
    keep = recording or Recording(max_spans=0)
    lanes = _Lanes(fabric, keep)
    fabric.record = lanes.record if keep.max_spans else None
    undisturbed = _undisturbed(jobs, trouble)
    closed = undisturbed and len(jobs[0].ranks) > FOLD_ABOVE and _fold(jobs[0]).exact
    played = [
        _Playing(env, fabric, job, trouble, number, closed) for number, job in enumerate(jobs)
    ]
    total, ended = sum(job.repeat for job in jobs if not job.background), count(1)
    running = []
    for one in played:
        one.tell = partial(_ended, timeline, one, keep, lambda: progress(next(ended) / total))
        process = env.process(one.run())
        running += [] if one.job.background else [process]
    env.run(env.all_of(running))
    fabric.close()
    for one in played:
        if one.began_s is not None and one.began_s < env.now:
            _record(
                timeline,
                one,
                keep,
                one.began_s,
                len(one.instances) + 1,
                "; cut off by the end of the run",
            )
    links = fabric.uses()
    what = (
        f"{jobs[0].name}: {len(jobs[0].ranks):,} chips go in step, so their time is the "
        "closed form, not played"
    )
    warnings = [f"{what}; links are not listed"] if closed else []
    if lanes.full:
        warnings.append(
            f"the use of links is recorded up to {lanes.uses[-1].end_s:.3g} s; narrow the "
            "record window"
        )
    lanes.put_into(timeline, links if keep.max_spans else [])
    timeline.owners = [job.name for job in jobs]
    records = [one.summary(undisturbed) for one in played]
    times = [time_s for record in records for each in record.instances for time_s in each]
    moved = {"link": sum(link.moved_bytes for link in links)}
    return Outcome(
        Totals(
            seconds=env.now,
            ops=float(sum(len(record.instances) for record in records)),
            bytes=moved,
        ),
        ranks=len({chip for job in jobs for chip in job.ranks}),
        timeline=timeline,
        part=Traffic(records, links),
        warnings=warnings,
        fingerprint=digest([env.now, *times]),
    )


def _undisturbed(jobs: list[Job], trouble: Trouble) -> bool:
    """Whether one job has a healthy pod to itself."""
    job = jobs[0]
    well = (
        job.network is job.healthy
        and not trouble.jitter_s
        and not any(chip in trouble.slow for chip in job.ranks)
    )
    return len(jobs) == 1 and well


def _fold(job: Job) -> Fold:
    return job.network.fold(job.collective, job.ranks, job.nbytes)


class _Playing:
    """A job under way."""

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        job: Job,
        trouble: Trouble,
        number: int,
        closed: bool,
    ) -> None:
        self.env, self.fabric, self.job, self.fold = env, fabric, job, _fold(job)
        self.ranks: Ints = job.network.members(job.ranks).ranks
        self.slow: Floats = np.array([trouble.slow.get(chip, 1.0) for chip in job.ranks])
        dice = np.random.default_rng((trouble.seed, number))
        # The delays of so many messages, exponential, from dice of the job's own.
        self.jitter = (
            (lambda messages: dice.exponential(trouble.jitter_s, messages))
            if trouble.jitter_s
            else None
        )
        self.plan: Plan = (
            [] if closed else job.network.plan(job.collective, job.ranks, job.nbytes)[1]
        )
        self.known: Known = {}
        self.instances: list[Instance] = []
        self.ends_s: Floats = np.zeros(len(job.ranks))  # of the collective under way, by rank
        self.sent_bytes: Floats = np.full(len(job.ranks), self.fold.sent_bytes)
        self.tell: Callable[[], None] = lambda: None  # that another one has ended
        self.began_s: float | None = None  # when the one under way did
        self._waiting, self._done = 0, env.event()

    def run(self):
        """All collectives of the job; a process."""
        job, env = self.job, self.env
        yield env.timeout(job.start_s)
        for number in count() if job.background else range(job.repeat):
            if number and job.gap_s:
                yield env.timeout(job.gap_s)
            self.began_s = start_s = env.now
            self.ends_s[:] = np.inf
            if self.plan:
                yield self._begin()
            else:
                yield env.timeout(self.fold.seconds)
                self.ends_s[:] = env.now
            self.began_s = None
            self.instances.append(Instance(start_s, float(self.ends_s.min()), env.now))
            self.tell()

    def _begin(self) -> simpy.Event:
        """All ranks come to the next collective; the event that the last of them is done with
        it."""
        exchange = Exchange(
            self.env,
            self.fabric,
            self.job.network,
            self.ranks,
            self.plan,
            self.fold.way,
            self._finished,
            slow=self.slow,
            jitter=self.jitter,
            weight=self.job.weight,
            known=self.known,
        )
        self.sent_bytes, self._waiting, self._done = (
            exchange.sent_bytes,
            len(self.ranks),
            self.env.event(),
        )
        exchange.arrive(np.arange(len(self.ranks)))
        return self._done

    def _finished(self, who: Ints) -> None:
        self.ends_s[who] = self.env.now
        self._waiting -= len(who)
        if not self._waiting:
            self._done.succeed()

    def summary(self, undisturbed: bool) -> JobRecord:
        """What the job did, beside what it would have taken alone, which is what it took if nothing
        disturbed it."""
        job, fold = self.job, self.fold
        ideal = job.healthy.fold(job.collective, job.ranks, job.nbytes)
        first = self.instances[0] if undisturbed and self.instances else None
        if ideal.exact:
            idle_s = ideal.seconds
        elif first:
            idle_s = first.end_s - first.start_s
        else:
            idle_s = played(
                job.healthy, job.collective, job.ranks, job.nbytes, weight=job.weight
            ).seconds
        name = " ".join(filter(None, (fold.algorithm, fold.way.protocol)))
        algorithm = name if job.network.algorithm == fold.algorithm else f"{name} (auto)"
        return JobRecord(
            name=job.name,
            collective=job.collective,
            algorithm=algorithm,
            rounds=fold.rounds,
            ranks=len(job.ranks),
            nbytes=job.nbytes,
            background=job.background,
            idle_s=idle_s,
            exact=ideal.exact,
            instances=self.instances,
        )


# What is kept for the timeline.


def _ended(
    timeline: Timeline, one: _Playing, keep: Recording, progress: Callable[[], None]
) -> None:
    """A collective of a job has ended."""
    _record(timeline, one, keep, one.instances[-1].start_s, len(one.instances))
    if not one.job.background:
        progress()


def _record(
    timeline: Timeline, one: _Playing, keep: Recording, start_s: float, number: int, more: str = ""
) -> None:
    """A span for each rank of a collective that has just ended, or is cut off."""
    job, fold = one.job, one.fold
    if not keep.from_s <= start_s < keep.until_s or not keep.max_spans:
        return
    note = f"{'auto chose ' * (job.network.algorithm != fold.algorithm)}{fold.note}{more}"
    for chip, end_s, sent in zip(job.ranks, one.ends_s.tolist(), one.sent_bytes.tolist()):
        if len(timeline.spans) >= keep.max_spans:
            timeline.truncated += 1
            continue
        end_s = min(end_s, one.env.now)
        bound = "latency" if 2 * fold.latency_s > end_s - start_s else "link"
        timeline.spans.append(
            Span(
                track=f"{job.name}/rank {chip}",
                name=f"{job.collective} {number}",
                kind=job.collective,
                start_s=start_s,
                end_s=end_s,
                link_bytes=sent,
                bound=bound,
                note=note,
            )
        )


class _Lanes:
    """Keeps the uses of links in the window: of all links, and once those are too many, of the
    fullest so far."""

    def __init__(self, fabric: Fabric, keep: Recording) -> None:
        self.fabric, self.keep, self.most = fabric, keep, keep.max_spans * USES_A_SPAN
        self.uses: list[Use] = []
        self.only: set[str] | None = None
        self.full = False

    def record(self, use: Use) -> None:
        """A link has carried something."""
        if use.start_s >= self.keep.until_s:
            self.fabric.record = None
        elif use.end_s > self.keep.from_s and (self.only is None or use.capacity in self.only):
            if len(self.uses) >= self.most and self.only is None:
                self.only = self.fabric.watch_fullest(LANES)
                self.uses = [each for each in self.uses if each.capacity in self.only]
            if len(self.uses) >= self.most:
                self.full, self.fabric.record = True, None
            else:
                self.uses.append(use)

    def put_into(self, timeline: Timeline, links: list[LinkUse]) -> None:
        """The uses of the fullest links, under names that the timeline draws as lanes."""
        shown = [link for link in links if self.only is None or link.name in self.only][:LANES]
        lanes = {link.name: f"links/{link.name.replace('/', ' ')}" for link in shown}
        timeline.uses = [
            each._replace(capacity=lanes[each.capacity])
            for each in self.uses
            if each.capacity in lanes
        ]
        timeline.capacities = {lanes[link.name]: link.bytes_per_s for link in shown}
