"""What a scenario says of requests that are served."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
from sim.scenario.machine import Pod
from sim.scenario.trace import Trace
from sim.serving.fleet import POLICIES
from sim.serving.order import ORDERS
from sim.serving.router import ROUTERS
from sim.text.choice import Choice


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

    order: Annotated[str, Choice(ORDERS)] = Field(
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
        shares, prompts, ttft = self.shares or [], self.prompt_tokens or [], self.ttft or []
        return self.unless(
            (
                shares and prompts,
                "shares and prompt_tokens are two ways to tell classes; give one",
            ),
            (
                shares and abs(sum(shares) - 1) > 1e-9,
                f"shares must add up to 1, not {sum(shares):g}",
            ),
            (sorted(set(prompts)) != prompts, "prompt_tokens must rise"),
            (
                ttft and len(ttft) != self.classes,
                f"ttft needs one deadline for each of {self.classes} class(es), not {len(ttft)}",
            ),
            (
                self.order == "priority" and self.classes == 1,
                "order: priority needs classes; give shares or prompt_tokens",
            ),
        )

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
    router: Annotated[str, Choice(ROUTERS)] = "round_robin"
    policy: Annotated[str, Choice(POLICIES)] = Field(
        default="chunked",
        description="what an iteration is made of; chunked: prefill in pieces beside decode",
    )
    max_batch: Count | None = Field(
        default=None,
        description="sequences in one iteration; default: what the device's card says that engines "
        "take, else 256",
    )
    max_batched_tokens: Count | None = Field(
        default=None,
        description="new tokens in one iteration; default: as the device's card says, else 2048",
    )
    kv: Literal["reserve", "paged", "swap"] = Field(
        default="paged",
        description="reserve: room for the whole answer is held from the start; paged: blocks "
        "are taken as needed, and the last request is preempted and computed anew where none is "
        "left; swap: its KV goes to host memory",
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


class ServedTrace(Served):
    """A recorded or generated trace, replayed through the scheduler of a serving engine."""

    kind: Literal["requests"]
    fidelity: Literal["step", "op"] = Field(
        default="step",
        description="op: play every op of every iteration; step: the same answers, iterations "
        "priced",
    )
