"""What an op costs on a device: plain arithmetic, no clock.

`cost` is the one place that composes it. Played ops, priced steps, the compiled step time,
calibration and the closed form (`alone`) all ask it, and it asks the tiers, which are rows of
`TIERS`: the first that covers the op's kind answers, or passes on to the next. A measured table or
a recorded duration is one more row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple, Protocol

import numpy as np

from sim.hardware.device import Device, Kernel
from sim.hardware.tiling import operand_bytes

# A format the matrix engine lacks is computed in the next wider one it has.
_WIDER = {
    "fp4": ("fp8", "int8", "fp16", "bf16"),
    "int4": ("int8", "fp8", "fp16", "bf16"),
    "fp8": ("int8", "fp16", "bf16"),
    "int8": ("fp8", "fp16", "bf16"),
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "fp32": ("fp16", "bf16"),
}


# Kinds without a kernel of their own on a card are taken to be like these.
_LIKE = {
    "absorb": "attention",
    "naive": "attention",
    "prepare": "attention",
    "head_matmul": "matmul",
    "rebuild": "matmul",
    "experts": "matmul",
}
_UNKNOWN = Kernel()
_8BIT = ("fp8", "int8")


class Asks(Protocol):
    """What the cost of an op depends on: an op of a graph (`sim.graph`), or `Sizes`."""

    @property
    def name(self) -> str:
        """Of the op."""

    @property
    def kernel(self) -> str:
        """What a card calls the kernels that do it."""

    @property
    def engine(self) -> str:
        """matrix, vector or none."""

    @property
    def dtype(self) -> str:
        """Of the arithmetic."""

    @property
    def flop(self) -> Any:
        """Floating-point operations."""

    @property
    def lone_flop(self) -> Any:
        """Those of them that cost as much each as a whole tile of queries."""

    @property
    def beside_flop(self) -> Any:
        """Those of `flop` that are done while the op waits for what it reads."""

    @property
    def vector_flop(self) -> Any:
        """FLOP of the vector engine that an op of the matrix engine has as well, done likewise."""

    @property
    def hbm_bytes(self) -> Any:
        """Weights and KV-cache that it reads."""

    @property
    def buffer_bytes(self) -> Any:
        """Activations that it reads and writes."""

    @property
    def gemm(self) -> tuple[float, float, float] | None:
        """Of a GEMM: rows and columns of its result, and bytes of a row of its input."""

    @property
    def launch(self) -> bool:
        """Whether the kernel has to be started."""


class Sizes(NamedTuple):
    """What an op asks, where there is no op of a graph to ask: sizes are numbers, or columns of
    them."""

    kernel: str
    engine: str
    dtype: str
    flop: Any = 0.0
    lone_flop: Any = 0.0
    hbm_bytes: Any = 0.0
    buffer_bytes: Any = 0.0
    launch: bool = True
    name: str = ""
    beside_flop: Any = 0.0
    vector_flop: Any = 0.0
    gemm: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, op: Asks, **sizes: Any) -> Sizes:
        """The same op in other sizes, which are 0 where none is given."""
        return cls(
            kernel=op.kernel,
            engine=op.engine,
            dtype=op.dtype,
            launch=op.launch,
            name=op.name,
            **sizes,
        )


SIZES = ("flop", "lone_flop", "beside_flop", "vector_flop", "hbm_bytes", "buffer_bytes")


class Alone(NamedTuple):
    """Seconds that an op takes with the chip to itself, by term; numbers, or columns of them.

    A fixed time is followed by arithmetic, HBM and L2 traffic in overlap, perfect but for the time
    that is not hidden.  Of arithmetic that is done beside, what fits into that time does not count.
    """

    fixed_s: Any
    unhidden_s: Any
    arithmetic_s: Any
    hbm_s: Any
    l2_s: Any

    @property
    def seconds(self) -> Any:
        """All of it."""
        return self.fixed_s + self.unhidden_s + np.max(np.broadcast_arrays(*self[2:]), axis=0)

    @property
    def bound(self) -> str:
        """What limits one op."""
        parts = {"compute": self.arithmetic_s, "HBM": self.hbm_s, "L2": self.l2_s}
        return max(parts, key=parts.__getitem__) if self.seconds > 2 * self.fixed_s else "latency"


class OpCost(NamedTuple):
    """What an op costs: numbers, or columns of them."""

    fixed_s: Any  # before its first byte moves
    arithmetic_s: Any  # if every operand were on chip
    hbm_limit: Any = inf  # bytes/s of its own reads from HBM; inf: whatever the port gives
    l2_limit: Any = inf  # the same of L2
    unhidden: Any = 0.0  # share of the shorter of arithmetic and HBM time that shows
    beside_s: Any = 0.0  # arithmetic that is done while the op waits for what it reads
    sure: str = ""  # what is known of the numbers, as the tag of a `Fact`
    tier: str = ""  # which tier answered

    def alone(self, hbm_bytes: Any, l2_bytes: Any, device: Device) -> Alone:
        """The terms of an op that moves so many bytes, with the ports to itself."""
        hbm_s = hbm_bytes / _least(hbm_bytes_per_s(device), self.hbm_limit)
        l2_s = l2_bytes / _least(device.l2_bytes_per_s, self.l2_limit)
        unhidden_s = self.unhidden * _least(self.arithmetic_s, hbm_s)
        shows_s = -_least(unhidden_s - self.beside_s, 0.0)
        return Alone(self.fixed_s, unhidden_s, self.arithmetic_s + shows_s, hbm_s, l2_s)


class Tier(NamedTuple):
    """One way to know what an op costs.

    `covers` says by kind of kernel whether it may answer. `cost` answers for one op, or says None
    and passes on to the next. The answers of a `straight` tier are straight lines over the sizes:
    its arithmetic is in proportion to the FLOP of each sort, nothing else depends on them, and it
    passes nothing on. Where another tier may answer, costs are looked up size by size.
    """

    name: str
    covers: Callable[[str, Device], bool]
    cost: Callable[[Asks, Device], OpCost | None]
    straight: bool = False


def cost(op: Asks, device: Device) -> OpCost:
    """What `op` costs on `device`; of columns of sizes, columns.  ValueError if no tier knows."""
    if isinstance(op.flop, np.ndarray):
        return _straight(op, device) if is_straight(op, device) else _one_by_one(op, device)
    for tier in _covering(op, device):
        found = tier.cost(op, device)
        if found is not None:
            return OpCost(*found[:-1], tier.name)
    raise ValueError(f"no tier knows what {op.kernel} costs on {device.name}")


def is_straight(op: Asks, device: Device) -> bool:
    """Whether what ops like `op` cost is a straight line over their sizes (see `Tier`)."""
    return next((tier.straight for tier in _covering(op, device)), False)


def _covering(op: Asks, device: Device) -> Iterator[Tier]:
    return (tier for tier in TIERS if tier.covers(op.kernel, device))


def _straight(op: Asks, device: Device) -> OpCost:
    """Columns as one FLOP's cost times their number: sizes, or coefficients of sizes."""
    one = cost(Sizes.of(op, flop=1.0), device)
    lone = cost(Sizes.of(op, flop=1.0, lone_flop=1.0), device)
    beside = cost(Sizes.of(op, flop=1.0, beside_flop=1.0, vector_flop=1.0), device)
    each_s, more_s = one.arithmetic_s, lone.arithmetic_s - one.arithmetic_s
    vector_s = beside.beside_s - each_s
    return one._replace(
        arithmetic_s=(op.flop - op.beside_flop) * each_s + op.lone_flop * more_s,
        beside_s=op.beside_flop * each_s + op.vector_flop * vector_s,
    )


def _one_by_one(op: Asks, device: Device) -> OpCost:
    sizes = np.broadcast_arrays(*(getattr(op, name) for name in SIZES))
    rows = zip(*(column.tolist() for column in sizes))
    found = [cost(Sizes.of(op, **dict(zip(SIZES, row))), device) for row in rows]
    columns = map(np.array, zip(*(each[:-2] for each in found)))
    return OpCost._make([*columns, *found[-1][-2:]])


def alone(op: Asks, device: Device) -> Alone:
    """Closed form of an uncontended op that finds nothing but its activations in L2."""
    hbm_bytes, l2_bytes = traffic(op.hbm_bytes, op.buffer_bytes, device)
    return cost(op, device).alone(hbm_bytes + read_again(op, device), l2_bytes, device)


def traffic(hbm_bytes: Any, buffer_bytes: Any, device: Device) -> tuple[Any, Any]:
    """Bytes over HBM and over L2: buffers that layers reuse stay in L2 beside the rest if what the
    op touches of them fits, else they are in HBM."""
    fits = buffer_bytes <= device.l2_common_bytes
    return hbm_bytes + buffer_bytes * (1.0 - fits), buffer_bytes * fits


def read_again(op: Asks, device: Device, rows: Any = None, weight_bytes: Any = None) -> Any:
    """Bytes over HBM beyond those that it reads once, for want of L2 (`sim.hardware.tiling`); of
    an op of other `rows`, its weights given, where they are columns."""
    if op.gemm is None or device.tiles is None or not op.hbm_bytes:
        return 0.0
    own_rows, columns, row_bytes = op.gemm
    rows = own_rows if rows is None else np.maximum(rows, 1.0)
    weights = op.hbm_bytes if weight_bytes is None else np.maximum(weight_bytes, 1.0)
    once = rows * row_bytes + weights
    l2_bytes = device.l2_common_bytes
    return operand_bytes(rows, columns, rows * row_bytes, weights, l2_bytes, device.tiles) - once


def _least(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return min(a, b)


def told_as(device: Device, kind: str) -> str:
    """The kind under which the card tells of kernels of `kind`, which may say how weights are
    stored: experts@int4."""
    plain, packed, _ = kind.partition("@")
    if kind in device.kernels or not packed:
        return kind if kind in device.kernels else _LIKE.get(kind, kind)
    return told_as(device, plain)


def kernel_of(device: Device, kind: str) -> Kernel:
    """What the card says of kernels of `kind`."""
    return device.kernels.get(told_as(device, kind), _UNKNOWN)


def with_kernel(device: Device, kind: str, **numbers: float | None) -> Device:
    """`device`, with some numbers of its kernels of `kind` set."""
    own = kernel_of(device, kind)._replace(**numbers)
    return replace(device, kernels={**device.kernels, kind: own})


def multiplied_in(device: Device, dtype: str) -> str:
    """The format whose rate a device multiplies `dtype` at: that, or the nearest that it has and
    that holds it; ValueError if it has none."""
    for name in (dtype, *_WIDER[dtype]):
        if name in device.matrix_flop_per_s:
            return name
    raise ValueError(
        f"{device.name} multiplies none of {', '.join((dtype, *_WIDER[dtype]))}; it has rates for "
        f"{', '.join(device.matrix_flop_per_s)}: add one to its card, or set `precision`"
    )


def matrix_flop_per_s(device: Device, dtype: str, kind: str = "matmul") -> float:
    """Rate that a large kernel of `kind` reaches in `dtype`, or in the nearest format the device
    multiplies natively."""
    own = kernel_of(device, kind)
    share = device.matrix_efficiency if own.matrix_efficiency is None else own.matrix_efficiency
    name = multiplied_in(device, dtype)
    narrow = own.matrix_efficiency_8bit if name in _8BIT else None
    return device.matrix_flop_per_s[name] * (share if narrow is None else narrow)


def hbm_bytes_per_s(device: Device) -> float:
    """Rate at which kernels stream from HBM."""
    return device.hbm_bytes_per_s * device.hbm_efficiency


def roofline(op: Asks, device: Device) -> OpCost:
    """By the card alone: its peaks times their efficiencies, and a fixed time by kind."""
    if op.kernel == "prefetch":
        return OpCost(device.prefetch_overhead_s, 0.0, device.prefetch_bytes_per_s)
    kind = told_as(device, op.kernel)
    own = device.kernels.get(kind, _UNKNOWN)
    matrix, arithmetic_s, fixed_s = op.engine == "matrix", 0.0, own.overhead_s
    beside_s = op.vector_flop / device.vector_flop_per_s if op.vector_flop else 0.0
    if matrix and op.flop:
        rate = matrix_flop_per_s(device, op.dtype, op.kernel)
        tiles = op.flop + ((1.0 if own.tile is None else own.tile) - 1.0) * op.lone_flop
        arithmetic_s = (tiles - op.beside_flop) / rate
        beside_s += op.beside_flop / rate
    elif op.engine == "vector":
        arithmetic_s = op.flop / device.vector_flop_per_s
    if fixed_s is None:
        fixed_s = device.kernel_overhead_s if matrix else device.vector_overhead_s
    return OpCost(
        fixed_s if op.launch else 0.0,
        arithmetic_s,
        inf if own.hbm_efficiency is None else device.hbm_bytes_per_s * own.hbm_efficiency,
        unhidden=0.0 if own.overlap is None else 1.0 - own.overlap,
        beside_s=beside_s,
        sure=device.tags.get(kind) or device.tags.get("", ""),
    )


TIERS = [Tier("roofline", lambda kernel, device: True, roofline, straight=True)]
