"""One systolic array by itself, fill and drain charged, as closed forms.

A product is folded onto the array, one fold after the other: what stays in the cells is loaded, the
rest streams through, skewed by a cycle from row to row and from column to column. Folds do not
overlap, and one at the edge takes as long as any. Not modelled: memory. Laws: SCALE-Sim 3.0, whose
count starts at 0 and is therefore lower by 1.

X[m, n] W[n, k], as everywhere in `sim.systolic`.
"""

from __future__ import annotations

from collections.abc import Callable


def weight_stationary(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Cycles: a fold of W is loaded in `rows`, then m rows of X pass through rows and columns."""
    return _folds(n, rows) * _folds(k, cols) * (rows + m + rows + cols - 2)


def output_stationary(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Cycles: X from the left, W from above, n of each; sums stay."""
    return _folds(m, rows) * _folds(k, cols) * (n + rows + cols - 2)


def input_stationary(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Cycles: a fold of X is loaded in `rows`, then k columns of W pass through."""
    return weight_stationary(k, n, m, rows, cols)


DATAFLOWS: dict[str, Callable[[int, int, int, int, int], int]] = {
    "ws": weight_stationary,
    "os": output_stationary,
    "is": input_stationary,
}


def steady_utilisation(m: int, n: int, k: int, rows: int, cols: int) -> float:
    """MACs over cells and cycles of a weight-stationary array that loads the next fold while one
    streams.

    A fold takes m rows of X and the cycle in which weights change; m is at least `rows`, or loading
    is what takes time.
    """
    return m * n * k / (rows * cols * _folds(n, rows) * _folds(k, cols) * (m + 1))


def _folds(size: int, part: int) -> int:
    return -(-size // part)
