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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from sim.graph.work import AttentionWork
from sim.network.collectives import COLLECTIVES

Engine = Literal["matrix", "vector", "none"]
TensorKind = Literal["weight", "kv", "activation"]

# Streams of the graphs that are built here; a technique may name others.
STREAMS = ("compute", "communication", "prefetch")


class Tensor(NamedTuple):
    """A named range of memory on one rank, as one op touches it.

    `name` is unique within a layer; weights and KV-caches of different layers are different memory,
    while activations are buffers that every layer reuses. `ahead` points at the same name that many
    layers later (a prefetch for the next layer). `held` is what it occupies in HBM, where that is
    not what the op touches: all rows of a table, all experts, the whole context.
    """

    name: str
    nbytes: float
    kind: TensorKind
    ahead: int = 0
    held: float | None = None

    @property
    def occupied(self) -> float:
        """Bytes of HBM.  A buffer that does not say so has its room among the others."""
        if self.held is not None:
            return self.held
        return 0.0 if self.kind == "activation" else self.nbytes

    def scaled(self, share: float) -> Tensor:
        """As many elements, each of `share` of its bytes."""
        held = None if self.held is None else self.held * share
        return self._replace(nbytes=self.nbytes * share, held=held)


class After(NamedTuple):
    """A dependency: the op called `name`, `back` layers before this one (0: in the same layer)."""

    name: str
    back: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One kernel, collective or prefetch on one rank.

    Ops of one stream run in the order they are listed; `after` adds what must have ended on other
    streams. An op on an engine that has no FLOP to do, and nothing to write of what it writes, is
    idle: it is not launched, and reads nothing. `launch` is False for the later tiles of a kernel
    that is already running. `message_bytes` is the full buffer of a collective, per rank, of so
    many consecutive `ranks` (0: all). `lone_flop` is the part of an attention's `flop` that is of
    sequences with one query in a pass where others have more: kernels that work on tiles of queries
    compute a whole tile for each. `beside_flop` is the part of `flop`, and `vector_flop` what a
    matrix kernel has for the vector engine as well, that is done while it waits for what it reads.
    `work` is what an attention's FLOP and bytes are derived from, `gemm` of a GEMM the rows and
    columns of its result, and the bytes of a row of its input.
    Not modelled: occupancy, other tile quantisation.
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
    beside_flop: float = 0.0
    vector_flop: float = 0.0
    ranks: int = 0
    work: AttentionWork | None = None
    gemm: tuple[float, float, float] | None = None
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

    def attending(self, work: AttentionWork) -> Op:
        """The op with this work, and with the FLOP and bytes that follow from it; ValueError if
        those it has do not follow from the work it has."""
        if self.work is not None and self._sizes != self._sized(self.work)._sizes:
            raise ValueError(
                f"the FLOP or bytes of {self.name} are not those of its work, so they would not "
                "follow a change of it; apply the technique that changes the work first"
            )
        return self._sized(work)

    @property
    def _sizes(self) -> tuple[object, ...]:
        beside = self.beside_flop, self.vector_flop
        return self.flop, self.lone_flop, *beside, self.reads, self.writes

    def _sized(self, work: AttentionWork) -> Op:
        def sized(tensor: Tensor) -> Tensor:
            found = work.bytes_of(tensor.name)
            return (
                tensor if found is None else Tensor(tensor.name, found[0], tensor.kind, 0, found[1])
            )

        flop, lone_flop, beside, vector = self.flop, self.lone_flop, 0.0, 0.0
        if self.kind == "matmul":
            flop = work.expansion_flop
        elif self.kind in ("attention", "absorb"):
            beside, vector = work.preparing(within=True)
            flop = work.flop(work.seen.pairs) + beside
            lone_flop = work.flop(work.seen.lone) if work.seen.long_entries else 0.0
        elif self.kind == "prepare":
            flop, vector = work.preparing(within=False)
        elif self.kind == "rebuild":
            assert work.apart is not None
            entries = work.seen.entries / work.parts
            flop, vector = work.apart.matrix * entries, work.apart.vector * entries
        return replace(
            self,
            flop=flop,
            lone_flop=lone_flop,
            beside_flop=beside,
            vector_flop=vector,
            reads=tuple(map(sized, self.reads)),
            writes=tuple(map(sized, self.writes)),
            work=work,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A run of ops that belong together: a decoder layer, an embedding, a head.  Compared by
    identity."""

    name: str
    ops: tuple[Op, ...]

    def op(self, name: str) -> Op:
        """The op called `name`; KeyError if there is none."""
        return {op.name: op for op in self.ops}[name]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """One forward pass on one rank: layers in order."""

    layers: tuple[Layer, ...]

    def ops(self) -> Iterator[tuple[int, Op]]:
        """Every (layer index, op), layer by layer in program order."""
        for index, layer in enumerate(self.layers):
            for op in layer.ops:
                yield index, op

    def mapped(self, change: Callable[[Op], Op]) -> Graph:
        """The graph with every op changed; layers that were one stay one."""
        made = {
            layer: Layer(layer.name, tuple(map(change, layer.ops)))
            for layer in dict.fromkeys(self.layers)
        }
        return Graph(tuple(made[layer] for layer in self.layers))

    def attending(self, change: Callable[[AttentionWork], AttentionWork]) -> Graph:
        """The graph with the work of every attention changed; ValueError if some op has been cut to
        the size of the old one."""
        for _, op in self.ops():
            if op.work is None and any(t.kind == "kv" for t in op.reads):
                raise ValueError(
                    f"{op.name} reads a KV-cache whose size another technique has settled; list "
                    "the technique that changes the attention before that one"
                )
        return self.mapped(lambda op: op if op.work is None else op.attending(change(op.work)))


def is_collective(op: Op) -> bool:
    """True for ops in which ranks exchange data."""
    return op.kind in COLLECTIVES
