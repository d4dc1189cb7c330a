"""A neural network as the matrix products it is made of: what a systolic array is asked for.

A layer multiplies X[m, n] by W[n, k]. Whatever is no matrix product (normalisation, activation,
pooling, softmax) is left out, and takes no time: its place is kept by the dependencies alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sim.text.outside import bounded


@dataclass(frozen=True, slots=True)
class GemmLayer:
    """X[m, n] times W[n, k].

    A convolution is one by im2col: m are the output positions of the whole batch, n = kernel_area x
    input channels. `after` names earlier layers whose output it reads. `raw_input`: X is the
    DNN's input and comes from memory.
    """

    name: str
    m: int
    n: int
    k: int
    kernel_area: int = 1  # height x width: so many elements of X are one byte of memory
    after: tuple[str, ...] = ()
    raw_input: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.m * self.n * self.k


@dataclass(frozen=True)
class Dnn:
    """Layers in the order in which they are placed, all run `repeats` times over."""

    name: str
    layers: tuple[GemmLayer, ...]
    repeats: int = 1  # more for a stack of equal encoders

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name} has no layers")
        if self.repeats < 1:
            raise ValueError(f"{self.name} is repeated {self.repeats} times; the least is once")
        known: set[str] = set()
        for layer in self.layers:
            if min(layer.m, layer.n, layer.k, layer.kernel_area) < 1:
                raise ValueError(
                    f"layer {layer.name} of {self.name} has a size of zero: "
                    f"{layer.m} x {layer.n} x {layer.k}, kernel area {layer.kernel_area}"
                )
            if layer.name in known:
                raise ValueError(f"{self.name} has two layers called {layer.name}")
            missing = [name for name in layer.after if name not in known]
            if missing:
                raise ValueError(
                    f"layer {layer.name} of {self.name} waits for {missing}, not among the "
                    "layers before it"
                )
            known.add(layer.name)
            for size in (layer.m, layer.n, layer.k):
                bounded("size", size, f"layer {layer.name} of {self.name}")
        bounded("macs", self.macs, self.name)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all repeats."""
        return self.repeats * sum(layer.macs for layer in self.layers)

    @property
    def ops(self) -> int:
        """Operations as throughput counts them: a multiplication and an addition are two."""
        return 2 * self.macs
