"""What an edge and a cloud that train together must remember, send and write down, so that the
cloud trains every batch handed to it exactly once.

Two state machines without a clock, a socket or a tensor: whoever drives them has those, in a
simulation or on a wire. The edge numbers the batches it hands up: frame 1, 2, 3, ... in the order
of its batches. Frames that the cloud has not written down yet are held, at most `bound` of them; a
batch that finds no room is trained on the edge alone, and counted.

Three rules make it exact, whichever side is killed at whichever moment:

1. The edge sends a frame when the record of its number is durable. `offer` and `progress` return
   the records; written in that order after a checkpoint, and replayed on it, they give back the
   same numbers for the same batches. So a number stands for one batch for ever.
2. The cloud trains frame n after frame n - 1 and at no other time; the number it has come to is in
   one checkpoint with its weights, so that both fall back together.
3. The cloud acknowledges (`durable`) what is in a checkpoint, and the edge forgets a frame only
   then.

Frames may be lost, doubled or reordered, and connections may end at any time. What each side wrote
down must not be lost or rolled back: if it is, the sides notice when they join, and ProtocolError
says which one it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple


class ProtocolError(ValueError):
    """The two sides cannot belong to one run: one of them has lost what it had written down."""


class Record(NamedTuple):
    """A line of the edge's journal: a batch and the number its frame got (0: trained on the edge
    alone), or, with `batch` -1, the last number that the cloud has made durable."""

    batch: int
    number: int


class Progress(NamedTuple):
    """What the cloud tells: the last numbers that it has trained and made durable, and the number
    from which on it asks for frames again (0: it does not)."""

    trained: int
    durable: int
    again: int = 0


class Runs:
    """A growing set of whole numbers, kept as runs [first, last] in order."""

    def __init__(self, runs: Iterable[Iterable[int]] = ()) -> None:
        self.runs = [[*run] for run in runs]

    def add(self, number: int) -> None:
        """ValueError for a number that is not above all that are in."""
        if self.runs and number <= self.runs[-1][1]:
            raise ValueError(f"{number} comes after {self.runs[-1][1]}")
        if self.runs and number == self.runs[-1][1] + 1:
            self.runs[-1][1] = number
        else:
            self.runs.append([number, number])

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.runs)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and any(a <= number <= b for a, b in self.runs)

    def __iter__(self) -> Any:
        for first, last in self.runs:
            yield from range(first, last + 1)


class Edge:
    """The edge's side. Its driver, for each batch: trains it, `offer`s it, writes the record down,
    says `ready`, and sends `next_frame` as long as there is one.

    Durable: `batch` (the next one to be offered), `last` (the last number given), `durable` (the
    last that the cloud has), `held` (number and batch of each frame between), `alone` (batches
    trained on the edge alone). Of a connection: `up`, `trained`, `sent`.
    """

    def __init__(self, bound: int) -> None:
        if bound < 1:
            raise ValueError(f"a queue of {bound} frames can hold no batch; it takes at least 1")
        self.bound = bound
        self.batch, self.last, self.durable = 0, 0, 0
        self.held: deque[tuple[int, int]] = deque()
        self.alone = Runs()
        self.up, self.trained, self.sent, self.at_hand = False, 0, 0, 0

    # ---- what is written down

    def snapshot(self) -> dict[str, Any]:
        """The durable state, of numbers and lists: part of a checkpoint with the edge's weights
        after `batch` batches and the contents of the held frames."""
        return {
            "batch": self.batch,
            "last": self.last,
            "durable": self.durable,
            "held": [[*frame] for frame in self.held],
            "alone": [[*run] for run in self.alone.runs],
        }

    @classmethod
    def restored(cls, bound: int, snapshot: dict[str, Any], journal: Iterable[Record]) -> Edge:
        """As it was after the last durable record. The contents of frames of the snapshot are at
        hand; those of later ones return as the batches from the snapshot's on are trained again,
        and `number_of` says which frame each is. ProtocolError if the journal is not of this
        snapshot."""
        edge = cls(bound)
        edge.batch, edge.last = snapshot["batch"], snapshot["last"]
        edge.durable = edge.trained = edge.sent = snapshot["durable"]
        edge.held.extend((number, batch) for number, batch in snapshot["held"])
        edge.alone = Runs(snapshot["alone"])
        edge.at_hand = edge.last
        for record in journal:
            if record.batch < 0:
                edge._forget(record.number)
            elif record.batch != edge.batch:
                raise ProtocolError(
                    f"the journal goes on with batch {record.batch}, not {edge.batch}"
                )
            elif edge._take(record.number > 0) != record:
                raise ProtocolError(f"the journal calls frame {edge.last} number {record.number}")
        edge.sent = edge.trained = edge.durable
        return edge

    # ---- batches

    @property
    def room(self) -> bool:
        """Whether the next batch can be handed up. While the cloud is there, a driver may wait for
        it; while it is not, the batch is trained on the edge alone."""
        return len(self.held) < self.bound

    def offer(self) -> Record:
        """Batch `batch` has been trained on the edge: gives its frame a number, or counts it as
        trained alone. The record must be durable before `ready` is said."""
        return self._take(self.room)

    def number_of(self, batch: int) -> int | None:
        """The number of a batch that was offered before and is still held, else None."""
        return next((number for number, held in self.held if held == batch), None)

    def ready(self, number: int) -> None:
        """The frame's record is durable and its contents are at hand; said in the order of
        numbers."""
        self.at_hand = max(self.at_hand, number)

    # ---- the connection

    def joined(self, said: Progress) -> Record:
        """A connection is there, and the cloud's first word on it; the record to write, as of
        `progress`. ProtocolError if one of the sides has lost its past."""
        if said.durable < self.durable:
            raise ProtocolError(
                f"the cloud had made frame {self.durable} durable and now knows of {said.durable}: "
                "its checkpoints are gone, or it is the cloud of another run"
            )
        if said.trained > self.last:
            raise ProtocolError(
                f"the cloud has trained frame {said.trained} and the edge numbered {self.last}: "
                "the edge's checkpoints are gone, or it is the cloud of another run"
            )
        self.up = True
        self.trained = self.sent = said.trained
        return self._forget(said.durable)

    def lost(self) -> None:
        """The connection has ended. What was sent and is not durable may have to be sent again."""
        self.up = False

    def next_frame(self) -> tuple[int, int] | None:
        """(number, batch) of the frame to be sent next, or None."""
        number = max(self.sent, self.durable) + 1
        if not self.up or number > self.at_hand:
            return None
        return self.held[number - self.held[0][0]]

    def wrote(self, number: int) -> None:
        """Frame `number`, which `next_frame` gave, is on its way."""
        self.sent = number

    def progress(self, said: Progress) -> Record | None:
        """The cloud's word on this connection, in any order. The record, if there is one, must be
        written before the next of `offer`; it needs no waiting for."""
        self.trained = max(self.trained, min(said.trained, self.last))
        if said.again:
            self.sent = min(self.sent, said.again - 1)
        return self._forget(said.durable) if said.durable > self.durable else None

    def again(self) -> None:
        """Nothing was heard for too long: all that is not known to be trained is sent again. For
        links that lose frames without a word."""
        self.sent = min(self.sent, self.trained)

    @property
    def settled(self) -> bool:
        """Whether the cloud has all that was handed up."""
        return not self.held

    # ---- both replayed and played

    def _take(self, queued: bool) -> Record:
        record = Record(self.batch, self.last + 1 if queued else 0)
        if queued:
            self.last += 1
            self.held.append((self.last, self.batch))
        else:
            self.alone.add(self.batch)
        self.batch += 1
        return record

    def _forget(self, durable: int) -> Record:
        self.durable = max(self.durable, min(durable, self.last))
        while self.held and self.held[0][0] <= self.durable:
            self.held.popleft()
        self.trained = max(self.trained, self.durable)
        return Record(-1, self.durable)


class Verdict(StrEnum):
    """What the cloud does with a frame."""

    take = "take"  # train it, in turn
    known = "known"  # it was taken before: drop it
    early = "early"  # one before it is missing: drop it


class Cloud:
    """The cloud's side. Its driver asks `receive` about each frame, trains the taken ones in order
    and says `train` of each, and `save`s when `due`, which acknowledges.

    Durable: `trained` (the last number trained) and `batches` (which those were), in one checkpoint
    with the cloud's weights. Of a connection: `taken`.
    """

    def __init__(self, save_every: int) -> None:
        if save_every < 1:
            raise ValueError(f"a checkpoint every {save_every} frames; it takes at least 1")
        self.save_every = save_every
        self.trained, self.durable, self.taken = 0, 0, 0
        self.batches = Runs()
        self._asked = False

    def snapshot(self) -> dict[str, Any]:
        """The state that goes with the weights, of numbers and lists."""
        return {"trained": self.trained, "batches": [[*run] for run in self.batches.runs]}

    @classmethod
    def restored(cls, save_every: int, snapshot: dict[str, Any]) -> Cloud:
        """As it was when the snapshot became durable."""
        cloud = cls(save_every)
        cloud.trained = cloud.durable = cloud.taken = snapshot["trained"]
        cloud.batches = Runs(snapshot["batches"])
        return cloud

    def joined(self) -> Progress:
        """A connection is there: frames that were taken on the last one and not trained are
        forgotten, and the cloud says where it stands."""
        self.taken, self._asked = self.trained, False
        return Progress(self.trained, self.durable)

    def receive(self, number: int) -> tuple[Verdict, Progress | None]:
        """What to do with frame `number`, and what to tell the edge about it, if anything."""
        if number == self.taken + 1:
            self.taken, self._asked = number, False
            return Verdict.take, None
        if number <= self.taken:
            return Verdict.known, Progress(self.trained, self.durable)
        return Verdict.early, None if self._asked else self.broken()

    def broken(self) -> Progress:
        """A frame could not be read: asks for all from the next one to be taken on. Those after it
        that are on their way come early, and are no reason to ask again."""
        self._asked = True
        return Progress(self.trained, self.durable, again=self.taken + 1)

    def train(self, number: int, batch: int) -> Progress:
        """Frame `number`, a taken one, which is of batch `batch`, has been trained."""
        if number != self.trained + 1:
            raise ValueError(f"frame {number} is trained after frame {self.trained}")
        self.batches.add(batch)
        self.trained = number
        return Progress(self.trained, self.durable)

    def due(self, idle: bool = False) -> bool:
        """Whether a checkpoint is to be written: every `save_every` frames, and when there is
        nothing else to do."""
        unsaved = self.trained - self.durable
        return unsaved >= self.save_every or (idle and unsaved > 0)

    def saved(self, snapshot: dict[str, Any]) -> Progress:
        """The checkpoint with this snapshot is durable."""
        self.durable = snapshot["trained"]
        return Progress(self.trained, self.durable)
