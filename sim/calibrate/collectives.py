"""Fit the costs of a collective library to measured times.

A way's time is linear in its constants: launch + rounds x step + wait of the wires + time on the
wires / efficiency, where rounds, wait and time are those of the plan on the pod, as it will be
played. A library takes the quickest of its ways, so which way a row is a measurement of is part of
the fit: start from many splits of the sizes, fit each way to its rows by non-negative least squares
of the relative error, give every row to the way that is now quickest, repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from sim.calibrate.tables import Measured
from sim.network.library import Library, Way
from sim.network.network import Network
from sim.network.topology import Graph
from sim.network.wires import Floats, Ints


class Form(NamedTuple):
    """A way to be fitted.  Forms of one protocol share its constants; all share the launch."""

    protocol: str
    algorithm: str
    collectives: tuple[str, ...]


class Fitted(NamedTuple):
    """Ways with their constants, and relative errors by row (0.1: predicted 10 % too long)."""

    ways: tuple[Way, ...]
    errors: Floats


class _Design(NamedTuple):
    """Of each row its size and time, and by form what multiplies each constant, and what does not
    depend on any."""

    nbytes: Ints
    seconds: Floats
    factors: Floats  # [row, form, constant]
    wait_s: Floats  # [row, form]
    serves: Ints

    def times(self, constants: Floats) -> Floats:
        """Predicted seconds of each row by each form."""
        return np.where(self.serves, self.wait_s + self.factors @ constants, np.inf)

    def errors(self, constants: Floats) -> Floats:
        """Relative error of each row."""
        return self.times(constants).min(axis=1) / self.seconds - 1


def fit(rows: Sequence[Measured], graph: Graph, forms: Sequence[Form]) -> Fitted:
    """The constants that predict `rows` best.  Seconds for a few hundred rows.

    Where all rows of a family have one number of rounds, they tell launch + rounds x step and not
    its parts: of these, one machine's arithmetic may give others than another's.
    """
    design = _design(rows, graph, forms)
    constants = _constants(design)
    protocols = list(dict.fromkeys(form.protocol for form in forms))
    ways = []
    for form in forms:
        step, slowdown = constants[1 + 2 * protocols.index(form.protocol) :][:2]
        ways.append(
            Way(form.collectives, form.algorithm, form.protocol, constants[0], step, 1 / slowdown)
        )
    return Fitted(tuple(ways), design.errors(constants))


def leave_one_size_out(rows: Sequence[Measured], graph: Graph, forms: Sequence[Form]) -> Floats:
    """Relative error of each row, predicted by a fit that has seen no row of its size."""
    design = _design(rows, graph, forms)
    errors = np.zeros(len(rows))
    for left_out in np.unique(design.nbytes):
        seen = design.nbytes != left_out
        constants = _constants(_Design(*(column[seen] for column in design)))
        errors[~seen] = design.errors(constants)[~seen]
    return errors


def _design(rows: Sequence[Measured], graph: Graph, forms: Sequence[Form]) -> _Design:
    protocols = list(dict.fromkeys(form.protocol for form in forms))
    factors = np.zeros((len(rows), len(forms), 1 + 2 * len(protocols)))
    wait, serves = np.zeros((len(rows), len(forms))), np.zeros((len(rows), len(forms)), dtype=bool)
    for j, form in enumerate(forms):
        network = Network(graph, Library("bare", 0.0), form.algorithm)
        at = 1 + 2 * protocols.index(form.protocol)
        for i, row in enumerate(rows):
            if row.kind in form.collectives:
                fold = network.fold(row.kind, row.ranks, float(row.nbytes))
                serves[i, j] = True
                wait[i, j] = fold.latency_s
                each = (1.0, fold.rounds, fold.seconds - fold.latency_s)
                factors[i, j, [0, at, at + 1]] = each
    return _Design(
        nbytes=np.array([row.nbytes for row in rows]),
        seconds=np.array([row.seconds for row in rows]),
        factors=factors,
        wait_s=wait,
        serves=serves,
    )


def _constants(design: _Design) -> Floats:
    """Launch, then step and slowdown (1 / efficiency, at least 1) of each protocol."""
    measured, size = design.seconds, design.nbytes
    cuts = np.unique(size)[1::2]
    best, best_cost = np.zeros(design.factors.shape[2]), np.inf
    place = np.arange(len(size))
    for bounds in combinations(cuts, design.serves.shape[1] - 1):
        chosen = _serving(design.serves, np.searchsorted(bounds, size, side="right"))
        weight = np.ones(len(size))
        for _ in range(12):
            matrix = design.factors[place, chosen] / measured[:, None] * weight[:, None]
            constants = _bounded(matrix, (1 - design.wait_s[place, chosen] / measured) * weight)
            times = design.times(constants)
            error = times.min(axis=1) / measured - 1
            cost = float(np.abs(error).mean())
            if cost < best_cost - 1e-12:
                best, best_cost = constants, cost
            following = times.argmin(axis=1)
            if (following == chosen).all() and weight.min() < 1:
                break
            chosen = following
            weight = 1 / np.sqrt(np.maximum(np.abs(error), 0.03))  # towards least absolute error
    return best


def _serving(serves: Ints, wanted: Ints) -> Ints:
    """The wanted form of each row, or the nearest before it that serves the row's collective."""
    order = np.where(serves, np.arange(serves.shape[1]), -1)
    within = np.where(order <= wanted[:, None], order, -1).max(axis=1)
    return np.where(within >= 0, within, serves.argmax(axis=1))


def _bounded(matrix: Floats, target: Floats) -> Floats:
    """Least squares with constants >= 0 and slowdowns >= 1, by dropping what is less."""
    low = np.zeros(matrix.shape[1])
    low[2::2] = 1.0
    free = np.abs(matrix).sum(axis=0) > 0
    values = low.copy()
    while free.any():
        rest = target - matrix[:, ~free] @ values[~free]
        values[free] = np.linalg.lstsq(matrix[:, free], rest, rcond=None)[0]
        below = free & (values < low)
        if not below.any():
            break
        values[below] = low[below]
        free &= ~below
    return values
