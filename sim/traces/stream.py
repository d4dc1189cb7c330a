"""A trace as a stream of columns, whatever its source; to merge, cut and speed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from sim.traces.columns import Columns, by_arrival, joined, rechunked

CHUNK_ROWS = 65_536


@dataclass
class TraceStream:
    """Requests read or made as they are asked for: memory follows a chunk and not the trace.

    Each call of `chunks()` starts anew; `warnings` and `tenants` are complete when its last chunk
    was taken. Arrivals never fall, within a chunk and from one to the next, and the first is 0.
    """

    name: str
    format: str
    source: Callable[[TraceStream], Iterator[Columns]]
    block_tokens: int = 0  # tokens of a prefix block; 0: the trace has none
    tenants: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def chunks(self) -> Iterator[Columns]:
        """The requests, in order of arrival; a wrong one is a ValueError (of a file TraceError)."""
        self.tenants.clear()
        self.warnings.clear()
        return self.source(self)


def gathered(stream: TraceStream) -> Columns:
    """All requests of a stream at once."""
    return joined(list(stream.chunks()))


def merged(streams: Sequence[TraceStream], chunk_rows: int = CHUNK_ROWS) -> TraceStream:
    """Several traces as one, each from its own time 0; tenants are named after the files.

    A trace with tenants of its own gets one for each, "file/tenant". Sessions and blocks of one are
    never those of another. ValueError if the traces have prefix blocks of different sizes.
    """
    sizes = {stream.block_tokens for stream in streams if stream.block_tokens}
    if len(sizes) > 1:
        told = ", ".join(
            f"{stream.name}: {stream.block_tokens}" for stream in streams if stream.block_tokens
        )
        raise ValueError(
            f"traces with prefix blocks of different sizes cannot be merged ({told} tokens)"
        )
    names = [
        each.name if [s.name for s in streams].count(each.name) == 1 else f"{each.name}#{number}"
        for number, each in enumerate(streams, 1)
    ]

    def source(out: TraceStream) -> Iterator[Columns]:
        # kind -> (stream, its number) -> number in the merged trace
        numbers: dict[str, dict[tuple[int, int], int]] = {"session": {}, "blocks": {}, "tenant": {}}

        def renumbered(at: int, columns: Columns) -> Columns:
            tenant = np.zeros(len(columns), np.int64) if columns.tenant is None else columns.tenant
            for each in np.unique(tenant).tolist():
                if (at, each) not in numbers["tenant"]:
                    theirs = streams[at].tenants if columns.tenant is not None else []
                    label = "".join(theirs[each : each + 1])
                    out.tenants.append(f"{names[at]}/{label}" if label else names[at])
            changed = {}
            for kind, known in numbers.items():
                given = tenant if kind == "tenant" else getattr(columns, kind)
                if given is not None:
                    distinct, which = np.unique(given, return_inverse=True)
                    own = [
                        known.setdefault((at, each), len(known)) if each >= 0 else -1
                        for each in distinct.tolist()
                    ]
                    changed[kind] = np.array(own, np.int64)[which]
            return replace(columns, **changed)

        owned: list[Iterator[Columns]] = [
            map(partial(renumbered, at), stream.chunks()) for at, stream in enumerate(streams)
        ]
        yield from rechunked(_in_order(owned), chunk_rows)
        for name, stream in zip(names, streams):
            out.warnings += [f"{name}: {warning}" for warning in stream.warnings]

    return TraceStream(" + ".join(names), "merged", source, max(sizes, default=0))


def _in_order(sources: list[Iterator[Columns]]) -> Iterator[Columns]:
    """Chunks by arrival: at each step, all up to the earliest end of the chunks at hand.

    Each has the columns that any of the sources has.
    """
    held = [next(source, None) for source in sources]
    pattern = joined([chunk[:1] for chunk in held if chunk is not None])
    while any(chunk is not None for chunk in held):
        until = min(float(chunk.arrival_s[-1]) for chunk in held if chunk is not None)
        parts: list[Columns] = []
        for at, chunk in enumerate(held):
            if chunk is None:
                continue
            count = int(np.searchsorted(chunk.arrival_s, until, side="right"))
            parts.append(chunk[:count])
            held[at] = chunk[count:] if count < len(chunk) else next(sources[at], None)
        yield by_arrival(joined([pattern[:1], *parts])[1:])


def from_start(
    chunks: Iterable[Columns], per_s: float = 1.0, speed: float = 1.0
) -> Iterator[Columns]:
    """Arrivals in seconds after the first one, sent `speed` times as fast; `per_s` of the chunks'
    unit of time are a second."""
    start = None
    for chunk in chunks:
        start = chunk.arrival_s[0] if start is None else start
        with np.errstate(over="ignore"):
            arrival_s = (chunk.arrival_s - start) / (per_s * speed)
        think_s = None if chunk.think_s is None else chunk.think_s / speed
        yield replace(chunk, arrival_s=arrival_s, think_s=think_s)


def cut(
    stream: TraceStream, first: int = 0, limit: int | None = None, speed: float = 1.0
) -> TraceStream:
    """`limit` requests from request `first` on, the first at 0, sent `speed` times as fast."""

    def part() -> Iterator[Columns]:
        skip, left = first, limit
        for chunk in stream.chunks():
            some = chunk[skip : len(chunk) if left is None else skip + left]
            skip = max(0, skip - len(chunk))
            if len(some):
                yield some
                left = None if left is None else left - len(some)
            if left == 0:
                break

    def source(out: TraceStream) -> Iterator[Columns]:
        for chunk in from_start(part(), speed=speed):
            out.tenants[:] = stream.tenants
            yield chunk
        out.tenants[:] = stream.tenants
        out.warnings += stream.warnings

    return TraceStream(stream.name, stream.format, source, stream.block_tokens)
