"""VGG-16 and ResNet-18 to be trained, as op graphs with the places at which they can be cut.

`sim.dnn.convnets` has networks as the matrix products that an array of pods is asked for, in the
order in which Keras lists them; here are all ops, in the order of PyTorch's modules: batch norms,
activations, poolings and sums too, which take time on a GPU. Both have a classifier of global
average pooling and one linear layer, as networks for small images do. `width` scales all channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.dnn.convnets import VGG_16
from sim.graph.graph import Engine, Graph, Layer, Op, Tensor
from sim.graph.precision import BYTES

# Of one element: a batch norm as the norms of `sim.graph.forward`, a comparison, a sum.
NORM_FLOP, RELU_FLOP, ADD_FLOP = 6, 1, 1
SOFTMAX_FLOP = 5
MOST_IMAGE = 4096


class Shape(NamedTuple):
    """Of a feature map of one sample; `name` is the tensor's."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def elements(self) -> int:
        """Of one sample."""
        return self.channels * self.height * self.width


class Stage(NamedTuple):
    """A run of layers after which the network can be cut."""

    name: str
    layers: tuple[Layer, ...]
    output: Shape


@dataclass(frozen=True)
class Network:
    """A network as stages in order, of a batch; the classifier follows the last."""

    name: str
    image: int
    batch: int
    dtype: str
    input: Shape
    stages: tuple[Stage, ...]
    classes: int

    @property
    def cuts(self) -> list[str]:
        """Names of the places at which it can be cut."""
        return [stage.name for stage in self.stages]

    def classifier(self, source: Shape) -> Layer:
        """Global average pooling, a linear layer and the loss: the head of the network, and of an
        early exit at any cut."""
        return _Writer(self.batch, self.dtype).classifier(source, self.classes)

    def first(self, stages: int) -> Graph:
        """The stages before a cut, without a head."""
        return Graph(tuple(layer for stage in self.stages[:stages] for layer in stage.layers))

    def rest(self, stages: int) -> Graph:
        """The stages after a cut, with the classifier."""
        layers = tuple(layer for stage in self.stages[stages:] for layer in stage.layers)
        return Graph((*layers, self.classifier(self.stages[-1].output)))

    def exit(self, stages: int) -> Graph:
        """The head of an early exit at a cut."""
        return Graph((self.classifier(self.stages[stages - 1].output),))

    def ratio(self, stages: int) -> float:
        """Elements of the feature map at a cut / elements of the input."""
        return self.stages[stages - 1].output.elements / self.input.elements


@dataclass
class _Writer:
    """Writes ops one after the other; `layer` takes those written so far."""

    batch: int
    dtype: str
    ops: list[Op] = field(default_factory=list)

    def layer(self, name: str) -> Layer:
        made = Layer(name, tuple(self.ops))
        self.ops = []
        return made

    def tensor(self, shape: Shape) -> Tensor:
        return Tensor(shape.name, self.batch * shape.elements * BYTES[self.dtype], "activation")

    def conv(self, name: str, x: Shape, channels: int, kernel: int, stride: int, pad: int) -> Shape:
        """A convolution without bias, and its batch norm."""
        rows, columns = (_positions(size, kernel, stride, pad) for size in (x.height, x.width))
        y = Shape(f"{name}.conv", channels, rows, columns)
        area = kernel * kernel * x.channels
        self._add(name, "conv", "matrix", 2 * area * y.elements, (x,), y, area * channels)
        return self.norm(name, y)

    def norm(self, name: str, x: Shape) -> Shape:
        y = x._replace(name=f"{name}.norm")
        self._add(y.name, "norm", "vector", NORM_FLOP * x.elements, (x,), y, 2 * x.channels)
        return y

    def relu(self, name: str, x: Shape) -> Shape:
        y = x._replace(name=f"{name}.relu")
        self._add(y.name, "relu", "vector", RELU_FLOP * x.elements, (x,), y)
        return y

    def add(self, name: str, x: Shape, other: Shape) -> Shape:
        y = x._replace(name=f"{name}.add")
        self._add(y.name, "add", "vector", ADD_FLOP * x.elements, (x, other), y)
        return y

    def pool(self, name: str, x: Shape, kernel: int, stride: int, pad: int = 0) -> Shape:
        rows, columns = (_positions(size, kernel, stride, pad) for size in (x.height, x.width))
        y = Shape(name, x.channels, rows, columns)
        self._add(name, "pool", "vector", kernel * kernel * y.elements, (x,), y)
        return y

    def classifier(self, x: Shape, classes: int) -> Layer:
        mean = Shape(f"{x.name} mean", x.channels, 1, 1)
        self._add("mean", "mean", "vector", x.elements, (x,), mean)
        logits = Shape(f"{x.name} logits", classes, 1, 1)
        weights = (x.channels + 1) * classes
        self._add("fc", "matmul", "matrix", 2 * x.channels * classes, (mean,), logits, weights)
        lost = Shape(f"{x.name} loss", 1, 1, 1)
        self._add("loss", "loss", "vector", SOFTMAX_FLOP * classes, (logits,), lost)
        return self.layer("classifier")

    def _add(
        self,
        name: str,
        kind: str,
        engine: Engine,
        flop: float,
        reads: tuple[Shape, ...],
        writes: Shape,
        weights: int = 0,
    ) -> None:
        own = (Tensor(f"w {name}", weights * BYTES[self.dtype], "weight"),) if weights else ()
        self.ops.append(
            Op(
                name,
                kind,
                engine=engine,
                dtype=self.dtype,
                flop=float(self.batch * flop),
                reads=(*own, *map(self.tensor, reads)),
                writes=(self.tensor(writes),),
            )
        )


def _positions(size: int, kernel: int, stride: int, pad: int) -> int:
    found = (size + 2 * pad - kernel) // stride + 1
    if size < 1 or found < 1:
        raise ValueError(f"an image this small leaves a map of {size}, less than a kernel {kernel}")
    return found


def vgg16(
    image: int, batch: int = 1, classes: int = 10, width: float = 1.0, dtype: str = "fp32"
) -> Network:
    """VGG-16 with batch norms (Simonyan and Zisserman, arXiv 1409.1556), cut after its poolings."""
    w = _Writer(batch, dtype)
    x = start = Shape("image", 3, image, image)
    stages = []
    for number, (channels, convolutions) in enumerate(VGG_16, 1):
        layers = []
        for c in range(1, convolutions + 1):
            name = f"block{number}_conv{c}"
            x = w.relu(name, w.conv(name, x, _wide(channels, width), 3, 1, 1))
            if c == convolutions:
                x = w.pool(f"pool{number}", x, 2, 2)
            layers.append(w.layer(name))
        stages.append(Stage(f"pool{number}", tuple(layers), x))
    return Network("vgg16", image, batch, dtype, start, tuple(stages), classes)


def resnet18(
    image: int,
    batch: int = 1,
    classes: int = 10,
    width: float = 1.0,
    dtype: str = "fp32",
    stem: str = "imagenet",
) -> Network:
    """ResNet-18 (He et al., CVPR 2016), cut after its stem and its blocks.

    `stem`: "imagenet", a 7 x 7 convolution of stride 2 and a 3 x 3 max-pooling of stride 2, or
    "cifar", a 3 x 3 convolution of stride 1.
    """
    w = _Writer(batch, dtype)
    start = Shape("image", 3, image, image)
    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = w.relu("stem", w.conv("stem", start, _wide(64, width), kernel, stride, kernel // 2))
    if stem == "imagenet":
        x = w.pool("stem.pool", x, 3, 2, 1)
    stages = [Stage("stem", (w.layer("stem"),), x)]
    for number in range(1, 5):
        channels = _wide(32 << number, width)
        for block in range(2):
            name = f"layer{number}.{block}"
            by = 2 if number > 1 and block == 0 else 1
            short = x
            if by > 1 or x.channels != channels:
                short = w.conv(f"{name}.down", x, channels, 1, by, 0)
            y = w.relu(f"{name}.1", w.conv(f"{name}.1", x, channels, 3, by, 1))
            y = w.conv(f"{name}.2", y, channels, 3, 1, 1)
            x = w.relu(name, w.add(name, y, short))
            stages.append(Stage(name, (w.layer(name),), x))
    return Network("resnet18", image, batch, dtype, start, tuple(stages), classes)


def resnet18_cifar(
    image: int, batch: int = 1, classes: int = 10, width: float = 1.0, dtype: str = "fp32"
) -> Network:
    """ResNet-18 with the stem for small images."""
    made = resnet18(image, batch, classes, width, dtype, stem="cifar")
    return Network("resnet18_cifar", image, batch, dtype, made.input, made.stages, classes)


def _wide(channels: int, width: float) -> int:
    return max(1, round(channels * width))


TRAINED: Mapping[str, Callable[..., Network]] = {
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet18_cifar": resnet18_cifar,
}
