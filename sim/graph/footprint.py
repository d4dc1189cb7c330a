"""What has to fit in HBM: weights, KV-cache and activations of one rank."""

from __future__ import annotations

from typing import NamedTuple

from sim.graph.model import Model
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import BYTES, Precision
from sim.graph.transformer import kv_bytes_per_token, weight_bytes
from sim.text.units import show


class Room(NamedTuple):
    """How a rank's HBM divides.  `kv_tokens`: tokens that what the weights and activations leave
    can hold.

    Of several pipeline stages, the one that has room for the fewest tokens.
    """

    weight_bytes: float
    activation_bytes: float
    kv_tokens: float
    stage: int = 0


def room(
    model: Model,
    precision: Precision,
    parallel: Parallel,
    hbm_bytes: float,
    new_tokens: int,
    kept_bytes: float = 0.0,
) -> Room:
    """Divide `hbm_bytes`, as engines do: weights, activations of one pass over `new_tokens`,
    `kept_bytes` that techniques keep there, KV-cache in the rest.  `new_tokens` and `kv_tokens` are
    of the whole batch.

    ValueError with the bytes needed and available if not even the weights and activations fit.
    """
    stages = (
        _of_stage(model, precision, parallel, hbm_bytes, new_tokens, kept_bytes, stage)
        for stage in range(parallel.pipeline)
    )
    return min(stages, key=lambda room: room.kv_tokens)


def _of_stage(
    model: Model,
    precision: Precision,
    parallel: Parallel,
    hbm_bytes: float,
    new_tokens: int,
    kept_bytes: float,
    stage: int,
) -> Room:
    weights = weight_bytes(model, precision, parallel, stage)
    part = shard(model, parallel)
    width = 4 * model.hidden + (3 * part.ffn if model.dense_layers else 0.0)
    width += (part.heads + 2 * part.kv_heads) * model.head_dim
    width /= parallel.data
    if part.load:
        width += part.load.pairs * (2 * model.hidden + 3 * part.expert_ffn)
    activations = new_tokens * width * BYTES[precision.communication]
    left = hbm_bytes - weights - activations - kept_bytes
    if left <= 0:
        where = f" of stage {stage}" if parallel.pipeline > 1 else ""
        raise ValueError(
            f"{model.name} does not fit: on {parallel.chips} devices{_degrees(parallel)} "
            f"each{where} needs "
            f"{show(weights, 'B')} for weights and {show(activations, 'B')} for activations of "
            f"{new_tokens:,} tokens"
            + (f" and {show(kept_bytes, 'B')} for what techniques keep" if kept_bytes else "")
            + f", and has {show(hbm_bytes, 'B')}"
        )
    return Room(
        weights, activations, left / kv_bytes_per_token(model, precision, parallel, stage), stage
    )


def require(
    model: Model, room: Room, precision: Precision, parallel: Parallel, tokens: int
) -> None:
    """ValueError if the KV-cache cannot hold `tokens`, with the bytes needed and available."""
    if tokens > room.kv_tokens:
        each = kv_bytes_per_token(model, precision, parallel, room.stage)
        raise ValueError(
            f"{model.name} fits, but not its KV-cache: {tokens:,} tokens need "
            f"{show(tokens * each, 'B')} a device, and "
            f"{show(room.kv_tokens * each, 'B')} are left beside "
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
