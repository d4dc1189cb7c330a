"""What has to fit in HBM: weights, KV-cache and activations of one rank."""

from __future__ import annotations

from typing import NamedTuple

from sim.units import show
from sim.workload.model import Model
from sim.workload.transformer import BYTES, Precision, kv_bytes_per_token, shard, weight_bytes


class Room(NamedTuple):
    """How a rank's HBM divides.  `kv_tokens`: tokens that what the weights and activations leave can hold."""

    weight_bytes: float
    activation_bytes: float
    kv_tokens: float


def room(model: Model, precision: Precision, ranks: int, hbm_bytes: float, new_tokens: int) -> Room:
    """Divide `hbm_bytes`, as engines do: weights, activations of one pass over `new_tokens`, KV-cache in the rest.

    ValueError with the bytes needed and available if not even the weights and activations fit.
    """
    weights = weight_bytes(model, precision, ranks)
    part = shard(model, ranks)
    width = 4 * model.hidden + 3 * part.ffn + (part.heads + 2 * part.kv_heads) * model.head_dim
    activations = new_tokens * width * BYTES[precision.communication]
    left = hbm_bytes - weights - activations
    if left <= 0:
        raise ValueError(
            f"{model.name} does not fit: at tensor parallel degree {ranks} a device needs {show(weights, 'B')} for "
            f"weights and {show(activations, 'B')} for activations of {new_tokens:,} tokens, and has "
            f"{show(hbm_bytes, 'B')}"
        )
    return Room(weights, activations, left / kv_bytes_per_token(model, precision, ranks))


def require(model: Model, room: Room, precision: Precision, ranks: int, tokens: int) -> None:
    """ValueError if the KV-cache cannot hold `tokens`, with the bytes needed and available."""
    if tokens > room.kv_tokens:
        each = kv_bytes_per_token(model, precision, ranks)
        raise ValueError(
            f"{model.name} fits, but not its KV-cache: {tokens:,} tokens need {show(tokens * each, 'B')} a device, and "
            f"{show(room.kv_tokens * each, 'B')} are left beside {show(room.weight_bytes, 'B')} of weights and "
            f"{show(room.activation_bytes, 'B')} of activations"
        )
