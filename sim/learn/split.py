"""VGG-16 and ResNet-18 in torch, cut in two with an exit at the cut: the halves that an edge and a
cloud train, and one step of each.

Names of networks and cuts are those of `sim.dnn.trained`. The early exit is what the whole network
ends with, global average pooling and a linear layer. The gradient stops at the cut.
"""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.dnn.trained import TRAINED
from sim.graph.training import held
from sim.network.frames import FEATURES, FORMATS, RejectedError
from sim.text.strict_yaml import nearest
from sim.text.units import show

_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
NETWORKS = ("vgg16", "resnet18", "resnet18_cifar")
_NAMES = [*FORMATS]


def on_one_thread() -> None:
    """Both sides of a run may share a machine, and one order of sums is the same everywhere."""
    torch.set_num_threads(1)


class Block(nn.Module):
    """The residual block of ResNet-18: [B, C, H, W] to [B, channels, H / stride, W / stride]."""

    def __init__(self, source: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(source, channels, 3, stride), nn.ReLU(), *_conv(channels, channels, 3, 1)
        )
        same = stride == 1 and source == channels
        self.short = nn.Identity() if same else nn.Sequential(*_conv(source, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return functional.relu(self.body(x) + self.short(x))


def _conv(source: int, channels: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(source, channels, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _wide(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def stages(network: str, width: float) -> tuple[dict[str, nn.Module], list[int]]:
    """Stages by the names of the cuts after them, and the channels after each. ValueError: no such
    network."""
    made: dict[str, nn.Module] = {}
    wide: list[int] = []
    source = 3
    if network not in NETWORKS:
        raise ValueError(
            f"no network {network!r}{nearest(network, NETWORKS)}; one of {', '.join(NETWORKS)}"
        )
    if network == "vgg16":
        for number, (channels, convolutions) in enumerate(_VGG, 1):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                channels_wide = _wide(channels, width)
                layers += [*_conv(source, channels_wide, 3, 1), nn.ReLU()]
                source = channels_wide
            made[f"pool{number}"] = nn.Sequential(*layers, nn.MaxPool2d(2))
            wide.append(source)
        return made, wide
    large = network == "resnet18"
    stem = [*_conv(3, _wide(64, width), *((7, 2) if large else (3, 1))), nn.ReLU()]
    made["stem"] = nn.Sequential(*stem, *([nn.MaxPool2d(3, 2, 1)] if large else []))
    source = _wide(64, width)
    wide.append(source)
    for number in range(1, 5):
        channels = _wide(32 << number, width)
        for block in range(2):
            stride = 2 if number > 1 and block == 0 else 1
            made[f"layer{number}.{block}"] = Block(source, channels, stride)
            source = channels
            wide.append(source)
    return made, wide


def head(channels: int, classes: int) -> nn.Module:
    """An exit: [B, C, H, W] to logits [B, classes]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@dataclass(frozen=True)
class Plan:
    """What both sides must agree on."""

    network: str = "vgg16"
    width: float = 0.25
    cut: str = "pool2"
    image: int = 32
    classes: int = 10
    batch: int = 32
    batches: int = 100
    seed: int = 0
    rate: float = 0.02
    features: str = "fp32"

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), type(each.default)
            if isinstance(value, bool) or not isinstance(
                value, (kind, int) if kind is float else kind
            ):
                raise ValueError(f"{each.name}: {value!r} is no {kind.__name__}")
        names = [*stages(self.network, 0.01)[0]]
        if self.cut not in names[:-1]:
            raise ValueError(
                f"{self.network} cannot be cut at {self.cut!r}{nearest(self.cut, names[:-1])}; its "
                f"cuts are {', '.join(names[:-1])}"
            )
        if self.features not in FORMATS:
            raise ValueError(f"features {self.features!r}: one of {', '.join(FORMATS)}")
        limits = {
            "width": (0.01, 4),
            "image": (32, 512),
            "classes": (2, 65535),
            "batch": (2, 4096),
            "batches": (1, 2**31),
            "seed": (0, 2**31),
            "rate": (1e-9, 100),
        }
        for name, (least, most) in limits.items():
            if not (math.isfinite(getattr(self, name)) and least <= getattr(self, name) <= most):
                raise ValueError(f"{name}: {getattr(self, name)} is not within {least} to {most}")

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def read(cls, data: Any) -> Plan:
        """ValueError for keys or values that are none of a plan."""
        names = {each.name for each in fields(cls)}
        if not isinstance(data, dict) or {*data} != names:
            raise ValueError(f"a plan has the keys {', '.join(sorted(names))}")
        return cls(**data)

    def halves(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Edge part, early exit, cloud part, as the seed says: the same on either side."""
        torch.manual_seed(self.seed)
        made, wide = stages(self.network, self.width)
        at = [*made].index(self.cut) + 1
        parts = [*made.values()]
        cloud = nn.Sequential(*parts[at:], head(wide[-1], self.classes))
        return nn.Sequential(*parts[:at]), head(wide[at - 1], self.classes), cloud

    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a feature map at the cut."""
        edge = self.halves()[0].eval()
        with torch.no_grad():
            found = edge(torch.zeros(1, 3, self.image, self.image)).shape
        return found[1], found[2], found[3]

    def edge_bytes(self) -> float:
        """What training the edge's half takes there as the simulator counts: weights, gradients,
        momentum, and all activations of a batch (`sim.graph.training.held`)."""
        made = TRAINED[self.network](self.image, self.batch, self.classes, self.width)
        at = made.cuts.index(self.cut) + 1
        return held((*made.first(at).layers, *made.exit(at).layers), "momentum").total

    def fit(self, memory_bytes: float) -> None:
        """ValueError if the edge's half does not fit in an edge's memory."""
        takes = self.edge_bytes()
        if takes <= memory_bytes:
            return
        most = self.batch
        while most > 2 and replace(self, batch=most).edge_bytes() > memory_bytes:
            most //= 2
        fits = replace(self, batch=most).edge_bytes() <= memory_bytes
        raise ValueError(
            f"a batch of {self.batch} takes {show(takes, 'B')} on the edge, which has "
            f"{show(memory_bytes, 'B')}; "
            + (f"a batch of {most} fits" if fits else "no batch fits: cut earlier, or narrow it")
        )

    def rate_at(self, batch: int) -> float:
        """Learning rate of a batch: half a cosine from `rate` to 0, the same on both sides."""
        return self.rate * (1 + math.cos(math.pi * batch / self.batches)) / 2

    def optimiser(self, *parts: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum."""
        weights = [each for part in parts for each in part.parameters()]
        return torch.optim.SGD(weights, self.rate, momentum=0.9, weight_decay=5e-4)


class EdgeWorker:
    """The edge's half and its exit."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.part, self.exit, _ = plan.halves()
        self.optimiser = plan.optimiser(self.part, self.exit)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map z of images [B, 3, H, W]; still tied to the graph."""
        self.part.train()
        return self.part(x)

    def backward(self, z: Tensor, y: Tensor, batch: int) -> float:
        """The exit's loss of a batch, and a step down its gradient."""
        loss = functional.cross_entropy(self.exit(z), y)
        return descend(self.optimiser, loss, self.plan.rate_at(batch))

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"part": self.part, "exit": self.exit, "optimiser": self.optimiser}


class CloudWorker:
    """The cloud's half."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.part = plan.halves()[2]
        self.optimiser = plan.optimiser(self.part)

    def step(self, z: Tensor, y: Tensor, batch: int) -> float:
        """The main exit's loss of features that came, and a step down its gradient."""
        self.part.train()
        loss = functional.cross_entropy(self.part(z.detach()), y)
        return descend(self.optimiser, loss, self.plan.rate_at(batch))

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"part": self.part, "optimiser": self.optimiser}


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> float:
    """A step down the gradient of a loss, which is given back."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def state(parts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights, buffers and momentum as arrays by name."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            found |= {f"{name}/{key}": value.numpy() for key, value in part.state_dict().items()}
        else:
            for key, value in part.state_dict()["state"].items():
                if value.get("momentum_buffer") is not None:
                    found[f"{name}/{key}"] = value["momentum_buffer"].numpy()
    return found


def load_state(parts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """The reverse of `state`."""
    for name, part in parts.items():
        own = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}
        if isinstance(part, nn.Module):
            part.load_state_dict(
                {key: torch.from_numpy(value.copy()) for key, value in own.items()}
            )
        elif own:
            held = {int(k): {"momentum_buffer": torch.from_numpy(v.copy())} for k, v in own.items()}
            part.load_state_dict({**part.state_dict(), "state": held})


def pack_features(batch: int, z: Tensor, y: Tensor, features: str) -> bytes:
    """The payload of a frame: feature map [B, C, H, W] and labels [B]."""
    z = z.detach().contiguous()
    scale = 1.0
    if features == "int8":
        scale = max(float(z.abs().max()), 1e-12) / 127
        body = torch.clamp(torch.round(z / scale), -127, 127).to(torch.int8)
    else:
        body = z.to(torch.float16 if features == "fp16" else torch.float32)
    data = body.numpy().astype(body.numpy().dtype.newbyteorder(">")).tobytes()
    head_ = FEATURES.pack(batch, *z.shape, _NAMES.index(features), scale)
    return head_ + y.numpy().astype(">u2").tobytes() + data


def read_features(payload: bytes) -> tuple[int, Tensor, Tensor]:
    """Batch, feature map and labels. RejectedError for a payload that is none."""
    try:
        batch, n, c, h, w, number, scale = FEATURES.unpack_from(payload)
        dtype = (">i1", ">f2", ">f4")[number]
        at = FEATURES.size + 2 * n
        y = np.frombuffer(payload, ">u2", n, FEATURES.size).astype(np.int64)
        z = np.frombuffer(payload, dtype, offset=at).astype(np.float32).reshape(n, c, h, w)
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise RejectedError("corrupted", f"no feature map: {error}", lost=False) from None
    return batch, torch.from_numpy(z) * (scale if dtype == ">i1" else 1.0), torch.from_numpy(y)
