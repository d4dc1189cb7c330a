"""What an op costs on a device: plain arithmetic, no clock."""

from __future__ import annotations

from dataclasses import replace

from sim.hardware.device import Device, Kernel

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
_LIKE = {"absorb": "attention", "naive": "attention", "head_matmul": "matmul", "experts": "matmul"}
_UNKNOWN = Kernel()
_8BIT = ("fp8", "int8")


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


def matrix_flop_per_s(device: Device, dtype: str, kind: str = "matmul") -> float:
    """Rate that a large kernel of `kind` reaches in `dtype`, or in the nearest format the device
    multiplies natively."""
    own = kernel_of(device, kind)
    share = device.matrix_efficiency if own.matrix_efficiency is None else own.matrix_efficiency
    for name in (dtype, *_WIDER[dtype]):
        if name in device.matrix_flop_per_s:
            narrow = own.matrix_efficiency_8bit if name in _8BIT else None
            return device.matrix_flop_per_s[name] * (share if narrow is None else narrow)
    raise ValueError(f"{device.name} multiplies none of {dtype}, {', '.join(_WIDER[dtype])}")


def arithmetic_seconds(
    device: Device,
    engine: str,
    dtype: str,
    flop: float,
    kind: str = "matmul",
    lone_flop: float = 0.0,
) -> float:
    """Seconds of arithmetic of one kernel if every operand were already on chip.

    `lone_flop` of an attention costs as much for each as a whole tile of queries.
    """
    if not flop or engine == "none":
        return 0.0
    if engine != "matrix":
        return flop / device.vector_flop_per_s
    tile = kernel_of(device, kind).tile or 1.0
    return (flop + (tile - 1.0) * lone_flop) / matrix_flop_per_s(device, dtype, kind)


def overhead_seconds(device: Device, kind: str, engine: str) -> float:
    """Fixed cost of starting one kernel (or prefetch), paid before its first byte moves."""
    if kind == "prefetch":
        return device.prefetch_overhead_s
    own = kernel_of(device, kind).overhead_s
    if own is not None:
        return own
    return device.kernel_overhead_s if engine == "matrix" else device.vector_overhead_s


def unhidden_share(device: Device, kind: str) -> float:
    """Share of the shorter of a kernel's arithmetic and HBM time that the longer does not hide."""
    overlap = kernel_of(device, kind).overlap
    return 0.0 if overlap is None else 1.0 - overlap


def hbm_bytes_per_s(device: Device) -> float:
    """Rate at which kernels stream from HBM."""
    return device.hbm_bytes_per_s * device.hbm_efficiency


def hbm_limit(device: Device, kind: str) -> float:
    """Ceiling of one kernel's own reads from HBM, in bytes/s; inf: whatever the port gives."""
    own = kernel_of(device, kind).hbm_efficiency
    return float("inf") if own is None else device.hbm_bytes_per_s * own


def roofline_seconds(
    device: Device,
    engine: str,
    dtype: str,
    kind: str,
    flop: float,
    hbm_bytes: float,
    l2_bytes: float = 0.0,
    lone_flop: float = 0.0,
) -> tuple[float, str]:
    """Closed form of one uncontended kernel: (seconds, what bounds it).

    Fixed cost, then arithmetic, HBM and L2 in overlap, perfect but for what a GEMM does not hide.
    """
    parts = {
        "compute": arithmetic_seconds(device, engine, dtype, flop, kind, lone_flop),
        "HBM": hbm_bytes / min(hbm_bytes_per_s(device), hbm_limit(device, kind)),
        "L2": l2_bytes / device.l2_bytes_per_s,
    }
    fixed = overhead_seconds(device, kind, engine)
    bound = max(parts, key=lambda name: parts[name])
    total = (
        fixed + unhidden_share(device, kind) * min(parts["compute"], parts["HBM"]) + parts[bound]
    )
    return total, bound if total > 2 * fixed else "latency"
