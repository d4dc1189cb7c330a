"""What edges and a cloud that train together are made of: steps that wait for each other, lanes
that do one thing at a time, batches, outages.  No clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from sim.engine.shared import Flow
from sim.graph.graph import After
from sim.network import protocol
from sim.network.channel import Channel

EDGE, UP, CLOUD, DOWN = "edge", "up", "cloud", "down"
REMOTE = (UP, CLOUD, DOWN)
WAITING, ASKED, RUNNING, DONE = range(4)

Parts = tuple[float, ...]  # seconds by step, and two sorts of waiting


class Step(NamedTuple):
    """A part of a batch; `after` are steps of this batch, or of the one before it (back 1)."""

    name: str
    lane: str
    after: tuple[After, ...] = ()


class Work(NamedTuple):
    """What a batch takes on one sort of edge: seconds of its steps on the edge, bytes of its
    messages, and the way to the cloud."""

    seconds: Mapping[str, float]
    nbytes: Mapping[str, float]
    channel: Channel
    power_w: float = 0.0  # while it computes
    idle_w: float = 0.0
    battery_j: float = inf


class Outage(NamedTuple):
    """From `start_s` to `end_s` the cloud, or some edges, are out of reach.  `killed`: what they
    had not written down is lost, too."""

    start_s: float
    end_s: float
    cloud: bool
    edges: Sequence[int] = ()
    killed: bool = False


class Job(NamedTuple):
    """All that is to be trained.

    `cloud_s` gives the seconds of a step on the cloud for so many batches at once, of which it
    takes `merge` at most. `absent` gives whether an edge is not there in a round. `robust`: the
    edge goes on without the cloud. `numbered`: batches are handed up by the protocol; then `queue`
    frames are held at most, and checkpoints written every `save_every` batches.
    """

    steps: tuple[Step, ...]
    names: list[str]
    groups: list[str]
    works: list[Work]  # by edge; edges alike share one
    cloud_s: Callable[[str, int], float]
    batches: int  # of one round
    rounds: int = 1
    together: bool = False  # a round begins when all are done with the last
    deadline_s: float = inf
    absent: Callable[[int, int], bool] = lambda edge, turn: False
    merge: int = 1
    robust: bool = False
    numbered: bool = False
    queue: int = 16
    save_every: int = 8
    outages: Sequence[Outage] = ()
    uplink: float = inf  # bytes/s
    downlink: float = inf
    seed: int = 0


class Task:
    """A step of a batch of an edge."""

    __slots__ = ("batch", "begin_s", "edge", "flow", "missing", "parts", "ready_s", "state", "step")

    def __init__(self, edge: Edge, batch: Batch, step: int) -> None:
        self.edge, self.batch, self.step = edge, batch, step
        self.missing, self.state = 0, WAITING
        self.parts: Parts = ()
        self.ready_s = self.begin_s = 0.0
        self.flow: Flow | None = None


class Batch:
    """The steps of a batch.  `waived`: the next one does not wait for what the cloud does."""

    __slots__ = ("left", "number", "tasks", "waived")

    def __init__(self, number: int) -> None:
        self.number, self.waived, self.left = number, False, 0
        self.tasks: list[Task] = []


class Lane:
    """Does one thing at a time."""

    __slots__ = ("free_s", "name", "open", "parts", "queue", "running")

    def __init__(self, name: str) -> None:
        self.name, self.open = name, True
        self.queue: deque[Task] = deque()
        self.running: list[Task] = []
        self.free_s = -1.0  # when it last ended something
        self.parts: Parts = ()  # and the way there


class Edge:
    """One edge: its lanes, the batches under way, and both sides of its protocol."""

    def __init__(self, number: int, name: str, work: Work, job: Job) -> None:
        self.number, self.name, self.work = number, name, work
        self.lanes = {lane: Lane(f"{name}/{lane}") for lane in (EDGE, UP, DOWN)}
        self.batches: dict[int, Batch] = {}
        self.made = self.end = 0  # batches made so far, and where they end
        self.lost, self.gone = 0, False  # outages that it is in
        self.random = random.Random(f"{job.seed} {number}") if work.channel.jitter_s else None
        self.hands, self.takes = protocol.Edge(job.queue), protocol.Cloud(job.save_every)
        self.journal: list[protocol.Record] = []
        self.own, self.cloud_own = self.hands.snapshot(), self.takes.snapshot()  # written down
        self.held_back: Task | None = None  # waits for room among the frames

    @property
    def idle(self) -> bool:
        """Whether it has done all that it is to do by now."""
        return not self.batches and self.made == self.end

    def checkpoint(self) -> None:
        """Writes down where it is; frames of later batches are in the journal from here on."""
        self.own = self.hands.snapshot()
        self.journal.clear()
