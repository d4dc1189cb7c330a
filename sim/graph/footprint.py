"""What has to fit in HBM, read off the op graph of one rank as techniques have left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from sim.graph.batch import Batch, Sequences, Shared
from sim.graph.graph import Graph, TensorKind
from sim.graph.parallel import Parallel
from sim.text.units import show

_CONTEXTS = 1, 2**10, 2**17  # a line through the first two is held to the third
_EXACT = 1e-9


class Footprint(NamedTuple):
    """Bytes of HBM on one rank: weights, activations of a pass, KV-cache of a token of the whole
    batch, and what is kept whatever the context.  `most_tokens`: of a sequence that the cache
    keeps."""

    weight_bytes: float
    activation_bytes: float
    kv_bytes_per_token: float
    kept_bytes: float = 0.0
    most_tokens: float = inf


class Room(NamedTuple):
    """How a rank's HBM divides.  `kv_tokens`: tokens that what the weights and activations leave
    can hold, each of `token_bytes`.

    Of several pipeline stages, the one that has room for the fewest tokens.
    """

    weight_bytes: float
    activation_bytes: float
    kv_tokens: float
    token_bytes: float


def footprint(
    graph_of: Callable[[Batch], Graph],
    parallel: Parallel,
    new_tokens: int,
    shared: Sequence[Shared] = (),
) -> Footprint:
    """What passes of up to `new_tokens` tokens occupy, and of prefixes that are kept in another
    form, those of `shared`; ValueError if a KV-cache grows otherwise than with the tokens in it.

    The slope between two contexts is the bytes of a token. Contexts are multiples of the ranks that
    share them, so that nothing is rounded, and the cache may keep so many tokens of each sequence.
    """
    p = parallel
    most = kept_tokens(graph_of(Batch((Sequences(p.data, 1, 0),), p.data)))
    if most <= p.sequence:
        raise ValueError(
            f"the cache keeps {most:,.0f} tokens of a sequence, no more than the ranks that share "
            f"them, {p.sequence}"
        )

    def kv_bytes(sequences: int, context: int, runs: Sequence[Shared] = ()) -> tuple[int, float]:
        batch = Batch((Sequences(sequences, 1, context - 1),), sequences, tuple(runs))
        return sequences * int(min(context, most)), held(graph_of(batch), "kv")

    low, high, far = (p.sequence * context for context in _CONTEXTS)
    (few, few_bytes), (many, many_bytes) = kv_bytes(p.data, low), kv_bytes(p.data, high)
    each = (many_bytes - few_bytes) / (many - few)
    kept = few_bytes - few * each
    tokens, found = kv_bytes(3 * p.data, far)
    if each <= 0 or abs(found - tokens * each - kept) > _EXACT * found:
        raise ValueError(
            "the techniques leave a KV-cache that does not grow by the same bytes with each token: "
            f"{show(few_bytes, 'B')} for {few:,}, {show(many_bytes, 'B')} for {many:,}, "
            f"{show(found, 'B')} for {tokens:,}; a capacity in tokens cannot be told"
        )
    if shared:
        together = p.data * -int(-max(run.number for run in shared) // p.data)
        longest = p.sequence * int(sum(run.tokens for run in shared) + 1)
        kept += kv_bytes(together, longest, shared)[1] - kv_bytes(together, longest)[1]
    whole = graph_of(Batch((Sequences(new_tokens, 1, 0),), new_tokens))
    return Footprint(held(whole, "weight"), held(whole, "activation"), each, kept, most)


def kept_tokens(graph: Graph) -> float:
    """Tokens of a sequence that the cache keeps, the most of any layer; infinite: all."""
    patterns = [op.work.pattern for _, op in graph.ops() if op.work]
    return max((p.window if p.name == "kept" else inf for p in patterns), default=inf)


def held(graph: Graph, kind: TensorKind) -> float:
    """Bytes that the tensors of `kind` occupy, each counted once; layers reuse activations."""
    found: dict[tuple[int, str], float] = {}
    for index, op in graph.ops():
        for tensor in (*op.reads, *op.writes):
            if tensor.kind == kind:
                key = 0 if kind == "activation" else index + tensor.ahead, tensor.name
                found[key] = max(found.get(key, 0.0), tensor.occupied)
    return sum(found.values())


def room(
    name: str,
    stages: Sequence[Footprint],
    parallel: Parallel,
    hbm_bytes: float,
    new_tokens: int,
) -> Room:
    """Divide `hbm_bytes`, as engines do: weights, activations of one pass over `new_tokens`, what
    techniques keep, KV-cache in the rest.  `new_tokens` and `kv_tokens` are of the whole batch.

    ValueError with the bytes needed and available if not even the weights and activations fit.
    """
    rooms = []
    for stage, (weights, activations, each, kept, _) in enumerate(stages):
        left = hbm_bytes - weights - activations - kept
        if left <= 0:
            where = f" of stage {stage}" if parallel.pipeline > 1 else ""
            raise ValueError(
                f"{name} does not fit: on {parallel.chips} devices{_degrees(parallel)} each{where} "
                f"needs {show(weights, 'B')} for weights and {show(activations, 'B')} for "
                f"activations of {new_tokens:,} tokens"
                + (f" and {show(kept, 'B')} for what techniques keep" if kept else "")
                + f", and has {show(hbm_bytes, 'B')}"
            )
        rooms.append(Room(weights, activations, left / each, each))
    return min(rooms, key=lambda room: room.kv_tokens)


def require(name: str, room: Room, tokens: int) -> None:
    """ValueError if the KV-cache cannot hold `tokens`, with the bytes needed and available."""
    if tokens > room.kv_tokens:
        raise ValueError(
            f"{name} fits, but not its KV-cache: {tokens:,} tokens need "
            f"{show(tokens * room.token_bytes, 'B')} a device, and "
            f"{show(room.kv_tokens * room.token_bytes, 'B')} are left beside "
            f"{show(room.weight_bytes, 'B')} of weights and "
            f"{show(room.activation_bytes, 'B')} of activations"
        )


def _degrees(parallel: Parallel) -> str:
    degrees = (
        (name, getattr(parallel, name))
        for name in ("tensor", "data", "expert", "sequence", "pipeline")
    )
    said = ", ".join(f"{name} {degree}" for name, degree in degrees if degree > 1)
    return f" ({said})" if said else ""
