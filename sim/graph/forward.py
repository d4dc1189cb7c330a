"""How the ops of a forward pass are written: what they have in common on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from sim.graph.batch import Batch
from sim.graph.graph import After, Op, Tensor
from sim.graph.model import Experts, Model
from sim.graph.parallel import Shard
from sim.graph.precision import BYTES, Part, Precision
from sim.graph.routing import Load

# A norm, an activation or a rotation touches an element a handful of times; the exact count never
# bounds a kernel here.
NORM_FLOP, GLU_FLOP, MERGE_FLOP = 6, 8, 4


@dataclass(frozen=True)
class Forward:
    """One pass of `batch`, which is this rank's part of `whole`, over a model of which it holds
    `part`."""

    model: Model
    precision: Precision
    part: Shard
    whole: Batch
    batch: Batch

    @property
    def wide(self) -> float:
        """Bytes of an element of the residual and of messages."""
        return BYTES[self.precision.communication]

    @property
    def narrow(self) -> float:
        """Bytes of an element that enters a GEMM."""
        return BYTES[self.precision.activations]

    @property
    def cached(self) -> float:
        """Bytes of an element of the KV-cache."""
        return BYTES[self.precision.kv]

    @property
    def tensor(self) -> int:
        """Ranks that share the heads."""
        return self.part.parallel.tensor

    @property
    def experts(self) -> Experts:
        """Of the model, which has some."""
        assert self.model.experts is not None
        return self.model.experts

    @property
    def load(self) -> Load:
        """What the busiest rank has of them."""
        assert self.part.load is not None
        return self.part.load

    @property
    def projected(self) -> float:
        """Bytes that HBM has room for of queries, keys and values."""
        heads = self.part.heads + 2 * self.part.kv_heads
        return self.batch.tokens * heads * self.model.head_dim * self.wide

    def residual(self, name: str, rows: float, held: float | None = None) -> Tensor:
        """A buffer of hidden states."""
        return Tensor(name, rows * self.model.hidden * self.wide, "activation", 0, held)

    def normed(self, rows: float, held: float | None = None) -> Tensor:
        """Hidden states as a GEMM takes them."""
        return Tensor("normed", rows * self.model.hidden * self.narrow, "activation", 0, held)

    def norm(self, name: str, rows: float, *after: After) -> Op:
        """What has been added to the residual, normed.

        Of the buffers, HBM has room for each at its widest, and for what comes of an exchange
        beside what goes into it; the norm's own weights are kept, and their bytes not moved.
        """
        wide, weights = rows * self.model.hidden * self.wide, self.model.hidden * self.wide
        hidden, added = (
            self.residual("hidden", rows, wide),
            self.residual("partial", rows, 2 * wide),
        )
        return vector(
            name,
            "norm",
            NORM_FLOP * rows * self.model.hidden,
            (hidden, added, Tensor(f"w_{name}", 0.0, "weight", 0, weights)),
            (hidden, self.normed(rows, wide)),
            *after,
        )

    def matmul(
        self,
        name: str,
        rows: float,
        inner: float,
        columns: float,
        source: Tensor,
        result: Tensor,
        *after: After,
        part: Part = "weights",
    ) -> Op:
        """`rows` x `inner` times a weight of `inner` x `columns`, stored as that `part` is."""
        stored = BYTES[self.precision.stored(part)]
        weights = Tensor(f"w_{name}", inner * columns * stored, "weight")
        return Op(
            name,
            "matmul",
            engine="matrix",
            dtype=self.precision.arithmetic(part),
            flop=2 * rows * inner * columns,
            reads=(weights, source),
            writes=(result,),
            after=after,
            gemm=(rows, columns, source.nbytes / rows) if rows else None,
            stored=self.precision.packed(part),
        )

    def collective(
        self,
        name: str,
        kind: str,
        message_bytes: float,
        reads: Tensor,
        writes: Tensor,
        after: str | None,
        ranks: int = 0,
    ) -> Op:
        """An exchange of `ranks` ranks that follows the op `after`, if it does; 0: all of them."""
        return Op(
            name,
            kind,
            "communication",
            dtype=self.precision.communication,
            reads=(reads,),
            writes=(writes,),
            after=(After(after),) if after else (),
            message_bytes=message_bytes,
            ranks=0 if ranks == self.part.parallel.ranks else ranks,
        )


def vector(
    name: str,
    kind: str,
    flop: float,
    reads: tuple[Tensor, ...],
    writes: tuple[Tensor, ...],
    *after: After,
) -> Op:
    """A kernel of the vector engine."""
    return Op(name, kind, engine="vector", flop=flop, reads=reads, writes=writes, after=after)
