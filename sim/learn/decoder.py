"""A decoder-only language model of the Llama family as a forward pass in torch.

Grouped-query attention, rotary positions, RMSNorm, a gated SiLU MLP; optional biases of Q, K, V and
norms of Q and K. What a layer caches goes through a `Cache`, so a way to a smaller cache is one
object. The whole window is passed at once (no incremental decoding), in float32. Not modelled:
experts, latent attention, soft-caps; a window of attention that the text would pass is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as fn


@dataclass(frozen=True)
class Sizes:
    """What the weights' shapes leave unsaid. `pairs`: which dimensions RoPE turns together."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope_theta: float
    epsilon: float
    pairs: Literal["adjacent", "halves"]  # (2i, 2i+1) as GGUF stores Llama, (i, i + d/2) as HF
    context: int
    sha256: str = ""  # of the file of weights; of several, of their hashes in order of name


@dataclass
class Layer:
    """Weights of a layer, [out, in]; None where the model has none."""

    attention_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    ffn_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Cache:
    """What is kept of keys and values, as attention sees it; this one keeps all.

    Tensors are [B, kv heads, T, d].
    """

    def keys(self, layer: int, keys: Tensor) -> Tensor:
        """Keys before RoPE, as they come back from the cache."""
        return keys

    def turned(self, layer: int, keys: Tensor) -> Tensor:
        """Keys after RoPE, as they come back from the cache."""
        return keys

    def values(self, layer: int, values: Tensor) -> Tensor:
        """Values as they come back from the cache."""
        return values

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention's output [B, heads, T, d]; q [B, heads, T, d]."""
        return causal(q, keys, values)

    def bytes_per_token(self, sizes: Sizes, context: int) -> float:
        """Of all layers, on average over a context of so many tokens, in 16 bits a number."""
        return 2.0 * 2 * sizes.layers * sizes.kv_heads * sizes.head_dim


WHOLE = Cache()


def causal(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention; heads of q share the keys of their group."""
    group = q.shape[1] // keys.shape[1]
    return fn.scaled_dot_product_attention(
        q, keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1), is_causal=True
    )


@dataclass
class Decoder:
    """Weights and the pass through them."""

    sizes: Sizes
    embedding: Tensor  # [vocabulary, hidden]
    layers: list[Layer]
    norm: Tensor
    head: Tensor  # [vocabulary, hidden]; the embedding itself where they are tied
    rope_factors: Tensor | None = None  # [d / 2], divide the frequencies
    _turns: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, hidden]."""
        return self.embedding[tokens]

    def projected(self, at: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q [B, heads, T, d], K, V [B, kv heads, T, d] of a layer's input, before RoPE."""
        layer, s = self.layers[at], self.sizes
        h = self._normed(x, layer.attention_norm)
        q = _heads(fn.linear(h, layer.q, layer.q_bias), s.heads)
        k = _heads(fn.linear(h, layer.k, layer.k_bias), s.kv_heads)
        v = _heads(fn.linear(h, layer.v, layer.v_bias), s.kv_heads)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)
        return q, k, v

    def turn(self, x: Tensor) -> Tensor:
        """RoPE on [B, heads, T, d], positions from 0."""
        cos, sin = self._turn_of(x.shape[2])
        if self.sizes.pairs == "halves":
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)

    def attended(self, at: int, x: Tensor, attention: Tensor) -> Tensor:
        """A layer's output, of its input and its attention [B, heads, T, d]."""
        layer = self.layers[at]
        x = x + fn.linear(attention.transpose(1, 2).flatten(2), layer.o, layer.o_bias)
        h = self._normed(x, layer.ffn_norm)
        return x + fn.linear(fn.silu(fn.linear(h, layer.gate)) * fn.linear(h, layer.up), layer.down)

    def layer(self, at: int, x: Tensor, cache: Cache = WHOLE) -> Tensor:
        """A layer's output [B, T, hidden]."""
        q, k, v = self.projected(at, x)
        keys = cache.turned(at, self.turn(cache.keys(at, k)))
        return self.attended(at, x, cache.attend(at, self.turn(q), keys, cache.values(at, v)))

    def logits(self, x: Tensor) -> Tensor:
        """Of the last layer's output: [B, T, vocabulary]."""
        return fn.linear(self._normed(x, self.norm), self.head)

    def __call__(self, tokens: Tensor, cache: Cache = WHOLE) -> Tensor:
        """Logits [B, T, vocabulary] of tokens [B, T]."""
        x = self.embed(tokens)
        for at in range(self.sizes.layers):
            x = self.layer(at, x, cache)
        return self.logits(x)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return fn.rms_norm(x, (x.shape[-1],), weight, self.sizes.epsilon)

    def _turn_of(self, length: int) -> tuple[Tensor, Tensor]:
        if length > self.sizes.context:
            raise ValueError(
                f"a window of {length} tokens is longer than the {self.sizes.context} that "
                f"{self.sizes.name} attends to"
            )
        if length not in self._turns:
            d = self.sizes.head_dim
            rate = self.sizes.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
            if self.rope_factors is not None:
                rate = rate / self.rope_factors.double()
            angles = torch.arange(length, dtype=torch.float64)[:, None] * rate
            self._turns[length] = angles.cos().float(), angles.sin().float()
        return self._turns[length]


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * d] -> [B, heads, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def decoder_of(
    sizes: Sizes,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    rope_factors: Tensor | None = None,
) -> Decoder:
    """Weights under their names in a format. `names`: field of `Layer` -> name with {i}, and the
    four of the model itself. ValueError: a tensor is missing."""
    missing: list[str] = []

    def of(key: str, i: int = 0, optional: bool = False) -> Any:
        name = names[key].format(i=i)
        if name not in tensors and not optional:
            missing.append(name)
        return tensors.get(name)

    optional = {"q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm"}
    keys = [key for key in names if key in Layer.__dataclass_fields__]
    parts = [{key: of(key, i, key in optional) for key in keys} for i in range(sizes.layers)]
    embedding, norm = of("embedding"), of("norm")
    head = of("head", optional=True)
    if missing:
        raise ValueError(f"{sizes.name}: no tensor {missing[0]!r}, of {len(missing)} missing")
    return Decoder(
        sizes,
        embedding,
        [Layer(**part) for part in parts],
        norm,
        embedding if head is None else head,
        rope_factors,
    )
