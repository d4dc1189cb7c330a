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
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from sim.traces.arrivals import dice
from sim.traces.columns import Array, Columns, by_arrival, joined, rechunked
from sim.traces.lines import TraceError
from sim.traces.stream import CHUNK_ROWS, TraceStream, from_start

_NAME = re.compile(r"(?:.*/)?chunk-(\d+)-(trace\.csv|dataset\.json)")
MOST_FILE_BYTES = 256 * 2**20


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
    except (ValueError, OSError, tarfile.TarError, EOFError) as error:
        raise TraceError(f"{path}: {error}") from None

    def source(out: TraceStream) -> Iterator[Columns]:
        out.tenants += [f"client {client.number}" for client in clients]
        yield from rechunked(_from_first(_drawn(clients, seed)), chunk_rows)
        out.warnings.append(
            "requests are drawn from statistics of each client; prompt and output lengths "
            "independently"
        )

    return TraceStream(path.name, "servegen", source)


def _drawn(clients: list[_Client], seed: int) -> Iterator[Columns]:
    starts = sorted({window.start_s for client in clients for window in client.windows})
    for at, start_s in enumerate(starts):
        parts = []
        for tenant, client in enumerate(clients):
            window = next((w for w in client.windows if w.start_s == start_s), None)
            if window is None:
                continue
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
            of = max((s for s in client.lengths if s <= start_s), default=min(client.lengths))
            prompt, output = (_picked(law, count, random) for law in client.lengths[of])
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
    return [
        _client(number, texts["trace.csv"], texts["dataset.json"], max_tokens)
        for number, texts in sorted(found.items())
    ]


def _files(path: Path) -> Iterator[tuple[re.Match[str], str]]:
    if path.is_dir():
        for file in sorted(path.rglob("chunk-*")):
            if match := _NAME.fullmatch(file.name):
                yield match, file.read_text(encoding="utf-8", errors="replace")
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (match := _NAME.fullmatch(member.name)):
                if member.size > MOST_FILE_BYTES:
                    raise ValueError(f"{member.name} is larger than {MOST_FILE_BYTES // 2**20} MiB")
                data = archive.extractfile(member)
                assert data is not None
                yield match, data.read().decode("utf-8", "replace")


def _client(number: int, trace: str, dataset: str, max_tokens: int) -> _Client:
    windows, starts = [], []
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
            raise ValueError(
                f"{where}: {error}; a right row: 600,0.33,0.9,Weibull,1.12,3.16"
            ) from None
        starts.append(start_s)
        if rate == 0:
            continue
        family = fields[3].strip()
        if family not in ("Gamma", "Weibull") or not (
            0 < rate < 1e6 and 1e-3 < shape < 1e9 and 0 <= start_s < 1e12
        ):
            raise ValueError(
                f"{where}: {line[:60]!r} is no window; a right row: 600,0.33,0.9,Weibull,1.12,3.16"
            )
        windows.append(_Window(start_s, rate, family, shape))
    if len(starts) < 2 or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(
            f"chunk-{number}-trace.csv: needs two windows or more, in order of their start"
        )
    window_s = starts[1] - starts[0]
    counted = [replace(window, count=window.count * window_s) for window in windows]
    return _Client(number, window_s, counted, _lengths(number, dataset, max_tokens))


def _lengths(
    number: int, dataset: str, max_tokens: int
) -> dict[float, tuple[tuple[Array, Array], tuple[Array, Array]]]:
    where = f"chunk-{number}-dataset.json"
    try:
        found = ast.literal_eval(dataset)
        laws = {}
        for start, fields in found.items():
            both = [
                _law(ast.literal_eval(fields[field]), max_tokens)
                for field in ("input_tokens", "output_tokens")
                if fields.get(field)
            ]
            if len(both) == 2 and all(len(law[0]) for law in both):
                laws[float(start)] = both[0], both[1]
    except (
        ValueError,
        SyntaxError,
        TypeError,
        AttributeError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{where}: is not {{window: {{field: '{{tokens: probability}}'}}}} ({error})"
        ) from None
    if not laws:
        raise ValueError(f"{where}: no window has both input_tokens and output_tokens")
    return laws


def _law(probabilities: dict[float, float], max_tokens: int) -> tuple[Array, Array]:
    kept = sorted(
        (int(t), float(p)) for t, p in probabilities.items() if 1 <= t <= max_tokens and p > 0
    )
    upto = np.cumsum([p for _, p in kept])
    return np.array([t for t, _ in kept], np.int64), upto / upto[-1] if len(upto) else upto
