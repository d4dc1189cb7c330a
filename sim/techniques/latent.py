"""Other ways to go about latent attention (MLA) in decode: TyphoonMLA, and the baselines it is
compared with.

TyphoonMLA (Yuzuguler, Celik, Zhuang, Cavigelli, arXiv 2509.21081): what many sequences of the batch
share is kept expanded, as keys and values of each head, and read once for all of them (naive); each
sequence's own part stays latent (absorb); the two results are merged exactly by log-sum-exp. Absorb
does 3.4 times the MACs of naive at DeepSeek's sizes, so with many queries on one prefix naive is
quicker, and with few, for whom it is bound by HBM, absorb is.

The expanded cache of a prefix is what its prefill computes anyway; it is kept, and costs HBM. Not
modelled: the device synchronisation between the branches other than in the kernels' fixed cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.graph.batch import DENSE, NO_SHARING, Shared, Sharing
from sim.graph.forward import MERGE_FLOP
from sim.graph.graph import Graph, Layer, Op, Tensor
from sim.graph.model import Latent
from sim.graph.precision import BYTES
from sim.graph.work import SOFTMAX_FLOP, AttentionWork
from sim.techniques.machine import Machine


class TyphoonOptions(BaseModel):
    """Options of `typhoon_mla`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    threshold: float | None = Field(
        None,
        gt=0,
        description="sequences of a rank from which a prefix is worth it; default: B_theta, or "
        "fewer",
    )
    branches: Literal["serial", "overlapped"] = Field(
        "serial",
        description="naive, then absorb, as the authors' NPU code; or both in one kernel, in "
        "perfect overlap",
    )
    expanded_tokens: int | None = Field(
        None,
        gt=0,
        description="tokens of prefixes that HBM keeps expanded; default: all of a static "
        "batch, 2,048 of a trace",
    )


class LatentOptions(BaseModel):
    """Options of `latent_attention`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    form: Literal["naive", "absorb_once"] = Field(
        description="naive: the whole cache is expanded; absorb_once: a shared prefix is read "
        "once for all sequences"
    )


def threshold(
    latent: Latent, flop_per_s: float, bytes_per_s: float, element_bytes: float = 2.0
) -> float:
    """B_theta: queries on one prefix from which naive, bound by HBM, is quicker than absorb, bound
    by arithmetic.

    (D_qk + D_v) / (2 D_l + D_r) x T / M, in MACs and elements a second.  The number of heads
    cancels.
    """
    return (
        latent.expanded
        / (2 * latent.kv_rank + latent.rope)
        * flop_per_s
        / 2
        / (bytes_per_s / element_bytes)
    )


def least_sequences(
    work: AttentionWork, dtype: str, machine: Machine, options: TyphoonOptions
) -> float:
    """Sequences of a rank from which it takes a prefix to be worth it; `dtype` is what attention
    computes with.

    B_theta supposes that absorb waits for its arithmetic. With few heads on a rank it waits for
    HBM, since each sequence reads the latent cache; then naive is quicker as soon as the expanded
    cache is smaller than what they read.
    """
    if options.threshold is not None:
        return options.threshold
    flop_per_s = machine.matrix_flop_per_s.get(dtype) or max(machine.matrix_flop_per_s.values())
    latent, heads = _latent(work), work.heads / work.parts
    by_bytes = heads * latent.expanded * BYTES[dtype] / (work.cached * work.cache_bytes)
    return min(threshold(latent, flop_per_s, machine.hbm_bytes_per_s, BYTES[dtype]), by_bytes)


def _latent(work: AttentionWork) -> Latent:
    assert work.latent is not None, "an absorb works on a latent cache"
    return work.latent


def cut(shared: Iterable[Shared], least: float, most_tokens: float) -> tuple[Shared, ...]:
    """The part of a tree of prefixes that is worth expanding: every run that `least` sequences or
    more have, those of most sequences first, up to `most_tokens`.

    Since a run has at most the sequences of the one before it, what is taken is the top of the
    tree, and no other cut is quicker: each run saves or loses on its own.
    """
    taken, room = [], most_tokens
    for run in sorted(shared, key=lambda run: -run.number):
        if run.number < least or room <= 0:
            break
        taken.append(run._replace(tokens=min(run.tokens, room)))
        room -= run.tokens
    return tuple(taken)


def typhoon_mla(graph: Graph, machine: Machine, options: TyphoonOptions) -> Graph:
    """Naive attention on what many sequences share, absorb on the rest, merged."""
    most = float("inf") if options.expanded_tokens is None else options.expanded_tokens

    def mixed(absorb: Op, work: AttentionWork) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        if work.pattern != DENSE:
            raise ValueError(
                "typhoon_mla: a query that does not see all of its context may not see the prefix "
                f"that is shared; the attention is {work.pattern.name}"
            )
        least = least_sequences(work, absorb.dtype, machine, options)
        runs = cut(work.shared, least, most)
        pairs, entries = (
            sum(run.number * run.tokens for run in runs),
            sum(run.tokens for run in runs),
        )
        rest = absorb.attending(
            replace(work, elsewhere=pairs, unread=pairs, sharing=Sharing(least, most))
        )
        naive = _naive(absorb, work, pairs, entries)
        queries = work.seen.new if runs else 0.0
        merged = queries * work.heads / work.parts * _latent(work).value
        partial, context = (
            Tensor(name, many * merged * work.wide_bytes, "activation")
            for name, many in (("partial_contexts", 2), ("context", 1))
        )
        merge = Op(
            "lse_merge",
            "merge",
            engine="vector",
            flop=MERGE_FLOP * merged,
            reads=(partial,),
            writes=(context,),
        )
        if options.branches == "serial":
            return (naive, rest), (merge,)
        return (replace(rest, flop=rest.flop + naive.flop, reads=(*rest.reads, *naive.reads)),), (
            merge,
        )

    return _rewritten(graph, mixed, "typhoon_mla")


def latent_attention(graph: Graph, machine: Machine, options: LatentOptions) -> Graph:
    """The same attention in another of its equal forms."""

    def naive(absorb: Op, work: AttentionWork) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        pairs = work.pairs * work.parts
        return (_naive(absorb, work, pairs, pairs - _again(work)),), ()

    def once(absorb: Op, work: AttentionWork) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        return (absorb.attending(replace(work, unread=_again(work))),), ()

    return _rewritten(graph, naive if options.form == "naive" else once, "latent_attention")


def _again(work: AttentionWork) -> float:
    """Entries that are read more than once, if each sequence reads its own."""
    return sum((run.number - 1.0) * run.tokens for run in work.shared)


def _rewritten(
    graph: Graph,
    how: Callable[[Op, AttentionWork], tuple[tuple[Op, ...], tuple[Op, ...]]],
    name: str,
) -> Graph:
    """Each `absorb` replaced by what `how` gives first, with what it gives second after its
    `v_expand`; without an `absorb` left, nothing has to be projected into the latent space and out
    of it."""

    def rewrite(layer: Layer) -> Layer:
        ops: list[Op] = []
        last: tuple[Op, ...] = ()
        for op in layer.ops:
            if op.kind == "absorb" and op.work is not None:
                if op.work.unread or op.work.sharing != NO_SHARING:
                    raise ValueError(
                        f"{name}: a technique before it has changed how shared prefixes are read"
                    )
                instead, last = how(op, op.work)
                ops += instead
                continue
            ops.append(op)
            if op.name == "v_expand":
                ops += last
        if not _absorbs(Layer(layer.name, tuple(ops))):
            ops = [op for op in ops if op.name not in ("q_absorb", "v_expand")]
        return Layer(layer.name, tuple(ops)) if _absorbs(layer) else layer

    made = {layer: rewrite(layer) for layer in dict.fromkeys(graph.layers)}
    if all(made[layer] is layer for layer in made):
        raise ValueError(
            f"{name}: the model has no latent attention (MLA), as DeepSeek-V3 and Kimi K2 have"
        )
    return Graph(tuple(made[layer] for layer in graph.layers))


def _absorbs(layer: Layer) -> bool:
    return any(op.kind == "absorb" for op in layer.ops)


def _naive(absorb: Op, work: AttentionWork, pairs: float, entries: float) -> Op:
    """Attention of this rank's own heads on keys and values that are kept expanded."""
    heads, m = work.heads / work.parts, _latent(work)
    queries = work.seen.new if pairs else 0.0
    return Op(
        "naive",
        "naive",
        engine="matrix",
        dtype=absorb.dtype,
        flop=(2 * m.expanded + SOFTMAX_FLOP) * heads * pairs,
        reads=(
            Tensor("kv_expanded", entries * heads * m.expanded * work.wide_bytes, "kv"),
            Tensor("queries", queries * heads * m.query * work.wide_bytes, "activation"),
        ),
        writes=(
            Tensor("naive_context", queries * heads * m.value * work.wide_bytes, "activation"),
        ),
        after=absorb.after,
    )
