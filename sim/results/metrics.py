"""Numbers of a run on chips, each a function of its Outcome.

A kind of work names the tables it shows, in their order; METRICS holds what any run may have, and
what installed packages add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.facts.outcome import Outcome
from sim.facts.totals import Totals
from sim.results.metric import Metric, measured, table_of

_ONE = "on one rank, mean over the pipeline stages and the replicas"
_SUM = "on one rank, mean over the pipeline stages, summed over the replicas"
_NOISE = 1e-12  # a difference of sums below this share of them is rounding


def wall_s(outcome: Outcome) -> float:
    """Wall time of a run, in seconds: the mean over its replicas."""
    return outcome.totals.seconds / outcome.replicas


def busy_s(totals: Totals, stream: str) -> float:
    """Seconds in which ops occupied `stream` of one rank."""
    return sum(totals.span_s.get(stream, {}).values())


def exposed_s(totals: Totals) -> float:
    """Seconds in which an iteration waited for collectives and joins, and nothing computed."""
    left_s = (
        totals.seconds
        - totals.idle_s
        - totals.engine_s
        - totals.bubble_s
        - busy_s(totals, "compute")
    )
    return 0.0 if abs(left_s) < _NOISE * totals.seconds else left_s


def _per_s(outcome: Outcome, count: float) -> float | None:
    return count / wall_s(outcome) if wall_s(outcome) > 0 else None


def chip_s(outcome: Outcome) -> float:
    """Seconds that chips were on, of all of them."""
    if outcome.chip_s is not None:
        return outcome.chip_s
    return wall_s(outcome) * outcome.ranks * outcome.replicas


def _each_chip(outcome: Outcome, of: float | None) -> float | None:
    """Output tokens a second of one chip, for each unit of what it has."""
    return outcome.tokens / chip_s(outcome) / of if of and chip_s(outcome) > 0 else None


def _each(outcome: Outcome, count: float) -> float | None:
    """A rate of one replica, where there are several."""
    rate = _per_s(outcome, count) if outcome.replicas > 1 else None
    return None if rate is None else rate / outcome.replicas


def _share(outcome: Outcome, seconds: float) -> float | None:
    whole_s = outcome.totals.seconds
    return seconds / whole_s if whole_s > 0 else None


def _used(outcome: Outcome, capacity: str, moved: float) -> float | None:
    """Bytes over a capacity, or FLOP of the matrix engine, against its rate."""
    rate = outcome.rates.get(capacity)
    return _share(outcome, moved / rate) if rate else None


def _unused(outcome: Outcome) -> float:
    unused, fetched = outcome.totals.unused_prefetch_bytes, outcome.totals.prefetched_bytes
    return 0.0 if abs(unused) < _NOISE * fetched else unused


WALL = table_of(
    [
        Metric(
            "makespan_s",
            "s",
            "lower",
            "wall time",
            "wall time of the whole run, from time zero (of requests, the first arrival) to the "
            "end of the last op; of collectives, of the last one that is not in the background",
            wall_s,
        )
    ]
)
RATES = table_of(
    [
        Metric(
            "output_tokens_per_s",
            "/s",
            "higher",
            "output tokens",
            "output tokens of all sequences / makespan_s",
            lambda o: _per_s(o, o.tokens),
        ),
        Metric(
            "output_tokens_per_s_per_replica",
            "/s",
            "higher",
            "output tokens per replica",
            "output tokens of all requests / makespan_s / replicas, where there are several",
            lambda o: _each(o, o.tokens),
        ),
        Metric(
            "output_tokens_per_s_per_chip",
            "/s",
            "higher",
            "output tokens per chip",
            "output tokens of all sequences / chip-seconds: ranks x the time each replica was on, "
            "all of makespan_s unless it scales with load",
            lambda o: o.tokens / chip_s(o) if wall_s(o) > 0 else None,
        ),
    ]
)
MADE = table_of(
    [
        Metric(
            name="die_mm2",
            unit="",
            better="lower",
            label="die, mm2",
            of="area of a chip's die, by the estimates of `pod.chip`",
            value=lambda o: o.paid.die_mm2,
        ),
        Metric(
            name="chip_dollars",
            unit="$",
            better="lower",
            label="chip, to make",
            of="a die that works, its memory and package, by the estimates of `pod.chip`; no price",
            value=lambda o: o.paid.dollars,
        ),
        Metric(
            name="output_tokens_per_s_per_mm2",
            unit="/s",
            better="higher",
            label="output tokens per mm2",
            of="output_tokens_per_s_per_chip / die_mm2",
            value=lambda o: _each_chip(o, o.paid.die_mm2),
        ),
        Metric(
            name="output_tokens_per_s_per_dollar",
            unit="/s",
            better="higher",
            label="output tokens per chip dollar",
            of="output_tokens_per_s_per_chip / chip_dollars",
            value=lambda o: _each_chip(o, o.paid.dollars),
        ),
        Metric(
            name="output_tokens_per_s_per_watt",
            unit="/s",
            better="higher",
            label="output tokens per W",
            of="output_tokens_per_s_per_chip / rated power of a chip",
            value=lambda o: _each_chip(o, o.paid.watts),
            shown=False,
        ),
    ]
)
CHIPS = table_of(
    [
        Metric(
            "compute_busy",
            "share",
            "",
            "compute busy",
            f"time ops occupied the compute stream / makespan_s, {_ONE}",
            lambda o: _share(o, busy_s(o.totals, "compute")),
        ),
        Metric(
            "communication_busy",
            "share",
            "",
            "communication busy",
            f"time ops occupied the communication stream / makespan_s, {_ONE}",
            lambda o: _share(o, busy_s(o.totals, "communication")),
            shown=False,
        ),
        Metric(
            "exposed_communication",
            "share",
            "",
            "exposed communication",
            "(makespan_s - idle, engine and bubble time - compute stream's busy time) / "
            "makespan_s: nothing computes, because a collective or a join is waited for; "
            f"{_ONE}",
            lambda o: _share(o, exposed_s(o.totals)),
        ),
        Metric(
            "idle",
            "share",
            "",
            "idle",
            "time in which no iteration was running / makespan_s, mean over the replicas",
            lambda o: _share(o, o.totals.idle_s),
            shown=False,
        ),
        Metric(
            "engine",
            "share",
            "",
            "engine",
            "time in which an iteration ran and none of its ops / makespan_s, mean over the "
            "replicas: `overhead`, drafting, swapping, a slow replica's delay, work lost in a "
            "failure",
            lambda o: _share(o, o.totals.engine_s) if o.totals.engine_s else None,
        ),
        Metric(
            "bubbles",
            "share",
            "",
            "bubbles",
            "time in which a pipeline stage had nothing to do while an iteration ran / "
            "makespan_s, mean over the stages and the replicas",
            lambda o: _share(o, o.totals.bubble_s) if o.totals.bubble_s else None,
        ),
        Metric(
            "prefetch_busy",
            "share",
            "",
            "prefetch busy",
            f"time ops occupied the prefetch stream, the first of several, / makespan_s, {_ONE}",
            lambda o: _share(o, busy_s(o.totals, "prefetch")),
        ),
        Metric(
            "hbm_utilisation",
            "share",
            "",
            "HBM utilisation",
            f"bytes over the HBM port / (HBM rate x makespan_s), {_ONE}",
            lambda o: _used(o, "HBM", o.totals.bytes.get("HBM", 0.0)),
        ),
        Metric(
            "l2_utilisation",
            "share",
            "",
            "L2 utilisation",
            f"bytes over the L2 port / (L2 rate x makespan_s), {_ONE}",
            lambda o: _used(o, "L2", o.totals.bytes.get("L2", 0.0)),
        ),
        Metric(
            "link_utilisation",
            "share",
            "",
            "link utilisation",
            "bytes over the rank's links / (rate of its outgoing links together x makespan_s), "
            f"{_ONE}",
            lambda o: _used(o, "link", o.totals.bytes.get("link", 0.0)),
        ),
        Metric(
            "mfu",
            "share",
            "higher",
            "MFU (matrix FLOP)",
            "FLOP on the matrix engine / (matrix peak x makespan_s), the peak being that of the "
            f"device's quickest number format; {_ONE}",
            lambda o: _used(o, "matrix", o.totals.matrix_flop),
        ),
        Metric(
            "hbm_bytes",
            "B",
            "",
            "read and written in HBM",
            f"bytes over the HBM port in the whole run, {_SUM}",
            lambda o: o.totals.bytes.get("HBM", 0.0),
        ),
        Metric(
            "prefetched_bytes",
            "B",
            "",
            "prefetched",
            f"bytes fetched into L2 ahead of use in the whole run, {_SUM}",
            lambda o: o.totals.prefetched_bytes,
        ),
        Metric(
            "unused_prefetch_bytes",
            "B",
            "lower",
            "prefetched in vain",
            f"prefetched bytes that were evicted or never read, {_SUM}",
            _unused,
        ),
        Metric(
            "ops",
            "count",
            "",
            "ops",
            f"ops played, on all streams, {_SUM}",
            lambda o: o.totals.ops,
            shown=False,
        ),
        Metric(
            "steps",
            "count",
            "",
            "steps",
            "forward passes in the run, prefill included, over all replicas",
            lambda o: o.totals.steps,
            shown=False,
        ),
    ]
)
SPEEDUP = Metric(
    "speedup",
    "x",
    "higher",
    "speed-up",
    "request run: baseline e2e_mean_s / this e2e_mean_s; any other: baseline makespan_s / this "
    "makespan_s; above 1 is faster; in the comparison only",
    lambda o: None,
)
METRICS: dict[str, Metric] = {}  # of installed packages; each is asked of every run


def _together(tables: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    return {name: row for table in tables for name, row in table.items()}


def rows_of(kind: Any) -> dict[str, Metric]:
    """The metrics that a run of this kind of work may have, in the order of the table."""
    return _together(table.found for table in kind.metrics) | METRICS


def metrics(outcome: Outcome, kind: Any) -> dict[str, float]:
    """Every metric that a run of this kind of work has a meaning for, by name; units are in the
    rows, shares are in [0, 1]."""
    return measured(rows_of(kind), outcome)


def part_rows_of(kind: Any) -> dict[str, Metric]:
    """The same of what a workload of this kind is made of."""
    return _together(table.found for table in kind.part_metrics)


def by_kind(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Outcome]]:
    """The outcomes of each kind of work."""
    kinds = dict.fromkeys(outcome.kind for outcome in outcomes.values())
    return {
        kind: {name: one for name, one in outcomes.items() if one.kind == kind} for kind in kinds
    }


def rows_of_all(kinds: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> dict[str, Metric]:
    """The metrics that the outcomes may have, by name."""
    return _together(rows_of(kinds[name]) for name in by_kind(outcomes))
