"""A decoder-only transformer as an op graph: one rank's share of a forward pass.

What is modelled: norms, attention over the KV-cache (`sim.workload.attention`), MLP or experts
(`sim.workload.experts`), the exchanges between ranks, embedding, LM head, logits gather, sampling. What is not: biases'
bytes, attention sinks (a number a head), quantisation scales, padding of ragged batches, multi-token prediction.
"""

from __future__ import annotations

from sim.workload.attention import attention
from sim.workload.batch import Batch
from sim.workload.experts import experts, mlp
from sim.workload.forward import NORM_FLOP, SOFTMAX_FLOP, Forward, vector
from sim.workload.graph import After, Graph, Layer, Op, Tensor
from sim.workload.model import Model
from sim.workload.parallel import Parallel, shard
from sim.workload.precision import BYTES, Precision


def kv_bytes_per_token(model: Model, precision: Precision, parallel: Parallel) -> float:
    """Bytes of KV-cache that one token of the whole batch takes on one rank, over the layers of one pipeline stage."""
    part = shard(model, parallel)
    elements = model.latent.cached if model.latent else 2 * part.kv_heads * model.head_dim
    groups = parallel.data * parallel.sequence * parallel.pipeline
    return model.layers * elements * BYTES[precision.kv] / groups


def weight_bytes(model: Model, precision: Precision, parallel: Parallel) -> float:
    """Bytes of weights on one rank; embedding, LM head, norms and routers stay in the communication format, as engines
    keep them.  Of several pipeline stages, the mean one."""
    part, wide, narrow, d = (
        shard(model, parallel),
        BYTES[precision.communication],
        BYTES[precision.weights],
        model.hidden,
    )
    if model.latent:
        m = model.latent
        queries = d * m.q_rank + m.q_rank * part.heads * m.query if m.q_rank else d * part.heads * m.query
        # The expansion is kept whole, for prefill, and in two halves, for decode.
        attention = queries + d * m.cached + part.heads * (2 * m.kv_rank * (m.nope + m.value) + m.value * d)
    else:
        attention = d * (2 * part.heads + 2 * part.kv_heads) * model.head_dim
    up = 3 if model.gated else 2
    total = model.layers * (attention * narrow + 2 * d * wide) + model.dense_layers * up * d * part.ffn * narrow
    if model.experts:
        e = model.experts
        shared = e.shared_ffn if parallel.data > 1 else e.shared_ffn / parallel.tensor
        own = BYTES[precision.experts or precision.weights] * part.experts * part.expert_ffn
        layer = up * d * (own + shared * narrow) + d * e.routed * wide
        total += (model.layers - model.dense_layers) * layer
    tables = part.vocab * d * wide + (0 if model.tied_embeddings else model.vocab * d * wide)
    return (total + tables) / parallel.pipeline


def transformer(model: Model, precision: Precision, parallel: Parallel, batch: Batch) -> Graph:
    """The op graph of one forward pass of `batch` on one rank, of the busiest ones.

    Shapes (T new tokens, d hidden, h head_dim, N tensor ranks): qkv (T,d)x(d,(H+2K)h/N), attention (H/N heads), o
    (T,Hh/N)x(Hh/N,d), gate_up (T,d)x(d,2f/N), down (T,f/N)x(f/N,d); messages of the all-reduces T*d. The hidden state
    is replicated on every rank of a tensor group; groups that are data parallel have an equal part of the batch each.
    """
    f = Forward(model, precision, shard(model, parallel), batch, batch.part(parallel.data))
    tokens = f.batch.tokens
    lookup = Tensor("w_embedding", tokens * model.hidden * f.wide, "weight")
    embedding = vector("embedding", "embedding", tokens * model.hidden, (lookup,), (f.residual("hidden", tokens),))
    layers = [Layer("embedding", (embedding,))]
    made: dict[tuple[str, bool, tuple[After, ...]], Layer] = {}
    last: tuple[After, ...] = ()  # the exchange that the layer before ends with
    for index in range(model.layers):
        pattern, dense = model.attention[index % len(model.attention)], index < model.dense_layers
        key = pattern, dense, last
        if key not in made:
            ops = (*attention(f, pattern, *last), *(_dense(f) if dense else experts(f)))
            made[key] = Layer("decoder", ops)
        layers.append(made[key])
        last = _end(made[key])
    return Graph((*layers, _head(f, last)))


def _end(layer: Layer) -> tuple[After, ...]:
    op = layer.ops[-1]
    return (After(op.name, back=1),) if op.stream == "communication" else ()


def _dense(f: Forward) -> tuple[Op, ...]:
    rows, partial = f.batch.tokens, f.residual("partial", f.batch.tokens)
    before, after = ((), ()) if f.tensor == 1 else tuple(
        (f.collective(f"{name}_all_reduce", "all_reduce", partial.nbytes, partial, partial, last, f.tensor),)
        for name, last in (("attention", "o"), ("mlp", "down"))
    )  # fmt: skip
    return (*before, f.norm("mlp_norm", rows, *(After(op.name) for op in before)), *mlp(f, rows, f.part.ffn), *after)


def _head(f: Forward, before: tuple[After, ...]) -> Layer:
    rows, wide, d, vocab = f.batch.logits, f.wide, f.model.hidden, f.part.vocab
    last, normed = Tensor("last", rows * d * wide, "activation"), Tensor("last_normed", rows * d * wide, "activation")
    shard_logits = Tensor("logits", rows * vocab * wide, "activation")
    logits = Tensor("all_logits", rows * f.model.vocab * wide, "activation")
    joined = f.tensor > 1
    ops = [
        vector("final_norm", "norm", NORM_FLOP * rows * d, (last,), (normed,), *before),
        Op("lm_head", "matmul", engine="matrix", dtype=f.precision.communication, flop=2 * rows * d * vocab,
           reads=(Tensor("w_lm_head", d * vocab * wide, "weight"), normed), writes=(shard_logits,)),
    ]  # fmt: skip
    if joined:
        ops.append(f.collective("logits_all_gather", "all_gather", logits.nbytes, shard_logits, logits, "lm_head",
                                f.tensor))  # fmt: skip
    ops.append(
        vector("sampling", "sampling", SOFTMAX_FLOP * rows * f.model.vocab, (logits,), (),
               *((After("logits_all_gather"),) if joined else ()))
    )  # fmt: skip
    return Layer("head", tuple(ops))
