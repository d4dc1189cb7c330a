"""A trained network as an ONNX file, node by node.  It needs the package onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sim.learn.nas.layers import Convolution
from sim.learn.nas.network import Network, Single
from sim.text.replacing import replacing

OPSET, IR = 17, 8
EPSILON = 1e-5  # of torch's batch norm


class Map(NamedTuple):
    """A tensor of the graph."""

    name: str
    channels: int


class _Writer:
    """Nodes and constants as they are written down."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self.helper, self.arrays = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Tensor) -> str:
        name = f"w_{len(self.constants)}"
        self.constants.append(self.arrays.from_array(value.detach().numpy(), name))
        return name

    def convolution(self, conv: Convolution, x: Map) -> Map:
        op = conv.operation
        by = 2 if op.kind == "dilated" else 1
        name, side = x.name, conv.weight.shape[2]
        if conv.depth is not None:
            name = self.node(
                "Conv",
                [name, self.constant(conv.depth)],
                group=x.channels,
                pads=[op.side // 2] * 4,
                kernel_shape=[op.side] * 2,
            )
        name = self.node(
            "Conv",
            [name, self.constant(conv.weight)],
            strides=[conv.stride] * 2,
            pads=[side // 2 * by] * 4,
            dilations=[by] * 2,
            kernel_shape=[side] * 2,
        )
        norm = (conv.scale, conv.shift, conv.mean, conv.variance)
        name = self.node("BatchNormalization", [name, *map(self.constant, norm)], epsilon=EPSILON)
        return Map(self.node("Relu", [name]), conv.weight.shape[0])

    def through(self, module: nn.Module, x: Map) -> Map:
        return self.convolution(module.conv, x) if isinstance(module, Single) else x

    def added(self, x: Map, y: Map) -> Map:
        narrow, wide = sorted((x, y), key=lambda each: each.channels)
        name = narrow.name
        if more := wide.channels - narrow.channels:
            pads = self.constant(torch.tensor([0, 0, 0, 0, 0, more, 0, 0]))
            name = self.node("Pad", [name, pads])
        return Map(self.node("Add", [name, wide.name]), wide.channels)

    def pooled(self, x: Map) -> Map:
        return x._replace(name=self.node("MaxPool", [x.name], kernel_shape=[2, 2], strides=[2, 2]))


def write_onnx(network: Network, path: Path, name: str) -> None:
    """[batch, 3, image, image] to logits [batch, classes]; widths are numbers.  ValueError without
    the package onnx."""
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise ValueError("writing ONNX files needs onnx: pip install 'podscope[onnx]'") from None
    made = _Writer()
    near = far = made.pooled(made.convolution(network.stem, Map("image", 3)))
    for cell in network.in_order:
        out: Map = cell.flow(near, far, made.through, made.added)
        near, far = (made.pooled(out) if cell.pool else out), near
    flat = made.node("Flatten", [near.name])
    weights = [made.constant(network.weight.flatten(1)), made.constant(network.bias)]
    made.node("Gemm", [flat, *weights], transB=1)
    made.nodes[-1].output[0] = "logits"

    def tensor(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    graph = helper.make_graph(
        made.nodes,
        name,
        [tensor("image", 3, network.image, network.image)],
        [tensor("logits", network.classes)],
        made.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR
    onnx.checker.check_model(model)
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())
