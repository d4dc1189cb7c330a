"""ServeGen folders: a production workload as statistics of clients, to draw requests from.

A client is two files: chunk-N-trace.csv has, for each window of time, the rate, the CV of gaps,
their family (Gamma or Weibull) and its shape and scale; chunk-N-dataset.json has, for longer
windows, how likely each prompt and output length is. Kept exactly: the number of requests of each
client in each window. Gaps have the family and shape told, scaled so that they fill the window,
which makes the heaviest tails a little lighter. Not kept: prompt and output lengths are drawn each
on its own, since the files do not say which go together; `reason_ratio` and other fields are not
read.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import lzma
import math
import os
import re
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sim.text.outside import MOST_S, bounded, meeting, opened, read_bytes
from sim.traces.arrivals import dice
from sim.traces.columns import Array, Columns, by_arrival, joined, rechunked
from sim.traces.lines import TraceError
from sim.traces.stream import CHUNK_ROWS, TraceStream, from_start

_NAME = re.compile(r"(?:.*/)?chunk-(\d+)-(trace\.csv|dataset\.json)")
_LATEST_S = 1e11  # of a window; since 1970: the year 5138
_ERRORS = tarfile.TarError, zlib.error, lzma.LZMAError, MemoryError


@dataclass(frozen=True)
class _Window:
    """Of one client: where it begins and ends, its number of requests, and how gaps scatter."""

    start_s: float
    count: float
    family: str
    shape: float


@dataclass(frozen=True)
class _Client:
    number: int
    window_s: float
    windows: list[_Window]
    # by start, of prompts and of outputs: (tokens, cumulative probability)
    lengths: dict[float, tuple[tuple[Array, Array], tuple[Array, Array]]]

    @cached_property
    def starts(self) -> list[float]:
        """Of the windows of `lengths`, in order."""
        return sorted(self.lengths)


def is_servegen(path: Path) -> bool:
    """Whether it is a folder, or an archive of one."""
    return path.is_dir() or re.search(r"\.(tar|tgz|tar\.(gz|xz|bz2))$", path.name) is not None


def open_servegen(
    path: Path, seed: int = 0, max_tokens: int = 1_000_000, chunk_rows: int = CHUNK_ROWS
) -> TraceStream:
    """Requests of all clients of a folder or a tar archive, by arrival, each client a tenant.

    Lengths above `max_tokens` are never drawn. Errors: TraceError that names the folder and the
    file in it.
    """
    try:
        clients = _clients(path, max_tokens)
    except (ValueError, OSError) as error:
        raise TraceError(f"{path}: {error}") from error

    def source(out: TraceStream) -> Iterator[Columns]:
        out.tenants[:] = [f"client {client.number}" for client in clients]
        yield from rechunked(_from_first(_drawn(clients, seed)), chunk_rows)
        out.warnings.append(
            "requests are drawn from statistics of each client; prompt and output lengths "
            "independently"
        )

    return TraceStream(path.name, "servegen", source)


def _drawn(clients: list[_Client], seed: int) -> Iterator[Columns]:
    begun: dict[float, list[tuple[int, _Window]]] = {}
    for tenant, client in enumerate(clients):
        for window in client.windows:
            begun.setdefault(window.start_s, []).append((tenant, window))
    for at, start_s in enumerate(sorted(begun)):
        parts = []
        for tenant, window in begun[start_s]:
            client = clients[tenant]
            random = dice(seed, tenant, at)
            count = math.floor(window.count + 1e-9) + int(random.random() < window.count % 1 - 1e-9)
            if not count:
                continue
            # One gap more than requests: the window begins and ends within a gap.
            gaps = (
                random.weibull(window.shape, count + 1)
                if window.family == "Weibull"
                else random.gamma(window.shape, 1.0, count + 1)
            )
            sums = np.cumsum(np.maximum(gaps, 1e-12))
            begin = random.random() * gaps[0]
            arrival_s = start_s + client.window_s * (sums[:-1] - begin) / max(
                sums[-1] - begin, 1e-12
            )
            of = max(bisect_right(client.starts, start_s) - 1, 0)
            laws = client.lengths[client.starts[of]]
            prompt, output = (_picked(law, count, random) for law in laws)
            parts.append(Columns(arrival_s.round(6), prompt, output, tenant=np.full(count, tenant)))
        if parts:
            yield by_arrival(joined(parts))


def _picked(law: tuple[Array, Array], count: int, random: np.random.Generator) -> Array:
    tokens, upto = law
    return tokens[
        np.minimum(np.searchsorted(upto, random.random(count), side="right"), len(tokens) - 1)
    ]


def _from_first(chunks: Iterator[Columns]) -> Iterator[Columns]:
    latest = 0.0
    for chunk in from_start(chunks):
        # A request at the very end of a window may round into the next.
        arrival_s = np.maximum(chunk.arrival_s.round(6), latest)
        latest = float(arrival_s[-1])
        yield replace(chunk, arrival_s=arrival_s)


def _clients(path: Path, max_tokens: int) -> list[_Client]:
    found: dict[int, dict[str, str]] = {}
    for match, text in _files(path):
        mine = found.setdefault(int(match[1]), {})
        if match[2] in mine:
            raise ValueError(f"holds {match[0]} twice; name the folder of one model")
        mine[match[2]] = text
    if not found:
        raise ValueError(
            "cannot be read: neither a file nor a ServeGen folder, which holds "
            "chunk-N-trace.csv files"
        )
    for number, kind in product(sorted(found), ("trace.csv", "dataset.json")):
        if kind not in found[number]:
            raise ValueError(f"chunk-{number}-{kind} is missing")
    clients = [
        _client(number, texts["trace.csv"], texts["dataset.json"], max_tokens)
        for number, texts in sorted(found.items())
    ]
    begun = [window.start_s for client in clients for window in client.windows]
    if not begun:
        raise ValueError("no client has a window with requests")
    if (spans_s := max(begun) - min(begun)) > MOST_S:
        raise ValueError(
            f"the windows of all clients span {spans_s:.3g} s, more than a clock resolves that has "
            f"requests to tell apart; at most {MOST_S:.0e} s"
        )
    return clients


def _files(path: Path) -> Iterator[tuple[re.Match[str], str]]:
    """The files of clients in a folder or an archive, with their text.  Nothing is unpacked to
    disk, so that the names in an archive lead nowhere."""
    read, seen = 0, 0
    if path.is_dir():
        for folder, below, names in os.walk(path):
            below.sort()
            seen += len(names)
            bounded("archive members", seen)
            for name in sorted(names):
                if match := _NAME.fullmatch(name):
                    try:
                        data = read_bytes(Path(folder, name), "archive bytes")
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from None
                    read += len(data)
                    bounded("archive bytes", read, name)
                    yield match, data.decode("utf-8", "replace")
        return
    last = "at its beginning"
    with opened(path) as raw, meeting("", *_ERRORS):
        try:
            with tarfile.open(fileobj=_Limited(raw), mode="r|") as archive:
                for member in archive:
                    seen += 1
                    bounded("archive members", seen)
                    last = f"at {member.name[-80:]!r}"
                    if not (member.isfile() and (match := _NAME.fullmatch(member.name))):
                        continue
                    content = archive.extractfile(member)
                    assert content is not None
                    yield match, content.read().decode("utf-8", "replace")
        except (*_ERRORS, EOFError) as error:
            raise ValueError(f"cannot be unpacked, {last}: {error}; fetch the file again") from None


class _Limited(io.RawIOBase):
    """The bytes of an archive as they are unpacked, no more than `MOST` holds of them."""

    def __init__(self, raw: Any) -> None:
        magic = raw.peek(6)
        packing = next((each for mark, each in _PACKINGS if magic.startswith(mark)), None)
        self.stream = raw if packing is None else packing(raw)
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        """So many bytes, if there are."""
        data: bytes = self.stream.read(size)
        self.given = bounded("archive bytes", self.given + len(data))
        return data


_PACKINGS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)


def _client(number: int, trace: str, dataset: str, max_tokens: int) -> _Client:
    windows: list[tuple[int, _Window]] = []
    starts: list[float] = []
    for row, line in enumerate(trace.splitlines(), 1):
        where = f"chunk-{number}-trace.csv: row {row}"
        fields = line.split(",")
        if not line.strip():
            continue
        if len(fields) != 6:
            raise ValueError(
                f"{where}: has {len(fields)} fields, not 6 (start, rate, CV, family, shape, scale)"
            )
        try:
            start_s, rate, _, shape, _ = (float(fields[at] or 0) for at in (0, 1, 2, 4, 5))
        except ValueError as error:
            raise ValueError(f"{where}: {error}; {_RIGHT}") from None
        if not 0 <= start_s <= _LATEST_S:
            raise ValueError(f"{where}: a window cannot start at {fields[0]:.40} s; {_RIGHT}")
        if starts and start_s <= starts[-1]:
            raise ValueError(f"{where}: this window starts before the one above ends; {_RIGHT}")
        starts.append(start_s)
        if rate == 0:
            continue
        family = fields[3].strip()
        if family not in ("Gamma", "Weibull") or not (0 < rate < 1e6 and 1e-3 < shape < 1e9):
            raise ValueError(f"{where}: {line[:60]!r} is no window; {_RIGHT}")
        windows.append((row, _Window(start_s, rate, family, shape)))
    if len(starts) < 2:
        raise ValueError(
            f"chunk-{number}-trace.csv: needs two windows or more, in order of their start"
        )
    window_s = starts[1] - starts[0]
    counted = []
    for row, window in windows:
        where = f"chunk-{number}-trace.csv: row {row}"
        bounded("window requests", window.count * window_s, where)
        counted.append(replace(window, count=window.count * window_s))
    return _Client(number, window_s, counted, _lengths(number, dataset, max_tokens))


_RIGHT = "a right row: 600,0.33,0.9,Weibull,1.12,3.16"


def _lengths(
    number: int, dataset: str, max_tokens: int
) -> dict[float, tuple[tuple[Array, Array], tuple[Array, Array]]]:
    where = f"chunk-{number}-dataset.json"
    bounded("probabilities", dataset.count(":"), where)
    laws = {}
    try:
        with meeting("", SyntaxError, MemoryError):
            for start, fields in _literal(dataset).items():
                if not isinstance(fields, dict):
                    raise ValueError(f"a mapping is due in it, not {str(fields)[:40]!r}")
                both = [
                    _law(_literal(fields[field]), max_tokens)
                    for field in ("input_tokens", "output_tokens")
                    if fields.get(field)
                ]
                if not math.isfinite(start_s := float(start)):
                    raise ValueError(f"a window starts at {start_s}")
                if len(both) == 2 and all(len(law[0]) for law in both):
                    laws[start_s] = both[0], both[1]
    except ValueError as error:
        raise ValueError(
            f"{where}: is not {{window: {{field: '{{tokens: probability}}'}}}} ({error})"
        ) from error
    if not laws:
        raise ValueError(f"{where}: no window has both input_tokens and output_tokens")
    return laws


def _literal(text: Any) -> dict[Any, Any]:
    """The mapping that a text is in Python's words."""
    if not isinstance(text, str):
        raise ValueError(f"a mapping as text is due, not {str(text)[:40]!r}")
    found = ast.literal_eval(text)
    if not isinstance(found, dict):
        raise ValueError(f"a mapping is due, not {text[:40]!r}")
    return found


def _law(probabilities: dict[float, float], max_tokens: int) -> tuple[Array, Array]:
    kept = []
    for tokens, share in probabilities.items():
        numbers = all(type(each) in (int, float) for each in (tokens, share))
        if not numbers or share > 1e300:
            raise ValueError(f"{str(tokens)[:40]!r}: {str(share)[:40]!r} are no numbers")
        if not 0 <= share < math.inf:
            raise ValueError(f"{str(share)[:40]!r} is no probability, of {str(tokens)[:40]} tokens")
        if 1 <= tokens <= max_tokens and share > 0:
            kept.append((int(tokens), float(share)))
    kept.sort()
    upto = np.cumsum([share for _, share in kept])
    if len(upto) and not math.isfinite(upto[-1]):
        raise ValueError(f"the probabilities add up to {upto[-1]}")
    return np.array([t for t, _ in kept], np.int64), upto / upto[-1] if len(upto) else upto
