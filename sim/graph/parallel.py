"""How a model is split over ranks: which part of it one rank holds, and what does not divide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sim.graph.model import Experts, Model
from sim.graph.routing import EVEN, Load, Routing, loads


@dataclass(frozen=True)
class Parallel:
    """Degrees of parallelism.

    `tensor` ranks share the heads of an attention; `data` groups of them each have sequences of
    their own and meet at the experts, which are spread over `expert` ranks; `sequence` ranks of a
    tensor group share a KV-cache by its tokens; `pipeline` stages have layers of their own and work
    on `micro_batches` in turn. Ranks that are next to each other in the pod form a tensor group, so
    that it lies within a node.
    """

    tensor: int = 1
    data: int = 1
    expert: int = 1
    sequence: int = 1
    pipeline: int = 1
    micro_batches: int = 1
    routing: Routing = EVEN

    @property
    def ranks(self) -> int:
        """Of one stage."""
        return self.tensor * self.data

    @property
    def chips(self) -> int:
        """Of one copy of the model."""
        return self.ranks * self.pipeline


@dataclass(frozen=True)
class Shard:
    """One rank's share of a model.  Heads are padded up where they do not divide; `notes` say so.

    `heads` are those whose queries it holds, `seen_heads` and `kv_heads` those it attends with:
    with a KV-cache split by tokens, the heads of all the ranks that share one, each over a part of
    the context.
    """

    heads: int
    kv_heads: int
    seen_heads: int
    ffn: float
    vocab: float
    parallel: Parallel
    expert_ffn: float = 0.0
    experts: float = 0.0  # of the routed ones
    load: Load | None = None
    notes: tuple[str, ...] = ()


def shard(model: Model, parallel: Parallel) -> Shard:
    """Split `model`, or ValueError naming what does not divide and the degrees that would.

    The MLP width must divide. Heads that do not are padded at powers of two, the degrees of real
    pods (Qwen2-7B has 28 heads: at 8 ranks 4 a rank, 32 in all), and refused elsewhere; KV heads
    are replicated when there are fewer of them than ranks, and the cache of a latent attention,
    which all heads share, on every rank.
    """
    p, experts = parallel, model.experts
    _require("tensor", p.tensor, model.heads, partial(_tensor_misfit, model))
    _require(
        "sequence",
        p.sequence,
        p.tensor,
        lambda n: (
            f"the {p.tensor} ranks of a tensor group, which share a KV-cache by its tokens"
            if p.tensor % n
            else ""
        ),
    )
    if p.pipeline > model.layers:
        raise ValueError(
            f"pipeline parallel degree {p.pipeline}: {model.name} has {model.layers} layers, "
            "so at most as many stages"
        )
    if experts is None:
        if p.data > 1:
            raise ValueError(
                f"data parallel degree {p.data}: {model.name} has no experts at which the groups "
                "would meet; copies that know nothing of each other are replicas"
            )
        if p.expert > 1:
            raise ValueError(f"expert parallel degree {p.expert}: {model.name} has no experts")
        expert_ffn = spread = 0.0
    else:
        if p.data > 1 and p.expert not in (1, p.ranks):
            raise ValueError(
                f"expert parallel degree {p.expert}: with data-parallel attention the experts are "
                f"spread over all {p.ranks} ranks, or over none; use {p.ranks} or 1"
            )
        _require("expert", p.expert, p.ranks, partial(_expert_misfit, model.name, experts, p.ranks))
        expert_ffn, spread = experts.ffn * p.expert / p.ranks, experts.routed / p.expert
    notes = []
    heads = math.ceil(model.heads / p.tensor)
    if heads * p.tensor != model.heads:
        notes.append(
            f"{model.name}: {model.heads} heads do not divide by {p.tensor} ranks; padded to "
            f"{heads * p.tensor} (attention does {heads * p.tensor / model.heads:.2f}x the work)"
        )
    across = p.tensor // p.sequence  # ranks that the KV heads are split over
    kv_heads = math.ceil(model.kv_heads / across)
    if model.latent:
        if across > 1:
            notes.append(
                f"{model.name}: each of {across} ranks holds the whole latent cache, which all "
                "heads share"
            )
    elif model.kv_heads < across:
        notes.append(
            f"{model.name}: each of {model.kv_heads} KV heads is replicated, to have one on "
            f"each of {across} ranks"
        )
    elif kv_heads * across != model.kv_heads:
        notes.append(
            f"{model.name}: {model.kv_heads} KV heads do not divide by {across} ranks; each "
            f"has {kv_heads}"
        )
    if p.data > 1:
        notes.append(
            f"{model.name}: sequences are taken to be spread evenly over {p.data} "
            "data-parallel groups"
        )
    return Shard(
        heads,
        kv_heads,
        heads * p.sequence,
        model.ffn / p.tensor,
        model.vocab / p.tensor,
        p,
        expert_ffn,
        spread,
        loads(experts.routed, experts.chosen, p.expert, p.routing) if experts else None,
        tuple(notes),
    )


def stage_layers(layers: int, stages: int) -> tuple[range, ...]:
    """The layers of each pipeline stage.

    What is left over goes to the stages before the last, from the back, since the last has the LM
    head as well (vLLM, `distributed/utils.py`, `get_pp_indices`).
    """
    each, over = divmod(layers, stages)
    counts = [each + (stages - 1 - over <= stage < stages - 1) for stage in range(stages)]
    firsts = [sum(counts[:stage]) for stage in range(stages)]
    return tuple(range(first, first + count) for first, count in zip(firsts, counts))


def _require(name: str, n: int, most: int, misfit: Callable[[int], str]) -> None:
    """ValueError if a degree, `most` or less, does not divide what `misfit` says."""
    wrong = misfit(n)
    if not wrong:
        return
    good = sorted((abs(m - n), m) for m in range(1, most + 1) if not misfit(m))[:4]
    nearest = ", ".join(map(str, sorted(m for _, m in good)))
    raise ValueError(
        f"{name} parallel degree {n} does not divide {wrong}; nearest degrees that work: {nearest}"
    )


def _tensor_misfit(model: Model, n: int) -> str:
    """What `n` tensor ranks do not divide; "" if all divides."""
    if model.ffn % n:
        return f"the MLP width {model.ffn} of {model.name}"
    if model.experts and model.experts.shared_ffn % n:
        return f"the shared experts' width {model.experts.shared_ffn} of {model.name}"
    padded = n & (n - 1) == 0 and n <= model.heads
    return "" if padded or model.heads % n == 0 else f"the {model.heads} heads of {model.name}"


def _expert_misfit(name: str, experts: Experts, ranks: int, n: int) -> str:
    """What `n` ranks of experts do not divide; "" if all divides."""
    if ranks % n:
        return f"the {ranks} ranks (tensor x data)"
    if experts.routed % n:
        return f"the {experts.routed} experts of {name}"
    if experts.ffn % (ranks // n) == 0:
        return ""
    return (
        f"well: {ranks // n} ranks would share each expert, whose width {experts.ffn} does not "
        "divide by them"
    )
