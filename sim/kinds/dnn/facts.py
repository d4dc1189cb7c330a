"""Numbers of arrays of pods, and of the networks on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sim.facts.array import ArrayRecord, ArrayRun, NetworkRecord
from sim.facts.outcome import Outcome
from sim.results.metric import Metric, measured, table_of
from sim.results.statistics import REQUESTS, fairness


class _OnArray(NamedTuple):
    """A network among the others on an array; `run` is the whole."""

    network: NetworkRecord
    run: Outcome

    @property
    def array(self) -> ArrayRecord:
        return self.run.part

    @property
    def ops_per_s(self) -> float:
        network = self.network
        if network.requests is None:
            return network.ops / network.seconds
        return network.ops * len(network.requests) / self.run.totals.seconds

    @property
    def slowdowns(self) -> np.ndarray:
        """Of one inference, or of each that was asked for."""
        network = self.network
        if network.requests is None:
            return np.array([network.seconds / network.alone_s])
        return (network.requests.last_token_s - network.requests.arrival_s) / network.alone_e2e_s


def _ops_per_s(outcome: Outcome) -> float:
    array = outcome.part
    if array.sharing == "alone":
        return len(array.networks) / sum(each.seconds / each.ops for each in array.networks)
    return _played(outcome, lambda run: run.ops) / outcome.totals.seconds


def _played(outcome: Outcome, of: Callable[[ArrayRun], float]) -> float:
    """What adds up over all schedules that were played, as often as each was."""
    return sum(of(run) * run.times for run in outcome.part.runs)


def _traced(outcome: Outcome) -> bool:
    return len(outcome.requests) > 0


def _sharing_gain(outcome: Outcome) -> float | None:
    if _traced(outcome) or outcome.part.sharing == "alone":
        return None
    return sum(each.alone_s for each in outcome.part.networks) / outcome.totals.seconds


def _slowdowns(outcome: Outcome) -> list[float]:
    """Mean slowdown of each network; none where each is alone."""
    if outcome.part.sharing == "alone":
        return []
    return [_OnArray(each, outcome).slowdowns.mean() for each in outcome.part.networks]


def _scaled(ops_per_s: float, array: ArrayRecord) -> float:
    return ops_per_s * array.power_w / array.peak_power_w


THROUGHPUT = Metric(
    name="effective_ops_per_s",
    unit="op/s",
    better="higher",
    label="throughput",
    of="operations asked for, two a MAC, / time: of networks each by itself the harmonic mean over "
    "them, as if each had as much to do; of tenants all operations / makespan_s",
    value=_ops_per_s,
)
AT_POWER = Metric(
    name="effective_ops_per_s_at_power",
    unit="op/s",
    better="higher",
    label="throughput at equal power",
    of="effective_ops_per_s x `power` / peak_power_w: scaled linearly, as in SOSA, which more pods "
    "do not follow; of little use where the array takes far less power than that",
    value=lambda o: _scaled(_ops_per_s(o), o.part),
)
_UTILISATION = Metric(
    name="array_utilisation",
    unit="share",
    better="higher",
    label="array utilisation",
    of="effective_ops_per_s / peak_ops_per_s",
    value=lambda o: _ops_per_s(o) / o.part.peak_ops_per_s,
)
INFERENCES = {
    name: row for name, row in REQUESTS.items() if not name.startswith(("ttft_", "tpot_"))
}
ARRAY = table_of(
    [
        AT_POWER,
        THROUGHPUT,
        Metric(
            name="peak_ops_per_s",
            unit="op/s",
            better="higher",
            label="peak throughput",
            of="two a MAC, all cells of all pods in every cycle",
            value=lambda o: o.part.peak_ops_per_s,
        ),
        Metric(
            name="peak_power_w",
            unit="W",
            better="",
            label="peak power",
            of="all cells and ports busy; without memory, leakage and post-processors",
            value=lambda o: o.part.peak_power_w,
        ),
        Metric(
            name="ops_per_joule",
            unit="op/J",
            better="higher",
            label="throughput per watt",
            of="effective_ops_per_s / peak_power_w",
            value=lambda o: _ops_per_s(o) / o.part.peak_power_w,
        ),
        Metric(
            name="sharing_gain",
            unit="x",
            better="higher",
            label="gain by sharing",
            of="sum of the times of the networks, each with the whole array to itself / "
            "makespan_s; not of traces",
            value=_sharing_gain,
        ),
        *INFERENCES.values(),
        Metric(
            name="fairness",
            unit="index",
            better="higher",
            label="fairness",
            of="Jain's index (sum x)^2 / (n sum x^2) over the n networks, of x = 1 / slowdown: 1 "
            "if all are slowed down alike, 1/n if all but one stand still",
            value=lambda o: fairness(_slowdowns(o)),
        ),
        Metric(
            name="slowdown_max",
            unit="x",
            better="lower",
            label="slowdown max",
            of="the highest slowdown of a network",
            value=lambda o: max(_slowdowns(o), default=None),
        ),
        _UTILISATION,
        Metric(
            name="busy_pods",
            unit="share",
            better="higher",
            label="pods with a tile",
            of="pods with a tile / pods, mean over rounds",
            value=lambda o: (
                _played(o, lambda run: run.tile_ops) / _played(o, lambda run: run.rounds * run.pods)
            ),
        ),
        Metric(
            name="memory_stalls",
            unit="share",
            better="lower",
            label="waiting for memory",
            of="time in which all pods wait for memory / time that the schedules take",
            value=lambda o: (
                _played(o, lambda run: run.parts_s["memory"] * run.pods)
                / _played(o, lambda run: run.seconds * run.pods)
            ),
        ),
        Metric(
            name="array_idle",
            unit="share",
            better="",
            label="array idle",
            of="time in which no pod has a schedule / makespan_s, where inferences are asked for "
            "by traces",
            value=lambda o: o.totals.idle_s / o.totals.seconds if _traced(o) else None,
        ),
        Metric(
            name="rounds",
            unit="count",
            better="",
            label="rounds",
            of="rounds of all schedules that were played",
            value=lambda o: _played(o, lambda run: run.rounds),
        ),
        Metric(
            name="tile_ops",
            unit="count",
            better="",
            label="tile operations",
            of="tile products of all schedules that were played",
            value=lambda o: _played(o, lambda run: run.tile_ops),
        ),
        Metric(
            name="dram_bytes",
            unit="B",
            better="",
            label="from memory",
            of="bytes from memory in all schedules that were played: weights, the networks' "
            "inputs, partial sums",
            value=lambda o: _played(o, lambda run: run.dram_bytes),
        ),
    ]
)
_OF_A_NETWORK = table_of(
    [
        Metric(
            name="inference_s",
            unit="s",
            better="lower",
            label="time",
            of="time of an inference; of tenants from the start of the first schedule to its own "
            "end, with traces from the start of its own schedule, mean over its inferences",
            value=lambda part: part.network.seconds,
        ),
        Metric(
            name="alone_s",
            unit="s",
            better="lower",
            label="alone",
            of="time of an inference with the whole array to itself",
            value=lambda part: part.network.alone_s,
        ),
        Metric(
            name="slowdown",
            unit="x",
            better="lower",
            label="slowdown",
            of="inference_s / alone_s; of those with traces the mean over inferences of end-to-end "
            "latency / the same with the whole array to itself",
            value=lambda part: None if part.array.sharing == "alone" else part.slowdowns.mean(),
        ),
        Metric(
            name="slowdown_p99",
            unit="x",
            better="lower",
            label="slowdown p99",
            of="99th percentile of that ratio over its inferences",
            value=lambda part: (
                None if part.network.requests is None else np.percentile(part.slowdowns, 99)
            ),
        ),
        THROUGHPUT._replace(
            of="operations of its inferences / inference_s; of those with traces / makespan_s",
            value=lambda part: part.ops_per_s,
        ),
        AT_POWER._replace(value=lambda part: _scaled(part.ops_per_s, part.array)),
        _UTILISATION._replace(
            of="effective_ops_per_s / peak_ops_per_s of the whole array",
            value=lambda part: part.ops_per_s / part.array.peak_ops_per_s,
        ),
        Metric(
            name="pods",
            unit="count",
            better="",
            label="pods",
            of="pods that it may use",
            value=lambda part: part.network.pods,
        ),
        Metric(
            name="ops",
            unit="count",
            better="",
            label="ops",
            of="operations of an inference, two a MAC",
            value=lambda part: part.network.ops,
        ),
    ]
)
NETWORKS = _OF_A_NETWORK | INFERENCES


def wall_parts(outcome: Outcome) -> dict[tuple[str, str], float]:
    """The wall time by what the array did in the schedules that it is the length of: one after the
    other, or the one that ends last."""
    record, wall_s = outcome.part, outcome.totals.seconds
    runs = record.runs
    if record.sharing in ("alone", "partitioned"):
        runs = [max(runs, key=lambda run: run.start_s + run.seconds)]
    parts: dict[tuple[str, str], float] = {}
    for run in runs:
        for what, seconds in run.parts_s.items():
            parts[what, ""] = parts.get((what, ""), 0.0) + seconds * run.times
    return parts | {("waiting for work", ""): wall_s - sum(parts.values())}


def networks(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each network, by name."""
    inferences = {name: measured(INFERENCES, one) for name, one in owners(outcome).items()}
    return {
        each.name: measured(_OF_A_NETWORK, _OnArray(each, outcome)) | inferences.get(each.name, {})
        for each in outcome.part.networks
    }


def owners(outcome: Outcome) -> dict[str, Outcome]:
    """The inferences of each network that has a trace, by name."""
    return {
        each.name: replace(outcome, requests=each.requests)
        for each in outcome.part.networks
        if each.requests is not None
    }
