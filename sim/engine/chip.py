"""One chip: three streams that run an op graph, an HBM and an L2 they contend for.

Each stream is a SimPy process that takes its ops in order; an op waits for what it depends on, then
becomes one `Work`: a fixed cost, arithmetic, and flows over the HBM and L2 ports in overlap.
Collectives are handed to the group. A program has one kernel at a time, so its arithmetic has the
engines to itself; where several programs run on a chip at once, arithmetic is a flow too, of
seconds over an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import simpy

from sim.engine.flows import Capacity, Flow, Net, Work
from sim.facts.span import BOUNDS, Span
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.graph.graph import STREAMS, Graph, Layer, Op, Stream, is_collective
from sim.hardware.cost import (
    arithmetic_seconds,
    hbm_bytes_per_s,
    hbm_limit,
    overhead_seconds,
    unhidden_share,
)
from sim.hardware.device import Device
from sim.hardware.residency import Residency

if TYPE_CHECKING:
    from sim.engine.group import Group

Process = Generator[simpy.Event, object, None]
_COMPUTE, _HBM, _L2, _LINK, _LATENCY = range(5)
# A weight or KV-cache is known as layer * _WIDTH + the id of its name; an op's slot, as layer *
# _WIDTH + that of its name.
_WIDTH = 128


class LoweredOp:
    """An op with this device's numbers in it, and the sums that its plays leave behind."""

    __slots__ = (
        "arithmetic_s",
        "bound_s",
        "buffer_hit",
        "buffer_miss",
        "collective",
        "deps",
        "fixed_s",
        "hbm_limit",
        "idle",
        "message_bytes",
        "op",
        "plays",
        "reads",
        "slot",
        "unhidden_s",
    )

    def __init__(self, op: Op, slot: int, device: Device, tensor_id: Callable[[str], int]) -> None:
        self.op, self.slot, self.collective, self.idle = op, slot, is_collective(op), op.idle
        self.fixed_s = (
            overhead_seconds(device, op.kernel, op.engine)
            if op.launch and not self.collective
            else 0.0
        )
        self.arithmetic_s = arithmetic_seconds(
            device, op.engine, op.dtype, op.flop, op.kernel, op.lone_flop
        )
        self.reads = [
            (tensor.ahead * _WIDTH + tensor_id(tensor.name), tensor.nbytes)
            for tensor in op.reads
            if tensor.kind != "activation" and tensor.nbytes
        ]
        # Buffers that layers reuse stay in L2 beside the rest if what the op touches of them fits,
        # else they are in HBM.
        buffers = sum(
            tensor.nbytes for tensor in (*op.reads, *op.writes) if tensor.kind == "activation"
        )
        fits = buffers <= device.l2_bytes
        self.buffer_hit = buffers if fits else 0.0
        self.buffer_miss = 0.0 if fits else buffers
        self.message_bytes = op.message_bytes
        self.hbm_limit = hbm_limit(device, op.kernel)
        # With the port to itself and nothing in L2: what a kernel cannot overlap is decided by how
        # it is written.
        alone_s = (sum(nbytes for _, nbytes in self.reads) + self.buffer_miss) / min(
            hbm_bytes_per_s(device), self.hbm_limit
        )
        self.unhidden_s = unhidden_share(device, op.kernel) * min(self.arithmetic_s, alone_s)
        self.deps: tuple[int, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Forget the plays so far."""
        self.plays = 0
        self.bound_s = [0.0] * len(BOUNDS)


class LoweredLayer:
    """A layer split by stream, with dependencies as distances in a table of slots."""

    __slots__ = ("name", "ops", "streams")

    def __init__(
        self, layer: Layer, device: Device, slot_of: dict[str, int], tensor_id: Callable[[str], int]
    ) -> None:
        self.name = layer.name
        self.ops = [LoweredOp(op, slot_of[op.name], device, tensor_id) for op in layer.ops]
        self.streams = {
            stream: [op for op in self.ops if op.op.stream == stream] for stream in STREAMS
        }
        for lowered in self.ops:
            lowered.deps = tuple(
                slot_of[after.name] - after.back * _WIDTH for after in lowered.op.after
            )


class Program:
    """A graph lowered for one device: equal layers lowered once."""

    def __init__(self, graph: Graph, device: Device, tensor_id: Callable[[str], int]) -> None:
        slot_of: dict[str, int] = {}
        distinct = list(dict.fromkeys(graph.layers))
        for layer in distinct:
            for op in layer.ops:
                slot_of.setdefault(op.name, len(slot_of))
        if len(slot_of) > _WIDTH:
            raise ValueError(f"a graph has {len(slot_of)} op names; at most {_WIDTH} are supported")
        lowered = {layer: LoweredLayer(layer, device, slot_of, tensor_id) for layer in distinct}
        self.distinct = list(lowered.values())
        self.layers = [lowered[layer] for layer in graph.layers]
        self.streams = [
            stream for stream in STREAMS if any(layer.streams[stream] for layer in self.distinct)
        ]


class Ports(NamedTuple):
    """What the programs on one chip share, each by its weight.  Engines give one second of
    arithmetic a second."""

    hbm: Capacity
    l2: Capacity
    link: Capacity
    engines: dict[str, Capacity]


class Tenancy(NamedTuple):
    """A program that does not have its chips to itself: in which simulation, who is there already,
    its weight, and what to call it."""

    env: simpy.Environment
    beside: Group | None
    weight: float
    name: str


class Chip:
    """One rank.  `speed` < 1 makes it a straggler: its arithmetic and its HBM run that much slower.

    `group` plays its collectives (`sim.engine.group`); None for a lone chip.
    """

    def __init__(
        self,
        env: simpy.Environment,
        net: Net,
        device: Device,
        rank: int = 0,
        *,
        group: Group | None = None,
        speed: float = 1.0,
        timeline: Timeline | None = None,
        max_spans: int = 20_000,
        tenancy: Tenancy | None = None,
    ) -> None:
        if speed != 1.0:
            device = replace(
                device,
                matrix_flop_per_s={
                    dtype: rate * speed for dtype, rate in device.matrix_flop_per_s.items()
                },
                vector_flop_per_s=device.vector_flop_per_s * speed,
                hbm_bytes_per_s=device.hbm_bytes_per_s * speed,
            )
        self.env, self.net, self.device, self.rank, self.group = env, net, device, rank, group
        self.timeline, self.max_spans, self.recording = timeline, max_spans, timeline is not None
        self.weight, self.label = 1.0, f"{group.name if group else ''} rank {rank}".strip()
        self.hbm = Capacity(f"{self.label}/HBM", hbm_bytes_per_s(device))
        self.l2 = Capacity(f"{self.label}/L2", device.l2_bytes_per_s)
        self.link = Capacity(f"{self.label}/link", group.egress_bytes_per_s(rank) if group else 1.0)
        self.engines: dict[str, Capacity] = {}
        if tenancy is not None:
            self._share(tenancy)
        if timeline is not None:
            timeline.capacities |= {c.name: c.bytes_per_s for c in self.capacities}
        self.residency = Residency(device.l2_bytes)
        self.totals = Totals(
            span_s={stream: {} for stream in STREAMS}, bound_s=dict.fromkeys(BOUNDS, 0.0)
        )
        self._ids: dict[str, int] = {}
        self._fetching: int | None = None  # the range that the copy engine is bringing
        self._works = {stream: self._new_work(stream) for stream in STREAMS}

    @property
    def capacities(self) -> tuple[Capacity, ...]:
        """All that its ops contend for."""
        return (self.hbm, self.l2, self.link, *self.engines.values())

    def _new_work(self, stream: str) -> Work:
        work = Work(self.net)
        limit = self.device.prefetch_bytes_per_s if stream == "prefetch" else float("inf")
        ports = [(self.hbm, limit), (self.l2, float("inf")), (self.link, float("inf"))]
        ports += [(engine, float("inf")) for engine in self.engines.values()]
        work.flows = tuple(Flow(work, (port,), most, self.weight) for port, most in ports)
        return work

    def _share(self, tenancy: Tenancy) -> None:
        """Have the ports of the chip, and its engines, together with the others on it."""
        self.weight, self.label = tenancy.weight, f"rank {self.rank} {tenancy.name}"
        self.moved = {"HBM": 0.0, "L2": 0.0, "link": 0.0}  # what the ports moved is not ours alone
        self.ports: Ports = (
            Ports(
                self.hbm,
                self.l2,
                self.link,
                {
                    name: Capacity(f"rank {self.rank}/{name} engine", 1.0)
                    for name in ("matrix", "vector")
                },
            )
            if tenancy.beside is None
            else tenancy.beside.chips[self.rank].ports
        )
        self.hbm, self.l2, self.link, self.engines = self.ports

    def _tensor_id(self, name: str) -> int:
        index = self._ids.setdefault(name, len(self._ids))
        if index >= _WIDTH:
            raise ValueError(f"a graph names more than {_WIDTH} tensors a layer")
        return index

    def lower(self, graph: Graph) -> Program:
        """The graph with this chip's numbers in it; may be run many times."""
        return Program(graph, self.device, self._tensor_id)

    def run(self, program: Program) -> Process:
        """Play one pass; ends when every stream has."""
        start_s = self.env.now
        done = bytearray(len(program.layers) * _WIDTH)
        waiting: dict[int, simpy.Event] = {}
        running = [
            self.env.process(self._stream(stream, program, done, waiting))
            for stream in program.streams
        ]
        yield from running
        self._add_up(program, self.env.now - start_s)

    def _stream(
        self, stream: Stream, program: Program, done: bytearray, waiting: dict[int, simpy.Event]
    ) -> Process:
        env, work, order = self.env, self._works[stream], self.net.order
        play = {
            "compute": self._kernel,
            "communication": self._communicate,
            "prefetch": self._prefetch,
        }[stream]
        for index, layer in enumerate(program.layers):
            base = index * _WIDTH
            for op in layer.streams[stream]:
                for dep in op.deps:
                    at = base + dep
                    if at >= 0 and not done[at]:
                        # An op in flight may be re-timed, so who waits hangs on a placeholder that
                        # the op completes.
                        if at not in waiting:
                            waiting[at] = simpy.Event(env)
                        yield waiting[at]
                slot, start_s = base + op.slot, env.now
                event = None if op.idle else play(op, base, work)
                if event is not None:
                    work.event = event
                    yield event
                    took = env.now - start_s
                    op.plays += 1
                    cause = _cause(op, work, start_s)
                    bound = cause if took > 2 * op.fixed_s else _LATENCY
                    op.bound_s[bound] += took
                    if order is not None:
                        order.append(slot * 64 + cause * 8 + bound)
                    if self.engines:
                        self._tally(op, work)
                    if self.recording:
                        self._record(
                            stream, op, f"{layer.name} {index}", start_s, BOUNDS[bound], work
                        )
                done[slot] = 1
                if slot in waiting:
                    waiting.pop(slot).succeed()

    def _touch(self, op: LoweredOp, base: int, work: Work) -> None:
        """Look up what the op reads: bytes served by L2, and bytes that HBM must move."""
        hit, miss = op.buffer_hit, op.buffer_miss
        for key, nbytes in op.reads:
            key += base
            if key == self._fetching:
                # The kernel's own reads now bring the rest, and the copy engine finds nothing left
                # to do.
                self.net.cancel(self._works["prefetch"].flows[0])
                self._fetched(key)
            found = self.residency.read(key, nbytes)
            hit += found
            miss += nbytes - found
        work.hbm_bytes, work.l2_bytes = miss, hit

    def _kernel(self, op: LoweredOp, base: int, work: Work) -> simpy.Event:
        self._touch(op, base, work)
        now, net = self.env.now, self.net
        begins_s = now + op.fixed_s + op.unhidden_s
        end_s = work.floor_s = begins_s + op.arithmetic_s
        hbm, l2, _, *engines = work.flows
        if engines and op.arithmetic_s:
            work.floor_s = begins_s
            engine = engines[0 if op.op.engine == "matrix" else 1]
            end_s = net.start(engine, op.arithmetic_s, begins_s, now)
        if work.l2_bytes:
            end_s = max(end_s, net.start(l2, work.l2_bytes, begins_s, now))
        if work.hbm_bytes:
            hbm.limit = op.hbm_limit
            end_s = max(end_s, net.start(hbm, work.hbm_bytes, begins_s, now))
        if net.order is not None:
            net.order.append((work.l2_bytes > 0, work.hbm_bytes > 0))
        work.end_s = end_s
        return self.env.timeout(end_s - now)

    def _communicate(self, op: LoweredOp, base: int, work: Work) -> simpy.Event:
        if self.group is None:
            raise ValueError(f"op {op.op.name}: a collective on a chip that has no group")
        self._touch(op, base, work)
        return self.group.meet(self, op, work)

    def _prefetch(self, op: LoweredOp, base: int, work: Work) -> simpy.Event | None:
        """Copy what is not in L2 yet.  Nothing to copy (a kernel was there first) costs nothing."""
        ((key, nbytes),) = op.reads
        key += base
        missing = nbytes - self.residency.held(key)
        if self.net.order is not None:
            self.net.order.append(missing > 0)
        if missing <= 0:
            return None
        now = self.env.now
        work.floor_s = now
        work.hbm_bytes, work.l2_bytes = missing, 0.0
        self._fetching = key
        end_s = work.end_s = self.net.start(work.flows[0], missing, now + op.fixed_s, now)
        event = self.env.timeout(end_s - now)
        event.callbacks.append(lambda _: self._fetched(key))
        return event

    def _fetched(self, key: int) -> None:
        """A prefetch ended, or was overtaken: what it moved is resident now."""
        if self._fetching != key:
            return
        work = self._works["prefetch"]
        self._fetching = None
        moved = self.net.cancel(work.flows[0])
        work.hbm_bytes = moved
        self.totals.prefetched_bytes += moved
        self.residency.fill(key, self.residency.held(key) + moved)

    def _record(
        self, stream: str, op: LoweredOp, layer: str, start_s: float, bound: str, work: Work
    ) -> None:
        timeline = self.timeline
        assert timeline is not None
        if len(timeline.spans) >= self.max_spans:
            timeline.truncated += 1
            return
        link = work.link_bytes if op.collective else 0.0
        timeline.spans.append(
            Span(
                f"{self.label}/{stream}",
                f"{layer}: {op.op.name}",
                op.op.kind,
                start_s,
                self.env.now,
                work.hbm_bytes,
                work.l2_bytes,
                link,
                op.op.flop,
                bound,
                work.note if op.collective else "",
            )
        )

    def sent(self, nbytes: float) -> None:
        """Bytes have left over the pod's links, and not over the port that stands for them where
        ranks are folded."""
        if self.engines:
            self.moved["link"] += nbytes
        else:
            self.link.moved += nbytes

    def _tally(self, op: LoweredOp, work: Work) -> None:
        self.moved["HBM"] += work.hbm_bytes
        self.moved["L2"] += work.l2_bytes
        if op.collective and self.group is not None and self.group.folded:
            self.moved["link"] += work.link_bytes

    def _add_up(self, program: Program, seconds: float) -> None:
        """Move the sums of a finished pass from its ops to the chip's totals."""
        totals = self.totals
        totals.seconds += seconds
        totals.steps += 1
        for layer in program.distinct:
            for op in layer.ops:
                if not op.plays:
                    continue
                kinds = totals.span_s[op.op.stream]
                kinds[op.op.kind] = kinds.get(op.op.kind, 0.0) + sum(op.bound_s)
                totals.ops += op.plays
                if op.op.stream != "prefetch":
                    totals.asked_bytes += op.plays * sum(tensor.nbytes for tensor in op.op.reads)
                totals.flop += op.plays * op.op.flop
                if op.op.engine == "matrix":
                    totals.matrix_flop += op.plays * op.op.flop
                if op.op.stream == "compute":
                    for bound, spent_s in zip(BOUNDS, op.bound_s):
                        totals.bound_s[bound] += spent_s
                op.clear()
        for name, capacity in (("HBM", self.hbm), ("L2", self.l2), ("link", self.link)):
            totals.bytes[name] = self.moved[name] if self.engines else capacity.moved
        totals.unused_prefetch_bytes = self.residency.wasted


def _cause(op: LoweredOp, work: Work, start_s: float) -> int:
    """Which of the op's needs ended last: an index into BOUNDS."""
    hbm, l2, link, *engines = work.flows
    cause, last_s = _COMPUTE, max([work.floor_s, *(engine.finish_s for engine in engines)])
    if work.hbm_bytes and hbm.finish_s > last_s:
        cause, last_s = _HBM, hbm.finish_s
    if work.l2_bytes and l2.finish_s > last_s:
        cause, last_s = _L2, l2.finish_s
    if op.collective and (link.finish_s >= last_s or work.floor_s >= last_s):
        cause = _LINK if link.finish_s - start_s > 2 * work.latency_s else _LATENCY
    return cause
