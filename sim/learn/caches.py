"""Other ways to a smaller cache: numbers of few bits, and tokens that are dropped.

They are what `kv_quantised` and `kv_eviction` are on a machine (`sim.techniques`), so bytes agree.
Whole windows are passed at once. So a group of keys is quantised as if it were full (KIVI keeps the
newest tokens in 16 bits until it is), and tokens are dropped as in decoding one by one. Positions
stay those of the text, where StreamingLLM counts them within the cache.
Sources: KIVI (arXiv 2402.02750), StreamingLLM (2309.17453), H2O (2306.14048).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sim.learn.bases import LowRank
from sim.learn.decoder import WHOLE, Cache, Sizes

Format = Literal["fp8", "int4", "int2"]
_BITS = {"fp8": 8, "int4": 4, "int2": 2}
_SCALES = 32  # bits of a scale and a zero point


class Quantised(Cache):
    """Keys after RoPE in groups of tokens of a channel, values in groups of channels of a token.

    With `of`, the coordinates in its bases are quantised instead: keys before RoPE.
    """

    def __init__(self, format: Format, group: int = 32, of: LowRank | None = None) -> None:
        self.format, self.group, self.of = format, group, of

    def keys(self, layer: int, keys: Tensor) -> Tensor:
        """Their coordinates in few bits, and back."""
        if self.of is None:
            return keys
        p = self.of.bases[layer].keys
        return self._less(keys @ p, -2) @ p.mT

    def turned(self, layer: int, keys: Tensor) -> Tensor:
        """In few bits, and back."""
        return self._less(keys, -2) if self.of is None else keys

    def values(self, layer: int, values: Tensor) -> Tensor:
        """In few bits, and back."""
        if self.of is None:
            return self._less(values, -1)
        p = self.of.bases[layer].values
        return self._less(values @ p, -1) @ p.mT

    def bytes_per_token(self, sizes: Sizes, context: int) -> float:
        """With scales and zero points."""
        d, bits = sizes.head_dim, _BITS[self.format]
        every = self.of.bases.values() if self.of else ()
        pairs = [each.ranks for each in every] or [(d, d)] * sizes.layers
        scale = 0 if self.format == "fp8" else _SCALES
        found = 0.0
        for r_k, r_v in pairs:
            found += r_k * (bits + scale / self.group)
            found += r_v * bits + scale * math.ceil(r_v / self.group)
        return sizes.kv_heads * found / 8

    def _less(self, x: Tensor, along: int) -> Tensor:
        """As it comes back; groups are along a dimension."""
        if self.format == "fp8":
            scale = x.abs().max().clamp_min(1e-30) / torch.finfo(torch.float8_e4m3fn).max
            return (x / scale).to(torch.float8_e4m3fn).float() * scale
        return torch.cat([self._rounded(part, along) for part in x.split(self.group, along)], along)

    def _rounded(self, x: Tensor, along: int) -> Tensor:
        low, high = x.aminmax(dim=along, keepdim=True)
        step = ((high - low) / (2 ** _BITS[self.format] - 1)).half().float().clamp_min(1e-7)
        zero = low.half().float()
        return ((x - zero) / step).round().clamp(0, 2 ** _BITS[self.format] - 1) * step + zero


class Sinks(Cache):
    """The first tokens and the newest: a query sees `first`, the `window` before it, and itself."""

    def __init__(self, window: int, first: int = 4, inner: Cache = WHOLE) -> None:
        self.window, self.first, self.inner = window, first, inner

    @property
    def kept(self) -> int:
        """Tokens in the cache."""
        return self.first + self.window

    def keys(self, layer: int, keys: Tensor) -> Tensor:
        """As `inner` has them."""
        return self.inner.keys(layer, keys)

    def turned(self, layer: int, keys: Tensor) -> Tensor:
        """As `inner` has them."""
        return self.inner.turned(layer, keys)

    def values(self, layer: int, values: Tensor) -> Tensor:
        """As `inner` has them."""
        return self.inner.values(layer, values)

    def bytes_per_token(self, sizes: Sizes, context: int) -> float:
        """At the end of the context."""
        return self.inner.bytes_per_token(sizes, context) * min(self.kept / context, 1.0)

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """To what is kept."""
        at = torch.arange(q.shape[2])
        back = at[:, None] - at[None, :]
        seen = (back >= 0) & ((back <= self.window) | (at[None, :] < self.first))
        return _attend(q, keys, values, seen)


class HeavyHitters(Sinks):
    """Half of `budget` for the newest tokens, half for those that got the most attention so far, of
    each KV head on its own."""

    def __init__(self, budget: int, inner: Cache = WHOLE) -> None:
        super().__init__(budget // 2, 0, inner)
        self.budget = budget

    @property
    def kept(self) -> int:
        """Tokens in the cache."""
        return self.budget

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Token by token: what is kept depends on the attention so far."""
        batch, heads, length, _ = q.shape
        group = heads // keys.shape[1]
        scores = q @ keys.repeat_interleave(group, 1).mT / math.sqrt(q.shape[-1])
        scores = scores.unflatten(1, (-1, group))  # [B, kv heads, group, T, T]
        got = torch.zeros(batch, keys.shape[1], length)
        kept = torch.zeros(batch, keys.shape[1], length, dtype=torch.bool)
        seen = torch.zeros(batch, keys.shape[1], length, length, dtype=torch.bool)
        for t in range(length):
            kept[..., t] = True
            seen[:, :, t] = kept
            row = scores[..., t, : t + 1].masked_fill(~kept[:, :, None, : t + 1], -math.inf)
            got[..., : t + 1] += row.softmax(-1).sum(2)
            if t >= self.budget:  # one more than may stay until the next token
                old = kept.clone()
                old[..., t + 1 - self.window :] = False
                least = got.masked_fill(~old, math.inf).argmin(-1, keepdim=True)
                kept.scatter_(-1, least, False)
        return _attend(q, keys, values, seen.repeat_interleave(group, 1))


def _attend(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    group = q.shape[1] // keys.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        q, keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1), attn_mask=seen
    )
