"""The cloud of a hierarchical training: one listening process that trains what an edge sends."""

from __future__ import annotations

import json
import math
import os
import queue
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sim.learn.durable import load_checkpoint, save_checkpoint
from sim.learn.split import CloudWorker, Plan, load_state, read_features, state
from sim.learn.wire import Wire
from sim.network import frames
from sim.network.frames import Frame, Kind, RejectedError
from sim.network.protocol import Cloud, Progress, Verdict

_WAITING = 8  # frames that are read and not trained yet; the rest waits in the connection
_HANDSHAKE_S = 10.0
_DONE = "the edge is done"


class CloudSide:
    """Serves one run from `folder`, whose checkpoint it goes on from. `serve` returns a report when
    the edge says bye, or was away for `patience_s`."""

    def __init__(
        self,
        folder: Path,
        run: str,
        token: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        save_every: int = 8,
        patience_s: float = 60.0,
        most_bytes: int = frames.MOST_BYTES,
        latency_s: float = 0.0,
    ) -> None:
        if not token:
            raise ValueError("the token is empty")
        self.file, self.run, self.token = folder / "cloud.npz", frames.run_id(run), token
        self.patience_s, self.most_bytes, self.latency_s = patience_s, most_bytes, latency_s
        self.rejected: Counter[str] = Counter()
        self.step_s: list[float] = []
        self.plan: Plan | None = None
        self.worker: CloudWorker | None = None
        self.machine, self.over = Cloud(save_every), False
        if self.file.exists():
            arrays, held = load_checkpoint(self.file)
            self._build(Plan.read(held["plan"]))
            assert self.worker is not None
            load_state(self.worker.parts(), arrays)
            self.machine = Cloud.restored(save_every, held["protocol"])
            self.over = held["over"]
        self._inbox: queue.Queue[tuple[Wire, Any]] = queue.Queue(_WAITING)
        self._current: Wire | None = None
        self.bytes = 0
        try:
            self.listener = socket.create_server((host, port))
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (")[0]
            raise ValueError(f"cannot listen on {host} port {port}: {why}") from None
        folder.mkdir(parents=True, exist_ok=True)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def serve(self) -> dict[str, Any]:
        """See the class."""
        heard, ended = time.monotonic(), _DONE if self.over else ""
        while not ended:
            try:
                wire, event = self._inbox.get(timeout=0.25)
            except queue.Empty:
                if self.machine.due(idle=True):
                    self._save()
                if time.monotonic() - heard > self.patience_s:
                    ended = f"no word from the edge for {self.patience_s:g} s"
                continue
            if isinstance(event, Plan):
                heard = time.monotonic()
                self._welcome(wire, event)
            elif wire is not self._current:
                continue
            elif isinstance(event, Frame):
                heard = time.monotonic()
                ended = self._take(wire, event)
            elif event == "broken":
                self._tell(self.machine.broken())
        if self.machine.due(idle=True):
            self._save()
        if self._current:
            self._current.close(after_sending=True)
        self.listener.close()
        return self.report(ended)

    def report(self, ended: str) -> dict[str, Any]:
        """What was done, and what was rejected."""
        return {
            "ended": ended,
            "trained": self.machine.trained,
            "durable": self.machine.durable,
            "batches": self.machine.snapshot()["batches"],
            "rejected": dict(self.rejected),
            "bytes": self.bytes,
            "step_s": self.step_s,
        }

    def _take(self, wire: Wire, frame: Frame) -> str:
        """What a frame of the edge asks for; why the run is over, if it is."""
        if frame.kind is Kind.bye:
            self.over = True
            self._save()
            wire.send(frames.packed(Kind.bye, self.run, 0, b""))
            return _DONE
        if frame.kind is not Kind.features:
            self.rejected["foreign"] += 1
            return ""
        verdict, said = self.machine.receive(frame.number)
        if said:
            self._tell(said)
        if verdict is not Verdict.take:
            self.rejected[verdict.value] += 1
            return ""
        assert self.worker is not None
        began = time.monotonic()
        batch, z, y = read_features(frame.payload)
        self.worker.step(z, y, batch)
        self.step_s.append(time.monotonic() - began)
        self._tell(self.machine.train(frame.number, batch))
        if self.machine.due():
            self._save()
        return ""

    def _save(self) -> None:
        assert self.worker is not None and self.plan is not None
        snapshot = self.machine.snapshot()
        held = {"plan": self.plan.data(), "protocol": snapshot, "over": self.over}
        save_checkpoint(self.file, state(self.worker.parts()), held)
        self._tell(self.machine.saved(snapshot))

    def _tell(self, said: Progress) -> None:
        if self._current:
            payload = frames.packed_progress(said)
            self._current.send(frames.packed(Kind.progress, self.run, 0, payload))

    def _build(self, plan: Plan) -> None:
        self.plan, self.worker = plan, CloudWorker(plan)
        self.shape = plan.shape()

    def _welcome(self, wire: Wire, plan: Plan) -> None:
        if self.plan is None:
            self._build(plan)
        if self.plan != plan:
            mine, theirs = (self.plan or plan).data(), plan.data()
            unequal = [key for key in mine if mine[key] != theirs[key]]
            other = ", ".join(f"{key} {theirs[key]}, not {mine[key]}" for key in unequal)
            self._refuse(wire, f"the edge has another plan: {other}")
            return
        each = frames.frame_bytes(plan.batch, math.prod(self.shape), plan.features)
        if each > self.most_bytes:
            what = f"frames of {each} bytes, and the cloud's cap is {self.most_bytes}"
            self._refuse(wire, f"{what}: raise --most-bytes, or send smaller batches")
            return
        if self._current:
            self._current.close()
        self._current = wire
        proof = frames.proof(self.token, "cloud", wire.nonce, self.run)
        payload = proof + frames.packed_progress(self.machine.joined())
        wire.send(frames.packed(Kind.welcome, self.run, 0, payload))

    def _refuse(self, wire: Wire, why: str) -> None:
        self.rejected["refused"] += 1
        wire.send(frames.packed(Kind.refuse, self.run, 0, why.encode()))
        wire.close(after_sending=True)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            wire = Wire(sock, latency_s=self.latency_s)
            threading.Thread(target=self._read, args=(wire,), daemon=True).start()

    def _read(self, wire: Wire) -> None:
        """A connection, from its first byte to its last."""
        try:
            wire.sock.settimeout(_HANDSHAKE_S)
            if not self._greeted(wire):
                return
            wire.sock.settimeout(None)
            while True:
                try:
                    frame = frames.read_frame(wire.read, self.run, self.most_bytes)
                    if frame.kind is Kind.features:
                        self._check(frame)
                        self.bytes += frames.HEADER.size + len(frame.payload)
                except RejectedError as error:
                    self.rejected[error.why] += 1
                    if error.lost:
                        break
                    self._inbox.put((wire, "broken"))
                    continue
                self._inbox.put((wire, frame))
        except OSError:
            pass
        finally:
            wire.close()

    def _check(self, frame: Frame) -> None:
        """RejectedError for features that are not of the plan: they must not reach the training."""
        _, z, y = read_features(frame.payload)
        assert self.plan is not None
        if tuple(z.shape[1:]) != self.shape or len(z) < 2 or int(y.max()) >= self.plan.classes:
            raise RejectedError("foreign", f"a feature map of shape {tuple(z.shape)}", lost=False)

    def _greeted(self, wire: Wire) -> bool:
        """Whether who is there knows the token and is of this run and version."""
        nonce = os.urandom(frames.NONCE_BYTES)
        wire.send(frames.packed(Kind.challenge, self.run, 0, nonce))
        try:
            frame = frames.read_frame(wire.read, self.run, 64 * 1024)
            if frame.kind is not Kind.hello or len(frame.payload) < 64:
                raise RejectedError("foreign", "a connection begins with a hello", lost=True)
            proof, theirs = frame.payload[:32], frame.payload[32:64]
            if not frames.same(proof, frames.proof(self.token, "edge", nonce, self.run)):
                raise RejectedError("token", "the token is wrong", lost=True)
            plan = Plan.read(json.loads(frame.payload[64:]))
        except (ValueError, RecursionError) as error:  # of JSON too deep, the latter
            self.rejected[getattr(error, "why", "foreign")] += 1
            self._refuse(wire, str(error))
            return False
        wire.nonce = theirs
        self._inbox.put((wire, plan))
        return True
