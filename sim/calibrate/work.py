"""One op of many measured rows, in columns, and what the cost model says it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.graph.precision import Precision
from sim.hardware.cost import SIZES, Asks, Sizes, alone, hbm_bytes_per_s, with_kernel
from sim.hardware.device import Device

BF16 = Precision("bf16", "bf16", "bf16", "bf16")


def work_of(ops: Sequence[Asks]) -> Sizes:
    """The same op in several sizes, with these in columns."""
    columns = {name: [getattr(op, name) for op in ops] for name in SIZES}
    return Sizes.of(ops[0], **{name: np.array(each, float) for name, each in columns.items()})


def line(
    sizes: Sequence[float] | np.ndarray, seconds: np.ndarray, weight: np.ndarray
) -> tuple[float, float]:
    """(seconds, seconds a byte) of the straight line of least squares, relative to `weight`."""
    columns = np.column_stack([np.ones(len(seconds)), sizes]) / weight[:, None]
    fixed, slope = np.linalg.lstsq(columns, seconds / weight, rcond=None)[0]
    return float(fixed), float(slope)


class Measured(NamedTuple):
    """Rows of a table: ops of the kind that is fitted, others that a row times, what it took."""

    own: tuple[Sizes, ...]
    others: tuple[Sizes, ...]
    seconds: np.ndarray

    def predicted(self, device: Device) -> np.ndarray:
        """Seconds of each row on `device`."""
        return np.sum([alone(work, device).seconds for work in (*self.own, *self.others)], axis=0)

    def errors(self, device: Device) -> np.ndarray:
        """Relative error of each row: predicted / measured - 1."""
        return self.predicted(device) / self.seconds - 1

    def of(self, rows: np.ndarray) -> Measured:
        """Those of the `rows` that are True."""

        def cut(work: Sizes) -> Sizes:
            return Sizes.of(work, **{name: getattr(work, name)[rows] for name in SIZES})

        return Measured(tuple(map(cut, self.own)), tuple(map(cut, self.others)), self.seconds[rows])


SHARES, OVERLAPS = np.arange(0.1, 0.9, 0.01), np.arange(0.0, 1.01, 0.1)


def fit(rows: Measured, device: Device, wait: np.ndarray, rounds: int = 8) -> Device:
    """`device` with the kernel of the rows' own kind that meets them best.

    Overhead and HBM rate by a line over those that `wait` for HBM, in relative squares; the share
    of the matrix peak and the overlap by least mean relative error over all.
    """
    kind = rows.own[0].kernel
    rest = rows.seconds - np.sum([alone(each, device).seconds for each in rows.others], axis=0)
    size = np.sum([work.hbm_bytes for work in rows.own], axis=0)[wait]
    weight, unhidden, port = rows.seconds[wait], np.zeros(len(rest)), hbm_bytes_per_s(device)
    # What arithmetic adds to the rows that wait for HBM, and what these say of the rest.
    for _ in range(rounds):
        before, due = device, (rest - unhidden)[wait]
        fixed, per_byte = line(size, due, weight)
        share = None
        if per_byte * port > 1.0:
            share = 1 / per_byte / device.hbm_bytes_per_s
        else:  # none reads faster than the port gives
            fixed = float(((due - size / port) / weight**2).sum() / (1 / weight**2).sum())
        device = with_kernel(
            device, kind, overhead_s=max(fixed, 0.0) / len(rows.own), hbm_efficiency=share
        )
        share, overlap = best(rows, device, matrix_efficiency=SHARES, overlap=OVERLAPS)
        device = with_kernel(device, kind, matrix_efficiency=share, overlap=overlap)
        if device == before:
            break
        unhidden = np.sum([alone(each, device).unhidden_s for each in rows.own], axis=0)
    return device


def fit_8bit(rows: Measured, device: Device) -> Device:
    """`device` with the share of the 8-bit peak that meets the rows best, and all else as it is."""
    (share,) = best(rows, device, matrix_efficiency_8bit=SHARES)
    return with_kernel(device, rows.own[0].kernel, matrix_efficiency_8bit=share)


def best(rows: Measured, device: Device, **grid: np.ndarray) -> list[float]:
    """Of the numbers of the rows' own kernel that `grid` has choices for, those of least mean
    error."""
    # An axis for each number, before that of the rows.
    columns: dict[str, Any] = {
        name: each[..., None] for name, each in zip(grid, np.ix_(*grid.values()))
    }
    others = sum(alone(each, device).seconds for each in rows.others)
    choice = with_kernel(device, rows.own[0].kernel, **columns)
    own = sum(alone(each, choice).seconds for each in rows.own)
    errors = np.abs((own + others) / rows.seconds - 1).mean(axis=-1)
    least = np.unravel_index(errors.argmin(), errors.shape)
    return [float(choices[at]) for choices, at in zip(grid.values(), least)]
