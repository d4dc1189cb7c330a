"""Number formats, and the bytes of one number in each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "fp4": 0.5}
Part = Literal["weights", "attention", "experts"]  # of a model's weights


@dataclass(frozen=True)
class Precision:
    """Number formats: of stored weights, of what enters a GEMM, of the KV-cache, of the residual
    and messages; and, where they differ from the other weights, of the experts' and of attention's.

    Embedding, LM head, norms and router are never narrower than messages.
    """

    weights: str = "fp16"
    activations: str = "fp16"
    kv: str = "fp16"
    communication: str = "fp16"
    experts: str | None = None
    attention: str | None = None
    # (layer, part, format) of the weights of single layers that are stored otherwise
    layers: tuple[tuple[int, Part, str], ...] = ()

    def of_layer(self, index: int) -> Precision:
        """The formats of one layer."""
        own = {part: dtype for layer, part, dtype in self.layers if layer == index}
        if not own:
            return self
        return replace(
            self,
            weights=own.get("weights", self.weights),
            attention=own.get("attention", self.stored("attention")),
            experts=own.get("experts", self.stored("experts")),
            layers=(),
        )

    def stored(self, part: Part = "weights") -> str:
        """Format in which a part's weights are stored."""
        return getattr(self, part) or self.weights

    def packed(self, part: Part = "weights") -> str:
        """The same where a GEMM has to unpack it, else nothing."""
        stored = self.stored(part)
        return stored if BYTES[stored] < BYTES[self.activations] else ""

    def arithmetic(self, part: Part = "weights") -> str:
        """Format in which a GEMM multiplies: the wider of weights and activations (int4 weights are
        expanded)."""
        return max((self.stored(part), self.activations), key=lambda dtype: BYTES[dtype])
