"""The attention of a layer as ops: grouped-query, and multi-head latent (MLA) in its two equal
formulations.

Latent: prefill expands the latent cache into keys and values of each head (naive); a sequence with
one query attends on the latent cache itself, its queries and outputs multiplied by the two halves
of the expansion (absorb). Few MACs and many bytes the one, many MACs and few bytes the other.
"""

from __future__ import annotations

from dataclasses import replace

from sim.graph.batch import Pattern
from sim.graph.forward import MERGE_FLOP, NORM_FLOP, Forward, vector
from sim.graph.graph import After, Op, Tensor
from sim.graph.model import Latent
from sim.graph.precision import BYTES
from sim.graph.work import ROPE_FLOP, AttentionWork


def attention(f: Forward, pattern: Pattern, *before: After) -> tuple[Op, ...]:
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
            part="attention",
        ),
    )


# Sized by the work.  What a pass appends is a buffer of its own: the newest entries cannot be
# fetched before they are computed.
_CACHE, _NEWEST = Tensor("kv", 0.0, "kv"), Tensor("kv_new", 0.0, "activation")


def _grouped(f: Forward, pattern: Pattern) -> tuple[Op, ...]:
    model, part, tokens = f.model, f.part, f.batch.tokens
    d, q, kv = model.hidden, part.heads * model.head_dim, part.kv_heads * model.head_dim
    work = AttentionWork(
        sequences=f.batch.groups,
        pattern=pattern,
        heads=part.seen_heads,
        key=model.head_dim,
        value=model.head_dim,
        cached=2 * kv,
        cache_bytes=f.cached,
        wide_bytes=f.wide,
        parts=part.parallel.sequence,
        shared=f.batch.shared,
        kv_heads=part.kv_heads,
    )
    qkv = Tensor("qkv", tokens * (q + 2 * kv) * f.wide, "activation", 0, f.projected)
    context = Tensor("context", tokens * q * f.narrow, "activation")
    core = Op(
        "attention",
        "attention",
        engine="matrix",
        dtype=f.precision.communication,
        reads=(_CACHE, _NEWEST, qkv),
        writes=(context,),
    )
    rotated = ROPE_FLOP * tokens * (q + kv) * (2 if model.qk_norm else 1)
    return (
        f.matmul("qkv", tokens, d, q + 2 * kv, f.normed(tokens), qkv, part="attention"),
        vector("rope", "rope", rotated, (qkv,), (_NEWEST,)).attending(work),
        *_split_by_tokens(
            f, core.attending(work), "rope", tokens * part.seen_heads * model.head_dim
        ),
    )


def _latent(f: Forward, m: Latent, pattern: Pattern) -> tuple[Op, ...]:
    part, tokens, d, heads, lone = (
        f.part,
        f.batch.tokens,
        f.model.hidden,
        f.part.heads,
        f.batch.lone,
    )
    stored = BYTES[f.precision.stored("attention")]

    def act(name: str, elements: float) -> Tensor:
        return Tensor(name, elements * f.wide, "activation")

    def per_head(name: str, source: Tensor, result: Tensor, inner: int, columns: int) -> Op:
        weights = Tensor(f"w_{name}", heads * inner * columns * stored, "weight")
        return Op(
            name,
            "head_matmul",
            engine="matrix",
            dtype=f.precision.arithmetic("attention"),
            flop=2 * lone * heads * inner * columns,
            reads=(weights, source),
            writes=(result,),
        )

    # Sequences with more than one query: keys and values of each head, of all that they see.
    long_work = AttentionWork(
        sequences=tuple(group for group in f.batch.groups if group.new > 1),
        pattern=pattern,
        heads=heads,
        key=m.query,
        value=m.value,
        cached=m.cached,
        cache_bytes=f.cached,
        wide_bytes=f.wide,
        latent=m,
    )
    # Sequences with one query: on the latents themselves. A rank may have a part of the context for
    # more heads.
    lone_work = replace(
        long_work,
        sequences=tuple(group for group in f.batch.groups if group.new == 1),
        heads=part.seen_heads,
        key=m.cached,
        value=m.kv_rank,
        parts=part.parallel.sequence,
        shared=f.batch.shared,
    )
    queries = act("queries", tokens * heads * m.query)._replace(held=f.projected)
    latent, down = act("latent", tokens * m.cached), act("q_latent", tokens * m.q_rank)

    def project(columns: int) -> Op:
        columns += m.cached
        made = act("q_kv_latent", tokens * columns)
        return f.matmul("q_kv_a", tokens, d, columns, f.normed(tokens), made, part="attention")

    projected: tuple[Op, ...]
    if m.q_rank:
        normed = NORM_FLOP * tokens * (m.q_rank + m.kv_rank)
        projected = (
            project(m.q_rank),
            vector("latent_norm", "norm", normed, (down, latent), (down, latent)),
            f.matmul("q_b", tokens, m.q_rank, heads * m.query, down, queries, part="attention"),
        )
    else:
        normed = NORM_FLOP * tokens * m.kv_rank
        projected = (
            project(heads * m.query),
            vector("latent_norm", "norm", normed, (latent,), (latent,)),
        )
    # Engines keep the expansion twice: whole, and as the two halves that absorb multiplies by.
    w_kv_b = Tensor("w_kv_b", heads * m.kv_rank * (m.nope + m.value) * stored, "weight")
    expanded, long = act("expanded", 0.0), tokens - lone
    naive = (
        Op(
            "kv_b",
            "matmul",
            engine="matrix",
            dtype=f.precision.arithmetic("attention"),
            reads=(w_kv_b, Tensor("kv_long", 0.0, "kv"), _NEWEST),
            writes=(expanded,),
        ),
        Op(
            "attention",
            "attention",
            engine="matrix",
            dtype=f.precision.communication,
            reads=(expanded, act("queries", long * heads * m.query)),
            writes=(Tensor("context", long * heads * m.value * f.narrow, "activation"),),
        ),
    )
    absorb = Op(
        "absorb",
        "absorb",
        engine="matrix",
        dtype=f.precision.communication,
        reads=(_CACHE, _NEWEST, act("q_absorbed", lone * part.seen_heads * m.cached)),
        writes=(act("latent_context", lone * part.seen_heads * m.kv_rank),),
    )
    rotated = ROPE_FLOP * tokens * (heads + 1) * m.rope
    return (
        *projected,
        vector("rope", "rope", rotated, (queries, latent), (_NEWEST,)).attending(
            replace(long_work, sequences=f.batch.groups)
        ),
        *(op.attending(long_work) for op in naive),
        per_head(
            "q_absorb",
            act("queries", lone * heads * m.query),
            act("q_absorbed", lone * heads * m.cached),
            m.nope,
            m.kv_rank,
        ),
        *_split_by_tokens(
            f, absorb.attending(lone_work), "q_absorb", lone * part.seen_heads * m.cached
        ),
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
