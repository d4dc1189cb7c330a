"""How often a GEMM reads its operands from HBM, by what L2 holds of them.

The cores of a chip compute tiles of the result at the same time, each over the whole of K: a wave.
Cores of a wave whose tiles lie in a row or a column read the same panel of an operand, at their own
pace, so a panel is read from HBM once if it stays in L2 until the last of them has gone through it.
Those panels are the working set of a GEMM. Not modelled: cores that keep step, and so need less;
panels cut along K; grouped GEMMs and attention, which are taken to read everything once; the rate
of L2.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import numpy as np


class Tiles(NamedTuple):
    """How a chip computes a GEMM: tiles of rows x columns, one a core."""

    rows: float
    columns: float
    cores: int


def operand_bytes(
    rows: Any, columns: float, input_bytes: Any, weight_bytes: Any, l2_bytes: float, tiles: Tiles
) -> Any:
    """Bytes of both operands over HBM, of a result of rows x columns; numbers, or columns of them.

    Where one operand fits, both are read once. Else, where the panels of a wave fit, they are read
    once a wave, or once for each block of the smaller operand that fits; of what does not fit of
    them, each core reads its own.
    """
    row_bytes, column_bytes = input_bytes / rows, weight_bytes / columns
    across, down = _arranged(row_bytes, column_bytes, tiles)
    block_rows, block_columns = across * tiles.rows, down * tiles.columns
    working_set = np.minimum(block_rows, rows) * row_bytes
    working_set = working_set + min(block_columns, columns) * column_bytes
    smaller, once = np.minimum(input_bytes, weight_bytes), input_bytes + weight_bytes
    alone = _read(rows, columns, input_bytes, weight_bytes, tiles.rows, tiles.columns)
    wave = _read(rows, columns, input_bytes, weight_bytes, block_rows, block_columns)
    blocks = smaller + input_bytes * weight_bytes / l2_bytes
    fits = np.minimum(l2_bytes / working_set, 1.0)
    shared = np.where(fits < 1.0, wave, np.minimum(wave, blocks))
    found = np.maximum(fits * shared + (1.0 - fits) * alone, once)
    return np.where(smaller <= l2_bytes, once, found)


def _read(
    rows: Any, columns: float, input_bytes: Any, weight_bytes: Any, some_rows: Any, some: float
) -> Any:
    """Both operands where the result is computed in blocks, each of which reads its panels."""
    again = np.maximum(columns / some, 1.0), np.maximum(rows / some_rows, 1.0)
    return input_bytes * again[0] + weight_bytes * again[1]


def _arranged(row_bytes: Any, column_bytes: Any, tiles: Tiles) -> tuple[Any, float]:
    """Tiles of a wave down and across its block, so that its panels are the smallest."""
    ratio = float(np.max(row_bytes)) * tiles.rows, float(np.max(column_bytes)) * tiles.columns
    shapes = [(down, ceil(tiles.cores / down)) for down in range(1, tiles.cores + 1)]
    return min(shapes, key=lambda shape: shape[0] * ratio[0] + shape[1] * ratio[1])
