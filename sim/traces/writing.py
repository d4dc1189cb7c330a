"""Streams of requests as files: CSV, JSON Lines or Parquet by the ending, also gzip or zstd.

What a trace tells beside arrival and lengths stands in columns of its own: `session`, `think_s`,
`tenant`, and `blocks_512` for the ids of prefix blocks of 512 tokens. All of it reads back equal,
ids up to their numbering.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sim.traces.columns import Columns
from sim.traces.parquet import table_of
from sim.traces.stream import TraceStream

ENDINGS = (".csv", ".jsonl", ".csv.gz", ".jsonl.gz", ".csv.zst", ".jsonl.zst", ".parquet")


def write_stream(path: str | Path, stream: TraceStream) -> int:
    """Write all requests of a stream, replacing the file whole; the number of requests.

    Memory follows the chunk. A killed or failed write leaves the old file, if there was one.
    ValueError for a name that ends like no format, or for one that needs an extra that is not
    installed.
    """
    path = Path(path)
    ending = next(
        (
            each
            for each in sorted(ENDINGS, key=len, reverse=True)
            if path.name.lower().endswith(each)
        ),
        None,
    )
    if ending is None:
        raise ValueError(
            f"{path}: the name must end in one of {', '.join(ENDINGS)}, which says how to write it"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and cannot be written as a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        count = (
            _parquet(partial, stream) if ending == ".parquet" else _lines(partial, stream, ending)
        )
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _lines(path: Path, stream: TraceStream, ending: str) -> int:
    count = 0
    writer: Callable[[Columns, TraceStream], Iterator[str]] = (
        _json_rows if ".jsonl" in ending else _csv_rows
    )
    with _packed(path, ending) as file:
        columns: list[str] = []
        for chunk in stream.chunks():
            names = _names(chunk, stream.block_tokens)
            if not columns:
                columns = names
                if writer is _csv_rows:
                    file.write(",".join(columns) + "\n")
            assert names == columns, "all chunks of a stream have the same columns"
            file.writelines(writer(chunk, stream))
            count += len(chunk)
    return count


def _names(chunk: Columns, block_tokens: int) -> list[str]:
    names = ["arrival_s", "prompt_tokens", "output_tokens"]
    names += [name for name in ("session", "think_s", "tenant") if getattr(chunk, name) is not None]
    return names + ([f"blocks_{block_tokens}"] if chunk.blocks is not None else [])


def _csv_rows(chunk: Columns, stream: TraceStream) -> Iterator[str]:
    cells: list[Any] = [
        map(repr, chunk.arrival_s.tolist()),
        chunk.prompt_tokens.tolist(),
        chunk.output_tokens.tolist(),
    ]
    if chunk.session is not None:
        cells.append("" if each < 0 else each for each in chunk.session.tolist())
    if chunk.think_s is not None:
        cells.append("" if each != each else repr(each) for each in chunk.think_s.tolist())
    if chunk.tenant is not None:
        quoted = [_quoted(name) for name in stream.tenants]
        cells.append(quoted[each] for each in chunk.tenant.tolist())
    if chunk.blocks is not None:
        cells.append(" ".join(map(str, ids)) for ids in _blocks(chunk))
    if len(cells) == 3:
        yield from (f"{a},{b},{c}\n" for a, b, c in zip(*cells))
    else:
        yield from (",".join(map(str, row)) + "\n" for row in zip(*cells))


def _json_rows(chunk: Columns, stream: TraceStream) -> Iterator[str]:
    cells: list[Any] = [
        chunk.arrival_s.tolist(),
        chunk.prompt_tokens.tolist(),
        chunk.output_tokens.tolist(),
    ]
    if chunk.session is not None:
        cells.append(None if each < 0 else each for each in chunk.session.tolist())
    if chunk.think_s is not None:
        cells.append(None if each != each else each for each in chunk.think_s.tolist())
    if chunk.tenant is not None:
        cells.append(stream.tenants[each] for each in chunk.tenant.tolist())
    if chunk.blocks is not None:
        cells.append(_blocks(chunk))
    names = _names(chunk, stream.block_tokens)
    for row in zip(*cells):
        yield json.dumps(dict(zip(names, row))) + "\n"


def _blocks(chunk: Columns) -> Iterator[list[int]]:
    assert chunk.block_from is not None and chunk.blocks is not None
    at, ids = chunk.block_from.tolist(), chunk.blocks.tolist()
    return (ids[a:b] for a, b in pairwise(at))


def _quoted(name: str) -> str:
    name = " ".join(name.split())  # a line end would end the row
    return '"' + name.replace('"', '""') + '"' if set(name) & {",", '"'} else name


@contextlib.contextmanager
def _packed(path: Path, ending: str) -> Iterator[io.TextIOBase]:
    with open(path, "wb") as raw:
        if ending.endswith(".gz"):
            stream: Any = gzip.GzipFile(
                "", "wb", 6, raw, mtime=0
            )  # no name and no time: the same bytes each time
        elif ending.endswith(".zst"):
            try:
                import zstandard
            except ImportError:
                raise ValueError("zstd needs an extra: pip install 'podscope[zstd]'") from None
            stream = zstandard.ZstdCompressor().stream_writer(raw, closefd=False)
        else:
            stream = raw
        with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as text:
            yield text


def _parquet(path: Path, stream: TraceStream) -> int:
    count, writer = 0, None
    try:
        for chunk in stream.chunks():
            table = table_of(chunk, stream.tenants, stream.block_tokens)
            if writer is None:
                import pyarrow.parquet as pq

                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            count += len(chunk)
    finally:
        if writer is not None:
            writer.close()
    return count
