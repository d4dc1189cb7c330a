"""A training step as op graphs: the backward pass and the optimiser's, derived from the forward.

What an op's gradients take follows from its kind (`GRADIENTS`), and which of them are due from what
reads what: an op passes a gradient on to what it reads only if something before it has weights. So
nothing flows back into the input of a network, nor into that of a part that another machine has the
first half of. The derivation knows no network: a convolutional one and a decoder go the same way.

Not modelled: recomputation of activations, fusion, and kernels that save less than their inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from sim.graph.graph import Graph, Layer, Op, Tensor, is_collective


class Gradients(NamedTuple):
    """FLOP of an op's gradients over those of the op: with respect to what it reads, and to its
    weights.

    `saved`: whether the backward pass reads what the op read again.
    """

    inputs: float
    weights: float
    saved: bool = True


# A product has two, each a product of the size of itself: dX = dY W', dW = X' dY. Scores and sums
# of an attention are two products with two gradients each, of activations. What is elementwise is
# the rule of its derivative; batch and layer norms take two sums more. The sum of two branches
# hands its gradient to both.
_PRODUCT = Gradients(1.0, 1.0)
GRADIENTS: Mapping[str, Gradients] = {
    "matmul": _PRODUCT,
    "head_matmul": _PRODUCT,
    "experts": _PRODUCT,
    "conv": _PRODUCT,
    "attention": Gradients(2.0, 0.0),
    "norm": Gradients(1.5, 0.5),
    "activation": Gradients(1.0, 0.0),
    "relu": Gradients(1.0, 0.0),
    "rope": Gradients(1.0, 0.0, saved=False),
    "pool": Gradients(1.0, 0.0),
    "mean": Gradients(1.0, 0.0, saved=False),
    "add": Gradients(0.0, 0.0, saved=False),
    "embedding": Gradients(0.0, 1.0, saved=False),
    "sampling": Gradients(1.0, 0.0),
    "loss": Gradients(1.0, 0.0),
}


class Optimiser(NamedTuple):
    """What an update of one weight takes.

    `state`: numbers kept beside each weight; `flop`: of the update; a weight, its gradient and the
    state are read, and the weight and the state are written.
    """

    state: int
    flop: float


OPTIMISERS: Mapping[str, Optimiser] = {
    "sgd": Optimiser(0, 2.0),
    "momentum": Optimiser(1, 4.0),
    "adam": Optimiser(2, 12.0),
}


class Step(NamedTuple):
    """One training step of a network, or of a part of one, by pass."""

    forward: Graph
    backward: Graph
    update: Graph


def training_step(
    forward: Graph,
    optimiser: str = "momentum",
    views: Mapping[str, str] | None = None,
    asked: Iterable[str] = (),
) -> Step:
    """The passes of a step that begins with `forward`; ValueError for an op of which no gradient is
    known, or an optimiser that is not.

    No gradient goes to what the graph reads and no op of it writes, but for the tensors `asked`:
    those that another machine wants back. Layers of the backward pass come in the order in which
    they run, the last first, with the names of those they are of. `views` names buffers that are a
    part of another.
    """
    if optimiser not in OPTIMISERS:
        raise ValueError(f"no optimiser {optimiser!r}; there are {', '.join(OPTIMISERS)}")
    back, trained = [], []
    for layer, due in zip(forward.layers, due_gradients(forward, views or {}, asked)):
        ops = [_gradients(op, through) for op, through in zip(layer.ops, due)]
        back.append(Layer(layer.name, tuple(op for pair in reversed(ops) for op in pair)))
        trained.append(_updated(layer, OPTIMISERS[optimiser]))
    return Step(
        forward,
        Graph(tuple(layer for layer in reversed(back) if layer.ops)),
        Graph(tuple(layer for layer in trained if layer.ops)),
    )


def due_gradients(
    forward: Graph, views: Mapping[str, str], asked: Iterable[str] = ()
) -> list[list[bool]]:
    """By layer and op: whether the gradient of what it reads is asked for, that is, whether
    something with weights comes before it on the way, or one of the tensors `asked`."""
    known: set[str] = {*asked}
    found = []
    for layer in forward.layers:
        due = []
        for op in layer.ops:
            read = (views.get(t.name, t.name) for t in op.reads if t.kind != "weight")
            through = any(name in known for name in read)
            due.append(through)
            for tensor in op.writes:
                if through or has_weights(op):
                    known.add(tensor.name)
                else:
                    known.discard(tensor.name)
        found.append(due)
    return found


def has_weights(op: Op) -> bool:
    """Whether the op has something to learn."""
    return any(tensor.kind == "weight" for tensor in op.reads)


def _gradients(op: Op, through: bool) -> list[Op]:
    """The ops that find the gradients of `op`: of what it reads, and of its weights."""
    if is_collective(op):
        raise ValueError(f"{op.name} is a collective; the gradient of one is not derived here")
    rule = GRADIENTS.get(op.kind)
    if rule is None:
        raise ValueError(
            f"no gradient is known of {op.name}, a {op.kind}; there are {', '.join(GRADIENTS)}"
        )
    weights = [t for t in op.reads if t.kind == "weight"]
    inputs = [t for t in op.reads if t.kind != "weight"]
    grown = tuple(_gradient(t) for t in op.writes)
    saved = tuple(t._replace(kind="activation") for t in inputs) if rule.saved else ()
    found = []
    if through and rule.inputs and (op.flop or not op.writes):
        needs = tuple(weights) if op.engine == "matrix" else saved
        back = tuple(_gradient(t) for t in inputs)
        found.append(_op(op, "input", op.flop * rule.inputs, (*needs, *grown), back))
    if weights and rule.weights:
        learnt = tuple(_gradient(t) for t in weights)
        # The gradient of a norm's weights comes out of the same kernel as that of its input.
        found.append(_op(op, "weights", op.flop * rule.weights, (*saved, *grown), learnt))
    return found


def _op(op: Op, of: str, flop: float, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> Op:
    return replace(
        op,
        name=f"{op.name} d{of}",
        flop=flop,
        lone_flop=0.0,
        reads=reads,
        writes=writes,
        after=(),
        work=None,
    )


def _gradient(tensor: Tensor) -> Tensor:
    """Of as many elements, in as many bytes."""
    return Tensor(f"d {tensor.name}", tensor.occupied or tensor.nbytes, "activation")


def _updated(layer: Layer, optimiser: Optimiser) -> Layer:
    """One kernel over all weights of a layer."""
    weights = list({t.name: t for op in layer.ops for t in op.reads if t.kind == "weight"}.values())
    if not weights:
        return Layer(layer.name, ())
    nbytes = sum(tensor.occupied for tensor in weights)
    moved = nbytes * (1 + optimiser.state)
    gradient = Tensor("gradients", nbytes, "activation")
    op = Op(
        "update",
        "update",
        engine="vector",
        flop=optimiser.flop * nbytes / _bytes_each(layer),
        reads=(Tensor("weights and state", moved, "weight"), gradient),
        writes=(Tensor("updated", moved, "activation"),),
    )
    return Layer(layer.name, (op,))


def _bytes_each(layer: Layer) -> float:
    """Bytes of a number among a layer's weights, as its arithmetic says."""
    return next((_WIDTH[op.dtype] for op in layer.ops if has_weights(op)), 4.0)


_WIDTH = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0}


class Held(NamedTuple):
    """Bytes that training keeps: weights, their gradients, the optimiser's state, and the
    activations that the backward pass reads."""

    weights: float
    gradients: float
    state: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def held(forward: Iterable[Layer], optimiser: str) -> Held:
    """What training these layers keeps.  Every activation that an op writes is kept until its
    gradient is there, as is the input."""
    weights = activations = 0.0
    written: set[str] = set()
    read: dict[str, float] = {}
    for layer in forward:
        own = {t.name: t.occupied for op in layer.ops for t in op.reads if t.kind == "weight"}
        weights += sum(own.values())
        for op in layer.ops:
            read |= {t.name: t.nbytes for t in op.reads if t.kind == "activation"}
            for tensor in op.writes:
                activations += tensor.nbytes
                written.add(tensor.name)
    activations += sum(nbytes for name, nbytes in read.items() if name not in written)
    return Held(weights, weights, weights * OPTIMISERS[optimiser].state, activations)


def matrix_flop(graph: Graph) -> float:
    """FLOP of the products: what a counter of FLOP counts."""
    return sum(op.flop for _, op in graph.ops() if op.engine == "matrix")


def total_flop(graph: Graph) -> float:
    """FLOP of all ops."""
    return sum(op.flop for _, op in graph.ops())
