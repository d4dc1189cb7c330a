"""A KV-cache in a low rank: keys and values are kept as their coordinates in a basis of each layer.

With K P_K and V P_V in the cache (EigenAttention, arXiv 2408.05646; StiefAttention, 2601.21686),
P_K folds into the projection of the keys and P_V into that of the values and, transposed, into the
output's: their weights and FLOP are those of the new shapes. Attention multiplies by values of rank
r_V. Keys have to be whole before they are rotated (RoPE), so each step rebuilds them: 2 r_K
head_dim FLOP of the matrix engine for each cached token and KV head, and the rotation on the vector
engine; P_K, which the KV heads of a layer share, is one more weight. At full rank a basis is a
rotation that cancels: there the cache stays as it was, and nothing is rebuilt.

Who rebuilds decides what it buys, and is an option: the attention's own kernel, which hides a share
`overlap` of it under its reads, or a kernel before it that writes whole keys for attention to read.
Each cached entry is rebuilt once a pass. Not modelled: that a kernel for prompts rebuilds once for
each tile of queries; the table of rotations, and the room that whole keys of one layer take, which
is that of as many sequences as are done at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.catalog.files import is_there
from sim.catalog.kv_cards import KvCard, card
from sim.facts.outcome import Pays
from sim.graph.graph import Graph, Layer, Op, Tensor
from sim.graph.model import Model
from sim.graph.work import ROPE_FLOP, AttentionWork, Prepared
from sim.scenario.fields import CardName, Probability, Share
from sim.techniques.kv_cache import attended, with_work
from sim.techniques.machine import Machine

_NAME = "kv_low_rank"
_OVERLAP = 0.5  # where nobody says: midway between what bounds it


class Options(BaseModel):
    """Options of `kv_low_rank`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    card: CardName | None = Field(
        None, description="whose ranks each layer has; by name or path (give this, or ratio)"
    )
    ratio: Share | None = Field(
        None, description="(r_K + r_V) / (2 head_dim) of every layer, to whole ranks"
    )
    apply: Literal["ranks", "ratios"] = Field(
        "ranks",
        description="of a card. ranks: to its own model; ratios: to another, layer by layer at "
        "the same depth",
    )
    kernel: Literal["fused", "two"] = Field(
        "fused",
        description="fused: attention rebuilds the keys that it reads; two: a kernel before it "
        "does, and writes them",
    )
    overlap: Probability | None = Field(
        None,
        description="share of rebuilding that the fused kernel hides under its reads; default: "
        "0.5, which nobody has measured",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.card is None) == (self.ratio is None):
            raise ValueError("give one of card and ratio")
        if self.apply == "ratios" and self.card is None:
            raise ValueError("apply is of a card; take it out")
        if self.kernel == "two" and self.overlap is not None:
            raise ValueError("overlap is of a fused kernel; take it out, or set kernel: fused")
        if self.card is not None and is_there("kv", self.card):
            card(self.card)  # what is wrong of it is said before anything runs
        return self


class Ranks(NamedTuple):
    """Of a layer."""

    k: int
    v: int


def ranks_of(options: Options, model: Model) -> list[Ranks]:
    """Layer by layer; ValueError where the card is of another model and `apply` does not say that
    its ratios will do."""
    d = model.head_dim
    if options.ratio is not None:
        both = max(round(2 * d * options.ratio), 2)
        return [Ranks((both + 1) // 2, both // 2)] * model.layers
    assert options.card is not None
    found = card(options.card)
    own = [Ranks(*pair) for pair in zip(found.ranks.k, found.ranks.v)]
    wrong = [*_mismatches(found, model)]
    if options.apply == "ranks":
        if wrong:
            raise ValueError(
                f"{_NAME}: the card {found.name} is of {found.model.name}, which has "
                f"{', '.join(wrong)} as {model.name}; apply: ratios takes its ratios instead"
            )
        return own
    return [Ranks(*pair) for pair in zip(*(_at_depth(side, found, model) for side in zip(*own)))]


def _at_depth(ranks: Sequence[int], found: KvCard, model: Model) -> Iterator[int]:
    """Ranks for the layers of another model: each the mean of those at its depth, to whole ranks so
    that their sum is that of the card in proportion, to half a rank."""
    shared, done = Fraction(len(ranks), model.layers), 0
    unit = Fraction(model.head_dim, found.model.head_dim) / shared
    for end in range(1, model.layers + 1):
        whole, part = divmod(end * shared, 1)
        past = sum(ranks[: int(whole)]) + (part * ranks[int(whole)] if part else 0)
        reached = floor(past * unit + Fraction(1, 2))
        yield max(reached - done, 1)
        done = reached


def _mismatches(found: KvCard, model: Model) -> Iterator[str]:
    return found.mismatches(
        layers=model.layers,
        kv_heads=model.kv_heads,
        query_heads=model.heads,
        head_dim=model.head_dim,
    )


def kv_low_rank(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Give each layer a cache of its own ranks."""
    model = _require(machine.model)
    ranks = iter(ranks_of(options, model)[i] for i in machine.layers)
    made: dict[tuple[Layer, Ranks], Layer] = {}
    layers = []
    for layer in graph.layers:
        found = attended(layer, _NAME)
        if found is None:
            layers.append(layer)
            continue
        key = layer, next(ranks)
        if key not in made:
            made[key] = _compressed(layer, *found, key[1], model, options)
        layers.append(made[key])
    return Graph(tuple(layers))


def _require(model: Model | None) -> Model:
    assert model is not None, "a machine that is given a model says which"
    return model


def _compressed(
    layer: Layer, attention: Op, work: AttentionWork, ranks: Ranks, model: Model, options: Options
) -> Layer:
    d, heads, tokens = work.key, work.kv_heads, work.seen.new
    if not {"qkv", "o"} <= {op.name for op in layer.ops}:
        raise ValueError(
            f"{_NAME}: another technique has cut up the projections; list {_NAME} before it"
        )
    if work.value != d or work.cached != 2 * heads * d or work.prepared or work.scored:
        raise ValueError(
            f"{_NAME}: another technique has changed what the cache holds; list {_NAME} before it"
        )
    if ranks == (d, d):
        return layer
    rebuilt = ranks.k < d
    if rebuilt and model.qk_norm:
        raise ValueError(
            f"{_NAME}: {model.name} normalises its keys (qk_norm) between their projection and the "
            "cache, so a basis does not fold into the projection"
        )
    overlap = _OVERLAP if options.overlap is None else options.overlap
    rotation = ROPE_FLOP * heads * d
    rebuild = Prepared(2.0 * ranks.k * d * heads, rotation, overlap)
    new = replace(
        work,
        value=ranks.v,
        cached=heads * (ranks.k + ranks.v),
        key_share=ranks.k / (ranks.k + ranks.v),
        prepared=(rebuild,) if rebuilt and options.kernel == "fused" else (),
        apart=rebuild if rebuilt and options.kernel == "two" else None,
    )
    # Widths against those of before: of what is projected of a token, and of what attention makes.
    columns = layer.op("qkv").flop / (2 * tokens * model.hidden)
    of_qkv = (columns - work.cached + new.cached) / columns
    of_context = ranks.v / d
    basis = Tensor("w_k_basis", ranks.k * d * work.wide_bytes, "weight")
    ops: list[Op] = []
    for op in layer.ops:
        op = _narrower(op, of_qkv, of_context)
        if op.name == "rope" and rebuilt:  # keys are rotated when they are rebuilt
            op = replace(op, flop=op.flop - tokens * rotation)
        if op.name == attention.name and rebuilt:
            ops += _rebuilding(op, new, basis)
        else:
            ops.append(op)
    return with_work(Layer(layer.name, tuple(ops)), new)


def _narrower(op: Op, of_qkv: float, of_context: float) -> Op:
    """The op with projections of other widths, and with what they make and take."""
    shares = {"qkv": of_qkv, "w_qkv": of_qkv, "context": of_context, "w_o": of_context}

    def narrow(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.scaled(shares[t.name]) if t.name in shares else t for t in tensors)

    own = {"qkv": of_qkv, "o": of_context, "context_merge": of_context}.get(op.name, 1.0)
    sent = of_context if op.name == "context_all_to_all" else 1.0
    return replace(
        op,
        flop=op.flop * own,
        message_bytes=op.message_bytes * sent,
        reads=narrow(op.reads),
        writes=narrow(op.writes),
    )


def _rebuilding(attention: Op, work: AttentionWork, basis: Tensor) -> list[Op]:
    """The attention with what it needs to have whole keys."""
    if work.apart is None:
        return [replace(attention, reads=(*attention.reads, basis))]
    whole = Tensor("kv_whole_keys", 0.0, "activation")
    keys = Op(
        "k_rebuild",
        "rebuild",
        engine="matrix",
        dtype=attention.dtype,
        reads=(Tensor("kv_keys", 0.0, "kv"), basis),
        writes=(whole,),
        after=attention.after,
    )
    values = tuple(t._replace(name="kv_values") if t.name == "kv" else t for t in attention.reads)
    rest = replace(attention, reads=(*values, whole), after=(), work=None)
    return [keys.attending(work), rest.attending(work)]


def notes(machine: Machine, options: Options) -> Iterator[str]:
    """What a user should know of what the options leave open."""
    model = _require(machine.model)
    ranks = ranks_of(options, model)
    ratio = sum(sum(pair) for pair in ranks) / (2 * model.head_dim * len(ranks))
    if options.ratio is not None:
        if abs(ratio - options.ratio) > 1e-9:
            first = ranks[0]
            yield (
                f"{_NAME}: ratio {options.ratio:g} is taken as ranks {first.k} and {first.v} of "
                f"{model.head_dim}, {ratio:.4f}"
            )
    else:
        assert options.card is not None
        found = card(options.card)
        if options.apply == "ratios":
            yield (
                f"{_NAME}: ranks of {found.model.name} are taken as ratios for {model.name}, "
                "layer by layer at the same depth"
            )
    rebuilt = any(pair.k < model.head_dim for pair in ranks)
    if rebuilt and options.kernel == "fused" and options.overlap is None:
        yield (
            f"{_NAME}: {_OVERLAP:.0%} of rebuilding the keys is taken to hide under their reads; "
            "no measurement says how much does, and overlap: 0 and overlap: 1 bound it"
        )


def pays(
    machine: Machine, options: Options, step_s: Callable[[Options | None], float], step: str
) -> Iterator[Pays]:
    """Below which ratio a decode step in a low rank is quicker than with the whole cache, by how
    much of the rebuilding hides.

    `step_s` is what the decode step that `step` describes takes with such options, None: with the
    whole cache.
    """
    width = 2 * _require(machine.model).head_dim
    whole_s = step_s(None)

    def below(**how: Any) -> str:
        def quicker(ranks: int) -> bool:
            return step_s(Options(ratio=ranks / width, **how)) < whole_s

        low, high = 1, width  # of ranks of keys and values; full ones change nothing
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if quicker(middle) else (low, middle)
        if high == width:
            return "any"
        return f"{low / width:.2f}" if low > 1 else "none"

    shares = {0.0: "none of rebuilding the keys hides under their reads (overlap 0)"}
    shares |= {0.5: "half does", 1.0: "all does"}
    limits = [(below(overlap=overlap), f"if {text}") for overlap, text in shares.items()]
    limits.append((below(kernel="two"), "as two kernels"))
    yield Pays(f"{step}, a KV-cache in a low rank pays below a ratio of", tuple(limits))
