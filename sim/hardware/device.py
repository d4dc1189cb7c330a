"""What an accelerator is: frozen numbers, each with a parent.  Adding one is adding a YAML file to
`sim/catalog/devices`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from sim.facts.assumption import Range
from sim.hardware.tiling import Tiles


class Fact(NamedTuple):
    """Where a number comes from.

    `tag` is READ (in a public source), CHECKED (re-derived and equal), INFER (derived, arithmetic
    in `source`), RECALLED (unverified), OWN (its writer's word) or FITTED (chosen so that the model
    meets `source`; `residual` says how well it does). `range` is None for a number of a data sheet,
    which varies by nothing.
    """

    value: str
    tag: str
    source: str
    residual: str = ""
    range: Range | None = None


SURE = ("READ", "CHECKED", "FITTED", "INFER", "RECALLED", "OWN", "CHANGED")  # the surest first


OWN_KERNELS = (
    "matmul",
    "attention",
    "absorb",
    "naive",
    "head_matmul",
    "experts",
)  # kinds that a card may say more of


# Those that a scenario may change: experts also by how their weights are stored.
CHANGEABLE = (*OWN_KERNELS, "experts@fp8", "experts@int8", "experts@fp4", "experts@int4")

# What a card says of the engines that serve on it, and not of the chip.
ENGINE_LIMITS = ("max_batch", "max_batched_tokens")


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


class CopyEngine(NamedTuple):
    """A way to fill L2 ahead of use; the fields are those of `Device`, less `prefetch_`."""

    bytes_per_s: float
    shared_bytes_per_s: float | None = None
    overhead_s: float = 0.0
    tail_s: float | None = None
    tail_share: float | None = None
    hbm_share: float | None = None


@dataclass(frozen=True)
class Device:
    """One accelerator as seen by a roofline with a launch cost, an HBM and an L2.

    Rates are what a well-written kernel reaches: a datasheet peak times an efficiency, both in the
    catalogue. Not modelled: clocks, thermals, sparsity, tile quantisation, bank conflicts.
    """

    name: str
    matrix_flop_per_s: Mapping[str, float]  # dense peak by dtype: fp32, fp16, bf16, fp8, int8, ...
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
    # Of the copy engine that fills L2, the one chosen where a card tells of several.
    prefetch_bytes_per_s: float = float("inf")  # of one stream of prefetches
    prefetch_shared_bytes_per_s: float | None = None  # of several together; None: as of one
    prefetch_overhead_s: float = 0.0  # issue cost of one prefetch on its own stream
    prefetch_tail_s: float | None = None  # what a slow issue takes instead,
    prefetch_tail_share: float | None = None  # and how many of them are slow; None: none
    # Of the HBM rate, while kernels and prefetches move together; None: all of it.
    prefetch_hbm_share: float | None = None
    prefetch_engines: Mapping[str, CopyEngine] = field(default_factory=dict)  # others, by name
    l2_set_aside_bytes: float | None = None  # of `l2_bytes`: only for what is prefetched
    # Of a GEMM: the tile of the result that a core computes at a time, and the cores; None: its
    # operands are read once, whatever the L2.
    tile_rows: float | None = None
    tile_columns: float | None = None
    cores: float | None = None
    power_w: float | None = None  # at work, as its maker rates it
    idle_power_w: float | None = None  # on and with nothing to do; None: no figure was found
    price_per_hour: float | None = None  # dollars, as listed in `facts`
    # Sequences and new tokens that a serving engine takes in one iteration where nobody says more;
    # what is here without a card's word is what vLLM takes on any device.
    max_batch: int = 256
    max_batched_tokens: int = 2048
    measured_on: tuple[str, ...] = ()  # other devices, whose kernels its shares of peaks are of
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def tiles(self) -> Tiles | None:
        """How it computes GEMMs, if that is known."""
        if not (self.tile_rows and self.tile_columns and self.cores):
            return None
        return Tiles(self.tile_rows, self.tile_columns, int(self.cores))

    @property
    def l2_common_bytes(self) -> float:
        """L2 that whatever is read passes through."""
        return self.l2_bytes - (self.l2_set_aside_bytes or 0.0)

    @cached_property
    def tags(self) -> Mapping[str, str]:
        """The least sure tag of the card's numbers: by kind of kernel with numbers of its own, and
        under "" of all others."""
        found: dict[str, str] = {}
        for key, fact in self.facts.items():
            if key.startswith("prefetch_engines."):
                continue  # not the one that is used
            kind = key.split(".")[1] if key.startswith("kernels.") else ""
            found[kind] = max(found.get(kind, SURE[0]), fact.tag, key=SURE.index)
        return found


def slower(device: Device, factor: float) -> Device:
    """The same device as a straggler: its arithmetic and its HBM run `factor` times slower."""
    if factor == 1.0:
        return device
    speed, rates = 1 / factor, device.matrix_flop_per_s
    return replace(
        device,
        matrix_flop_per_s={dtype: rate * speed for dtype, rate in rates.items()},
        vector_flop_per_s=device.vector_flop_per_s * speed,
        hbm_bytes_per_s=device.hbm_bytes_per_s * speed,
    )
