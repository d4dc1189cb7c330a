"""Layers of the convolutional networks, one by one, against torchvision's own modules and their
export to ONNX."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest

from sim.dnn.gemms import Dnn
from sim.dnn.known import dnn
from sim.dnn.onnx_file import read_onnx

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed (extra learn)")

SIZES = {
    "resnet18": 224,
    "densenet121": 224,
    "densenet169": 224,
    "densenet201": 224,
    "vgg16": 224,
    "inception_v3": 299,
}
BOTTLENECKS = {"resnet50": 224, "resnet101": 224, "resnet152": 224}
Shapes = Counter[tuple[int, int, int]]


def _ours(network: Dnn) -> Shapes:
    return Counter((layer.m, layer.n, layer.k) for layer in network.layers)


def _model(name: str) -> Any:
    given = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    return getattr(torchvision.models, name)(weights=None, **given).eval()


def _theirs(name: str, image: int) -> Shapes:
    """By hooks on a model that has shapes and no numbers."""
    found: Shapes = Counter()

    def seen(module: Any, _: Any, output: Any) -> None:
        w = module.weight.shape
        found[output.shape[0] * prod(output.shape[2:]), prod(w[1:]), w[0]] += 1

    with torch.device("meta"):
        model = _model(name)
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(seen)
        model(torch.empty(1, 3, image, image))
    return found


@pytest.mark.parametrize(("name", "image"), SIZES.items())
def test_layers_are_those_of_torchvision(name: str, image: int) -> None:
    assert _ours(dnn(name, image=image)) == _theirs(name, image)


@pytest.mark.parametrize(("name", "image"), BOTTLENECKS.items())
def test_bottlenecks_stride_in_their_first_convolution(name: str, image: int) -> None:
    """Keras, as the paper; torchvision's second convolution strides, so that its first has four
    times the rows."""
    ours, theirs = _ours(dnn(name, image=image)), _theirs(name, image)
    more, less = theirs - ours, ours - theirs
    assert sum(more.values()) == 3
    assert more == Counter((4 * m, n, k) for m, n, k in less.elements())


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "inception_v3", "densenet121"])
def test_the_export_to_onnx_has_the_same_products(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
    image, path = SIZES[name], tmp_path / f"{name}.onnx"
    torch.onnx.export(
        _model(name),
        (torch.zeros(1, 3, image, image),),
        str(path),
        dynamo=False,
        verbose=False,
        input_names=["image"],
        dynamic_axes={"image": {0: "batch"}},
    )
    network, notes = read_onnx(path, batch=2)
    assert _ours(network) == _ours(dnn(name, image=image, batch=2))
    assert not notes
    assert [layer.raw_input for layer in network.layers].count(True) == 1
