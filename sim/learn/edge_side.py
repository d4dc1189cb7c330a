"""The edge of a hierarchical training: it trains its part through its own exit, sends feature maps
up, and goes on alone when the cloud is away."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import torch

from sim.learn.durable import Journal, load_checkpoint, save_checkpoint
from sim.learn.images import Images, batch_of
from sim.learn.split import EdgeWorker, Plan, load_state, pack_features, state
from sim.learn.wire import Wire
from sim.network import frames
from sim.network.frames import Kind
from sim.network.protocol import Edge


class EdgeSide:
    """Trains `plan` on `images` from `folder`, whose checkpoint it goes on from.

    `wait_for_cloud`: the next batch begins when the cloud has trained this one (the synchronous
    mini-batch); else as soon as the queue of `bound` frames has room.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        token: bytes,
        plan: Plan,
        images: Images,
        address: tuple[str, int],
        bound: int = 16,
        save_every: int = 16,
        patience_s: float = 30.0,
        bytes_per_s: float | None = None,
        latency_s: float = 0.0,
        wait_for_cloud: bool = True,
    ) -> None:
        if bytes_per_s is not None:
            frames.TokenBucket(bytes_per_s)  # ValueError for a rate of 0
        if images.classes > plan.classes:
            raise ValueError(f"{images.classes} classes of images; the plan has {plan.classes}")
        self.folder, self.run, self.token = folder, frames.run_id(run), token
        self.plan, self.images, self.address = plan, images, address
        self.save_every, self.patience_s = save_every, patience_s
        self.link, self.wait_for_cloud = (bytes_per_s, latency_s), wait_for_cloud
        self.worker = EdgeWorker(plan)
        self.machine, self.batch = Edge(bound), 0
        self.contents: dict[int, bytes] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "edge.npz"
        self._go_on(bound)
        self.forward_s: list[float] = []
        self.backward_s: list[float] = []
        self.wait_s: list[float] = []
        self.frames, self.bytes, self.lost, self.rejected = 0, 0, 0, 0
        self._changed = threading.Condition()
        self._wire: Wire | None = None
        self._leaving, self._parted = False, False  # bye is to be said; the cloud wrote it down
        self._over, self._error = False, ""

    def train(self) -> dict[str, Any]:
        """All batches; the report. ValueError if the cloud refuses this edge."""
        threading.Thread(target=self._stay_connected, daemon=True).start()
        self._wait(lambda: self.machine.up, self.patience_s)
        began = time.monotonic()
        while self.batch < self.plan.batches and not self._error:
            self._one()
        self._settle()
        took = time.monotonic() - began
        if self.machine.settled:
            with self._changed:
                self._leaving = True
                self._bye()
            # A cloud that is killed now comes back and has to be told once more.
            self._wait(lambda: self._parted, self.patience_s)
        with self._changed:
            self._over = True
            if self._wire:
                self._wire.close(after_sending=True)
        self._save()
        if self._error:
            raise ValueError(self._error)
        return self.report(took)

    def _settle(self) -> None:
        """Waits until the cloud has all, or for `patience_s` has told nothing new."""
        before = -1
        while not (self.machine.settled or self._error or before == self.machine.trained):
            before = seen = self.machine.trained
            self._wait(
                lambda seen=seen: self.machine.settled or self.machine.trained != seen,
                self.patience_s,
            )

    def report(self, took_s: float) -> dict[str, Any]:
        """What was done."""
        return {
            "batches": self.batch,
            "alone": [*self.machine.alone],
            "unsent": len(self.machine.held),
            "frames": self.frames,
            "bytes": self.bytes,
            "wall_s": took_s,
            "forward_s": self.forward_s,
            "backward_s": self.backward_s,
            "wait_s": self.wait_s,
            "lost": self.lost,
            "rejected": self.rejected,
        }

    def _one(self) -> None:
        x, labels = batch_of(self.images, self.batch, self.plan.batch, self.plan.seed)
        y = torch.from_numpy(labels)
        began = time.monotonic()
        z = self.worker.forward(torch.from_numpy(x))
        payload = pack_features(self.batch, z, y, self.plan.features)
        number = self._hand_up(payload)
        forward = time.monotonic()
        self.worker.backward(z, y, self.batch)
        backward = time.monotonic()
        self.batch += 1
        if number and self.wait_for_cloud:
            self._wait(lambda: self.machine.trained >= number or not self.machine.up, None)
        self.forward_s.append(forward - began)
        self.backward_s.append(backward - forward)
        self.wait_s.append(time.monotonic() - backward)
        if self.batch % self.save_every == 0:
            self._save()

    def _hand_up(self, payload: bytes) -> int:
        """The frame's number, 0 where the batch stays here."""
        if self.batch < self.machine.batch:  # it was trained before this process was killed
            number = self.machine.number_of(self.batch) or 0
        else:
            self._wait(lambda: self.machine.room or not self.machine.up, None)
            with self._changed:
                record = self.machine.offer()
                self._journal.write(record)
                number = record.number
        with self._changed:
            if number and number > self.machine.durable:
                self.contents[number] = frames.packed(Kind.features, self.run, number, payload)
                self.machine.ready(number)
                self._send()
        return number

    def _send(self) -> None:
        while self._wire and (found := self.machine.next_frame()):
            data = self.contents[found[0]]
            self.machine.wrote(found[0])
            self.frames += 1
            self.bytes += len(data)
            self._wire.send(data)

    def _bye(self) -> None:
        if self._wire and self._leaving:
            self._wire.send(frames.packed(Kind.bye, self.run, 0, b""))

    def _wait(self, until: Any, most_s: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: until() or bool(self._error), most_s)

    # ---- checkpoints

    def _go_on(self, bound: int) -> None:
        if self.file.exists():
            arrays, held = load_checkpoint(self.file)
            if Plan.read(held["plan"]) != self.plan:
                raise ValueError(f"{self.file}: is of another plan")
            self.contents = {
                int(name.removeprefix("frame/")): data.tobytes()
                for name, data in arrays.items()
                if name.startswith("frame/")
            }
            load_state(self.worker.parts(), arrays)
            self.batch = held["protocol"]["batch"]
            self._journal = Journal(self.folder / f"journal-{self.batch}")
            records = self._journal.records
            self.machine = Edge.restored(bound, held["protocol"], records)
        else:
            self._journal = Journal(self.folder / "journal-0")
            start = Edge(bound).snapshot()
            self.machine = Edge.restored(bound, start, self._journal.records)

    def _save(self) -> None:
        """Weights, protocol and held frames; not while batches of before a kill are trained
        again."""
        with self._changed:
            if self.batch != self.machine.batch:
                return
            import numpy as np

            held = {
                f"frame/{number}": np.frombuffer(self.contents[number], np.uint8)
                for number, _ in self.machine.held
            }
            saved = {"plan": self.plan.data(), "protocol": self.machine.snapshot()}
            save_checkpoint(self.file, state(self.worker.parts()) | held, saved)
            self._journal.close()
            self._journal = Journal(self.folder / f"journal-{self.batch}")
            for old in self.folder.glob("journal-*"):
                if old.name != f"journal-{self.batch}":
                    old.unlink()

    # ---- the connection

    def _stay_connected(self) -> None:
        while not self._over and not self._error:
            try:
                sock = socket.create_connection(self.address, timeout=5)
            except OSError:
                time.sleep(0.2)
                continue
            wire = Wire(sock, *self.link)
            try:
                self._join(wire)
                while True:
                    frame = frames.read_frame(wire.read, self.run, 64 * 1024)
                    if frame.kind is Kind.progress:
                        self._hear(frame.payload)
                    elif frame.kind is Kind.bye:
                        with self._changed:
                            self._parted = True
                            self._changed.notify_all()
            except ValueError as error:  # refused, a frame that is none, a journal that is full
                if not self._over:
                    self._fail(str(error))
            except OSError:
                pass
            with self._changed:
                self.lost += self.machine.up and not self._over
                self.machine.lost()
                self._wire = None
                self._changed.notify_all()
            wire.close()
            time.sleep(0.05)

    def _join(self, wire: Wire) -> None:
        first = frames.read_frame(wire.read, self.run, 64 * 1024)
        if first.kind is Kind.refuse:
            raise _RefusedError(first.payload.decode(errors="replace"))
        nonce = os.urandom(frames.NONCE_BYTES)
        mine = frames.proof(self.token, "edge", first.payload, self.run)
        hello = mine + nonce + json.dumps(self.plan.data()).encode()
        wire.send(frames.packed(Kind.hello, self.run, 0, hello))
        answer = frames.read_frame(wire.read, self.run, 64 * 1024)
        if answer.kind is Kind.refuse:
            raise _RefusedError(f"the cloud refuses: {answer.payload.decode(errors='replace')}")
        theirs, said = answer.payload[:32], answer.payload[32:]
        if not frames.same(theirs, frames.proof(self.token, "cloud", nonce, self.run)):
            raise _RefusedError("what answers there does not know the token")
        wire.sock.settimeout(self.patience_s)
        wire.patient = lambda: not self._overdue(wire)
        with self._changed:
            self._journal.write(self.machine.joined(frames.read_progress(said)))
            self._wire = wire
            self._forget()
            self._send()
            self._bye()
            self._changed.notify_all()

    def _overdue(self, wire: Wire) -> bool:
        """Whether the cloud hangs: it owes a word and nothing has moved for `patience_s`. Frames
        that are held are trained and made durable as soon as it has nothing else to do."""
        silent_s = time.monotonic() - wire.active_s
        return (bool(self.machine.held) or self._leaving) and silent_s >= self.patience_s

    def _hear(self, payload: bytes) -> None:
        with self._changed:
            record = self.machine.progress(frames.read_progress(payload))
            if record:
                self._journal.write(record)
                self._forget()
            self._send()
            self._changed.notify_all()

    def _forget(self) -> None:
        for number in [n for n in self.contents if n <= self.machine.durable]:
            del self.contents[number]

    def _fail(self, what: str) -> None:
        with self._changed:
            self._error = what
            self._changed.notify_all()


class _RefusedError(ValueError):
    """The cloud does not take this edge."""
