"""A dense decoder-only transformer as an op graph: one rank's share of a forward pass under tensor parallelism.

What is modelled: norms, QKV, RoPE with the KV write, attention over the KV-cache (grouped heads; KV replicated when
there are more ranks than KV heads), output projection, MLP, the two all-reduces, embedding, LM head, logits
gather, sampling. What is not: biases' bytes, quantisation scales, padding of ragged batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sim.workload.graph import After, Graph, Layer, Op, Tensor
from sim.workload.model import Model

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
# A norm, an activation or a rotation touches an element a handful of times; the exact count never bounds a kernel here.
_NORM_FLOP, _ROPE_FLOP, _GLU_FLOP, _SOFTMAX_FLOP = 6, 6, 8, 5


class Sequences(NamedTuple):
    """`number` sequences that each add `new` tokens to `past` cached ones in this pass."""

    number: int
    new: int
    past: int


@dataclass(frozen=True)
class Batch:
    """What one forward pass works on.  `logits`: how many sequences need a next token."""

    groups: tuple[Sequences, ...]
    logits: int

    @property
    def tokens(self) -> int:
        """New tokens over all sequences."""
        return sum(g.number * g.new for g in self.groups)

    @property
    def mixed(self) -> bool:
        """Whether a sequence has more than one query."""
        return any(g.new > 1 for g in self.groups)


def decode_batch(contexts: Iterable[int]) -> Batch:
    """One new token for each sequence; `contexts` are the cached tokens of each before this step."""
    groups = tuple(Sequences(1, 1, past) for past in contexts)
    return Batch(groups, len(groups))


def prefill_batch(prompts: Iterable[int]) -> Batch:
    """Whole prompts at once, nothing cached."""
    groups = tuple(Sequences(1, tokens, 0) for tokens in prompts)
    return Batch(groups, len(groups))


@dataclass(frozen=True)
class Precision:
    """Number formats: of stored weights, of what enters a GEMM, of the KV-cache, and of the residual and messages."""

    weights: str = "fp16"
    activations: str = "fp16"
    kv: str = "fp16"
    communication: str = "fp16"

    @property
    def arithmetic(self) -> str:
        """Format in which a GEMM multiplies: the wider of weights and activations (int4 weights are expanded)."""
        return max((self.weights, self.activations), key=lambda dtype: BYTES[dtype])


@dataclass(frozen=True)
class Shard:
    """One rank's share of a model.  Heads are padded up where they do not divide; `notes` say so."""

    heads: int
    kv_heads: int
    ffn: float
    vocab: float
    ranks: int
    notes: tuple[str, ...] = ()


def shard(model: Model, tensor: int) -> Shard:
    """Split `model` over `tensor` ranks, or ValueError naming the degrees that divide.

    The MLP width must divide. Heads that do not are padded at powers of two, the degrees of real pods (Qwen2-7B has 28
    heads: at 8 ranks 4 a rank, 32 in all), and refused elsewhere; KV heads are replicated when there are fewer of them
    than ranks.
    """

    def fits(n: int) -> bool:
        return model.ffn % n == 0 and (model.heads % n == 0 or n & (n - 1) == 0)

    if tensor > model.heads or not fits(tensor):
        good = sorted((n for n in range(1, model.heads + 1) if fits(n)), key=lambda n: (abs(n - tensor), n))[:4]
        what = f"the MLP width {model.ffn}" if model.ffn % tensor else f"the {model.heads} heads"
        raise ValueError(
            f"tensor parallel degree {tensor} does not divide {what} of {model.name}; "
            f"nearest degrees that work: {', '.join(map(str, sorted(good)))}"
        )
    notes = []
    heads = math.ceil(model.heads / tensor)
    if heads * tensor != model.heads:
        notes.append(
            f"{model.name}: {model.heads} heads do not divide by {tensor} ranks; padded to {heads * tensor} "
            f"(attention does {heads * tensor / model.heads:.2f}x the work)"
        )
    kv_heads = math.ceil(model.kv_heads / tensor)
    if model.kv_heads < tensor:
        notes.append(
            f"{model.name}: each of {model.kv_heads} KV heads is replicated, to have one on each of {tensor} ranks"
        )
    elif kv_heads * tensor != model.kv_heads:
        notes.append(
            f"{model.name}: {model.kv_heads} KV heads do not divide by {tensor} ranks; {kv_heads} held on each"
        )
    return Shard(heads, kv_heads, model.ffn / tensor, model.vocab / tensor, tensor, tuple(notes))


def attended(model: Model, pattern: str, new: int, past: int) -> tuple[float, float]:
    """(query-key pairs, distinct cached entries read) of one sequence in a layer of `pattern`.

    Causal: query i of `new` sees past + i entries. A window sees the last `window_tokens`; block-sparse sees the window
    and one in `sparse_stride` of what lies before it, shared by the query heads of a group.
    """

    def seen(entries: float) -> float:
        if pattern == "dense" or entries <= model.window_tokens:
            return entries
        far = entries - model.window_tokens
        return model.window_tokens + (far / model.sparse_stride if pattern == "blocksparse" else 0.0)

    total = past + new
    if new == 1:
        return seen(total), seen(total)
    if pattern == "dense":
        return new * past + new * (new + 1) / 2, total
    # Sum of `seen` over the queries: an arithmetic series below the window, another above it.
    knee = min(max(model.window_tokens - past, 0), new)
    below = knee * past + knee * (knee + 1) / 2
    above = (seen(past + knee + 1) + seen(total)) / 2 * (new - knee) if new > knee else 0.0
    return below + above, total


def kv_bytes_per_token(model: Model, precision: Precision, tensor: int) -> float:
    """Bytes of KV-cache that one token takes on one rank, over all layers."""
    return model.layers * 2 * shard(model, tensor).kv_heads * model.head_dim * BYTES[precision.kv]


def weight_bytes(model: Model, precision: Precision, tensor: int) -> float:
    """Bytes of weights on one rank; embedding and LM head stay in the communication format, as engines keep them."""
    part, wide = shard(model, tensor), BYTES[precision.communication]
    layer = (
        model.hidden * (2 * part.heads + 2 * part.kv_heads) * model.head_dim
        + (3 if model.gated else 2) * model.hidden * part.ffn
    ) * BYTES[precision.weights] + 2 * model.hidden * wide
    tables = part.vocab * model.hidden * wide + (0 if model.tied_embeddings else model.vocab * model.hidden * wide)
    return model.layers * layer + tables


def transformer(model: Model, precision: Precision, tensor: int, batch: Batch) -> Graph:
    """The op graph of one forward pass of `batch` on one of `tensor` ranks.

    Shapes (T new tokens, d hidden, h head_dim, N ranks): qkv (T,d)x(d,(H+2K)h/N), attention (H/N heads), o
    (T,Hh/N)x(Hh/N,d), gate_up (T,d)x(d,2f/N), down (T,f/N)x(f/N,d); messages of the all-reduces T*d. The hidden state
    is replicated on every rank.
    """
    part = shard(model, tensor)
    tokens, wide, narrow = batch.tokens, BYTES[precision.communication], BYTES[precision.activations]
    weight, dtype = BYTES[precision.weights], precision.arithmetic
    d, q, kv = model.hidden, part.heads * model.head_dim, part.kv_heads * model.head_dim

    def act(name: str, width: float, size: float) -> Tensor:
        return Tensor(name, tokens * width * size, "activation")

    def matmul(
        name: str, source: Tensor, result: Tensor, rows: float, columns: float, after: tuple[After, ...] = ()
    ) -> Op:
        weights = Tensor(f"w_{name}", rows * columns * weight, "weight")
        return Op(
            name, "matmul", engine="matrix", dtype=dtype, flop=2 * tokens * rows * columns,
            reads=(weights, source), writes=(result,), after=after,
        )  # fmt: skip

    def vector(
        name: str, kind: str, flop: float, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], *after: After
    ) -> Op:
        return Op(name, kind, engine="vector", flop=flop, reads=reads, writes=writes, after=after)

    def all_reduce(name: str, producer: str) -> tuple[Op, ...]:
        if tensor == 1:
            return ()
        return (
            Op(name, "all_reduce", "communication", dtype=precision.communication, reads=(partial,), writes=(partial,),
               after=(After(producer),), message_bytes=tokens * d * wide),
        )  # fmt: skip

    hidden, partial, normed = act("hidden", d, wide), act("partial", d, wide), act("normed", d, narrow)
    qkv, context = act("qkv", q + 2 * kv, wide), act("context", q, narrow)
    up = act("up", (2 if model.gated else 1) * part.ffn, wide)
    inner = act("inner", part.ffn, narrow)
    joined = tensor > 1
    new_kv = tokens * 2 * kv * BYTES[precision.kv]

    def decoder(name: str, pattern: str, first: bool) -> Layer:
        pairs = entries = lone = 0.0
        for group in batch.groups:
            some_pairs, some_entries = attended(model, pattern, group.new, group.past)
            pairs += group.number * some_pairs
            entries += group.number * some_entries
            if group.new == 1 and batch.mixed:
                lone += group.number * some_pairs
        each = (4 * model.head_dim + _SOFTMAX_FLOP) * part.heads
        # What this pass appends is a buffer of its own: the newest entries cannot be fetched before they are computed.
        newest = Tensor("kv_new", new_kv, "activation")
        cache = Tensor("kv", max(entries - tokens, 0.0) * 2 * kv * BYTES[precision.kv], "kv")
        before = () if first or not joined else (After("mlp_all_reduce", back=1),)
        ops = (
            vector("attention_norm", "norm", _NORM_FLOP * tokens * d, (hidden, partial), (hidden, normed), *before),
            matmul("qkv", normed, qkv, d, q + 2 * kv),
            vector("rope", "rope", _ROPE_FLOP * tokens * (q + kv) * (2 if model.qk_norm else 1), (qkv,),
                   (newest,)),
            Op("attention", "attention", engine="matrix", dtype=precision.communication,
               flop=each * pairs, lone_flop=each * lone, reads=(cache, newest, qkv), writes=(context,)),
            matmul("o", context, partial, q, d),
            *all_reduce("attention_all_reduce", "o"),
            vector("mlp_norm", "norm", _NORM_FLOP * tokens * d, (hidden, partial), (hidden, normed),
                   *((After("attention_all_reduce"),) if joined else ())),
            matmul("gate_up", normed, up, d, (2 if model.gated else 1) * part.ffn),
            vector("act", "activation", _GLU_FLOP * tokens * part.ffn, (up,), (inner,)),
            matmul("down", inner, partial, part.ffn, d),
            *all_reduce("mlp_all_reduce", "down"),
        )  # fmt: skip
        return Layer(name, ops)

    embedding = Layer(
        "embedding",
        (
            vector(
                "embedding", "embedding", tokens * d, (Tensor("w_embedding", tokens * d * wide, "weight"),), (hidden,)
            ),
        ),
    )
    opening = {pattern: decoder("decoder", pattern, True) for pattern in model.attention[:1]}
    body = {pattern: decoder("decoder", pattern, False) for pattern in dict.fromkeys(model.attention)}
    pattern_of = [model.attention[i % len(model.attention)] for i in range(model.layers)]
    decoders = [opening[pattern_of[0]], *(body[p] for p in pattern_of[1:])]
    return Graph((embedding, *decoders, _head(model, precision, part, batch.logits, joined)))


def _head(model: Model, precision: Precision, part: Shard, rows: int, joined: bool) -> Layer:
    wide, d = BYTES[precision.communication], model.hidden
    last, normed = Tensor("last", rows * d * wide, "activation"), Tensor("last_normed", rows * d * wide, "activation")
    shard_logits = Tensor("logits", rows * part.vocab * wide, "activation")
    logits = Tensor("all_logits", rows * model.vocab * wide, "activation")
    ops = [
        Op("final_norm", "norm", engine="vector", flop=_NORM_FLOP * rows * d, reads=(last,), writes=(normed,),
           after=(After("mlp_all_reduce", back=1),) if joined else ()),
        Op("lm_head", "matmul", engine="matrix", dtype=precision.communication, flop=2 * rows * d * part.vocab,
           reads=(Tensor("w_lm_head", d * part.vocab * wide, "weight"), normed), writes=(shard_logits,)),
    ]  # fmt: skip
    if joined:
        ops.append(
            Op("logits_all_gather", "all_gather", "communication", dtype=precision.communication, reads=(shard_logits,),
               writes=(logits,), after=(After("lm_head"),), message_bytes=rows * model.vocab * wide)
        )  # fmt: skip
    ops.append(
        Op("sampling", "sampling", engine="vector", flop=_SOFTMAX_FLOP * rows * model.vocab, reads=(logits,),
           after=(After("logits_all_gather"),) if joined else ())
    )  # fmt: skip
    return Layer("head", tuple(ops))
