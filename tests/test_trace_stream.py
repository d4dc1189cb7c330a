"""Traces as streams: the fast way and the slow way agree on any file, in chunks and blocks of any
size."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_requests import AZURE_TEXT, GOOD, HEADER, MOONCAKE_TEXT, some_bytes

from sim.traces import reading as trace_stream
from sim.traces.arrivals import Arrivals
from sim.traces.columns import joined, row_columns
from sim.traces.lines import TraceError
from sim.traces.reading import open_trace
from sim.traces.stream import cut, gathered, merged
from sim.traces.synthesis import SessionLaw, TraceSpec, generated
from sim.traces.writing import write_stream
from tests.recordings import read_trace, same

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_recordings = pytest.mark.skipif(
    not SHARED.exists(), reason="recorded traces are not beside the checkout (../shared)"
)


@pytest.fixture
def save(tmp_path):
    def write(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "trace"


# One truth

number = st.one_of(
    st.integers(0, 2000).map(str),
    st.floats(0, 1e4).map(repr),
    st.sampled_from(
        [
            "0",
            "007",
            "1.",
            ".5",
            "1e-05",
            "3.0",
            "12345678901234567",
            "0.1234567890123456789",
            " 4",
            "-1",
        ]
    ),
)
row = st.builds(
    "{},{},{}{}".format,
    number,
    st.integers(0, 6000),
    st.integers(0, 300),
    st.sampled_from(["", "", ",x"]),
)
rising = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 900), st.integers(0, 30))).map(
    lambda rows: [f"{a!r},{b},{c}" for a, b, c in sorted(rows)]
)
azure_row = st.builds(
    "2023-11-1{} 18:15:46{}{},{},7".format,
    st.integers(0, 9),
    st.sampled_from(["", ".1", ".6805900", "."]),
    st.sampled_from(["", "", "Z", "+00:00", "+01:00"]),
    st.integers(0, 40),
)
ticks = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9))).map(
    lambda rows: [
        f'{{"timestamp": {a * 3000}, "input_length": {b}, "output_length": 5}}'
        for a, b in sorted(rows)
    ]
)
some_rows = st.builds(
    lambda head, lines, end, last: (head + end.join(lines) + last).encode(),
    st.sampled_from(
        [
            HEADER,
            HEADER,
            "\ufeff" + HEADER,
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n",
            MOONCAKE_TEXT,
        ]
    ),
    st.one_of(
        st.lists(row),
        rising,
        st.lists(azure_row),
        st.lists(azure_row).map(sorted),
        ticks,
        ticks.map(reversed),
    ),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    st.sampled_from(["", "\n"]),
)


def outcome(path, rows, **arguments):
    """Everything that reading a file in chunks of `rows` tells."""
    chunks = []
    try:
        stream = open_trace(path, chunk_rows=rows, **arguments)
        for chunk in stream.chunks():
            chunks.append(chunk)
            assert 0 < len(chunk) <= rows
    except TraceError as error:
        return str(error)
    columns = joined(chunks)
    return (
        stream.format,
        stream.warnings,
        *(each.tobytes() for each in (columns.arrival_s, columns.prompt_tokens)),
    )


@example(  # a clock to be doubted, and then a row that is wrong
    content=HEADER.encode() + b"12345678901234567,1,1\n0,0,1",
    bad_rows="error",
    first=0,
    limit=None,
    spread=False,
    rows=1,
    block_bytes=1,
)
@settings(max_examples=400, deadline=None)
@given(
    content=st.one_of(some_rows, some_rows, some_rows.map(gzip.compress), some_bytes),
    bad_rows=st.sampled_from(["error", "skip"]),
    first=st.sampled_from([0, 0, 1, 5]),
    limit=st.sampled_from([None, None, 1, 5]),
    spread=st.booleans(),
    rows=st.integers(1, 9),
    block_bytes=st.sampled_from([1, 16, 64]),
)
def test_fast_or_slow_in_any_blocks_and_chunks(
    scratch, content, bad_rows, first, limit, spread, rows, block_bytes
):
    scratch.write_bytes(content)
    arguments = {
        "bad_rows": bad_rows,
        "first": first,
        "limit": limit,
        "ticks": spread,
        "max_tokens": 5000,
    }
    expected = outcome(scratch, 10**6, fast=False, **arguments)
    assert outcome(scratch, rows, **arguments) == expected
    whole, trace_stream.BLOCK_BYTES = trace_stream.BLOCK_BYTES, block_bytes
    try:
        assert outcome(scratch, rows, **arguments) == expected
    finally:
        trace_stream.BLOCK_BYTES = whole


def test_a_stream_can_be_read_again(save):
    stream = open_trace(save(HEADER + "0,1,1\n1,1,0\n2,1,1\n"))
    once = gathered(stream)
    assert same(gathered(stream), once)
    assert stream.warnings == ["1 row skipped, failed requests without output to serve: row 3"]


def test_a_pipe_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # without a writer: to open it would wait for ever
    with pytest.raises(TraceError, match="pipe: is a pipe, which may have no end"):
        open_trace(pipe)


def test_what_comes_before_a_wrong_row_is_yielded(save, monkeypatch):
    monkeypatch.setattr(trace_stream, "BLOCK_BYTES", 64)
    path = save(HEADER + "".join(f"{i},10,1\n" for i in range(100)) + "oops\n")
    taken = 0
    with pytest.raises(TraceError, match="row 102: has 1 fields"):
        for chunk in open_trace(path, chunk_rows=10).chunks():
            taken += len(chunk)
    assert taken >= 90


def test_rows_far_out_of_order_are_sorted_within_a_bound(save, monkeypatch):
    monkeypatch.setattr(trace_stream, "BLOCK_BYTES", 64)
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, *range(10, 60), 3]
    path = save(HEADER + "".join(f"{i},{i + 1},1\n" for i in order))
    assert [r.prompt_tokens for r in read_trace(path, bad_rows="skip").requests] == [
        x + 1 for x in sorted(order)
    ]
    assert len(gathered(open_trace(path, bad_rows="skip", sort_rows=60))) == 61
    with pytest.raises(
        TraceError, match="row 62 arrives before one more than 10 rows above it; sort the file"
    ):
        gathered(open_trace(path, bad_rows="skip", sort_rows=10))


def test_memory_follows_the_chunk(save):
    path = save(
        gzip.compress((HEADER + "".join(f"{i / 8},10,1\n" for i in range(400_000))).encode(), 1)
    )
    peaks = []
    for limit in (250_000, None):
        tracemalloc.start()
        assert (
            sum(len(chunk) for chunk in open_trace(path, limit=limit, chunk_rows=4096).chunks())
            >= 250_000
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 40 * 2**20


# Compression


@pytest.mark.parametrize("text", [GOOD, AZURE_TEXT, MOONCAKE_TEXT])
def test_zstd(save, text):
    zstandard = pytest.importorskip("zstandard")
    plain = read_trace(save(text))
    pack = zstandard.ZstdCompressor().compress
    assert read_trace(save(pack(text.encode()))) == plain
    assert read_trace(save(pack(text[:50].encode()) + pack(text[50:].encode()))) == plain


def test_zstd_cut_off_or_corrupt(save):
    zstandard = pytest.importorskip("zstandard")
    text = HEADER + "".join(f"{i},{i * 7919 % 1000 + 1},1\n" for i in range(200_000))
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())
    path = save(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match=r"zstd data end early, after row \d+"):
        read_trace(path)
    assert 1000 < len(read_trace(path, bad_rows="skip").requests) < 200_000
    with pytest.raises(TraceError, match="corrupt zstd data after row"):
        read_trace(save(packed[:-1] + bytes([packed[-1] ^ 255])), bad_rows="skip")


def test_zstd_without_the_extra_names_it(save, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TraceError, match=r"pip install 'podscope\[zstd\]'.*zstd -d"):
        read_trace(save(b"\x28\xb5\x2f\xfd rest"))


# Formats


def jsonl(*rows):
    return "".join(json.dumps(each) + "\n" for each in rows)


def test_mooncake_blocks(save):
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [46, 47, 48]},
        {"timestamp": 3000, "input_length": 700, "output_length": 0, "hash_ids": [99]},
        {"timestamp": 6000, "input_length": 600, "output_length": 5, "hash_ids": [46, 12]},
    ]
    stream = open_trace(save(jsonl(*rows)))
    columns = gathered(stream)
    assert (stream.format, stream.block_tokens) == ("mooncake", 512)
    assert columns.block_from.tolist() == [0, 3, 5]
    assert columns.blocks.tolist() == [0, 1, 2, 0, 3]  # of a row left out, no id is given
    with pytest.raises(TraceError, match="row 4: hash_ids is not a list of block ids"):
        gathered(open_trace(save(jsonl(*rows, rows[0] | {"timestamp": 9000, "hash_ids": "x"}))))


def test_bailian_sessions(save):
    base = {"input_length": 20, "output_length": 5, "type": "text", "turn": 1}
    rows = [
        base | {"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.0, "hash_ids": [10**12, 5]},
        base | {"chat_id": 160, "parent_chat_id": -1, "timestamp": 62.0, "hash_ids": [7]},
        base
        | {
            "chat_id": 161,
            "parent_chat_id": 159,
            "timestamp": 71.5,
            "input_length": 40,
            "hash_ids": [10**12, 5, 6],
        },
        base | {"chat_id": 162, "parent_chat_id": 161, "timestamp": 73.5, "hash_ids": []},
        base | {"chat_id": 163, "parent_chat_id": 12, "timestamp": 74.0, "hash_ids": [7]},
    ]
    stream = open_trace(save(jsonl(*rows)))
    columns = gathered(stream)
    assert (stream.format, stream.block_tokens) == ("bailian", 16)
    assert columns.session.tolist() == [0, 1, 0, 0, 2]
    assert columns.think_s.tolist() == pytest.approx(
        [np.nan, np.nan, 10.5, 2.0, np.nan], nan_ok=True
    )
    assert columns.blocks.tolist() == [0, 1, 2, 0, 1, 3, 2]
    assert stream.warnings[0].startswith("think times of 2 turns are gaps between arrivals")
    assert stream.warnings[1].startswith("1 turns name a turn before them that is not")


def test_burstgpt_sessions(save):
    header = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total "
        "tokens,Log Type\n"
    )
    rows = [
        "5,7,4,ChatGPT,472,18,490,Conversation log",
        "6,,2,GPT-4,10,20,30,API log",
        "8,9,1,ChatGPT,472,0,472,Conversation log",
        "20,7,3,ChatGPT,600,18,618,Conversation log",
        "21,7,3,ChatGPT,700,18,718,Conversation log",
    ]
    stream = open_trace(save(header + "\n".join(rows)))
    columns = gathered(stream)
    assert stream.format == "burstgpt"
    assert columns.arrival_s.tolist() == [0, 1, 15, 16]
    assert columns.session.tolist() == [0, -1, 0, 0]
    assert columns.think_s.tolist() == pytest.approx([np.nan, np.nan, 11.0, 0.0], nan_ok=True)
    assert stream.warnings == ["1 row skipped, failed requests without output to serve: row 4"]
    old = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log "
        "Type\n5,ChatGPT,472,18,490,API log\n"
    )
    assert gathered(open_trace(save(old))).session is None


def test_vidur_without_times(save):
    path = save(
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3,5,8,1\n4,6,10,1\n5,7,12,1\n"
    )
    stream = open_trace(path)
    assert gathered(stream).arrival_s.tolist() == [0, 0, 0]
    assert stream.warnings == [
        "the file has no times, so all requests arrive at 0; give them arrivals"
    ]
    stream = open_trace(path, arrivals=Arrivals(2.0), seed=1, chunk_rows=2)
    timed = gathered(stream)
    assert timed.prompt_tokens.tolist() == [3, 4, 5]
    assert timed.arrival_s[0] == 0 and (np.diff(timed.arrival_s) > 0).all()
    assert stream.warnings == []
    timed = open_trace(save("arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,3,5\n2,3,5\n"))
    assert (timed.format, gathered(timed).arrival_s.tolist()) == ("vidur", [0, 0.5])


def test_apex_llmservingsim_and_vllm_logs(save):
    apex = open_trace(
        save(
            "start_time_offset_ns,context_tokens,generated_tokens\n197890289,156,67\n1500203480,1,2\n"
        )
    )
    assert (apex.format, gathered(apex).arrival_s.tolist()) == ("apex", [0, 1.302313191])
    row = {
        "arrival_time_ns": 10**9,
        "input_length": 40,
        "output_length": 5,
        "hash_ids_blk16": [0, 1, 2],
    }
    served = open_trace(
        save(jsonl(row, row | {"arrival_time_ns": 3 * 10**9, "hash_ids_blk16": [0, 3]}))
    )
    columns = gathered(served)
    assert (served.format, served.block_tokens, columns.blocks.tolist()) == (
        "llmservingsim",
        16,
        [0, 1, 2, 0, 3],
    )
    row = {
        "request_id": "bench-0",
        "input_toks": 23,
        "output_toks": 5,
        "arrival_time": 1777142838.25,
        "queued_ts": 4.0,
    }
    assert open_trace(save(jsonl(row))).format == "vllm_log"


def test_openai_logs(save):
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    rows = [
        {"id": "x", "created": 1700000000 + i // 2, "model": f"m{i}", "usage": usage}
        for i in range(5)
    ]
    stream = open_trace(save(jsonl(*rows)))
    columns = gathered(stream)
    assert stream.format == "openai"
    assert columns.arrival_s.tolist() == [0, 0.5, 1, 1.5, 2]
    assert (stream.tenants, columns.tenant.tolist()) == ([f"m{i}" for i in range(5)], [*range(5)])
    rows = [
        {"timestamp": when, "request": {"a": 1}, "response": {"model": "m", "usage": usage}}
        for when in ("2023-11-14T22:13:20.5Z", 1700000001.0)
    ]
    stream = open_trace(save(jsonl(*rows)))
    assert (stream.format, gathered(stream).arrival_s.tolist()) == ("openai_log", [0, 0.5])
    failed = {"timestamp": 1700000002.0, "response": {"model": "m", "usage": None}}
    with pytest.raises(TraceError, match=r"row 3: missing key 'response\.usage\.prompt_tokens'"):
        gathered(open_trace(save(jsonl(*rows, failed))))
    assert len(gathered(open_trace(save(jsonl(*rows, failed)), bad_rows="skip"))) == 2


def servegen(folder, rate="0.5"):
    folder.mkdir(exist_ok=True)
    windows = "".join(
        f"{at * 600},{rate if at else 0},{'2' if at else ''},{'Weibull' if at else ''},0.5,1\n"
        for at in range(3)
    )
    law = {
        "0": {
            "input_tokens": "{10: 0.25, 20: 0.75}",
            "output_tokens": "{5: 1.0}",
            "reason_ratio": "{0.0: 1}",
        }
    }
    for client in (0, 12):
        (folder / f"chunk-{client}-trace.csv").write_text(windows)
        (folder / f"chunk-{client}-dataset.json").write_text(json.dumps(law))
    return folder


def test_servegen(tmp_path):
    stream = open_trace(servegen(tmp_path / "model"), seed=3)
    columns = gathered(stream)
    assert (stream.format, stream.tenants) == ("servegen", ["client 0", "client 12"])
    assert np.bincount(columns.tenant).tolist() == [
        600,
        600,
    ]  # the recorded counts, whatever the gaps
    assert (
        columns.arrival_s[0] == 0
        and (np.diff(columns.arrival_s) >= 0).all()
        and columns.arrival_s[-1] <= 1200
    )
    assert set(columns.output_tokens) == {5} and (
        columns.prompt_tokens == 20
    ).mean() == pytest.approx(0.75, abs=0.05)
    assert same(gathered(open_trace(tmp_path / "model", seed=3, chunk_rows=7)), columns)
    assert same(gathered(open_trace(tmp_path / "model", seed=3, limit=10)), columns[:10])
    assert not same(gathered(open_trace(tmp_path / "model", seed=4)), columns)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (
            "chunk-0-trace.csv",
            "0,1,1,Pareto,1,1\n600,1,1,Gamma,1,1\n",
            "chunk-0-trace.csv: row 1: .* is no window",
        ),
        ("chunk-0-trace.csv", "0,1,1,Gamma,1\n", "chunk-0-trace.csv: row 1: has 5 fields, not 6"),
        ("chunk-0-trace.csv", "0,x,1,Gamma,1,1\n", "chunk-0-trace.csv: row 1: could not convert"),
        ("chunk-0-trace.csv", "0,1,1,Gamma,1,1\n", "needs two windows"),
        ("chunk-0-dataset.json", "__import__('os')", "chunk-0-dataset.json: is not"),
        ("chunk-0-dataset.json", "{'0': {}}", "no window has both"),
    ],
)
def test_wrong_servegen(tmp_path, file, text, says):
    (servegen(tmp_path / "model") / file).write_text(text)
    with pytest.raises(TraceError, match=says):
        open_trace(tmp_path / "model")


# What can be done to streams


def test_cut_and_merge(save):
    one = open_trace(save(GOOD, "one.csv"))
    two = open_trace(save(HEADER + "7,5,5\n7.2,6,6\n9,7,7\n", "two.csv"), chunk_rows=1)
    both = merged([one, two])
    columns = gathered(both)
    assert columns.arrival_s.tolist() == pytest.approx([0, 0, 0.2, 0.5, 1.5, 2])
    assert columns.prompt_tokens.tolist() == [10, 5, 6, 20, 30, 7]
    assert [both.tenants[each] for each in columns.tenant] == [
        "one.csv",
        *["two.csv"] * 2,
        *["one.csv"] * 2,
        "two.csv",
    ]
    part = gathered(cut(both, first=2, limit=3, speed=2))
    assert part.arrival_s.tolist() == pytest.approx([0, 0.15, 0.65])
    assert part.prompt_tokens.tolist() == [6, 20, 30]


def test_merged_chunks_have_all_columns(tmp_path):
    talk = generated(TraceSpec(Arrivals(5.0), sessions=SessionLaw()), 20, 0)
    plain = generated(TraceSpec(Arrivals(1.0)), 300, 0)
    for order in ([talk, plain], [plain, talk]):
        both = merged(order, chunk_rows=7)
        columns = gathered(both)
        assert len(columns) == 320 and (columns.session >= 0).sum() == 20
        assert len({tuple(name for name, _ in row_columns(chunk)) for chunk in both.chunks()}) == 1
        assert all(chunk.blocks is not None for chunk in both.chunks())
        assert write_stream(tmp_path / "both.csv", both) == 320
        assert same(gathered(open_trace(tmp_path / "both.csv", chunk_rows=50)), columns)


def test_merged_blocks_stay_apart(save):
    row = {"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1]}
    path = save(jsonl(row))
    columns = gathered(merged([open_trace(path), open_trace(path)]))
    assert columns.blocks.tolist() == [0, 1, 2, 3]
    small = save(
        jsonl(
            {"arrival_time_ns": 1, "input_length": 40, "output_length": 5, "hash_ids_blk16": [0, 1]}
        ),
        "b",
    )
    with pytest.raises(ValueError, match="different sizes"):
        merged([open_trace(path), open_trace(small)])


# Recordings


@needs_recordings
@pytest.mark.parametrize(
    ("file", "format", "rows", "rate"),
    [
        ("requests/AzureLLMInferenceTrace_conv.csv.gz", "azure", 19_366, 5.53),
        ("requests/mooncake_conversation_trace.jsonl.gz", "mooncake", 12_031, 3.40),
        ("requests/apex_llama_lmsys_05.csv", "apex", 1_024, 0.51),
        (
            "requests/sharegpt-llama-3.1-8b-300-sps10.lengths_blk16.jsonl.gz",
            "llmservingsim",
            300,
            10.3,
        ),
        ("end_to_end/RTXPRO6000__Llama-3.1-8B__vllm__requests.jsonl", "vllm_log", 300, 10.3),
    ],
)
def test_recorded(file, format, rows, rate):
    stream = open_trace(SHARED / file)
    columns = gathered(stream)
    assert (stream.format, len(columns)) == (format, rows)
    assert (rows - 1) / columns.arrival_s[-1] == pytest.approx(rate, rel=0.01)
    assert same(gathered(open_trace(SHARED / file, fast=False, chunk_rows=1000)), columns)


@needs_recordings
def test_recorded_servegen():
    stream = open_trace(next((SHARED / "servegen").glob("*.tar.xz")), limit=50_000)
    columns = gathered(stream)
    assert (len(columns), len(stream.tenants)) == (50_000, 73)
