"""The kernels of attention, from aiconfigurator's tables of vLLM.

`attention` tables time one kernel in a captured graph: a decode attention over a KV-cache in pages,
or the causal attention of prompts, without projections. `mla_module` tables time DeepSeek-V3's
whole attention module with so many of its heads, in a captured graph: all projections with their
norm and rotation, the write to the cache, attention, and the output projection; not the norm
before. In a decode the kernels that our graph has not (copies of queries, the write to the cache)
are counted with `absorb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.calibrate.tables import parquet_rows
from sim.calibrate.work import BF16, Measured, fit, work_of
from sim.graph.batch import Batch, Sequences
from sim.graph.graph import Layer, Op
from sim.graph.model import Model
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.device import Device

DECODE = ("q_kv_a", "latent_norm", "q_b", "rope", "q_absorb", "absorb", "v_expand", "o")
FEW_HEADS = 16  # on one latent cache: below, absorb waits for HBM


class Row(NamedTuple):
    """One measured pass: `batch` sequences of `new` tokens each after `cached` ones."""

    heads: int
    kv_heads: int
    batch: int
    new: int
    cached: int
    seconds: float


def grouped(path: Path, head_dim: int = 128) -> list[Row]:
    """Rows of an `attention_perf` table: bf16, all of the context seen, of lengths that are served.

    Below such lengths a decode takes a time for each sequence and KV head, however short.
    """
    where: list[tuple[str, str, object]] = [
        ("attn_dtype", "=", "bfloat16"),
        ("kv_cache_dtype", "=", "bfloat16"),
        ("head_dim", "=", head_dim),
    ]
    rows = _read(path, where, "num_key_value_heads", 0)
    return [row for row in rows if (row.cached >= 255 if row.new == 1 else row.new >= 128)]


def modules(path: Path, gemm: str = "bfloat16", cache: str = "bfloat16") -> list[Row]:
    """Rows of an `mla_module` table."""
    return _read(path, [("gemm_type", "=", gemm), ("kv_cache_dtype", "=", cache)], "num_heads", 1)


def _read(path: Path, filters: list[tuple[str, str, object]], kv: str, counted: int) -> list[Row]:
    """`kv`: where the KV heads are told; `counted`: new tokens that a decode's `step` includes."""
    rows = []
    for row in parquet_rows(path, filters):
        cached = max(row["step"] - counted, 0)
        if not row.get("window_size"):
            rows.append(
                Row(
                    int(row["num_heads"]),
                    int(row[kv]),
                    int(row["batch_size"]),
                    int(row["isl"]),
                    int(cached),
                    row["latency"] * 1e-3,
                )
            )
    return sorted(set(rows))


def measured(
    rows: Sequence[Row],
    model: Model,
    own: str,
    names: Sequence[str] = (),
    precision: Precision = BF16,
) -> Measured:
    """The op `own` of a layer of `model`, with each row's heads, and others that a row times."""
    columns = {
        name: work_of([_op(model, precision, row, name) for row in rows]) for name in (own, *names)
    }
    others = tuple(columns[name] for name in names if name != own)
    return Measured((columns[own],), others, np.array([row.seconds for row in rows]))


def _op(model: Model, precision: Precision, row: Row, name: str) -> Op:
    of_row = replace(model, heads=row.heads, kv_heads=row.kv_heads)
    op = _layer(of_row, precision, row.batch, row.new).op(name)
    if op.work is None:
        return op
    sequences = tuple(each._replace(past=row.cached) for each in op.work.sequences)
    return op.attending(replace(op.work, sequences=sequences))


@cache
def _layer(model: Model, precision: Precision, batch: int, new: int) -> Layer:
    """Of a pass with nothing cached."""
    sequences = Sequences(batch, new, 0)
    return transformer(model, precision, Parallel(), Batch((sequences,), batch)).layers[-2]


def fitted(rows: Sequence[Row], model: Model, device: Device) -> Device:
    """`device` with the kernel for attention that meets the rows best."""
    return fit(measured(rows, model, "attention"), device, np.array([row.new == 1 for row in rows]))


def fitted_absorb(rows: Sequence[Row], model: Model, device: Device) -> Device:
    """`device` with the kernel for absorb that meets the decoding modules best."""
    return fit(
        measured(rows, model, "absorb", DECODE),
        device,
        np.array([row.heads <= FEW_HEADS for row in rows]),
    )
