"""Interconnects, power and the size of arrays, against arXiv 2203.11540 and its artifact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_systolic_schedule import route

from sim.dnn.bert import bert
from sim.dnn.known import dnn
from sim.reproduce.sosa_rows import (
    AT_20_X_32,
    IMAGES,
    INTERCONNECTS,
    LENGTHS,
    OPTIMA,
    POD_COUNTS,
    SQUARE_SIZES,
    SQUARE_VALUES,
)
from sim.systolic.granularity import mean_of_means
from sim.systolic.interconnect import butterfly, interconnect
from sim.systolic.pod_array import PodArray, harmonic_mean
from sim.systolic.power import most_pods, peak_power


def walk(bank: int, pod: int, bits: int, extra: int) -> list[tuple[int, int]]:
    """The published rule, step by step: a perfect shuffle, switches steered by the target,
    butterflies between them."""
    ports, target = 1 << bits, pod << extra
    at = (bank << 1 | bank >> bits - 1) & ports - 1
    links = []
    for stage in range(bits):
        at = at & ~1 | target >> bits - 1 - stage & 1
        links.append((stage, at))
        high = bits - 1 - stage  # the butterfly after this stage swaps the lowest bit with this one
        low, top = at & 1, at >> high & 1
        at = at & ~(1 | 1 << high) | top | low << high
    assert at == target
    return links


@pytest.mark.parametrize(("ports", "expansion"), [(2, 1), (8, 1), (8, 2), (16, 4), (8, 8), (6, 2)])
def test_links_of_a_butterfly_are_those_of_the_published_walk(ports: int, expansion: int) -> None:
    net = butterfly(ports, expansion)
    extra = expansion.bit_length() - 1
    bits = (ports - 1).bit_length() + extra
    name: dict[tuple[int, int], int] = {}
    for bank in range(ports):
        for pod in range(ports):
            for walked, link in zip(
                walk(bank, pod, bits, extra), route(net, bank, pod), strict=True
            ):
                assert name.setdefault(walked, link) == link
    assert len(set(name.values())) == len(name)
    assert max(name.values()) < net.links


@given(bits=st.integers(1, 5), extra=st.integers(0, 3), data=st.data())
def test_a_butterfly_reaches_every_pod_and_multicasts(
    bits: int, extra: int, data: st.DataObject
) -> None:
    """Routes of one bank share links from the first stage on, and meet those of another at the same
    link or never."""
    net = butterfly(1 << bits, 1 << extra)
    bank = data.draw(st.integers(0, net.ports - 1))
    hops = net.hops[bank]
    for a in range(net.ports):
        for b in range(net.ports):
            same = hops[a] == hops[b]
            assert not np.any(same[1:] & ~same[:-1])
    assert len({tuple(route) for route in hops.tolist()}) == net.ports


@pytest.mark.parametrize(
    ("kind", "latencies"),
    [
        ("butterfly_1", (8, 8)),
        ("butterfly_2", (10, 9)),
        ("butterfly_4", (12, 10)),
        ("butterfly_8", (14, 11)),
        ("crossbar", (1, 1)),
        ("benes_copy", (31, 31)),
        ("bus", (1, 1)),
    ],
)
def test_latencies_at_256_pods(kind: str, latencies: tuple[int, int]) -> None:
    """As the artifact counts, and as there are."""
    routes = interconnect(kind, 256)
    counted = routes.latency_cycles + routes.recounted_cycles, routes.latency_cycles
    assert counted == latencies


TABLE = {  # rows = cols, pods: SRAM, MAC, interconnect, total W; peak TOPS, at 400 W
    (16, 512): (132.7, 52.4, 25.4, 210.6, 262, 498),
    (32, 256): (132.7, 104.9, 22.6, 260.2, 524, 806),
    (64, 128): (132.7, 209.7, 19.8, 362.2, 1049, 1158),
    (128, 32): (66.4, 209.7, 7.1, 283.1, 1049, 1481),
    (256, 8): (33.2, 209.7, 2.1, 245.0, 1049, 1712),
    (512, 1): (8.3, 104.9, 0.0, 113.2, 524, 1853),
}


@pytest.mark.parametrize(("size", "pods"), TABLE)
def test_power_and_peak_are_those_of_the_paper(size: int, pods: int) -> None:
    array = PodArray(size, size, pods)
    power, peak = array.power, array.peak_ops_per_s
    watts = [
        round(float(w), 1) for w in (power.sram_w, power.mac_w, power.interconnect_w, power.total_w)
    ]
    assert (*watts, round(peak / 1e12), round(array.at_power(peak) / 1e12)) == TABLE[size, pods]


@pytest.mark.parametrize("kind", INTERCONNECTS)
def test_power_of_interconnects_is_that_of_the_paper(kind: str) -> None:
    for pods, published in zip(POD_COUNTS, INTERCONNECTS[kind][1]):
        assert abs(PodArray(pods=pods, interconnect=kind).power.total_w - published) < 0.06


def test_most_pods_fill_the_power() -> None:
    rows, cols = np.array([8, 32, 20, 512, 2000]), np.array([8, 32, 32, 512, 2000])
    assert most_pods(rows, cols).tolist() == [2153, 390, 479, 3, 1]
    pods = most_pods(rows, cols)[:4]
    assert np.all(peak_power(rows[:4], cols[:4], pods).total_w <= 400)
    assert np.all(peak_power(rows[:4], cols[:4], pods + 1).total_w > 400)


def test_design_space_has_the_published_optima() -> None:
    """Effective TOPS a watt at 400 W over arrays of even sizes up to 256."""
    nets = (
        "inception_v3",
        "resnet50",
        "resnet101",
        "resnet152",
        "densenet121",
        "densenet169",
        "densenet201",
    )
    sizes = np.arange(2.0, 257.0, 2.0)
    rows, cols = sizes[:, None], sizes[None, :]
    cnn = (
        mean_of_means([[dnn(name, image=image) for image in IMAGES] for name in nets], rows, cols)
        / 1e12
    )
    berts = [[bert(size, length) for length in LENGTHS] for size in ("medium", "base", "large")]
    language = mean_of_means(berts, rows, cols) / 1e12
    mix = harmonic_mean(np.array([cnn, language]))
    spaces = {"CNN": cnn, "BERT": language, "Mix": mix}
    diagonal = [int(size) // 2 - 1 for size in SQUARE_SIZES]
    for name, space in spaces.items():
        best_rows, best_cols, value, _ = OPTIMA[name]
        at = np.unravel_index(space.argmax(), space.shape)
        assert (sizes[at[0]], sizes[at[1]]) == (best_rows, best_cols)
        assert space[at] == pytest.approx(value, rel=1e-3)
        assert space[diagonal, diagonal] == pytest.approx(SQUARE_VALUES[name], rel=3e-3)
    for name, value in AT_20_X_32.items():
        assert spaces[name][9, 15] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"pods": 0}, "pods of a pod array is at least 1, not 0"),
        ({"interconnect": "torus"}, "no interconnect 'torus' here; choose one of butterfly_1"),
        ({"dataflow": "torus"}, "no dataflow 'torus' here; choose one of weight_stationary"),
        ({"dram_bytes_per_s": 0.0}, "dram_bytes_per_s of a pod array is positive"),
    ],
)
def test_impossible_arrays_are_refused(facts: dict, fault: str) -> None:
    with pytest.raises(ValueError) as error:
        PodArray(**facts)
    assert fault in str(error.value)


def test_impossible_interconnects_are_refused() -> None:
    with pytest.raises(ValueError, match="a power of 2, not 3"):
        butterfly(8, 3)
    with pytest.raises(ValueError, match="at least 1 port"):
        interconnect("crossbar", 0)
    for kind in ("benes", "fat_tree", "h_tree"):
        with pytest.raises(ValueError, match=f"a {kind} joins a power of 2 of pods: 4 or 8, not 6"):
            interconnect(kind, 6)


@pytest.mark.parametrize("ports", [4, 8, 32])
def test_a_benes_network_gives_any_permutation_its_links(ports: int) -> None:
    """By every way a route begins at its bank's switch, ends at its pod, and takes a link of each
    stage."""
    net = interconnect("benes", ports)
    stages = 2 * (ports.bit_length() - 1) - 1
    for bank in range(ports):
        for pod in range(0, ports, 3):
            for way in range(ports // 2):
                links = route(net, bank, pod, way)
                assert [link // ports for link in links] == list(range(stages))
                assert links[-1] == (stages - 1) * ports + pod
    first = {(route(net, bank, 0, way)[0]) for bank in range(ports) for way in range(ports // 2)}
    assert first == set(range(ports))  # two links out of each switch of two banks


@pytest.mark.parametrize(("kind", "longest"), [("mesh", 7), ("h_tree", 8)])
def test_routes_of_extensions_are_as_long_as_their_distance(kind: str, longest: int) -> None:
    net = interconnect(kind, 16)
    lengths = {
        (bank, pod): len(set(route(net, bank, pod)) - {bank})
        for bank in range(16)
        for pod in range(16)
    }
    if kind == "mesh":
        far = {(b, p): abs(b % 4 - p % 4) + abs(b // 4 - p // 4) for b, p in lengths}
    else:
        far = {(b, p): 2 * (b ^ p).bit_length() for b, p in lengths}
    assert lengths == far
    assert net.latency_cycles == longest


def test_a_fat_tree_carries_all_to_one_neighbour_at_once() -> None:
    net = interconnect("fat_tree", 16)
    taken = [link for bank in range(16) for link in set(route(net, bank, bank ^ 8)) if link >= 16]
    assert len(taken) == len(set(taken)) == 16 * 4
