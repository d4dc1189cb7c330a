"""Pod files: every shape can be written, every fault is told, and a page shows what is wired to
what."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sim import catalog
from sim.catalog import shipped
from sim.cli.app import app
from sim.network import topology
from sim.network.network import Network
from sim.network.topology import SHAPES
from sim.results.topology_page import MOST_DRAWN, figures, page
from sim.text.strict_yaml import ScenarioError

TAIL = """device: h100_sxm
library: nccl
link: {bytes_per_s: 50 GB/s, latency_s: 1 us, tag: INFER, source: a round number}
"""
PARAMETERS = {
    "full_mesh": "devices: 4",
    "switch": "devices: 4\ncore: 100 GB/s\nforwarding: store_and_forward",
    "crossbar": "devices: 4",
    "ring": "devices: 4",
    "mesh": "dims: [3, 4]",
    "torus": "dims: [2, 3, 4]",
    "hypercube": "dimensions: 3",
    "star": "devices: 5",
    "fat_tree": "k: 2\nlevels: 3\noversubscription: 2",
    "butterfly": "k: 2\nn: 3\nexpansion: 2",
    "benes": "k: 2\nn: 2",
    "dragonfly": "groups: 3\nrouters: 2\nchips: 2",
    "multi_node": "nodes: 2\nchips: 4\nnic: {bytes_per_s: 25 GB/s, latency_s: 2 us}\nrouting: "
    "spray",
    "edges": "edges: [[0, 1], [1, 2, {bytes_per_s: 1 GB/s, duplex: half}], [2, hub], [0, hub]]\n"
    "switches: {hub: {core: 10 GB/s}}\nchips_forward: true",
}
CHIPS = {
    "full_mesh": 4,
    "switch": 4,
    "crossbar": 4,
    "ring": 4,
    "mesh": 12,
    "torus": 24,
    "hypercube": 8,
    "star": 5,
    "fat_tree": 8,
    "butterfly": 8,
    "benes": 4,
    "dragonfly": 12,
    "multi_node": 8,
    "edges": 3,
}


def written(folder, shape, parameters, tail=TAIL):
    file = folder / f"{shape}.yaml"
    file.write_text(f"name: {shape}\nshape: {shape}\n{parameters}\n{tail}")
    return file


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_can_be_written(shape, tmp_path):
    pod = catalog.pod(written(tmp_path, shape, PARAMETERS[shape]))
    graph = pod.graph()
    assert pod.devices == CHIPS[shape] == sum(isinstance(node, int) for node in graph)
    assert all(link["bytes_per_s"] > 0 for _, _, link in graph.edges(data=True))
    assert "chips" in figures(graph)
    html = page("<script>alert(1)</script>", graph, pod.facts)
    assert "<script>alert(1)" not in html and "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize(
    ("shape", "parameters", "what"),
    [
        ("ring", "dims: [4]", "dims: unknown key of a ring"),
        ("torus", "", "dims"),
        (
            "torus",
            "dims: [4, 4]\nrouting: bit_steered",
            "no routing 'bit_steered' on a torus; choose one of shortest",
        ),
        ("torus", "dims: [4096, 4096]", "the most is 500,000 links"),
        ("torus", "dims: [0, 4]", "dims"),
        ("moebius", "devices: 4", "shape"),
        (
            "ring",
            "devices: 4\nnik: {bytes_per_s: 1 GB/s, latency_s: 1 us}",
            "unknown key of a ring",
        ),
        ("ring", "devices: 4\nedges: [[0, 1]]", "edges"),
        ("edges", "edges: [[0, 1], [1, 0]]", "the link 1 - 0 is given twice"),
        ("edges", "edges: [[0, 0]]", "the link 0 - 0 joins 0 to itself"),
        ("edges", "edges: [[0, 1], [2, 3]]", "not in one piece"),
        ("edges", "edges: [[0, 1, {bytes_per_s: 0 GB/s}]]", "greater than 0"),
        ("edges", "edges: [[0, 1]]\nswitches: {ghost: {}}", "'ghost' has facts but no link"),
    ],
)
def test_faults_are_told(shape, parameters, what, tmp_path):
    with pytest.raises(ScenarioError) as error:
        catalog.pod(written(tmp_path, shape, parameters))
    assert what in str(error.value) and f"{shape}.yaml:" in str(error.value)


def test_what_if_edits_reach_every_link():
    pod = catalog.pod("p5_x2", {"bytes_per_s": 1e9})
    rates = {link["bytes_per_s"] for _, _, link in pod.graph().edges(data=True)}
    assert rates == {1e9, 50e9, 400e9}  # the NICs and the spine are links of their own


def test_the_fits_pods_are_those_that_ship():
    from sim.calibrate.libraries import SOURCES

    pods = {
        "nccl": "dgx_h100",
        "nccl_a100": "dgx_a100",
        "nccl_p5": "p5_x2",
        "nccl_a3mega": "a3mega_x2",
        "nccl_p4de": "p4de_x2",
        "rccl": "mi300x_platform",
    }
    for library, name in pods.items():
        fitted, shipped_pod = SOURCES[library].pod(), catalog.pod(name).graph()
        for a, b, link in fitted.edges(data=True):
            ours = shipped_pod.edges[a, b]
            assert (link["bytes_per_s"], link["latency_s"]) == (
                ours["bytes_per_s"],
                ours["latency_s"],
            ), (name, a, b)


@pytest.mark.parametrize(
    ("pair", "node"), [("p5_x2", "dgx_h100"), ("a3mega_x2", "dgx_h100"), ("p4de_x2", "dgx_a100")]
)
def test_within_a_node_of_two_it_is_as_on_one(pair, node):
    """What was measured between two nodes says nothing of a group that stays within one of them."""
    two, one = (
        Network(pod.graph(), catalog.library(pod.library)) for pod in map(catalog.pod, (pair, node))
    )
    for ranks in (8, tuple(range(8, 16)), (2, 3)):
        inside = tuple(range(len(ranks))) if isinstance(ranks, tuple) else ranks
        for nbytes in (16e3, 1e6, 64e6):
            found, due = (
                two.fold("all_reduce", ranks, nbytes),
                one.fold("all_reduce", inside, nbytes),
            )
            assert found.way == due.way and found.seconds == pytest.approx(due.seconds, rel=1e-9)
    assert two.fold("all_reduce", 16, 1e6).seconds > 2 * one.fold("all_reduce", 8, 1e6).seconds


def test_a_library_stands_for_another_within_a_node_only_once(tmp_path):
    path = tmp_path / "own.yaml"
    text = "name: own\nwithin_node: {within}\nlaunch_s: {{value: 1 us, tag: INFER, source: none}}\n"
    path.write_text(text.format(within=path))
    with pytest.raises(ValueError, match="has one itself"):
        catalog.library(path)
    path.write_text(text.format(within="nccl"))
    assert catalog.library(path, {"launch_s": 1e-3}).within_node.launch_s == 1e-3, (
        "what-if edits reach both"
    )


def test_vllm_drives_a_node_by_its_own_kernels_and_by_nccl():
    pod = catalog.pod("dgx_h100")
    own, nccl = (Network(pod.graph(), catalog.library(name)) for name in ("vllm_nvlink", "nccl"))
    small, large = own.fold("all_reduce", 8, 16e3), own.fold("all_reduce", 8, 512e6)
    assert (
        small.way.protocol == "custom"
        and small.seconds < 0.5 * nccl.fold("all_reduce", 8, 16e3).seconds
    )
    assert large == nccl.fold("all_reduce", 8, 512e6)
    assert own.fold("all_gather", 8, 1e6) == nccl.fold("all_gather", 8, 1e6)


def test_large_pods_are_drawn_in_part():
    graph = topology.build("torus", dims=(64, 64), bytes_per_s=1e9, latency_s=0)
    html = page("large", graph, {})
    assert f"Drawn: the {34 * 34:,} nodes nearest to chip 0" in html and MOST_DRAWN >= 34 * 34


def test_the_command(tmp_path):
    out = tmp_path / "t.html"
    result = CliRunner().invoke(app, ["topology", "dgx_h100", "--out", str(out)])
    assert result.exit_code == 0 and "bisection bandwidth" in result.output
    html = out.read_text()
    assert "NVLink" in html or "switch" in html
    assert 'src="http' not in html and "https://cdn" not in html.split("</script>")[-1]
    wrong = CliRunner().invoke(app, ["topology", "dgx_h10"])
    assert wrong.exit_code == 2 and "did you mean 'dgx_h100'" in wrong.output
    assert set(shipped.names("topologies")) > {
        "dgx_h100",
        "p5_x2",
        "nvl72",
        "tpu_v4_pod",
        "cloudmatrix_384",
    }


def test_wires_of_their_own_and_of_one_way_are_said(tmp_path):
    from sim.results.topology_page import figures

    file = tmp_path / "odd.yaml"
    file.write_text(
        "name: odd\nshape: edges\ndevice: h100_sxm\nlibrary: none\n"
        "link: {bytes_per_s: 100 GB/s, latency_s: 1 us}\nedges:\n"
        "  - [0, 1, {bytes_per_s: 50 GB/s, duplex: simplex}]\n  - [1, 2]\n  - [2, 0]\n"
    )
    pod = catalog.pod(file)
    told = pod.facts["wires of their own"]
    assert (told.value, told.tag) == ("0 - 1: 50 GB/s", "OWN")
    assert figures(pod.graph())["wires of one way"] == "0 → 1"
    assert "wires of their own" not in catalog.pod("dgx_h100").facts
