"""An op graph with a device's numbers in it: what each op costs there, by stream.

Equal layers are lowered once. Streams, ops and tensors are known by name, and may be as many as a
graph has.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.span import BOUNDS
from sim.graph.graph import STREAMS, Graph, Op, is_collective
from sim.hardware.cost import OpCost, cost, read_again, traffic
from sim.hardware.device import Device
from sim.network.network import Fold

LAYERS = 1 << 40  # more than a graph has: a tensor of a layer is id * LAYERS + the layer's place
_OF_NETWORK = OpCost(0.0, 0.0)  # what a collective takes is for the network to say


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
        "fold",
        "hbm_limit",
        "idle",
        "l2_limit",
        "op",
        "plays",
        "prefetch",
        "reads",
        "slot",
        "spills",
        "unhidden_s",
    )

    def __init__(
        self, op: Op, slots: dict[str, int], device: Device, ids: Mapping[str, int]
    ) -> None:
        self.op, self.collective, self.idle = op, is_collective(op), op.idle
        self.slot, self.prefetch = slots[op.name], op.kind == "prefetch"
        self.deps = [slots[after.name] - after.back * len(slots) for after in op.after]
        found = _OF_NETWORK if self.collective else cost(op, device)
        self.fixed_s = found.fixed_s
        self.hbm_limit, self.l2_limit = found.hbm_limit, found.l2_limit
        buffer_bytes = op.buffer_bytes
        # With the port to itself and nothing in L2: what a kernel cannot overlap is decided by how
        # it is written.
        hbm_bytes, l2_bytes = traffic(op.hbm_bytes, buffer_bytes, device)
        again = read_again(op, device)
        alone = found.alone(hbm_bytes + again, l2_bytes, device)
        self.unhidden_s, self.arithmetic_s = alone.unhidden_s, alone.arithmetic_s
        self.spills = alone.arithmetic_s > found.arithmetic_s
        self.buffer_miss, self.buffer_hit = buffer_bytes - l2_bytes + again, l2_bytes
        self.reads = [
            (ids[tensor.name] * LAYERS + tensor.ahead, tensor.nbytes)
            for tensor in op.reads
            if tensor.kind != "activation" and tensor.nbytes
        ]
        self.fold: Fold | None = None  # how the network plays it, once it was asked
        self.clear()

    def clear(self) -> None:
        """Forget the plays so far."""
        self.plays = 0
        self.bound_s = [0.0] * len(BOUNDS)


class Program:
    """A graph lowered for one device.  An op's slot is its layer's place times `width`, plus that
    of its name."""

    def __init__(self, graph: Graph, device: Device, ids: Mapping[str, int]) -> None:
        distinct = dict.fromkeys(graph.layers)
        names = dict.fromkeys(op.name for layer in distinct for op in layer.ops)
        slots = {name: slot for slot, name in enumerate(names)}
        lowered = {
            layer: [LoweredOp(op, slots, device, ids) for op in layer.ops] for layer in distinct
        }
        self.layers, self.width = graph.layers, len(slots)
        self.ops = [op for ops in lowered.values() for op in ops]
        named = dict.fromkeys(op.op.stream for op in self.ops)
        # By stream, its ops in order: the layer's place, its first slot, the op.
        self.streams: dict[str, list[tuple[int, int, LoweredOp]]] = {
            name: [] for name in dict.fromkeys([*STREAMS, *named]) if name in named
        }
        for index, layer in enumerate(graph.layers):
            for op in lowered[layer]:
                self.streams[op.op.stream].append((index, index * self.width, op))
        computing = {op.op.stream for op in self.ops if op.arithmetic_s}
        self.overlaps = len(computing) > 1  # two kernels may want an engine at once
