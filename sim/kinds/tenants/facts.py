"""Numbers of tenants that share a pod, and of the pod as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.shared_pod import SharedPod, TenantRecord
from sim.kinds.served.facts import CACHE, SERVED, rejected
from sim.results.metric import Metric, measured, table_of
from sim.results.metrics import CHIPS, RATES, WALL, wall_s
from sim.results.statistics import REQUESTS, fairness

# Of co-residents these are of no one program: their iterations overlap on the same chips.
_OF_ONE_PROGRAM = ("compute_busy", "communication_busy", "prefetch_busy", "exposed_communication")
_OF_THE_CHIPS = ("joules_per_token", "dollars_per_million_tokens")  # not a tenant's, if shared


class _Tenant(NamedTuple):
    """A tenant among the others."""

    record: TenantRecord
    pod: SharedPod

    @property
    def busy_s(self) -> float:
        return self.record.busy_s * self.record.outcome.ranks


def e2e_s(record: TenantRecord) -> np.ndarray:
    """End-to-end latency of each request; NaN of one turned away."""
    return record.outcome.requests.last_token_s - record.outcome.requests.arrival_s


def _ratios(shared_s: np.ndarray, alone_s: np.ndarray) -> np.ndarray:
    """Of the requests that were served in both."""
    ratios = shared_s / alone_s
    return ratios[np.isfinite(ratios)]


def _slowdown(tenant: _Tenant, of: Callable[[np.ndarray], float]) -> float | None:
    ratios = _ratios(e2e_s(tenant.record), tenant.record.alone_e2e_s)
    return float(of(ratios)) if len(ratios) else None


def _beside(tenant: _Tenant) -> Mapping[str, float]:
    record = tenant.record
    found = {
        other: _ratios(beside_s, record.alone_e2e_s)
        for other, beside_s in record.beside_e2e_s.items()
    }
    return {other: float(ratios.mean()) for other, ratios in found.items() if len(ratios)}


def _busy_share(tenant: _Tenant) -> float | None:
    whole_s = sum(_Tenant(record, tenant.pod).busy_s for record in tenant.pod.tenants)
    return tenant.busy_s / whole_s if whole_s > 0 else None


_OF_A_TENANT = table_of(
    [
        Metric(
            name="slowdown",
            unit="x",
            better="lower",
            label="slowdown",
            of="mean over the tenant's requests of end-to-end latency / the same with its chips to "
            "itself (no others' weights in HBM, and of co-residents the whole L2)",
            value=lambda tenant: _slowdown(tenant, np.mean),
        ),
        Metric(
            name="slowdown_p99",
            unit="x",
            better="lower",
            label="slowdown p99",
            of="99th percentile of that ratio over the tenant's requests",
            value=lambda tenant: _slowdown(tenant, lambda ratios: np.percentile(ratios, 99)),
        ),
        Metric(
            name="slowdown_beside_OTHER",
            unit="x",
            better="lower",
            label="slowdown beside OTHER",
            of="slowdown with only OTHER on the same chips: a cell of the interference matrix",
            value=_beside,
        ),
        Metric(
            name="busy_share",
            unit="share",
            better="",
            label="busy share",
            of="chip-time of the tenant's iterations / that of all tenants; of co-residents, whose "
            "iterations overlap, each counts in full",
            value=_busy_share,
        ),
        Metric(
            name="weight",
            unit="",
            better="",
            label="weight",
            of="the tenant's weight",
            value=lambda tenant: tenant.record.weight,
        ),
        Metric(
            name="priority",
            unit="",
            better="",
            label="priority",
            of="the tenant's priority",
            value=lambda tenant: tenant.record.priority,
        ),
    ]
)
_OF_ITS_REQUESTS = REQUESTS | SERVED | RATES | CACHE | WALL | CHIPS
TENANTS = _OF_A_TENANT | _OF_ITS_REQUESTS


def tenants(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each tenant, by name: those of its requests, and what the others cost it."""
    shared = outcome.part.sharing != "partitioned"
    found = {}
    for record in outcome.part.tenants:
        mine = measured(_OF_ITS_REQUESTS, record.outcome)
        if shared:
            mine = {name: value for name, value in mine.items() if name not in _OF_THE_CHIPS}
        found[record.name] = mine | measured(_OF_A_TENANT, _Tenant(record, outcome.part))
    return found


def _slowdowns(outcome: Outcome) -> dict[str, float]:
    each = {
        record.name: _slowdown(_Tenant(record, outcome.part), np.mean)
        for record in outcome.part.tenants
    }
    return {name: slow for name, slow in each.items() if slow is not None}


def _limited(outcome: Outcome) -> tuple[float, int]:
    """Requests that met their limits, and all of those that have one, of whichever tenant."""
    limited = [record.outcome for record in outcome.part.tenants if record.outcome.part.slo_s]
    attainment = SERVED["slo_attainment"].value
    return (
        sum(attainment(one) * len(one.requests) for one in limited),
        sum(len(one.requests) for one in limited),
    )


def _attainment(outcome: Outcome) -> float | None:
    good, asked = _limited(outcome)
    return good / asked if asked else None


def _goodput(outcome: Outcome) -> float | None:
    good, asked = _limited(outcome)
    return good / wall_s(outcome) if asked else None


def _spent(key: str, scale: float, outcome: Outcome) -> float | None:
    """Of all chips for the whole run: they are alike, so the first tenant's tell."""
    serving = outcome.part.tenants[0].outcome.part
    spent = getattr(serving, key)
    if not outcome.tokens or not spent:
        return None
    chip_s = wall_s(outcome) * outcome.ranks
    return spent / serving.chip_s * chip_s / outcome.tokens * scale


def _weighted(outcome: Outcome) -> float | None:
    slow = _slowdowns(outcome)
    weights = {record.name: record.weight for record in outcome.part.tenants}
    if outcome.part.sharing == "partitioned" or len(set(weights.values())) < 2:
        return None
    return fairness([slow[name] * weights[name] for name in slow])


POD = table_of(
    [
        SERVED["rejected"]._replace(value=rejected),
        SERVED["slo_attainment"]._replace(value=_attainment),
        SERVED["goodput_per_s"]._replace(value=_goodput),
        CACHE["joules_per_token"]._replace(value=lambda o: _spent("joules", 1.0, o)),
        CACHE["dollars_per_million_tokens"]._replace(value=lambda o: _spent("dollars", 1e6, o)),
        Metric(
            name="fairness",
            unit="index",
            better="higher",
            label="fairness",
            of="Jain's index (sum x)^2 / (n sum x^2) over the n tenants, of x = 1 / slowdown: 1 if "
            "all are slowed down alike, 1/n if all but one stand still",
            value=lambda o: fairness(_slowdowns(o).values()),
        ),
        Metric(
            name="weighted_fairness",
            unit="index",
            better="higher",
            label="weighted fairness",
            of="the same of x = 1 / (slowdown x weight): 1 if each goes on in proportion to its "
            "weight; where weights differ and chips are shared",
            value=_weighted,
        ),
        Metric(
            name="slowdown_max",
            unit="x",
            better="lower",
            label="slowdown max",
            of="the highest slowdown of a tenant",
            value=lambda o: max(_slowdowns(o).values(), default=None),
        ),
    ]
)


def _of_one_program(row: Metric) -> Metric:
    def value(outcome: Outcome) -> float | None:
        return None if outcome.part.sharing == "co_resident" else row.value(outcome)

    return row._replace(value=value) if row.name in _OF_ONE_PROGRAM else row


CHIPS_OF_ALL = table_of(map(_of_one_program, CHIPS.values()))


def owners(outcome: Outcome) -> dict[str, Outcome]:
    """What became of each tenant, by name."""
    return {record.name: record.outcome for record in outcome.part.tenants}
