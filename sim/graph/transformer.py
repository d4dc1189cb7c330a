"""A decoder-only transformer as an op graph: one rank's share of a forward pass.

What is modelled: norms, attention over the KV-cache (`sim.graph.attention`), MLP or experts
(`sim.graph.experts`), the exchanges between ranks, embedding, LM head, logits gather, sampling.
What is not: biases' bytes, attention sinks (a number a head), quantisation scales, padding of
ragged batches, multi-token prediction.
"""

from __future__ import annotations

from dataclasses import replace

from sim.graph.attention import attention
from sim.graph.batch import Batch, Pattern
from sim.graph.experts import experts, mlp
from sim.graph.forward import NORM_FLOP, Forward, vector
from sim.graph.graph import After, Graph, Layer, Op, Tensor
from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard, stage_layers
from sim.graph.precision import Precision
from sim.graph.work import SOFTMAX_FLOP

_TOKEN_BYTES = 4  # of a token's number
VIEWS = {"last": "hidden"}  # buffers that are a part of another, by name


def transformer(
    model: Model, precision: Precision, parallel: Parallel, batch: Batch, stage: int = 0
) -> Graph:
    """The op graph of one forward pass of `batch` on one rank, of the busiest ones, of a pipeline
    stage.

    Shapes (T new tokens, d hidden, h head_dim, N tensor ranks): qkv (T,d)x(d,(H+2K)h/N), attention
    (H/N heads), o (T,Hh/N)x(Hh/N,d), gate_up (T,d)x(d,2f/N), down (T,f/N)x(f/N,d); messages of the
    all-reduces T*d. The hidden state is replicated on every rank of a tensor group; groups that are
    data parallel have an equal part of the batch each. Between stages each rank sends its N-th part
    of the hidden state, and the receivers gather them.
    """
    f = Forward(model, precision, shard(model, parallel), batch, batch.part(parallel.data))
    own, last_stage = (
        stage_layers(model.layers, parallel.pipeline)[stage],
        stage == parallel.pipeline - 1,
    )
    patterns = model.patterns
    layers = [_embedding(f)] if stage == 0 else _received(f)
    made: dict[tuple[Pattern, bool, tuple[After, ...], Precision], Layer] = {}
    last = _end(layers[-1]) if layers else ()  # the exchange that the layer before ends with
    for index in own:
        pattern, dense = patterns[index % len(patterns)], index < model.dense_layers
        precise = precision.of_layer(index)
        key = pattern, dense, last, precise
        if key not in made:
            g = replace(f, precision=precise)
            ops = (*attention(g, pattern, *last), *(_dense(g) if dense else experts(g)))
            made[key] = Layer("decoder", ops)
        layers.append(made[key])
        last = _end(made[key])
    return Graph((*layers, _head(f, last) if last_stage else _handed_on(f, layers[-1])))


def _embedding(f: Forward) -> Layer:
    tokens = f.batch.tokens
    row = f.model.hidden * f.wide
    # One table with the head, where the two are the same and on one stage.
    own = not f.model.tied_embeddings or f.part.parallel.pipeline > 1
    lookup = Tensor("w_embedding", tokens * row, "weight", 0, f.model.vocab * row if own else 0.0)
    embedding = vector(
        "embedding",
        "embedding",
        tokens * f.model.hidden,
        (lookup,),
        (f.residual("hidden", tokens),),
    )
    return Layer("embedding", (embedding,))


def _received(f: Forward) -> list[Layer]:
    """What a stage does with the parts of the hidden state that its ranks have got: nothing, if
    that is all of it."""
    if f.tensor == 1:
        return []
    whole, part = (
        f.residual("hidden", f.batch.tokens),
        f.residual("hidden_part", f.batch.tokens / f.tensor),
    )
    return [
        Layer(
            "received",
            (
                f.collective(
                    "hidden_all_gather", "all_gather", whole.nbytes, part, whole, None, f.tensor
                ),
            ),
        )
    ]


def _handed_on(f: Forward, before: Layer) -> Layer:
    """Each rank sends its part of the hidden state to the rank at its place in the next stage."""
    part = f.residual("hidden_part", f.batch.tokens / f.tensor)
    return Layer("handed on", (_send(f, part, After(before.ops[-1].name, back=1)),))


def _send(f: Forward, what: Tensor, after: After) -> Op:
    return Op(
        "stage_send",
        "send",
        "communication",
        dtype=f.precision.communication,
        reads=(what,),
        after=(after,),
        message_bytes=what.nbytes,
        ranks=2 * f.part.parallel.ranks,
    )


def _end(layer: Layer) -> tuple[After, ...]:
    op = layer.ops[-1]
    return (After(op.name, back=1),) if op.stream == "communication" else ()


def _dense(f: Forward) -> tuple[Op, ...]:
    rows, partial = f.batch.tokens, f.residual("partial", f.batch.tokens)
    before, after = (
        ((), ())
        if f.tensor == 1
        else tuple(
            (
                f.collective(
                    f"{name}_all_reduce",
                    "all_reduce",
                    partial.nbytes,
                    partial,
                    partial,
                    last,
                    f.tensor,
                ),
            )
            for name, last in (("attention", "o"), ("mlp", "down"))
        )
    )
    return (
        *before,
        f.norm("mlp_norm", rows, *(After(op.name) for op in before)),
        *mlp(f, rows, f.part.ffn),
        *after,
    )


def _head(f: Forward, before: tuple[After, ...]) -> Layer:
    rows, wide, d, vocab = f.batch.logits, f.wide, f.model.hidden, f.part.vocab
    last, normed = (
        Tensor("last", rows * d * wide, "activation"),
        Tensor("last_normed", rows * d * wide, "activation"),
    )
    shard_logits = Tensor("logits", rows * vocab * wide, "activation")
    logits = Tensor("all_logits", rows * f.model.vocab * wide, "activation")
    joined = f.tensor > 1
    ops = [
        vector("final_norm", "norm", NORM_FLOP * rows * d, (last,), (normed,), *before),
        Op(
            "lm_head",
            "matmul",
            engine="matrix",
            dtype=f.precision.communication,
            flop=2 * rows * d * vocab,
            reads=(Tensor("w_lm_head", d * vocab * wide, "weight"), normed),
            writes=(shard_logits,),
        ),
    ]
    if joined:
        ops.append(
            f.collective(
                "logits_all_gather",
                "all_gather",
                logits.nbytes,
                shard_logits,
                logits,
                "lm_head",
                f.tensor,
            )
        )
    ops.append(
        vector(
            "sampling",
            "sampling",
            SOFTMAX_FLOP * rows * f.model.vocab,
            (logits,),
            (),
            *((After("logits_all_gather"),) if joined else ()),
        )
    )
    if f.part.parallel.pipeline > 1:  # what was sampled goes back to the first stage
        ops.append(_send(f, Tensor("tokens", rows * _TOKEN_BYTES, "activation"), After("sampling")))
    return Layer("head", tuple(ops))
