"""The protocol of edge and cloud: every batch exactly once, whoever is killed and whatever is
lost."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.network.protocol import Cloud, Edge, Progress, ProtocolError, Record, Runs, Verdict


class World:
    """Both sides with disks that keep what was written and memories that a kill empties.

    The weights of a side are the batches that went into them. Frames are (number, batch, contents).
    """

    def __init__(self, bound: int, save_every: int, batches: int) -> None:
        self.bound, self.save_every, self.batches = bound, save_every, batches
        self.edge, self.edge_weights, self.contents = Edge(bound), [], {}
        self.edge_disk = (json.dumps(self.edge.snapshot()), [], {})
        self.journal: list[Record] = []
        self.cloud, self.cloud_weights = Cloud(save_every), []
        self.cloud_disk = (json.dumps(self.cloud.snapshot()), [])
        self.up_link: list[tuple[int, int, str]] = []
        self.down_link: list[Progress] = []
        self.queue: list[tuple[int, int, str]] = []
        self.sent_before_durable = 0

    def connect(self) -> None:
        if not self.edge.up:
            self.up_link, self.down_link, self.queue = [], [], []
            self.journal.append(self.edge.joined(self.cloud.joined()))

    def cut(self) -> None:
        self.edge.lost()
        self.up_link, self.down_link, self.queue = [], [], []

    def edge_step(self) -> None:
        batch = len(self.edge_weights)
        if batch == self.batches or (
            batch == self.edge.batch and self.edge.up and not self.edge.room
        ):
            return
        self.edge_weights.append(batch)
        contents = f"{batch} after {hash(tuple(self.edge_weights))}"
        if batch < self.edge.batch:  # trained before the kill
            number = self.edge.number_of(batch)
        else:
            record = self.edge.offer()
            self.journal.append(record)
            number = record.number
        if number:
            self.contents[number] = contents
            self.edge.ready(number)

    def edge_checkpoint(self) -> None:
        if len(self.edge_weights) == self.edge.batch:
            held = {number: self.contents[number] for number, _ in self.edge.held}
            self.edge_disk = (json.dumps(self.edge.snapshot()), [*self.edge_weights], held)
            self.journal = []

    def edge_kill(self) -> None:
        snapshot, weights, held = self.edge_disk
        self.cut()
        self.edge = Edge.restored(self.bound, json.loads(snapshot), self.journal)
        self.edge_weights, self.contents = [*weights], {**held}

    def send(self) -> None:
        if frame := self.edge.next_frame():
            number, batch = frame
            self.edge.wrote(number)
            self.up_link.append((number, batch, self.contents[number]))

    def receive(self) -> None:
        if self.up_link:
            frame = self.up_link.pop(0)
            verdict, said = self.cloud.receive(frame[0])
            if verdict is Verdict.take:
                self.queue.append(frame)
            if said:
                self.down_link.append(said)

    def cloud_train(self, idle: bool = True) -> None:
        if self.queue:
            number, batch, contents = self.queue.pop(0)
            self.cloud_weights.append((batch, contents))
            self.down_link.append(self.cloud.train(number, batch))
        if self.cloud.due(idle=idle and not self.queue):
            snapshot = self.cloud.snapshot()
            self.cloud_disk = (json.dumps(snapshot), [*self.cloud_weights])
            self.down_link.append(self.cloud.saved(snapshot))

    def cloud_kill(self) -> None:
        snapshot, weights = self.cloud_disk
        self.cut()
        self.cloud = Cloud.restored(self.save_every, json.loads(snapshot))
        self.cloud_weights = [*weights]

    def hear(self) -> None:
        if self.down_link and (record := self.edge.progress(self.down_link.pop(0))):
            self.journal.append(record)

    def lose(self) -> None:
        if self.up_link:
            self.up_link.pop(0)

    def corrupt(self) -> None:
        if self.up_link:
            self.up_link.pop(0)
            self.down_link.append(self.cloud.broken())

    def double(self) -> None:
        if self.up_link:
            self.up_link.append(self.up_link[0])

    def silence(self) -> None:
        self.edge.again()

    def finish(self) -> None:
        for _ in range(20 * self.batches + 100):
            self.connect()
            for each in (self.edge_step, self.send, self.receive, self.cloud_train, self.hear):
                each()
            if not (self.up_link or self.queue or self.down_link):
                self.silence()
            if len(self.edge_weights) == self.batches and self.edge.settled:
                return
        raise AssertionError("it comes to no end")


HAPPENINGS = (
    *("connect", "edge_step", "send", "receive", "cloud_train", "hear") * 3,
    *("cut", "edge_kill", "cloud_kill", "edge_checkpoint", "lose", "corrupt", "double", "silence"),
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.lists(st.sampled_from(HAPPENINGS), max_size=150),
)
def test_every_batch_is_trained_once_whatever_happens(
    bound: int, save_every: int, happenings: list[str]
) -> None:
    world = World(bound, save_every, batches=25)
    promised: set[int] = set()
    for name in happenings:
        getattr(world, name)()
        assert len(world.edge.held) <= bound
        if name == "edge_checkpoint":
            promised |= {*range(world.edge.batch)} - {*world.edge.alone}
    world.finish()
    trained = Counter(batch for batch, _ in world.cloud_weights)
    assert max(trained.values(), default=0) <= 1
    assert promised <= {*trained}
    # Every batch is somewhere, exactly once, and the two sides agree where.
    alone = {*world.edge.alone}
    assert {*trained} | alone == {*range(25)} and not {*trained} & alone
    assert [*world.cloud.batches] == [batch for batch, _ in world.cloud_weights]
    # The features are those of an edge that was never killed.
    assert all(text == f"{b} after {hash((*range(b + 1),))}" for b, text in world.cloud_weights)


def test_an_outage_within_the_bound_costs_no_batch_and_one_beyond_it_is_counted() -> None:
    for outage, alone in ((4, 0), (7, 3)):
        world = World(bound=4, save_every=2, batches=20)
        world.connect()
        for _ in range(5):
            world.edge_step()
            world.send()
            world.receive()
            world.cloud_train()
            while world.down_link:
                world.hear()
        assert world.edge.settled
        world.cut()
        for _ in range(outage):
            world.edge_step()
        world.finish()
        assert len(world.edge.alone) == alone
        assert len(world.cloud.batches) == 20 - alone


def test_a_side_that_lost_its_past_is_found_out() -> None:
    edge = Edge(4)
    edge.joined(Progress(0, 0))
    edge.ready(edge.offer().number)
    edge.progress(Progress(1, 1))
    with pytest.raises(ProtocolError, match="cloud had made frame 1 durable and now knows of 0"):
        edge.joined(Progress(0, 0))
    with pytest.raises(ProtocolError, match="edge numbered 0"):
        Edge(4).joined(Progress(1, 1))
    with pytest.raises(ProtocolError, match="batch 5, not 1"):
        Edge.restored(4, edge.snapshot(), [Record(5, 2)])


def test_nothing_is_sent_before_its_record_is_durable() -> None:
    edge = Edge(4)
    edge.joined(Progress(0, 0))
    record = edge.offer()
    assert edge.next_frame() is None
    edge.ready(record.number)
    assert edge.next_frame() == (1, 0)


def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    cloud = Cloud(save_every=2)
    assert cloud.receive(1) == (Verdict.take, None)
    assert cloud.train(1, 0).durable == 0 and not cloud.due()
    assert cloud.due(idle=True)
    assert cloud.receive(2)[0] is Verdict.take and cloud.train(2, 1).durable == 0
    assert cloud.due() and cloud.saved(cloud.snapshot()) == Progress(2, 2)
    # A gap is asked for once, a frame that cannot be read each time.
    assert cloud.receive(5) == (Verdict.early, Progress(2, 2, again=3))
    assert cloud.receive(6) == (Verdict.early, None)
    assert cloud.broken() == Progress(2, 2, again=3)
    assert cloud.receive(2) == (Verdict.known, Progress(2, 2))


def test_runs() -> None:
    runs = Runs()
    for number in (0, 1, 2, 5, 7, 8):
        runs.add(number)
    assert runs.runs == [[0, 2], [5, 5], [7, 8]] and len(runs) == 6
    assert [*Runs(runs.runs)] == [0, 1, 2, 5, 7, 8] and 5 in runs and 6 not in runs
    with pytest.raises(ValueError, match="3 comes after 8"):
        runs.add(3)
    with pytest.raises(ValueError, match="at least 1"):
        Edge(0)
    with pytest.raises(ValueError, match="at least 1"):
        Cloud(0)
