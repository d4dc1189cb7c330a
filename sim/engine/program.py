"""An op graph with a device's numbers in it: what each op costs there, by stream.

Equal layers are lowered once. Streams, ops and tensors are known by name, and may be as many as a
graph has.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.facts.span import BOUNDS
from sim.graph.graph import STREAMS, Graph, Layer, Op, is_collective
from sim.hardware.cost import OpCost, cost, traffic
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
        "unhidden_s",
    )

    def __init__(self, op: Op, slot: int, device: Device, tensor_id: Callable[[str], int]) -> None:
        self.op, self.slot, self.collective, self.idle = op, slot, is_collective(op), op.idle
        self.prefetch = op.kind == "prefetch"
        found = _OF_NETWORK if self.collective else cost(op, device)
        self.fixed_s, self.arithmetic_s = found.fixed_s, found.arithmetic_s
        self.hbm_limit, self.l2_limit = found.hbm_limit, found.l2_limit
        buffer_bytes = op.buffer_bytes
        # With the port to itself and nothing in L2: what a kernel cannot overlap is decided by how
        # it is written.
        moved = traffic(op.hbm_bytes, buffer_bytes, device)
        self.unhidden_s = found.alone(*moved, device).unhidden_s if found.unhidden else 0.0
        self.buffer_miss, self.buffer_hit = buffer_bytes - moved[1], moved[1]
        self.reads = [
            (tensor_id(tensor.name) * LAYERS + tensor.ahead, tensor.nbytes)
            for tensor in op.reads
            if tensor.kind != "activation" and tensor.nbytes
        ]
        self.deps: tuple[int, ...] = ()
        self.fold: Fold | None = None  # how the network plays it, once it was asked
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
        self.streams: dict[str, list[LoweredOp]] = {}
        for lowered in self.ops:
            lowered.deps = tuple(
                slot_of[after.name] - after.back * len(slot_of) for after in lowered.op.after
            )
            self.streams.setdefault(lowered.op.stream, []).append(lowered)


class Program:
    """A graph lowered for one device.  An op's slot is its layer's place times `width`, plus that
    of its name."""

    def __init__(self, graph: Graph, device: Device, tensor_id: Callable[[str], int]) -> None:
        slot_of: dict[str, int] = {}
        distinct = list(dict.fromkeys(graph.layers))
        for layer in distinct:
            for op in layer.ops:
                slot_of.setdefault(op.name, len(slot_of))
        self.width = len(slot_of)
        lowered = {layer: LoweredLayer(layer, device, slot_of, tensor_id) for layer in distinct}
        self.distinct = list(lowered.values())
        self.layers = [lowered[layer] for layer in graph.layers]
        named = dict.fromkeys(stream for layer in self.distinct for stream in layer.streams)
        self.streams = [*(name for name in STREAMS if name in named)]
        self.streams += [name for name in named if name not in STREAMS]
        computing = {op.op.stream for layer in self.distinct for op in layer.ops if op.arithmetic_s}
        self.overlaps = len(computing) > 1  # two kernels may want an engine at once
        # By stream, its ops in order: the layer's place, its first slot, the op.
        self.walks = {
            stream: [
                (index, index * self.width, op)
                for index, layer in enumerate(self.layers)
                for op in layer.streams.get(stream, ())
            ]
            for stream in self.streams
        }
