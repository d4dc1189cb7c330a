"""Ranks that communicate: a symmetric group folded to one rank, or every rank on its own when one of them differs."""

from __future__ import annotations

from collections.abc import Iterable

import simpy

from sim.engine.chip import Chip, LoweredOp
from sim.engine.flows import Capacity, Flow, Net, Work
from sim.hardware.device import Device
from sim.network.collectives import Network
from sim.spans import Timeline
from sim.workload.graph import Graph


class Group:
    """The ranks of one tensor-parallel group on a pod.

    Symmetric ranks do the same at the same time, so one is simulated and its collectives are folded plans. With
    stragglers (rank -> how many times slower) every rank is simulated: a collective starts when the last rank has
    come, and its plan is played send by send over the pod's links.
    """

    def __init__(
        self,
        env: simpy.Environment,
        device: Device,
        network: Network,
        ranks: int,
        *,
        stragglers: dict[int, float] | None = None,
        unfold: bool = False,
        timeline: Timeline | None = None,
        max_spans: int = 20_000,
    ) -> None:
        slow = stragglers or {}
        wrong = [rank for rank in slow if not 0 <= rank < ranks]
        if wrong:
            raise ValueError(f"straggler rank {wrong[0]} is not in the group: ranks are 0 to {ranks - 1}")
        if ranks < 1:
            raise ValueError(f"a group has at least 1 rank, not {ranks}")
        self.env, self.network, self.ranks, self.timeline = env, network, ranks, timeline
        self.net = Net(env)
        self.folded = not slow and not unfold
        self._links: dict[object, Capacity] = {}
        self._arrived: list[tuple[Chip, Work, simpy.Event]] = []
        self.chips = [
            Chip(
                env,
                self.net,
                device,
                rank,
                group=self,
                speed=1 / slow.get(rank, 1.0),
                timeline=timeline,
                max_spans=max_spans,
            )
            for rank in range(1 if self.folded else ranks)
        ]
        self.record(True)

    def record(self, on: bool) -> None:
        """Keep spans and uses from now on, or stop; without a timeline there is nothing to keep them in."""
        for chip in self.chips:
            chip.recording = on and self.timeline is not None
        self.net.record = self.timeline.uses.append if on and self.timeline is not None else None

    def close(self) -> None:
        """The simulation has stopped: report what is still on the capacities."""
        self.net.flush([c for chip in self.chips for c in (chip.hbm, chip.l2, chip.link)] + list(self._links.values()))

    def rates(self) -> dict[str, float]:
        """What one rank's capacities carry at most, for utilisation."""
        chip = self.chips[0]
        rates = {"HBM": chip.hbm.bytes_per_s, "L2": chip.l2.bytes_per_s, "link": chip.link.bytes_per_s}
        return rates | {"matrix": max(chip.device.matrix_flop_per_s.values())}

    def egress_bytes_per_s(self, rank: int) -> float:
        """What all of a chip's outgoing links carry together."""
        return sum(self.network.bytes_per_s(hop) for hop in self.network.graph.out_edges(rank)) or 1.0

    def run(self, graph: Graph):
        """Play one pass on every rank; a process."""
        programs = [chip.lower(graph) for chip in self.chips]
        yield from self.play(programs)

    def play(self, programs: list):
        """Play one lowered pass, one program a rank; a process."""
        if self.folded:
            yield from self.chips[0].run(programs[0])
            return
        running = [self.env.process(chip.run(program)) for chip, program in zip(self.chips, programs)]
        yield self.env.all_of(running)

    def meet(self, chip: Chip, op: LoweredOp, work: Work) -> simpy.Event:
        """A rank has come to a collective; the event at which it is done with it."""
        fold = self.network.fold(op.op.kind, self.ranks, op.message_bytes)
        # A later tile of a running kernel has been launched already.
        work.latency_s = fold.latency_s if op.op.launch else fold.latency_s - self.network.library.launch_s
        work.link_bytes = fold.sent_bytes
        work.note = f"{fold.algorithm}, {fold.rounds} rounds"
        if not self.folded:
            done = simpy.Event(self.env)
            self._arrived.append((chip, work, done))
            if len(self._arrived) == self.ranks:
                self.env.process(self._exchange(op, self._arrived))
                self._arrived = []
            return done
        hbm, l2, link = work.flows
        link.limit = fold.bytes_per_s
        now, net = self.env.now, self.net
        begins_s = work.floor_s = now + work.latency_s
        net.start(link, fold.sent_bytes, begins_s, now)
        end_s = self._memory(net, work, hbm, l2, begins_s, link.finish_s)
        work.end_s = end_s
        return self.env.timeout(end_s - now)

    @staticmethod
    def _memory(net: Net, work: Work, hbm: Flow, l2: Flow, begins_s: float, end_s: float) -> float:
        """The collective reads and writes its buffer too, against the kernels and prefetches of the time."""
        if work.l2_bytes:
            end_s = max(end_s, net.start(l2, work.l2_bytes, begins_s, net.env.now))
        if work.hbm_bytes:
            end_s = max(end_s, net.start(hbm, work.hbm_bytes, begins_s, net.env.now))
        return end_s

    def _exchange(self, op: LoweredOp, arrived: list[tuple[Chip, Work, simpy.Event]]):
        """Play the plan round by round; a round ends when its last send lands."""
        env, network = self.env, self.network
        _, rounds = network.plan(op.op.kind, self.ranks, op.message_bytes)
        start_s = env.now
        memory = []
        for _, work, _ in arrived:
            hbm, l2, _ = work.flows
            work.floor_s = begins_s = start_s + work.latency_s
            work.end_s = self._memory(self.net, work, hbm, l2, begins_s, begins_s)
            work.event = env.timeout(work.end_s - start_s)
            memory.append(work)
        if op.op.launch:
            yield env.timeout(network.library.launch_s)
        for sends in rounds:
            yield env.timeout(network.library.step_s)
            yield from self._round(sends)
        for work in memory:  # re-timed while the round ran, perhaps
            while work.end_s > env.now:
                yield env.timeout(work.end_s - env.now)
        for _, _, done in sorted(arrived, key=lambda each: each[0].rank):
            done.succeed()

    def _round(self, sends: Iterable[tuple[int, int, float]]):
        works = []
        now = self.env.now
        for source, target, nbytes in sends:
            work = Work(self.net)
            route = tuple(self._link(hop) for hop in self.network.routes(source, target))
            flow = Flow(work, route)
            work.flows = (flow,)
            begins_s = now + self.network.latency_s(source, target)
            work.floor_s = begins_s
            work.end_s = self.net.start(flow, nbytes, begins_s, now)
            work.event = self.env.timeout(work.end_s - now)
            works.append(work)
        for work in works:
            while work.flows[0].finish_s > self.env.now + 1e-12:
                yield self.env.timeout(work.flows[0].finish_s - self.env.now)

    def _link(self, hop) -> Capacity:
        if hop not in self._links:
            self._links[hop] = Capacity(f"{hop[0]} → {hop[1]}", self.network.bytes_per_s(hop))
        return self._links[hop]
