"""A mixture of experts as ops: router, dispatch, grouped GEMMs, combine, and the experts that all
tokens meet.

Where attention is data parallel, tokens go to the ranks of their experts by all-to-all and their
results come back by another; where every rank of the group has all tokens, each computes what its
experts add, and an all-reduce sums it. An expert's weights are read if any token goes to it. Not
modelled: padding of a GEMM's rows, drops, capacity factors.
"""

from __future__ import annotations

from dataclasses import replace

from sim.graph.forward import GLU_FLOP, Forward, vector
from sim.graph.graph import After, Op, Tensor
from sim.graph.precision import BYTES
from sim.graph.work import SOFTMAX_FLOP


def experts(f: Forward) -> tuple[Op, ...]:
    """The ops of a layer from the exchange after its attention to its last exchange."""
    p = f.part.parallel
    if p.data == 1:
        return _replicated(f)
    return _dispatched(f) if p.expert > 1 else _gathered(f)


def dispatch_bytes(f: Forward, element_bytes: float) -> float:
    """Of the buffer that a rank puts into an all-to-all: a copy of each of its tokens for each rank
    that has one of its experts, spread over the ranks; what stays at home is counted, and not
    sent."""
    return f.batch.tokens / f.tensor * f.load.copies * f.model.hidden * element_bytes


def _replicated(f: Forward) -> tuple[Op, ...]:
    """Every rank has all tokens: what each adds is summed."""
    rows, partial = f.batch.tokens, f.residual("partial", f.batch.tokens)
    before, after = (
        ((), ())
        if f.tensor == 1
        else tuple(
            (
                f.collective(
                    f"{name}_all_reduce", "all_reduce", partial.nbytes, partial, partial, last
                ),
            )
            for name, last in (("attention", "o"), ("mlp", "experts_sum"))
        )
    )
    return (
        *before,
        f.norm("mlp_norm", rows, *(After(op.name) for op in before)),
        *_gate(f, rows),
        *_shared(f, rows, f.experts.shared_ffn / f.tensor),
        *_grouped(f),
        _sum(f, rows, _pairs(f) / rows),
        *after,
    )


def _dispatched(f: Forward) -> tuple[Op, ...]:
    """Every rank has tokens of its own: they go to the ranks of their experts, and their results
    come back."""
    rows, all_rows = f.batch.tokens / f.tensor, f.batch.tokens
    whole, own = f.residual("partial", all_rows), f.residual("partial", rows)
    sent = Tensor("dispatched", dispatch_bytes(f, f.narrow), "activation")
    back = Tensor("combined", dispatch_bytes(f, f.wide), "activation")
    before, after = (
        ((), ())
        if f.tensor == 1
        else (
            (
                f.collective(
                    "attention_reduce_scatter",
                    "reduce_scatter",
                    whole.nbytes,
                    whole,
                    own,
                    "o",
                    f.tensor,
                ),
            ),
            (
                f.collective(
                    "mlp_all_gather",
                    "all_gather",
                    whole.nbytes,
                    own,
                    whole,
                    "experts_sum",
                    f.tensor,
                ),
            ),
        )
    )
    own_ops = (*_gate(f, rows), *_shared(f, rows, f.experts.shared_ffn))
    up, act, down = _grouped(f)
    return (
        *before,
        f.norm("mlp_norm", rows, *(After(op.name) for op in before)),
        *own_ops,
        f.collective("experts_dispatch", "all_to_all", sent.nbytes, sent, sent, own_ops[-1].name),
        replace(up, after=(After("experts_dispatch"),)),
        act,
        down,
        f.collective("experts_combine", "all_to_all", back.nbytes, back, back, "experts_down"),
        replace(_sum(f, rows, f.load.copies), after=(After("experts_combine"),)),
        *after,
    )


def _gathered(f: Forward) -> tuple[Op, ...]:
    """Every rank has tokens of its own and a slice of every expert: all get all tokens, and sum
    what comes of them."""
    rows, ranks = f.batch.tokens, f.part.parallel.ranks
    whole, own = f.residual("all_tokens", f.whole.tokens), f.residual("partial", rows)
    reduce = (
        ()
        if f.tensor == 1
        else (
            f.collective("attention_all_reduce", "all_reduce", own.nbytes, own, own, "o", f.tensor),
        )
    )
    own_ops = (*_gate(f, rows), *_shared(f, rows, f.experts.shared_ffn))
    up, act, down = _grouped(f)
    return (
        *reduce,
        f.norm("mlp_norm", rows, *(After(op.name) for op in reduce)),
        *own_ops,
        f.collective(
            "tokens_all_gather",
            "all_gather",
            f.whole.tokens * f.model.hidden * f.narrow,
            own,
            whole,
            own_ops[-1].name,
            ranks,
        ),
        replace(up, after=(After("tokens_all_gather"),)),
        act,
        down,
        _sum(f, f.whole.tokens, _pairs(f) / f.whole.tokens),
        f.collective(
            "mlp_reduce_scatter", "reduce_scatter", whole.nbytes, whole, own, "experts_sum", ranks
        ),
    )


def _pairs(f: Forward) -> float:
    """(token, expert) pairs on this rank, the busiest."""
    return f.whole.tokens * f.load.pairs


def _gate(f: Forward, rows: float) -> tuple[Op, ...]:
    routed = f.experts.routed
    scores = Tensor("scores", rows * routed * f.wide, "activation")
    router = f.matmul("router", rows, f.model.hidden, routed, f.normed(rows), scores)
    weight = Tensor("w_router", f.model.hidden * routed * f.wide, "weight")  # never quantised
    return (
        replace(
            router, dtype=f.precision.communication, stored="", reads=(weight, *router.reads[1:])
        ),
        vector(
            "top_k", "routing", SOFTMAX_FLOP * rows * routed, (scores, f.normed(rows)), (scores,)
        ),
    )


def _grouped(f: Forward) -> tuple[Op, Op, Op]:
    """The experts of this rank on what has come to it: GEMMs of many experts in one kernel."""
    part, d, pairs = f.part, f.model.hidden, _pairs(f)
    up = 2 if f.model.gated else 1
    met = f.load.met(f.whole.tokens)
    stored = BYTES[f.precision.stored("experts")]

    def buffer(name: str, columns: float, element_bytes: float, room: float) -> Tensor:
        held = pairs * room * f.wide
        return Tensor(name, pairs * columns * element_bytes, "activation", 0, held)

    width = part.expert_ffn
    tokens = buffer("expert_tokens", d, f.narrow, d)
    inner = buffer("expert_up", up * width, f.wide, 2 * width)
    acted = buffer("expert_inner", width, f.narrow, width)
    result = buffer("expert_result", d, f.wide, d)

    def gemm(name: str, rows: float, columns: float, source: Tensor, target: Tensor) -> Op:
        touched, held = (many * rows * columns * stored for many in (met, part.experts))
        weights = Tensor(f"w_{name}", touched, "weight", 0, held)
        return Op(
            name,
            "experts",
            engine="matrix",
            dtype=f.precision.arithmetic("experts"),
            flop=2 * pairs * rows * columns,
            reads=(weights, source),
            writes=(target,),
            stored=f.precision.packed("experts"),
        )

    return (
        gemm("experts_up", d, up * part.expert_ffn, tokens, inner),
        vector("experts_act", "activation", GLU_FLOP * pairs * part.expert_ffn, (inner,), (acted,)),
        gemm("experts_down", part.expert_ffn, d, acted, result),
    )


def _shared(f: Forward, rows: float, width: float) -> tuple[Op, ...]:
    return mlp(f, rows, width, "shared_") if width else ()


def mlp(f: Forward, rows: float, width: float, prefix: str = "") -> tuple[Op, Op, Op]:
    """A dense MLP, of which this rank has `width` columns."""
    up = 2 if f.model.gated else 1
    room = 0.0 if prefix else rows * width * f.wide  # shared experts have theirs among the others
    grown = Tensor(f"{prefix}up", rows * up * width * f.wide, "activation", 0, 2 * room)
    inner = Tensor(f"{prefix}inner", rows * width * f.narrow, "activation", 0, room)
    return (
        f.matmul(f"{prefix}gate_up", rows, f.model.hidden, up * width, f.normed(rows), grown),
        vector(f"{prefix}act", "activation", GLU_FLOP * rows * width, (grown,), (inner,)),
        f.matmul(f"{prefix}down", rows, width, f.model.hidden, inner, f.residual("partial", rows)),
    )


def _sum(f: Forward, rows: float, copies: float) -> Op:
    """What has come back of each token, weighted and added up."""
    came = Tensor("expert_result", rows * copies * f.model.hidden * f.wide, "activation")
    return vector(
        "experts_sum",
        "routing",
        2 * rows * copies * f.model.hidden,
        (came,),
        (f.residual("partial", rows),),
    )
