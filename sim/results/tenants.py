"""Numbers of tenants that share a pod; definitions stand in `OF_TENANTS`, of the whole pod in
`DEFINITIONS`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.facts.outcome import Outcome, TenantRecord
from sim.facts.requests import Requests
from sim.results.arrays import grid_metrics, network_metrics
from sim.results.metrics import metrics
from sim.results.statistics import jain

OF_TENANTS: dict[str, str] = {
    "slowdown": "mean over the tenant's requests of end-to-end latency / the same with its "
    "chips to itself (no others' "
    "weights in HBM, and of co-residents the whole L2)",
    "slowdown_p99": "99th percentile of that ratio over the tenant's requests",
    "busy_share": "chip-time of the tenant's iterations / that of all tenants; of "
    "co-residents, whose iterations "
    "overlap, each counts in full",
    "slowdown_beside_OTHER": "slowdown with only OTHER on the same chips: a cell of the "
    "interference matrix",
    "weight": "the tenant's weight",
    "priority": "the tenant's priority",
}
_OF_THE_CHIPS = (
    "joules_per_token",
    "dollars_per_million_tokens",
)  # which are not the tenant's alone if shared
_OF_ONE_PROGRAM = ("compute_busy", "communication_busy", "prefetch_busy", "exposed_communication")


def tenants(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each tenant, by name: those of its requests, and what the others cost it.

    Networks on an array are its tenants, also where each is by itself; families of networks
    likewise.
    """
    if outcome.array:
        return network_metrics(outcome, outcome.array)
    if outcome.grid:
        return {family: grid_metrics(outcome.grid, family) for family in outcome.grid.families}
    apart = outcome.sharing == "partitioned"
    busy_s = {record.name: record.busy_s * record.outcome.ranks for record in outcome.tenants}
    found = {}
    for record in outcome.tenants:
        mine = metrics(record.outcome)
        if not apart:
            mine = {name: value for name, value in mine.items() if name not in _OF_THE_CHIPS}
        mine |= {"weight": record.weight, "priority": float(record.priority)}
        if sum(busy_s.values()) > 0:
            mine["busy_share"] = busy_s[record.name] / sum(busy_s.values())
        ratios = _ratios(e2e_s(record), record.alone_e2e_s)
        if len(ratios):
            mine["slowdown"] = float(ratios.mean())
            mine["slowdown_p99"] = float(np.percentile(ratios, 99))
        for other, beside_s in record.beside_e2e_s.items():
            if len(ratios := _ratios(beside_s, record.alone_e2e_s)):
                mine[f"slowdown_beside_{other}"] = float(ratios.mean())
        found[record.name] = mine
    return found


def shared_metrics(outcome: Outcome) -> dict[str, float]:
    """The numbers of a pod that tenants share, all requests taken together."""
    found, each = metrics(outcome), tenants(outcome)
    if outcome.sharing == "co_resident":
        found = {name: value for name, value in found.items() if name not in _OF_ONE_PROGRAM}
    limited = [
        record
        for record in outcome.tenants
        if record.outcome.serving and record.outcome.serving.slo_s
    ]
    good = sum(each[r.name]["slo_attainment"] * len(r.outcome.requests) for r in limited)
    if asked := sum(len(record.outcome.requests) for record in limited):
        found["slo_attainment"] = good / asked
        found["goodput_per_s"] = good / found["makespan_s"]
    serving = outcome.tenants[0].outcome.serving  # all chips are alike
    chip_s = found["makespan_s"] * outcome.ranks
    if serving and outcome.tokens and serving.joules:
        found["joules_per_token"] = serving.joules / serving.chip_s * chip_s / outcome.tokens
    if serving and outcome.tokens and serving.dollars:
        found["dollars_per_million_tokens"] = (
            serving.dollars / serving.chip_s * chip_s / outcome.tokens * 1e6
        )
    slowdowns = {name: mine["slowdown"] for name, mine in each.items() if "slowdown" in mine}
    if slowdowns:
        found["slowdown_max"] = max(slowdowns.values())
        found["fairness"] = jain(1 / slowdown for slowdown in slowdowns.values())
        if (
            outcome.sharing != "partitioned"
            and len({record.weight for record in outcome.tenants}) > 1
        ):
            weights = {record.name: record.weight for record in outcome.tenants}
            found["weighted_fairness"] = jain(
                1 / (slowdowns[name] * weights[name]) for name in slowdowns
            )
    return found


def e2e_s(record: TenantRecord) -> np.ndarray:
    """End-to-end latency of each request; NaN of one turned away."""
    return record.outcome.requests.last_token_s - record.outcome.requests.arrival_s


def by_tenant(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """The outcomes, with those of a shared pod taken apart: "variant · tenant"."""
    found: dict[str, Outcome] = {}
    for variant, outcome in outcomes.items():
        found |= {f"{variant} · {record.name}": record.outcome for record in outcome.tenants} or {
            variant: outcome
        }
    return found


def requests_by_tenant(outcome: Outcome) -> dict[str, Requests]:
    """The requests of each tenant; those of a pod that nobody shares under ""."""
    if outcome.array:
        return {each.name: each.requests for each in outcome.array.networks if each.requests}
    return {record.name: record.outcome.requests for record in outcome.tenants} or {
        "": outcome.requests
    }


def _ratios(shared_s: np.ndarray, alone_s: np.ndarray) -> np.ndarray:
    """Of the requests that were served in both."""
    ratios = shared_s / alone_s
    return ratios[np.isfinite(ratios)]
