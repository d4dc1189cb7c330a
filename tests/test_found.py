"""Networks of searched cells: what leads nowhere, what an array is asked for, cards, scenarios."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.catalog.dnn_cards import card
from sim.dnn.found import (
    EDGES,
    OPERATIONS,
    Cell,
    Found,
    alive,
    convolutions,
    dnn_of,
    placed,
    side_after,
)
from sim.reproduce import nas_searched
from sim.results.nas_page import nas_page
from sim.run import run
from sim.systolic.lookup import ONE_ARRAY
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate
from sim.systolic.utilisation import LAYERS, macs
from sim.text.strict_yaml import ScenarioError

OPS = ("conv3", "separable3", "dilated5", "identity", "zero", "conv5", "conv3", "zero", "conv3")
cells = st.lists(st.sampled_from([*OPERATIONS]), min_size=9, max_size=9).map(tuple)


def network(operations=OPS, width=lambda at: 4 + 2 * at, count=2) -> Found:
    names = convolutions(operations)
    widths = {name: width(at) for at, name in enumerate(names)}
    return Found("x", 32, 10, 8, (Cell(operations, widths),) * count)


@given(cells)
def test_every_edge_that_is_left_lies_on_a_way_from_an_input_to_the_output(operations):
    edges = alive(operations)
    for source, target in edges:
        assert source in ("near", "far") or any(edge[1] == source for edge in edges)
        assert target == "t3" or any(edge[0] == target for edge in edges)
    # and one that is left out leads nowhere, or from nowhere
    fed, used = {"near", "far"}, {"t3"}
    live = [edge for edge, op in zip(EDGES, operations) if op != "zero"]
    for _ in EDGES:
        fed |= {b for a, b in live if a in fed}
        used |= {a for a, b in live if b in used and a in fed}
    assert {*edges} == {(a, b) for a, b in live if a in fed and b in used and b in fed | used}


def test_a_network_by_hand():
    found = Found(
        "x", 32, 10, 8, (Cell(OPS, {n: 4 + 2 * i for i, n in enumerate(convolutions(OPS))}),)
    )
    names = {layer.name: layer for layer in placed(found)}
    near, far = names["cell1_near"], names["cell1_far"]
    assert (near.positions, near.channels, near.filters, far.filters) == (256, 8, 4, 6)
    # t1 = conv3(near) + separable3(far), of 8 and 10 channels: the wider counts
    assert names["cell1_t1_t2"].channels == 10
    assert names["cell1_t1_t2"].after == ("cell1_near_t1", "cell1_far_t1")
    # t2 takes near as it is: 4 channels, fewer than the 12 that it is added to
    assert names["cell1_t2_t3"].channels == 12
    assert names["cell1_t2_t3"].after == ("cell1_t1_t2", "cell1_near")
    assert names["classifier"].channels == 18 * 8 * 8
    by_hand = 9 * 3 * 8 * 1024 + 256 * (
        9 * 8 * 4
        + 9 * 8 * 6
        + 9 * 4 * 8
        + (9 * 6 + 6 * 10)
        + 25 * 10 * 12
        + 25 * 10 * 14
        + 9 * 12 * 16
        + 9 * 6 * 18
    )
    assert dnn_of(found).macs == by_hand + 18 * 64 * 10
    products = [layer for layer in dnn_of(found).layers if layer.name.startswith("cell1_far_t1:")]
    assert [(p.m, p.n, p.k) for p in products] == [(256, 9, 1)] * 6


@given(cells.filter(alive), st.integers(1, 3))
@settings(max_examples=40)
def test_products_are_those_of_the_model_of_utilisation(operations, batch):
    found = network(operations)
    total = sum(
        macs(LAYERS[p.operation.kind](p.operation.area, p.positions, p.channels, p.filters))
        for p in placed(found)
    )
    assert dnn_of(found, batch).macs == batch * total


def test_sizes_that_poolings_do_not_divide_are_refused_with_the_nearest():
    assert side_after(32, [True, False, True]) == [16, 8, 8, 4]
    with pytest.raises(ValueError, match="so 16 has to divide it; the nearest is 32"):
        side_after(30, [True] * 3)
    with pytest.raises(ValueError, match="the nearest is 16"):
        side_after(0, [True] * 3)


@pytest.mark.parametrize(
    ("operations", "widths", "said"),
    [
        (OPS[:8], {}, "9 operations, not 8"),
        (("conv7", *OPS[1:]), {}, "no operation 'conv7'"),
        (("zero",) * 9, {}, "no way leads"),
        (OPS, {"near": 4}, "due are near, far"),
        (OPS, dict.fromkeys(convolutions(OPS), 0), "near has no channels"),
    ],
)
def test_what_is_no_cell(operations, widths, said):
    with pytest.raises(ValueError, match=said):
        Cell(operations, widths)


def data(**changes) -> dict:
    found = network()
    edges = ["_".join(edge) for edge in EDGES]
    return {
        "kind": "found_network",
        "version": 1,
        "name": "x",
        "method": "uboost",
        "widths": "fixed",
        "latency_weight": 1.0,
        "utilisation_weight": 1.0,
        "array": {"rows": 16, "cols": 16},
        "image": 32,
        "classes": 10,
        "stem": 8,
        "cells": [
            {
                "operations": dict(zip(edges, cell.operations)),
                "widths": dict(cell.widths),
                "pool": True,
            }
            for cell in found.cells
        ],
        "accuracy": 90.0,
        "data": {"images": "digits", "train": 100, "test": 100},
        "simulated": {"cycles": 100, "utilisation": 0.5},
        "seed": 0,
        "command": "podscope learn nas x.json",
        "made_with": {},
    } | changes


def written(folder: Path, **changes) -> Path:
    file = folder / "x.json"
    file.write_text(json.dumps(data(**changes), indent=1))
    return file


def test_a_card_is_read_as_its_network(tmp_path):
    assert card(written(tmp_path)).found == network()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "kv_low_rank"}, "its kind is 'kv_low_rank'"),
        ({"version": 2}, "version 2; this podscope reads version 1"),
        ({"image": 30}, "the nearest is 32"),
        ({"cells": []}, "cells"),
        ({"accuracy": 101.0}, "less than or equal to 100"),
        ({"colour": "red"}, "unknown key"),
        ({"cells": [{**data()["cells"][0], "widths": {"near": 3}}]}, "due are"),
        ({"cells": [{**data()["cells"][0], "operations": {"a_b": "zero"}}]}, "of the edges"),
    ],
)
def test_what_is_no_card(tmp_path, changes, said):
    with pytest.raises(ScenarioError, match=said):
        card(written(tmp_path, **changes))


def test_a_card_is_a_network_of_a_scenario(tmp_path):
    written(tmp_path)
    scenario = {
        "question": "?",
        "pod": {"array": {"rows": 16, "cols": 16, "pods": 4}},
        "workload": {
            "kind": "networks",
            "image": 32,
            "networks": {"mine": {"card": "x.json"}, "mobilenet": {}},
        },
        "variants": {"alone": {}, "interleaved": {"workload": {"sharing": "interleaved"}}},
    }
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(scenario))
    result = run(str(file))
    alone = result.outcomes["alone"].part.networks[0]
    assert alone.name == "mine" and alone.seconds > 0
    file.write_text(
        yaml.safe_dump(
            {**scenario, "workload": {"kind": "networks", "networks": {"a": {"card": "nope"}}}}
        )
    )
    with pytest.raises(ScenarioError, match="nope"):
        run(str(file))


def test_the_record_of_the_searches_is_what_its_networks_take():
    runs = nas_searched.record()["runs"]
    for name in ("searched-32x32", "searched-128x128", "flexible-16-beta1-s1", "flops-1-s0"):
        run, plan = runs[name], runs[name]["plan"]
        made = [Cell(tuple(run["operations"]), widths) for widths in run["widths"]]
        found = Found(name, plan["image"], 10, plan["stem"], tuple(made))
        array = replace(ONE_ARRAY, rows=plan["rows"], cols=plan["cols"])
        assert simulate(schedule([dnn_of(found)], array)).cycles == run["cycles"]
        assert all(plan["step"] <= width for cell in run["widths"] for width in cell.values())
    shipped = card("searched-64x64")
    assert shipped.simulated.cycles == runs["searched-64x64"]["cycles"]
    assert shipped.accuracy == runs["searched-64x64"]["accuracy"]


def test_searched_rows_are_judged_but_for_those_that_were_fitted_to():
    rows = [*nas_searched.rows()]
    assert {row.id for row in rows} == {"U3", "U4", "F1", "F2", "F3"}
    for row in rows:
        assert row.ok is None or (row.tolerance and not row.fitted)
        assert isinstance(row.simulated, float | int)
    met = {row.ok for row in rows if row.id in ("U3", "F3")}
    assert met == {True}


def test_another_record_is_judged_in_place_of_the_one_that_is_here():
    told = json.loads(json.dumps(nas_searched.record()))
    run = told["runs"]["flexible-16-beta1-s1"]
    run["cycles"] *= 100
    (known, found) = (
        [row for row in nas_searched.rows(each) if row.id == "F1" and "latency of" in row.what]
        for each in (None, told)
    )
    changed = [(a.simulated, b.simulated) for a, b in zip(known, found) if a != b]
    assert len(known) == len(found) == 4
    (one,) = changed
    assert 1 + one[1] == pytest.approx(100 * (1 + one[0]))


def test_the_page_escapes_names_and_needs_no_network():
    told = data(name="<odd>")
    log = [
        {"stage": "channels", "epoch": at, "widths": [4, 6], "allocated": [8, 8]} for at in (1, 2)
    ]
    page = nas_page("<even>", [(told, network()), (told, network())], log, ONE_ARRAY)
    assert "<odd>" not in page and "<even>" not in page and "&lt;even&gt;" in page
    for heading in ("Accuracy against latency", "Chosen widths", "Widths while", "Utilisation by"):
        assert heading in page
