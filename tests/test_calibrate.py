"""Fitting a library: constants that made the data are found again; the catalogue says what the fit says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim import catalog
from sim.calibrate.collectives import Form, fit, leave_one_size_out
from sim.calibrate.libraries import SOURCES, fitted
from sim.calibrate.tables import Measured
from sim.network import topology
from sim.network.library import Library, Way
from sim.network.network import Network

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "collectives"
ONE = ("all_reduce",)


def test_constants_are_found_again():
    ways = (Way(ONE, "ring", "LL", 5e-6, 0.5e-6, 0.1), Way(ONE, "ring", "Simple", 5e-6, 4e-6, 0.8))
    graph = topology.build("switch", 8, 450e9, 0.5e-6)
    network = Network(graph, Library("made up", 5e-6, ways=ways))
    rows = [
        Measured("all_reduce", n, 1 << bit, network.fold("all_reduce", n, float(1 << bit)).seconds)
        for n in (4, 8)
        for bit in range(12, 30)
    ]
    forms = [Form("LL", "ring", ONE), Form("Simple", "ring", ONE)]
    found = fit(rows, graph, forms)
    assert found.worst < 1e-9
    for way, known in zip(found.ways, ways):
        assert way[3:] == pytest.approx(known[3:], rel=1e-6)
    assert np.abs(leave_one_size_out(rows, graph, forms)).max() < 1e-6


@pytest.mark.parametrize("name", SOURCES)
def test_the_catalogue_holds_the_fit(name):
    if not (SHARED / SOURCES[name].file).exists():
        pytest.skip(f"{SHARED} is not there")
    if SOURCES[name].file.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the table is a Parquet file")
    found = [way for family in fitted(name, SHARED) for way in family.fitted.ways]
    card = catalog.library(name)
    assert len(card.ways) == len(found)
    for way, fresh in zip(card.ways, found):
        assert way[:3] == fresh[:3]
        assert way[3:] == pytest.approx(fresh[3:], rel=2e-3, abs=1e-10)
