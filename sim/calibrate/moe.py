"""The kernels of a mixture of experts, from aiconfigurator's tables of vLLM's fused MoE.

A row times all of `FusedMoE` on one rank, in a captured graph, with its hidden states at hand:
top-k of given router logits (vLLM 0.24; the ids are given in 0.14), sorting of tokens by expert,
both grouped GEMMs, the activation between them and, for FP8, the quantisation of what goes in, and
the weighted sum. Not the router's GEMM, shared experts, or exchanges. Read here: rows without
expert parallelism (with it, the kernels around the GEMMs still work on the pairs of all ranks,
which our graph has elsewhere) of shapes whose experts are gated, whose tokens go where the table
says they do, and whose width on a rank is a whole number of tiles.
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
from sim.graph.graph import Op
from sim.graph.model import Experts, Model
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.routing import EVEN, loads
from sim.graph.transformer import transformer
from sim.hardware.device import Device

PRECISION = {
    "bfloat16": BF16,
    "fp8_block": Precision("fp8", "fp8", "bf16", "bf16"),
    "int4_wo": replace(BF16, experts="int4"),
    "w4a16_mxfp4": replace(BF16, experts="fp4"),
}
TRITON = ("triton_tritonexperts", "vllm_fused_moe")
MARLIN, OPENAI = (
    ("marlin_marlinexperts",),
    ("oaitritonmxfp4expertsmonolithic",),
)  # which take weights of 4 bits
FEW = 16  # rows an expert: below, the GEMMs wait for HBM
TILE = 128  # columns of a GEMM's tile
DRAWS = 5  # of popularities, over which the collector takes the mean
# DeepSeek-V3 picks 4 of 8 groups first, so half of the experts are met; Nemotron's experts have no
# gate.
_OTHERWISE = {(7168, 2048, 8, 256), (2688, 1856, 6, 128), (2048, 5120, 22, 512)}


class Row(NamedTuple):
    """One measured pass of `tokens` through the experts of a layer on one of `tensor` ranks."""

    hidden: int
    ffn: int
    chosen: int
    routed: int
    tensor: int
    tokens: int
    # of the power law that popularities are drawn from; 0: each expert has as many tokens
    skew: float
    seconds: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the model's experts."""
        return self[:4]


def aiconfigurator(
    path: Path, dtype: str, kernels: tuple[str, ...] = TRITON, tile: int = TILE
) -> list[Row]:
    """Rows of a `moe_perf` table that our graph has the ops of, done by one of `kernels`.

    The table is Parquet (needs pyarrow); on a rank the width is one of whole tiles.
    """
    found = []
    for row in parquet_rows(path, [("moe_dtype", "=", dtype), ("moe_ep_size", "=", 1)]):
        skew = row["distribution"].removeprefix("power_law_")
        each = Row(
            int(row["hidden_size"]),
            int(row["inter_size"]),
            int(row["topk"]),
            int(row["num_experts"]),
            int(row["moe_tp_size"]),
            int(row["num_tokens"]),
            0.0 if skew == "balanced" else float(skew),
            row["latency"] * 1e-3,
        )
        whole = each.ffn % (tile * each.tensor) == 0 and each.routed % each.chosen == 0
        if row["kernel_source"].endswith(kernels) and each.shape not in _OTHERWISE and whole:
            found.append(each)
    return sorted(set(found))


@cache
def met(row: Row) -> float:
    """Experts that at least one token goes to: one a pair, or, of unequal popularity, as drawn."""
    pairs = row.tokens * row.chosen
    if not row.skew:
        return float(min(pairs, row.routed))
    rng, power = np.random.default_rng(0), 1.0 - row.skew
    low, high = (1.0, 0.8 * row.tokens) if pairs > row.routed else (0.01, 2.0)
    drawn = rng.random((DRAWS, row.routed)) * (high**power - low**power) + low**power
    counts = drawn ** (1 / power)
    counts = np.minimum(np.round(counts / counts.sum(axis=1, keepdims=True) * pairs), row.tokens)
    spare = np.maximum(pairs - counts.sum(axis=1), 0.0)  # goes to the least popular
    return float(np.minimum((counts > 0).sum(axis=1) + spare, min(pairs, row.routed)).mean())


def measured(rows: Sequence[Row], precision: Precision, top_k: bool = True) -> Measured:
    """The ops of our graph that the rows time, with the experts they met: GEMMs, and others."""
    ops = [_ops(row, precision) for row in rows]
    others = ("top_k", "experts_act", "experts_sum") if top_k else ("experts_act", "experts_sum")
    gemms, around = (
        [work_of([each[name] for each in ops]) for name in names]
        for names in (("experts_up", "experts_down"), others)
    )
    return Measured(tuple(gemms), tuple(around), np.array([row.seconds for row in rows]))


@cache
def _ops(row: Row, precision: Precision) -> dict[str, Op]:
    t = row.tensor
    model = Model(
        "measured",
        1,
        row.hidden,
        t,
        t,
        128,
        row.ffn,
        t,
        experts=Experts(row.routed, row.chosen, row.ffn),
    )
    ops = (
        transformer(model, precision, Parallel(t), Batch((Sequences(1, row.tokens, 0),), 1))
        .layers[1]
        .ops
    )
    # Our graph's tokens choose independently of each other; the measured ones went where they were
    # sent.
    share = met(row) / loads(row.routed, row.chosen, 1, EVEN).met(row.tokens)
    return {op.name: _scaled(op, share) if op.kind == "experts" else op for op in ops}


def _scaled(op: Op, share: float) -> Op:
    reads = (t._replace(nbytes=t.nbytes * share) if t.kind == "weight" else t for t in op.reads)
    return replace(op, reads=tuple(reads))


def fitted(rows: Sequence[Row], precision: Precision, device: Device, top_k: bool = True) -> Device:
    """`device` with the kernel for experts that meets the rows best."""
    times = measured(rows, precision, top_k)
    counted = streamed(times, device.l2_bytes)
    return fit(times.of(counted), device, (rows_each(rows) <= FEW)[counted])


def rows_each(rows: Sequence[Row]) -> np.ndarray:
    """Rows of an expert that is met."""
    return np.array([row.tokens * row.chosen / met(row) for row in rows])


def streamed(rows: Measured, l2_bytes: float) -> np.ndarray:
    """Which rows read more weights than may have stayed in L2 since the pass before."""
    return np.sum([work.hbm_bytes for work in rows.own], axis=0) >= 2 * l2_bytes
