"""What a scenario may say: one frozen pydantic model a section, quantities in SI once read.

`Variant` is what the rest of the program sees. `json_schema` describes the file to an editor.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, SkipValidation, model_validator

from sim.hardware.device import OWN_KERNELS
from sim.network.collectives import AlgorithmName
from sim.scenario.fields import (
    Bytes,
    BytesPerSecond,
    Count,
    Dtype,
    Factor,
    FlopPerSecond,
    Index,
    Probability,
    Seconds,
    Section,
    Share,
    Watts,
    whole,
)
from sim.scenario.jobs import Collectives, LinkFault
from sim.serving.fleet import ORDERS, POLICIES, ROUTERS
from sim.workload import parallel, routing
from sim.workload.trace_formats import FORMATS


def _only_one(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value != 1:
        raise ValueError("only 1 is modelled so far; split the model with `tensor`")
    return value


OnlyOne = Annotated[int, Field(ge=1, le=1), BeforeValidator(_only_one), BeforeValidator(whole)]


class DeviceChange(Section):
    """What-if edits of the device; the names are the fields of `sim.hardware.device.Device`."""

    matrix_flop_per_s: dict[Dtype, FlopPerSecond] | None = None
    vector_flop_per_s: FlopPerSecond | None = None
    hbm_bytes: Bytes | None = None
    hbm_bytes_per_s: BytesPerSecond | None = None
    l2_bytes: Bytes | None = None
    l2_bytes_per_s: BytesPerSecond | None = None
    kernel_overhead_s: Seconds | None = None
    vector_overhead_s: Seconds | None = None
    matrix_efficiency: Share | None = None
    hbm_efficiency: Share | None = None
    attention_hbm_efficiency: Share | None = None
    attention_matrix_efficiency: Share | None = None
    attention_overhead_s: Seconds | None = None
    prefetch_bytes_per_s: BytesPerSecond | None = None
    prefetch_overhead_s: Seconds | None = None
    power_w: Watts | None = None
    price_per_hour: Factor | None = None


class LibraryChange(Section):
    """What-if edits of the collective library; the names are the fields of `sim.network.library.Library`."""

    launch_s: Seconds | None = None
    step_s: Seconds | None = None
    link_efficiency: Share | None = None


class LinkChange(Section):
    """What-if edits of every link of the topology."""

    bytes_per_s: BytesPerSecond | None = None
    latency_s: Seconds | None = None


class Change(Section):
    """What-if edits, one mapping for each part of the pod."""

    device: DeviceChange = DeviceChange()
    library: LibraryChange = LibraryChange()
    link: LinkChange = LinkChange()


class Pod(Section):
    """The machine.  Names are the catalogue's, or paths to YAML files; None: the topology's own."""

    topology: str
    device: str | None = None
    library: str | None = None
    change: Change = Change()
    kernels: dict[Literal[OWN_KERNELS], str] = Field(  # type: ignore[valid-type]
        default={}, description="which of the kernels that the device's card has is to do a kind of op"
    )
    stragglers: dict[Annotated[int, Field(ge=0)], Factor] = Field(
        default={}, description="rank -> how many times slower its compute and HBM are; of collectives alone, its steps"
    )
    collective: Literal["auto", AlgorithmName] = "auto"
    faults: list[LinkFault] = Field(default=[], description="links that are slow, late, or gone")
    jitter: Seconds = Field(default=0.0, description="mean of a random (exponential) extra delay of each message")


class Precision(Section):
    """Number formats of what is stored and moved."""

    weights: Dtype = "fp16"
    activations: Dtype = "fp16"
    kv: Dtype = "fp16"
    communication: Dtype = "fp16"
    experts: Dtype | None = Field(default=None, description="of the experts' weights; default: as `weights`")


class Routing(Section):
    """How tokens choose experts: evenly, by a power law whose order `seed` draws, or as recorded."""

    skew: Annotated[float, Field(ge=0, le=10)] = Field(default=0.0, description="exponent of the power law; 0: even")
    seed: Index = 0
    file: str | None = Field(default=None, description="recorded tokens of each expert, one number a line")

    @model_validator(mode="after")
    def _one_way(self) -> Routing:
        if self.file and self.skew:
            raise ValueError("skew and file are two ways to tell how popular experts are; give one")
        return self

    def chances(self) -> routing.Routing:
        """As the op graph wants it."""
        return routing.Routing(self.skew, self.seed, routing.recorded(self.file) if self.file else ())


class Parallel(Section):
    """How the model is split over the devices.  Experts meet tokens by `routing`."""

    tensor: Count = Field(default=1, description="ranks that share the heads of an attention, next to each other")
    data: Count = Field(default=1, description="groups of them with sequences of their own, which meet at the experts")
    expert: Count = Field(default=1, description="ranks that the experts are spread over")
    sequence: Count = Field(default=1, description="ranks of a tensor group that share a KV-cache by its tokens")
    pipeline: OnlyOne = 1
    routing: Routing = Routing()

    def degrees(self) -> parallel.Parallel:
        """As the op graph wants them; ValueError if a recording cannot be read."""
        return parallel.Parallel(self.tensor, self.data, self.expert, self.sequence, routing=self.routing.chances())


class SharedRun(Section):
    """A run of tokens that the prompts of several sequences have in common, a node of the tree of their prefixes."""

    tokens: Count
    sequences: Count | None = Field(default=None, description="default: all of the batch")


class Decode(Section):
    """A static batch: one prefill, then every decode step with a context that grows."""

    kind: Literal["decode"]
    batch: Count
    prompt_tokens: Count
    output_tokens: Count
    shared: list[SharedRun] = Field(default=[], max_length=1000, description="what the prompts have in common")
    every_step: bool = Field(default=False, description="play every step, not a sample where the cost is linear")

    @model_validator(mode="after")
    def _shared_fits(self) -> Decode:
        by_all = sum(run.tokens for run in self.shared if run.sequences in (None, self.batch))
        if by_all >= self.prompt_tokens:
            raise ValueError(f"a prompt of {self.prompt_tokens} tokens cannot share {by_all}: its last is its own")
        most = max((run.sequences or 0 for run in self.shared), default=0)
        if most > self.batch:
            raise ValueError(f"{most} sequences cannot share a prefix in a batch of {self.batch}")
        together = sum((run.sequences or self.batch) * run.tokens for run in self.shared)
        if together > self.batch * (self.prompt_tokens - 1):
            raise ValueError(f"the shared runs come to {together} tokens, more than the prompts have")
        return self


class Trace(Section):
    """Which rows of which recording to replay."""

    file: str
    format: Literal[("auto", *FORMATS)] = "auto"  # type: ignore[valid-type]
    fallback: str | None = Field(default=None, description="read instead, with a warning, where `file` is missing")
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
        min_length=1, max_length=16, description="chance of each drafted token, if those before it held"
    )
    drafting: Seconds = Field(default=0.0, description="to draft one token, added to each iteration; 0: n-gram lookup")


class Admission(Section):
    """Who is admitted first, and who not at all.  Recordings name no classes: they are drawn, or go by length."""

    order: Literal[tuple(ORDERS)] = Field(  # type: ignore[valid-type]
        default="arrival", description="of each replica's queue; deadline: earliest first, by `ttft`"
    )
    shares: list[Probability] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="chance of each class, drawn by seed; the first is served first",
    )
    prompt_tokens: list[Count] | None = Field(
        default=None, min_length=1, max_length=15, description="longest prompt of each class but the last; rising"
    )
    ttft: list[Seconds] | None = Field(
        default=None, min_length=1, max_length=16, description="deadline of each class's first token; default: slo.ttft"
    )
    shed: bool = Field(default=False, description="turn away a request that waits past its deadline")

    @model_validator(mode="after")
    def _classes(self) -> Admission:
        if self.shares and self.prompt_tokens:
            raise ValueError("shares and prompt_tokens are two ways to tell classes; give one")
        if self.shares and abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must add up to 1, not {sum(self.shares):g}")
        if self.prompt_tokens and sorted(set(self.prompt_tokens)) != self.prompt_tokens:
            raise ValueError("prompt_tokens must rise")
        if self.ttft and len(self.ttft) != self.classes:
            raise ValueError(f"ttft needs one deadline for each of {self.classes} class(es), not {len(self.ttft)}")
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
    every: Annotated[Seconds, Field(gt=0)] = Field(default=10.0, description="between two looks at the load")
    start_up: Seconds = Field(default=60.0, description="from the decision to the first request")
    cool_down: Seconds = Field(default=60.0, description="as long too many must have been on")


class Prefill(Section):
    """A pool of replicas that only prefill; their KV goes over the network to those that decode."""

    replicas: Count = 1
    pod: Pod | None = Field(default=None, description="its machine; default: as that of the scenario")
    tensor: Count | None = Field(default=None, description="default: as parallel.tensor")
    max_batch: Count | None = None
    max_batched_tokens: Count | None = None
    kv_tokens: Count | None = None
    link: BytesPerSecond = Field(default=50e9, description="of each of its chips to those that decode, one way")
    latency: Seconds = Field(default=10e-6, description="of a transfer")


class Served(Section):
    """What a serving engine is given and how it goes about it."""

    trace: Trace
    replicas: Count = Field(default=1, description="copies of the model, each on chips of its own")
    router: Literal[tuple(ROUTERS)] = "round_robin"  # type: ignore[valid-type]
    policy: Literal[tuple(POLICIES)] = Field(  # type: ignore[valid-type]
        default="prefill_first", description="what an iteration is made of; chunked: prefill in pieces beside decode"
    )
    max_batch: Count = Field(default=64, description="sequences in one iteration")
    max_batched_tokens: Count = Field(default=8192, description="new tokens in one iteration")
    kv: Literal["reserve", "paged", "swap"] = Field(
        default="reserve",
        description="reserve: room for the whole answer is held from the start; paged: blocks are taken as needed, and "
        "the last request is preempted and computed anew where none is left; swap: its KV goes to host memory",
    )
    block_tokens: Count = Field(default=16, description="tokens of a KV block")
    kv_tokens: Count | None = Field(default=None, description="tokens that the KV-cache holds; derived if not given")
    host_bandwidth: BytesPerSecond = Field(default=25e9, description="of a chip to host memory, for kv: swap")
    prefix_caching: bool = Field(
        default=False, description="share the KV of equal prefixes, where the trace names them"
    )
    prefix_eviction: Literal["tail_first", "lru"] = Field(
        default="tail_first",
        description="which block of a prefix that was used last goes first: its last, or its first",
    )
    closed_loop: bool = Field(default=False, description="a session's turn comes after the answer to the one before")
    overhead: Seconds = Field(default=0.0, description="of the engine's own, for each iteration")
    slow: dict[Annotated[int, Field(ge=0)], Factor] = Field(default={}, description="replica -> times slower")
    speculative: Speculative | None = None
    slo: Slo = Slo()
    admission: Admission = Admission()
    failures: list[Outage] = Field(default=[], description="replicas that fail, and when")
    autoscale: Autoscale | None = None
    prefill: Prefill | None = Field(
        default=None, description="disaggregation: prompts are computed in a pool of their own"
    )
    hbm_utilisation: Share = Field(default=0.9, description="share of the HBM for weights and KV-cache")


class Requests(Served):
    """A recorded or generated trace, replayed through the scheduler of a serving engine."""

    kind: Literal["requests"]
    fidelity: Literal["step", "op"] = Field(
        default="step", description="op: play every op of every iteration; step: the same answers, iterations priced"
    )


class Tenant(Served):
    """One of those who share a pod: a model, its requests, and what it is entitled to."""

    model: str
    tensor: Count = Field(default=1, description="chips that the model is split over")
    precision: Precision | None = Field(default=None, description="default: that of the scenario")
    weight: Factor = Field(default=1.0, description="its part of shared chips, against that of the others")
    priority: int = Field(default=0, ge=-1000, le=1000, description="the highest goes first; of time_sliced")


def _tenant_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError("a tenant's name is made of letters, digits and '_', and begins with a letter")
    return name


class Tenants(Section):
    """Several models that serve requests on one pod, each on chips of its own or all on the same ones."""

    kind: Literal["tenants"]
    sharing: Literal["partitioned", "time_sliced", "co_resident"] = Field(
        description="partitioned: each has chips of its own; time_sliced: all have the same, one iteration at a time; "
        "co_resident: their iterations run at the same time and share engines, HBM and links"
    )
    quantum: Count = Field(default=1, description="iterations of one tenant before the next choice; of time_sliced")
    fidelity: Literal["step", "op"] | None = Field(
        default=None, description="as of `requests`; default: step, of co_resident op, which has no other"
    )
    interference: bool = Field(default=True, description="also run the tenants two by two, where they are three")
    tenants: dict[Annotated[str, AfterValidator(_tenant_name)], Tenant] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _in_place(self) -> Tenants:
        if self.sharing == "co_resident" and self.fidelity == "step":
            raise ValueError("co_resident tenants slow each other within an iteration, which has no price beforehand: "
                             "write 'fidelity: op', or take it out")  # fmt: skip
        return self


Workload = Annotated[Decode | Requests | Collectives | Tenants, Field(discriminator="kind")]


class Record(Section):
    """The window of which spans are kept."""

    from_s: Seconds = 0.0
    until_s: Seconds | None = Field(
        default=None, description="default: the end; of requests at fidelity step, 0.1 s after from_s"
    )
    max_spans: Index = 20_000
    enabled: bool = True

    @model_validator(mode="after")
    def _window(self) -> Record:
        if self.until_s is not None and self.until_s <= self.from_s:
            raise ValueError("until_s must be after from_s")
        return self


class Technique(NamedTuple):
    """One entry of `techniques`: a name in `sim.techniques.TECHNIQUES` and an instance of its options' model."""

    name: str
    options: Any


class Variant(Section):
    """One machine, one model, one workload, and the techniques to apply, in order.

    A workload of collectives alone has no model, of tenants each has its own; every other has one (`sim.scenario.load`
    sees to it).
    """

    pod: Pod
    model: str = Field(default="", description="none in a workload of collectives or tenants, needed elsewhere")
    precision: Precision = Precision()
    parallel: Parallel = Parallel()
    workload: Workload
    techniques: SkipValidation[tuple[Technique, ...]] = ()
    record: Record = Record()


class Head(Section):
    """What a scenario file says once, for all its variants."""

    question: str = Field(min_length=1)
    extends: str | None = Field(default=None, description="a scenario, by name or path, to be merged under this one")
    seed: Index = 0
    variants: dict[str, dict[str, Any] | None] = Field(default={})
    expect: list[str] = Field(default=[])


class File(Variant, Head):
    """The top of a scenario file: its head, and what all variants share."""


SECTIONS = tuple(Variant.model_fields)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a scenario file, techniques' options included.

    Since a section may be given in part here and in part in what it extends or in a variant, nothing is `required` but
    `question` or `extends`; `podscope check` finds what is missing.
    """
    from sim.techniques import TECHNIQUES  # here, because the techniques' options use the field types above

    top = File.model_json_schema(ref_template="#/$defs/{model}", mode="validation")
    defs = top.pop("$defs", {})
    choices: list[dict[str, Any]] = [{"enum": sorted(TECHNIQUES)}]
    for name, technique in sorted(TECHNIQUES.items()):
        options = technique.options.model_json_schema(ref_template="#/$defs/{model}")
        defs.update(options.pop("$defs", {}))
        defs[f"technique_{name}"] = options
        reference = {"anyOf": [{"$ref": f"#/$defs/technique_{name}"}, {"type": "null"}]}
        choices.append({"type": "object", "properties": {name: reference}, "required": [name], "maxProperties": 1})
    techniques = {"type": "array", "items": {"anyOf": choices}}
    variant = {name: top["properties"][name] for name in SECTIONS} | {"techniques": techniques}
    defs["Variant"] = {"type": "object", "properties": variant, "additionalProperties": False}
    top["properties"]["techniques"] = techniques
    either = {"anyOf": [{"$ref": "#/$defs/Variant"}, {"type": "null"}]}
    top["properties"]["variants"] = {"type": "object", "additionalProperties": either}
    partial = _rewritten({**top, "$defs": defs}, _as_part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **partial,
        "title": "podscope scenario",
        "anyOf": [{"required": ["question"]}, {"required": ["extends"]}],
    }


def _rewritten(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(node, dict):
        return change({key: _rewritten(value, change) for key, value in node.items()})
    return [_rewritten(item, change) for item in node] if isinstance(node, list) else node


def _as_part(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema node: sections in part, patterns anchored, a union by its members alone."""
    new = dict(schema)
    if isinstance(new.get("required"), list) and new.get("maxProperties") != 1:
        del new["required"]
    if isinstance(new.get("discriminator"), dict):
        del new["discriminator"]
        new["anyOf"] = new.pop("oneOf")
    if isinstance(new.get("pattern"), str) and not new["pattern"].startswith("^"):
        new["pattern"] = f"^(?:{new['pattern']})$"
    return new
