"""One systolic array by itself, fill and drain charged, as closed forms.

A product is folded onto the array, one fold after the other: what stays in the cells is loaded, the
rest streams through, skewed by a cycle from row to row and from column to column. Folds do not
overlap, and one at the edge takes as long as any. Not modelled: memory. Laws: SCALE-Sim 3.0, whose
count starts at 0 and is therefore lower by 1.

X[m, n] W[n, k], as everywhere in `sim.systolic`.
"""

from __future__ import annotations

from math import prod

from sim.systolic.dataflow import Dataflow


def folded_cycles(flow: Dataflow, m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Cycles: what stays is loaded in `rows`, but for sums, which begin at 0; the rest streams."""
    size, sizes = {"rows": rows, "cols": cols}, dict(zip((flow.m, flow.n, flow.k), (m, n, k)))
    folds = prod(_folds(sizes[side], part) for side, part in size.items())
    loaded = 0 if flow.stays == "P" else rows
    return folds * (loaded + sizes["partition"] + rows + cols - 2)


def steady_utilisation(m: int, n: int, k: int, rows: int, cols: int) -> float:
    """MACs over cells and cycles, weight-stationary, the next fold loading while one streams.

    A fold takes m rows of X and the cycle in which weights change; m is at least `rows`, or loading
    is what takes time.
    """
    return m * n * k / (rows * cols * _folds(n, rows) * _folds(k, cols) * (m + 1))


def _folds(size: int, part: int) -> int:
    return -(-size // part)
