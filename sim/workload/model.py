"""What a transformer is: frozen numbers read from the catalogue or from a Hugging Face `config.json`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A dense decoder-only transformer, as far as its ops' sizes go.

    `attention` is the pattern of the layers, repeated: "dense", "window" (the last `window_tokens`) or "blocksparse"
    (the last `window_tokens`, and one in `sparse_stride` of what lies before). Not modelled: what the numbers mean
    (quality).
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True  # gate and up projections, as in SwiGLU; False: one up projection
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    attention: tuple[str, ...] = ("dense",)
    window_tokens: int = 0
    sparse_stride: int = 0
    max_tokens: int = 0  # longest context the model was made for; 0: not said
    source: str = ""

    @property
    def parameters(self) -> int:
        """Number of parameters, norms and biases included."""
        kv, q = self.kv_heads * self.head_dim, self.heads * self.head_dim
        attention = self.hidden * (q + 2 * kv) + q * self.hidden + (q + 2 * kv if self.qkv_bias else 0)
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        mlp = (3 if self.gated else 2) * self.hidden * self.ffn
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + norms + mlp) + embeddings + self.hidden
