"""A device's efficiencies, fitted to measured kernels: GEMMs, small vector kernels, attention.

The tables are layer profiles of one decoder layer in LLMServingSim's format: microseconds by new
tokens, or for attention by (prefill chunk, its cached tokens, decode sequences, their cached
tokens). Each constant is fitted to the rows in which it shows; `errors` says how all rows are met,
those that were left out too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.calibrate.tables import csv_rows
from sim.calibrate.work import BF16, Measured, best, line, work_of
from sim.graph.batch import Batch, Sequences
from sim.graph.graph import Op
from sim.graph.model import Model
from sim.graph.parallel import Parallel
from sim.graph.transformer import transformer
from sim.hardware.cost import Asks, with_kernel
from sim.hardware.device import Device

MEMORY_BOUND, DENSE_TOKENS = 16, 2048  # tokens
RESIDENT_TOKENS = 1024  # vector kernels above spill from L2
_GEMMS = {"qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate_up", "down_proj": "down"}
_VECTORS = {"layernorm": "mlp_norm", "act_fn": "act", "rotary_emb": "rope"}
_TILES = (1.0, 16.0, 32.0, 64.0, 128.0)


class Kernel(NamedTuple):
    """One measured kernel: what our graph says it does, and what it took."""

    family: str  # gemm, vector, decode, prefill, mixed, lm_head
    tokens: int
    op: Asks
    seconds: float


def profile(
    model: Model, tensor: int, dense: Path, attention: Path, head: Path | None = None
) -> list[Kernel]:
    """The rows of a profile that our graph has an op for."""
    found = []
    for row in csv_rows(dense):
        name, tokens = row["layer"], int(row["tokens"])
        op = {**_GEMMS, **_VECTORS}.get(name)
        if op:
            batch = Batch((Sequences(1, tokens, 0),), 1)
            family = "gemm" if name in _GEMMS else "vector"
            found.append(_kernel(family, model, tensor, batch, op, float(row["time_us"])))
    for row in csv_rows(attention):
        chunk, cached, count, context = (
            int(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        )
        groups = [Sequences(1, chunk, cached)] * (chunk > 0) + [Sequences(count, 1, context)] * (
            count > 0
        )
        family = "mixed" if len(groups) > 1 else "prefill" if chunk else "decode"
        found.append(
            _kernel(
                family, model, tensor, Batch(tuple(groups), 1), "attention", float(row["time_us"])
            )
        )
    for row in csv_rows(head) if head else ():
        if row["layer"] == "lm_head":
            batch = Batch((Sequences(int(row["sequences"]), 1, 0),), int(row["sequences"]))
            found.append(_kernel("lm_head", model, tensor, batch, "lm_head", float(row["time_us"])))
    return found


def _kernel(
    family: str, model: Model, tensor: int, batch: Batch, name: str, microseconds: float
) -> Kernel:
    op = _op(model, tensor, batch.tokens, batch.logits, name)
    if op.work is not None:
        op = op.attending(replace(op.work, sequences=batch.groups))
    return Kernel(family, int(batch.tokens), op, microseconds * 1e-6)


def columns(kernels: Sequence[Kernel]) -> Measured:
    """Kernels of one kind as rows."""
    seconds = np.array([kernel.seconds for kernel in kernels])
    return Measured((work_of([kernel.op for kernel in kernels]),), (), seconds)


@cache
def _op(model: Model, tensor: int, tokens: float, logits: float, name: str) -> Op:
    """That of a pass of so many new tokens, which only an attention tells apart."""
    batch = Batch((Sequences(tokens, 1, 0),), logits)
    layers = transformer(model, BF16, Parallel(tensor), batch).layers
    return layers[-1 if name == "lm_head" else 1].op(name)


def fit(kernels: Sequence[Kernel], device: Device) -> Device:
    """`device` with the efficiencies and overheads of least mean relative error."""

    def some(*families: str, least: int = 0, most: int = DENSE_TOKENS) -> Measured:
        return columns([k for k in kernels if k.family in families and least <= k.tokens <= most])

    small = some("gemm", most=MEMORY_BOUND)
    overhead, per_byte = line(small.own[0].hbm_bytes, small.seconds, small.seconds)
    device = replace(
        device,
        kernel_overhead_s=overhead,
        hbm_efficiency=1 / per_byte / device.hbm_bytes_per_s,
        matrix_efficiency=1.0,
    )
    share, overlap = best(
        some("gemm", least=MEMORY_BOUND + 1),
        device,
        matrix_efficiency=np.arange(0.5, 1.0, 0.01),
        overlap=np.arange(0.0, 1.01, 0.05),
    )
    device = with_kernel(replace(device, matrix_efficiency=share), "matmul", overlap=overlap)
    vector = some("vector", most=RESIDENT_TOKENS)
    overhead, per_byte = line(vector.own[0].buffer_bytes, vector.seconds, vector.seconds)
    device = replace(device, vector_overhead_s=overhead, l2_bytes_per_s=1 / per_byte)
    decode = some("decode")
    overhead, per_byte = line(decode.own[0].hbm_bytes, decode.seconds, decode.seconds)
    device = with_kernel(
        device,
        "attention",
        overhead_s=overhead,
        hbm_efficiency=1 / per_byte / device.hbm_bytes_per_s,
    )
    share, tile = best(
        some("prefill", "mixed"),
        device,
        matrix_efficiency=np.arange(0.2, 1.0, 0.01),
        tile=np.array(_TILES),
    )
    return with_kernel(device, "attention", matrix_efficiency=share, tile=tile)


def errors(kernels: Sequence[Kernel], device: Device) -> np.ndarray:
    """Relative error of each kernel: predicted / measured - 1."""
    found = np.empty(len(kernels))
    for kind in {kernel.op.kernel for kernel in kernels}:
        own = [i for i, kernel in enumerate(kernels) if kernel.op.kernel == kind]
        found[own] = columns([kernels[i] for i in own]).errors(device)
    return found
