"""Ranks that communicate: a symmetric group folded to one rank, or every rank on its own when one
of them differs."""

from __future__ import annotations

import numpy as np
import simpy

from sim.engine.chip import Chip, LoweredOp, Tenancy
from sim.engine.exchange import Exchange, Known
from sim.engine.fabric import Fabric
from sim.engine.flows import Flow, Net, Work
from sim.facts.timeline import Timeline
from sim.graph.graph import Graph
from sim.hardware.device import Device
from sim.network.network import Network
from sim.network.wires import Ints


class Group:
    """The ranks of one tensor-parallel group on a pod.

    Symmetric ranks do the same at the same time, so one is simulated and its collectives are folded
    plans. With stragglers (rank -> how many times slower) every rank is simulated: each starts a
    collective when it comes to it, and the plan is played send by send over the pod's links. With a
    `tenancy` the chips are shared: with those of the group `beside` it, which is in the same
    simulation, or with those that will be put beside this one. `name` stands before the ranks on a
    timeline: a pipeline is a group for each stage.
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
        tenancy: Tenancy | None = None,
        name: str = "",
    ) -> None:
        slow = stragglers or {}
        wrong = [rank for rank in slow if not 0 <= rank < ranks]
        if wrong:
            raise ValueError(
                f"straggler rank {wrong[0]} is not in the group: ranks are 0 to {ranks - 1}"
            )
        if ranks < 1:
            raise ValueError(f"a group has at least 1 rank, not {ranks}")
        self.env, self.network, self.ranks, self.timeline, self.name = (
            env,
            network,
            ranks,
            timeline,
            name,
        )
        beside = tenancy.beside if tenancy else None
        self.net: Net = beside.net if beside else Net(env)
        self.folded = not slow and not unfold
        self.fabric: Fabric = (
            beside.fabric if beside else Fabric(env, network.wires.bytes_per_s, network.wires.name)
        )
        self.weight = tenancy.weight if tenancy else 1.0
        self.known: Known = {}
        self._meetings: dict[
            tuple[int, int], _Meeting
        ] = {}  # collectives under way, by number and first rank
        self._met = [0] * ranks  # collectives that each rank has come to
        self.chips: list[Chip] = [
            Chip(
                env,
                self.net,
                device,
                rank,
                group=self,
                speed=1 / slow.get(rank, 1.0),
                timeline=timeline,
                max_spans=max_spans,
                tenancy=tenancy,
            )
            for rank in range(1 if self.folded else ranks)
        ]
        self.record(True)

    def record(self, on: bool) -> None:
        """Keep spans and uses from now on, or stop; without a timeline there is nothing to keep
        them in."""
        for chip in self.chips:
            chip.recording = on and self.timeline is not None
        self.net.record = self.fabric.record = (
            self.timeline.uses.append if on and self.timeline is not None else None
        )

    def close(self) -> None:
        """The simulation has stopped: report what is still on the capacities."""
        self.net.flush([capacity for chip in self.chips for capacity in chip.capacities])

    def rates(self) -> dict[str, float]:
        """What one rank's capacities carry at most, for utilisation."""
        chip = self.chips[0]
        rates = {
            "HBM": chip.hbm.bytes_per_s,
            "L2": chip.l2.bytes_per_s,
            "link": chip.link.bytes_per_s,
        }
        return rates | {"matrix": max(chip.device.matrix_flop_per_s.values())}

    def egress_bytes_per_s(self, rank: int) -> float:
        """What all of a chip's outgoing links carry together."""
        return self.network.egress_bytes_per_s(rank)

    def run(self, graph: Graph):
        """Play one pass on every rank; a process."""
        programs = [chip.lower(graph) for chip in self.chips]
        yield from self.play(programs)

    def play(self, programs: list):
        """Play one lowered pass, one program a rank; a process."""
        if self.folded:
            yield from self.chips[0].run(programs[0])
            return
        running = [
            self.env.process(chip.run(program)) for chip, program in zip(self.chips, programs)
        ]
        yield self.env.all_of(running)

    def meet(self, chip: Chip, op: LoweredOp, work: Work) -> simpy.Event:
        """A rank has come to a collective; the event at which it is done with it."""
        fold = self.network.fold(op.op.kind, op.op.ranks or self.ranks, op.message_bytes)
        # A later tile of a running kernel has been launched already.
        work.latency_s = fold.latency_s if op.op.launch else fold.latency_s - fold.way.launch_s
        work.link_bytes = fold.sent_bytes
        work.note = fold.note
        if not self.folded:
            return self.env.process(self._take_part(chip, op, work))
        hbm, l2, link, *_ = work.flows
        link.limit = fold.bytes_per_s
        now, net = self.env.now, self.net
        begins_s = work.floor_s = now + work.latency_s
        net.start(link, fold.sent_bytes, begins_s, now)
        end_s = self._memory(net, work, hbm, l2, begins_s, link.finish_s)
        work.end_s = end_s
        return self.env.timeout(end_s - now)

    @staticmethod
    def _memory(net: Net, work: Work, hbm: Flow, l2: Flow, begins_s: float, end_s: float) -> float:
        """The collective reads and writes its buffer too, against the kernels and prefetches of the
        time."""
        if work.l2_bytes:
            end_s = max(end_s, net.start(l2, work.l2_bytes, begins_s, net.env.now))
        if work.hbm_bytes:
            end_s = max(end_s, net.start(hbm, work.hbm_bytes, begins_s, net.env.now))
        return end_s

    def _take_part(self, chip: Chip, op: LoweredOp, work: Work):
        """A rank's part in its next collective: its messages, and its buffer's traffic; a
        process."""
        env, number = self.env, self._met[chip.rank]
        self._met[chip.rank] += 1
        size = op.op.ranks or self.ranks
        first = chip.rank // size * size
        if (number, first) not in self._meetings:
            self._meetings[number, first] = _Meeting(self, op, range(first, first + size))
        meeting = self._meetings[number, first]
        meeting.exchange.arrive(np.array([chip.rank - first]), op.op.launch)
        hbm, l2, *_ = work.flows
        work.floor_s = begins_s = env.now + work.latency_s
        work.end_s = self._memory(self.net, work, hbm, l2, begins_s, begins_s)
        work.event = env.timeout(work.end_s - env.now)
        yield meeting.done[chip.rank - first]
        chip.sent(float(meeting.exchange.sent_bytes[chip.rank - first]))
        if all(event.triggered for event in meeting.done):
            self._meetings.pop((number, first), None)
        while work.end_s > env.now:  # re-timed while the rounds ran, perhaps
            yield env.timeout(work.end_s - env.now)


class _Meeting:
    """One collective of some of a group's ranks, and by rank the event at which its part is
    over."""

    def __init__(self, group: Group, op: LoweredOp, members: range) -> None:
        network = group.network
        self.done = [simpy.Event(group.env) for _ in members]
        who = len(members) if members.start == 0 else tuple(members)
        way, plan = network.plan(op.op.kind, who, op.message_bytes)
        ranks = network.members(who).ranks
        self.exchange = Exchange(
            group.env,
            group.fabric,
            network,
            ranks,
            plan,
            way,
            self._over,
            weight=group.weight,
            known=group.known,
        )
        others = [place for place, rank in enumerate(members) if rank >= group.ranks]
        if others:  # ranks of the next stage: they are there to receive
            self.exchange.arrive(np.array(others))

    def _over(self, ranks: Ints) -> None:
        for rank in ranks.tolist():
            self.done[rank].succeed()
