"""A connection as a slow link: what is sent leaves at the link's rate and arrives after its
latency. Bytes are counted; the sender does not wait."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable

from sim.network.frames import TokenBucket

_CHUNK = 16 * 1024


class Wire:
    """One end of a connection. `bytes_per_s` None: as fast as it goes. Not modelled: loss,
    jitter."""

    def __init__(
        self, sock: socket.socket, bytes_per_s: float | None = None, latency_s: float = 0.0
    ) -> None:
        self.sock, self.latency_s = sock, latency_s
        self.bucket = None if bytes_per_s is None else TokenBucket(bytes_per_s)
        self.sent_bytes = self.read_bytes = 0
        self.nonce = b""  # what the other side asked a proof of
        self.active_s = time.monotonic()  # when a byte last went either way, or is to go next
        # Whether a silence of the socket's time-out is to be waited through.
        self.patient: Callable[[], bool] = lambda: False
        self._out: queue.SimpleQueue[tuple[float, bytes, Callable[[], None]] | None] = (
            queue.SimpleQueue()
        )
        self._ended = threading.Event()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, data: bytes, done: Callable[[], None] = lambda: None) -> None:
        """Hands it to the link, after all that was handed before; `done` when its last byte
        left."""
        self._out.put((time.monotonic(), data, done))

    def read(self, nbytes: int) -> bytes:
        """That many bytes. ConnectionError at the connection's end, TimeoutError after a silence
        that `patient` does not wait through."""
        parts, left = [], nbytes
        while left:
            try:
                part = self.sock.recv(min(left, 1 << 20))
            except TimeoutError:
                if self.patient():
                    continue
                raise
            if not part:
                raise ConnectionResetError("the other side has closed the connection")
            self.active_s = time.monotonic()
            parts.append(part)
            left -= len(part)
        self.read_bytes += nbytes
        return b"".join(parts)

    def close(self, after_sending: bool = False) -> None:
        """Ends both directions."""
        if after_sending:
            gone = threading.Event()
            self.send(b"", gone.set)
            until = time.monotonic() + 5 + self.latency_s
            while not (gone.wait(0.02) or self._ended.is_set() or time.monotonic() > until):
                pass
        self._out.put(None)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def _write(self) -> None:
        while item := self._out.get():
            at_s, data, done = item
            view = memoryview(data)
            try:
                for start in range(0, len(view), _CHUNK):
                    chunk = view[start : start + _CHUNK]
                    passed = self.bucket.passed(len(chunk), at_s) if self.bucket else at_s
                    leaves = passed + self.latency_s
                    self.active_s = max(self.active_s, leaves)
                    time.sleep(max(0.0, leaves - time.monotonic()))
                    self.sock.sendall(chunk)
                    self.active_s = time.monotonic()
                    self.sent_bytes += len(chunk)
            except OSError:
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)  # whoever reads has to know
                break
            done()
        self._ended.set()
