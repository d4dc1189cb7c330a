"""Request traces: what a file says is what is read, and what a file gets wrong is said with its
row."""

from __future__ import annotations

import ast
import gzip
import math
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traces.formats import FORMATS
from sim.traces.lines import MAX_LINE_BYTES
from tests.recordings import Request, Trace, TraceError, read_trace
from traces.azure_conv_like import write_trace

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "requests"
AZURE = RECORDED / "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = RECORDED / "mooncake_conversation_trace.jsonl.gz"
needs_recordings = pytest.mark.skipif(
    not AZURE.exists(), reason="recorded traces are not beside the checkout (../shared)"
)

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
GOOD = HEADER + "0,10,1\n0.5,20,2\n1.5,30,3\n"
AZURE_TEXT = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
    "2023-11-17 00:00:00.0000001,879,55"
)
MOONCAKE_TEXT = "".join(
    f'{{"timestamp": {ms}, "input_length": {prompt}, "output_length": 5, "hash_ids": [0]}}\n'
    for prompt, ms in enumerate([0, 0, 0, 2999, 2999, 9000, 9000, 9000, 9000], 1)
)


@pytest.fixture
def save(tmp_path):
    """Write text or bytes as a trace file, return its path."""

    def write(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def arrivals(trace: Trace) -> list[float]:
    return [request.arrival_s for request in trace.requests]


# What is read


def test_plain(save):
    trace = read_trace(save(GOOD))
    assert trace == (
        [Request(0, 0.0, 10, 1), Request(1, 0.5, 20, 2), Request(2, 1.5, 30, 3)],
        "trace.csv",
        "plain",
        [],
    )


def test_plain_columns_come_in_any_order_among_others(save):
    text = (
        '\ufeffnote, output_tokens ,arrival_s,prompt_tokens\n"a, b",1,0,10\n,2.0,5e-1, 20 '
        '\n\n"",3,1.5,30.0\n'
    )
    assert read_trace(save(text)).requests == read_trace(save(GOOD, "good.csv")).requests


def test_azure_keeps_seven_decimals(save):
    trace = read_trace(save(AZURE_TEXT))
    assert trace.format == "azure"
    assert [request[2:] for request in trace.requests] == [(374, 44), (396, 109), (879, 55)]
    assert arrivals(trace) == [0.0, 4.3145790, 20653.3194101]


@pytest.mark.parametrize("offset", ["+00:00", "Z"])
def test_azure_of_2024_has_offsets(save, offset):
    later = (
        AZURE_TEXT.replace("0,374", f"0{offset},374")
        .replace("0,396", f"0{offset},396")
        .replace("1,879", f"1{offset},879")
    )
    assert later != AZURE_TEXT
    assert read_trace(save(later)).requests == read_trace(save(AZURE_TEXT)).requests


def test_mooncake_ticks_are_spread(save):
    trace = read_trace(save(MOONCAKE_TEXT))
    assert trace.format == "mooncake"
    assert arrivals(trace) == pytest.approx(
        [0, 2.999 / 3, 2 * 2.999 / 3, 2.999, 4.499, 9, 9.75, 10.5, 11.25], abs=1e-12
    )
    assert trace.warnings == [
        "arrivals were recorded in ticks of 3 s; those of one tick are spread evenly over it"
    ]


def test_mooncake_ticks_can_be_kept(save):
    trace = read_trace(save(MOONCAKE_TEXT), ticks=False)
    assert arrivals(trace) == [0, 0, 0, 2.999, 2.999, 9, 9, 9, 9]
    assert trace.warnings == []


def test_equal_arrivals_of_other_formats_stay_equal(save):
    assert arrivals(read_trace(save(HEADER + "3,1,1\n3,1,1\n"))) == [0, 0]


@pytest.mark.parametrize(
    ("name", "text"), [("plain", GOOD), ("azure", AZURE_TEXT), ("mooncake", MOONCAKE_TEXT)]
)
def test_format_named_or_found_gzipped_or_not(save, name, text):
    plain = read_trace(save(text))
    assert plain.format == name
    assert read_trace(save(text), format=name) == plain
    assert (
        read_trace(save(gzip.compress(text.encode()))) == plain
    )  # by content: the name still ends in .csv
    halves = gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode())
    assert read_trace(save(halves)) == plain


def test_every_format_reads_its_own_example(save):
    for name, form in FORMATS.items():
        values = [value for column, value in zip(form.columns, form.example) if column]
        example = form.first_line() + ("" if form.json_lines else "\n" + ",".join(values))
        assert read_trace(save(example)).format == name


# Slices


@pytest.mark.parametrize("text", [GOOD, AZURE_TEXT, MOONCAKE_TEXT])
def test_a_slice_is_a_part_of_the_whole(save, text):
    path = save(text)
    whole = read_trace(path).requests
    for first in range(len(whole)):
        for limit in range(1, len(whole) + 2):
            part = read_trace(path, first=first, limit=limit).requests
            expected = whole[first : first + limit]
            assert [r.id for r in part] == list(range(len(expected)))
            assert [r[2:] for r in part] == [r[2:] for r in expected]
            assert [r.arrival_s for r in part] == pytest.approx(
                [r.arrival_s - expected[0].arrival_s for r in expected]
            )


def test_rows_outside_the_slice_are_not_judged(save):
    path = save(HEADER + "oops\n0,10,1\n0.5,20,2\n-1,-1,-1\n")
    assert len(read_trace(path, first=1, limit=2).requests) == 2


def test_skipped_rows_count_in_a_slice_so_that_slices_tile_the_file(save):
    path = save(HEADER + "0,10,1\n1,20,0\n2,30,3\n3,40,4\n")
    assert [r.prompt_tokens for r in read_trace(path, limit=2).requests] == [10]
    assert [r.prompt_tokens for r in read_trace(path, first=2, limit=2).requests] == [30, 40]


def test_speed(save):
    assert arrivals(read_trace(save(GOOD), speed=2)) == [0, 0.25, 0.75]
    assert arrivals(read_trace(save(GOOD), speed=0.5, first=1)) == [0, 2]


def test_memory_follows_the_slice_not_the_file(save):
    rows = "".join(f"{i},10,1\n" for i in range(200_000))
    path = save(gzip.compress((HEADER + rows).encode(), 1))
    tracemalloc.start()
    assert len(read_trace(path, first=150_000, limit=100).requests) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


# Bad input

BAD_FILES = {
    "empty": (b"", ["the file is empty"]),
    "blank": (b"\n  \n\n", ["the file is empty"]),
    "empty gzip": (gzip.compress(b""), ["the file is empty"]),
    "header only": (HEADER, ["has a header but no rows", "0.25,374,44"]),
    "unknown format": (
        "a,b\n1,2\n",
        [
            "unknown format, the first line is 'a,b'",
            "plain: arrival_s,prompt_tokens,output_tokens",
            "azure: TIMESTAMP,ContextTokens,GeneratedTokens",
            'mooncake: {"timestamp": 3000, "input_length": 6758, "output_length": 500}',
        ],
    ),
    "binary": (bytes(range(256)), ["unknown format"]),
    "JSON of another kind": (
        '{"chat": 1, "when": 61.1, "output": 5}',
        ["unknown format"],
    ),
    "not zstd after its mark": (b"\x28\xb5\x2f\xfd rest", ["zstd"]),
    "missing column": (
        "arrival_s,prompt_token,output_tokens\n0,1,1\n",
        [
            "row 1",
            "missing column 'prompt_tokens', nearest 'prompt_token'",
            "arrival_s,prompt_tokens,output_tokens",
        ],
    ),
    "missing column, other case": (
        "timestamp,ContextTokens,GeneratedTokens\n",
        ["row 1", "missing column 'TIMESTAMP', nearest 'timestamp'"],
    ),
    "column twice": (
        "arrival_s,prompt_tokens,output_tokens,arrival_s\n",
        ["row 1", "'arrival_s' is there twice"],
    ),
    "header below blank lines": (
        "\n\narrival_s,prompt_tokens\n",
        ["row 3", "missing column 'output_tokens'"],
    ),
    "endless line": (
        HEADER.encode() + b"1" * (MAX_LINE_BYTES + 2),
        ["row 2 is longer than 16 MiB"],
    ),
    "gzip in name of magic only": (b"\x1f\x8b", ["gzip data end early, after row 0"]),
    "gzip of another method": (b"\x1f\x8b\x07" + bytes(30), ["corrupt gzip data after row 0"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_bad_file(save, case, bad_rows):
    content, says = BAD_FILES[case]
    path = save(content)
    with pytest.raises(TraceError) as error:
        read_trace(path, bad_rows=bad_rows)
    assert str(error.value).startswith(f"{path}: ")
    for part in says:
        assert part in str(error.value)


BAD_ROWS = {  # the fourth line of a plain file, and what is said of it
    "negative arrival": ("-1,30,3\n", "arrival_s is negative (-1)"),
    "negative prompt": ("1.5,-4,3\n", "prompt_tokens is negative (-4)"),
    "negative output": ("1.5,30,-3\n", "output_tokens is negative (-3)"),
    "zero prompt": ("1.5,0,3\n", "prompt_tokens is zero"),
    "NaN arrival": ("NaN,30,3\n", "arrival_s is not finite (NaN)"),
    "NaN tokens": ("1.5,nan,3\n", "prompt_tokens is not finite (nan)"),
    "infinite": ("inf,30,3\n", "arrival_s is not finite (inf)"),
    "infinite tokens": ("1.5,30,1e999\n", "output_tokens is not finite (1e999)"),
    "text": ("soon,30,3\n", "arrival_s is not a number ('soon')"),
    "text tokens": ("1.5,thirty,3\n", "prompt_tokens is not a number ('thirty')"),
    "empty field": ("1.5,,3\n", "prompt_tokens is empty"),
    "underscore": ("1.5,3_0,3\n", "prompt_tokens is not a number ('3_0')"),
    "underscore in arrival": ("1_5,30,3\n", "arrival_s is not a number ('1_5')"),
    "digits of another script": ("1.5,٣,3\n", "prompt_tokens is not a number ('٣')"),
    "fraction": ("1.5,30.5,3\n", "prompt_tokens is not a whole number (30.5)"),
    "too few fields": ("1.5,30\n", "has 2 fields, not 3"),
    "too many fields": ("1.5,30,3,4\n", "has 4 fields, not 3"),
    "ten times too large": (
        "1.5,1310720,3\n",
        "prompt_tokens is 1310720, above the limit of 131072",
    ),
    "output too large": ("1.5,30,131073\n", "output_tokens is 131073, above the limit of 131072"),
    "far too large": ("1.5," + "9" * 5000 + ",3\n", "prompt_tokens is not finite"),
    "not UTF-8": (b"1.5,3\xff,3\n", "prompt_tokens is not a number ('3\ufffd')"),
    "NUL": ("1.5,30\0,3\n", "prompt_tokens is not a number"),
    "truncated": (
        "1.5,3",
        "has 2 fields, not 3; the row has no line end: was the file cut off here?",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row(save, case):
    row, says = BAD_ROWS[case]
    content = (HEADER + "0,10,1\n0.5,20,2\n").encode() + (
        row if isinstance(row, bytes) else row.encode()
    )
    path = save(content)
    with pytest.raises(TraceError) as error:
        read_trace(path, max_tokens=131072)
    assert str(error.value).startswith(f"{path}: row 4: {says}")
    assert str(error.value).endswith("; a right row: 0.25,374,44")
    trace = read_trace(path, max_tokens=131072, bad_rows="skip")
    assert trace.requests == [Request(0, 0.0, 10, 1), Request(1, 0.5, 20, 2)]
    assert len(trace.warnings) == 1
    assert trace.warnings[0].startswith(f"1 row skipped: row 4: {says}")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"timestamp": 1, "input_length": 5', "is not a JSON object"),
        ("[1, 2, 3]", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        (
            '{"timestamp": 1, "input_len": 5, "output_length": 5}',
            "missing key 'input_length', nearest 'input_len'",
        ),
        (
            '{"timestamp": 1, "input_length": -5, "output_length": 5}',
            "input_length is negative (-5)",
        ),
        (
            '{"timestamp": 1, "input_length": true, "output_length": 5}',
            "input_length is not a number",
        ),
        (
            '{"timestamp": 1, "input_length": null, "output_length": 5}',
            "input_length is not a number",
        ),
        (
            '{"timestamp": 1, "input_length": 5.5, "output_length": 5}',
            "input_length is not a whole number (5.5)",
        ),
        (
            '{"timestamp": NaN, "input_length": 5, "output_length": 5}',
            "timestamp is not finite (nan)",
        ),
        (
            '{"timestamp": 1' + "0" * 400 + ', "input_length": 5, "output_length": 5}',
            "timestamp is not finite",
        ),
        ('{"timestamp": [1], "input_length": 5, "output_length": 5}', "timestamp is not a number"),
    ],
)
def test_bad_mooncake_row(save, row, says):
    path = save(MOONCAKE_TEXT + row + "\n")
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert f"row 10: {says}" in str(error.value)
    assert str(error.value).endswith(
        'a right row: {"timestamp": 3000, "input_length": 6758, "output_length": 500}'
    )
    assert len(read_trace(path, bad_rows="skip").requests) == 9


@pytest.mark.parametrize(
    "time",
    [
        "2023-11-16",
        "2023-02-30 10:00:00",
        "0001-01-01 25:00:00",
        "1700000000",
        "",
        "16/11/2023 18:15:46",
    ],
)
def test_bad_azure_time(save, time):
    with pytest.raises(
        TraceError, match=r"row 5: TIMESTAMP is no.*a right row: 2023-11-16 18:15:46.6805900,374,44"
    ):
        read_trace(save(f"{AZURE_TEXT}\n{time},1,1\n"))


def test_example_follows_the_columns_of_the_file(save):
    with pytest.raises(TraceError, match=r"row 2: .*; a right row: 374,\.\.\.,44,0\.25"):
        read_trace(save("prompt_tokens,user,output_tokens,arrival_s\n-1,x,1,0\n"))


def test_many_bad_rows_are_counted_and_the_first_three_shown(save):
    rows = "".join(f"{i},-{i},5\n" if i % 2 else f"{i},5,5\n" for i in range(10))
    trace = read_trace(save(HEADER + rows), bad_rows="skip")
    assert [r.arrival_s for r in trace.requests] == [0, 2, 4, 6, 8]
    assert trace.warnings == [
        "5 rows skipped: row 3: prompt_tokens is negative (-1); row 5: prompt_tokens is "
        "negative (-3); "
        "row 7: prompt_tokens is negative (-5) and 2 more"
    ]


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_failed_requests_are_always_skipped_and_counted(save, bad_rows):
    trace = read_trace(
        save(HEADER + "0,10,0\n1,10,1\n2,10,0\n3,10,0\n4,0,0\n5,10,1\n"), bad_rows=bad_rows
    )
    assert trace.requests == [Request(0, 0.0, 10, 1), Request(1, 4.0, 10, 1)]
    assert trace.warnings == [
        "4 rows skipped, failed requests without output to serve: rows 2, 4, 5 and 1 more"
    ]


def test_nothing_to_serve(save):
    with pytest.raises(TraceError, match=r"no row can be served: 1 row skipped, failed requests"):
        read_trace(save(HEADER + "0,10,0\n"))
    with pytest.raises(
        TraceError, match=r"no row can be served: 1 row skipped: row 2: prompt_tokens is zero"
    ):
        read_trace(save(HEADER + "0,0,1\n"), bad_rows="skip")
    with pytest.raises(TraceError, match=r"has 3 rows of data, so none from first=3 on"):
        read_trace(save(GOOD), first=3)


def test_out_of_order_is_an_error_or_a_counted_sort(save):
    path = save(HEADER + "5,10,1\n4,20,1\n6,30,1\n4,40,1\n")
    with pytest.raises(
        TraceError, match=r"row 3: arrival_s is before that of the row above; .*a right row"
    ):
        read_trace(path)
    trace = read_trace(path, bad_rows="skip")
    assert [(r.id, r.arrival_s, r.prompt_tokens) for r in trace.requests] == [
        (0, 0, 20),
        (1, 0, 40),
        (2, 1, 10),
        (3, 2, 30),
    ]
    assert trace.warnings == [
        "sorted by arrival: 2 rows arrived before one above, the first is row 3"
    ]


def _packed(rows=20_000):
    text = HEADER + "".join(f"{i},{i * 7919 % 1000 + 1},1\n" for i in range(rows))
    return gzip.compress(text.encode())


def test_truncated_gzip(save):
    packed = _packed()
    path = save(packed[: len(packed) // 2])
    with pytest.raises(
        TraceError, match=r"the gzip data end early, after row \d+; the file was cut off"
    ):
        read_trace(path)
    trace = read_trace(path, bad_rows="skip")
    assert 1000 < len(trace.requests) < 20_000
    assert (
        trace.requests == read_trace(save(packed, "whole.csv"), limit=len(trace.requests)).requests
    )
    assert len(trace.warnings) == 1
    assert f"after row {len(trace.requests) + 1}" in trace.warnings[0]


def test_truncated_gzip_of_ticks(save):
    packed = gzip.compress(MOONCAKE_TEXT.encode())[:-9]  # the text is there, the end mark is not
    path = save(packed)
    with pytest.raises(TraceError, match="end early"):
        read_trace(path)
    trace = read_trace(path, bad_rows="skip", ticks=False)
    assert arrivals(trace) == [0, 0, 0, 2.999, 2.999, 9, 9, 9, 9][: len(trace.requests)]


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_corrupt_gzip(save, bad_rows):
    packed = bytearray(_packed())
    packed[-6] ^= 0xFF  # the checksum
    with pytest.raises(TraceError, match=r"corrupt gzip data after row \d+"):
        read_trace(save(bytes(packed)), bad_rows=bad_rows)
    packed[20:4000] = b"\xff" * 3980
    with pytest.raises(TraceError, match=r"corrupt gzip data after row \d+"):
        read_trace(save(bytes(packed)), bad_rows=bad_rows)


def test_no_file(tmp_path):
    with pytest.raises(TraceError, match=r"absent\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    "argument",
    [
        {"first": -1},
        {"limit": 0},
        {"max_tokens": 0},
        {"speed": 0},
        {"speed": -1},
        {"speed": math.nan},
        {"speed": math.inf},
        {"speed": 1e-320},
        {"bad_rows": "ignore"},
        {"format": "parquet"},
    ],
)
def test_bad_argument(save, argument):
    with pytest.raises(ValueError) as error:
        read_trace(save(GOOD), **argument)
    assert not isinstance(error.value, TraceError)
    assert next(iter(argument)) in str(error.value).replace("trace format", "format")


# Laws

field = st.one_of(
    st.integers(-3, 2000).map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "",
            '"',
            '"1"',
            " 1 ",
            "1.0",
            "1e3",
            "9" * 30,
            "NaN",
            "2023-11-16 18:15:46.68",
            '{"timestamp": 1}',
            "\0",
        ]
    ),
    st.text(max_size=5),
)
line = st.one_of(
    st.lists(field, min_size=1, max_size=4).map(",".join),
    st.builds(
        '{{"timestamp": {}, "input_length": {}, "output_length": {}}}'.format, field, field, field
    ),
)
some_text = st.builds(
    lambda head, lines, end: (head + end.join(lines)).encode(),
    st.sampled_from(
        [HEADER, AZURE_TEXT, MOONCAKE_TEXT, "TIMESTAMP,ContextTokens,GeneratedTokens\n", ""]
    ),
    st.lists(line, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
some_bytes = st.one_of(
    st.binary(max_size=300),
    some_text,
    some_text.map(gzip.compress),
    st.builds(lambda data, at: gzip.compress(data)[:at], some_text, st.integers(0, 200)),
    st.builds(lambda data, tail: gzip.compress(data) + tail, some_text, st.binary(max_size=20)),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "trace"


@settings(max_examples=300, deadline=None)
@given(
    content=some_bytes,
    format=st.sampled_from(["auto", *FORMATS]),
    bad_rows=st.sampled_from(["error", "skip"]),
    first=st.integers(0, 3),
    limit=st.sampled_from([None, 1, 2, 50]),
    spread=st.booleans(),
)
def test_any_bytes_give_a_trace_or_a_trace_error(
    scratch, content, format, bad_rows, first, limit, spread
):
    scratch.write_bytes(content)
    try:
        trace = read_trace(
            scratch,
            format=format,
            bad_rows=bad_rows,
            first=first,
            limit=limit,
            max_tokens=5000,
            ticks=spread,
        )
    except TraceError as error:
        assert str(error).startswith(f"{scratch}: ")
        return
    assert trace.format in FORMATS
    assert 0 < len(trace.requests) <= (limit or math.inf)
    times = arrivals(trace)
    assert times[0] == 0
    assert times == sorted(times)
    assert math.isfinite(times[-1])
    assert [request.id for request in trace.requests] == list(range(len(times)))
    for request in trace.requests:
        assert type(request.prompt_tokens) is int and 0 < request.prompt_tokens <= 5000
        assert type(request.output_tokens) is int and 0 < request.output_tokens <= 5000


requests_from_zero = st.lists(
    st.tuples(st.floats(0, 1e9), st.integers(1, 10**6), st.integers(1, 10**6)),
    min_size=1,
    max_size=30,
).map(
    lambda rows: [
        Request(i, arrival_s if i else 0.0, prompt, output)
        for i, (arrival_s, prompt, output) in enumerate(sorted(rows))
    ]
)


@settings(max_examples=100, deadline=None)
@given(requests=requests_from_zero)
def test_written_reads_back_equal(scratch, requests):
    write_trace(scratch, requests)
    assert read_trace(scratch, clock="s") == Trace(requests, "trace", "plain", [])
    assert [file.name for file in scratch.parent.iterdir()] == [
        "trace"
    ]  # nothing half-written stays


def test_reading_imports_only_the_standard_library_and_numpy():
    root = Path(__file__).resolve().parents[1]
    seen, todo = set(), ["sim.traces.reading"]
    while todo:
        for node in ast.parse((root / f"{todo.pop().replace('.', '/')}.py").read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            todo += [name for name in names if name.startswith("sim.") and name not in seen]
            seen.update(names)
    own = {name for name in seen if name.startswith("sim.")}
    assert {name for name in own if not name.startswith("sim.traces.")} == {
        "sim.text.strict_json",
        "sim.text.outside",
    }
    outside = {name.split(".")[0] for name in seen if not name.startswith("sim.")}
    assert outside - {"numpy"} <= sys.stdlib_module_names


# Recordings


@needs_recordings
def test_recorded_azure():
    trace = read_trace(AZURE)
    assert (trace.format, trace.warnings, len(trace.requests)) == ("azure", [], 19_366)
    count = len(trace.requests)
    assert sum(r.prompt_tokens for r in trace.requests) / count == pytest.approx(1155, abs=0.5)
    assert sum(r.output_tokens for r in trace.requests) / count == pytest.approx(211, abs=0.5)
    assert (count - 1) / trace.requests[-1].arrival_s == pytest.approx(5.53, abs=0.005)
    part = read_trace(AZURE, first=1000, limit=200).requests
    assert len(part) == 200
    start_s = trace.requests[1000].arrival_s
    assert [r.arrival_s for r in part] == pytest.approx(
        [r.arrival_s - start_s for r in trace.requests[1000:1200]]
    )


@needs_recordings
def test_recorded_mooncake():
    trace = read_trace(MOONCAKE)
    assert (trace.format, len(trace.requests), len(trace.warnings)) == ("mooncake", 12_031, 1)
    count = len(trace.requests)
    assert sum(r.prompt_tokens for r in trace.requests) / count == pytest.approx(12035, abs=0.5)
    assert sum(r.output_tokens for r in trace.requests) / count == pytest.approx(343, abs=0.5)
    times = arrivals(trace)
    assert len(set(times)) == count  # no two at once
    assert times == sorted(times)
    rounded = read_trace(MOONCAKE, ticks=False)
    assert all(0 <= time - tick.arrival_s < 3 for time, tick in zip(times, rounded.requests))
    part = arrivals(read_trace(MOONCAKE, first=1003, limit=100))
    assert part == pytest.approx([time - times[1003] for time in times[1003:1103]])


@needs_recordings
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_recorded_azure_cut_off(save, bad_rows):
    path = save(AZURE.read_bytes()[:100_000])
    if bad_rows == "error":
        with pytest.raises(TraceError, match="end early"):
            read_trace(path)
    else:
        assert len(read_trace(path, bad_rows="skip").requests) > 5000
