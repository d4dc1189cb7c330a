"""Streams of requests as files: CSV, JSON Lines or Parquet by the ending, also gzip or zstd.

What a trace tells beside arrival and lengths stands in columns of its own: `session`, `think_s`,
`tenant`, and `blocks_512` for the ids of prefix blocks of 512 tokens. All of it reads back equal,
ids up to their numbering.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sim.text.replacing import replacing
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
    ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), None)
    if ending is None:
        raise ValueError(
            f"{path}: the name must end in one of {', '.join(ENDINGS)}, which says how to write it"
        )
    with replacing(path) as beside:
        return _parquet(beside, stream) if ending == ".parquet" else _lines(beside, stream, ending)


def _lines(path: Path, stream: TraceStream, ending: str) -> int:
    count, names = 0, list[str]()
    with _packed(path, ending) as file:
        table = csv.writer(file, lineterminator="\n")
        for chunk in stream.chunks():
            told = _told(chunk, stream, as_text=".csv" in ending)
            assert names in ([], [*told]), "all chunks of a stream have the same columns"
            if ".jsonl" in ending:
                file.writelines(json.dumps(dict(zip(told, r))) + "\n" for r in zip(*told.values()))
            else:
                table.writerows([told] * (not names))
                table.writerows(zip(*told.values()))
            names = [*told]
            count += len(chunk)
    return count


def _told(chunk: Columns, stream: TraceStream, as_text: bool) -> dict[str, Iterable[Any]]:
    """The values of each column, by its name; `as_text`: in words without line ends, lists too."""
    told: dict[str, Iterable[Any]] = {
        name: getattr(chunk, name).tolist()
        for name in ("arrival_s", "prompt_tokens", "output_tokens")
    }
    if chunk.session is not None:
        told["session"] = (None if each < 0 else each for each in chunk.session.tolist())
    if chunk.think_s is not None:
        told["think_s"] = (None if each != each else each for each in chunk.think_s.tolist())
    if chunk.tenant is not None:
        names = [" ".join(each.split()) if as_text else each for each in stream.tenants]
        told["tenant"] = (names[each] for each in chunk.tenant.tolist())
    if chunk.block_from is not None and chunk.blocks is not None:
        ids = chunk.blocks.tolist()
        lists = (ids[a:b] for a, b in pairwise(chunk.block_from.tolist()))
        told[f"blocks_{stream.block_tokens}"] = (
            (" ".join(map(str, each)) for each in lists) if as_text else lists
        )
    return told


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
    with contextlib.ExitStack() as written:
        for chunk in stream.chunks():
            table = table_of(chunk, stream.tenants, stream.block_tokens)
            if writer is None:
                import pyarrow.parquet as pq

                writer = written.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table)
            count += len(chunk)
    return count
