"""Edges and a cloud that train together, whatever is lost: batches that are handed up by numbers,
outages and kills.

Where a method hands batches up and wants nothing back, the protocol of `sim.network.protocol`
numbers them; it says which are trained on the edge alone, and what is sent again after an outage or
a kill. So the cloud trains every batch that is handed up exactly once.
"""

from __future__ import annotations

from functools import partial

from sim.engine.batches import OUTAGE, ROUND, Batches, more
from sim.engine.flows import Alarm
from sim.engine.lanes import CLOUD, DONE, EDGE, REMOTE, WAITING, Batch, Edge, Outage, Parts, Task
from sim.facts.training import PlayedTraining
from sim.network.protocol import Cloud, Verdict
from sim.network.protocol import Edge as Hands

__all__ = ["OUTAGE", "ROUND", "Play"]


class Play(Batches):
    """A run of a job, with what goes wrong in it."""

    def run(self) -> PlayedTraining:
        """Play it to its end, or until it is interrupted."""
        for outage in self.job.outages:
            Alarm(self.env, outage.start_s, partial(self._lost, outage))
            Alarm(self.env, outage.end_s, partial(self._back, outage))
        return super().run()

    def _number(self, task: Task) -> int:
        found = task.edge.hands.number_of(task.batch.number)
        assert found is not None
        return found

    def _may_begin(self, task: Task) -> bool:
        """Whether there is room for one more frame; where the cloud is lost, it is not waited
        for."""
        edge, number = task.edge, task.batch.number
        if number < edge.hands.batch or edge.lost or edge.hands.room or not self.job.numbered:
            return True
        edge.held_back = task
        return False

    def _goes(self, task: Task) -> None:
        if self.job.numbered:
            task.edge.hands.wrote(self._number(task))

    def _came(self, task: Task) -> None:
        if self.job.numbered:
            taken, _ = task.edge.takes.receive(self._number(task))
            assert taken is Verdict.take

    def _handed(self, task: Task) -> bool:
        """The feature map of a batch is there: whether it has a frame, to be sent."""
        edge, number = task.edge, task.batch.number
        if not self.job.numbered:
            return True
        if number == edge.hands.batch:
            record = edge.hands.offer()
            edge.journal.append(record)
            if not record.number:
                self.record.alone[edge.number] += 1
                others = [t for t in task.batch.tasks if self.lane_of[t.step] in REMOTE]
                for other in others:
                    other.state = DONE
                for other in others:
                    self._settle(other, task.parts)
                return False
        edge.hands.ready(self._number(task))
        return True

    def _noted(self, task: Task, parts: Parts) -> None:
        """What both sides write down when a batch is through."""
        edge, number = task.edge, task.batch.number
        if not self.job.numbered:
            return
        if task.step == self.last_of[EDGE] and (number + 1) % self.job.save_every == 0:
            edge.checkpoint()
        frame = edge.hands.number_of(number)
        if task.step != self.last_of[CLOUD] or frame is None:
            return
        edge.hands.progress(edge.takes.train(frame, number))
        if edge.takes.due(idle=edge.takes.taken == edge.takes.trained):
            edge.cloud_own = edge.takes.snapshot()
            record = edge.hands.progress(edge.takes.saved(edge.cloud_own))
            edge.journal += [record] if record else []
        held = edge.held_back
        if held is not None and edge.hands.room:
            edge.held_back = None
            self._ready(held, parts)

    def _lost(self, outage: Outage, _: object = None) -> None:
        """The cloud, or some edges, are out of reach from now on."""
        if self.over:
            return
        if outage.cloud:
            self.cloud_lost += 1
            self.cloud.open = False
            if self.cloud.running:
                self.cloud_busy_s += self.env.now - self.cloud.running[0].begin_s
        some = self.edges if outage.cloud else [self.edges[number] for number in outage.edges]
        for edge in some:
            edge.lost += 1
            was_idle = edge.idle
            self._disconnect(edge)
            if outage.killed and outage.cloud:
                self._cloud_falls_back(edge)
            elif outage.killed:
                self._edge_falls_back(edge)
            self.waiting += was_idle and not edge.idle  # it is waited for again
        if outage.cloud:
            self.cloud.running = []

    def _disconnect(self, edge: Edge) -> None:
        """What is not done on the other side is as if not begun; the edge goes on, if it can."""
        edge.hands.lost()
        freed = []
        for batch in [*edge.batches.values()]:
            tasks = [t for t in batch.tasks if self.lane_of[t.step] in REMOTE]
            if all(task.state == DONE for task in tasks):
                continue
            for task in tasks:
                self._withdraw(task)
                if task.state == DONE and self.job.numbered:  # taken, but not trained
                    task.state = WAITING
                    batch.left += 1
            for task in tasks:
                task.missing = sum(
                    batch.tasks[need].state != DONE
                    for need, back in self.needs[task.step]
                    if not back
                )
            if self.job.robust and not batch.waived:
                batch.waived = True
                freed += self._waived(edge, batch)
        if edge.held_back is not None:
            freed.append(edge.held_back)
            edge.held_back = None
        for task in freed:
            self._ready(task, self._waited(task.edge.lanes[EDGE].parts or self.round_parts))

    def _waived(self, edge: Edge, batch: Batch) -> list[Task]:
        """Steps of the next batch that need not wait any more."""
        following = edge.batches.get(batch.number + 1)
        freed: list[Task] = []
        if following is None:
            return freed
        for task in batch.tasks:
            for step, back in self.feeds[task.step]:
                if back and self.lane_of[task.step] in REMOTE and task.state != DONE:
                    following.tasks[step].missing -= 1
                    if not following.tasks[step].missing:
                        freed.append(following.tasks[step])
        return freed

    def _waited(self, parts: Parts) -> Parts:
        """The way to here of what could not go on: the rest was waiting for a connection."""
        return more(parts, -2, self.env.now - sum(parts))

    def _cloud_falls_back(self, edge: Edge) -> None:
        """The cloud was killed: what it has trained since its checkpoint is to be trained again."""
        edge.takes = Cloud.restored(self.job.save_every, edge.cloud_own)
        for number, batch in edge.hands.held:
            if number <= edge.takes.trained or batch in edge.batches:
                continue
            made = self._batch(edge, batch, (EDGE,))
            made.waived = True
            self.record.done[edge.number] -= 1
            for task in made.tasks:
                task.parts = edge.lanes[EDGE].parts

    def _edge_falls_back(self, edge: Edge) -> None:
        """An edge was killed: it goes back to its checkpoint, and the journal tells which frame
        each batch was that it trains again."""
        edge.hands = Hands.restored(self.job.queue, edge.own, edge.journal)
        first = edge.own["batch"]
        edge.lanes[EDGE].open = False
        for number in range(first, edge.made):
            old = edge.batches.pop(number, None)
            for task in old.tasks if old else ():
                self._withdraw(task)
                task.state = DONE
            frame = edge.hands.number_of(number)
            there = number < edge.hands.batch and (frame is None or frame <= edge.takes.trained)
            self.record.again[edge.number] += number < edge.hands.batch
            self.record.done[edge.number] -= old is None
            made = self._batch(edge, number, REMOTE if there else ())
            made.waived = True
            for task in made.tasks:
                task.parts = edge.lanes[EDGE].parts or self.round_parts

    def _back(self, outage: Outage, _: object = None) -> None:
        """The connection is there again, and what could not go on does."""
        if self.over:
            return
        if outage.cloud:
            self.cloud_lost -= 1
            self.cloud.open = not self.cloud_lost
        some = self.edges if outage.cloud else [self.edges[number] for number in outage.edges]
        for edge in some:
            edge.lost -= 1
            if edge.lost:
                continue
            edge.lanes[EDGE].open = True
            if self.job.numbered:
                edge.journal.append(edge.hands.joined(edge.takes.joined()))
            for batch in [edge.batches[number] for number in sorted(edge.batches)]:
                for task in batch.tasks:
                    if task.state == WAITING and not task.missing and task is not edge.held_back:
                        self._ready(task, self._waited(task.parts or self.round_parts))
            self._start(edge.lanes[EDGE])
        self._start(self.cloud)
