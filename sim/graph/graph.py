"""The op graph: what one forward pass needs, said without a clock and without a machine.

An op names its FLOP, the tensors it reads and writes, the stream it runs on and what it waits for.
How long that takes is the business of `sim.hardware` and `sim.engine`. One graph serves decode,
prefill and recordings; later, DNN inference and training.

A graph is a sequence of layers, and identical layers are *the same object*: a 70B model at one
batch shape is three distinct layers, one of them standing eighty times. A technique that maps a
layer maps it once, and the engine lowers it once. Nothing may depend on that sharing: a graph whose
layers are all copies gives the same answer (a test holds this).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sim.graph.batch import Shared
from sim.graph.model import Latent
from sim.network.collectives import COLLECTIVES

Engine = Literal["matrix", "vector", "none"]
TensorKind = Literal["weight", "kv", "activation"]

# Streams of the graphs that are built here; a technique may name others.
STREAMS = ("compute", "communication", "prefetch")


class Tensor(NamedTuple):
    """A named range of memory on one rank, as one op touches it.

    `name` is unique within a layer; weights and KV-caches of different layers are different memory,
    while activations are buffers that every layer reuses. `ahead` points at the same name that many
    layers later (a prefetch for the next layer).
    """

    name: str
    nbytes: float
    kind: TensorKind
    ahead: int = 0


class After(NamedTuple):
    """A dependency: the op called `name`, `back` layers before this one (0: in the same layer)."""

    name: str
    back: int = 0


class LatentWork(NamedTuple):
    """What one rank's `absorb` attends to in a latent cache, for techniques that go about it in
    another way.

    `queries` sequences have one query each, for `heads` heads; `pairs` are query-entry pairs a
    head. The ranks that share the cache by its tokens are `parts`. `shared` are runs of context
    that several of the sequences have.
    """

    latent: Latent
    heads: int
    queries: float
    pairs: float
    parts: int
    cache_bytes: float  # of an element of the cache
    wide_bytes: float  # of an element that attention computes with
    shared: tuple[Shared, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One kernel, collective or prefetch on one rank.

    Ops of one stream run in the order they are listed; `after` adds what must have ended on other
    streams. An op on an engine that has no FLOP to do, and nothing to write of what it writes, is
    idle: it is not launched, and reads nothing. `launch` is False for the later tiles of a kernel
    that is already running. `message_bytes` is the full buffer of a collective, per rank, of so
    many consecutive `ranks` (0: all). `lone_flop` is the part of an attention's `flop` that is of
    sequences with one query in a pass where others have more: kernels that work on tiles of queries
    compute a whole tile for each. Not modelled: occupancy, other tile quantisation.
    """

    name: str
    # matmul, attention, absorb, experts, norm, rope, embedding, sampling, all_reduce, prefetch, ...
    kind: str
    stream: str = "compute"
    engine: Engine = "none"
    dtype: str = "fp16"  # of the arithmetic: selects the peak rate
    flop: float = 0.0
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()
    after: tuple[After, ...] = ()
    message_bytes: float = 0.0
    launch: bool = True
    lone_flop: float = 0.0
    ranks: int = 0
    latent: LatentWork | None = None
    stored: str = ""  # format of its weights, where that is narrower than that of the arithmetic

    @property
    def kernel(self) -> str:
        """What a device card calls the kernels that do it: its kind, and how they have to unpack
        their weights."""
        return f"{self.kind}@{self.stored}" if self.stored else self.kind

    @property
    def hbm_bytes(self) -> float:
        """Weights and KV-cache that it reads."""
        return sum(tensor.nbytes for tensor in self.reads if tensor.kind != "activation")

    @property
    def buffer_bytes(self) -> float:
        """Activations that it reads and writes, in buffers that layers reuse."""
        touched = (*self.reads, *self.writes)
        return sum(tensor.nbytes for tensor in touched if tensor.kind == "activation")

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute and nothing to write."""
        return (
            self.engine != "none"
            and self.flop <= 0.0
            and bool(self.writes)
            and not any(t.nbytes for t in self.writes)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A run of ops that belong together: a decoder layer, an embedding, a head.  Compared by
    identity."""

    name: str
    ops: tuple[Op, ...]

    def op(self, name: str) -> Op:
        """The op called `name`; KeyError if there is none."""
        for op in self.ops:
            if op.name == name:
                return op
        raise KeyError(name)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """One forward pass on one rank: layers in order."""

    layers: tuple[Layer, ...]

    def ops(self) -> Iterator[tuple[int, Op]]:
        """Every (layer index, op), layer by layer in program order."""
        for index, layer in enumerate(self.layers):
            for op in layer.ops:
                yield index, op

    @property
    def flop(self) -> float:
        """FLOP of one rank."""
        return sum(op.flop for _, op in self.ops())

    def read_bytes(self, kind: TensorKind) -> float:
        """Bytes of tensors of `kind` that the compute stream's ops read."""
        ops = (op for _, op in self.ops() if op.stream == "compute" and not op.idle)
        return sum(t.nbytes for op in ops for t in op.reads if t.kind == kind)


def is_collective(op: Op) -> bool:
    """True for ops in which ranks exchange data."""
    return op.kind in COLLECTIVES
