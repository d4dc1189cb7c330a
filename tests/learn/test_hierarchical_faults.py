"""What an edge and a cloud say when something is wrong: one clear error, exit code 2, no traceback;
and a cloud that hangs, which is no error."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra learn)")

from two_sides import PLAN, RUN, TOKEN, Tap, leave, serve, some_images  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from sim.cli.app import app  # noqa: E402
from sim.learn.cloud_side import CloudSide  # noqa: E402
from sim.learn.edge_side import EdgeSide  # noqa: E402
from sim.learn.split import CloudWorker, EdgeWorker, Plan  # noqa: E402
from sim.learn.wire import Wire  # noqa: E402
from sim.network import frames  # noqa: E402
from sim.network.frames import Kind  # noqa: E402


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("PODSCOPE_TOKEN", TOKEN.decode())
    monkeypatch.setattr("sim.learn.images.read_images", lambda *told: some_images())
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps(PLAN.data()))


def podscope(*told: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, told)])


def edge(port: int, *told: Any, run: str = RUN) -> Any:
    return podscope("edge", "edge", "--port", port, "--run", run, "--plan", "plan.json", *told)


def one_error(done: Any, said: str) -> None:
    """Exit code 2, and one line that says what is wrong."""
    assert isinstance(done.exception, SystemExit) and done.exit_code == 2, done.exception
    errors = [line for line in done.stderr.splitlines() if line.startswith("podscope: ")]
    assert len(errors) == 1 and said in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_cloud_that_hangs_is_left_and_joined_again(tmp_path: Path) -> None:
    """Nothing crosses any more, and no socket is closed; when the edge has left, all does again."""
    cloud, thread, said = serve(tmp_path)
    tap = Tap(cloud.port)
    side = EdgeSide(
        tmp_path / "edge", RUN, TOKEN, PLAN, some_images(), ("127.0.0.1", tap.port),
        bound=4, patience_s=1.0,
    )  # fmt: skip

    def hold(data: bytes) -> bytes:
        while side.frames >= 3 and not side.lost:
            time.sleep(0.02)
        return data

    tap.change = hold
    began = time.monotonic()
    report = side.train()
    thread.join(20)
    assert 1.0 < time.monotonic() - began < 25 and report["lost"] >= 1
    trained = {n for a, b in said["batches"] for n in range(a, b + 1)}
    assert trained | {*report["alone"]} == {*range(PLAN.batches)} and report["alone"]
    assert not trained & {*report["alone"]} and report["unsent"] == 0


def test_a_slow_link_is_not_a_cloud_that_hangs(tmp_path: Path) -> None:
    """A frame takes two seconds to leave, and a silence of a tenth of one would be too long."""
    side = EdgeSide(
        tmp_path, RUN, TOKEN, PLAN, some_images(), ("127.0.0.1", 9), patience_s=0.1
    )  # fmt: skip
    side.machine.offer()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        wire = Wire(near, bytes_per_s=1000.0)
        began = time.monotonic()
        wire.send(bytes(2000))
        time.sleep(0.5)
        assert not side._overdue(wire)
        while not side._overdue(wire):
            assert time.monotonic() - began < 20
            time.sleep(0.01)
        assert time.monotonic() - began > 2.1


def broken(*told: Any) -> float:
    raise RuntimeError("not enough memory: you tried to allocate 17 bytes.")


def test_an_error_of_the_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(CloudWorker, "step", broken)
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(podscope("cloud", "cloud", "--run", RUN)), daemon=True
    )
    thread.start()
    while not Path("cloud/port").exists():
        time.sleep(0.01)
    address = ("127.0.0.1", int(Path("cloud/port").read_text()))
    side = EdgeSide(
        tmp_path / "edge", RUN, TOKEN, replace(PLAN, batches=3), some_images(), address,
        patience_s=0.2,
    )  # fmt: skip
    report = side.train()
    thread.join(10)
    one_error(found[0], "podscope: the cloud cannot train: not enough memory")
    assert report["unsent"] == 3 and not Path("cloud/cloud.json").exists()


def test_an_error_of_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EdgeWorker, "backward", broken)
    one_error(edge(9, "--patience", "0.1 s"), "the edge cannot train: not enough memory")


def test_a_journal_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the connection's thread writes it: a full disk is not a lost connection."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.learn.durable.os.fsync", full)
    monkeypatch.setattr("sim.learn.durable._sync_folder", lambda folder: None)
    one_error(edge(9, "--patience", "0.1 s"), "cannot be written: No space left on device")


@pytest.mark.parametrize(
    ("served", "told", "run", "said"),
    [
        ({}, [], "another", "the cloud refuses: frame 0 is of another run"),
        ({"most_bytes": 1024}, [], RUN, "frames of 16462 bytes, and the cloud's cap is 1024"),
    ],
)
def test_who_is_refused(
    tmp_path: Path, served: dict[str, Any], told: list[str], run: str, said: str
) -> None:
    cloud, thread, report = serve(tmp_path, **served)
    one_error(edge(cloud.port, *told, run=run), said)
    leave(cloud, thread)
    assert report["trained"] == 0 and sum(report["rejected"].values()) >= 1


def test_a_wrong_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, thread, report = serve(tmp_path)
    monkeypatch.setenv("PODSCOPE_TOKEN", "not that secret at all")
    one_error(edge(cloud.port), "the cloud refuses: the token is wrong")
    leave(cloud, thread)
    assert report["rejected"]["token"] == 1


def test_a_cloud_of_another_version() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.sendall(frames.packed(Kind.challenge, frames.run_id(RUN), 0, bytes(32), version=2))
            sock.recv(1 << 16)

        threading.Thread(target=answer, daemon=True).start()
        done = edge(listener.getsockname()[1], "--patience", "5 s")
    one_error(done, "the other side speaks version 2 of the protocol, this one 1")


def test_an_edge_of_another_version(tmp_path: Path) -> None:
    cloud, thread, report = serve(tmp_path)
    with socket.create_connection(("127.0.0.1", cloud.port)) as sock:
        stream = sock.makefile("rb")
        frames.read_frame(stream.read, frames.run_id(RUN))
        sock.sendall(frames.packed(Kind.hello, frames.run_id(RUN), 0, bytes(80), version=2))
        said = frames.read_frame(stream.read, frames.run_id(RUN))
    assert said.kind is Kind.refuse and b"version 2 of the protocol, this one 1" in said.payload
    leave(cloud, thread)
    assert report["rejected"] == {"version": 1, "refused": 1}


def test_a_hello_that_is_nested_too_deep(tmp_path: Path) -> None:
    cloud, thread, report = serve(tmp_path)
    run = frames.run_id(RUN)
    with socket.create_connection(("127.0.0.1", cloud.port)) as sock:
        stream = sock.makefile("rb")
        nonce = frames.read_frame(stream.read, run).payload
        known = frames.proof(TOKEN, "edge", nonce, run)
        sock.sendall(frames.packed(Kind.hello, run, 0, known + bytes(32) + b"[" * 60000))
        assert frames.read_frame(stream.read, run).kind is Kind.refuse
    leave(cloud, thread)
    assert report["rejected"]["foreign"] == 1


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = podscope("cloud", "cloud", "--run", RUN, "--port", port)
    one_error(done, f"cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert not Path("cloud").exists()


def test_a_batch_beyond_the_edges_memory() -> None:
    one_error(
        podscope("learn", "hierarchical", "--batch", 4096, "--memory", "1 GB"),
        "a batch of 4096 takes 3.19 GB on the edge, which has 1 GB; a batch of 1024 fits",
    )
    one_error(edge(9, "--memory", "20 kB"), "no batch fits: cut earlier, or narrow it")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--link", "0 b/s"], "give a rate above 0"),
        (["--port", "70000"], "less than or equal to 65535"),
    ],
)
def test_other_options(told: list[str], said: str) -> None:
    done = edge(9, *told)
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not Path("edge").exists()


def test_the_cloud_listens_here_alone_if_nobody_says_otherwise(tmp_path: Path) -> None:
    cloud = CloudSide(tmp_path / "cloud", RUN, TOKEN)
    assert cloud.listener.getsockname()[0] == "127.0.0.1"
    cloud.listener.close()


def test_edge_bytes_grow_with_batch_and_cut() -> None:
    small = Plan(cut="pool1", batch=2)
    assert replace(small, batch=4).edge_bytes() > small.edge_bytes()
    assert replace(small, cut="pool2").edge_bytes() > small.edge_bytes()
    part, exit_, _ = small.halves()
    numbers = sum(each.numel() for each in (*part.parameters(), *exit_.parameters()))
    each = (replace(small, batch=4).edge_bytes() - small.edge_bytes()) / 2
    assert small.edge_bytes() - 2 * each == pytest.approx(3 * 4 * numbers)
