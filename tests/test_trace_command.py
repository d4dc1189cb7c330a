"""`podscope trace`: what is written reads back equal, the description is right, and wrong input is
one clear error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_columns import columns as some_columns
from typer.testing import CliRunner

from sim.cli.app import app
from sim.results.trace_page import page
from sim.traces.columns import Columns
from sim.traces.description import described, figures
from sim.traces.reading import open_trace
from sim.traces.stream import TraceStream, gathered
from sim.traces.writing import ENDINGS, write_stream
from tests.recordings import same

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "requests"
MOONCAKE = RECORDED / "mooncake_conversation_trace.jsonl.gz"
HEADER = "arrival_s,prompt_tokens,output_tokens\n"


def podscope(*arguments):
    return CliRunner().invoke(app, ["trace", *map(str, arguments)])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text(HEADER + "".join(f"{i / 4},{100 + i},{10 + i}\n" for i in range(40)))
    return path


def stream_of(columns, tenants=(), block_tokens=16, name="made"):
    def source(out):
        out.tenants[:] = tenants
        yield from [columns[:3], columns[3:]] if len(columns) > 3 else [columns]

    return TraceStream(name, "made", source, block_tokens)


# Files


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@settings(max_examples=40, deadline=None)
@given(made=some_columns(), ending=st.sampled_from(ENDINGS))
def test_written_reads_back_equal(scratch, made, ending):
    if not len(made):
        return
    first_seen: dict[int, int] = {}
    arrival_s = made.arrival_s - made.arrival_s[0]
    session = np.array(
        [first_seen.setdefault(e, len(first_seen)) if e >= 0 else -1 for e in made.session.tolist()]
    )
    numbers: dict[int, int] = {}
    blocks = np.array([numbers.setdefault(e, len(numbers)) for e in made.blocks.tolist()], np.int64)
    tenants = ['a "quoted", name', "plain", ""]
    tenant = np.minimum(np.arange(len(made)), 2)
    made = Columns(
        arrival_s,
        np.maximum(made.prompt_tokens, 16 * np.diff(made.block_from)),  # it has all its blocks
        made.output_tokens,
        session,
        made.think_s,
        tenant,
        made.block_from,
        blocks,
    )
    path = scratch / f"trace{ending}"
    assert write_stream(path, stream_of(made, tenants)) == len(made)
    back = open_trace(path)
    if ".jsonl" in ending:  # where any row may have a key, one that none has a value of is not told
        if (session < 0).all():
            made = replace(made, session=None, think_s=None)
        if not len(blocks):
            made = replace(made, block_from=None, blocks=None)
    assert same(gathered(back), made)
    assert same(gathered(open_trace(path, fast=False)), made)
    assert (back.tenants, back.block_tokens, back.warnings) == (tenants[: len(made)], 16, [])
    assert [file.name for file in scratch.iterdir() if file.name.endswith(".partial")] == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    def breaks(out):
        yield Columns(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
        raise ValueError("broken")

    for ending in (".csv", ".parquet", ".jsonl.gz"):
        path = tmp_path / f"out{ending}"
        path.write_text("old")
        with pytest.raises(ValueError, match="broken"):
            write_stream(path, TraceStream("x", "made", breaks))
        assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


def test_wrong_parquet_rows_are_told(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    table = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [5, -4, 5], "output_tokens": [1, 1, 0]}
    pq.write_table(pa.table(table), path)
    with pytest.raises(ValueError, match=r"t\.parquet: row 2: prompt_tokens is negative \(-4\)"):
        gathered(open_trace(path))
    stream = open_trace(path, bad_rows="skip")
    assert gathered(stream).prompt_tokens.tolist() == [5]
    assert len(stream.warnings) == 2
    pq.write_table(pa.table({"arrival_s": [0.0]}), path)
    with pytest.raises(ValueError, match="missing column 'prompt_tokens', 'output_tokens'"):
        open_trace(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        open_trace(path)


# Description


@settings(max_examples=60, deadline=None)
@given(some_columns(most=30))
def test_described_as_numpy_does(made):
    if not len(made):
        return
    made = Columns(
        made.arrival_s - made.arrival_s[0],
        made.prompt_tokens,
        made.output_tokens,
        block_from=made.block_from,
        blocks=made.blocks,
    )
    found = described(stream_of(made))
    assert found.requests == len(made) and int(found.bins.sum()) == len(made)
    for each, values in ((found.prompt, made.prompt_tokens), (found.output, made.output_tokens)):
        assert each.mean == pytest.approx(values.mean())
        assert (each.p50, each.p90, each.p99) == pytest.approx(
            np.quantile(values, [0.5, 0.9, 0.99])
        )
    gaps = np.diff(made.arrival_s)
    if len(gaps) and gaps.mean() > 0:
        assert found.rate_per_s == pytest.approx(1 / gaps.mean())
        assert found.gap_cv == pytest.approx(gaps.std() / gaps.mean(), abs=1e-6)
    known, again = set(), 0
    for at in range(len(made)):
        ids = made.blocks[made.block_from[at] : made.block_from[at + 1]].tolist()
        hits = sum(each in known for each in ids)  # an id twice in a prompt is no hit
        known.update(ids)
        again += min(16 * hits, made.prompt_tokens[at])
    assert found.prefix_share == pytest.approx(again / made.prompt_tokens.sum())


@pytest.mark.skipif(
    not MOONCAKE.exists(), reason="recorded traces are not beside the checkout (../shared)"
)
def test_mooncake_prefix_share():
    found = described(open_trace(MOONCAKE))
    assert 100 * found.prefix_share == pytest.approx(37.4, abs=0.05)
    assert figures(found)["prefix share"].startswith("37.4 %")


def test_the_page_needs_no_network_and_escapes_names():
    made = Columns(np.arange(4.0), *[np.full(4, 7)] * 2, tenant=np.array([0, 1, 1, 0]))
    html = page(described(stream_of(made, ["<script>alert(1)</script>", "b"], name="<b>&")))
    assert "<script>alert(1)" not in html and "<title>&lt;b&gt;&amp;</title>" in html
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert not re.search(r"(src|href)=\"?(https?:)?//", own)


def test_a_page_of_one_request():
    assert "<h1>one</h1>" in page(
        described(stream_of(Columns(np.zeros(1), *[np.full(1, 7)] * 2), name="one"))
    )


# Commands


def test_describe(small, tmp_path):
    done = podscope("describe", small, "--html", tmp_path / "page.html")
    assert done.exit_code == 0
    assert "requests      │ 40" in done.output and "4/s" in done.output
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_convert_cuts_speeds_and_merges(small, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(HEADER + "0,1,1\n")
    out = tmp_path / "out" / "both.jsonl.gz"
    done = podscope(
        "convert", small, out, "--merge", other, "--first", 0, "--limit", 5, "--speed", 2
    )
    assert (done.exit_code, "wrote 6 requests" in done.output) == (0, True)
    stream = open_trace(out)
    columns = gathered(stream)
    assert columns.arrival_s.tolist() == [0, 0, 0.125, 0.25, 0.375, 0.5]
    assert stream.tenants == ["small.csv", "other.csv"]


def test_generate_is_seeded(tmp_path):
    for name in ("a", "b"):
        assert (
            podscope(
                "generate", tmp_path / f"{name}.csv.gz", "--requests", 500, "--seed", 7
            ).exit_code
            == 0
        )
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    done = podscope(
        "generate", tmp_path / "c.parquet", "--requests", 300, "--turns", 3, "--system-tokens", 64
    )
    assert done.exit_code == 0
    stream = open_trace(tmp_path / "c.parquet")
    assert (len(gathered(stream)), stream.block_tokens) == (300, 16)


def test_generate_like(small, tmp_path):
    assert (
        podscope("generate", tmp_path / "like.csv", "--like", small, "--requests", 400).exit_code
        == 0
    )
    found = described(open_trace(tmp_path / "like.csv"))
    assert found.rate_per_s == pytest.approx(4.0, rel=0.02)
    assert found.prompt.p50 == pytest.approx(119.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["describe", "absent.csv"], "absent.csv: cannot be read"),
        (["describe", "small.csv", "--format", "parket"], "no trace format 'parket'"),
        (["describe", "small.csv", "--first", "40"], "none from first=40 on"),
        (["convert", "small.csv", "out.txt"], "must end in one of .csv"),
        (
            ["convert", "small.csv", "out.csv", "--speed", "0"],
            "speed (0.0) must be a positive number",
        ),
        (["convert", "bad.csv", "out.csv"], "row 2: prompt_tokens is zero"),
        (["generate", "out.csv", "--prompt", "long"], "'long' is no law of lengths"),
        (["generate", "out.csv", "--rate", "-1"], "must be positive"),
        (["generate", "out.csv", "--like", "small.csv", "--rate", "3"], "--like takes arrivals"),
        (["generate", "out.csv", "--on-share", "0.5", "--swing", "0.5"], "cannot be combined"),
    ],
)
def test_wrong_input_is_one_error(small, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text(HEADER + "0,0,1\n")
    done = podscope(*arguments)
    assert done.exit_code == 2
    assert says in done.output and "Traceback" not in done.output
    assert {file.name for file in tmp_path.iterdir()} == {"small.csv", "bad.csv"}
