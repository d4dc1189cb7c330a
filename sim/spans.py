"""What the engine writes down: facts with a start and an end, from which every metric and figure is derived.

This module sits below the engine and the results, and imports neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

BOUNDS = ("compute", "HBM", "L2", "link", "latency")


class Span(NamedTuple):
    """One op on one stream.  Spans of one track never overlap."""

    track: str  # "rank 0/compute"
    name: str  # "layer 3.qkv"
    kind: str  # the op's kind
    start_s: float
    end_s: float
    hbm_bytes: float = 0.0
    l2_bytes: float = 0.0
    link_bytes: float = 0.0
    flop: float = 0.0
    bound: str = "latency"  # one of BOUNDS: what a faster machine would have to improve
    note: str = ""


class Use(NamedTuple):
    """A stretch of time in which one flow crossed one capacity at a constant rate.  Uses of a capacity add up."""

    capacity: str  # "rank 0/HBM"
    start_s: float
    end_s: float
    bytes_per_s: float


@dataclass
class Timeline:
    """The recorded window of a run: spans, uses, and the rate of each capacity in bytes/s."""

    spans: list[Span] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    capacities: dict[str, float] = field(default_factory=dict)
    truncated: int = 0  # spans that were played but not kept, because the limit was reached


class RequestRecord(NamedTuple):
    """What happened to one request.  Times in seconds from the start of the replay."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    scheduled_s: float  # first iteration that works on it starts
    first_token_s: float
    last_token_s: float


@dataclass(frozen=True)
class Requests:
    """What happened to the requests of a run, in columns, by id.  Times are NaN, and `replica` -1, of one turned
    away."""

    id: np.ndarray
    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    scheduled_s: np.ndarray
    first_token_s: np.ndarray
    last_token_s: np.ndarray
    replica: np.ndarray
    hit_tokens: np.ndarray  # of the prompt, found in the prefix cache
    preemptions: np.ndarray
    retries: np.ndarray  # times that a replica failed under it
    priority: np.ndarray  # class of the queue, 0 first

    def __len__(self) -> int:
        return len(self.id)

    def finished(self) -> Requests:
        """Those that were served."""
        served = self.replica >= 0
        return Requests(*(getattr(self, each.name)[served] for each in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Requests]) -> Requests:
        """Those of all parts, one behind the other."""
        return Requests(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Requests)))

    @staticmethod
    def of(records: Iterable[RequestRecord]) -> Requests:
        """Records as columns, of one replica without a prefix cache."""
        columns = np.array([*records], float).reshape(-1, 7).T
        id, prompt, output = (columns[i].astype(np.int64) for i in (0, 2, 3))
        none = np.zeros(columns.shape[1], np.int64)
        return Requests(id, columns[1], prompt, output, columns[4], columns[5], columns[6], *[none] * 5)


class Serving(NamedTuple):
    """What the replicas did between them, beside the requests themselves."""

    replicas: int
    kv_share_s: float  # integral of the share of KV blocks in use, summed over replicas
    kv_peak: float  # highest share in use on any of them
    preemptions: int
    blocks_looked_up: int  # in the prefix cache
    blocks_found: int
    drafted: int  # speculative tokens
    accepted: int
    gaps: np.ndarray  # [bin] times between tokens of one answer; bin i ends at `gap_ends_s[i]`
    gap_ends_s: np.ndarray
    bin_s: float  # width of a bin of the time series
    series: dict[str, np.ndarray]  # by name, each bin's sum over the replicas
    slo_s: dict[str, float]  # "ttft", "tpot": what a request is to meet, where the scenario says
    chip_s: float  # that were paid for: of every chip while its replica was on
    joules: float | None  # of those, at rated power
    dollars: float | None
    most_on: int  # replicas that were on at once
    expanded_share: float | None = None  # of decode attention: pairs on prefixes that are expanded


class LinkUse(NamedTuple):
    """What one capacity (a direction of a link, the core of a switch) carried over a run."""

    name: str
    bytes_per_s: float
    moved_bytes: float
    busy_s: float  # time with at least one flow on it
    most_flows: int  # that were on it at once


class Instance(NamedTuple):
    """One collective of a job: when it began, when its first rank was done with it, and when its last was."""

    start_s: float
    first_end_s: float
    end_s: float


class JobRecord(NamedTuple):
    """A job's collectives, one after the other, and what each would take with the healthy pod to itself."""

    name: str
    collective: str
    algorithm: str
    rounds: int
    ranks: int
    nbytes: float  # the buffer of one rank
    background: bool
    idle_s: float
    exact: bool  # `idle_s` is the closed form; else one instance played alone
    instances: list[Instance]  # those that ended within the run


class TenantRecord(NamedTuple):
    """One of the tenants of a pod: what became of it beside the others, and with its chips to itself."""

    name: str
    weight: float
    priority: int
    chips: int
    busy_s: float  # its iterations, summed over replicas
    outcome: Outcome
    alone_e2e_s: np.ndarray  # of each request of `outcome`, with the same chips to itself; NaN: turned away
    beside_e2e_s: dict[str, np.ndarray]  # the same, with only the other tenant of that name there too


@dataclass(frozen=True)
class Tiles:
    """Which layer each pod of a run was at, by round."""

    layers: tuple[tuple[int, str], ...]  # place in the run's `names`, and layer
    start_s: np.ndarray  # [round], from the start of the run
    end_s: np.ndarray  # [round]
    layer: np.ndarray  # [pod, round] of uint16: 0 is none, else 1 + the place in `layers`


class ArrayRun(NamedTuple):
    """One schedule on an array of pods, played once or, as it is, many times."""

    names: tuple[str, ...]  # of the networks that it runs
    first_pod: int
    pods: int
    start_s: float  # when it was played first
    seconds: float
    times: int
    ops: float  # two a MAC
    rounds: int
    add_rounds: int  # the last round with an addition, from 1; 0: none
    tile_ops: int
    dram_bytes: int
    parts_s: dict[str, float]  # where its time went, mean over its pods; adds up to `seconds`
    tiles: Tiles | None


class NetworkRecord(NamedTuple):
    """A network on an array, one of several or by itself."""

    name: str
    what: str  # "resnet50, 224 x 224"
    ops: float  # of an inference, two a MAC
    pods: int  # that it may use
    seconds: float  # from the start of the first schedule it is in to its end: waiting for others counts
    alone_s: float  # of an inference with the whole array to itself
    requests: Requests | None  # of a trace, each an inference; tokens are 0
    alone_e2e_s: np.ndarray  # of each of them, with the whole array to itself


@dataclass(frozen=True)
class ArrayRecord:
    """An array of pods and what it did."""

    rows: int
    cols: int
    pods: int
    peak_ops_per_s: float
    peak_power_w: float
    power_w: float  # that throughput is scaled to
    settings: dict[str, float | str]  # in which variants may differ, as a person would name them
    networks: list[NetworkRecord]
    runs: list[ArrayRun]


@dataclass(frozen=True)
class GridRecord:
    """Operations a joule of arrays of all sizes, for the same power."""

    rows: np.ndarray  # [r]
    cols: np.ndarray  # [c]
    pods: np.ndarray  # [r, c], that the power allows
    ops_per_joule: np.ndarray  # [r, c], all families together
    families: dict[str, np.ndarray]  # [r, c] of each
    here: tuple[int, int]  # rows and columns that the best are compared with
    here_ops_per_joule: dict[str, float]  # by family; "" for all together
    power_w: float


@dataclass
class Totals:
    """Sums over a whole run on one rank, kept whether or not spans are recorded.

    `span_s[stream][kind]` is the time ops of that kind occupied the stream; `bound_s[bound]` is compute-stream time
    by what limited it, the collectives' time under `link` or `latency` of the communication stream being kept apart
    in `span_s["communication"]`. `seconds` is the wall time; `idle_s` the part of it in which no iteration was
    running, `engine_s` that in which one was but none of its ops: the engine's own time, swapping, a slow replica's
    delay, work lost in a failure; `bubble_s` that in which a pipeline stage waited for others. Of pipeline stages all
    is the mean over them. Of several replicas all sums are over the replicas, wall time too.
    """

    seconds: float = 0.0
    idle_s: float = 0.0
    engine_s: float = 0.0
    bubble_s: float = 0.0
    steps: float = 0.0
    ops: float = 0.0
    flop: float = 0.0
    matrix_flop: float = 0.0
    span_s: dict[str, dict[str, float]] = field(default_factory=dict)
    bound_s: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)  # by capacity: "HBM", "L2", "link"
    asked_bytes: float = 0.0  # bytes the graph's kernels read
    prefetched_bytes: float = 0.0
    unused_prefetch_bytes: float = 0.0  # fetched into L2 and evicted, or never read


@dataclass
class Outcome:
    """What one variant's simulation hands to the results: the only thing they see of the engine.

    `phases` holds named parts of the wall time in seconds ("prefill", "decode"). `rates` are the machine's peaks for
    utilisation: {"HBM": bytes/s, "L2": bytes/s, "link": bytes/s, "matrix": FLOP/s}. `assumptions` are rows
    (what, value as text, source) that this variant's numbers rest on, each with its tag (READ, INFER, FITTED, ...).
    """

    totals: Totals
    phases: dict[str, float] = field(default_factory=dict)
    tokens: int = 0  # output tokens produced
    decode_steps: int = 0  # of a static batch
    ranks: int = 1
    replicas: int = 1
    requests: Requests = field(default_factory=lambda: Requests.of([]))
    serving: Serving | None = None  # of a workload of requests
    timeline: Timeline = field(default_factory=Timeline)
    rates: dict[str, float] = field(default_factory=dict)
    jobs: list[JobRecord] = field(default_factory=list)  # of a collectives workload
    tenants: list[TenantRecord] = field(default_factory=list)  # of a pod that several share
    sharing: str = ""  # in which way they do
    links: list[LinkUse] = field(default_factory=list)  # those that carried anything, fullest first
    array: ArrayRecord | None = None  # of a workload of networks
    grid: GridRecord | None = None  # of a workload of granularity
    assumptions: list[tuple[str, str, str, str]] = field(default_factory=list)  # what, value, tag, source
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""
    stopped_s: float | None = None  # simulated time at which the run was interrupted


def digest(seconds: Iterable[float]) -> str:
    """Equal for equal lists of times, rounded to 1 ps to absorb float noise."""
    return hashlib.sha256(" ".join(str(round(t * 1e12)) for t in seconds).encode()).hexdigest()[:12]


def fingerprint(spans: Iterable[Span]) -> str:
    """Equal for equal trajectories; times are rounded to 1 ps to absorb float noise."""
    lines = (f"{s.track} {s.name} {round(s.start_s * 1e12)} {round(s.end_s * 1e12)}" for s in spans)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
