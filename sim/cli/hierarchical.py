"""`podscope learn hierarchical`, `podscope edge`, `podscope cloud`: a network that an edge and a
cloud train together, over a connection.  It needs torch (extra `learn`). Errors and exit codes:
`sim.cli`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import plain, say, warn, write

if TYPE_CHECKING:
    from sim.learn.split import Plan

TOKEN = "PODSCOPE_TOKEN"
_GONE = 4  # exit code of a cloud whose edge stayed away

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoints and reports of this run.")]
Run = Annotated[str, typer.Option(metavar="NAME", help="Name of the run, the same on both sides.")]
Network = Annotated[str, typer.Option(help="vgg16, resnet18, or resnet18_cifar (stem 3 x 3).")]
Cut = Annotated[str, typer.Option(help="The stage after which it is cut, e.g. pool2, layer2.1.")]
Width = Annotated[float, typer.Option(help="Of all channels; 1 is the published network.")]
Images = Annotated[
    str,
    typer.Option(
        metavar="SET", help="digits, mnist-5k, or a folder: CIFAR-10's binaries, or train/CLASS/."
    ),
]
Train = Annotated[int, typer.Option(min=2, help="Images to train on, at most.")]
Rate = Annotated[
    str | None, typer.Option("--link", metavar="RATE", help="Of the uplink, e.g. 1.1 Mb/s.")
]
Latency = Annotated[str, typer.Option(metavar="TIME", help="Of the link, one way, e.g. 40 ms.")]
Bound = Annotated[
    int, typer.Option("--queue", min=1, max=4096, help="Frames held for the cloud, at most.")
]
Features = Annotated[str, typer.Option(help="Of the feature map on the wire: fp32, fp16, int8.")]
Pipelined = Annotated[
    bool, typer.Option("--pipelined", help="Begin a batch before the cloud has trained the last.")
]
Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Of the edge; all that is here, if not said.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")]
Host = Annotated[str, typer.Option(help="Address to listen on, or of the cloud.")]
Patience = Annotated[str, typer.Option(metavar="TIME", help="To wait for the other side.")]
Most = Annotated[int, typer.Option(min=1024, max=2**31 - 1, help="Cap of a frame, in bytes.")]


def hierarchical(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run.")] = Path(
        "runs/hierarchical"
    ),
    network: Network = "vgg16",
    cut: Cut = "pool3",
    width: Width = 0.25,
    images: Images = "mnist-5k",
    train: Train = 4000,
    image: Annotated[int, typer.Option(help="Pixels of a side, to which images are scaled.")] = 32,
    batch: Annotated[int, typer.Option(help="Images of a mini-batch.")] = 32,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    learning_rate: Annotated[float, typer.Option(help="At first; half a cosine to 0.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    features: Features = "fp32",
    link: Rate = None,
    latency: Latency = "0 s",
    bound: Bound = 16,
    pipelined: Pipelined = False,
    memory: Memory = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Train end to end, by split learning and on the edge alone too."
        ),
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Only measure layers and link, for a simulation."),
    ] = None,
) -> None:
    """Train a network cut in two.  Edge and cloud are two processes on this machine."""
    _needs_torch()
    from sim.learn.hierarchical import (
        edge_only,
        end_to_end,
        exits_of,
        measured_link,
        split_learning,
    )
    from sim.learn.hierarchical import record as measure
    from sim.learn.images import read_images
    from sim.learn.split import Plan

    bytes_per_s, latency_s = _link(link, latency)
    plan = Plan(
        network=network,
        width=width,
        cut=cut,
        image=image,
        batch=batch,
        seed=seed,
        rate=learning_rate,
        features=features,
    )
    plan.fit(_memory(memory))
    data = read_images(images, image, train)
    batches = epochs * (len(data.x) // batch)
    if not batches:
        raise ValueError(f"--train: {len(data.x)} images make no batch of {batch}")
    plan = replace(plan, classes=data.classes, batches=batches)
    if record is not None:
        _text(record, measure(plan, measured_link(plan, bytes_per_s, latency_s)))
        return
    if (out / "edge").exists() or (out / "cloud").exists():
        raise ValueError(
            f"{out}: holds a run; go on with `podscope edge` and `podscope cloud`, or "
            "take another folder"
        )
    said = _both(out, plan, images, train, link, latency, bound, pipelined)
    said["plan"], said["images"] = plan.data(), data.source
    said["accuracy"] = exits_of(plan, out, data)
    if baselines:
        said["accuracy"] |= {
            "end_to_end": end_to_end(plan, data),
            "split_learning": split_learning(plan, data),
            "edge_only": edge_only(plan, data),
        }
    _text(out / "result.json", said)
    for name, value in said["accuracy"].items():
        say(f"{name.replace('_', ' ')}: {100 * value:.2f} % of {len(data.x_test)} test images")
    edge_said = said["edge"]
    say(f"{edge_said['frames']} frames, {edge_said['bytes']} bytes, {edge_said['wall_s']:.2f} s")


def edge(
    folder: Folder,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the cloud.")],
    run: Run,
    plan: Annotated[Path, typer.Option(metavar="PLAN.json", help="What is trained.")],
    host: Host = "127.0.0.1",
    images: Images = "mnist-5k",
    train: Train = 4000,
    memory: Memory = None,
    link: Rate = None,
    latency: Latency = "0 s",
    bound: Bound = 16,
    pipelined: Pipelined = False,
    save_every: Annotated[int, typer.Option(min=1, help="Batches a checkpoint.")] = 16,
    patience: Patience = "30 s",
) -> None:
    """Train a network's first part here.  Feature maps go up; the token is in PODSCOPE_TOKEN."""
    _needs_torch()
    from sim.learn.edge_side import EdgeSide
    from sim.learn.images import read_images
    from sim.learn.split import Plan
    from sim.text.units import parse

    bytes_per_s, latency_s = _link(link, latency)
    try:
        told = Plan.read(json.loads(plan.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{plan}: {error}") from None
    told.fit(_memory(memory))
    side = EdgeSide(
        folder,
        run,
        _token(),
        told,
        read_images(images, told.image, train),
        (host, port),
        bound,
        save_every,
        parse(patience, "s"),
        bytes_per_s,
        latency_s,
        not pipelined,
    )
    with _work("the edge cannot train"):
        report = side.train()
    _text(folder / "edge.json", report)
    alone = [f"{len(report['alone'])} batches were trained on the edge alone"]
    unsent = [f"{report['unsent']} frames did not reach the cloud; run it again to send them"]
    warn((alone if report["alone"] else []) + (unsent if report["unsent"] else []))


def cloud(
    folder: Folder,
    run: Run,
    port: Port = 0,
    host: Host = "127.0.0.1",
    latency: Latency = "0 s",
    save_every: Annotated[int, typer.Option(min=1, help="Batches a checkpoint.")] = 8,
    patience: Patience = "60 s",
    most_bytes: Most = 64 * 2**20,
) -> None:
    """Train a network's last part here.  On what an edge sends; the token is in PODSCOPE_TOKEN."""
    _needs_torch()
    from sim.learn.cloud_side import CloudSide
    from sim.text.units import parse

    side = CloudSide(
        folder,
        run,
        _token(),
        host,
        port,
        save_every,
        parse(patience, "s"),
        most_bytes,
        parse(latency, "s"),
    )
    write(folder / "port", f"{side.port}\n")
    say(f"listening on {plain(host)} port {side.port}", stderr=True)
    with _work("the cloud cannot train"):
        report = side.serve()
    _text(folder / "cloud.json", report)
    say(f"cloud: {plain(report['ended'])}, {report['trained']} batches trained", stderr=True)
    if report["rejected"]:
        warn([f"rejected: {', '.join(f'{n} {why}' for why, n in report['rejected'].items())}"])
    if "no word" in report["ended"]:
        raise typer.Exit(_GONE)


def _both(
    out: Path,
    plan: Plan,
    images: str,
    train: int,
    link: str | None,
    latency: str,
    bound: int,
    pipelined: bool,
) -> dict[str, Any]:
    """Runs both sides as processes; their reports."""
    out.mkdir(parents=True, exist_ok=True)
    write(out / "plan.json", json.dumps(plan.data(), indent=1) + "\n")
    surroundings = {**os.environ, TOKEN: secrets.token_hex(32)}
    name = f"{out.name}-{secrets.token_hex(8)}"
    start = [sys.executable, "-m", "sim.cli"]
    port = out / "cloud" / "port"
    served = subprocess.Popen(
        [*start, "cloud", str(out / "cloud"), "--run", name, "--latency", latency], env=surroundings
    )
    try:
        while not port.exists():
            if served.poll() is not None:
                raise ValueError("the cloud did not start")
            time.sleep(0.05)
        told = ["--port", port.read_text().strip(), "--run", name, "--latency", latency]
        told += ["--plan", str(out / "plan.json"), "--images", images, "--train", str(train)]
        told += ["--queue", str(bound), *(["--link", link] if link else [])]
        told += ["--pipelined"] if pipelined else []
        done = subprocess.run([*start, "edge", str(out / "edge"), *told], env=surroundings)
        if done.returncode:
            raise ValueError("the edge failed")
        if served.wait(60):
            raise ValueError("the cloud failed")
    finally:
        if served.poll() is None:
            served.terminate()
            with suppress(subprocess.TimeoutExpired):
                served.wait(5)
    return {
        side: json.loads((out / side / f"{side}.json").read_text()) for side in ("edge", "cloud")
    }


def _token() -> bytes:
    token = os.environ.get(TOKEN, "")
    if len(token) < 16:
        raise ValueError(f"{TOKEN}: set it to a secret of at least 16 characters, on both sides")
    return token.encode()


def _link(rate: str | None, latency: str) -> tuple[float | None, float]:
    from sim.text.units import parse

    bytes_per_s = None if rate is None else parse(rate, "B/s")
    if bytes_per_s is not None and not bytes_per_s > 0:
        raise ValueError(f"--link {rate}: carries nothing; give a rate above 0, e.g. 1.1 Mb/s")
    return bytes_per_s, parse(latency, "s")


def _memory(size: str | None) -> float:
    from sim.text.units import parse

    if size is not None:
        return parse(size, "B")
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@contextmanager
def _work(what: str) -> Iterator[None]:
    """Torch tells of memory that is used up, and of all else, by a RuntimeError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{what}: {str(error).strip() or 'out of memory'}") from None


def _needs_torch() -> None:
    if find_spec("torch") is None:
        raise ValueError("this needs torch: pip install 'podscope[learn]'")
    from sim.learn.split import on_one_thread

    on_one_thread()


def _text(path: Path, data: dict[str, Any]) -> None:
    write(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    say(f"wrote {plain(str(path))}", stderr=True)
