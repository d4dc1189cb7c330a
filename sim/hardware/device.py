"""What an accelerator is: frozen numbers, each with a parent.  Adding one is adding a YAML file to
`sim/catalog/devices`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Fact(NamedTuple):
    """Where a number comes from.

    `tag` is READ (in a public source), CHECKED (re-derived and equal), INFER (derived, arithmetic
    in `source`), RECALLED (unverified) or FITTED (chosen so that the model meets `source`;
    `residual` says how well it does).
    """

    value: str
    tag: str
    source: str
    residual: str = ""


OWN_KERNELS = (
    "matmul",
    "attention",
    "absorb",
    "naive",
    "head_matmul",
    "experts",
)  # kinds that a card may say more of


class Kernel(NamedTuple):
    """What is known of one kind of kernel where it differs from others; None: as they are, or no
    such effect."""

    overhead_s: float | None = None
    matrix_efficiency: float | None = None
    hbm_efficiency: float | None = None  # of its own reads
    overlap: float | None = (
        None  # share of the shorter of its arithmetic and HBM time that the longer hides; None: all
    )
    matrix_efficiency_8bit: float | None = (
        None  # the same in FP8 and INT8; None: as in other formats
    )
    tile: float | None = (
        None  # queries computed for a sequence with one, where a pass has longer ones too
    )


@dataclass(frozen=True)
class Device:
    """One accelerator as seen by a roofline with a launch cost, an HBM and an L2.

    Rates are what a well-written kernel reaches: a datasheet peak times an efficiency, both in the
    catalogue. Not modelled: clocks, thermals, sparsity, tile quantisation, bank conflicts.
    """

    name: str
    matrix_flop_per_s: Mapping[str, float]  # dense peak by dtype: fp16, bf16, fp8, int8, int4
    vector_flop_per_s: float
    hbm_bytes: float
    hbm_bytes_per_s: float  # datasheet peak
    l2_bytes: float
    l2_bytes_per_s: float
    kernel_overhead_s: float  # fixed cost of a matrix kernel or an attention: launch, fill, drain
    vector_overhead_s: float  # the same for norms, RoPE, activations, sampling
    matrix_efficiency: float = 1.0  # share of the matrix peak that a large GEMM reaches
    hbm_efficiency: float = 1.0  # share of the HBM peak that a streaming kernel reaches
    # What is known of some devices only, by kind of op. "absorb/catlass" is one of several that a
    # scenario may choose.
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    prefetch_bytes_per_s: float = float("inf")  # of the copy engine that fills L2
    prefetch_overhead_s: float = 0.0  # issue cost of one prefetch on its own stream
    power_w: float | None = None
    price_per_hour: float | None = None  # dollars, as listed in `facts`
    facts: Mapping[str, Fact] = field(default_factory=dict)
