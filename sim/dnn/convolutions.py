"""Convolutional networks, written down node by node and read off as matrix products.

Every node counts, also those that compute nothing here: the order of the layers is that in which
Keras lists a model, by distance from the output, and a schedule depends on it.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from sim.dnn.gemms import Dnn, GemmLayer


class Image(NamedTuple):
    """The output of a node: so many channels of height x width."""

    node: int
    height: int
    width: int
    channels: int


class _Node(NamedTuple):
    inputs: tuple[int, ...]
    name: str = ""
    gemm: tuple[int, int, int, int] | None = None  # m, n, k, kernel area


class Convnet:
    """A convolutional network being written down, in the order of data flow."""

    def __init__(self, name: str, image: int, batch: int = 1, channels: int = 3) -> None:
        if image < 1 or batch < 1:
            raise ValueError(
                f"{name} needs an image and a batch of at least 1, not {image} and {batch}"
            )
        self.name, self.batch = name, batch
        self._nodes = [_Node(())]
        self.input = Image(0, image, image, channels)

    def conv(
        self,
        name: str,
        x: Image,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        pad: int | None = None,
    ) -> Image:
        """A convolution; `pad` on every side, or as much as keeps the size but for the stride."""
        rows, columns = self._positions(name, x, kernel, stride, pad)
        area = kernel**2 if isinstance(kernel, int) else prod(kernel)
        gemm = self.batch * rows * columns, area * x.channels, channels, area
        return Image(self._add(_Node((x.node,), name, gemm)), rows, columns, channels)

    def dense(self, name: str, x: Image, units: int) -> Image:
        """A fully connected layer on all elements of x."""
        gemm = self.batch, x.height * x.width * x.channels, units, 1
        return Image(self._add(_Node((x.node,), name, gemm)), 1, 1, units)

    def pool(
        self, x: Image, kernel: int, stride: int, pad: int | None = 0, name: str = "pool"
    ) -> Image:
        """Any pooling over kernel x kernel.

        Or a convolution of every channel by itself: no matrix product, so it takes no time here.
        """
        rows, columns = self._positions(name, x, kernel, stride, pad)
        return Image(self._add(_Node((x.node,))), rows, columns, x.channels)

    def mean(self, x: Image) -> Image:
        """Global average pooling."""
        return Image(self._add(_Node((x.node,))), 1, 1, x.channels)

    def pointwise(self, x: Image, nodes: int) -> Image:
        """So many nodes that keep the shape: normalisation, activation."""
        for _ in range(nodes):
            x = x._replace(node=self._add(_Node((x.node,))))
        return x

    def add(self, *images: Image) -> Image:
        """The sum of images of one shape."""
        return images[0]._replace(node=self._add(_Node(tuple(image.node for image in images))))

    def concat(self, *images: Image) -> Image:
        """All channels of images of one size, one after the other."""
        node = self._add(_Node(tuple(image.node for image in images)))
        return images[0]._replace(node=node, channels=sum(image.channels for image in images))

    def dnn(self) -> Dnn:
        """What has been written down, ending with the last node."""
        read: list[set[int]] = []  # by node, the products whose output it reads
        for node in self._nodes:
            read.append(
                set().union(*({i} if self._nodes[i].gemm else read[i] for i in node.inputs))
            )
        layers = []
        order = [(at, self._nodes[at]) for at in _listed(self._nodes)]
        products = [(at, node.name, *node.gemm) for at, node in order if node.gemm]
        for at, name, m, n, k, area in products:
            after = tuple(other for b, other, *_ in products if b in read[at])
            layers.append(
                GemmLayer(name, m, n, k, kernel_area=area, after=after, raw_input=not after)
            )
        return Dnn(self.name, tuple(layers))

    def _positions(
        self, layer: str, x: Image, kernel: int | tuple[int, int], stride: int, pad: int | None
    ) -> tuple[int, int]:
        """Rows and columns of what a kernel gives that moves over x."""
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        found = []
        for size, of_kernel in zip((x.height, x.width), sizes):
            same = -(-size // stride)
            found.append(same if pad is None else (size + 2 * pad - of_kernel) // stride + 1)
            if found[-1] < 1:
                raise ValueError(
                    f"{self.name}: an image of {size} is too small for {layer}, a kernel of "
                    f"{of_kernel}"
                )
        return found[0], found[1]

    def _add(self, node: _Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1


def _listed(nodes: list[_Node]) -> list[int]:
    """Nodes by descending distance from the last; equally distant ones as a walk up meets them."""
    distance = [0] * len(nodes)
    for at in reversed(range(len(nodes))):
        for before in nodes[at].inputs:
            distance[before] = max(distance[before], distance[at] + 1)
    met: dict[int, int] = {}
    walk = [len(nodes) - 1]
    while walk:
        at = walk.pop()
        if at not in met:
            met[at] = len(met)
            walk += reversed(nodes[at].inputs)
    return sorted(met, key=lambda at: (-distance[at], met[at]))
