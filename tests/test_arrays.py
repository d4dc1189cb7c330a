"""Networks on an array of pods, from YAML to the page: what sharing costs whom, and that nothing is
lost on the way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_systolic_schedule import arrays, dnns_of_gemms

from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import dnn
from sim.results import Result
from sim.run import run
from sim.scenario import ScenarioError
from sim.systolic import tenancy
from sim.systolic.losses import ends, losses, occupancy
from sim.systolic.pod_array import PodArray
from sim.systolic.power import sram_joules_per_byte
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate

ARRAY = "pod: {array: {rows: 16, cols: 16, pods: 16}}\n"
TWO = "networks: {bert_tiny: {length: 40}, resnet18: {image: 64}}"
TRACES = (
    "networks: {texts: {network: bert_tiny, length: 40, trace: {file: azure_conv_like, limit: "
    "40, speed: 20000}}, "
    "images: {network: resnet18, image: 64, trace: {file: azure_conv_like, first: 900, limit: "
    "30, speed: 20000}}}"
)
SHARINGS = ("interleaved", "partitioned", "time_sliced")


def played(
    folder: Path, workload: str, *variants: str, array: str = ARRAY, more: str = ""
) -> Result:
    file = folder / "s.yaml"
    lines = "".join(f"  {line}\n" for line in variants or ("a: {}",))
    file.write_text(
        f"question: q\n{array}workload: {{kind: networks, {workload}}}\nvariants:\n{lines}{more}",
        "utf-8",
    )
    return run(file)


def shared(folder: Path, networks: str, more: str = "") -> Result:
    ways = [f"{way}: {{workload: {{sharing: {way}}}}}" for way in SHARINGS]
    return played(folder, f"sharing: time_sliced, {networks}{more}", *ways)


# Where time goes, and who is where.


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["bert_tiny", "resnet18"])
def test_parts_of_time_add_up_and_tiles_are_all_there(name: str, exact: bool) -> None:
    net, machine = dnn(name, exact=exact), PodArray(16, 16, 32)
    made = schedule([net], machine, exact=exact)
    timing = simulate(made)
    parts = losses(made, timing)
    assert sum(parts) == pytest.approx(timing.cycles, rel=1e-12)
    assert min(parts) >= -1e-9
    assert parts.macs == net.macs / (16 * 16 * 32)
    assert parts.memory == timing.stall_cycles
    seen = occupancy(made, timing)
    assert np.count_nonzero(seen.layer) == timing.tile_ops
    assert np.array_equal(np.count_nonzero(seen.layer, axis=0), timing.busy_pods)
    assert len(seen.layers) == len(net.layers)
    assert ends(made, timing) == (timing.cycles,)


def test_energy_of_banks_is_the_papers_and_between_them_in_order() -> None:
    found = [
        sram_joules_per_byte(size << 10) for size in (16, 64, 100, 128, 200, 256, 400, 512, 4096)
    ]
    assert found == sorted(found)
    assert (found[1], found[3], found[5], found[7]) == (1.1e-12, 1.6e-12, 2.7e-12, 4.1e-12)
    assert (found[0], found[-1]) == (1.1e-12, 4.1e-12)


# Who comes when.

times = (
    st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=12).map(sorted).map(np.array)
)
services = st.floats(0.5, 9)


@settings(max_examples=150, deadline=None)
@given(
    arrivals=st.tuples(times, times, times),
    seconds=st.tuples(services, services, services),
    data=st.data(),
)
def test_alone_is_never_slower_than_together(
    arrivals: tuple[np.ndarray, ...], seconds: tuple[float, ...], data: st.DataObject
) -> None:
    """Each request, in each way of sharing; nothing begins before it comes, and the array is never
    twice in use."""
    quantum = data.draw(st.none() | st.floats(0.3, 4))
    resume = [data.draw(st.floats(0, 1)) for _ in seconds]
    alone = [tenancy.apart([each], [service]).end_s[0] for each, service in zip(arrivals, seconds)]

    def gang(who: tuple[int, ...]) -> list[float]:  # later ones fill what earlier ones leave
        return [
            max(seconds[i], 0.7 * sum(seconds[j] for j in who[: place + 1]))
            for place, i in enumerate(who)
        ]

    ways = {
        "gangs": tenancy.in_gangs(arrivals, gang, keep=100),
        "turns": tenancy.in_turns(arrivals, seconds, quantum, resume, keep=10_000),
        "apart": tenancy.apart(arrivals, [2 * each for each in seconds], keep=100),
    }
    for way, served in ways.items():
        for arrived, start, end, least in zip(arrivals, served.start_s, served.end_s, alone):
            assert np.all(start >= arrived), way
            assert np.all(end >= least * (1 - 1e-9)), way
            assert np.all(np.diff(start) >= 0), way
        turns = sorted(served.turns)
        if way != "apart":
            assert all(a.end_s <= b.start_s * (1 + 1e-12) for a, b in itertools.pairwise(turns)), (
                way
            )
            assert served.in_use_s == pytest.approx(
                sum(turn.end_s - turn.start_s for turn in turns)
            ), way
    whole = tenancy.in_turns(arrivals, seconds)
    assert whole.in_use_s == pytest.approx(sum(len(a) * s for a, s in zip(arrivals, seconds)))


def test_turns_by_hand() -> None:
    """Two requests at once, 3 s and 2 s, in slices of 1 s, half a second to resume."""
    now = np.zeros(1)
    served = tenancy.in_turns([now, now], [3.0, 2.0], 1.0, [0.5, 0.5], keep=9)
    assert [(t.who[0], t.start_s, t.end_s) for t in served.turns] == [
        (0, 0.0, 1.0),
        (1, 1.0, 2.0),
        (0, 2.0, 3.5),
        (1, 3.5, 5.0),
        (0, 5.0, 6.5),
    ]
    assert (served.end_s[0][0], served.end_s[1][0]) == (6.5, 5.0)
    alone = tenancy.in_turns([now], [3.0], 1.0, [0.5])
    assert alone.end_s[0][0] == 3.0  # nobody ran in between


def test_apart_is_a_queue_each_and_the_array_in_use_while_either_is() -> None:
    served = tenancy.apart([np.array([0.0, 1.0, 9.0]), np.array([1.0, 2.5])], [2.0, 1.0])
    assert [each.tolist() for each in served.end_s] == [[2.0, 4.0, 11.0], [2.0, 3.5]]
    assert served.in_use_s == 4.0 + 2.0


@settings(max_examples=60, deadline=None)
@given(one=dnns_of_gemms(), other=dnns_of_gemms(), machine=arrays)
def test_the_first_of_a_schedule_ends_no_sooner_than_alone(
    one: Dnn, other: Dnn, machine: PodArray
) -> None:
    made = schedule([one, other], machine)
    together = ends(made, simulate(made))
    assert together[0] >= simulate(schedule([one], machine)).cycles
    assert max(together) <= simulate(made).cycles


def test_a_later_one_may_gain_by_being_pushed_back() -> None:
    """An anomaly of first fit: two tile ops in one round leave an addition, in two rounds they are
    a chain."""
    one, other = (
        Dnn(name, (GemmLayer("g", 1, n, 1, raw_input=True),))
        for name, n in (("one", 1), ("other", 5))
    )
    machine = PodArray(4, 2, 2, "butterfly_1")
    made, alone = schedule([one, other], machine), schedule([other], machine)
    assert (len(alone.layers[0].add_left), len(made.layers[1].add_left)) == (1, 0)
    assert ends(made, simulate(made))[1] < simulate(alone).cycles


# Whole runs.


def test_networks_alone(tmp_path: Path) -> None:
    result = played(tmp_path, TWO)
    (mine,) = result.variants.values()
    metrics, each = mine["metrics"], mine["tenants"]
    assert metrics["makespan_s"] == pytest.approx(sum(one["inference_s"] for one in each.values()))
    speeds = [one["effective_ops_per_s"] for one in each.values()]
    assert metrics["effective_ops_per_s"] == pytest.approx(2 / sum(1 / speed for speed in speeds))
    assert metrics["peak_ops_per_s"] == 2 * 16**3 * 1e9
    assert metrics["ops_per_joule"] * metrics["peak_power_w"] == pytest.approx(
        metrics["effective_ops_per_s"]
    )
    assert metrics["effective_ops_per_s_at_power"] == pytest.approx(400 * metrics["ops_per_joule"])
    assert all(
        "slowdown" not in one and one["inference_s"] == one["alone_s"] for one in each.values()
    )
    net = dnn("bert_tiny", length=40)
    timing = simulate(schedule([net], PodArray(16, 16, 16)))
    assert each["bert_tiny"]["inference_s"] == timing.cycles / 1e9
    assert each["bert_tiny"]["ops"] == net.ops


def test_each_way_of_sharing_once(tmp_path: Path) -> None:
    result = shared(tmp_path, TWO)
    found = {name: variant["metrics"] for name, variant in result.variants.items()}
    for name, variant in result.variants.items():
        assert all(one["slowdown"] >= 1 for one in variant["tenants"].values()), name
        assert found[name]["sharing_gain"] * found[name]["makespan_s"] == pytest.approx(
            sum(one["alone_s"] for one in variant["tenants"].values())
        )
        assert 0 < found[name]["fairness"] <= 1
        assert found[name]["tile_ops"] == found["time_sliced"]["tile_ops"]
    assert found["time_sliced"]["sharing_gain"] == pytest.approx(1)
    assert result.variants["time_sliced"]["tenants"]["bert_tiny"]["slowdown"] == 1
    assert found["interleaved"]["rounds"] < found["time_sliced"]["rounds"]
    assert [one["pods"] for one in result.variants["partitioned"]["tenants"].values()] == [8, 8]


def test_requests_of_traces(tmp_path: Path) -> None:
    result = shared(tmp_path, TRACES)
    for name, variant in result.variants.items():
        metrics, each = variant["metrics"], variant["tenants"]
        assert metrics["requests"] == 70
        assert (each["texts"]["requests"], each["images"]["requests"]) == (40, 30)
        assert each["texts"]["slowdown"] >= 1 and each["images"]["slowdown"] >= 1, name
        assert "ttft_mean_s" not in metrics and metrics["e2e_p99_s"] >= metrics["e2e_p50_s"]
        done = sum(one["ops"] * one["requests"] for one in each.values())
        assert metrics["effective_ops_per_s"] == pytest.approx(done / metrics["makespan_s"])
    files = result.files()
    assert files["requests.parquet" if "requests.parquet" in files else "requests.csv"]
    assert "Latency of the requests" in result.report()


def test_a_quantum_makes_more_turns_and_keeps_the_work(tmp_path: Path) -> None:
    result = played(
        tmp_path,
        f"sharing: time_sliced, {TRACES}",
        "whole: {}",
        "sliced: {workload: {quantum: 1 us}}",
    )
    whole, sliced = (outcome.timeline.spans for outcome in result.outcomes.values())
    assert len(sliced) > 2 * len(whole)
    assert {span.name for span in sliced} == {span.name for span in whole}
    assert (
        result.variants["sliced"]["metrics"]["makespan_s"]
        >= result.variants["whole"]["metrics"]["makespan_s"]
    )


def test_equal_runs_give_equal_bytes_on_any_number_of_workers(tmp_path: Path) -> None:
    first = shared(tmp_path, TRACES)
    again = run(tmp_path / "s.yaml", workers=2)
    assert first.to_json() == again.to_json()
    files, others = first.files(), again.files()
    assert files.keys() == others.keys()
    assert all(files[name] == others[name] for name in files if name != "log.txt")


def test_exact_and_partition_reach_the_schedule(tmp_path: Path) -> None:
    result = played(
        tmp_path,
        "networks: {bert_medium: {length: 100}}",
        "clean: {}",
        "exact: {workload: {exact: true}}",
        "whole: {workload: {partition: none}}",
        array="pod: {array: {}}\n",
        more="record: {enabled: false}\n",
    )
    times = {
        name: each["tenants"]["bert_medium"]["inference_s"]
        for name, each in result.variants.items()
    }
    assert times["exact"] == 30120e-9  # the artifact's
    assert times["clean"] < times["exact"] < times["whole"]


def test_networks_from_files_and_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("m,n,k\n64,64,64\n64,64,128\n", "utf-8")
    result = played(
        tmp_path,
        "networks: {mine: {file: mine.csv, batch: 2}, "
        "chat: {model: smollm2-135m, phase: decode, tokens: 50, layers: 2}}",
    )
    each = result.variants["a"]["tenants"]
    assert each["mine"]["ops"] == 2 * 2 * 64 * 64 * (64 + 128)
    assert any("each product waits for the one before" in text for text in result.warnings)
    assert "smollm2-135m, decode, 50 tokens, batch 1, the first 2 layers" in result.report()


@pytest.mark.parametrize(
    "extension", ["network: mesh", "dataflow: output_stationary", "bank: 200 KiB"]
)
def test_what_is_ours_says_so(extension: str, tmp_path: Path) -> None:
    array = f"pod: {{array: {{rows: 16, cols: 16, pods: 16, {extension}}}}}\n"
    result = played(tmp_path, "networks: {bert_tiny: {length: 10}}", array=array)
    assert "INFER" in [row.tag for row in result.outcomes["a"].assumptions]


# Pages.


def test_names_are_escaped_in_every_page(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("m,n,k,name\n8,8,8,</script><img src=x>\n", "utf-8")
    files = played(tmp_path, "networks: {x: {file: x.csv}}").files()
    for name in ("report.html", "figures.html", "timeline.html"):
        assert b"</script><img" not in files[name] and b"<img src=x>" not in files[name]


def figures(result: Result) -> dict[str, Any]:
    page = result.files()["figures.html"].decode()
    return json.loads(
        page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    )


def test_figures_of_a_study_and_of_pods(tmp_path: Path) -> None:
    variants = [f"p{pods}: {{pod: {{array: {{pods: {pods}}}}}}}" for pods in (4, 8, 16)]
    data = figures(played(tmp_path, TWO, *variants))
    assert [figure["heading"] for figure in data["figures"]] == [
        "Throughput by pods",
        "Throughput at 400 W",
    ]
    line = data["figures"][0]["traces"][0]
    assert (line["name"], line["x"]) == ("harmonic mean", [4, 8, 16])
    assert len(data["runs"]) == 6
    kinds = ["crossbar", "butterfly_1", "bus"]
    data = figures(
        played(
            tmp_path, TWO, *(f"{kind}: {{pod: {{array: {{network: {kind}}}}}}}" for kind in kinds)
        )
    )
    assert data["figures"][0]["heading"] == "Throughput against power"


def test_sums_of_pages_are_those_of_the_run(tmp_path: Path) -> None:
    result = played(tmp_path, TWO, "a: {workload: {sharing: interleaved}}")
    text = result.report()
    assert "Where the time of the array goes" in text and 'href="figures.html"' in text
    tracks = {span.track for span in result.outcomes["a"].timeline.spans}
    assert len(tracks) == 8
    assert {span.kind for span in result.outcomes["a"].timeline.spans} == {"bert_tiny", "resnet18"}


# Bad input.


@pytest.mark.parametrize(
    ("array", "workload", "said"),
    [
        ("pods: 0", TWO, "pod.array.pods: 0 is out of range"),
        ("pods: 6, network: benes", TWO, "a benes joins a power of 2 of pods: 4 or 8, not 6"),
        ("bank: 512 B", TWO, "a tile of W of layer .* has 1024 bytes, a bank 512"),
        ("network: buss", TWO, "did you mean 'bus'"),
        ("", "networks: {resnet51: }", "no network 'resnet51', did you mean 'resnet50'"),
        ("", "networks: {}", "at least one entry"),
        (
            "",
            "networks: {resnet50: {length: 5}}",
            "resnet50.length: resnet50 takes an image, not a length",
        ),
        (
            "",
            "networks: {a: {network: resnet50, model: llama3-8b}}",
            "network and model are two ways",
        ),
        ("", "networks: {a: {file: none.csv}}", "no such file 'none.csv'"),
        ("", "networks: {a: {file: s.yaml}}", "neither .csv nor .onnx"),
        (
            "",
            "quantum: 1 us, networks: {resnet50: }",
            "quantum is for time_sliced networks that have traces",
        ),
        (
            "",
            "networks: {resnet50: {trace: {file: azure_conv_like}}}",
            "a network that is `alone` is run once",
        ),
        (
            "",
            "networks: {resnet50: {pods: 3}}",
            "has pods of its own, which only partitioned networks have",
        ),
        (
            "",
            "sharing: partitioned, networks: {resnet50: {pods: 200}, vgg16: {pods: 100}}",
            "are given 300 pods",
        ),
        (
            "pods: 1",
            f"sharing: partitioned, {TWO}",
            "are given 0 pods and one for each of 2 others",
        ),
        (
            "",
            "sharing: partitioned, networks: {resnet50: {trace: {file: azure_conv_like}}, vgg16: }",
            "resnet50 has a trace and vgg16 has none",
        ),
        (
            "",
            "sharing: time_sliced, networks: {resnet50: {trace: {file: azure_conv_like, limit: "
            "0}}}",
            "limit",
        ),
    ],
)
def test_bad_input(tmp_path: Path, array: str, workload: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        played(tmp_path, workload, array=f"pod: {{array: {{{array}}}}}\n")


def test_a_workload_has_the_machine_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="a workload of networks needs it"):
        played(tmp_path, TWO, array="pod: {topology: dgx_h100}\n")
    with pytest.raises(
        ScenarioError, match=r"pod\.topology: unknown key: a workload of networks reads array"
    ):
        played(tmp_path, TWO, array="pod: {topology: dgx_h100, array: {}}\n")
    with pytest.raises(ScenarioError, match=r"no network 'resnet1', did you mean 'resnet18'"):
        played(tmp_path, TWO, more="expect: [a.resnet1.slowdown > 1]\n")
    with pytest.raises(ScenarioError, match="nearest is 'effective_ops_per_s'"):
        played(tmp_path, TWO, more="expect: [a.effective_op_per_s > 1]\n")
