"""The recorded window as a Chrome trace, which Perfetto and chrome://tracing open."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from typing import Any

from sim.facts.outcome import Outcome
from sim.results.palette import words
from sim.results.panels import STREAMS
from sim.results.utilisation import utilisation


def trace_events(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Metadata, then events by time: a process a variant and rank, a thread a stream, counters.

    Counters are HBM, L2 and link, in percent of their rate.

    Times are microseconds, rounded to a nanosecond at both ends, so that neighbours on a stream
    never overlap.
    """
    metadata: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    processes: dict[tuple[str, str], int] = {}
    threads: dict[tuple[int, str], int] = {}

    def process(variant: str, owner: str) -> int:
        key = (variant, owner)
        if key not in processes:
            processes[key] = pid = len(processes) + 1
            name = f"{variant} · {owner}" if owner else variant
            metadata.extend(_labelled("process", pid, 0, name, pid))
        return processes[key]

    def thread(pid: int, stream: str) -> int:
        if (pid, stream) not in threads:
            mine = sum(1 for p, _ in threads if p == pid)
            tid = STREAMS.index(stream) + 1 if stream in STREAMS else len(STREAMS) + mine + 1
            threads[pid, stream] = tid
            metadata.extend(_labelled("thread", pid, tid, stream, tid))
        return threads[pid, stream]

    for variant, outcome in outcomes.items():
        for s in (*outcome.timeline.lanes, *outcome.timeline.spans):
            owner, _, stream = s.track.rpartition("/")
            pid = process(variant, owner)
            start_ns, end_ns = round(s.start_s * 1e9), round(s.end_s * 1e9)
            facts = {
                "bound": s.bound,
                "HBM bytes": s.hbm_bytes,
                "L2 bytes": s.l2_bytes,
                "link bytes": s.link_bytes,
                "FLOP": s.flop,
                "note": s.note,
            }
            args = {name: value for name, value in facts.items() if value}
            events.append(
                {
                    "ph": "X",
                    "name": s.name,
                    "cat": words(s.kind),
                    "pid": pid,
                    "tid": thread(pid, stream),
                    "ts": start_ns / 1e3,
                    "dur": (end_ns - start_ns) / 1e3,
                    "args": args,
                }
            )
        for capacity, rate in outcome.timeline.capacities.items():
            owner, _, kind = capacity.rpartition("/")
            pid = process(variant, owner)
            for time_s, share in zip(*utilisation(outcome.timeline.uses, capacity, rate)):
                events.append(
                    {
                        "ph": "C",
                        "name": f"{kind} %",
                        "pid": pid,
                        "tid": 0,
                        "ts": round(float(time_s) * 1e9) / 1e3,
                        "args": {"in use": round(100 * float(share), 3)},
                    }
                )
    events.sort(key=lambda e: (e["ts"], e["pid"], e["tid"]))
    return metadata + events


def trace_gz(outcomes: Mapping[str, Outcome]) -> bytes:
    """The trace as gzipped JSON, packed as it is written; equal outcomes give equal bytes."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as out:
        out.write(b'{"displayTimeUnit":"ns","traceEvents":[')
        for number, event in enumerate(trace_events(outcomes)):
            out.write((("," if number else "") + encode(event)).encode())
        out.write(b"]}")
    return packed.getvalue()


def _labelled(what: str, pid: int, tid: int, name: str, place: int) -> list[dict[str, Any]]:
    """What a process or thread is called, and where it stands."""
    return [
        {"ph": "M", "name": f"{what}_{key}", "pid": pid, "tid": tid, "args": {key: value}}
        for key, value in (("name", name), ("sort_index", place))
    ]
