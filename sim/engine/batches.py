"""Batches as steps that wait for each other, on lanes: the clock of edges and a cloud that train
together.

A lane does one thing at a time, in the order in which it is asked: an edge's processor, its radio
up and down, and the cloud, which all edges share and which may take several batches at once. What
a method is, which steps there are and what they wait for, comes from outside as data. Messages are
flows over one shared capacity up and one down. Each step remembers of what the way to its end is
made, so the wall time has parts that add up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

import numpy as np
import simpy

from sim.engine.flows import Alarm
from sim.engine.lanes import (
    ASKED,
    CLOUD,
    DONE,
    EDGE,
    REMOTE,
    RUNNING,
    UP,
    WAITING,
    Batch,
    Edge,
    Job,
    Lane,
    Parts,
    Task,
)
from sim.engine.shared import Shared
from sim.facts.span import Span, Use
from sim.facts.timeline import Timeline
from sim.facts.training import EdgesRecord, PlayedTraining

OUTAGE, ROUND = "lost connections, and what was begun in vain", "waiting for a deadline"
_CALLS = 4096  # steps, of which one tells how far it is


def more(parts: Parts, at: int, seconds: float) -> Parts:
    """The way to somewhere, and on."""
    grown = [*parts]
    grown[at] += seconds
    return tuple(grown)


class Batches:
    """A run of a job.  Spans that begin within `window` are kept in `timeline`."""

    def __init__(
        self,
        job: Job,
        timeline: Timeline | None = None,
        window: tuple[float, float] = (0.0, inf),
        max_spans: int = 20_000,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.job, self.timeline, self.window, self.max_spans = job, timeline, window, max_spans
        self.progress, self.env = progress, simpy.Environment()
        self.up, self.down = Shared(self.env, job.uplink), Shared(self.env, job.downlink)
        self.names = [step.name for step in job.steps]
        self.lane_of = [step.lane for step in job.steps]
        place = {name: index for index, name in enumerate(self.names)}
        self.needs = [[(place[a.name], a.back) for a in step.after] for step in job.steps]
        self.feeds: list[list[tuple[int, int]]] = [[] for _ in job.steps]
        for index, needs in enumerate(self.needs):
            for need, back in needs:
                self.feeds[need].append((index, back))
        self.last_of = {lane: index for index, lane in enumerate(self.lane_of)}
        self.cloud, self.cloud_busy_s, self.cloud_lost = Lane("cloud/compute"), 0.0, 0
        self.record = EdgesRecord.of(job.names, job.groups)
        self.edges = [
            Edge(number, name, work, job)
            for number, (name, work) in enumerate(zip(job.names, job.works))
        ]
        self.turn, self.waiting, self.steps_done = -1, 0, 0
        self.rounds_s: list[float] = []
        self.ended_s, self.over = 0.0, False
        self.ended = self.round_parts = (0.0,) * (len(job.steps) + 2)
        if timeline is not None:
            self._watch(timeline)

    def run(self) -> PlayedTraining:
        """Play it to its end, or until it is interrupted."""
        self._next_round(self.ended)
        stopped = False
        try:
            while not self.over:
                self.env.step()
        except KeyboardInterrupt:
            self.ended_s, stopped = self.env.now, True
        record, names = self.record, [*self.names, OUTAGE, ROUND]
        idle_w = np.array([edge.work.idle_w for edge in self.edges])
        record.joules += idle_w * np.maximum(record.end_s - record.busy_s, 0.0)
        return PlayedTraining(
            seconds=self.ended_s,
            edges=self.record,
            path_s={name: spent for name, spent in zip(names, self.ended) if spent},
            cloud_busy_s=self.cloud_busy_s,
            up=self.up.series,
            down=self.down.series,
            up_bytes=self.up.moved_bytes,
            down_bytes=self.down.moved_bytes,
            most_uploads=self.up.most_flows,
            cloud_trained=sum(len(edge.takes.batches) for edge in self.edges),
            rounds_s=self.rounds_s,
            stopped=stopped,
        )

    # Rounds.

    def _next_round(self, parts: Parts) -> None:
        job, now = self.job, self.env.now
        self.ended_s, self.ended = now, parts
        while True:
            self.turn += 1
            if self.turn:
                self.rounds_s.append(now)
            here = [edge for edge in self.edges if not edge.gone]
            if self.turn >= (job.rounds if job.together else 1) or not here:
                self.over = True
                return
            come = [edge for edge in here if not job.absent(edge.number, self.turn)]
            for edge in here:
                self.record.absent[edge.number] += edge not in come if len(come) < len(here) else 0
            if come:
                break
        self.waiting, self.round_parts = len(come), parts
        for edge in come:
            edge.end = edge.made + job.batches * (1 if job.together else job.rounds)
            self._make(edge, parts)
        if job.deadline_s < inf:
            Alarm(self.env, job.deadline_s, partial(self._deadline, self.turn))
        if job.together:
            self.progress(self.turn / job.rounds)

    def _deadline(self, turn: int, _: object = None) -> None:
        """Whoever is not done by now is not waited for."""
        if self.turn == turn and not self.over:
            for edge in self.edges:
                self._abandon(edge)
            self._next_round(more(self.round_parts, -1, self.job.deadline_s))

    def _abandon(self, edge: Edge) -> None:
        """Drop all that the edge has under way, for good."""
        self.record.late[edge.number] += len(edge.batches) + edge.end - edge.made
        for batch in edge.batches.values():
            for task in batch.tasks:
                self._withdraw(task)
                task.state = DONE
        edge.batches.clear()
        edge.made, edge.held_back = edge.end, None

    def _edge_done(self, edge: Edge, parts: Parts) -> None:
        self.record.end_s[edge.number] = self.env.now
        self.waiting -= 1
        if not self.waiting:
            self._next_round(parts)

    # Batches and their steps.

    def _make(self, edge: Edge, parts: Parts) -> None:
        """The next batch of an edge comes up."""
        batch = self._batch(edge, edge.made, ())
        edge.made += 1
        for task in batch.tasks:
            if not task.missing:
                self._ready(task, parts)

    def _batch(self, edge: Edge, number: int, done: tuple[str, ...]) -> Batch:
        """A batch, of which the steps on the lanes `done` are done."""
        batch = edge.batches[number] = Batch(number)
        batch.waived = self.job.robust and edge.lost > 0
        batch.tasks = [Task(edge, batch, step) for step in range(len(self.names))]
        before = edge.batches.get(number - 1)
        for task, lane in zip(batch.tasks, self.lane_of):
            task.state = DONE if lane in done else WAITING
            batch.left += task.state == WAITING
        for task in batch.tasks:
            for need, back in self.needs[task.step]:
                of = before if back else batch
                if of is not None and of.tasks[need].state != DONE:
                    waived = back and of.waived and self.lane_of[need] in REMOTE
                    task.missing += not waived
        return batch

    def _ready(self, task: Task, parts: Parts) -> None:
        """All that the task waits for is done; it is asked for, if it can be."""
        edge, lane = task.edge, self.lane_of[task.step]
        if task.state != WAITING:
            return
        task.parts, task.ready_s = parts, self.env.now
        if task.step == 0 and not self._may_begin(task):
            return
        if lane == UP and not self._handed(task):
            return
        if lane in REMOTE and edge.lost:
            return  # it is asked for when the connection is back
        task.state = ASKED
        where = self.cloud if lane == CLOUD else edge.lanes[lane]
        where.queue.append(task)
        self._start(where)

    def _start(self, lane: Lane) -> None:
        """The lane takes what is next, if it can."""
        if lane.running or not lane.queue or not lane.open:
            return
        if lane is self.cloud:
            if self.job.merge > 1:  # what comes at the same instant is taken with it
                Alarm(self.env, 0.0, lambda _: self._start_cloud())
            else:
                self._start_cloud()
            return
        task = lane.queue.popleft()
        self._begin(lane, task)
        edge, name = task.edge, self.names[task.step]
        if self.lane_of[task.step] == EDGE:
            self._in(edge.work.seconds[name], lambda: self._ended(lane, task), task)
            return
        upwards, channel = self.lane_of[task.step] == UP, edge.work.channel
        shared = self.up if upwards else self.down
        limit = channel.up_bytes_per_s if upwards else channel.down_bytes_per_s
        if upwards:
            self._goes(task)

        def go() -> None:
            sent = edge.work.nbytes[name] / channel.goodput
            task.flow = shared.send(sent, limit, lambda: self._sent(lane, task))

        self._in(channel.overhead_s, go, task)

    def _in(self, seconds: float, act: Callable[[], None], task: Task) -> None:
        """Do `act` in so many seconds, unless the task was withdrawn by then, or begun anew."""
        begun = task.begin_s

        def due(_: object) -> None:
            if task.state == RUNNING and task.begin_s == begun:
                act()

        Alarm(self.env, seconds, due)

    def _begin(self, lane: Lane, task: Task) -> None:
        now = self.env.now
        lane.running.append(task)
        task.state, task.begin_s = RUNNING, now
        if task.ready_s < now:  # the lane was busy, or lost
            waited = lane.parts if lane.free_s == now else ()
            task.parts = waited or more(task.parts, -2, now - task.ready_s)
        edge = task.edge
        if task.step == 0 and task.batch.number == edge.made - 1 and edge.made < edge.end:
            self._make(edge, task.parts)  # the next batch, which waits for this one

    def _start_cloud(self) -> None:
        """The cloud takes the first that is asked for, and with it others of the same step."""
        lane, now = self.cloud, self.env.now
        if lane.running or not lane.queue or not lane.open:
            return
        step = lane.queue[0].step
        some: list[Task] = []
        rest: list[Task] = []
        while lane.queue and len(some) < self.job.merge:
            task = lane.queue.popleft()
            (some if task.step == step else rest).append(task)
        lane.queue.extendleft(reversed(rest))
        for task in some:
            self._begin(lane, task)
        seconds = self.job.cloud_s(self.names[step], len(some))
        Alarm(self.env, seconds, lambda _: self._cloud_ended(some, now))

    def _cloud_ended(self, some: list[Task], begun: float) -> None:
        lane, now = self.cloud, self.env.now
        if lane.running != some:
            return  # the cloud was lost in the middle
        going = [task for task in some if task.state == RUNNING and task.begin_s == begun]
        self.cloud_busy_s += now - begun
        lane.running = []
        for task in going:
            lane.free_s, lane.parts = now, more(task.parts, task.step, now - begun)
        if going:
            whose = ", ".join(task.edge.name for task in going[:3]) + " ..." * (len(going) > 3)
            self._span(lane.name, self.names[some[0].step], "compute", begun, note=whose)
        for task in going:
            self._complete(task, more(task.parts, task.step, now - begun))
        self._start(lane)

    def _ended(self, lane: Lane, task: Task) -> None:
        """A step on the edge is over."""
        now, edge = self.env.now, task.edge
        spent_s = now - task.begin_s
        self.record.busy_s[edge.number] += spent_s
        self._span(lane.name, self.names[task.step], "compute", task.begin_s)
        parts = self._free(lane, task)
        self._complete(task, parts)
        self._spend(edge, edge.work.power_w * spent_s)
        self._start(lane)

    def _sent(self, lane: Lane, task: Task) -> None:
        """The last byte is on its way: the radio is free, and the message arrives later."""
        edge, channel = task.edge, task.edge.work.channel
        delay_s = channel.delay_s - channel.overhead_s
        if edge.random is not None:
            delay_s += edge.random.expovariate(1.0 / channel.jitter_s)
        nbytes = edge.work.nbytes[self.names[task.step]]
        self._span(lane.name, self.names[task.step], "link", task.begin_s, nbytes)
        parts = self._free(lane, task)
        self._radio(task)
        task.flow = None
        self._in(delay_s, lambda: self._arrived(task, more(parts, task.step, delay_s)), task)
        self._start(lane)

    def _radio(self, task: Task) -> None:
        """Time and energy of a message so far."""
        edge, spent_s = task.edge, self.env.now - task.begin_s
        upwards = self.lane_of[task.step] == UP
        of = self.record.sending_s if upwards else self.record.receiving_s
        of[edge.number] += spent_s
        channel = edge.work.channel
        self._spend(edge, spent_s * (channel.send_w if upwards else channel.receive_w))

    def _arrived(self, task: Task, parts: Parts) -> None:
        if self.lane_of[task.step] == UP:
            self._came(task)
        self._complete(task, parts)

    def _free(self, lane: Lane, task: Task) -> Parts:
        """The lane is done with the task now; of what the way to here is made."""
        now = self.env.now
        lane.running.clear()
        lane.free_s, lane.parts = now, more(task.parts, task.step, now - task.begin_s)
        return lane.parts

    def _complete(self, task: Task, parts: Parts) -> None:
        """The step is done: those that wait for it go on."""
        if task.state == DONE:
            return
        task.state = DONE
        self._noted(task, parts)
        self._settle(task, parts)

    def _settle(self, task: Task, parts: Parts) -> None:
        edge, batch = task.edge, task.batch
        remote = self.lane_of[task.step] in REMOTE
        for step, back in self.feeds[task.step]:
            of = edge.batches.get(batch.number + back)
            if of is not None and not (back and remote and batch.waived):
                of.tasks[step].missing -= 1
                if not of.tasks[step].missing:
                    self._ready(of.tasks[step], parts)
        batch.left -= 1
        if not batch.left and edge.batches.get(batch.number) is batch:
            del edge.batches[batch.number]
            self.record.done[edge.number] += 1
            if edge.idle:
                self._edge_done(edge, parts)
        self.steps_done += 1
        if self.steps_done % _CALLS == 0 and not self.job.together:
            whole = len(self.edges) * self.job.batches * self.job.rounds
            self.progress(float(self.record.done.sum()) / whole)

    def _withdraw(self, task: Task) -> None:
        """The task is asked for no more, wherever it is."""
        lane = self.lane_of[task.step]
        where = self.cloud if lane == CLOUD else task.edge.lanes[lane]
        if task.state == ASKED:
            where.queue.remove(task)
        elif task.state == RUNNING and lane != CLOUD and task in where.running:
            where.running.remove(task)
            if task.flow is not None:
                (self.up if lane == UP else self.down).stop(task.flow)
                task.flow = None
                self._radio(task)
        if task.state in (ASKED, RUNNING):
            task.state = WAITING

    def _spend(self, edge: Edge, joules: float) -> None:
        """Energy of an edge, which stops for good when its battery is empty."""
        record = self.record
        record.joules[edge.number] += joules
        if record.joules[edge.number] >= edge.work.battery_j and not edge.gone:
            edge.gone, record.empty_s[edge.number] = True, self.env.now
            if not edge.idle:
                self._abandon(edge)
                self._edge_done(edge, edge.lanes[EDGE].parts or self.round_parts)

    # What a batch that is handed up by numbers asks for beside; see `sim.engine.edge_cloud`.

    def _may_begin(self, task: Task) -> bool:
        """Whether the first step of a batch may be asked for now."""
        return True

    def _handed(self, task: Task) -> bool:
        """Whether the feature map of a batch is to be sent."""
        return True

    def _goes(self, task: Task) -> None:
        """A message begins to go up."""

    def _came(self, task: Task) -> None:
        """A message has come up."""

    def _noted(self, task: Task, parts: Parts) -> None:
        """A step is done, before those that wait for it go on."""

    # What is kept.

    def _watch(self, timeline: Timeline) -> None:
        most_up = sum(edge.work.channel.up_bytes_per_s for edge in self.edges)
        most_down = sum(edge.work.channel.down_bytes_per_s for edge in self.edges)
        for name, shared, most in (
            ("uplink", self.up, most_up),
            ("downlink", self.down, most_down),
        ):
            timeline.capacities[name] = min(shared.bytes_per_s, most)
            shared.record = lambda start_s, end_s, rate, name=name: self._use(
                name, start_s, end_s, rate
            )

    def _use(self, name: str, start_s: float, end_s: float, rate: float) -> None:
        timeline, (first_s, last_s) = self.timeline, self.window
        assert timeline is not None
        start_s, end_s = max(start_s, first_s), min(end_s, last_s)
        if start_s < end_s and len(timeline.uses) < 10 * self.max_spans:
            timeline.uses.append(Use(name, start_s, end_s, rate))

    def _span(
        self, track: str, name: str, bound: str, start_s: float, nbytes: float = 0.0, note: str = ""
    ) -> None:
        timeline, (first_s, last_s), end_s = self.timeline, self.window, self.env.now
        if timeline is None or not first_s <= start_s < last_s or start_s == end_s:
            return
        if len(timeline.spans) >= self.max_spans:
            timeline.truncated += 1
            return
        timeline.spans.append(
            Span(track, name, name, start_s, end_s, link_bytes=nbytes, bound=bound, note=note)
        )
