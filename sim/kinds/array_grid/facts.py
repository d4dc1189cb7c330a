"""Numbers of a grid of sizes of an array: the best one, and the array at hand beside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.facts.array import GridRecord
from sim.facts.outcome import Outcome
from sim.results.metric import Metric, measured, table_of


class Best(NamedTuple):
    """The best size for a family of networks, or for all together."""

    rows: float
    cols: float
    pods: float
    ops_per_joule: float
    here_ops_per_joule: float  # of the array at hand


def best(grid: GridRecord, family: str = "") -> Best:
    """The size with most operations a joule."""
    values = grid.families[family] if family else grid.ops_per_joule
    r, c = np.unravel_index(int(values.argmax()), values.shape)
    return Best(
        rows=float(grid.rows[r]),
        cols=float(grid.cols[c]),
        pods=float(grid.pods[r, c]),
        ops_per_joule=float(values[r, c]),
        here_ops_per_joule=grid.here_ops_per_joule[family],
    )


def _of(thing: Outcome | Best) -> Best:
    return thing if isinstance(thing, Best) else best(thing.part)


GRID = table_of(
    [
        Metric(
            name="best_ops_per_joule",
            unit="op/J",
            better="higher",
            label="best throughput per watt",
            of="operations a joule of the array that has most, of those in the grid: harmonic "
            "mean over families, networks and sizes, by the closed form",
            value=lambda thing: _of(thing).ops_per_joule,
        ),
        Metric(
            name="best_rows",
            unit="count",
            better="",
            label="best rows",
            of="rows of the array that has best_ops_per_joule",
            value=lambda thing: _of(thing).rows,
        ),
        Metric(
            name="best_cols",
            unit="count",
            better="",
            label="best cols",
            of="its columns",
            value=lambda thing: _of(thing).cols,
        ),
        Metric(
            name="best_pods",
            unit="count",
            better="",
            label="best pods",
            of="its pods: as many as `power` allows",
            value=lambda thing: _of(thing).pods,
        ),
        Metric(
            name="ops_per_joule",
            unit="op/J",
            better="higher",
            label="throughput per watt",
            of="operations a joule, reckoned alike, of the array that `pod.array` says",
            value=lambda thing: _of(thing).here_ops_per_joule,
        ),
        Metric(
            name="share_of_best",
            unit="share",
            better="higher",
            label="of the best",
            of="ops_per_joule / best_ops_per_joule",
            value=lambda thing: _of(thing).here_ops_per_joule / _of(thing).ops_per_joule,
        ),
    ]
)


def families(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each family, by name."""
    return {family: measured(GRID, best(outcome.part, family)) for family in outcome.part.families}
