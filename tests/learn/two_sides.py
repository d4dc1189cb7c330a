"""An edge and a cloud in one process, and what can be put between them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sim.learn.cloud_side import CloudSide
from sim.learn.edge_side import EdgeSide
from sim.learn.images import Images
from sim.learn.split import Plan
from sim.network import frames

PLAN = Plan(width=0.0625, cut="pool2", batch=8, batches=12)
RUN, TOKEN = "run", b"a secret of some length"


def some_images() -> Images:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 3, 32, 32)).astype(np.float32)
    y = rng.integers(10, size=160)
    y[0] = 9
    return Images(x[:128], y[:128], x[128:], y[128:], 10, "random")


def serve(folder: Path, **options: Any) -> tuple[CloudSide, threading.Thread, dict[str, Any]]:
    cloud, said = CloudSide(folder / "cloud", RUN, TOKEN, **options), {}
    thread = threading.Thread(target=lambda: said.update(cloud.serve()), daemon=True)
    thread.start()
    return cloud, thread, said


def train(folder: Path, images: Images, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    cloud, thread, said = serve(folder)
    plan = options.pop("plan", PLAN)
    edge = EdgeSide(folder / "edge", RUN, TOKEN, plan, images, ("127.0.0.1", cloud.port), **options)
    report = edge.train()
    thread.join(20)
    assert not thread.is_alive()
    return report, said


class Tap:
    """Stands between edge and cloud, keeps what crosses, may change it."""

    def __init__(self, port: int) -> None:
        self.port_of_cloud, self.up, self.down = port, bytearray(), bytearray()
        self.change = lambda data: data
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.port_of_cloud))
            for a, b, kept in ((near, far, self.up), (far, near, self.down)):
                threading.Thread(target=self._pass, args=(a, b, kept), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                kept += data
                target.sendall(self.change(data) if kept is self.up else data)
        except OSError:
            pass
        for each in (source, target):
            each.close()


def frames_in(data: bytes) -> list[frames.Frame]:
    at, found = 0, []

    def read(n: int) -> bytes:
        nonlocal at
        at += n
        return bytes(data[at - n : at])

    while at < len(data):
        found.append(frames.read_frame(read, frames.run_id(RUN)))
    return found
