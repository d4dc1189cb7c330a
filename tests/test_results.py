"""The Result and its run folder: the contract's keys, equal bytes, atomic saves, and names that try
to be HTML."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pytest

from sim.facts.assumption import Assumption, Range
from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.kinds import KINDS
from sim.results import build, folder, requests
from sim.results.metrics import SPEEDUP
from sim.results.perfetto import trace_events
from sim.results.table import Comparison
from sim.results.timeline import timeline_page
from tests.synthetic import outcome

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def a_result(
    *, requests=0, expect=("preserve.speedup > 1.1",), names=("vanilla", "preserve"), **more
):
    variants = [outcome(requests=requests), outcome(requests=requests, prefetch=True)]
    facts = {
        "scenario": "preserve",
        "question": "Does it help?",
        "version": "0.1.0",
        "seed": 7,
        "resolved": "name: x\n",
        "kinds": KINDS,
    }
    return build(outcomes=dict(zip(names, variants)), expect=expect, **{**facts, **more})


def test_result_json_has_the_keys_of_the_contract():
    data = json.loads(a_result().to_json())
    assert set(data) == {
        "scenario",
        "version",
        "seed",
        "fingerprint",
        "partial",
        "variants",
        "comparison",
        "difference",
        "expect",
        "warnings",
    }
    assert list(data["variants"]) == ["vanilla", "preserve"]
    assert set(data["variants"]["preserve"]) == {"metrics", "tenants"}
    assert data["comparison"]["vanilla"]["speedup"] == 1
    makespans = [
        data["variants"][name]["metrics"]["makespan_s"] for name in ("vanilla", "preserve")
    ]
    assert data["comparison"]["preserve"]["speedup"] == makespans[0] / makespans[1]
    assert data["comparison"]["preserve"]["makespan_s"] == makespans[1] / makespans[0]
    assert data["expect"] == [
        {"text": "preserve.speedup > 1.1", "value": makespans[0] / makespans[1], "ok": True}
    ]


def test_a_zero_baseline_has_no_ratio():
    comparison = a_result().comparison["preserve"]
    assert "prefetched_bytes" not in comparison and "hbm_bytes" in comparison


def test_speedup_of_requests_is_that_of_their_mean_latency():
    result = a_result(requests=30)
    mean_s = [v["metrics"]["e2e_mean_s"] for v in result.variants.values()]
    assert result.comparison["preserve"]["speedup"] == mean_s[0] / mean_s[1]


@pytest.mark.parametrize("count", [0, 30])
def test_equal_runs_give_equal_bytes(count):
    assert a_result(requests=count).files() == a_result(requests=count).files()


def test_equal_bytes_in_another_process():
    code = "import hashlib, tests.test_results as t; f = t.a_result(requests=5).files()\n"
    code += "print(hashlib.sha256(b''.join(f[n] for n in sorted(f))).hexdigest())"
    shas = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=os.path.dirname(os.path.dirname(__file__)),
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shas) == 1


def test_warnings_say_whose_they_are():
    first, second = outcome(), outcome(prefetch=True)
    first.warnings, second.warnings = ["heads are padded"], ["heads are padded", "late", "late"]
    result = build(
        scenario="s",
        question="",
        version="0",
        seed=0,
        outcomes={"a": first, "b": second},
        expect=[],
        resolved="",
        kinds=KINDS,
        warnings=["from the loader"],
    )
    assert result.warnings == ["from the loader", "heads are padded", "b: late"]


def test_failed_expectation_is_said_everywhere():
    result = a_result(expect=["preserve.speedup > 9"])
    assert (
        not result.ok
        and "FAILED" in result.report()
        and "FAILED" in result.files()["log.txt"].decode()
    )
    with pytest.raises(ValueError, match="nearest is 'speedup'"):
        a_result(expect=["preserve.spedup > 9"])
    with pytest.raises(ValueError, match="at least one variant"):
        a_result(names=(), expect=[])


@pytest.mark.parametrize("width", [60, 400])
def test_variants_beyond_the_width_are_in_further_tables(width):
    from rich.console import Console

    names = [f"variant_{number}" for number in range(9)]
    metrics = {name: {SPEEDUP.name: 1.0} for name in names}
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(Comparison({}, metrics, metrics))
    told = console.file.getvalue()
    assert all(told.count(name) == 1 for name in names[1:])  # whole names
    assert (told.count(names[0]) > 1) == (width == 60)  # the baseline is in each table
    assert max(map(len, told.splitlines())) <= width


def test_table_and_verdict():
    from rich.console import Console

    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    result = a_result(names=("vanilla", "[red]preserve"), expect=[])
    console.print(result.table())
    text = console.file.getvalue()
    assert "[red]preserve is 1.3" in text and "L2 read instead of HBM" in text.replace("\n", " ")
    assert "prefetches bring" in text
    assert "slower" in a_result_of_swapped().verdict


def a_result_of_swapped():
    facts = {
        "scenario": "s",
        "question": "",
        "version": "0",
        "seed": 0,
        "resolved": "",
        "kinds": KINDS,
        "expect": [],
    }
    return build(outcomes={"preserve": outcome(prefetch=True), "vanilla": outcome()}, **facts)


# The run folder


def test_save_writes_the_whole_folder_and_replaces_an_earlier_one(tmp_path):
    target = tmp_path / "deep" / "run"
    a_result(requests=5).save(target)
    names = {
        "result.json",
        "timeline.html",
        "report.html",
        "scenario.yaml",
        "log.txt",
        "trace.json.gz",
    }
    table = {p.name for p in target.iterdir()} - names
    assert len(table) == 1 and table <= {"requests.csv", "requests.parquet"}
    a_result().save(target, log="loaded\n")
    assert {p.name for p in target.iterdir()} == names, "nothing of the earlier run is left"
    assert (target / "log.txt").read_text().startswith("loaded\npodscope 0.1.0\n")
    assert [p.name for p in target.parent.iterdir()] == ["run"], "no partial folder is left"


def test_what_killed_runs_left_is_taken_away_by_the_next(tmp_path):
    target = tmp_path / "run"
    here = folder._machine()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".run.{here}-{dead.pid}-0123abcd.partial"
    kept = [
        tmp_path / f".run.{here}-{os.getpid()}-0123abcd.partial",  # it may be writing now
        tmp_path / f".run.ffffffff-{dead.pid}-0123abcd.partial",  # of another machine
        tmp_path / f".other.{here}-{dead.pid}-0123abcd.partial",
    ]
    for each in (left, *kept):
        each.mkdir()
        (each / "report.html").write_text("half")
    a_result().save(target)
    assert not left.exists() and all(each.exists() for each in kept)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a podscope run folder"):
        a_result().save(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        a_result().save(tmp_path / "thesis.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_is_not_wholly_a_run_is_left_alone(tmp_path):
    target = tmp_path / "run"
    a_result(requests=5).save(target)
    (target / "notes.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"did not write .notes\.txt., so it is left alone"):
        a_result().save(target)
    (target / "notes.txt").unlink()
    (target / "links.csv").mkdir()  # a name of ours, but no file
    with pytest.raises(ValueError, match=r"did not write .links\.csv"):
        a_result().save(target)
    (target / "links.csv").rmdir()
    (target / "result.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="not a podscope run folder"):
        a_result().save(target)
    assert (target / "log.txt").exists() and (target / "result.json").read_text() == '{"mine": 1}'


def test_a_page_of_an_installed_kind_is_a_run_s_own(tmp_path):
    files = {"result.json": a_mark(1), "log.txt": folder.listing(["odd.html"]).encode()}
    folder.write_folder(tmp_path / "run", {**files, "odd.html": b""})
    folder.write_folder(tmp_path / "run", {"result.json": a_mark(2)})
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["result.json"]


def a_mark(what) -> bytes:
    """What makes a folder one of a run."""
    return json.dumps({"scenario": "s", "version": "1", "variants": {}, "what": what}).encode()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(folder, "_exchange", lambda one, other: False)
    target = tmp_path / "run"
    folder.write_folder(target, {"result.json": a_mark(1)})
    with pytest.raises(TypeError):
        folder.write_folder(target, {"result.json": a_mark(2), "log.txt": "not bytes"})
    assert (target / "result.json").read_bytes() == a_mark(1) and len([*tmp_path.iterdir()]) == 1
    folder.write_folder(target, {"result.json": a_mark(3)})
    assert (target / "result.json").read_bytes() == a_mark(3) and len([*tmp_path.iterdir()]) == 1


def test_killed_at_any_file_the_folder_is_the_old_one_or_the_new_one(tmp_path):
    target = tmp_path / "run"
    old, new = a_mark("old"), a_mark("new")
    folder.write_folder(target, {"result.json": old, "log.txt": old})
    code = (
        "import os, sys; from pathlib import Path; from sim.results import folder\n"
        "real, left = Path.write_bytes, int(sys.argv[2])\n"
        "def write(path, data):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: os.kill(os.getpid(), 9)\n"
        "    return real(path, data)\n"
        "Path.write_bytes = write\n"
        f"folder.write_folder(sys.argv[1], {{'result.json': {new!r}, 'log.txt': {new!r}}})\n"
    )
    root = os.path.dirname(os.path.dirname(__file__))
    for writes in (0, 1, 2):
        subprocess.run(
            [sys.executable, "-c", code, str(target), str(writes)], cwd=root, check=False
        )
        assert {p.read_bytes() for p in target.iterdir()} == {new if writes == 2 else old}
        assert len(list(target.iterdir())) == 2


def test_requests_as_csv_and_parquet_agree(monkeypatch):
    outcomes = {"a,b": outcome(requests=6), "c": outcome(requests=6, prefetch=True)}
    owners = {(name, ""): one.requests for name, one in outcomes.items()}
    monkeypatch.setattr(requests, "find_spec", lambda name: None)
    [(name, content)] = requests.requests_file(owners).items()
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    asked = outcomes["a,b"].requests
    assert (
        name == "requests.csv"
        and len(rows) == 12
        and rows[0]["variant"] == "a,b"
        and rows[0]["tpot_s"] == ""
    )
    assert float(rows[1]["e2e_s"]) == (asked.last_token_s - asked.arrival_s)[1]
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.undo()
    [(name, content)] = requests.requests_file(owners).items()
    table = parquet.read_table(io.BytesIO(content)).to_pylist()
    assert name == "requests.parquet" and len(table) == 12 and table[0]["tpot_s"] is None
    assert table[1]["e2e_s"] == float(rows[1]["e2e_s"])


# What is drawn


def test_names_cannot_break_out_of_the_pages():
    evil, plain = outcome(prefix=EVIL), outcome(prefetch=True, requests=3)
    evil.assumptions = [Assumption(EVIL, EVIL, EVIL, EVIL, Range(1.0, 0.5, 2.0, EVIL))]
    evil.warnings = [EVIL]
    evil.timeline.capacities[f"rank 0/{EVIL}"] = 1.0
    evil.timeline.spans[0] = evil.timeline.spans[0]._replace(
        kind=EVIL, note=EVIL, track=f"rank 0/{EVIL}", bound=EVIL
    )
    for like in (evil, plain):
        evil.kind, evil.part, evil.requests = like.kind, like.part, like.requests
        result = build(
            scenario=EVIL,
            question=EVIL,
            version="0",
            seed=0,
            outcomes={EVIL: evil, "b": plain},
            expect=[],
            resolved="",
            kinds=KINDS,
        )
        for page in (result.report(), timeline_page(result.outcomes, EVIL)):
            assert "<script>window" not in page and "<img src=x" not in page
        figure = result.timeline().to_json()
        assert "<script>window" not in figure and "<img" not in figure


def test_pages_need_no_network():
    result = a_result(requests=3)
    assert "http" not in result.report()
    page = timeline_page(result.outcomes)
    assert (
        "plotly.js v" in page and 'src="http' not in page and '<link rel="stylesheet"' not in page
    )


def test_report_says_what_it_rests_on():
    page = a_result(requests=20).report()
    assert (
        page.count('class="tag careful"') == 3
        and "FITTED" in page
        and "<svg" in page
        and "timeline.html" in page
    )
    assert "Time to first token" in page and "Definitions" in page


def test_figure_shows_all_boxes_of_a_window():
    result = a_result()
    spans = [
        s for s in result.outcomes["preserve"].timeline.spans if s.end_s > 1e-4 and s.start_s < 3e-4
    ]
    figure = result.timeline("preserve", start_s=1e-4, end_s=3e-4)
    assert sum(len(t.x) for t in figure.data if t.type == "bar") == len(spans)
    assert [t.name for t in figure.data if t.type == "scatter"] == ["HBM", "L2", "link"]
    with pytest.raises(KeyError):
        result.timeline("nobody")


def test_the_axis_begins_with_the_recorded_window():
    from sim.results.panels import axis_unit, recorded

    late = outcome()
    late.timeline.spans[:] = [
        s._replace(start_s=s.start_s + 10, end_s=s.end_s + 10) for s in late.timeline.spans
    ]
    first_s, last_s = recorded({"a": late})
    assert first_s == 10.0 and axis_unit({"a": late}) == ("ms", 1e3)
    result = build(
        scenario="s",
        question="",
        version="0",
        seed=0,
        outcomes={"a": late},
        expect=[],
        resolved="",
        kinds=KINDS,
    )
    assert result.timeline().layout.xaxis.range == (1e4, last_s * 1e3)
    assert "ops from 10 s to 10.0" in timeline_page(result.outcomes)
    assert recorded({"a": outcome()})[0] == 0.0


def test_gathered_blocks_keep_count_and_place():
    many = outcome(steps=20, layers=40)
    figure = build(
        scenario="s",
        question="",
        version="0",
        seed=0,
        outcomes={"a": many},
        expect=[],
        resolved="",
        kinds=KINDS,
    ).timeline()
    bars = [t for t in figure.data if t.type == "bar"]
    drawn = 0
    for text in (h for t in bars for h in t.customdata):
        drawn += 1 if text.startswith("<b>") else int(text.split()[0])
    assert drawn == len(many.timeline.spans)
    assert sum(len(t.x) for t in bars) < 3500
    assert max(b + x for t in bars for b, x in zip(t.base, t.x)) == pytest.approx(
        many.totals.seconds * 1e3
    )


def test_an_empty_timeline_still_draws():
    lanes = Timeline(capacities={"rank 0/HBM": 1.0})
    empty = Outcome(Totals(), kind="decode", part=Phases(0.0, 0.0, 0), timeline=lanes)
    result = build(
        scenario="s",
        question="",
        version="0",
        seed=0,
        outcomes={"a": empty},
        expect=[],
        resolved="",
        kinds=KINDS,
    )
    assert result.timeline().data and result.files() and result.verdict


def test_perfetto_trace_is_well_formed():
    content = a_result().files()["trace.json.gz"]
    events = json.loads(gzip.decompress(content))["traceEvents"]
    timed = [e for e in events if e["ph"] != "M"]
    assert [e["ts"] for e in timed] == sorted(e["ts"] for e in timed)
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["vanilla · rank 0", "preserve · rank 0"]
    assert set(named.values()) == {"compute", "communication", "prefetch"}
    ends: dict[tuple[int, int], float] = {}
    for e in (e for e in timed if e["ph"] == "X"):
        key = (e["pid"], e["tid"])
        assert key in named and e["dur"] >= 0 and round(e["ts"] * 1e3) >= ends.get(key, 0.0)
        ends[key] = round(e["ts"] * 1e3) + round(e["dur"] * 1e3)
    counters = [e for e in timed if e["ph"] == "C"]
    assert {e["name"] for e in counters} == {"HBM %", "L2 %", "link %"}
    assert all(0 <= e["args"]["in use"] <= 100.001 for e in counters)
    assert len(trace_events({"a": outcome()})) > 0


# Collectives


def a_run_of_jobs(name="training", evil="", **more):
    from sim.facts.jobs import Instance, JobRecord, LinkUse, Traffic
    from sim.facts.span import Span, Use

    def one(scale, others=0):
        instances = [
            Instance(i * scale, i * scale + 0.9 * scale, (i + 1) * scale) for i in range(3)
        ]
        jobs = [
            JobRecord(
                f"{name}{i or ''}", "all_reduce", "ring", 6, 4, 8e6, bool(i), 1e-3, True, instances
            )
            for i in range(1 + others)
        ]
        jobs += [JobRecord(f"late{evil}", "broadcast", "chain", 9, 2, 1.0, True, 1e-3, False, [])]
        links = [
            LinkUse(f"{evil}{i} → {i + 1}", 1e9, 6e6 * scale / 1e-3 / (i + 1), 2 * scale, 4 - i)
            for i in range(3)
        ]
        lanes = Timeline(
            [
                Span(f"{name}/rank {r}", "all_reduce 1", "all_reduce", 0.0, scale, link_bytes=1e6)
                for r in range(12)
            ],
            [Use(f"links/{evil}0 → 1", 0.0, scale, 1e9)],
            {f"links/{evil}0 → 1": 1e9},
        )
        return Outcome(
            Totals(seconds=3 * scale),
            kind="collectives",
            part=Traffic(jobs, links),
            timeline=lanes,
            ranks=4,
        )

    outcomes = {"alone": one(1e-3), "shared": one(2e-3, 1)}
    facts = {
        "scenario": "s",
        "question": "Q?",
        "version": "0",
        "seed": 0,
        "resolved": "",
        "kinds": KINDS,
        "expect": [],
    }
    return build(outcomes=outcomes, **{**facts, **more})


def test_numbers_of_jobs_and_links():
    result = a_run_of_jobs(expect=["shared.training.mean_s == 2 * alone.training.mean_s"])
    job = result.variants["shared"]["tenants"]["training"]
    assert job["mean_s"] == job["first_s"] == pytest.approx(2e-3) and job[
        "slowdown"
    ] == pytest.approx(2.0)
    assert job["bus_bandwidth_bytes_per_s"] == pytest.approx(8e6 * 2 * 3 / 4 / 2e-3)
    assert set(result.variants["alone"]["tenants"]["late"]) == {
        "idle_s",
        "collectives",
        "ranks",
        "rounds",
        "bytes",
    }
    assert result.variants["alone"]["metrics"] == {
        "makespan_s": pytest.approx(3e-3),
        "busiest_link_utilisation": pytest.approx(2.0),
        "mean_link_utilisation": pytest.approx(2 * (1 + 1 / 2 + 1 / 3) / 3),
        "links_used": 3.0,
        "link_bytes": pytest.approx(6e6 * (1 + 1 / 2 + 1 / 3)),
        "most_flows_on_a_link": 4.0,
    }
    assert result.ok and result.comparison["shared"]["speedup"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="'max_s'"):
        a_run_of_jobs(expect=["alone.training.maxs > 1"])
    with pytest.raises(ValueError, match=r"'slowdown' of 'alone\.late' has no value"):
        a_run_of_jobs(expect=["alone.late.slowdown > 1"])
    with pytest.raises(ValueError, match="no part 'trainin' in 'alone'; nearest is 'training'"):
        a_run_of_jobs(expect=["alone.trainin.mean_s > 1"])


@pytest.mark.parametrize(
    ("collective", "factor"),
    [
        ("all_reduce", 1.75),
        ("all_gather", 0.875),
        ("reduce_scatter", 0.875),
        ("all_to_all", 0.875),
        ("broadcast", 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(collective, factor):
    from sim.facts.jobs import Instance, JobRecord, Traffic
    from sim.kinds.collectives.facts import jobs

    job = JobRecord("a", collective, "ring", 1, 8, 1e9, False, 1.0, True, [Instance(0.0, 2.0, 2.0)])
    assert (
        jobs(Outcome(Totals(), part=Traffic([job], [])))["a"]["bus_bandwidth_bytes_per_s"]
        == 1e9 * factor / 2
    )


def test_table_and_page_of_jobs_name_the_bottleneck():
    from rich.console import Console

    result = a_run_of_jobs()
    console = Console(width=140, file=io.StringIO(), force_terminal=False)
    console.print(result.table())
    text = console.file.getvalue()
    assert (
        "0 → 1, 200 %" in text
        and "slow-down" in text
        and "alone takes 3 ms, shared 2.00x as long" in text
    )
    page = result.report()
    assert page.count("bottleneck") == 2 and "Bus bandwidth" in page and "<h2>Links</h2>" in page
    assert "Where the time goes" not in page and "bus_bandwidth_bytes_per_s" in page
    rows = list(csv.DictReader(io.StringIO(result.files()["links.csv"].decode())))
    assert (
        len(rows) == 6
        and rows[0]["link"] == "0 → 1"
        and float(rows[0]["busy_share"]) == pytest.approx(2 / 3)
    )
    assert "links.csv" not in a_result().files()


def test_tracks_of_ranks_are_in_order_of_number_and_not_too_many(monkeypatch):
    from sim.results import panels

    result = a_run_of_jobs()
    panel = panels.panel_of("a", result.outcomes["alone"], 1e3)
    assert [track.label for track in panel.tracks] == [f"rank {rank}" for rank in range(12)]
    assert [area.label for area in panel.areas] == ["0 → 1"]
    monkeypatch.setattr(panels, "MOST_TRACKS", 5)
    panel = panels.panel_of("a", result.outcomes["alone"], 1e3)
    assert len(panel.tracks) == 5 and "the first 5 of 12 tracks" in panel.title
    names = [
        e["args"]["name"] for e in trace_events(result.outcomes) if e["name"] == "process_name"
    ]
    assert names == ["alone · training", "alone · links", "shared · training", "shared · links"]


def test_names_of_jobs_and_links_cannot_break_out_of_the_pages():
    result = a_run_of_jobs(EVIL, EVIL)
    for page in (result.report(), timeline_page(result.outcomes, EVIL)):
        assert "<script>window" not in page and "<img src=x" not in page
