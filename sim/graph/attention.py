"""The attention of a layer as ops: grouped-query, and multi-head latent (MLA) in its two equal
formulations.

Latent: prefill expands the latent cache into keys and values of each head (naive); a sequence with
one query attends on the latent cache itself, its queries and outputs multiplied by the two halves
of the expansion (absorb). Few MACs and many bytes the one, many MACs and few bytes the other.
"""

from __future__ import annotations

from dataclasses import replace

from sim.graph.batch import attended_by
from sim.graph.forward import MERGE_FLOP, NORM_FLOP, ROPE_FLOP, SOFTMAX_FLOP, Forward, vector
from sim.graph.graph import After, LatentWork, Op, Tensor
from sim.graph.model import Latent


def attention(f: Forward, pattern: str, *before: After) -> tuple[Op, ...]:
    """The ops of a layer from its first norm to the output projection, whose result lacks the other
    ranks' parts."""
    own = _latent(f, f.model.latent, pattern) if f.model.latent else _grouped(f, pattern)
    width = f.part.heads * (f.model.latent.value if f.model.latent else f.model.head_dim)
    tokens, d = f.batch.tokens, f.model.hidden
    return (
        f.norm("attention_norm", tokens, *before),
        *own,
        f.matmul(
            "o",
            tokens,
            width,
            d,
            Tensor("context", tokens * width * f.narrow, "activation"),
            f.residual("partial", tokens),
        ),
    )


def _grouped(f: Forward, pattern: str) -> tuple[Op, ...]:
    model, part, tokens = f.model, f.part, f.batch.tokens
    d, q, kv = model.hidden, part.heads * model.head_dim, part.kv_heads * model.head_dim
    seen, parts = attended_by(model, pattern, f.batch), part.parallel.sequence
    each = (4 * model.head_dim + SOFTMAX_FLOP) * part.seen_heads / parts
    qkv = Tensor("qkv", tokens * (q + 2 * kv) * f.wide, "activation")
    context = Tensor("context", tokens * q * f.narrow, "activation")
    # What this pass appends is a buffer of its own: the newest entries cannot be fetched before
    # they are computed.
    newest = Tensor("kv_new", tokens * 2 * kv * f.cached / parts, "activation")
    cache = Tensor("kv", max(seen.entries - tokens, 0.0) * 2 * kv * f.cached / parts, "kv")
    lone = seen.lone if f.batch.mixed else 0.0
    core = Op(
        "attention",
        "attention",
        engine="matrix",
        dtype=f.precision.communication,
        flop=each * seen.pairs,
        lone_flop=each * lone,
        reads=(cache, newest, qkv),
        writes=(context,),
    )
    return (
        f.matmul("qkv", tokens, d, q + 2 * kv, f.normed(tokens), qkv),
        vector(
            "rope",
            "rope",
            ROPE_FLOP * tokens * (q + kv) * (2 if model.qk_norm else 1),
            (qkv,),
            (newest,),
        ),
        *_split_by_tokens(f, core, "rope", tokens * part.seen_heads * model.head_dim),
    )


def _latent(f: Forward, m: Latent, pattern: str) -> tuple[Op, ...]:
    part, tokens, d, heads = f.part, f.batch.tokens, f.model.hidden, f.part.heads
    seen, parts, lone = (
        attended_by(f.model, pattern, f.batch),
        f.part.parallel.sequence,
        f.batch.lone,
    )

    def act(name: str, elements: float) -> Tensor:
        return Tensor(name, elements * f.wide, "activation")

    def per_head(name: str, source: Tensor, result: Tensor, inner: int, columns: int) -> Op:
        weights = Tensor(f"w_{name}", heads * inner * columns * f.weight, "weight")
        return Op(
            name,
            "head_matmul",
            engine="matrix",
            dtype=f.precision.arithmetic,
            flop=2 * lone * heads * inner * columns,
            reads=(weights, source),
            writes=(result,),
        )

    queries, latent = act("queries", tokens * heads * m.query), act("latent", tokens * m.cached)
    newest = Tensor("kv_new", tokens * m.cached * f.cached, "activation")
    down = act("q_latent", tokens * m.q_rank)
    projected: tuple[Op, ...]
    if m.q_rank:
        projected = (
            f.matmul(
                "q_kv_a",
                tokens,
                d,
                m.q_rank + m.cached,
                f.normed(tokens),
                act("q_kv_latent", tokens * (m.q_rank + m.cached)),
            ),
            vector(
                "latent_norm",
                "norm",
                NORM_FLOP * tokens * (m.q_rank + m.kv_rank),
                (down, latent),
                (down, latent),
            ),
            f.matmul("q_b", tokens, m.q_rank, heads * m.query, down, queries),
        )
    else:
        projected = (
            f.matmul(
                "q_kv_a",
                tokens,
                d,
                heads * m.query + m.cached,
                f.normed(tokens),
                act("q_kv_latent", tokens * (heads * m.query + m.cached)),
            ),
            vector("latent_norm", "norm", NORM_FLOP * tokens * m.kv_rank, (latent,), (latent,)),
        )
    # Sequences with more than one query: keys and values of each head, of all that they see.
    long = tokens - lone
    expanded = act("expanded", seen.long_entries * heads * m.expanded)
    old_long = Tensor("kv_long", max(seen.long_entries - long, 0.0) * m.cached * f.cached, "kv")
    new_long = Tensor("kv_new", long * m.cached * f.cached, "activation")
    # Engines keep the expansion twice: whole, and as the two halves that absorb multiplies by.
    w_kv_b = Tensor("w_kv_b", heads * m.kv_rank * (m.nope + m.value) * f.weight, "weight")
    context = Tensor("context", long * heads * m.value * f.narrow, "activation")
    naive = (
        Op(
            "kv_b",
            "matmul",
            engine="matrix",
            dtype=f.precision.arithmetic,
            flop=2 * seen.long_entries * m.kv_rank * heads * (m.nope + m.value),
            reads=(w_kv_b, old_long, new_long),
            writes=(expanded,),
        ),
        Op(
            "attention",
            "attention",
            engine="matrix",
            dtype=f.precision.communication,
            flop=(2 * m.expanded + SOFTMAX_FLOP) * heads * seen.long_pairs,
            reads=(expanded, act("queries", long * heads * m.query)),
            writes=(context,),
        ),
    )
    # Sequences with one query: on the latents themselves. A rank may have a part of the context for
    # more heads.
    pairs, all_heads = seen.lone / parts, part.seen_heads
    cache = Tensor("kv", max(seen.lone - lone, 0.0) * m.cached * f.cached / parts, "kv")
    work = LatentWork(m, all_heads, lone, pairs, parts, f.cached, f.wide, f.batch.shared)
    absorb = Op(
        "absorb",
        "absorb",
        engine="matrix",
        dtype=f.precision.communication,
        flop=(2 * (2 * m.kv_rank + m.rope) + SOFTMAX_FLOP) * all_heads * pairs,
        reads=(
            cache,
            Tensor("kv_new", lone * m.cached * f.cached, "activation"),
            act("q_absorbed", lone * all_heads * m.cached),
        ),
        writes=(act("latent_context", lone * all_heads * m.kv_rank),),
        latent=work,
    )
    return (
        *projected,
        vector(
            "rope", "rope", ROPE_FLOP * tokens * (heads + 1) * m.rope, (queries, latent), (newest,)
        ),
        *naive,
        per_head(
            "q_absorb",
            act("queries", lone * heads * m.query),
            act("q_absorbed", lone * heads * m.cached),
            m.nope,
            m.kv_rank,
        ),
        *_split_by_tokens(f, absorb, "q_absorb", lone * all_heads * m.cached),
        per_head(
            "v_expand",
            act("latent_context", lone * heads * m.kv_rank),
            Tensor("context", lone * heads * m.value * f.narrow, "activation"),
            m.kv_rank,
            m.value,
        ),
    )


def _split_by_tokens(f: Forward, core: Op, before: str, queries: float) -> tuple[Op, ...]:
    """An attention over a part of the context: the ranks that share it exchange queries (so many
    elements together) after the op `before`, and merge what each has found by log-sum-exp."""
    parts = f.part.parallel.sequence
    if parts == 1:
        return (core,)
    asked, (found,) = Tensor("all_queries", queries * f.wide, "activation"), core.writes
    return (
        f.collective("query_all_gather", "all_gather", asked.nbytes, asked, asked, before, parts),
        replace(core, after=(After("query_all_gather"),)),
        f.collective(
            "context_all_to_all", "all_to_all", found.nbytes, found, found, core.name, parts
        ),
        vector(
            "context_merge",
            "merge",
            MERGE_FLOP * found.nbytes / f.wide,
            (found,),
            core.writes,
            After("context_all_to_all"),
        ),
    )
