"""What an op costs on a device: plain arithmetic, no clock."""

from __future__ import annotations

from sim.hardware.device import Device

# A format the matrix engine lacks is computed in the next wider one it has.
_WIDER = {"int4": ("int8", "fp8", "fp16", "bf16"), "fp8": ("int8", "fp16", "bf16"), "int8": ("fp8", "fp16", "bf16"),
          "fp16": ("bf16",), "bf16": ("fp16",), "fp32": ("fp16", "bf16")}  # fmt: skip


def matrix_flop_per_s(device: Device, dtype: str) -> float:
    """Rate that a large GEMM reaches in `dtype`, or in the nearest format the device multiplies natively."""
    for name in (dtype, *_WIDER[dtype]):
        if name in device.matrix_flop_per_s:
            return device.matrix_flop_per_s[name] * device.matrix_efficiency
    raise ValueError(f"{device.name} multiplies none of {dtype}, {', '.join(_WIDER[dtype])}")


def arithmetic_seconds(device: Device, engine: str, dtype: str, flop: float) -> float:
    """Seconds of arithmetic of one kernel if every operand were already on chip."""
    if not flop or engine == "none":
        return 0.0
    return flop / (matrix_flop_per_s(device, dtype) if engine == "matrix" else device.vector_flop_per_s)


def overhead_seconds(device: Device, kind: str, engine: str) -> float:
    """Fixed cost of starting one kernel (or prefetch), paid before its first byte moves."""
    if kind == "prefetch":
        return device.prefetch_overhead_s
    return device.kernel_overhead_s if engine == "matrix" else device.vector_overhead_s


def hbm_bytes_per_s(device: Device) -> float:
    """Rate at which kernels stream from HBM."""
    return device.hbm_bytes_per_s * device.hbm_efficiency


def hbm_limit(device: Device, kind: str) -> float:
    """Ceiling of one kernel's own reads from HBM, in bytes/s; inf: whatever the port gives."""
    if kind == "attention" and device.attention_hbm_efficiency is not None:
        return device.hbm_bytes_per_s * device.attention_hbm_efficiency
    return float("inf")


def roofline_seconds(
    device: Device, engine: str, dtype: str, kind: str, flop: float, hbm_bytes: float, l2_bytes: float = 0.0
) -> tuple[float, str]:
    """Closed form of one uncontended kernel: (seconds, what bounds it).

    Fixed cost, then arithmetic, HBM and L2 in perfect overlap.
    """
    parts = {
        "compute": arithmetic_seconds(device, engine, dtype, flop),
        "HBM": hbm_bytes / min(hbm_bytes_per_s(device), hbm_limit(device, kind)),
        "L2": l2_bytes / device.l2_bytes_per_s,
    }
    fixed = overhead_seconds(device, kind, engine)
    bound = max(parts, key=lambda name: parts[name])
    return fixed + parts[bound], bound if parts[bound] > fixed else "latency"
