"""A matrix product cut into tiles that a pod takes in one piece.

X[m, n] W[n, k] becomes tiles of partition x rows (X), rows x cols (W) and partition x cols (P);
tile op (i, j, k) adds X[i, j] W[j, k] to P[i, k]. Tiles at the edge keep their true size. The
paper's point (arXiv 2203.11540) is that partition = rows: a tile then takes as long as the next
weights take to load. Other dataflows than its own are those of `sim.systolic.dataflow`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from sim.dnn.gemms import GemmLayer
from sim.systolic.dataflow import DATAFLOWS, Dataflow
from sim.systolic.pod_array import PodArray
from sim.text.outside import MOST

MOST_TILE_OPS = MOST["tile ops"].most  # of a network


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles of one layer: rows of X by i, rows of W by j, columns of W by k."""

    layer: GemmLayer
    dataflow: Dataflow
    x_rows: np.ndarray  # [i]
    w_rows: np.ndarray  # [j]
    w_cols: np.ndarray  # [k]

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many tiles there are along i, j, k."""
        return len(self.x_rows), len(self.w_rows), len(self.w_cols)

    @property
    def tile_ops(self) -> int:
        """How many tile products."""
        return len(self.x_rows) * len(self.w_rows) * len(self.w_cols)

    @property
    def x_bytes(self) -> np.ndarray:
        """[i, j]. A convolution keeps its image, not the im2col: area elements are one byte."""
        return np.outer(self.x_rows, self.w_rows) // self.layer.kernel_area

    @property
    def w_bytes(self) -> np.ndarray:
        """[j, k]"""
        return np.outer(self.w_rows, self.w_cols)

    @property
    def streamed(self) -> np.ndarray:
        """Cycles in which a tile op takes what passes by.  [j, i, k], or 1 where all are alike"""
        return self._sizes(self.dataflow.streamed)

    @property
    def loaded(self) -> np.ndarray:
        """Cycles in which a pod loads what stays during a tile op.  [j, i, k], likewise"""
        return self._sizes(self.dataflow.loaded)

    def _sizes(self, axis: int) -> np.ndarray:
        sizes = (self.x_rows, self.w_rows, self.w_cols)[axis]
        return sizes.reshape([-1 if each == axis else 1 for each in (1, 0, 2)])

    @property
    def pod_cycles(self) -> int:
        """Cycles in which pods take what passes by, over all tile ops."""
        streamed = self.streamed
        return int(streamed.sum()) * (self.tile_ops // streamed.size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all tile ops."""
        return int(self.x_rows.sum() * self.w_rows.sum() * self.w_cols.sum())


def tile(layer: GemmLayer, array: PodArray, partition: int | None = None) -> Tiling:
    """The tiles of a layer, each with `partition` of what passes by (rows of X).

    By default that is as much as the array has rows. ValueError if a tile is larger than a bank, or
    there are too many to be scheduled.
    """
    partition = array.rows if partition is None else partition
    if partition < 1:
        raise ValueError(f"a tile has at least 1 row of X, not {partition}")
    sides = _sides(layer, array, partition)
    if (count := prod(-(-size // part) for size, part in sides)) > MOST_TILE_OPS:
        raise ValueError(
            f"layer {layer.name} has {count:,} tile ops, more than the {MOST_TILE_OPS:,} that a "
            "schedule holds; take a smaller batch, fewer tokens, or larger pods"
        )
    tiling = Tiling(layer, DATAFLOWS[array.dataflow], *(_cut(size, part) for size, part in sides))
    sizes = {
        "X": int(tiling.x_rows.max() * tiling.w_rows.max()) // layer.kernel_area,
        "W": int(tiling.w_rows.max() * tiling.w_cols.max()),
        "P": int(2 * tiling.x_rows.max() * tiling.w_cols.max()),
    }
    for operand, nbytes in sizes.items():
        if nbytes > array.bank_bytes:
            raise ValueError(
                f"a tile of {operand} of layer {layer.name} has {nbytes} bytes, a bank "
                f"{array.bank_bytes}; take a smaller partition than {partition}"
            )
    return tiling


def _sides(layer: GemmLayer, array: PodArray, partition: int) -> list[tuple[int, int]]:
    """(size, that of a tile) along m, n, k."""
    flow = DATAFLOWS[array.dataflow]
    parts = {"rows": array.rows, "cols": array.cols, "partition": partition}
    return [(layer.m, parts[flow.m]), (layer.n, parts[flow.n]), (layer.k, parts[flow.k])]


def tile_ops(layers: Iterable[GemmLayer], array: PodArray, partition: int | None = None) -> int:
    """Tile ops of some layers: so many, before any of them is made."""
    part = max(1, array.rows if partition is None else partition)
    return sum(prod(-(-size // of) for size, of in _sides(layer, array, part)) for layer in layers)


def _cut(size: int, part: int) -> np.ndarray:
    sizes = np.full(-(-size // part), part, np.int64)
    sizes[-1] = size - part * (len(sizes) - 1)
    return sizes
