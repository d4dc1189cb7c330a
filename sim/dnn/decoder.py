"""A decoder-only transformer as matrix products, for a systolic array: a prefill, or a decode step.

The same products as `sim.graph.transformer` charges, but for three differences. A prefill does all
queries by all keys: an array cannot leave out the half that a causal mask hides. Routed experts get
equal shares of the tokens. The router is a product like any other. Keys and values of the cache are
weights here: they come from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sim.dnn.gemms import Dnn, GemmLayer
from sim.graph.batch import Pattern, attended
from sim.graph.model import Model

Phase = Literal["prefill", "decode"]


def decoder(
    model: Model, *, phase: Phase, tokens: int, batch: int = 1, layers: int | None = None
) -> Dnn:
    """`batch` prompts of `tokens` tokens, or a token for each of `batch` contexts of `tokens`.

    `layers`: the first so many only, with the LM head behind them. ValueError if there are none, or
    more than there are. What a query sees of a long context follows the model's windows in decode;
    a prefill sees all.
    """
    if tokens < 1 or batch < 1:
        raise ValueError(
            f"{model.name} needs at least 1 token and a batch of 1, not {tokens} and {batch}"
        )
    count = model.layers if layers is None else layers
    if not 1 <= count <= model.layers:
        raise ValueError(f"{model.name} has {model.layers} layers, not {count}")
    net = _Net(model, phase, tokens, batch)
    patterns = model.patterns
    for index in range(count):
        _attention(net, f"layer{index + 1}", patterns[index % len(patterns)])
        if index < model.dense_layers:
            _mlp(net, f"layer{index + 1}", net.rows, model.ffn, net.last)
        else:
            _experts(net, f"layer{index + 1}")
    net.put("lm_head", batch, model.hidden, model.vocab, net.last)
    return Dnn(f"{model.name}_{phase}", tuple(net.layers))


@dataclass
class _Net:
    """Products being written down; `last` are those that the hidden state waits for."""

    model: Model
    phase: Phase
    tokens: int
    batch: int
    layers: list[GemmLayer] = field(default_factory=list)
    last: tuple[str, ...] = ()

    @property
    def new(self) -> int:
        """Tokens of a sequence that are computed."""
        return self.tokens if self.phase == "prefill" else 1

    @property
    def rows(self) -> int:
        """Tokens of all sequences that are computed."""
        return self.batch * self.new

    def put(self, name: str, m: int, n: int, k: int, after: tuple[str, ...]) -> str:
        """A product; its name."""
        self.layers.append(GemmLayer(name, m, n, k, after=after, raw_input=not after))
        return name

    def keys(self, pattern: Pattern) -> int:
        """Keys that a query meets."""
        return self.tokens if self.phase == "prefill" else int(attended(pattern, 1, self.tokens)[0])


def _attention(net: _Net, name: str, pattern: Pattern) -> None:
    values = tuple(
        _latent(net, name, pattern) if net.model.latent else _grouped(net, name, pattern)
    )
    m = net.model
    inner = m.heads * (m.latent.value if m.latent else m.head_dim)
    net.last = (net.put(f"{name}_o", net.rows, inner, net.model.hidden, values),)


def _grouped(net: _Net, name: str, pattern: Pattern) -> Iterator[str]:
    """Heads that share keys and values are rows of one product."""
    m, keys = net.model, net.keys(pattern)
    group, width = m.heads // m.kv_heads, m.head_dim
    qkv = net.put(f"{name}_qkv", net.rows, m.hidden, (m.heads + 2 * m.kv_heads) * width, net.last)
    for at in (f"{s}_{h}" for s in range(net.batch) for h in range(m.kv_heads)):
        scores = net.put(f"{name}_qk{at}", group * net.new, width, keys, (qkv,))
        yield net.put(f"{name}_pv{at}", group * net.new, keys, width, (scores,))


def _latent(net: _Net, name: str, pattern: Pattern) -> Iterator[str]:
    """Prefill expands all tokens' latent vectors; decode takes queries to them, and sums back."""
    m, rows, keys = net.model, net.rows, net.keys(pattern)
    latent = m.latent
    assert latent is not None
    queries = m.heads * latent.query
    q = net.put(f"{name}_q_a", rows, m.hidden, latent.q_rank, net.last) if latent.q_rank else ""
    q = net.put(f"{name}_q", rows, latent.q_rank or m.hidden, queries, (q,) if q else net.last)
    kv = net.put(f"{name}_kv_a", rows, m.hidden, latent.cached, net.last)
    if net.phase == "prefill":
        both = (
            q,
            net.put(
                f"{name}_kv_b", rows, latent.kv_rank, m.heads * (latent.nope + latent.value), (kv,)
            ),
        )
        for at in (f"{s}_{h}" for s in range(net.batch) for h in range(m.heads)):
            scores = net.put(f"{name}_qk{at}", net.new, latent.query, keys, both)
            yield net.put(f"{name}_pv{at}", net.new, keys, latent.value, (scores,))
        return
    heads = range(m.heads)
    absorbed = tuple(
        net.put(f"{name}_uk{h}", net.batch, latent.nope, latent.kv_rank, (q,)) for h in heads
    )
    sums = []
    for sequence in range(net.batch):
        scores = net.put(f"{name}_qk{sequence}", m.heads, latent.cached, keys, (*absorbed, kv))
        sums.append(net.put(f"{name}_pv{sequence}", m.heads, keys, latent.kv_rank, (scores,)))
    for head in heads:
        yield net.put(f"{name}_uv{head}", net.batch, latent.kv_rank, latent.value, tuple(sums))


def _mlp(net: _Net, name: str, rows: int, ffn: int, after: tuple[str, ...]) -> None:
    up = net.put(f"{name}_up", rows, net.model.hidden, (2 if net.model.gated else 1) * ffn, after)
    net.last = (net.put(f"{name}_down", rows, ffn, net.model.hidden, (up,)),)


def _experts(net: _Net, name: str) -> None:
    """Experts have equal shares of the tokens, but for one; those without a token do nothing."""
    experts, before = net.model.experts, net.last
    assert experts is not None
    router = net.put(f"{name}_router", net.rows, net.model.hidden, experts.routed, before)
    each, more = divmod(net.rows * experts.chosen, experts.routed)
    ends: list[str] = []
    for expert in range(experts.routed if each else more):
        _mlp(net, f"{name}_expert{expert}", each + (expert < more), experts.ffn, (router,))
        ends += net.last
    if experts.shared_ffn:
        _mlp(net, f"{name}_shared", net.rows, experts.shared_ffn, before)
        ends += net.last
    net.last = tuple(ends)
