"""Number formats, and the bytes of one number in each."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "fp4": 0.5}


@dataclass(frozen=True)
class Precision:
    """Number formats: of stored weights, of what enters a GEMM, of the KV-cache, of the residual
    and messages, and of the experts' weights (None: as the others)."""

    weights: str = "fp16"
    activations: str = "fp16"
    kv: str = "fp16"
    communication: str = "fp16"
    experts: str | None = None

    def packed(self, stored: str) -> str:
        """`stored`, where a GEMM has to unpack it, else nothing."""
        return stored if BYTES[stored] < BYTES[self.activations] else ""

    @property
    def arithmetic(self) -> str:
        """Format in which a GEMM multiplies: the wider of weights and activations (int4 weights are
        expanded)."""
        return max((self.weights, self.activations), key=lambda dtype: BYTES[dtype])

    @property
    def expert_arithmetic(self) -> str:
        """The same of the experts' GEMMs."""
        return max((self.experts or self.weights, self.activations), key=lambda dtype: BYTES[dtype])
