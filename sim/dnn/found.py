"""Networks of searched cells: which operation stands on each edge, how wide each convolution is,
and what that asks of a systolic array.

A cell takes the two outputs before it, each through a 3 x 3 convolution (of stride 2 where that
output is twice as large), and adds up operations on nine edges between five nodes; where widths
differ, the narrower is filled up with zeros, which costs nothing. The stem is a 3 x 3 convolution
and a pooling, the classifier one linear layer. Each convolution is followed by a normalisation and
a ReLU, which take no time here. A depthwise convolution is a product for each channel. Source of
the cell: U-Boost NAS (arXiv 2203.12412); the filling up is ours, the authors add a 1 x 1
convolution that their search does not know of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sim.dnn.gemms import Dnn, GemmLayer

INPUTS = ("near", "far")  # the output before, and the one before that
OUTPUT = "t3"
EDGES = (
    ("near", "t1"),
    ("far", "t1"),
    ("t1", "t2"),
    ("near", "t2"),
    ("far", "t2"),
    ("t1", "t3"),
    ("t2", "t3"),
    ("near", "t3"),
    ("far", "t3"),
)


class Operation(NamedTuple):
    """What can stand on an edge; a convolution has a kind of `sim.systolic.utilisation.LAYERS`."""

    kind: str = ""
    side: int = 1

    @property
    def area(self) -> int:
        """Elements of the kernel."""
        return self.side**2


OPERATIONS: dict[str, Operation] = {
    "conv3": Operation("conv", 3),
    "conv5": Operation("conv", 5),
    "separable3": Operation("separable", 3),
    "separable5": Operation("separable", 5),
    "dilated3": Operation("dilated", 3),
    "dilated5": Operation("dilated", 5),
    "identity": Operation(),
    "zero": Operation(),
}


def edge_name(edge: tuple[str, str]) -> str:
    """Of an edge, as its convolution is called."""
    return "_".join(edge)


def alive(operations: Sequence[str]) -> dict[tuple[str, str], str]:
    """Edges that lie on a way from an input of the cell to its output, and their operations.

    Empty where there is no such way.
    """
    edges = {edge: op for edge, op in zip(EDGES, operations) if op != "zero"}
    fed = {*INPUTS}
    for source, target in edges:  # edges stand in the order of data flow
        if source in fed:
            fed.add(target)
    used = {OUTPUT}
    for source, target in reversed(edges):
        if target in used and source in fed:
            used.add(source)
    return {edge: op for edge, op in edges.items() if edge[0] in fed & used and edge[1] in used}


def convolutions(operations: Sequence[str]) -> dict[str, Operation]:
    """Those of a cell by name, in the order of data flow: of its inputs, then of its edges."""
    edges = alive(operations)
    sources = {source for source, _ in edges}
    first = {name: OPERATIONS["conv3"] for name in INPUTS if name in sources}
    made = {edge_name(edge): OPERATIONS[op] for edge, op in edges.items()}
    return first | {name: op for name, op in made.items() if op.kind}


@dataclass(frozen=True)
class Cell:
    """Operations in the order of `EDGES`; output channels of each convolution by its name."""

    operations: tuple[str, ...]
    widths: Mapping[str, int]
    pool: bool = True  # 2 x 2, behind it

    def __post_init__(self) -> None:
        if len(self.operations) != len(EDGES):
            raise ValueError(f"a cell has {len(EDGES)} operations, not {len(self.operations)}")
        if unknown := sorted({*self.operations} - {*OPERATIONS}):
            raise ValueError(f"no operation {unknown[0]!r}; there are {', '.join(OPERATIONS)}")
        due = convolutions(self.operations)
        if not alive(self.operations):
            raise ValueError("no way leads from the inputs of the cell to its output")
        if {*due} != {*self.widths}:
            raise ValueError(f"widths are of {', '.join(self.widths)}; due are {', '.join(due)}")
        if narrow := [name for name, width in self.widths.items() if width < 1]:
            raise ValueError(f"{narrow[0]} has no channels")


@dataclass(frozen=True)
class Found:
    """A network of cells, for square images of three channels."""

    name: str
    image: int
    classes: int
    stem: int  # channels
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        side_after(self.image, [cell.pool for cell in self.cells])


def side_after(image: int, pools: Sequence[bool]) -> list[int]:
    """Pixels a side of the stem's output, and behind each cell.  ValueError where poolings do not
    divide the image."""
    steps = 2 ** (1 + sum(pools))
    if image < 1 or image % steps:
        near = max(steps, round(image / steps) * steps)
        raise ValueError(
            f"images of {image} pixels a side: {1 + sum(pools)} poolings halve them, so {steps} "
            f"has to divide it; the nearest is {near}"
        )
    sides = [image // 2]
    for pool in pools:
        sides.append(sides[-1] // (2 if pool else 1))
    return sides


class Placed(NamedTuple):
    """A convolution or linear layer where it stands in a network."""

    name: str
    operation: Operation
    positions: int  # of the output, of one image
    channels: int
    filters: int
    after: tuple[str, ...]


class _Output(NamedTuple):
    """Of a cell or node: the layers that it is the sum of, and its channels."""

    names: tuple[str, ...]
    channels: int


def _joined(x: _Output, y: _Output) -> _Output:
    names = tuple(dict.fromkeys((*x.names, *y.names)))
    return _Output(names, max(x.channels, y.channels))


def _steps(operations: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Of a cell in the order of data flow: name of the edge, where it leads, and whence; None: the
    output of a cell before."""
    for name in INPUTS:
        if name in convolutions(operations):
            yield name, name, None
    for source, target in alive(operations):
        yield edge_name((source, target)), target, source


def placed(found: Found) -> Iterator[Placed]:
    """All layers in the order of data flow; a linear one is a 1 x 1 kernel at one position."""
    sides = side_after(found.image, [cell.pool for cell in found.cells])
    conv3 = OPERATIONS["conv3"]
    yield Placed("stem", conv3, found.image**2, 3, found.stem, ())
    before = [_Output(("stem",), found.stem)] * 2
    for at, (cell, side) in enumerate(zip(found.cells, sides)):
        held: dict[str, _Output] = {}
        layers = convolutions(cell.operations)
        for name, target, source in _steps(cell.operations):
            x = before[1 - INPUTS.index(target)] if source is None else held[source]
            if name in layers:
                full, filters = f"cell{at + 1}_{name}", cell.widths[name]
                yield Placed(full, layers[name], side**2, x.channels, filters, x.names)
                x = _Output((full,), filters)
            held[target] = _joined(held[target], x) if target in held else x
        before = [before[1], held[OUTPUT]]
    names, channels = before[1]
    yield Placed(
        "classifier", Operation("conv"), 1, channels * sides[-1] ** 2, found.classes, names
    )


def dnn_of(found: Found, batch: int = 1) -> Dnn:
    """The matrix products, a depthwise convolution being one for each channel."""
    layers: list[GemmLayer] = []
    ends: dict[str, tuple[str, ...]] = {}  # the products that a layer's output is of
    for name, op, positions, channels, filters, sources in placed(found):
        after = tuple(dict.fromkeys(each for source in sources for each in ends[source]))
        m, area = positions * batch, op.area
        if op.kind == "separable":
            layers += [
                GemmLayer(f"{name}:{c}", m, area, 1, area, after, not after)
                for c in range(channels)
            ]
            after, area = tuple(each.name for each in layers[-channels:]), 1
        layers.append(GemmLayer(name, m, area * channels, filters, area, after, not after))
        ends[name] = (name,)
    return Dnn(found.name, tuple(layers))
