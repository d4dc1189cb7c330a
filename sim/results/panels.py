"""What a timeline shows of a variant: its streams, and how full its capacities were."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.facts.outcome import Outcome
from sim.facts.span import Span
from sim.results.metric import seconds_text
from sim.results.palette import CAPACITY_COLOURS, escaped, kind_order
from sim.results.utilisation import utilisation
from sim.text.units import show

STREAMS = ("compute", "communication", "prefetch")
_CAPACITIES = ("HBM", "L2", "link")
MOST_TRACKS = 64  # of one variant that are drawn; the trace has all


@dataclass(frozen=True)
class Track:
    """One row: its spans in order of time, in units of the axis."""

    label: str
    spans: list[Span]
    start: NDArray[np.float64]
    duration: NDArray[np.float64]


@dataclass(frozen=True)
class Area:
    """How full one kind of capacity was, as steps in units of the axis; `share` in percent."""

    label: str
    colour: str
    times: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """What one variant shows: a row for each track, then an area for each kind of capacity."""

    title: str
    tracks: list[Track]
    areas: list[Area]


def axis_unit(outcomes: Mapping[str, Outcome]) -> tuple[str, float]:
    """The unit of the time axis, and how many of it a second has."""
    first_s, last_s = recorded(outcomes)
    if last_s < 2e-3:
        return "µs", 1e6
    return ("ms", 1e3) if last_s - first_s < 10 and last_s < 10_000 else ("s", 1.0)


def recorded(outcomes: Mapping[str, Outcome]) -> tuple[float, float]:
    """Begin and end of what was recorded, in seconds of the axis; from 0 if it begins in the first
    tenth."""
    ends = [
        (s.start_s - origin_s, s.end_s - origin_s)
        for one in (outcome.timeline for outcome in outcomes.values())
        for origin_s in [one.origin_s]
        for s in (*one.spans, *one.lanes)
    ]
    first_s = min((start_s for start_s, _ in ends), default=0.0)
    last_s = max((end_s for _, end_s in ends), default=0.0)
    return (first_s if first_s > 0.1 * last_s else 0.0), last_s


def kinds_of(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The op kinds of all outcomes, in the order of the legend."""
    kinds = {s.kind for o in outcomes.values() for s in (*o.timeline.spans, *o.timeline.lanes)}
    return sorted(kinds, key=kind_order)


def panel_of(name: str, outcome: Outcome, scale: float) -> Panel:
    """The panel of one variant; `scale` is how many units of the time axis a second has."""
    by_track: dict[str, list[Span]] = {}
    one = outcome.timeline
    origin_s = one.origin_s
    for span in (*one.lanes, *one.spans):
        by_track.setdefault(span.track, []).append(span)
    owners = list(dict.fromkeys(one.owners + [t.rpartition("/")[0] for t in by_track]))
    several = len({track.rpartition("/")[0] for track in by_track}) > 1
    tracks = []
    shown = sorted(by_track, key=lambda t: (owners.index(t.rpartition("/")[0]), _stream_order(t)))
    for track in shown[:MOST_TRACKS]:
        spans = sorted(by_track[track], key=lambda s: (s.start_s, s.end_s))
        owner, _, stream = track.rpartition("/")
        label = f"{owner} {stream}" if several and owner else stream
        start = (np.array([s.start_s for s in spans]) - origin_s) * scale
        end = (np.array([s.end_s for s in spans]) - origin_s) * scale
        tracks.append(Track(escaped(label), spans, start, end - start))
    took = escaped(seconds_text(outcome.totals.seconds / outcome.replicas))
    some = f"  the first {MOST_TRACKS} of {len(shown)} tracks" if len(shown) > MOST_TRACKS else ""
    when = f"  from {origin_s:.6g} s on, its busiest stretch" if origin_s else ""
    title = f"<b>{escaped(name)}</b>  {took}{when}{some}"
    return Panel(title, tracks, _areas(outcome, scale))


def _stream_order(track: str) -> tuple[int, list[int], str]:
    """Streams in their order, then numbered ones by number: rank 2 before rank 10."""
    stream = track.rpartition("/")[2]
    numbers = [int(digits[:18]) for digits in re.findall(r"[0-9]+", stream)]
    return (STREAMS.index(stream) if stream in STREAMS else len(STREAMS), numbers, track)


def _areas(outcome: Outcome, scale: float) -> list[Area]:
    """An area a kind of capacity; of several ranks or links, the share of their joint rate."""
    rates: dict[str, float] = {}
    for capacity, rate in outcome.timeline.capacities.items():
        kind = capacity.rpartition("/")[2]
        rates[kind] = rates.get(kind, 0.0) + rate
    found = []
    for kind in sorted(
        rates, key=lambda k: (_CAPACITIES.index(k) if k in _CAPACITIES else len(_CAPACITIES), k)
    ):
        uses = [
            u._replace(capacity=kind)
            for u in outcome.timeline.uses
            if u.capacity.rpartition("/")[2] == kind
        ]
        times, share = utilisation(uses, kind, rates[kind])
        times = (times - outcome.timeline.origin_s) * scale
        colour = CAPACITY_COLOURS.get(kind, "#7B5EA7")
        found.append(Area(escaped(kind), colour, times, share * 100))
    return found


def detail(span: Span) -> str:
    """The lines of the hover that do not depend on when the op ran."""
    if not span.bound:  # no op, but what ops are done for
        return escaped(span.note)
    moved = [("HBM", span.hbm_bytes), ("L2", span.l2_bytes), ("link", span.link_bytes)]
    lines = [
        " · ".join(f"{name} {show(nbytes, 'B')}" for name, nbytes in moved if nbytes) or "no bytes"
    ]
    lines += [show(span.flop, "FLOP")] if span.flop else []
    lines += [f"limited by {escaped(span.bound)}"]
    lines += [escaped(span.note)] if span.note else []
    return "<br>".join(lines)
