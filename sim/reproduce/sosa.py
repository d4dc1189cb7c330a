"""SOSA (arXiv 2203.11540): every published table, and the laws beside them, on several cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import cpu_count

from sim.reproduce import sosa_laws as laws
from sim.reproduce import sosa_rows as published
from sim.reproduce import sosa_tables as tables
from sim.reproduce.row import Progress, Row, rows_of

MOST_PROCESSES = 4  # the largest part takes 1.4 GB
_Part = Callable[[], Iterable[Row]]


def reproduce(quick: bool = False, progress: Progress = lambda share: None) -> list[Row]:
    """Rows of the system `sosa`; `quick`: no small arrays, batches, banks; less of S4, S5, S8."""
    shapes = [shape for shape in published.AT_400_W if not (quick and shape[0] < 32)]
    others = [kind for kind in published.INTERCONNECTS if kind not in tables.FREE]
    large = [shape for shape in shapes if shape[0] >= (256 if quick else 32)]
    parts: list[_Part] = [
        tables.integers,
        *(partial(tables.main_table, shape) for shape in shapes),
        tables.design_space,
        *([partial(tables.interconnects, ("butterfly_2",), (256,))] if quick else ()),
        *(() if quick else [partial(tables.interconnects, (kind,)) for kind in others]),
        *(() if quick else [tables.pareto]),
        partial(tables.partitions, (32, 128) if quick else tuple(published.PARTITIONS)),
        partial(tables.tenants, (1,) if quick else tuple(published.TOGETHER)),
        *(() if quick else [tables.banks]),
        partial(tables.cleaned_up, large),
        laws.single_arrays,
        laws.alone_is_quickest,
    ]
    if quick:
        return rows_of(map(_call, parts), len(parts), progress)
    with ProcessPoolExecutor(
        min(cpu_count() or 1, MOST_PROCESSES), mp_context=get_context("spawn")
    ) as pool:
        return rows_of(pool.map(_call, parts), len(parts), progress)


def _call(part: _Part) -> list[Row]:
    return list(part())
