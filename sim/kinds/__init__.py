"""Kinds of work: each a folder here and a row in `KINDS`.

A folder has the kind's section of the schema (`spec`), how it is made ready and played (`plan`),
its metrics (`facts`) and what it says on the terminal and in the report (`words`). Nothing outside
this package asks which kind it has: `sim.run` hands the table down.
"""

from __future__ import annotations

from sim.kinds.kind import Kind, Named

__all__ = ["KINDS", "Kind", "Named"]

_POD = (
    "topology",
    "device",
    "library",
    "change",
    "kernels",
    "prefetch_engine",
    "stragglers",
    "collective",
    "faults",
)
_CHIPS = tuple(f"pod.{key}" for key in _POD)
_MODEL = (*_CHIPS, "model", "precision", "parallel", "techniques")
_TIMELINE = ("timeline", "timeline.html", None)
_SERVED_METRICS = (
    Named("sim.results.statistics:REQUESTS"),
    Named("sim.kinds.served.facts:SERVED"),
    Named("sim.results.metrics:RATES"),
    Named("sim.kinds.served.facts:CACHE"),
    Named("sim.kinds.served.facts:LIMITS"),
)
_LATENCY = {"e2e_mean_s": Named("sim.results.difference:of_requests")}
_CHIP_METRICS = Named("sim.results.metrics:CHIPS")

KINDS: dict[str, Kind] = {
    "decode": Kind(
        name="decode",
        summary="a static batch: one prefill, then every decode step",
        spec=Named("sim.kinds.static.spec:Decode"),
        reads=(*_MODEL, "pod.chip", "record.max_spans", "record.enabled"),
        needs=("model", "pod.topology"),
        prepare=Named("sim.kinds.static.plan:prepare"),
        play=Named("sim.kinds.static.plan:play"),
        metrics=(
            Named("sim.results.metrics:WALL"),
            Named("sim.kinds.static.facts:PHASES"),
            Named("sim.results.metrics:RATES"),
            Named("sim.kinds.static.facts:COSTS"),
            _CHIP_METRICS,
        ),
        verdict=Named("sim.results.verdict:verdict"),
        sections=(
            Named("sim.results.where:where_time_goes"),
            Named("sim.results.where:what_limits"),
            Named("sim.results.pareto:pareto_section"),
        ),
        pages=(_TIMELINE,),
    ),
    "requests": Kind(
        name="requests",
        summary="a trace of requests, replayed through the scheduler of a serving engine",
        spec=Named("sim.kinds.served.spec:ServedTrace"),
        reads=(*_MODEL, "record"),
        needs=("model", "pod.topology"),
        prepare=Named("sim.kinds.served.plan:prepare"),
        play=Named("sim.kinds.served.plan:play"),
        share=Named("sim.kinds.served.plan:play_share"),
        metrics=(*_SERVED_METRICS, Named("sim.results.metrics:WALL"), _CHIP_METRICS),
        judged=_LATENCY | {"makespan_s": Named("sim.results.difference:of_chips")},
        verdict=Named("sim.results.verdict:verdict"),
        sections=(
            Named("sim.results.where:where_time_goes"),
            Named("sim.results.where:what_limits"),
            Named("sim.results.pareto:pareto_section"),
            Named("sim.results.over_time:over_time_section"),
        ),
        requests=Named("sim.kinds.served.facts:owners"),
        pages=(_TIMELINE,),
    ),
    "collectives": Kind(
        name="collectives",
        summary="jobs that issue collectives, without a model: the network alone",
        spec=Named("sim.kinds.collectives.spec:Collectives"),
        reads=(
            "pod.topology",
            "pod.library",
            "pod.change.library",
            "pod.change.link",
            "pod.stragglers",
            "pod.collective",
            "pod.faults",
            "pod.jitter",
            "record",
        ),
        needs=("pod.topology",),
        prepare=Named("sim.kinds.collectives.plan:prepare"),
        play=Named("sim.kinds.collectives.plan:play"),
        metrics=(
            Named("sim.results.metrics:WALL"),
            Named("sim.kinds.collectives.facts:LINKS"),
        ),
        judged={"makespan_s": Named("sim.kinds.collectives.facts:wall_parts")},
        part="job",
        part_key="jobs",
        parts=Named("sim.kinds.collectives.facts:jobs"),
        part_metrics=(Named("sim.kinds.collectives.facts:JOBS"),),
        table=Named("sim.kinds.collectives.words:jobs_table"),
        verdict=Named("sim.kinds.collectives.words:verdict"),
        sections=(
            Named("sim.kinds.collectives.words:jobs_section"),
            Named("sim.kinds.collectives.words:links_section"),
        ),
        files=(Named("sim.kinds.collectives.facts:links_csv"),),
        pages=(_TIMELINE,),
    ),
    "tenants": Kind(
        name="tenants",
        summary="several models that serve requests on one pod",
        spec=Named("sim.kinds.tenants.spec:Tenants"),
        reads=(*_CHIPS, "precision", "techniques", "record"),
        needs=("pod.topology",),
        prepare=Named("sim.kinds.tenants.plan:prepare"),
        play=Named("sim.kinds.tenants.plan:play"),
        metrics=(
            Named("sim.results.statistics:REQUESTS"),
            Named("sim.kinds.tenants.facts:POD"),
            Named("sim.results.metrics:RATES"),
            Named("sim.results.metrics:WALL"),
            Named("sim.kinds.tenants.facts:CHIPS_OF_ALL"),
        ),
        judged=_LATENCY | {"makespan_s": Named("sim.results.difference:of_chips")},
        part="tenant",
        part_key="tenants",
        parts=Named("sim.kinds.tenants.facts:tenants"),
        part_metrics=(Named("sim.kinds.tenants.facts:TENANTS"),),
        part_shown=(
            "slowdown",
            "busy_share",
            "ttft_p99_s",
            "tpot_mean_s",
            "e2e_mean_s",
            "goodput_per_s",
        ),
        verdict=Named("sim.kinds.tenants.words:verdict"),
        sections=(
            Named("sim.kinds.tenants.words:tenants_section"),
            Named("sim.kinds.tenants.words:chips_sections"),
        ),
        requests=Named("sim.kinds.tenants.facts:owners"),
        pages=(_TIMELINE,),
    ),
    "networks": Kind(
        name="networks",
        summary="inference of neural networks on an array of systolic pods",
        spec=Named("sim.kinds.dnn.spec:Networks"),
        reads=("pod.array", "record"),
        needs=("pod.array",),
        prepare=Named("sim.kinds.dnn.plan:prepare"),
        play=Named("sim.kinds.dnn.plan:play"),
        metrics=(
            Named("sim.results.metrics:WALL"),
            Named("sim.kinds.dnn.facts:ARRAY"),
        ),
        judged=_LATENCY | {"makespan_s": Named("sim.kinds.dnn.facts:wall_parts")},
        part="network",
        part_key="networks",
        parts=Named("sim.kinds.dnn.facts:networks"),
        part_metrics=(Named("sim.kinds.dnn.facts:NETWORKS"),),
        part_shown=(
            "inference_s",
            "slowdown",
            "e2e_mean_s",
            "e2e_p99_s",
            "effective_ops_per_s_at_power",
            "array_utilisation",
        ),
        verdict=Named("sim.kinds.dnn.words:verdict"),
        sections=(Named("sim.kinds.dnn.words:networks_section"),),
        requests=Named("sim.kinds.dnn.facts:owners"),
        pages=(_TIMELINE, ("figures", "figures.html", Named("sim.kinds.dnn.figures:page"))),
    ),
    "granularity": Kind(
        name="granularity",
        summary="how large an array should be: operations a joule over rows and columns",
        spec=Named("sim.kinds.array_grid.spec:Granularity"),
        reads=("pod.array",),
        needs=("pod.array",),
        prepare=Named("sim.kinds.array_grid.plan:prepare"),
        play=Named("sim.kinds.array_grid.plan:play"),
        metrics=(Named("sim.kinds.array_grid.facts:GRID"),),
        judged={},
        part="family",
        part_key="families",
        parts=Named("sim.kinds.array_grid.facts:families"),
        part_metrics=(Named("sim.kinds.array_grid.facts:GRID"),),
        part_shown=(
            "best_rows",
            "best_cols",
            "best_pods",
            "best_ops_per_joule",
            "ops_per_joule",
            "share_of_best",
        ),
        verdict=Named("sim.kinds.array_grid.words:verdict"),
        sections=(Named("sim.kinds.array_grid.words:grid_section"),),
        pages=(("figures", "figures.html", Named("sim.kinds.array_grid.figures:page")),),
    ),
}
