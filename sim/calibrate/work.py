"""One op of many measured rows, in columns, and what the cost model says it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.graph.graph import Op
from sim.hardware.cost import (
    arithmetic_seconds,
    hbm_bytes_per_s,
    hbm_limit,
    overhead_seconds,
    unhidden_share,
    with_kernel,
)
from sim.hardware.device import Device


class Work(NamedTuple):
    """What one op of our graph does in each of the rows."""

    kind: str
    engine: str
    dtype: str
    flop: np.ndarray
    lone_flop: np.ndarray
    hbm_bytes: np.ndarray  # weights and KV-cache
    buffer_bytes: np.ndarray  # activations: over L2 if they fit


def work_of(ops: Sequence[Op]) -> Work:
    """The same op of several graphs."""
    one = ops[0]
    read = [sum(t.nbytes for t in op.reads if t.kind != "activation") for op in ops]
    buffers = [
        sum(t.nbytes for t in (*op.reads, *op.writes) if t.kind == "activation") for op in ops
    ]
    columns = [op.flop for op in ops], [op.lone_flop for op in ops], read, buffers
    return Work(one.kernel, one.engine, one.dtype, *(np.array(column, float) for column in columns))


class Parts(NamedTuple):
    """Seconds of each row: a fixed cost, and what overlaps."""

    fixed: float
    arithmetic: np.ndarray
    hbm: np.ndarray
    l2: np.ndarray


def parts(device: Device, work: Work) -> Parts:
    """The terms of `sim.hardware.cost.roofline_seconds`, on columns."""
    own_s = arithmetic_seconds(device, work.engine, work.dtype, 1.0, work.kind)
    lone_s = arithmetic_seconds(device, work.engine, work.dtype, 1.0, work.kind, 1.0) - own_s
    fits, rate = (
        work.buffer_bytes <= device.l2_bytes,
        min(hbm_bytes_per_s(device), hbm_limit(device, work.kind)),
    )
    return Parts(
        overhead_seconds(device, work.kind, work.engine),
        work.flop * own_s + work.lone_flop * lone_s,
        (work.hbm_bytes + np.where(fits, 0.0, work.buffer_bytes)) / rate,
        np.where(fits, work.buffer_bytes, 0.0) / device.l2_bytes_per_s,
    )


def seconds(device: Device, work: Work) -> np.ndarray:
    """`sim.hardware.cost.roofline_seconds`, on columns (a test holds them together)."""
    fixed, arithmetic, hbm, l2 = parts(device, work)
    unhidden = unhidden_share(device, work.kind) * np.minimum(arithmetic, hbm)
    return fixed + unhidden + np.max([arithmetic, hbm, l2], axis=0)


def line(
    sizes: Sequence[float] | np.ndarray, seconds: np.ndarray, weight: np.ndarray
) -> tuple[float, float]:
    """(seconds, seconds a byte) of the straight line of least squares, relative to `weight`."""
    columns = np.column_stack([np.ones(len(seconds)), sizes]) / weight[:, None]
    fixed, slope = np.linalg.lstsq(columns, seconds / weight, rcond=None)[0]
    return float(fixed), float(slope)


class Measured(NamedTuple):
    """Rows of a table: ops of the kind that is fitted, others that a row times, what it took."""

    own: tuple[Work, ...]
    others: tuple[Work, ...]
    seconds: np.ndarray

    def predicted(self, device: Device) -> np.ndarray:
        """Seconds of each row on `device`."""
        return np.sum([seconds(device, work) for work in (*self.own, *self.others)], axis=0)

    def errors(self, device: Device) -> np.ndarray:
        """Relative error of each row: predicted / measured - 1."""
        return self.predicted(device) / self.seconds - 1

    def of(self, rows: np.ndarray) -> Measured:
        """Those of the `rows` that are True."""

        def cut(work: Work) -> Work:
            return Work(*work[:3], *(column[rows] for column in work[3:]))

        return Measured(tuple(map(cut, self.own)), tuple(map(cut, self.others)), self.seconds[rows])


SHARES, OVERLAPS = np.arange(0.1, 0.9, 0.01), np.arange(0.0, 1.01, 0.1)


def fit(rows: Measured, device: Device, wait: np.ndarray, rounds: int = 8) -> Device:
    """`device` with the kernel of the rows' own kind that meets them best.

    Overhead and HBM rate by a line over those that `wait` for HBM, in relative squares; the share
    of the matrix peak and the overlap by least mean relative error over all.
    """
    kind = rows.own[0].kind
    rest = rows.seconds - np.sum([seconds(device, each) for each in rows.others], axis=0)
    size = np.sum([work.hbm_bytes for work in rows.own], axis=0)[wait]
    weight, unhidden, port = rows.seconds[wait], np.zeros(len(rest)), hbm_bytes_per_s(device)
    for _ in range(
        rounds
    ):  # what arithmetic adds to the rows that wait for HBM, and what these say of the rest
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
        choices = [
            with_kernel(device, kind, matrix_efficiency=float(share), overlap=float(overlap))
            for share in SHARES
            for overlap in OVERLAPS
        ]
        device = _best(rows, choices)
        if device == before:
            break
        terms = [parts(device, each) for each in rows.own]
        unhidden = unhidden_share(device, kind) * np.sum(
            [np.minimum(t.arithmetic, t.hbm) for t in terms], axis=0
        )
    return device


def fit_8bit(rows: Measured, device: Device) -> Device:
    """`device` with the share of the 8-bit peak that meets the rows best, and all else as it is."""
    kind = rows.own[0].kind
    return _best(
        rows, [with_kernel(device, kind, matrix_efficiency_8bit=float(share)) for share in SHARES]
    )


def _best(rows: Measured, choices: Sequence[Device]) -> Device:
    return min(choices, key=lambda choice: float(np.abs(rows.errors(choice)).mean()))
