"""Hierarchical training against its baselines: end to end, split learning, the edge alone; what the
halves of a finished run answer; and how long each layer takes here."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.facts.version import VERSION
from sim.learn.durable import load_checkpoint
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
    plan: Plan, bytes_per_s: float | None, latency_s: float, repeats: int = 9
) -> dict[str, float]:
    """The link of a record: its rate, that of this machine's loopback where none is set, and what a
    frame costs beside it (packing, sums, system calls, reading), medians."""
    z = torch.randn(plan.batch, *plan.shape())
    y = torch.zeros(plan.batch, dtype=torch.int64)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near_wire, far_wire = Wire(near), Wire(far)
    run, spent, passed = frames.run_id("record"), [], []
    nbytes = 0
    for number in range(repeats):
        began = time.perf_counter()
        payload = pack_features(number, z, y, plan.features)
        data = frames.packed(frames.Kind.features, run, number, payload)
        sent = time.perf_counter()
        near_wire.send(data)
        frame = frames.read_frame(far_wire.read, run)
        came = time.perf_counter()
        read_features(frame.payload)
        spent.append(time.perf_counter() - began)
        passed.append(came - sent)
        nbytes = len(data)
    near_wire.close()
    far_wire.close()
    whole_s, pass_s = sorted(spent)[repeats // 2], sorted(passed)[repeats // 2]
    if bytes_per_s is None:
        return {
            "bytes_per_s": nbytes / pass_s,
            "latency_s": latency_s,
            "overhead_s": max(0.0, whole_s - pass_s),
        }
    return {"bytes_per_s": bytes_per_s, "latency_s": latency_s, "overhead_s": whole_s}


def record(plan: Plan, link: dict[str, float], repeats: int = 5) -> dict[str, Any]:
    """Seconds of each stage and head on this machine, medians, as a simulation reads them. Edge and
    cloud are one machine here; a backward includes its share of the optimiser's step."""
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
    rows = [sorted(column)[len(column) // 2] for column in zip(*spent[1:])]
    return rows[0], rows[1], out.detach()
