"""Hierarchical training against its baselines: end to end, split learning, the edge alone; what the
halves of a finished run answer; and how long each layer takes here."""

from __future__ import annotations

import platform
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.facts.version import VERSION
from sim.learn.durable import Journal, load_checkpoint
from sim.learn.images import Images, batch_of
from sim.learn.split import (
    CloudWorker,
    EdgeWorker,
    Plan,
    descend,
    head,
    load_state,
    pack_features,
    read_features,
    stages,
)
from sim.learn.wire import Wire
from sim.network import frames
from sim.network.frames import FORMATS
from sim.network.protocol import Record


def end_to_end(plan: Plan, images: Images) -> float:
    """Test accuracy of the whole network, trained as one with the main exit's loss. Split learning,
    whose gradient returns, computes the same."""
    part, _, cloud = plan.halves()
    whole = nn.Sequential(part, cloud)
    optimiser = plan.optimiser(whole)
    whole.train()
    for batch in range(plan.batches):
        x, y = batch_of(images, batch, plan.batch, plan.seed)
        loss = functional.cross_entropy(whole(torch.from_numpy(x)), torch.from_numpy(y))
        descend(optimiser, loss, plan.rate_at(batch))
    return accuracy(whole, images)


def split_learning(plan: Plan, images: Images) -> float:
    """Test accuracy where the cloud's gradient of the features returns to the edge."""
    part, _, cloud = plan.halves()
    edge_step, cloud_step = plan.optimiser(part), plan.optimiser(cloud)
    part.train()
    cloud.train()
    for batch in range(plan.batches):
        x, y = batch_of(images, batch, plan.batch, plan.seed)
        z = part(torch.from_numpy(x))
        sent = z.detach().requires_grad_()
        rate = plan.rate_at(batch)
        descend(cloud_step, functional.cross_entropy(cloud(sent), torch.from_numpy(y)), rate)
        returned = sent.grad
        assert returned is not None
        descend(edge_step, (z * returned).sum(), rate)  # the gradient that came back
    return accuracy(nn.Sequential(part, cloud), images)


def edge_only(plan: Plan, images: Images) -> float:
    """Test accuracy of the edge's half and its exit, trained without a cloud. It is that of the
    early exit of a hierarchical training, since nothing comes down."""
    edge = EdgeWorker(plan)
    for batch in range(plan.batches):
        x, y = batch_of(images, batch, plan.batch, plan.seed)
        edge.backward(edge.forward(torch.from_numpy(x)), torch.from_numpy(y), batch)
    return accuracy(nn.Sequential(edge.part, edge.exit), images)


def in_one_process(plan: Plan, images: Images) -> dict[str, float]:
    """Test accuracy of both exits of a hierarchical training without a connection."""
    edge, cloud = EdgeWorker(plan), CloudWorker(plan)
    for batch in range(plan.batches):
        x, labels = batch_of(images, batch, plan.batch, plan.seed)
        y = torch.from_numpy(labels)
        z = edge.forward(torch.from_numpy(x))
        cloud.step(z, y, batch)
        edge.backward(z, y, batch)
    return _exits(edge, cloud, images)


def exits_of(plan: Plan, folder: Path, images: Images) -> dict[str, float]:
    """Test accuracy of both exits of the run in `folder`, from its checkpoints."""
    edge, cloud = EdgeWorker(plan), CloudWorker(plan)
    load_state(edge.parts(), load_checkpoint(folder / "edge" / "edge.npz")[0])
    load_state(cloud.parts(), load_checkpoint(folder / "cloud" / "cloud.npz")[0])
    return _exits(edge, cloud, images)


def _exits(edge: EdgeWorker, cloud: CloudWorker, images: Images) -> dict[str, float]:
    return {
        "edge": accuracy(nn.Sequential(edge.part, edge.exit), images),
        "cloud": accuracy(nn.Sequential(edge.part, cloud.part), images),
    }


def accuracy(network: nn.Module, images: Images) -> float:
    """Share of the test images whose largest logit is right."""
    network.eval()
    right = 0
    with torch.no_grad():
        for at in range(0, len(images.x_test), 256):
            logits = network(torch.from_numpy(images.x_test[at : at + 256]))
            right += int((logits.argmax(1).numpy() == images.y_test[at : at + 256]).sum())
    return right / len(images.x_test)


def measured_link(
    plan: Plan, bytes_per_s: float | None, latency_s: float, repeats: int = 15
) -> dict[str, float]:
    """The link of a record: its rate, that of this machine's loopback where none is set, and what a
    frame costs beside its bytes on the link: a line of the journal that is on the disk, and
    packing, sums, system calls and reading, as a line through two sizes. Medians."""
    y = torch.zeros(plan.batch, dtype=torch.int64)
    z = torch.randn(plan.batch, *plan.shape())
    part = max(1, plan.batch // 4)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    ends = Wire(near), Wire(far)
    small = _frame_seconds(*ends, z[:part], y[:part], plan.features, repeats)
    large = _frame_seconds(*ends, z, y, plan.features, repeats)
    for end in ends:
        end.close()
    nbytes, whole_s, pass_s = large
    each_s = max(0.0, (whole_s - small[1]) / (nbytes - small[0]))
    found = {
        "bytes_per_s": bytes_per_s or nbytes / pass_s,
        "latency_s": latency_s,
        "overhead_s": max(0.0, whole_s - each_s * nbytes) + _journal_seconds(repeats),
        "overhead_s_per_byte": each_s,
    }
    if bytes_per_s is None:  # the link is the loopback, whose time is not to be counted twice
        found["overhead_s_per_byte"] = max(0.0, each_s - pass_s / nbytes)
    return found


def _frame_seconds(
    near: Wire, far: Wire, z: Tensor, y: Tensor, features: str, repeats: int
) -> tuple[int, float, float]:
    """Bytes of a frame, and median seconds from a feature map to a feature map, and of the passing
    alone."""
    run = frames.run_id("record")
    spent, passed, nbytes = [], [], 0
    for number in range(repeats):
        began = time.perf_counter()
        payload = pack_features(number, z, y, features)
        data = frames.packed(frames.Kind.features, run, number, payload)
        sent = time.perf_counter()
        near.send(data)
        frame = frames.read_frame(far.read, run)
        came = time.perf_counter()
        read_features(frame.payload)
        spent.append(time.perf_counter() - began)
        passed.append(came - sent)
        nbytes = len(data)
    return nbytes, median(spent), median(passed)


def _journal_seconds(repeats: int) -> float:
    """Of a record that is durable, median."""
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        for number in range(repeats):
            began = time.perf_counter()
            journal.write(Record(number, number + 1))
            spent.append(time.perf_counter() - began)
        journal.close()
    return median(spent)


def record(plan: Plan, link: dict[str, float], repeats: int = 25) -> dict[str, Any]:
    """Seconds of each stage and head on this machine, medians, as a simulation reads them
    (docs/hierarchical_training.md has the fields). Edge and cloud are one machine here; a backward
    includes its share of the optimiser's step."""
    torch.manual_seed(plan.seed)
    made, wide = stages(plan.network, plan.width)
    x = torch.randn(plan.batch, 3, plan.image, plan.image)
    y = torch.randint(plan.classes, (plan.batch,))
    layers, heads = [], {}
    for at, (name, part) in enumerate(made.items()):
        forward, backward, out = _timed(part, x, lambda z: z.sum(), plan, repeats, at > 0)
        layers.append(
            {
                "name": name,
                "edge_forward_s": forward,
                "edge_backward_s": backward,
                "cloud_forward_s": forward,
                "cloud_backward_s": backward,
                "activation_bytes": out[0].numel() * plan.batch * FORMATS[plan.features],
            }
        )
        x = out
        exit_ = head(wide[at], plan.classes)
        spent = _timed(exit_, x, lambda z: functional.cross_entropy(z, y), plan, repeats, True)
        heads[name] = {"forward_s": spent[0], "backward_s": spent[1]}
    return {
        "kind": "training_record",
        "version": 1,
        "network": plan.network,
        "width": plan.width,
        "input": [3, plan.image, plan.image],
        "batch": plan.batch,
        "features": plan.features,
        "calibrated_at": plan.cut,
        "layers": layers,
        "heads": heads,
        "link": link,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s) of torch",
        "made_with": f"podscope {VERSION}, torch {torch.__version__}",
    }


def _timed(
    part: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    plan: Plan,
    repeats: int,
    inner: bool,
) -> tuple[float, float, Tensor]:
    """Median seconds forward and backward, and what comes out."""
    optimiser = plan.optimiser(part)
    spent = []
    out = x
    for _ in range(repeats + 1):  # the first warms up
        given = x.detach().requires_grad_(inner)
        began = time.perf_counter()
        out = part(given)
        lost = loss(out)
        middle = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        lost.backward()
        optimiser.step()
        spent.append((middle - began, time.perf_counter() - middle))
    forward, backward = map(median, zip(*spent[1:]))
    return forward, backward, out.detach()
