"""What a scenario asks of a model: a batch to decode, requests to serve, or the requests of several
tenants."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sim.scenario.fields import (
    BytesPerSecond,
    Count,
    Factor,
    Index,
    Probability,
    Seconds,
    Section,
    Share,
)
from sim.scenario.machine import Pod, Precision
from sim.scenario.model import Model
from sim.serving.fleet import ORDERS, POLICIES, ROUTERS
from sim.traces.formats import FORMATS


class SharedRun(Section):
    """A run of tokens that the prompts of several sequences have in common, a node of the tree of
    their prefixes."""

    tokens: Count
    sequences: Count | None = Field(default=None, description="default: all of the batch")


class Decode(Section):
    """A static batch: one prefill, then every decode step with a context that grows."""

    kind: Literal["decode"]
    batch: Count
    prompt_tokens: Count
    output_tokens: Count
    shared: list[SharedRun] = Field(
        default=[], max_length=1000, description="what the prompts have in common"
    )
    every_step: bool = Field(
        default=False, description="play every step, not a sample where the cost is linear"
    )

    @model_validator(mode="after")
    def _shared_fits(self) -> Decode:
        by_all = sum(run.tokens for run in self.shared if run.sequences in (None, self.batch))
        if by_all >= self.prompt_tokens:
            raise ValueError(
                f"a prompt of {self.prompt_tokens} tokens cannot share {by_all}: its last is "
                "its own"
            )
        most = max((run.sequences or 0 for run in self.shared), default=0)
        if most > self.batch:
            raise ValueError(f"{most} sequences cannot share a prefix in a batch of {self.batch}")
        together = sum((run.sequences or self.batch) * run.tokens for run in self.shared)
        if together > self.batch * (self.prompt_tokens - 1):
            raise ValueError(
                f"the shared runs come to {together} tokens, more than the prompts have"
            )
        return self


class Trace(Section):
    """Which rows of which recording to replay."""

    file: str
    format: Literal[("auto", *FORMATS)] = "auto"  # type: ignore[valid-type]
    fallback: str | None = Field(
        default=None, description="read instead, with a warning, where `file` is missing"
    )
    first: Index = 0
    limit: Count | None = None
    speed: Factor = Field(default=1.0, description="2.0: requests arrive twice as fast")
    bad_rows: Literal["error", "skip"] = "error"


class Slo(Section):
    """What each request is to meet; a request that meets all of it is good (goodput)."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None


class Speculative(Section):
    """Speculative decoding: tokens drafted in each decode step, and how likely each is to hold.

    Verifying them is part of the step; drafting costs `drafting`.
    """

    acceptance: list[Probability] = Field(
        min_length=1,
        max_length=16,
        description="chance of each drafted token, if those before it held",
    )
    drafting: Seconds = Field(
        default=0.0, description="to draft one token, added to each iteration; 0: n-gram lookup"
    )


class Admission(Section):
    """Who is admitted first, and who not at all.  Recordings name no classes: they are drawn, or go
    by length."""

    order: Literal[tuple(ORDERS)] = Field(  # type: ignore[valid-type]
        default="arrival",
        description="of each replica's queue; deadline: earliest first, by `ttft`",
    )
    shares: list[Probability] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="chance of each class, drawn by seed; the first is served first",
    )
    prompt_tokens: list[Count] | None = Field(
        default=None,
        min_length=1,
        max_length=15,
        description="longest prompt of each class but the last; rising",
    )
    ttft: list[Seconds] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="deadline of each class's first token; default: slo.ttft",
    )
    shed: bool = Field(
        default=False, description="turn away a request that waits past its deadline"
    )

    @model_validator(mode="after")
    def _classes(self) -> Admission:
        if self.shares and self.prompt_tokens:
            raise ValueError("shares and prompt_tokens are two ways to tell classes; give one")
        if self.shares and abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must add up to 1, not {sum(self.shares):g}")
        if self.prompt_tokens and sorted(set(self.prompt_tokens)) != self.prompt_tokens:
            raise ValueError("prompt_tokens must rise")
        if self.ttft and len(self.ttft) != self.classes:
            raise ValueError(
                f"ttft needs one deadline for each of {self.classes} class(es), not "
                f"{len(self.ttft)}"
            )
        if self.order == "priority" and self.classes == 1:
            raise ValueError("order: priority needs classes; give shares or prompt_tokens")
        return self

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.shares) if self.shares else len(self.prompt_tokens or ()) + 1


class Outage(Section):
    """A replica that fails: its KV-cache is lost, and its requests go elsewhere."""

    replica: Index
    at: Seconds
    duration: Seconds | None = Field(default=None, description="default: for good")


class Autoscale(Section):
    """Replicas by load: `replicas` is the most there are."""

    least: Count = Field(default=1, description="replicas that are always on")
    requests: Factor = Field(default=32.0, description="requests for each replica that is on")
    every: Annotated[Seconds, Field(gt=0)] = Field(
        default=10.0, description="between two looks at the load"
    )
    start_up: Seconds = Field(default=60.0, description="from the decision to the first request")
    cool_down: Seconds = Field(default=60.0, description="as long too many must have been on")


class Prefill(Section):
    """A pool of replicas that only prefill; their KV goes over the network to those that decode."""

    replicas: Count = 1
    pod: Pod | None = Field(
        default=None, description="its machine; default: as that of the scenario"
    )
    tensor: Count | None = Field(default=None, description="default: as parallel.tensor")
    max_batch: Count | None = None
    max_batched_tokens: Count | None = None
    kv_tokens: Count | None = None
    link: BytesPerSecond = Field(
        default=50e9, description="of each of its chips to those that decode, one way"
    )
    latency: Seconds = Field(default=10e-6, description="of a transfer")


class Served(Section):
    """What a serving engine is given and how it goes about it."""

    trace: Trace
    replicas: Count = Field(default=1, description="copies of the model, each on chips of its own")
    router: Literal[tuple(ROUTERS)] = "round_robin"  # type: ignore[valid-type]
    policy: Literal[tuple(POLICIES)] = Field(  # type: ignore[valid-type]
        default="prefill_first",
        description="what an iteration is made of; chunked: prefill in pieces beside decode",
    )
    max_batch: Count = Field(default=64, description="sequences in one iteration")
    max_batched_tokens: Count = Field(default=8192, description="new tokens in one iteration")
    kv: Literal["reserve", "paged", "swap"] = Field(
        default="reserve",
        description="reserve: room for the whole answer is held from the start; paged: blocks "
        "are taken as needed, and "
        "the last request is preempted and computed anew where none is left; swap: its KV goes "
        "to host memory",
    )
    block_tokens: Count = Field(default=16, description="tokens of a KV block")
    kv_tokens: Count | None = Field(
        default=None, description="tokens that the KV-cache holds; derived if not given"
    )
    host_bandwidth: BytesPerSecond = Field(
        default=25e9, description="of a chip to host memory, for kv: swap"
    )
    prefix_caching: bool = Field(
        default=False, description="share the KV of equal prefixes, where the trace names them"
    )
    prefix_eviction: Literal["tail_first", "lru"] = Field(
        default="tail_first",
        description="which block of a prefix that was used last goes first: its last, or its first",
    )
    closed_loop: bool = Field(
        default=False, description="a session's turn comes after the answer to the one before"
    )
    overhead: Seconds = Field(default=0.0, description="of the engine's own, for each iteration")
    slow: dict[Annotated[int, Field(ge=0)], Factor] = Field(
        default={}, description="replica -> times slower"
    )
    speculative: Speculative | None = None
    slo: Slo = Slo()
    admission: Admission = Admission()
    failures: list[Outage] = Field(default=[], description="replicas that fail, and when")
    autoscale: Autoscale | None = None
    prefill: Prefill | None = Field(
        default=None, description="disaggregation: prompts are computed in a pool of their own"
    )
    hbm_utilisation: Share = Field(
        default=0.9, description="share of the HBM for weights and KV-cache"
    )


class Requests(Served):
    """A recorded or generated trace, replayed through the scheduler of a serving engine."""

    kind: Literal["requests"]
    fidelity: Literal["step", "op"] = Field(
        default="step",
        description="op: play every op of every iteration; step: the same answers, iterations "
        "priced",
    )


class Tenant(Served):
    """One of those who share a pod: a model, its requests, and what it is entitled to."""

    model: Model
    tensor: Count = Field(default=1, description="chips that the model is split over")
    precision: Precision | None = Field(default=None, description="default: that of the scenario")
    weight: Factor = Field(
        default=1.0, description="its part of shared chips, against that of the others"
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="the highest goes first; of time_sliced"
    )


def _tenant_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            "a tenant's name is made of letters, digits and '_', and begins with a letter"
        )
    return name


class Tenants(Section):
    """Several models that serve requests on one pod, each on chips of its own or all on the same
    ones."""

    kind: Literal["tenants"]
    sharing: Literal["partitioned", "time_sliced", "co_resident"] = Field(
        description="partitioned: each has chips of its own; time_sliced: all have the same, "
        "one iteration at a time; "
        "co_resident: their iterations run at the same time and share engines, HBM and links"
    )
    quantum: Count = Field(
        default=1, description="iterations of one tenant before the next choice; of time_sliced"
    )
    fidelity: Literal["step", "op"] | None = Field(
        default=None,
        description="as of `requests`; default: step, of co_resident op, which has no other",
    )
    interference: bool = Field(
        default=True, description="also run the tenants two by two, where they are three"
    )
    tenants: dict[Annotated[str, AfterValidator(_tenant_name)], Tenant] = Field(
        min_length=1, max_length=16
    )

    @model_validator(mode="after")
    def _in_place(self) -> Tenants:
        if self.sharing == "co_resident" and self.fidelity == "step":
            raise ValueError(
                "co_resident tenants slow each other within an iteration, which has no price "
                "beforehand: "
                "write 'fidelity: op', or take it out"
            )
        return self
