"""Sweeps: which points there are, that each is computed once whatever happens, what is refused."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sim
from sim.cli.app import app
from sim.explore import drive as driving
from sim.explore import measure as measuring
from sim.explore.expression import UndefinedError, parse, parse_bound
from sim.explore.identity import digest_of
from sim.explore.plan import planned
from sim.explore.store import Store
from sim.explore.sweep import SweepStopped, sweep
from sim.run import load, run
from sim.scenario import ScenarioError
from sim.text.strict_yaml import dump
from sim.workers import LostWorkerError, opened

BASE = {
    "question": "Which one?",
    "pod": {"topology": "atlas_800t_a2"},
    "model": "llama3-8b",
    "workload": {"kind": "decode", "batch": 1, "prompt_tokens": 20, "output_tokens": 4},
    "variants": {"plain": {}, "fetched": {"techniques": ["preserve"]}},
    "parallel": {"tensor": 2},
}
TENSOR, BATCH, L2 = "parallel.tensor", "workload.batch", "pod.change.device.l2_bytes"


def of(**section):
    return {**BASE, "sweep": section}


class Here:
    """Workers that are this process; `fate` may have something else happen to a piece of work."""

    count, queued, warnings = 1, 0, ()

    def __init__(self, fate=lambda work, given: work(*given)):
        self.fate, self.asked = fate, []

    def submit(self, work, *given):
        self.asked.append(given[3])
        future = Future()
        try:
            future.set_result(self.fate(work, given))
        except Exception as error:
            future.set_exception(error)
        return future

    def since_s(self, future):
        return None

    def end(self, future):
        raise AssertionError


@pytest.fixture
def here(monkeypatch):
    """A sweep computed in this process, which is quicker than to start others."""
    workers = Here()

    @contextmanager
    def opened(*_, **__):
        yield workers

    monkeypatch.setattr(sys.modules["sim.explore.sweep"], "opened", opened)
    return workers


def points(section):
    return [*planned(of(**section)).space.points()]


def faults(section, **more):
    with pytest.raises(ScenarioError) as error:
        planned({**of(**section), **more})
    return str(error.value)


# Which points there are


def test_a_grid_is_every_combination_the_last_key_fastest():
    found = points({"over": {TENSOR: [1, 2], BATCH: [1, 4, 8]}})
    assert [(p[TENSOR], p[BATCH]) for p in found] == [(t, b) for t in (1, 2) for b in (1, 4, 8)]


def test_zip_walks_together_and_list_is_points_as_they_are():
    zipped = {"zip": {TENSOR: [1, 2], BATCH: [4, 8]}, "over": {L2: ["1 MiB", "2 MiB"]}}
    assert [tuple(p.values()) for p in points(zipped)] == [
        ("1 MiB", 1, 4),
        ("1 MiB", 2, 8),
        ("2 MiB", 1, 4),
        ("2 MiB", 2, 8),
    ]
    listed = [{TENSOR: 2}, {BATCH: 3, L2: "4 MiB"}]
    assert points({"list": listed}) == listed


def test_ranges_keep_their_unit_and_hit_both_ends():
    span = {"low": "8 MiB", "high": "128 MiB", "count": 5, "scale": "log"}
    assert [p[L2] for p in points({"over": {L2: span}})] == [
        f"{size} MiB" for size in (8, 16, 32, 64, 128)
    ]
    whole = {"low": 1, "high": 5, "count": 9}
    assert [p[BATCH] for p in points({"over": {BATCH: whole}})] == [1, 2, 3, 4, 5]


def test_random_points_are_the_same_for_a_seed_and_fill_the_range():
    span = {"low": "1 MiB", "high": "100 MiB", "scale": "log"}
    section = {"over": {L2: span, BATCH: {"low": 1, "high": 3}}, "random": {"points": 300}}
    found = points(section)
    assert found == points(section)
    assert found != points({**section, "random": {"points": 300, "seed": 1}})
    assert Counter(p[BATCH] for p in found).keys() == {1, 2, 3}
    sizes = sorted(float(p[L2].removesuffix(" MiB")) for p in found)
    assert sizes[0] < 1.3 and sizes[-1] > 75 and 8 < sizes[150] < 12.5  # the median of log is 10


def test_equal_scenarios_have_one_digest_however_they_are_written(tmp_path):
    same = [load(BASE, {L2: text}) for text in ("8 MiB", "8388608 B", "8192 KiB")]
    assert len({digest_of(one) for one in same}) == 1
    assert digest_of(load(BASE, {L2: "9 MiB"})) != digest_of(same[0])
    assert digest_of(load({**BASE, "question": "?"})) == digest_of(load(BASE))
    assert digest_of(load({**BASE, "seed": 1})) != digest_of(load(BASE))


def test_a_digest_changes_with_a_file_that_a_named_file_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device = load("preserve").path.parent.parent / "sim/catalog/devices/ascend_910b2.yaml"
    card = device.read_text()
    (tmp_path / "mine.yaml").write_text(card)
    topology = load("preserve").path.parent.parent / "topologies/atlas_800t_a2.yaml"
    text = topology.read_text().replace("device: ascend_910b2", "device: ./mine.yaml")
    assert "./mine.yaml" in text
    (tmp_path / "pod.yaml").write_text(text)
    asked = {**BASE, "pod": {"topology": str(tmp_path / "pod.yaml")}}
    before = digest_of(load(asked))
    assert digest_of(load(asked)) == before
    (tmp_path / "mine.yaml").write_text(card + "\n# another\n")
    assert digest_of(load(asked)) != before


# Expressions


@pytest.mark.parametrize(
    "text, value",
    [
        ("1 + 2 * 3 ** 2", 19),
        ("-(a - b) / 2", 1),
        ("max(a, b, 7) % 4 // 2", 1),
        ("sqrt(16) + log2(8) + ceil(0.2) + abs(-1)", 9),
        ("'x-y'.z + p.q.r", 30),
    ],
)
def test_expressions(text, value):
    names = {"a": 1.0, "b": 3.0, "x-y.z": 10.0, "p.q.r": 20.0}
    assert parse(text).value(names.__getitem__) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "[1, 2]",
        "a if b else c",
        "a and b",
        "lambda: 1",
        "f'{a}'",
        "open('x')",
        "min(1)",
        "sqrt(1, 2)",
        "sqrt(x=1)",
        "max(*a)",
        "True",
        "a <= b",
        "a[0]",
        "(a := 1)",
        "a b",
        "",
        "1 + " * 300 + "1",
        "9" * 5000,
    ],
)
def test_all_else_is_no_expression(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["1 / (a - a)", "log(0 - a)", "9.0 ** 9 ** 9 ** 9", "(0-a) ** 0.5"]
)
def test_no_value_is_said_not_guessed(text):
    with pytest.raises(UndefinedError):
        parse(text).value({"a": 1.0}.__getitem__)


def test_a_constraint_is_broken_by_how_much():
    names = {"a": 3.0, "b": 1.0}
    assert parse_bound("a <= 2 * b").excess(names.__getitem__) == 1.0
    assert parse_bound("a >= 2 * b").excess(names.__getitem__) == -1.0
    for text in ("a < b", "a", "a <= b <= 3", "a == b"):
        with pytest.raises(ValueError):
            parse_bound(text)


# What a sweep finds


def test_each_point_is_what_a_run_of_it_finds(here):
    section = {
        "over": {TENSOR: [2, 4], BATCH: [1, 4]},
        "metrics": {"gain": "plain.makespan_s / fetched.makespan_s", "twice": "2 * gain"},
        "minimise": "fetched.makespan_s",
        "maximise": ["gain", f"{BATCH} / fetched.makespan_s"],
    }
    found = sweep(of(**section))
    for record in found.records():
        alone = run(BASE, {TENSOR: int(record[TENSOR]), BATCH: int(record[BATCH])})
        for name, variant in alone.variants.items():
            for metric, value in variant["metrics"].items():
                assert record[f"{name}.{metric}"] == value
        assert record["gain"] == alone.comparison["fetched"]["speedup"]
        assert record["fetched.speedup"] == record["gain"] == record["twice"] / 2
    rows = list(found.records())
    assert found.best["fetched.makespan_s"] == min(r["fetched.makespan_s"] for r in rows)
    goals = ["fetched.makespan_s", "gain", f"{BATCH} / fetched.makespan_s"]
    scores = {r["point"]: (r[goals[0]], -r[goals[1]], -r[goals[2]]) for r in rows}
    front = {
        point
        for point, mine in scores.items()
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine)) for other in scores.values()
        )
    }
    assert {record["point"] for record in found.front} == front


def test_what_is_the_same_is_computed_once(here, tmp_path):
    section = {"over": {L2: ["8 MiB", "8388608 B", "9 MiB"]}, "minimise": "plain.makespan_s"}
    found = sweep(of(**section), out=tmp_path)
    assert len(here.asked) == 2 and found.tally.ended == 3
    more = {**section, "over": {L2: ["9 MiB", "10 MiB", "8 MiB"]}}
    again = sweep(of(**more), out=tmp_path, resume=True)
    assert len(here.asked) == 3 and here.asked[-1] == {L2: "10 MiB"}
    assert [row.point[L2] for row in again.rows()] == ["9 MiB", "10 MiB", "8 MiB"]


def test_a_point_that_cannot_be_is_kept_with_its_reason(here):
    section = {"over": {TENSOR: [2, 4, 16]}, "minimise": "plain.makespan_s"}
    found = sweep(of(**section))
    assert found.tally.by_status == {"done": 2, "failed": 1, "pruned": 0, "lost": 0}
    *_, last = found.records()
    assert last["status"] == "failed" and "16" in last["error"]
    assert any("1 of 3 points failed" in text for text in found.warnings)
    assert "16" in found.report()


def test_our_own_mistakes_stand_with_the_point_too(here):
    def fate(work, given):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measuring, "play", lambda plan: 1 / 0)
            return work(*given)

    here.fate = fate
    (row,) = sweep(of(over={TENSOR: [4]})).records()
    assert row["error"] == "ZeroDivisionError: division by zero"


def test_constraints_bound_the_best(here):
    section = {"over": {BATCH: [1, 2, 4, 8]}, "maximise": BATCH}
    assert sweep(of(**section)).best[BATCH] == 8
    some = [row["fetched.makespan_s"] for row in sweep(of(**section)).records()]
    section["constraints"] = f"fetched.makespan_s <= {some[2]!r}"
    found = sweep(of(**section))
    assert found.best[BATCH] == 4
    assert [row["feasible"] for row in found.records()] == ["yes", "yes", "yes", "no"]
    section["constraints"] = "fetched.makespan_s <= 0"
    none = sweep(of(**section))
    assert none.best is None and "none of which" in none.verdict
    assert "No point is feasible" in none.report()


# A search


SPACE = {
    "over": {BATCH: [1, 2, 3, 4, 5, 6], "workload.prompt_tokens": [10, 20]},
    "minimise": f"({BATCH} - 4) ** 2 + plain.makespan_s",
}


def test_a_search_asks_for_new_points_only_and_does_the_same_again(here, tmp_path):
    pytest.importorskip("optuna", reason="the extra 'explore' is not installed")
    asked = of(**SPACE, search={"points": 8, "seed": 3})
    first = sweep(asked, out=tmp_path / "a")
    assert len(here.asked) == first.tally.ended == 8
    assert first.best[BATCH] == 4
    sweep(asked, out=tmp_path / "b")
    assert here.asked[8:] == here.asked[:8]
    again = sweep(asked, out=tmp_path / "a", resume=True)  # from the store, in the same order
    assert len(here.asked) == 16 and again.best == first.best
    whole = sweep(of(**SPACE, search={"points": 100, "sampler": "nsga2"}))
    assert whole.tally.ended == 12  # all there are


def test_a_search_that_asks_one_point_ahead_goes_on_to_the_end(here, monkeypatch):
    pytest.importorskip("optuna", reason="the extra 'explore' is not installed")
    monkeypatch.setattr(driving, "_LOOK_S", 60.0)  # a point here takes less
    here.count = 2  # of whom one has nothing to do
    assert sweep(of(**SPACE, search={"points": 5, "ahead": 1})).tally.ended == 5


def test_a_search_does_not_depend_on_who_is_the_quickest(here, monkeypatch):
    pytest.importorskip("optuna", reason="the extra 'explore' is not installed")
    asked = of(**SPACE, search={"points": 9, "ahead": 3})
    one = [row.point for row in sweep(asked).rows()]

    class Late(Here):
        """Answers come back in another order."""

        count = 5

        def __init__(self):
            super().__init__()
            self.held = []

        def submit(self, work, *given):
            future = Future()
            self.held.append((future, work, given))
            return future

        def since_s(self, future):
            if self.held:
                late, work, given = self.held.pop()  # the last first
                late.set_result(work(*given))

    @contextmanager
    def opened(*_, **__):
        yield Late()

    monkeypatch.setattr(sys.modules["sim.explore.sweep"], "opened", opened)
    monkeypatch.setattr(driving, "_LOOK_S", 0.001)
    assert [row.point for row in sweep(asked).rows()] == one


def test_a_broken_constraint_leaves_the_other_variants_out_in_a_search_alone(here):
    pytest.importorskip("optuna", reason="the extra 'explore' is not installed")
    section = {**SPACE, "constraints": f"plain.makespan_s * 0 + {BATCH} <= 4"}
    found = sweep(of(**section, search={"points": 12}))
    assert found.tally.by_status["pruned"] == 4
    for row in found.rows():
        there = any(name.startswith("fetched.") for name in row.result.values)
        assert there == (row.point[BATCH] <= 4) and row.result.values
    assert sweep(of(**section)).tally.by_status["pruned"] == 0


def test_several_objectives(here):
    pytest.importorskip("optuna", reason="the extra 'explore' is not installed")
    section = {**SPACE, "minimise": ["plain.makespan_s"], "maximise": BATCH}
    for sampler in ("tpe", "nsga2"):
        found = sweep(of(**section, search={"points": 12, "sampler": sampler}))
        assert {1, 6} <= {record[BATCH] for record in found.front}


# Workers


def test_the_table_is_the_same_bytes_whoever_computed_it(tmp_path):
    asked = of(
        over={BATCH: [1, 2, 3], TENSOR: [2, 4, 16]},
        minimise="plain.makespan_s",
        maximise="fetched.speedup",
    )
    one = sweep(asked, out=tmp_path / "one", workers=1)
    two = sweep(asked, out=tmp_path / "two", workers=2)
    tables = [(one.save()[0]).read_bytes(), (two.save()[0]).read_bytes()]
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
        dask = sweep(asked, out=tmp_path / "dask", cluster=cluster.scheduler_address)
    tables.append((dask.save()[0]).read_bytes())
    assert tables[0] == tables[1] == tables[2]
    assert tables[0].count(b"\n") == 10


def _act(how, folder):
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        Path(folder, "hung").touch()
        time.sleep(1000)
    return how


def test_a_process_that_dies_or_hangs_takes_only_its_own_work(tmp_path):
    with opened(2) as workers:
        asked = [workers.submit(_act, how, tmp_path) for how in ("a", "die", "hang", "b", "c")]
        while not (tmp_path / "hung").exists() or workers.since_s(asked[2]) is None:
            time.sleep(0.01)
        workers.end(asked[2])
        found = [f.exception() or f.result() for f in asked]
    assert [type(one) for one in found] == [str, LostWorkerError, LostWorkerError, str, str]


def test_a_lost_point_is_tried_twice_and_again_by_the_next_sweep(here, tmp_path):
    def fate(work, given):
        if given[3][BATCH] == 2:
            raise LostWorkerError("the process that worked on it died")
        return work(*given)

    here.fate = fate
    asked = of(over={BATCH: [1, 2, 3]}, minimise="plain.makespan_s")
    found = sweep(asked, out=tmp_path)
    assert Counter(point[BATCH] for point in here.asked) == {1: 1, 2: 2, 3: 1}
    assert found.tally.by_status["lost"] == 1
    assert "died, 2 times" in [*found.records()][1]["error"]
    here.fate = lambda work, given: work(*given)
    again = sweep(asked, out=tmp_path, resume=True)
    assert len(here.asked) == 5 and again.tally.by_status["done"] == 3


def test_a_point_over_its_limit_is_given_up(here, monkeypatch):
    class Hanging(Here):
        def submit(self, work, *given):
            self.asked.append(given[3])
            self.hung = Future()
            return self.hung

        def since_s(self, future):
            return 0.0

        def end(self, future):
            future.set_exception(LostWorkerError("it was given up"))

    @contextmanager
    def opened(*_, **__):
        yield Hanging()

    monkeypatch.setattr(sys.modules["sim.explore.sweep"], "opened", opened)
    monkeypatch.setattr(driving, "_LOOK_S", 0.001)
    (row,) = sweep(of(over={BATCH: [1]}, limit="1 s")).records()
    assert row["status"] == "lost" and "no answer within 1 s" in row["error"]


def test_jobs_gather_work_and_a_job_that_ends_without_answer_loses_its_own(monkeypatch):
    from sim.workers import slurm

    class Job:
        def __init__(self, work, given):
            self.work, self.given = work, given

        def done(self):
            return True

        def result(self):
            if any(given == (3,) for _, given in self.given[0]):
                raise RuntimeError("the node went away")
            return self.work(*self.given)

    jobs = []

    class Executor:
        def submit(self, work, *given):
            jobs.append(len(given[0]))
            return Job(work, given)

    monkeypatch.setattr(slurm, "_executor", lambda address, given: Executor())
    monkeypatch.setattr(slurm, "_LOOK_S", 0.01)
    monkeypatch.setattr(slurm, "_GATHER_S", 0.05)
    with opened(1, "slurm://?jobs=4&each=2&slurm_partition=x", says=str) as workers:
        asked = [workers.submit(float, n) for n in range(5)]
        found = [f.exception() or f.result() for f in asked]
    assert jobs == [2, 2, 1] and found[:2] == [0.0, 1.0] and found[4] == 4.0
    assert all("the node went away" in str(error) for error in found[2:4])


@pytest.mark.parametrize("address", ["slurm://?jobs=x", "slurm://?each=0"])
def test_an_address_that_is_none(address):
    with pytest.raises(ValueError, match="a whole number is due"), opened(1, address):
        pass


# Interrupts


def test_an_interrupt_keeps_what_there_is(here, tmp_path):
    def fate(work, given):
        if len(here.asked) == 3:
            raise KeyboardInterrupt
        return work(*given)

    here.fate = fate
    asked = of(over={BATCH: [1, 2, 3, 4]}, minimise="plain.makespan_s")
    with pytest.raises(SweepStopped):
        sweep(asked, out=tmp_path)
    here.fate = lambda work, given: work(*given)
    sweep(asked, out=tmp_path, resume=True)
    assert [point[BATCH] for point in here.asked] == [1, 2, 3, 3, 4]


def test_kill_then_resume_computes_nothing_twice(tmp_path):
    more = {BATCH: {"low": 1, "high": 400, "count": 400}}
    (tmp_path / "s.yaml").write_text(dump(of(over=more, minimise="plain.makespan_s")))
    command = [sys.executable, "-m", "sim.cli", "sweep", "s.yaml", "--workers", "1", "--out", "o"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    log = tmp_path / "o" / "points.sqlite-wal"
    while not (log.exists() and log.stat().st_size > 300_000):
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(ValueError, match="another sweep has it open"):
        Store(tmp_path / "o" / "points.sqlite", "", resume=True)
    process.kill()
    process.wait()

    def results():
        with closing(sqlite3.connect(tmp_path / "o" / "points.sqlite")) as db:
            return {row[0]: row for row in db.execute("SELECT * FROM results")}

    deadline = time.monotonic() + 20
    before = results()
    assert 0 < len(before) < 400
    process = subprocess.Popen([*command, "--resume"], cwd=tmp_path, stderr=subprocess.PIPE)
    while not (log.exists() and log.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and b"--resume goes on" in said, said
    after = results()
    assert len(after) > len(before) and {digest: after[digest] for digest in before} == before


# What is refused


@pytest.mark.parametrize(
    "section, said",
    [
        (
            {"over": {"workload.bach": [1]}},
            "sweep.over.workload.bach[0]: unknown key, did you mean",
        ),
        ({"over": {BATCH: [1, "x"]}}, f"sweep.over.{BATCH}[1]: 'x' is text, a whole number"),
        ({"over": {L2: ["8 MB/s"]}}, "is in B/s, but B is due"),
        ({"over": {"model": ["smollm2-135"]}}, "did you mean 'smollm2-135m'"),
        ({"over": {}}, "nothing varies"),
        ({"over": {"question": ["?"]}}, "is no part of what is simulated"),
        ({"over": {"sweep.limit": ["1 s"]}}, "is no part of what is simulated"),
        ({"over": {BATCH: {"low": 1, "high": 9, "count": 10**12}}}, "it must be <= 100000"),
        ({"over": {BATCH: []}}, f"sweep.over.{BATCH}: the list is empty"),
        ({"over": {BATCH: 3}}, "a list of values, or {low, high, count}, is due"),
        ({"over": {BATCH: {"low": 1, "high": 4}}}, "say how many values"),
        ({"over": {BATCH: {"low": 4, "high": 1, "count": 2}}}, "low must be below high"),
        ({"over": {BATCH: {"low": 1, "high": "4 s", "count": 2}}}, "low is in no unit, high in s"),
        ({"over": {BATCH: [1]}, "zip": {BATCH: [1]}}, f"{BATCH} varies in two places"),
        ({"zip": {BATCH: [1], TENSOR: [1, 2]}}, "are to be of one length"),
        ({"over": {BATCH: [1]}, "grid": 3}, "sweep.grid: unknown key"),
        ({"over": {BATCH: [1]}, "search": {"points": 3}}, "something to minimise"),
        ({"over": {BATCH: [1]}, "search": {"points": 3}, "random": {"points": 3}}, "give one"),
        ({"over": {BATCH: [1]}, "minimise": "plain.makespn_s"}, "nearest is 'makespan_s'"),
        ({"over": {BATCH: [1]}, "minimise": "makespan_s"}, "write VARIANT.METRIC"),
        ({"over": {BATCH: [1]}, "minimise": "plan.makespan_s"}, "no metric of a variant"),
        ({"over": {BATCH: [1]}, "maximise": "plain.x.makespan_s"}, "no part 'x' in 'plain'"),
        ({"over": {BATCH: [1]}, "minimise": "exec('1')"}, "no function 'exec'"),
        ({"over": {BATCH: [1]}, "constraints": ["plain.makespan_s"]}, "is no constraint"),
        ({"over": {BATCH: [1]}, "metrics": {"plain": "1"}}, "a variant has this name"),
        ({"over": {BATCH: [1]}, "metrics": {"a b": "1"}}, "is made of letters"),
        ({"over": {BATCH: [1]}, "metrics": {"a": "b", "b": "1"}}, "'b' is no metric"),
        ({"over": {BATCH: [1]}, "minimise": ["1", "1"]}, "is asked for twice"),
        ({"over": {BATCH: [1]}, "limit": "0 s"}, "limit must be above 0"),
    ],
    ids=str,
)
def test_faults_are_said_before_anything_runs(section, said):
    assert said in faults(section)


def test_all_faults_at_once_each_with_its_line(tmp_path):
    (tmp_path / "s.yaml").write_text(
        dump(of(over={"workload.bach": [1], BATCH: [1, -1]}, minimise="plain.makespn_s"))
    )
    with pytest.raises(ScenarioError) as error:
        planned(tmp_path / "s.yaml")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.partition("s.yaml:")[2][0].isdecimal() for line in lines)


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_what_the_command_refuses_and_leaves_alone(tmp_path, monkeypatch, here):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(dump(of(over={BATCH: [1, 2]}, minimise="plain.makespan_s")))
    Path("many.yaml").write_text(dump(of(over={BATCH: {"low": 1, "high": 20000, "count": 20000}})))
    Path("plain.yaml").write_text(dump(BASE))
    for arguments, said in (
        (["many.yaml"], "20,000 points, more than 10,000; --yes"),
        (["plain.yaml"], "there is no section `sweep`"),
        (["missing.yaml"], "no such file"),
        (["s.yaml", "--out", "s.yaml"], "is a file; name a folder"),
    ):
        found = invoke("sweep", *arguments)
        assert found.exit_code == 2 and said in found.output
        assert not Path("sweeps").exists()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("1")
    assert "is left alone" in invoke("sweep", "s.yaml", "--out", "mine").output
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.txt"]

    found = invoke("sweep", "s.yaml")
    assert found.exit_code == 0 and "wrote sweeps/s/" in found.output
    store = Path("sweeps/s/points.sqlite")
    kept = store.read_bytes()
    assert "holds 2 results of an earlier sweep; --resume" in invoke("sweep", "s.yaml").output
    monkeypatch.setattr(sys.modules["sim.explore.sweep"], "program", lambda: "podscope 9.9 (x)")
    found = invoke("sweep", "s.yaml", "--resume")
    assert found.exit_code == 2 and "results of two versions are not mixed" in found.output
    assert store.read_bytes() == kept
    store.write_bytes(b"no database at all" * 100)
    assert "cannot be read" in invoke("sweep", "s.yaml", "--resume").output
    assert store.read_bytes() == b"no database at all" * 100


def test_a_cluster_that_does_not_answer_or_has_another_podscope(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

    def silent(address, timeout):
        raise OSError(f"Timed out trying to connect to {address}")

    asked = of(over={BATCH: [1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "Client", silent)
        with pytest.raises(ValueError, match="no Dask scheduler answers"):
            sweep(asked, out=tmp_path / "o", cluster="tcp://127.0.0.1:1")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
        answers = iter(["here", "there"])
        with (
            pytest.raises(ValueError, match="has there, but here is here"),
            opened(1, cluster.scheduler_address, says=lambda: next(answers)),
        ):
            pass
        with opened(1, cluster.scheduler_address, says=lambda: "same") as workers:
            assert "have several threads" in workers.warnings[0]
    assert not (tmp_path / "o").exists()


def test_a_worker_with_other_files_stops_the_sweep(here, tmp_path):
    def fate(work, given):
        return work(*given[:2], "another digest", *given[3:])

    here.fate = fate
    with pytest.raises(OSError, match="other files"):
        sweep(of(over={BATCH: [1]}), out=tmp_path)


def test_a_full_disk_is_one_error_and_loses_nothing_that_was_written(here, tmp_path):
    asked = of(over={BATCH: {"low": 1, "high": 25, "count": 25}}, minimise="plain.makespan_s")
    opens = Store._open

    def small(self, path):
        opens(self, path)
        self._db.execute("PRAGMA max_page_count = 12")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_open", small)
        with pytest.raises(OSError, match=r"full.*--resume"):
            sweep(asked, out=tmp_path)
    done = len(here.asked) - 1
    assert done > 3
    assert sweep(asked, out=tmp_path, resume=True).tally.by_status["done"] == 25
    assert len(here.asked) == 26


# What it says


def test_the_page_escapes_names_and_has_its_figures(here):
    asked = of(
        over={BATCH: [1, 2, 4], TENSOR: [2, 4]},
        minimise="plain.makespan_s",
        maximise="fetched.speedup",
    )
    asked["question"] = "<script>alert(1)</script>?"
    page = sweep(asked).report()
    assert "<script>" not in page
    for part in ("Pareto front", "All points", "What each key does", "Pairs of keys", "as written"):
        assert part in page
    assert page.count("<svg") >= 4


def test_shares_of_the_variance_are_those_of_an_additive_and_of_a_mixed_table(here):
    over = {BATCH: [1, 2, 3], "workload.prompt_tokens": [10, 20, 40]}
    x, y = BATCH, "workload.prompt_tokens"
    added = sweep(of(over=over, minimise=f"{x} + {y}")).summary
    assert sum(effect.share for effect in added.effects) == pytest.approx(1)
    assert added.interactions[0].share == pytest.approx(0, abs=1e-12)
    mixed = sweep(of(over=over, minimise=f"({x} - 2) * ({y} - 70 / 3)")).summary
    assert mixed.interactions[0].share == pytest.approx(1)


def test_a_data_frame_and_a_notebook(here):
    found = sweep(of(over={L2: ["8 MiB", "16 MiB"]}, minimise="plain.makespan_s"))
    assert "<table" in found._repr_html_()
    pytest.importorskip("pandas", reason="pandas is not installed")
    table = found.to_pandas()
    assert (
        list(table[f"{L2} (SI)"]) == [8 * 2**20, 16 * 2**20]
        and list(table["status"]) == ["done"] * 2
    )
    tidy = run(BASE).to_pandas()
    assert {"variant", "part", "metric", "unit", "value"} == {*tidy.columns}


def test_runs_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(BASE).save("a")
    run({**BASE, "variants": {}}, {BATCH: 2}).save("b")
    found = invoke("compare", "a", "b", "--out", "page.html")
    assert found.exit_code == 0 and "a: fetched" in found.output and "speed-up" in found.output
    assert "wall time" in Path("page.html").read_text()
    Path("c").mkdir()
    Path("d").mkdir()
    Path("d/result.json").write_text("[1")
    for runs, said in (
        (["a", "aa"], "did you mean 'a'"),
        (["a", "c"], "has no result.json"),
        (["a", "d"], "is not what `podscope run` writes"),
        (["a", "a"], "named twice"),
    ):
        wrong = invoke("compare", *runs)
        assert wrong.exit_code == 2 and said in wrong.output
    other = json.loads(Path("b/result.json").read_text()) | {"version": "9.9"}
    Path("b/result.json").write_text(json.dumps(other))
    assert "different versions of podscope" in invoke("compare", "a", "b").output


def test_latencies_of_runs_of_requests_are_laid_over_each_other(tmp_path):
    from sim.kinds import KINDS
    from sim.results.compare import compared

    work = {"kind": "requests", "trace": {"file": "azure_conv_like.csv", "limit": 20}}
    asked = {**BASE, "workload": work, "variants": {}}
    try:
        first = run(asked)
    except ScenarioError:
        pytest.skip("no small trace ships")
    first.save(tmp_path / "a")
    run(asked, {"workload.max_batch": 1}).save(tmp_path / "b")
    page = compared([str(tmp_path / "a"), str(tmp_path / "b")], KINDS).page()
    assert "Latency of the requests" in page


def test_the_folder_has_all_and_the_best_run_again_says_the_same(here, tmp_path):
    asked = of(over={L2: ["8 MiB", "64 MiB"]}, maximise="fetched.speedup")
    found = sweep(asked, out=tmp_path)
    found.save()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"points.csv", "report.html", "scenario.yaml", "best", "baseline"} <= names
    assert not any("other numbers" in text for text in found.warnings)
    best = json.loads((tmp_path / "best" / "result.json").read_text())
    assert best["comparison"]["fetched"]["speedup"] == found.best["fetched.speedup"]
    assert planned(tmp_path / "scenario.yaml").size == 2
    assert "not set" in (tmp_path / "report.html").read_text()
    written = sweep(of(over={L2: ["8 MiB"], BATCH: [2]}, minimise=f"0 * {BATCH}")).as_written
    assert written == {BATCH: 1}


def test_the_schema_knows_the_section():
    from sim.kinds import KINDS
    from sim.scenario import json_schema

    schema = json_schema({name: kind.spec.found for name, kind in KINDS.items()})
    assert {"over", "zip", "list", "search"} <= schema["$defs"]["Sweep"]["properties"].keys()
    values = schema["$defs"]["Sweep"]["properties"]["over"]["additionalProperties"]["anyOf"]
    assert [one["type"] for one in values] == ["array", "object"]


def test_the_shipped_sweep_can_be_made_and_its_scenario_is_that_of_preserve():
    assert planned("sweep_preserve").size == 540
    mine, theirs = (load(name).variants for name in ("sweep_preserve", "preserve"))
    assert all(mine[name] == theirs[name] for name in mine)


def test_python_has_it():
    assert sim.sweep is sweep
