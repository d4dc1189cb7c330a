"""Rows that another package brings before the schema is built: each is one entry, in one table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sim.dnn.known import INPUTS, KNOWN
from sim.systolic.dataflow import DATAFLOWS

PACKAGE = """
from pathlib import Path

from sim.dnn.files import FORMATS, Format
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import KNOWN, LENGTH, Known
from sim.systolic.dataflow import DATAFLOWS, Dataflow
from sim.systolic.interconnect import INTERCONNECTS, Interconnect, crossbar


def mlp(length=128, batch=1):
    return Dnn("mlp", (GemmLayer("up", length * batch, 64, 96, raw_input=True),))


def read(path, *, batch=1):
    return mlp(int(path.read_text()), batch), ("it was read",)


INTERCONNECTS["twin"] = Interconnect("twin", crossbar, lambda ports: ports * ports, ours=True)
DATAFLOWS["turned"] = Dataflow(
    name="turned", stays="W", m="partition", n="cols", k="rows", scale_sim=""
)
KNOWN["mlp"] = Known("mlp", mlp, LENGTH)
FORMATS[".mlp"] = Format(".mlp", "MLP", read)

from sim.run import run
from sim.scenario import ScenarioError

result = run("rows.yaml")
plain, twin, turned, file = (result.variants[name]["metrics"] for name in "abcd")
assert plain == twin
assert turned == plain, "a square array does not tell its rows from its columns"
assert any("it was read" in text for text in result.warnings)
assert file["seconds"] == plain["seconds"]
tags = {name: [row for row in result.outcomes[name].assumptions if row[2] == "INFER"] for name in "ab"}
assert ("array: twin" in [row[0] for row in tags["b"]], tags["a"]) == (True, [])
for wrong, said in (("network: twi", "'twin'"), ("dataflow: turnd", "'turned'")):
    Path("wrong.yaml").write_text(Path("rows.yaml").read_text().replace("rows: 8", wrong))
    try:
        run("wrong.yaml")
    except ScenarioError as error:
        assert said in str(error), error
    else:
        raise AssertionError(wrong)
"""
SCENARIO = """
question: does a row from outside work?
pod: {array: {rows: 8, cols: 8, pods: 4, network: crossbar, bank: 256 KiB}}
workload: {kind: networks, networks: {one: {network: mlp, length: 40}}}
variants:
  a: {}
  b: {pod: {array: {network: twin}}}
  c: {pod: {array: {dataflow: turned}}}
  d: {workload: {networks: {one: {network: null, length: null, file: net.mlp}}}}
"""


def test_rows_from_outside_are_choices_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(SCENARIO, "utf-8")
    (tmp_path / "net.mlp").write_text("40", "utf-8")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PACKAGE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_dataflow_keeps_the_operand_that_has_no_streamed_axis() -> None:
    has = {"X": (0, 1), "W": (1, 2), "P": (0, 2)}
    for flow in DATAFLOWS.values():
        assert sorted((flow.m, flow.n, flow.k)) == ["cols", "partition", "rows"]
        assert flow.streamed not in has[flow.stays]
        assert flow.loaded in has[flow.stays]


def test_inputs_are_told_apart_by_their_names() -> None:
    assert {row.input.name for row in KNOWN.values()} == set(INPUTS)
    assert all(INPUTS[row.input.name] is row.input for row in KNOWN.values())
