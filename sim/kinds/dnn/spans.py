"""What an array did as spans: layers on pods of a schedule, or inferences that come by traces."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from sim.facts.array import ArrayRun, Tiles
from sim.facts.span import Span, Use
from sim.facts.timeline import Timeline
from sim.scenario.schema import Record
from sim.systolic.tenancy import Turn

DRAWN_PODS = 8  # of a schedule


def drawn(record: Record, runs: Sequence[ArrayRun]) -> Timeline:
    """Some pods of each schedule, evenly spaced, and the share of all pods that are busy.

    A span is a stretch of rounds at one layer. Every pod of every round is in the `tiles` of the
    runs.
    """
    kept = Timeline()
    if not record.enabled:
        return kept
    spans: list[Span] = []
    for run in runs:
        if run.tiles is not None:
            spans += _layers(run, run.tiles)
            kept.uses += _busy(run, run.tiles, record)
    inside = [s for s in spans if s.end_s > record.from_s and s.start_s < (record.until_s or inf)]
    inside.sort(key=lambda s: (s.start_s, s.track))
    kept.spans, kept.truncated = inside[: record.max_spans], max(len(inside) - record.max_spans, 0)
    kept.capacities = (
        {"pods": float(max(run.first_pod + run.pods for run in runs))} if kept.uses else {}
    )
    return kept


def _layers(run: ArrayRun, tiles: Tiles) -> list[Span]:
    rounds = len(tiles.start_s)
    step = max(run.pods // DRAWN_PODS, 1)
    flat = tiles.layer[::step].ravel()
    new = np.concatenate(([True], flat[1:] != flat[:-1]))
    new[::rounds] = True  # a pod's first round
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(flat)) - 1
    spans = []
    for a, b, which in zip(first.tolist(), last.tolist(), flat[first].tolist()):
        if which == 0:
            continue
        of, layer = tiles.layers[which - 1]
        pod, start = divmod(a, rounds)
        count = b - a + 1
        spans.append(
            Span(
                f"pod {run.first_pod + pod * step}",
                layer,
                run.names[of],
                run.start_s + float(tiles.start_s[start]),
                run.start_s + float(tiles.end_s[b % rounds]),
                bound="compute",
                note=f"{count:,} round{'s' * (count > 1)}, from {start:,}",
            )
        )
    return spans


def _busy(run: ArrayRun, tiles: Tiles, record: Record) -> list[Use]:
    """Pods with a tile op, as a use of all pods."""
    counts = np.count_nonzero(tiles.layer, axis=0)
    starts, ends = run.start_s + tiles.start_s, run.start_s + tiles.end_s
    inside = (counts > 0) & (ends > record.from_s) & (starts < (record.until_s or inf))
    return [
        Use("pods", float(a), float(b), float(count))
        for a, b, count in zip(starts[inside], ends[inside], counts[inside])
    ]


def turns_drawn(
    record: Record, names: Sequence[str], turns: Sequence[Turn], pods: Sequence[int]
) -> Timeline:
    """A track for each network, with a span for each inference, or turn of one."""
    kept = Timeline()
    for turn in turns:
        if turn.end_s <= record.from_s or turn.start_s >= (record.until_s or inf):
            continue
        for i, request in zip(turn.who, turn.request):
            if len(kept.spans) >= record.max_spans:
                kept.truncated += 1
                continue
            beside = [names[other] for other in turn.who if other != i]
            note = f"with {' and '.join(beside)}" if beside else f"on {pods[i]} pods"
            kept.spans.append(
                Span(
                    names[i],
                    f"inference {request}",
                    names[i],
                    turn.start_s,
                    turn.end_s,
                    bound="compute",
                    note=note,
                )
            )
    return kept
