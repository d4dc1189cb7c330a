"""Tenants of a pod as a person reads them: sections of the report, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.outcome import Outcome
from sim.facts.shared_pod import TenantRecord
from sim.kinds.tenants.facts import TENANTS, tenants
from sim.results.over_time import over_time_section
from sim.results.palette import escaped
from sim.results.parts_page import parts_table
from sim.results.table import Numbers
from sim.results.where import what_limits, where_time_goes

_SHOWN = (
    "slowdown",
    "slowdown_p99",
    "busy_share",
    "requests",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "e2e_p99_s",
    "output_tokens_per_s",
    "slo_attainment",
    "goodput_per_s",
)
_HOT = 3.0  # a slowdown from which on a cell is as dark as it gets


def tenants_section(outcomes: Mapping[str, Outcome]) -> str:
    """What each tenant got, and what each costs the others."""
    found = {variant: tenants(outcome) for variant, outcome in outcomes.items()}
    chips = {
        (variant, record.name): _chips(record, outcome.part.sharing)
        for variant, outcome in outcomes.items()
        for record in outcome.part.tenants
    }
    grid = parts_table(TENANTS, found, _SHOWN, "Tenant", words={"Chips": chips})
    heat = "".join(_matrix(variant, each) for variant, each in found.items() if len(each) > 1)
    return (
        '<h2>Tenants</h2><p class="soft">Slowdown: mean over a tenant\'s requests of the '
        f"end-to-end latency over the same with its chips to itself.</p>{grid}{heat}"
    )


def _chips(record: TenantRecord, sharing: str) -> str:
    """A tenant's chips, and what it is entitled to on those that it shares."""
    if sharing == "partitioned":
        return f"{record.chips} of its own"
    how = sharing.replace("_", " ").replace("co ", "co-")
    first = f", priority {record.priority}" if record.priority else ""
    return f"{record.chips} {how}, weight {record.weight:g}{first}"


def _matrix(variant: str, each: Mapping[str, Mapping[str, float]]) -> str:
    """Slowdown of the tenant of a row beside that of a column alone, the darker the more."""
    known = any(f"slowdown_beside_{other}" in mine for mine in each.values() for other in each)
    if not known:
        return ""
    head = "".join(f"<th class=num>{escaped(other)}</th>" for other in each)
    lines = ""
    for tenant, mine in each.items():
        cells = "".join(
            _cell(1.0 if other == tenant else mine.get(f"slowdown_beside_{other}"))
            for other in each
        )
        all_of_them = _cell(mine.get("slowdown")) if len(each) > 2 else ""
        lines += f"<tr><th>{escaped(tenant)}</th>{cells}{all_of_them}</tr>"
    last = "<th class=num>all</th>" if len(each) > 2 else ""
    return (
        f'<p class="soft">{escaped(variant)}: how much slower the tenant of a row is with only '
        "that of a column beside "
        f'it.</p><table class="heat"><tr><th></th>{head}{last}</tr>{lines}</table>'
    )


def _cell(slowdown: float | None) -> str:
    if slowdown is None:
        return "<td></td>"
    heat = min(max((slowdown - 1) / (_HOT - 1), 0.0), 1.0)
    return f'<td class=num style="background:rgba(213,94,0,{0.75 * heat:.2f})">{slowdown:.2f}x</td>'


def chips_sections(outcomes: Mapping[str, Outcome]) -> str:
    """Where the time of each tenant goes, what limits it, and what its replicas did over time."""
    each = {
        f"{variant} · {record.name}": record.outcome
        for variant, outcome in outcomes.items()
        for record in outcome.part.tenants
    }
    parts = where_time_goes(each), what_limits(each), over_time_section(each)
    return "\n".join(filter(None, parts))


def verdict(outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers) -> str:
    """How much slower each way of sharing makes each tenant."""
    said = []
    for variant, outcome in outcomes.items():
        slow = {
            name: mine["slowdown"] for name, mine in tenants(outcome).items() if "slowdown" in mine
        }
        if slow and max(slow.values()) < 1.005:
            said.append(f"{variant} slows nobody down")
        else:
            each = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slow.items())
            said.append(f"{variant} makes {each} as slow as with its chips to itself")
    return f"{'; '.join(said)}."
