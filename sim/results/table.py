"""The comparison as a table: the metrics that matter for this kind of run, one column a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.facts.outcome import Outcome
from sim.results.metrics import better, pretty

if TYPE_CHECKING:
    from rich.console import RenderableType

_STATIC = [
    "makespan_s",
    "prefill_s",
    "decode_s",
    "tpot_mean_s",
    "output_tokens_per_s",
    "output_tokens_per_s_per_chip",
]
_REQUESTS = [
    "requests",
    "rejected",
    "preemptions",
    "retries",
    "most_replicas_on",
    "slo_attainment",
    "goodput_per_s",
    *(
        f"{latency}_{s}_s"
        for latency in ("ttft", "tpot", "e2e")
        for s in ("mean", "p50", "p90", "p99")
    ),
    "itl_p99_s",
    "queue_p99_s",
    "requests_per_s",
    "requests_per_s_per_replica",
    "output_tokens_per_s",
    "output_tokens_per_s_per_replica",
    "output_tokens_per_s_per_chip",
    "kv_occupancy",
    "kv_peak",
    "prefix_hit_rate",
    "prefix_block_hit_rate",
    "expanded_prefix_share",
    "acceptance_rate",
    "joules_per_token",
    "dollars_per_million_tokens",
]
_BOTH = [
    "fairness",
    "weighted_fairness",
    "slowdown_max",
    "compute_busy",
    "exposed_communication",
    "engine",
    "bubbles",
    "prefetch_busy",
    "hbm_utilisation",
    "l2_utilisation",
    "link_utilisation",
    "mfu",
    "hbm_bytes",
    "prefetched_bytes",
    "unused_prefetch_bytes",
]
_LINKS = [
    "makespan_s",
    "busiest_link_utilisation",
    "mean_link_utilisation",
    "links_used",
    "link_bytes",
    "most_flows_on_a_link",
]
_ARRAY = [
    "makespan_s",
    "effective_ops_per_s_at_power",
    "effective_ops_per_s",
    "peak_ops_per_s",
    "peak_power_w",
    "ops_per_joule",
    "sharing_gain",
    "requests",
    "requests_per_s",
    *(f"e2e_{s}_s" for s in ("mean", "p50", "p90", "p99")),
    "queue_p99_s",
    "fairness",
    "slowdown_max",
    "array_utilisation",
    "busy_pods",
    "memory_stalls",
    "array_idle",
    "rounds",
    "tile_ops",
    "dram_bytes",
]
_GRID = [
    "best_ops_per_joule",
    "best_rows",
    "best_cols",
    "best_pods",
    "ops_per_joule",
    "share_of_best",
]
LABELS = {
    "effective_ops_per_s": "throughput",
    "effective_ops_per_s_at_power": "throughput at equal power",
    "peak_ops_per_s": "peak throughput",
    "peak_power_w": "peak power",
    "ops_per_joule": "throughput per watt",
    "sharing_gain": "gain by sharing",
    "busy_pods": "pods with a tile",
    "memory_stalls": "waiting for memory",
    "tile_ops": "tile operations",
    "dram_bytes": "from memory",
    "array_idle": "array idle",
    "best_ops_per_joule": "best throughput per watt",
    "share_of_best": "of the best",
    "inference_s": "time",
    "alone_s": "alone",
    "makespan_s": "wall time",
    "prefill_s": "prefill",
    "decode_s": "decode",
    "output_tokens_per_s": "output tokens",
    "output_tokens_per_s_per_chip": "output tokens per chip",
    "output_tokens_per_s_per_replica": "output tokens per replica",
    "requests_per_s": "throughput in requests",
    "requests_per_s_per_replica": "requests per replica",
    "slo_attainment": "met the SLO",
    "goodput_per_s": "goodput in requests",
    "kv_occupancy": "KV-cache in use, mean",
    "kv_peak": "KV-cache in use, peak",
    "prefix_hit_rate": "prefix hits, of tokens",
    "prefix_block_hit_rate": "prefix hits, of blocks",
    "expanded_prefix_share": "decode attention on expanded prefixes",
    "acceptance_rate": "drafts accepted",
    "joules_per_token": "energy per output token",
    "dollars_per_million_tokens": "cost per million tokens",
    "compute_busy": "compute busy",
    "prefetch_busy": "prefetch busy",
    "hbm_utilisation": "HBM utilisation",
    "l2_utilisation": "L2 utilisation",
    "mfu": "MFU (matrix FLOP)",
    "hbm_bytes": "read and written in HBM",
    "prefetched_bytes": "prefetched",
    "unused_prefetch_bytes": "prefetched in vain",
    "speedup": "speed-up",
    "busiest_link_utilisation": "busiest link in use",
    "mean_link_utilisation": "links in use, on the whole",
    "links_used": "links used",
    "link_bytes": "carried, over all links",
    "most_flows_on_a_link": "most messages on a link",
}
_SHORT = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "end to end",
    "queue": "queueing",
    "itl": "inter-token",
}


def label(name: str) -> str:
    """A metric's name in words.

    >>> label("ttft_p99_s"), label("hbm_utilisation"), label("exposed_communication")
    ('TTFT p99', 'HBM utilisation', 'exposed communication')
    """
    if name in LABELS:
        return LABELS[name]
    head, _, rest = name.removesuffix("_s").partition("_")
    return f"{_SHORT[head]} {rest}" if head in _SHORT else name.replace("_", " ")


def rows(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The metrics worth a row: those of this kind of run that some variant has and that are not
    zero everywhere."""
    base = metrics[next(iter(metrics))]
    if "ops_per_joule" in base:
        wanted = _GRID if "best_rows" in base else _ARRAY
    else:
        wanted = (
            _REQUESTS if "requests" in base else _STATIC if "steps" in base else _LINKS
        ) + _BOTH
    return [name for name in wanted if any(mine.get(name) for mine in metrics.values())]


def best(name: str, metrics: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The variants that are best in this metric; none where all are equal or where better has no
    meaning."""
    values = {variant: mine[name] for variant, mine in metrics.items() if name in mine}
    if len(values) < 2 or len(set(values.values())) == 1 or not better(name):
        return set()
    top = (min if better(name) == "lower" else max)(values.values())
    return {variant for variant, value in values.items() if value == top}


def ratio_text(ratio: float | None) -> str:
    """A ratio to the baseline, short: "x0.79"."""
    return "" if ratio is None else f"x{ratio:.2f}" if 0.01 <= ratio < 100 else f"x{ratio:.2g}"


def table(
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
    verdict: str,
    expect: Sequence[Mapping[str, Any]],
) -> RenderableType:
    """A rich renderable: rows of metrics with the ratio to the baseline, the best in green, then
    verdict and claims."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    grid.add_column("")
    base, *others = metrics
    grid.add_column(Text(base), justify="right")
    for name in others:
        grid.add_column(Text(name), justify="right")
        grid.add_column("", justify="left", style="dim")
    if others:
        cells: list[Text] = [Text("speed-up", style="bold"), Text("1.00x")]
        speeds = {name: comparison[name].get("speedup") for name in others}
        top = max((s for s in speeds.values() if s), default=1.0)
        for name in others:
            speed = speeds[name]
            style = "bold green" if speed and speed == top and speed > 1 else "bold"
            cells += [
                Text("" if speed is None else pretty("speedup", speed), style=style),
                Text(""),
            ]
        grid.add_row(*cells)
    for name in rows(metrics):
        winners = best(name, metrics)
        cells = [Text(label(name))]
        for variant, mine in metrics.items():
            style = "green" if variant in winners else ""
            cells.append(Text(pretty(name, mine[name]) if name in mine else "", style=style))
            if variant != base:
                cells.append(Text(ratio_text(comparison[variant].get(name))))
        grid.add_row(*cells)
    from sim.results.arrays_page import (
        networks_lines,  # here, because these put labels on metrics too
    )
    from sim.results.tenants_page import tenants_lines

    return Group(
        grid, *tenants_lines(outcomes), *networks_lines(outcomes), *closing(verdict, expect)
    )


def closing(verdict: str, expect: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The lines under the table: the answer, and whether each claim holds."""
    from rich.text import Text

    lines: list[RenderableType] = [Text(verdict, style="bold")]
    for row in expect:
        mark = Text("ok      ", style="green") if row["ok"] else Text("FAILED  ", style="bold red")
        lines.append(mark + Text(f"{row['text']}  (found {row['value']:.6g})"))
    return lines
