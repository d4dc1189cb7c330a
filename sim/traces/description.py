"""What a trace is like, found in one pass: rates, gaps, lengths, prefixes, sessions, tenants.

Quantiles are exact: lengths are counted one by one. A quantile q of n values is the one at place
q(n - 1) of their order, between two of them on the line between, as numpy has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.traces.columns import Array, Columns
from sim.traces.stream import TraceStream

MOST_BINS = 240  # of the rate over time
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, eq=False)
class Lengths:
    """Of prompts or outputs, in tokens; `counts[n]` is how many have n."""

    mean: float
    p50: float
    p90: float
    p99: float
    longest: int
    counts: Array


@dataclass(frozen=True, eq=False)
class Description:
    """A trace in numbers; None where the trace does not tell."""

    name: str
    format: str
    requests: int
    span_s: float  # from the first arrival to the last
    rate_per_s: float  # gaps over span; NaN if all arrive at once
    gap_cv: float  # standard deviation of the gaps between arrivals over their mean
    prompt: Lengths
    output: Lengths
    bin_s: float
    bins: Array  # requests in each bin_s from the first arrival on
    prefix_share: (
        float | None
    )  # prompt tokens in blocks that came before, over all prompt tokens: a cache without end
    blocks: int | None  # different ones
    block_tokens: int
    sessions: int | None
    turns: float | None  # mean of a session
    think_p50_s: float | None  # NaN: no session has a second turn
    tenants: dict[str, int]  # requests of each
    warnings: tuple[str, ...]


def described(stream: TraceStream) -> Description:
    """One pass over a stream.

    Memory: the longest length, 5 bytes a prefix block, 8 bytes a session and a turn.
    """
    prompts, outputs = _Counter(), _Counter()
    gaps, rate, prefix = _Moments(), _Bins(), _Prefixes(stream.block_tokens)
    tenants, sessions = _Counter(), _Counter()
    thinks: list[Array] = []
    last: float | None = None
    facts: Columns | None = None
    for facts in stream.chunks():
        arrival_s = facts.arrival_s
        gaps.add(np.diff(arrival_s, prepend=arrival_s[0] if last is None else last)[last is None :])
        last = float(arrival_s[-1])
        prompts.add(facts.prompt_tokens)
        outputs.add(facts.output_tokens)
        rate.add(arrival_s)
        prefix.add(facts)
        if facts.tenant is not None:
            tenants.add(facts.tenant)
        if facts.session is not None:
            sessions.add(facts.session[facts.session >= 0])
        if facts.think_s is not None:
            thinks.append(facts.think_s[~np.isnan(facts.think_s)])
    if facts is None or last is None:
        raise ValueError(f"{stream.name}: there is no request to describe")
    count = int(prompts.counts.sum())
    turns = sessions.counts[sessions.counts > 0]
    told = np.concatenate(thinks) if thinks else np.zeros(0)
    return Description(
        name=stream.name,
        format=stream.format,
        requests=count,
        span_s=last,
        rate_per_s=(count - 1) / last if last > 0 else math.nan,
        gap_cv=gaps.cv(),
        prompt=prompts.lengths(),
        output=outputs.lengths(),
        bin_s=rate.bin_s,
        bins=rate.counts[: int(last // rate.bin_s) + 1],
        prefix_share=None if facts.blocks is None else prefix.tokens / prompts.total(),
        blocks=None if facts.blocks is None else int(prefix.seen.sum()),
        block_tokens=stream.block_tokens,
        sessions=None if facts.session is None else len(turns),
        turns=None if facts.session is None else float(turns.mean()) if len(turns) else math.nan,
        think_p50_s=None
        if facts.think_s is None
        else float(np.median(told))
        if len(told)
        else math.nan,
        tenants={stream.tenants[at]: int(n) for at, n in enumerate(tenants.counts) if n},
        warnings=tuple(stream.warnings),
    )


def figures(found: Description) -> dict[str, str]:
    """The numbers as text, in the order in which one reads them."""
    shown = {
        "format": found.format,
        "requests": f"{found.requests:,}",
        "span": _time(found.span_s),
        "rate": "all at once" if math.isnan(found.rate_per_s) else f"{found.rate_per_s:.4g}/s",
        "CV of gaps": "-" if math.isnan(found.gap_cv) else f"{found.gap_cv:.3g}",
    }
    for name, each in (("prompt", found.prompt), ("output", found.output)):
        shown[f"{name} tokens"] = (
            f"mean {each.mean:,.0f}, p50 {each.p50:,.0f}, p90 {each.p90:,.0f}, "
            f"p99 {each.p99:,.0f}, longest {each.longest:,}"
        )
    if found.prefix_share is not None:
        shown["prefix share"] = (
            f"{100 * found.prefix_share:.1f} % of prompt tokens came before; "
            f"{found.blocks:,} blocks of {found.block_tokens} tokens"
        )
    if found.sessions is not None:
        turns = (
            ""
            if found.turns is None or math.isnan(found.turns)
            else f", {found.turns:.3g} turns each"
        )
        think = found.think_p50_s
        shown["sessions"] = f"{found.sessions:,}{turns}" + (
            "" if think is None or math.isnan(think) else f", think time p50 {_time(think)}"
        )
    if found.tenants:
        most = sorted(found.tenants.items(), key=lambda each: -each[1])
        listed = ", ".join(f"{name or '(none)'} {count:,}" for name, count in most[:5])
        shown["tenants"] = f"{len(most):,}: {listed}" + (" ..." if len(most) > 5 else "")
    return shown


def _time(seconds: float) -> str:
    units = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
    size, unit = next((each for each in units if seconds >= 2 * each[0]), (1.0, "s"))
    return f"{seconds / size:.3g} {unit}"


class _Counter:
    """How often each whole number occurs."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)

    def add(self, values: Array) -> None:
        new = np.bincount(values, minlength=len(self.counts))
        new[: len(self.counts)] += self.counts
        self.counts = new

    def total(self) -> int:
        return int((self.counts * np.arange(len(self.counts))).sum())

    def lengths(self) -> Lengths:
        upto = np.cumsum(self.counts)
        count = int(upto[-1])

        def quantile(share: float) -> float:
            place = share * (count - 1)
            low, high = np.searchsorted(
                upto, math.floor(place) + np.arange(2), side="right"
            ).tolist()
            return float(low + (place % 1) * (high - low))

        p50, p90, p99 = map(quantile, SHARES)
        return Lengths(self.total() / count, p50, p90, p99, len(self.counts) - 1, self.counts)


class _Moments:
    """Mean and variance of what comes in parts."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, 0.0, 0.0

    def add(self, values: Array) -> None:
        if not len(values):
            return
        mean, count = float(values.mean()), self.count + len(values)
        shift = mean - self.mean
        self.square += (
            float(((values - mean) ** 2).sum()) + shift**2 * self.count * len(values) / count
        )
        self.mean += shift * len(values) / count
        self.count = count

    def cv(self) -> float:
        return (
            math.sqrt(self.square / self.count) / self.mean
            if self.count and self.mean > 0
            else math.nan
        )


class _Bins:
    """Arrivals counted in bins that double in width whenever they would be too many."""

    def __init__(self) -> None:
        self.bin_s = 1.0
        self.counts = np.zeros(MOST_BINS, np.int64)

    def add(self, arrival_s: Array) -> None:
        while arrival_s[-1] >= self.bin_s * MOST_BINS:
            self.counts = np.concatenate(
                (self.counts[::2] + self.counts[1::2], np.zeros(MOST_BINS // 2, np.int64))
            )
            self.bin_s *= 2
        self.counts += np.bincount((arrival_s / self.bin_s).astype(np.int64), minlength=MOST_BINS)


class _Prefixes:
    """Prompt tokens in blocks that an earlier request had, too."""

    def __init__(self, block_tokens: int):
        self.block_tokens, self.tokens, self.seen = block_tokens, 0, np.zeros(1024, bool)

    def add(self, chunk: Columns) -> None:
        blocks, block_from = chunk.blocks, chunk.block_from
        if blocks is None or block_from is None or not len(blocks):
            return
        if blocks.max() >= len(self.seen):
            more = max(int(blocks.max()) + 1, 2 * len(self.seen)) - len(self.seen)
            self.seen = np.concatenate((self.seen, np.zeros(more, bool)))
        distinct, first, which = np.unique(blocks, return_index=True, return_inverse=True)
        owner = np.repeat(np.arange(len(chunk)), np.diff(block_from))
        hit = self.seen[blocks] | (owner[first[which]] < owner)  # in an earlier request
        self.seen[distinct] = True
        hits = np.diff(np.concatenate(([0], np.cumsum(hit)))[block_from])
        self.tokens += int(np.minimum(hits * self.block_tokens, chunk.prompt_tokens).sum())
