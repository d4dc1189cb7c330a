"""One chip: the streams of a program, and the HBM and L2 they contend for.

Each stream takes its ops in order; an op waits for what it depends on, then becomes one `Work`: a
fixed cost, arithmetic, and flows over the HBM and L2 ports in overlap. Collectives are for whoever
joins the chips to play. One kernel at a time has the engines to itself; where several programs run
on a chip at once, or several streams of one compute, arithmetic is a flow too, of seconds over an
engine. A stream is no process but a chain of callbacks, an alarm for each op: that is what an op
costs to simulate.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator
from functools import partial
from heapq import heappop
from itertools import count
from math import inf
from typing import NamedTuple

import simpy

from sim.engine.flows import CALLED_OFF, NORMAL, Alarm, Capacity, Flow, Net, Work, go_off
from sim.engine.program import LoweredOp, Program
from sim.facts.span import BOUNDS, Span
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.graph.graph import STREAMS, Graph
from sim.hardware.cost import hbm_bytes_per_s
from sim.hardware.device import Device
from sim.hardware.residency import Residency

_COMPUTE, _HBM, _L2, _LINK, _LATENCY = range(5)
_ENGINES = ("matrix", "vector")
_EVENLY = 0.6180339887498949  # its multiples, less their whole parts, are spread evenly


class Ports(NamedTuple):
    """What the ops on one chip contend for.  Engines, where they are shared, give one second of
    arithmetic a second."""

    hbm: Capacity
    l2: Capacity
    link: Capacity
    engines: dict[str, Capacity]

    @classmethod
    def of(cls, device: Device, label: str, link_bytes_per_s: float = 1.0) -> Ports:
        """Those of a chip of its own."""
        return cls(
            Capacity(
                f"{label}/HBM",
                hbm_bytes_per_s(device),
                (
                    device.prefetch_bytes_per_s,
                    device.prefetch_shared_bytes_per_s or device.prefetch_bytes_per_s,
                    device.prefetch_hbm_share or 1.0,
                ),
            ),
            Capacity(f"{label}/L2", device.l2_bytes_per_s),
            Capacity(f"{label}/link", link_bytes_per_s),
            {},
        )

    def share_engines(self, label: str) -> None:
        """From now on kernels may run at the same time."""
        for name in _ENGINES:
            self.engines.setdefault(name, Capacity(f"{label}/{name} engine", 1.0))

    @property
    def all(self) -> tuple[Capacity, ...]:
        """All of them."""
        return (self.hbm, self.l2, self.link, *self.engines.values())


Meet = Callable[["Chip", LoweredOp, Work], simpy.Event | float]


class Chip:
    """One rank, with the `ports` of its own or those that it shares with other programs on the
    chip.

    `meet` plays its collectives. `label` stands before its streams on a timeline.
    """

    def __init__(
        self,
        env: simpy.Environment,
        net: Net,
        device: Device,
        rank: int,
        ports: Ports,
        meet: Meet,
        *,
        label: str = "",
        shares: bool = False,
        weight: float = 1.0,
        timeline: Timeline | None = None,
        max_spans: int = 20_000,
    ) -> None:
        self.env, self.net, self.device, self.rank, self.meet = env, net, device, rank, meet
        self.timeline, self.max_spans, self.recording = timeline, max_spans, timeline is not None
        self.ports, self.weight, self.label = ports, weight, label
        self.hbm, self.l2, self.link, self.engines = ports
        # What the ports moved is not ours alone where others are on the chip.
        self.moved = {"HBM": 0.0, "L2": 0.0, "link": 0.0} if shares else None
        self._show()
        self.residency = Residency(device.l2_common_bytes, device.l2_set_aside_bytes or 0.0)
        self.totals = Totals(span_s={stream: {} for stream in STREAMS})
        self._ids: defaultdict[str, int] = defaultdict(count().__next__)  # of tensors
        # The ranges that are on their way: who brings them, and the bytes that were missing.
        self._fetching: dict[int, tuple[Work, float]] = {}
        self._works: dict[str, Work] = {}

    def _show(self) -> None:
        if self.timeline is not None:
            self.timeline.capacities |= {c.name: c.bytes_per_s for c in self.ports.all}

    def lower(self, graph: Graph) -> Program:
        """The graph with this chip's numbers in it; may be run many times."""
        program = Program(graph, self.device, self._ids)
        if program.overlaps and not self.engines:
            self.ports.share_engines(f"rank {self.rank}")
            self._show()
            self._works.clear()
        return program

    def run(self, program: Program) -> Generator[simpy.Event, object, None]:
        """Play one pass; ends when every stream has."""
        start_s = self.env.now
        run = _Pass(program, self.env)
        if program.streams:
            run.go([_Stream(self, name, self._work(name), run) for name in program.streams])
            run.wake()
            if self.moved is None:
                go_off(self.env)
            yield run.over
        self._add_up(program, self.env.now - start_s)

    def _work(self, stream: str) -> Work:
        if stream not in self._works:
            work = self._works[stream] = Work(self.env)
            work.flows = tuple(Flow(work, port, inf, self.weight) for port in self.ports.all)
        return self._works[stream]

    def _touch(self, op: LoweredOp, index: int, work: Work) -> None:
        """Look up what the op reads: bytes served by L2, and bytes that HBM must move."""
        hit, miss = op.buffer_hit, op.buffer_miss
        for key, nbytes in op.reads:
            key += index
            if key in self._fetching:
                self.fetched(self._fetching[key][0], key)
            found = self.residency.read(key, nbytes)
            hit += found
            miss += nbytes - found
        work.hbm_bytes, work.l2_bytes = miss, hit

    def kernel(self, op: LoweredOp, index: int, work: Work) -> float:
        """Begin a kernel; when it ends, if nobody else comes."""
        self._touch(op, index, work)
        now, net = self.env._now, self.net
        begins_s = now + op.fixed_s + op.unhidden_s
        end_s = work.floor_s = begins_s + op.arithmetic_s
        if self.engines and op.arithmetic_s:
            work.floor_s = begins_s
            engine = work.flows[3 + _ENGINES.index(op.op.engine)]
            end_s = net.start(engine, op.arithmetic_s, begins_s, now)
        work.end_s = end_s = self.moving(work, begins_s, end_s, op.l2_limit, op.hbm_limit)
        if net.order is not None:
            net.order.append((work.l2_bytes > 0, work.hbm_bytes > 0, op.spills))
        return end_s

    def moving(
        self, work: Work, begins_s: float, end_s: float, l2_limit: float, hbm_limit: float
    ) -> float:
        """Begin the traffic of an op over L2 and HBM; when it ends, `end_s` at the earliest."""
        hbm, l2, now, start = work.flows[0], work.flows[1], self.env._now, self.net.start
        l2.limit, hbm.limit, hbm.copies = l2_limit, hbm_limit, False
        if work.l2_bytes:
            finish_s = start(l2, work.l2_bytes, begins_s, now)
            end_s = finish_s if finish_s > end_s else end_s
        if work.hbm_bytes:
            finish_s = start(hbm, work.hbm_bytes, begins_s, now)
            end_s = finish_s if finish_s > end_s else end_s
        return end_s

    def communicate(self, op: LoweredOp, index: int, work: Work) -> simpy.Event | float:
        """Come to a collective; the time of its end, or the event."""
        self._touch(op, index, work)
        return self.meet(self, op, work)

    def prefetch(self, op: LoweredOp, index: int, work: Work) -> float:
        """Copy what is not in L2 yet; when that ends, if nobody else comes.  Where a kernel was
        there first nothing is copied, but the command has been given all the same."""
        device, residency = self.device, self.residency
        now, fixed_s = self.env._now, op.fixed_s
        slow = device.prefetch_tail_share
        if slow and (index * 64 + op.slot) * _EVENLY % 1.0 < slow:
            fixed_s = device.prefetch_tail_s or fixed_s
        work.floor_s = end_s = work.end_s = now + fixed_s
        missing = {key + index: nbytes - residency.held(key + index) for key, nbytes in op.reads}
        total = sum(nbytes for nbytes in missing.values() if nbytes > 0.0)
        if self.net.order is not None:
            self.net.order.append(tuple(nbytes > 0.0 for nbytes in missing.values()))
        work.hbm_bytes, work.l2_bytes = total, 0.0
        if total:
            for key, nbytes in missing.items():
                if nbytes > 0.0:
                    self._fetching[key] = work, nbytes
            flow = work.flows[0]
            flow.limit, flow.copies = op.hbm_limit, True
            end_s = work.end_s = self.net.start(flow, total, end_s, now)
        return end_s

    def fetched(self, work: Work, by_kernel: int | None = None) -> None:
        """A prefetch ended, or a kernel came to one of its ranges: what it moved is resident now.
        The kernel's own reads bring the rest of that range; the copy goes on with the others."""
        due = {key: nbytes for key, (by, nbytes) in self._fetching.items() if by is work}
        if not due:
            return
        flow, total = work.flows[0], sum(due.values())
        moved = self.net.cancel(flow)
        self.totals.prefetched_bytes += moved
        rest = 0.0
        for key, nbytes in due.items():
            done = nbytes * moved / total
            self.residency.fill(key, self.residency.held(key) + done)
            if by_kernel in (None, key):
                del self._fetching[key]
            else:
                self._fetching[key] = work, nbytes - done
                rest += nbytes - done
        work.hbm_bytes += moved + rest - total
        if rest:
            now = self.env._now
            self.net.start(flow, rest, max(now, work.floor_s), now)
            work.move()

    def record(
        self, stream: str, op: LoweredOp, layer: str, start_s: float, bound: str, work: Work
    ) -> None:
        """Keep the span of an op that ended now."""
        timeline = self.timeline
        assert timeline is not None
        if len(timeline.spans) >= self.max_spans:
            timeline.truncated += 1
            timeline.full_s = self.env.now if timeline.full_s is None else timeline.full_s
            return
        timeline.spans.append(
            Span(
                track=f"{self.label}/{stream}",
                name=f"{layer}: {op.op.name}",
                kind=op.op.kind,
                start_s=start_s,
                end_s=self.env.now,
                hbm_bytes=work.hbm_bytes,
                l2_bytes=work.l2_bytes,
                link_bytes=work.link_bytes if op.collective else 0.0,
                flop=op.op.flop,
                bound=bound,
                note=op.fold.note if op.fold else "",
            )
        )

    def sent(self, nbytes: float) -> None:
        """Bytes have left over the pod's links, and not over the port that stands for them where
        ranks are folded."""
        if self.moved is not None:
            self.moved["link"] += nbytes
        else:
            self.link.moved += nbytes

    def _add_up(self, program: Program, seconds: float) -> None:
        """Move the sums of a finished pass from its ops to the chip's totals."""
        totals = self.totals
        totals.seconds += seconds
        totals.steps += 1
        for op in program.ops:
            if not op.plays:
                continue
            kinds = totals.span_s.setdefault(op.op.stream, {})
            kinds[op.op.kind] = kinds.get(op.op.kind, 0.0) + sum(op.bound_s)
            totals.ops += op.plays
            if op.op.kind != "prefetch":
                totals.asked_bytes += op.plays * sum(tensor.nbytes for tensor in op.op.reads)
            totals.flop += op.plays * (op.op.flop + op.op.vector_flop)
            if op.op.engine == "matrix":
                totals.matrix_flop += op.plays * op.op.flop
            if op.op.stream == "compute":
                limits = totals.limit_s.setdefault(op.op.kind, dict.fromkeys(BOUNDS, 0.0))
                for bound, spent_s in zip(BOUNDS, op.bound_s):
                    limits[bound] += spent_s
            op.clear()
        for name, capacity in (("HBM", self.hbm), ("L2", self.l2), ("link", self.link)):
            totals.bytes[name] = capacity.moved if self.moved is None else self.moved[name]
        totals.unused_prefetch_bytes = self.residency.wasted


class _Pass:
    """What the streams of one pass know of each other."""

    __slots__ = ("done", "env", "left", "more", "over", "program", "ready", "waiting")

    def __init__(self, program: Program, env: simpy.Environment) -> None:
        self.program, self.env, self.over = program, env, simpy.Event(env)
        self.left = len(program.streams)
        self.done = bytearray(len(program.layers) * program.width)
        self.waiting: dict[int, list[_Stream]] = {}  # by op: who goes on after it
        # Who goes on at this very time, with their turn among all that happens then.
        self.ready: deque[tuple[int, list[_Stream]]] = deque()
        self.more = False  # whether others go on at this very time

    def go(self, streams: list[_Stream]) -> None:
        """They go on now, one after the other; then those who waited for what they have ended."""
        self.more = True
        for stream in streams[:-1]:
            stream.go()
        self.more = False
        streams[-1].go()

    def wake(self) -> None:
        """Those who are ready go on, each when it is their turn."""
        env = self.env
        while self.ready:
            turn, streams = self.ready.popleft()
            if env._queue and env._queue[0] < (env._now, NORMAL, turn):
                Alarm(env, 0.0, partial(self._woken, streams), turn=turn)
            else:
                self.go(streams)

    def _woken(self, streams: list[_Stream], _: object) -> None:
        self.go(streams)
        self.wake()


class _Stream:
    """A stream of one pass: the op at hand, and what is left."""

    __slots__ = ("base", "chip", "index", "name", "op", "run", "start_s", "todo", "work")

    def __init__(self, chip: Chip, name: str, work: Work, run: _Pass) -> None:
        self.chip, self.name, self.work, self.run = chip, name, work, run
        self.todo = iter(run.program.streams[name])
        self.start_s = 0.0
        self.index, self.base, self.op = next(self.todo)

    def go(self) -> None:
        """Go on with the op at hand, to the first that waits for another stream or an alarm.

        An op that ends before anything else happens needs no alarm: the clock is put forward. That
        is what SimPy's loop would do next.
        """
        chip, run, work, env = self.chip, self.run, self.work, self.chip.env
        done, queue, alone = run.done, env._queue, chip.moved is None
        while True:
            op = self.op
            for dep in op.deps:
                at = self.base + dep
                if at >= 0 and not done[at]:
                    run.waiting.setdefault(at, []).append(self)
                    return
            if not op.idle:
                now = self.start_s = env._now
                if op.prefetch:
                    end_s = chip.prefetch(op, self.index, work)
                elif op.collective:
                    end = chip.communicate(op, self.index, work)
                    if not isinstance(end, float):
                        assert end.callbacks is not None
                        work.event = end
                        end.callbacks.append(self._ended)
                        return
                    end_s = end
                else:
                    end_s = chip.kernel(op, self.index, work)
                due_s = now + (end_s - now)
                while queue and queue[0][3].callbacks is CALLED_OFF:
                    heappop(queue)
                busy = run.more or run.ready or (queue and queue[0][0] <= due_s)
                if busy or not alone:
                    work.event = Alarm(env, end_s - now, self._ended)
                    return
                env._now = due_s
                self._note(op, due_s)
            if not self._next():
                return

    def _ended(self, _: object) -> None:
        """The op at hand has ended."""
        self._note(self.op, self.chip.env._now)
        if self._next():
            self.go()
        if self.run.ready:
            self.run.wake()

    def _note(self, op: LoweredOp, now: float) -> None:
        """Write down what became of an op that ended."""
        chip, work, start_s = self.chip, self.work, self.start_s
        if op.prefetch:
            chip.fetched(work)
        flows, took = work.flows, now - start_s
        # Which of the op's needs ended last.
        cause, last_s = _COMPUTE, work.floor_s
        if chip.engines:
            last_s = max(last_s, *(engine.finish_s for engine in flows[3:]))
        if work.hbm_bytes and flows[0].finish_s > last_s:
            cause, last_s = _HBM, flows[0].finish_s
        if work.l2_bytes and flows[1].finish_s > last_s:
            cause, last_s = _L2, flows[1].finish_s
        if op.collective and (flows[2].finish_s >= last_s or work.floor_s >= last_s):
            waited = flows[2].finish_s - start_s <= 2 * work.latency_s
            cause = _LATENCY if waited else _LINK
        bound = cause if took > 2 * op.fixed_s else _LATENCY
        op.plays += 1
        op.bound_s[bound] += took
        if chip.net.order is not None:
            chip.net.order.append((self.base + op.slot) * 64 + cause * 8 + bound)
        if chip.moved is not None:
            chip.moved["HBM"] += work.hbm_bytes
            chip.moved["L2"] += work.l2_bytes
        if chip.recording:
            layer = f"{self.run.program.layers[self.index].name} {self.index}"
            chip.record(self.name, op, layer, start_s, BOUNDS[bound], work)

    def _next(self) -> bool:
        """The op at hand is over: whoever waits for it goes on now, after this stream; whether
        there is another."""
        run, slot = self.run, self.base + self.op.slot
        run.done[slot] = 1
        if slot in run.waiting:
            run.ready.append((next(run.env._eid), run.waiting.pop(slot)))
        following = next(self.todo, None)
        if following is not None:
            self.index, self.base, self.op = following
            return True
        run.left -= 1
        if not run.left:
            run.over.succeed()
        return False
