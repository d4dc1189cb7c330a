"""Networks of cells in torch: with all operations on each edge, or with one and a searched width.

The same classes serve the three stages: a width of one option is a number, and its mask is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.dnn.found import (
    EDGES,
    INPUTS,
    OPERATIONS,
    OUTPUT,
    Cell,
    Found,
    alive,
    convolutions,
    edge_name,
    side_after,
)
from sim.learn.nas.choice import Choice, Width
from sim.learn.nas.costs import Block, costs
from sim.learn.nas.layers import Convolution, added, refit
from sim.systolic.pod_array import PodArray

CONVOLUTIONS = [name for name, op in OPERATIONS.items() if op.kind]
Channels = Any  # a number or a tensor


class Term(NamedTuple):
    """Blocks between which gates choose; one alone has none."""

    blocks: list[Block]
    gates: Tensor | None = None


class Single(nn.Module):
    """One convolution of a searched width."""

    def __init__(self, conv: Convolution, width: Width) -> None:
        super().__init__()
        self.conv, self.width = conv, width

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, allocated, H', W']."""
        return self.conv(x, self.width.mask())


class Mixed(nn.Module):
    """All operations on one edge, each with its gate; zero is the one that adds nothing."""

    def __init__(self, channels: int, choice: Choice) -> None:
        super().__init__()
        self.choice, self.channels = choice, channels
        self.convs = nn.ModuleDict(
            {name: Convolution(OPERATIONS[name], channels, channels) for name in CONVOLUTIONS}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same."""
        gates = dict(zip(OPERATIONS, self.choice.gates))
        y = gates["identity"] * x
        for name, conv in self.convs.items():
            y = y + gates[name] * conv(x)
        return y


class CellNet(nn.Module):
    """A cell; `make` gives the module of a convolution or edge, and its channels."""

    def __init__(
        self,
        near: int,
        far: int,
        halved: bool,
        operations: Sequence[str] | None,
        pool: bool,
        make: Callable[[str, str, int, int], tuple[nn.Module, int]],
    ) -> None:
        super().__init__()
        self.operations = operations
        self.pool = pool
        self.inputs, self.edges = nn.ModuleDict(), nn.ModuleDict()
        edges = dict.fromkeys(EDGES, "") if operations is None else alive(operations)
        used = INPUTS if operations is None else convolutions(operations)
        held: dict[str, int] = {}
        for name, channels in zip(INPUTS, (near, far)):
            if name in used:
                stride = 2 if halved and name == "far" else 1
                self.inputs[name], held[name] = make(name, "conv3", channels, stride)
        for edge, op in edges.items():
            source, target = edge
            self.edges[edge_name(edge)], wide = (
                (nn.Identity(), held[source])
                if op == "identity"
                else make(edge_name(edge), op, held[source], 1)
            )
            held[target] = max(held.get(target, 0), wide)
        self.channels = held[OUTPUT]

    def flow(
        self,
        near: Any,
        far: Any,
        through: Callable[[nn.Module, Any], Any],
        join: Callable[[Any, Any], Any],
    ) -> Any:
        """What comes out if `through` takes what is at a node through a module, and `join` makes
        one of two that meet: feature maps, channels, or layers with their sizes."""
        held: dict[str, Any] = {}
        for name, x in zip(INPUTS, (near, far)):
            if name in self.inputs:
                held[name] = through(self.inputs[name], x)
        for name, module in self.edges.items():
            source, target = name.split("_")
            y = through(module, held[source])
            held[target] = join(held[target], y) if target in held else y
        return held[OUTPUT]

    def forward(self, near: Tensor, far: Tensor) -> Tensor:
        """The outputs of the last cell and of the one before it."""
        y = self.flow(near, far, lambda module, x: module(x), added)
        return functional.max_pool2d(y, 2) if self.pool else y

    def terms(self, near: Channels, far: Channels, positions: int) -> tuple[list[Term], Channels]:
        """What the machine is asked for, and the effective channels behind it."""
        made: list[Term] = []

        def through(module: nn.Module, channels: Channels) -> Channels:
            if isinstance(module, Single):
                wide: Channels = module.width.effective
                made.append(Term([Block(module.conv.operation, positions, channels, wide)]))
                return wide
            if isinstance(module, Mixed):
                blocks = [
                    Block(OPERATIONS[name], positions, channels, module.channels)
                    for name in CONVOLUTIONS
                ]
                at = [at for at, name in enumerate(OPERATIONS) if name in CONVOLUTIONS]
                made.append(Term(blocks, module.choice.gates[at]))
                return module.channels
            return channels

        return made, self.flow(near, far, through, _larger)


def _larger(a: Channels, b: Channels) -> Channels:
    return torch.maximum(torch.as_tensor(a), torch.as_tensor(b))


class Network(nn.Module):
    """Stem, cells and classifier: [B, 3, image, image] to logits [B, classes]."""

    def __init__(
        self,
        image: int,
        classes: int,
        stem: int,
        pools: Sequence[bool],
        cells: Sequence[Sequence[str]] | None,
        make: Callable[[str, str, int, int], tuple[nn.Module, int]],
    ) -> None:
        super().__init__()
        self.image, self.classes = image, classes
        self.sides = side_after(image, pools)
        self.stem = Convolution(OPERATIONS["conv3"], 3, stem)
        self.cells = nn.ModuleList()
        near = far = stem
        for at, pool in enumerate(pools):
            halved = at > 0 and pools[at - 1]
            cell = CellNet(
                near,
                far,
                halved,
                cells[at] if cells else None,
                pool,
                lambda name, *more, at=at: make(f"cell{at + 1}_{name}", *more),
            )
            self.cells.append(cell)
            near, far = cell.channels, near
        side = self.sides[-1]
        self.weight = nn.Parameter(torch.empty(classes, near, side, side))
        self.bias = nn.Parameter(torch.zeros(classes))
        self._start(self.weight.data)

    def _start(self, new: Tensor) -> None:
        new.normal_(0, (self.weight.shape[1] * self.sides[-1] ** 2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        near = far = functional.max_pool2d(self.stem(x), 2)
        for cell in self.in_order:
            near, far = cell(near, far), near
        return functional.linear(near.flatten(1), self.weight.flatten(1), self.bias)

    @property
    def in_order(self) -> list[CellNet]:
        """The cells."""
        return [cell for cell in self.cells if isinstance(cell, CellNet)]

    @property
    def choices(self) -> dict[str, Choice]:
        """Decisions by name, each once; widths of one option are none."""
        made = {}
        for name, module in self.named_modules():  # shared ones are met once
            if isinstance(module, Choice) and len(module.logits) > 1:
                made[name] = module
        return made

    @property
    def widths(self) -> dict[str, Width]:
        """Of each convolution, by the name it has in a card: cell1_near, cell1_near_t1."""
        return {
            f"cell{at + 1}_{name}": module.width
            for at, cell in enumerate(self.in_order)
            for part in (cell.inputs, cell.edges)
            for name, module in part.items()
            if isinstance(module, Single)
        }

    def weights(self) -> list[nn.Parameter]:
        """Parameters that are no decisions."""
        decisions = {id(m.alpha) for m in self.modules() if isinstance(m, Choice)}
        return [each for each in self.parameters() if id(each) not in decisions]

    def draw(self, temperature: float, generator: torch.Generator) -> None:
        """Gates of one pass, from Gumbel noise."""
        for choice in self.choices.values():
            choice.draw(temperature, generator)

    def settle(self) -> None:
        """Every decision to its likeliest option."""
        for choice in self.choices.values():
            choice.settle()

    def terms(self, batch: int) -> list[list[Term]]:
        """By cell, what the machine is asked for by a batch of this size."""
        made = []
        near: Channels = self.stem.weight.shape[0]
        far = near
        for cell, side in zip(self.in_order, self.sides):
            found, out = cell.terms(near, far, side**2 * batch)
            made.append(found)
            near, far = out, near
        return made

    def price(self, method: str, array: PodArray, batch: int) -> tuple[Tensor, Tensor]:
        """Milliseconds of all cells for a batch, and the sum over cells of the mean utilisation of
        their convolutions.

        On an edge both are means over its convolutions by their gates, so that neither zero nor
        identity is cheap: the authors' rule. Stem and classifier are the same in all networks.
        """
        terms = self.terms(batch)
        blocks = [block for cell in terms for term in cell for block in term.blocks]
        cycles, used = costs(method, blocks, array, self.weight.detach())
        ms = used.new_zeros(())
        fill = used.new_zeros(())
        at = 0
        for cell in terms:
            means = []
            for term in cell:
                part = slice(at, at + len(term.blocks))
                at = part.stop
                gates = 1.0 if term.gates is None else term.gates / term.gates.sum()
                ms = ms + (gates * cycles[part]).sum() / array.clock_hz * 1e3
                means.append((gates * used[part]).sum())
            fill = fill + torch.stack(means).mean()
        return ms, fill

    def fit(self, optimisers: Iterable[torch.optim.Optimizer] = ()) -> None:
        """Weights, norms, consumers and optimisers to the widths' allocated channels."""
        optimisers = list(optimisers)

        def through(module: nn.Module, channels: int) -> int:
            if isinstance(module, Single):
                module.conv.fit(channels, module.width.allocated, optimisers)
                return module.width.allocated
            return channels

        near = far = self.stem.weight.shape[0]
        for cell in self.in_order:
            cell.channels = cell.flow(near, far, through, max)
            near, far = cell.channels, near
        refit(self.weight, 1, near, self._start, optimisers)

    def found(self, name: str) -> Found:
        """With the likeliest widths."""
        by_cell: list[dict[str, int]] = [{} for _ in self.in_order]
        for full, width in self.widths.items():
            place, _, own = full.partition("_")
            by_cell[int(place.removeprefix("cell")) - 1][own] = width.likeliest
        cells = tuple(
            Cell(tuple(cell.operations or ()), widths, cell.pool)
            for cell, widths in zip(self.in_order, by_cell)
        )
        return Found(name, self.image, self.classes, self.stem.weight.shape[0], cells)

    def flop(self) -> int:
        """Of a forward pass of one image, two a multiply-accumulate, with all allocated channels;
        without stem and classifier."""
        total = 0
        for cell, side in zip(self.in_order, self.sides):
            for module in cell.modules():
                if isinstance(module, Convolution):
                    elements = module.weight.numel()
                    elements += 0 if module.depth is None else module.depth.numel()
                    total += 2 * side**2 * elements
        return total


def with_all_operations(image: int, classes: int, channels: int, pools: Sequence[bool]) -> Network:
    """All operations on each edge, at one width; edges of one name share a decision."""
    shared = {edge_name(edge): Choice(torch.randn(len(OPERATIONS))) for edge in EDGES}

    def make(name: str, op: str, source: int, stride: int) -> tuple[nn.Module, int]:
        own = name.partition("_")[2]
        if own in shared:
            return Mixed(channels, shared[own]), channels
        conv = Convolution(OPERATIONS[op], source, channels, stride)
        return Single(conv, Width(channels, 1, 1, torch.zeros(1))), channels

    return Network(image, classes, channels, pools, None, make)


def with_widths(
    image: int,
    classes: int,
    stem: int,
    pools: Sequence[bool],
    cells: Sequence[Sequence[str]],
    width: Callable[[str], Width],
) -> Network:
    """One operation on each edge; `width` gives that of a convolution by its name."""

    def make(name: str, op: str, source: int, stride: int) -> tuple[nn.Module, int]:
        own = width(name)
        return Single(Convolution(OPERATIONS[op], source, own.allocated, stride), own), (
            own.allocated
        )

    return Network(image, classes, stem, pools, cells, make)


def of_found(found: Found) -> Network:
    """To be trained from scratch."""
    widths = {
        f"cell{at + 1}_{name}": width
        for at, cell in enumerate(found.cells)
        for name, width in cell.widths.items()
    }
    return with_widths(
        found.image,
        found.classes,
        found.stem,
        [cell.pool for cell in found.cells],
        [cell.operations for cell in found.cells],
        lambda name: Width(widths[name], 1, 1, torch.zeros(1)),
    )
