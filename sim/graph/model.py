"""What a transformer is: frozen numbers read from the catalogue or from a Hugging Face
`config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sim.graph.batch import Pattern


class Latent(NamedTuple):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): all heads share one latent
    vector a token, of which keys and values are linear functions, and one rotated key.  Widths in
    elements."""

    kv_rank: int  # D_l: of the latent, what the cache holds
    rope: int  # D_r: of the rotated key, which the cache holds as well
    nope: int  # of each head's key and query that is not rotated
    value: int  # D_v: of each head's value
    q_rank: int = 0  # of the query's own latent; 0: queries come straight from the hidden state

    @property
    def cached(self) -> int:
        """Elements that the cache holds of a token in a layer."""
        return self.kv_rank + self.rope

    @property
    def query(self) -> int:
        """D_qk: a head's query and key."""
        return self.nope + self.rope

    @property
    def expanded(self) -> int:
        """Elements of key and value that one head makes of a token."""
        return self.query + self.value


class Stored(NamedTuple):
    """Number formats of a model's weights as they are published; "": 16 bits, or not said."""

    attention: str = ""
    mlp: str = ""  # dense and shared
    experts: str = ""
    told: str = "its card"  # where that is said
    # (layer, part, format) of what single layers have otherwise
    layers: tuple[tuple[int, str, str], ...] = ()


_NOT_SAID = Stored()


class Experts(NamedTuple):
    """A mixture of experts in place of an MLP: each token goes to `chosen` of `routed` experts, and
    to all shared."""

    routed: int
    chosen: int
    ffn: int  # width of one routed expert
    shared_ffn: int = 0  # width of all shared experts together
    first_dense: int = 0  # layers at the beginning that have a dense MLP


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer, as far as its ops' sizes go.

    `attention` is the pattern of the layers, repeated: "dense", "window" (the last `window_tokens`)
    or "blocksparse" (the last `window_tokens`, and one in `sparse_stride` of what lies before). Not
    modelled: what the numbers mean (quality).
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    latent: Latent | None = (
        None  # then every head has its own keys and values: kv_heads is heads, head_dim unused
    )
    experts: Experts | None = None
    gated: bool = True  # gate and up projections, as in SwiGLU; False: one up projection
    tied_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False  # of the output projection
    mlp_bias: bool = False  # of an MLP, or of the experts and the router
    qk_norm: bool = False
    norms: int = 2  # of a layer, beside those of queries and keys
    sinks: bool = False  # a learned logit a head that takes part in the softmax (gpt-oss)
    attention: tuple[str, ...] = ("dense",)
    window_tokens: int = 0
    sparse_stride: int = 0
    max_tokens: int = 0  # longest context the model was made for; 0: not said
    stored: Stored = _NOT_SAID
    routing: str = ""  # the measured profile of how popular its experts are (`sim.catalog`)
    source: str = ""
    notes: tuple[str, ...] = ()  # what its reader left out or took otherwise, for the user

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What queries see in the layers, repeated."""
        sizes = {
            "dense": (),
            "window": (self.window_tokens,),
            "blocksparse": (self.window_tokens, self.sparse_stride),
        }
        return tuple(Pattern(name, *sizes[name]) for name in self.attention)

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return min(self.experts.first_dense, self.layers) if self.experts else self.layers

    @property
    def attention_parameters(self) -> int:
        """Of one layer's attention, norms of its own and biases included."""
        d, heads = self.hidden, self.heads
        if self.latent:
            m = self.latent
            queries = (
                d * m.q_rank + m.q_rank + m.q_rank * heads * m.query
                if m.q_rank
                else d * heads * m.query
            )
            cached = d * m.cached + m.kv_rank + m.kv_rank * heads * (m.nope + m.value)
            return queries + cached + heads * m.value * d
        kv, q = self.kv_heads * self.head_dim, heads * self.head_dim
        biases = (
            (q + 2 * kv if self.qkv_bias else 0)
            + (d if self.o_bias else 0)
            + (heads if self.sinks else 0)
        )
        return d * (q + 2 * kv) + q * d + biases + (2 * self.head_dim if self.qk_norm else 0)

    def mlp_parameters(self, ffn: int) -> int:
        """Of an MLP, or of one expert, of width `ffn`."""
        up = 2 if self.gated else 1
        biases = up * ffn + self.hidden if self.mlp_bias else 0
        return (up + 1) * self.hidden * ffn + biases

    @property
    def parameters(self) -> int:
        """Number of parameters, norms and biases included."""
        return self._parameters(self.experts.routed if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Those that a token meets: of the experts, the ones it is sent to."""
        return self._parameters(self.experts.chosen if self.experts else 0)

    def _parameters(self, experts: int) -> int:
        total = self.layers * (self.attention_parameters + self.norms * self.hidden)
        total += self.dense_layers * self.mlp_parameters(self.ffn) if self.dense_layers else 0
        if self.experts:
            e = self.experts
            shared = self.mlp_parameters(e.shared_ffn) if e.shared_ffn else 0
            router = self.hidden * e.routed + (e.routed if self.mlp_bias else 0)
            total += (self.layers - self.dense_layers) * (
                experts * self.mlp_parameters(e.ffn) + shared + router
            )
        return total + self.vocab * self.hidden * (1 if self.tied_embeddings else 2) + self.hidden
