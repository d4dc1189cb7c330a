"""Members that communicate, each a device with its op graph: equal members are folded to one, and
every member is on its own where one differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import simpy

from sim.engine.chip import Chip, Ports
from sim.engine.exchange import Exchange, Known
from sim.engine.fabric import Fabric
from sim.engine.flows import Alarm, Net, Work
from sim.engine.program import LoweredOp, Program
from sim.facts.timeline import Timeline
from sim.graph.batch import Batch
from sim.graph.graph import Graph
from sim.hardware.device import Device, slower
from sim.network.network import Network
from sim.network.wires import Ints

GraphOf = Callable[[Batch], Graph]
GroupOf = Callable[[Timeline | None], "Group"]


class Member(NamedTuple):
    """One rank: its device, and what a pass over a batch asks of it."""

    device: Device
    graph_of: GraphOf


def members_of(
    device: Device, graph_of: GraphOf, ranks: int, stragglers: Mapping[int, float] | None = None
) -> list[Member]:
    """Equal members, but for the stragglers: rank -> how many times slower.  ValueError if one is
    not there."""
    slow = stragglers or {}
    for rank in slow:
        if not 0 <= rank < ranks:
            raise ValueError(
                f"straggler rank {rank} is not in the group: ranks are 0 to {ranks - 1}"
            )
    return [Member(slower(device, slow.get(rank, 1.0)), graph_of) for rank in range(ranks)]


class Tenancy(NamedTuple):
    """A program that does not have its chips to itself: in which simulation, who is there already,
    its weight, and what to call it."""

    env: simpy.Environment
    beside: Group | None
    weight: float
    name: str


class Group:
    """The ranks of one tensor-parallel group on a pod.

    Equal members do the same at the same time, so one is simulated and its collectives are folded
    plans. Where members differ, or are told to `unfold` (links differ), each is simulated: it
    starts a collective when it comes to it, and the plan is played send by send over the pod's
    links. With a `tenancy` the chips are shared: with those of the group `beside` it, which is in
    the same simulation, or with those that will be put beside this one. `name` stands before the
    ranks on a timeline: a pipeline is a group for each stage.
    """

    def __init__(
        self,
        env: simpy.Environment,
        members: Sequence[Member],
        network: Network,
        *,
        unfold: bool = False,
        timeline: Timeline | None = None,
        max_spans: int = 20_000,
        tenancy: Tenancy | None = None,
        name: str = "",
    ) -> None:
        if not members:
            raise ValueError("a group has at least 1 rank, not 0")
        self.env, self.members, self.network, self.timeline = env, members, network, timeline
        self.ranks = len(members)
        self.folded = not unfold and all(member == members[0] for member in members)
        beside = tenancy.beside if tenancy else None
        self.net: Net = beside.net if beside else Net(env)
        self.fabric: Fabric = (
            beside.fabric if beside else Fabric(env, network.wires.bytes_per_s, network.wires.name)
        )
        self.weight = tenancy.weight if tenancy else 1.0
        self.known: Known = {}
        # Collectives under way, by number and first rank; and how many each rank has come to.
        self._meetings: dict[tuple[int, int], _Meeting] = {}
        self._met = [0] * self.ranks
        self.chips: list[Chip] = []
        for rank, member in enumerate(members[:1] if self.folded else members):
            label = f"{name} rank {rank}".strip()
            ports = beside.chips[rank].ports if beside else None
            if ports is None:
                ports = Ports.of(member.device, label, network.egress_bytes_per_s(rank))
            if tenancy:
                ports.share_engines(f"rank {rank}")
                label = f"rank {rank} {tenancy.name}"
            self.chips.append(
                Chip(
                    env,
                    self.net,
                    member.device,
                    rank,
                    ports,
                    self._meet,
                    label=label,
                    shares=tenancy is not None,
                    weight=self.weight,
                    timeline=timeline,
                    max_spans=max_spans,
                )
            )
        if tenancy is None:
            self.record(True)

    def record(self, on: bool) -> None:
        """Keep spans and uses from now on, or stop; without a timeline there is nothing to keep
        them in."""
        if self.timeline is None:
            return
        if not on:
            self.close()
        for chip in self.chips:
            chip.recording = on
        # What the ports carry is of all who share them: it is kept while any of them is.
        (self.net.keepers.add if on else self.net.keepers.discard)(id(self))
        self.net.record = self.fabric.record = self.timeline.use if self.net.keepers else None

    def close(self) -> None:
        """Nothing more is to come: report what is still on the capacities."""
        self.net.flush([capacity for chip in self.chips for capacity in chip.ports.all])

    def rates(self) -> dict[str, float]:
        """What one rank's capacities carry at most, for utilisation."""
        chip = self.chips[0]
        rates = {
            "HBM": chip.hbm.bytes_per_s,
            "L2": chip.l2.bytes_per_s,
            "link": chip.link.bytes_per_s,
        }
        return rates | {"matrix": max(chip.device.matrix_flop_per_s.values())}

    def graphs(self, batch: Batch) -> list[Graph]:
        """What a pass asks of each member that is simulated; those who share a graph get one."""
        own = [member.graph_of for member in self.members[: len(self.chips)]]
        made = {graph_of: graph_of(batch) for graph_of in dict.fromkeys(own)}
        return [made[graph_of] for graph_of in own]

    def run(self, *graphs: Graph):
        """Play one pass, of one graph on all members, or of one for each; a process."""
        each = graphs * len(self.chips) if len(graphs) == 1 else graphs
        yield from self.play([chip.lower(graph) for chip, graph in zip(self.chips, each)])

    def play(self, programs: Sequence[Program]):
        """Play one lowered pass, one program a rank; a process."""
        if self.folded:
            yield from self.chips[0].run(programs[0])
            return
        running = [
            self.env.process(chip.run(program)) for chip, program in zip(self.chips, programs)
        ]
        yield self.env.all_of(running)

    def _meet(self, chip: Chip, op: LoweredOp, work: Work) -> simpy.Event | float:
        """A rank has come to a collective; when it is done with it, or the event."""
        fold = op.fold
        if fold is None:
            ranks = op.op.ranks or self.ranks
            fold = op.fold = self.network.fold(op.op.kind, ranks, op.op.message_bytes)
        # A later tile of a running kernel has been launched already.
        work.latency_s = fold.latency_s if op.op.launch else fold.latency_s - fold.way.launch_s
        work.link_bytes = fold.sent_bytes
        if not self.folded:
            return self.env.process(self._take_part(chip, op, work))
        if chip.moved is not None:
            chip.sent(fold.sent_bytes)
        # It reads and writes its buffer too, against the kernels and prefetches of the time.
        now, link = self.env._now, work.flows[2]
        link.limit = fold.bytes_per_s
        begins_s = work.floor_s = now + work.latency_s
        self.net.start(link, fold.sent_bytes, begins_s, now)
        work.end_s = chip.moving(work, begins_s, link.finish_s, inf, inf)
        return work.end_s

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
        work.floor_s = begins_s = env.now + work.latency_s
        work.end_s = chip.moving(work, begins_s, begins_s, inf, inf)
        work.event = Alarm(env, work.end_s - env.now)
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
        way, plan = network.plan(op.op.kind, who, op.op.message_bytes)
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
