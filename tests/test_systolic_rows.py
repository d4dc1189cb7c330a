"""Rows that another package brings: each is one entry, in one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.dnn.files import FORMATS, Format
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import INPUTS, KNOWN, LENGTH, Known
from sim.run import run
from sim.scenario import ScenarioError
from sim.systolic.dataflow import DATAFLOWS, Dataflow
from sim.systolic.interconnect import INTERCONNECTS, Interconnect, crossbar

SCENARIO = """
question: does a row from outside work?
pod: {array: {rows: 8, cols: 8, pods: 4, network: crossbar}}
workload: {kind: networks, networks: {one: {network: mlp, length: 40}}}
variants:
  plain: {}
  joined: {pod: {array: {network: twin}}}
  turned: {pod: {array: {dataflow: turned}}}
"""


def _mlp(length: int, batch: int = 1) -> Dnn:
    return Dnn("mlp", (GemmLayer("up", length * batch, 64, 96, raw_input=True),))


def _read(path: Path, *, batch: int = 1) -> tuple[Dnn, tuple[str, ...]]:
    return _mlp(int(path.read_text()), batch), ("it was read",)


def test_rows_from_outside_are_choices_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Interconnect("twin", crossbar, lambda ports: 3.0 * ports, ours=True)
    turned = Dataflow(name="turned", stays="W", m="partition", n="cols", k="rows", scale_sim="")
    for table, row in ((INTERCONNECTS, twin), (DATAFLOWS, turned)):
        monkeypatch.setitem(table, row.name, row)
    monkeypatch.setitem(KNOWN, "mlp", Known("mlp", _mlp, LENGTH))
    monkeypatch.setitem(FORMATS, ".mlp", Format(".mlp", "MLP", _read))
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO, "utf-8")
    result = run(file)
    plain, joined, flipped = (each["metrics"] for each in result.variants.values())
    assert plain["effective_ops_per_s"] == joined["effective_ops_per_s"]
    assert plain["peak_power_w"] > joined["peak_power_w"]  # 16 crosspoints, 12 switches
    assert plain == flipped  # rows and columns of a square array are alike
    said = {name: {row[0] for row in each.assumptions} for name, each in result.outcomes.items()}
    assert "array: twin" in said["joined"]
    assert "array: turned" in said["turned"]
    assert not {"array: twin", "array: turned"} & said["plain"]
    assert "mlp, 40 tokens, batch 1" in result.report()

    (tmp_path / "net.mlp").write_text("40", "utf-8")
    file.write_text(SCENARIO.replace("network: mlp, length: 40", "file: net.mlp"), "utf-8")
    read = run(file)
    assert read.variants["plain"]["metrics"] == plain
    assert any("it was read" in text for text in read.warnings)

    for right, wrong in (("twin", "twim"), ("dataflow: turned", "dataflow: turnd")):
        file.write_text(SCENARIO.replace(right, wrong), "utf-8")
        with pytest.raises(ScenarioError, match=f"did you mean '{right.split()[-1]}'"):
            run(file)


def test_a_dataflow_keeps_the_operand_that_has_no_streamed_axis() -> None:
    axes = {"X": (0, 1), "W": (1, 2), "P": (0, 2)}
    for flow in DATAFLOWS.values():
        assert sorted((flow.m, flow.n, flow.k)) == ["cols", "partition", "rows"]
        assert flow.streamed not in axes[flow.stays]
        assert flow.loaded in axes[flow.stays]


def test_rows_are_found_by_their_own_names() -> None:
    for table in (INTERCONNECTS, DATAFLOWS, KNOWN, INPUTS):
        assert [row.name for row in table.values()] == list(table)
    assert [row.suffix for row in FORMATS.values()] == list(FORMATS)
    assert all(INPUTS[row.input.name] is row.input for row in KNOWN.values())


@pytest.mark.parametrize("ports", [1, 2, 8])
def test_a_row_says_whether_its_routes_can_meet(ports: int) -> None:
    """Without conflicts there are no links to want; several ways where it tries several."""
    for row in INTERCONNECTS.values():
        routes = row.build(ports)
        assert routes.ports == ports
        if row.free:
            assert routes.links == 0 == routes.hops.size
        assert routes.order.shape[1] <= row.tries
        assert (routes.order.shape[1] > 1) == (row.tries > 1 and ports > 2)
