"""What a scenario says of the machine and of how a model lies on it: `pod`, `precision`,
`parallel`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.graph import parallel, routing
from sim.hardware.device import CHANGEABLE, OWN_KERNELS
from sim.network.collectives import ALGORITHM_NAMES, AUTO
from sim.scenario.faults import LinkFault
from sim.scenario.fields import (
    Amount,
    Bytes,
    BytesPerSecond,
    ChannelName,
    Count,
    DeviceName,
    Dtype,
    EdgesName,
    Factor,
    FilePath,
    FlopPerSecond,
    Hertz,
    Index,
    Joules,
    JoulesPerByte,
    LibraryName,
    Probability,
    Seconds,
    Section,
    Share,
    TopologyName,
    Watts,
)
from sim.systolic.dataflow import DATAFLOWS
from sim.systolic.interconnect import INTERCONNECTS
from sim.text.choice import Choice


class KernelChange(Section):
    """What-if edits of the kernels of one kind; the names are the fields of
    `sim.hardware.device.Kernel`."""

    overhead_s: Seconds | None = None
    matrix_efficiency: Share | None = None
    hbm_efficiency: Share | None = None
    overlap: Probability | None = None
    matrix_efficiency_8bit: Share | None = None
    tile: Annotated[Factor, Field(ge=1)] | None = None


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
    prefetch_bytes_per_s: BytesPerSecond | None = None
    prefetch_overhead_s: Seconds | None = None
    prefetch_shared_bytes_per_s: BytesPerSecond | None = None
    prefetch_tail_s: Seconds | None = None
    prefetch_tail_share: Probability | None = None
    prefetch_hbm_share: Share | None = None
    l2_set_aside_bytes: Bytes | None = None
    power_w: Watts | None = None
    idle_power_w: Watts | None = None
    price_per_hour: Factor | None = None
    kernels: dict[Literal[CHANGEABLE], KernelChange] | None = None  # type: ignore[valid-type]


class LibraryChange(Section):
    """What-if edits of the collective library; the names are the fields of
    `sim.network.library.Library`."""

    launch_s: Seconds | None = None
    step_s: Seconds | None = None
    link_efficiency: Share | None = None
    times: Factor | None = Field(
        default=None, description="how many times longer its collectives take than its card says"
    )


class LinkChange(Section):
    """What-if edits of every link of the topology."""

    bytes_per_s: BytesPerSecond | None = None
    latency_s: Seconds | None = None


class Change(Section):
    """What-if edits, one mapping for each part of the pod."""

    device: DeviceChange = DeviceChange()
    library: LibraryChange = LibraryChange()
    link: LinkChange = LinkChange()


class Chip(Section):
    """What a chip costs to make: a process node, and constants of it that are to be others; the
    names are the fields of `sim.hardware.chip_cost.ChipCost`, and their estimates stand there."""

    node: Literal["7 nm", "5 nm"] = "7 nm"
    wafer_dollars: Factor | None = None
    defects_per_cm2: Amount | None = None
    clustering: Factor | None = None
    critical_share: Share | None = None
    sram_mm2_per_mib: Amount | None = None
    matrix_mm2_per_tflops: Amount | None = None
    hbm_mm2_per_stack: Amount | None = None
    link_mm2: Amount | None = None
    host_mm2: Amount | None = None
    other_mm2: Amount | None = None
    stack_bytes_per_s: BytesPerSecond | None = None
    hbm_dollars_per_gb: Amount | None = None
    package_dollars_per_mm2: Amount | None = None
    interposer_share: Amount | None = None
    bonding_yield: Share | None = None
    watts_per_tflops: Amount | None = None
    hbm_stacks: Count | None = None


class Array(Section):
    """Systolic arrays, the pods of SOSA (arXiv 2203.11540), and the networks between them and their
    memory banks.

    The defaults are its main configuration.
    """

    rows: Count = Field(default=32, description="of one systolic array: the reduction")
    cols: Count = Field(default=32, description="of one systolic array: output channels")
    pods: Annotated[Count, Field(le=2048)] = Field(default=256, description="systolic arrays")
    network: Annotated[str, Choice(INTERCONNECTS)] = "butterfly_2"
    dataflow: Annotated[str, Choice(DATAFLOWS)] = Field(
        default="weight_stationary",
        description="what stays in the cells; the paper's, or one of two extensions of ours",
    )
    bank: Bytes = Field(default=256 * 1024, description="each of three memory banks a pod")
    sram_energy: JoulesPerByte | None = Field(
        default=None, description="default: by the size of a bank"
    )
    clock: Hertz = 1e9
    memory: BytesPerSecond = Field(
        default=1200 * 2.0**30, description="of DRAM; default: the artifact's 1200 GB/s"
    )
    prefetch_rounds: Annotated[Count, Field(ge=2)] = Field(
        default=100, description="how far ahead loads run"
    )
    power: Watts = Field(
        default=400.0, description="that throughput is scaled to, linearly, beside what it is"
    )


class ChannelChange(Section):
    """What-if edits of a channel; the names are the fields of `sim.network.channel.Channel`."""

    up_bytes_per_s: BytesPerSecond | None = None
    down_bytes_per_s: BytesPerSecond | None = None
    latency_s: Seconds | None = None
    jitter_s: Seconds | None = None
    loss: Annotated[Probability, Field(lt=1)] | None = None
    send_w: Watts | None = None
    receive_w: Watts | None = None
    overhead_s: Seconds | None = None


class EdgeChange(Section):
    """What-if edits of one sort of edge."""

    device: DeviceChange = DeviceChange()
    channel: ChannelChange = ChannelChange()


class Edges(Section):
    """Edges that are alike."""

    device: DeviceName = Field(default="", description="not where layers are `measured`")
    channel: ChannelName
    count: Annotated[Count, Field(le=100_000)] = 1
    slower: Annotated[Factor, Field(ge=1)] = Field(
        default=1.0, description="how many times slower than the device they compute"
    )
    memory: Bytes | None = Field(default=None, description="default: the device's")
    battery: Joules | None = Field(
        default=None, description="energy, after which an edge stops; default: mains"
    )
    change: EdgeChange = EdgeChange()


class CloudChange(Section):
    """What-if edits of the cloud."""

    device: DeviceChange = DeviceChange()


class CloudSpec(Section):
    """What the edges send to."""

    device: DeviceName
    change: CloudChange = CloudChange()


class Pod(Section):
    """The machine: chips joined by a topology, an array of systolic arrays, or edges and a cloud.

    Names are the catalogue's, or paths to YAML files; None: the topology's own.
    """

    topology: TopologyName = Field(
        default="", description="none where the machine is an `array`, needed elsewhere"
    )
    array: Array | None = Field(default=None, description="systolic arrays, in place of all else")
    edges: dict[EdgesName, Edges] = Field(
        default={}, description="groups of edges that train with a `cloud`", max_length=1000
    )
    cloud: CloudSpec | None = None
    uplink: BytesPerSecond | None = Field(
        default=None, description="what all edges share on the way up; default: nothing"
    )
    downlink: BytesPerSecond | None = Field(default=None, description="the same on the way down")
    measured: FilePath | None = Field(
        default=None,
        description="layer times of a training record, in place of devices",
    )
    device: DeviceName | None = None
    library: LibraryName | None = None
    change: Change = Change()
    kernels: dict[Literal[OWN_KERNELS], str] = Field(  # type: ignore[valid-type]
        default={},
        description="which of the kernels that the device's card has is to do a kind of op",
    )
    prefetch_engine: str | None = Field(
        default=None,
        description="which of the copy engines that the device's card has is to fill L2; default: "
        "its first",
    )
    chip: Chip | None = Field(
        default=None,
        description="what a chip costs to make, for performance by area, dollar and watt; {}: by "
        "the estimates of 7 nm",
    )
    stragglers: dict[Annotated[int, Field(ge=0)], Factor] = Field(
        default={},
        description="rank -> how many times slower its compute and HBM are; of collectives "
        "alone, its steps",
    )
    collective: Annotated[str, Choice(ALGORITHM_NAMES, AUTO)] = AUTO
    faults: list[LinkFault] = Field(default=[], description="links that are slow, late, or gone")
    jitter: Seconds = Field(
        default=0.0, description="mean of a random (exponential) extra delay of each message"
    )


class Precision(Section):
    """Number formats of what is stored and moved."""

    weights: Dtype | None = Field(
        default=None, description="default: as the model's file says, part by part; else fp16"
    )
    activations: Dtype = "fp16"
    kv: Dtype = "fp16"
    communication: Dtype = "fp16"
    experts: Dtype | None = Field(
        default=None, description="of the experts' weights; default: as `weights`"
    )
    attention: Dtype | None = Field(
        default=None, description="of the weights of attention; default: as `weights`"
    )


class Routing(Section):
    """How tokens choose experts: as measured for the model, evenly, by a power law whose order
    `seed` draws, or as recorded."""

    skew: Annotated[float, Field(ge=0, le=10)] | None = Field(
        default=None,
        description="exponent of the power law; 0: even; default: as measured for the model's "
        "family, where its card names a profile, else even",
    )
    seed: Index = 0
    file: FilePath | None = Field(
        default=None,
        description="recorded tokens of each expert: a number a line, a line a layer, or JSON",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Routing:
        both = "skew and file are two ways to tell how popular experts are; give one"
        return self.unless((self.file and self.skew, both))

    def chances(self) -> routing.Routing:
        """As the op graph wants it."""
        counts = routing.recorded(self.file) if self.file else ()
        return routing.Routing(self.skew or 0.0, self.seed, counts)


class Parallel(Section):
    """How the model is split over the devices.  Experts meet tokens by `routing`."""

    tensor: Count = Field(
        default=1, description="ranks that share the heads of an attention, next to each other"
    )
    data: Count = Field(
        default=1,
        description="groups of them with sequences of their own, which meet at the experts",
    )
    expert: Count = Field(default=1, description="ranks that the experts are spread over")
    sequence: Count = Field(
        default=1, description="ranks of a tensor group that share a KV-cache by its tokens"
    )
    pipeline: Count = Field(
        default=1, description="stages, each with some of the layers, next to each other"
    )
    micro_batches: Count | None = Field(
        default=None,
        description="parts of the batch that are in the pipeline at once; default: as many as "
        "stages",
    )
    routing: Routing = Routing()

    @model_validator(mode="after")
    def _in_stages(self) -> Parallel:
        alone = self.pipeline == 1 and (self.micro_batches or 1) > 1
        return self.unless((alone, "micro_batches needs pipeline stages; set pipeline above 1"))

    def degrees(self) -> parallel.Parallel:
        """As the op graph wants them; ValueError if a recording cannot be read."""
        return parallel.Parallel(
            tensor=self.tensor,
            data=self.data,
            expert=self.expert,
            sequence=self.sequence,
            pipeline=self.pipeline,
            micro_batches=self.micro_batches or self.pipeline,
            routing=self.routing.chances(),
        )
