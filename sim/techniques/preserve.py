"""PRESERVE: while a collective runs, a second stream pulls the next weights and KV-cache from HBM
into L2.

Yüzügüler, Zhuang, Cavigelli, arXiv 2501.08192. The pass follows the authors' insertion algorithm:
from each collective, breadth-first to the next one; at a MatMul the weight, at an attention the
KV-cache except its newest entries; until the bytes of the segment reach the cap. What others do of
the kind is an option: to prefetch under other ops, in several streams, or experts before the router
has chosen any. Says nothing of how the copy engine is programmed, nor who gives it its commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.graph.graph import After, Graph, Layer, Op, Tensor, is_collective
from sim.techniques.machine import Machine
from sim.text.units import Bytes

_WEIGHTS = ("matmul", "head_matmul")
_CACHES = ("attention", "absorb", "naive", "rebuild")
_EXPERTS = ("experts",)
_STREAMS = ("prefetch", *(f"prefetch {number}" for number in range(2, 9)))


class Options(BaseModel):
    """Options of `preserve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cap: Bytes | None = Field(
        None,
        description="bytes to prefetch per segment; default: the part of L2 that is set aside for "
        "it, or L2 less the activations' working set, and under anything half of that",
    )
    join: bool = Field(
        False,
        description="make the op after a collective wait until the segment's prefetches have ended",
    )
    prefetch: Literal["both", "weights", "kv", "experts"] = Field(
        "both",
        description="what to prefetch: weights and KV-cache, one of them, or only the weights of "
        "experts, the first ones, whether or not a token will go to them",
    )
    whole_tensors: bool = Field(
        False,
        description="stop at the first tensor that does not fit whole, instead of taking its head",
    )
    under: Literal["collectives", "anything"] = Field(
        "collectives",
        description="what prefetches begin with: collectives, or anything, each as soon as the cap "
        "has room for it beside what is fetched and not yet read",
    )
    ops: list[str] = Field(
        [], description="in place of collectives, the ops that they begin with, by name or kind"
    )
    streams: Annotated[int, Field(ge=1, le=8)] = Field(
        1, description="of prefetches, which share the copy engine"
    )


def preserve(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Insert the prefetches of every segment; the result shares layers as `graph` does.  ValueError
    if there is no op that they may begin with."""
    layers, anything, ops = graph.layers, options.under == "anything", options.ops
    if anything and ops:
        raise ValueError(f"preserve: `under: anything` and `ops: {ops}` are two ways; give one")
    if not anything and not any(_begins(op, ops) for _, op in graph.ops()):
        raise ValueError(f"preserve: {_no_beginning(graph, ops)}")
    cap = options.cap
    if cap is None:
        # Between a fetch that runs ahead and its use as much is read as is fetched, and what was
        # read last leaves L2 last.
        rest = (machine.l2_bytes - working_set(graph)) / (2 if anything else 1)
        cap = machine.l2_set_aside_bytes or max(rest, 0.0)
    made: dict[tuple[Layer | None, ...], Layer] = {}
    done = []
    for index, layer in enumerate(layers):
        before = layers[index - 1] if index and (anything or ops) else None
        window = layers[index : index + 2]  # no segment of a decoder reaches past the next layer's
        # first collective; one that begins with another op is cut there
        key = (before, *window)
        if key not in made:
            made[key] = (
                _running_ahead(layer, before, cap, options)
                if anything
                else _with_prefetches(window, before, cap, options)
            )
        done.append(made[key])
    return Graph(tuple(done))


def _no_beginning(graph: Graph, ops: list[str]) -> str:
    if not ops:
        return (
            "the graph has no collective to hide prefetches under (tensor parallel degree 1?); "
            "`under: anything` needs none"
        )
    names = ", ".join(dict.fromkeys(op.name for _, op in graph.ops()))
    return f"the graph has no op {' or '.join(ops)} to prefetch under; it has {names}"


def _begins(op: Op, ops: Sequence[str]) -> bool:
    """Whether a segment begins with `op`."""
    return op.name in ops or op.kind in ops if ops else is_collective(op)


def working_set(graph: Graph) -> float:
    """The most bytes of activations that one op touches: what must stay in L2 beside the prefetched
    data."""
    return max(
        sum(t.nbytes for t in (*op.reads, *op.writes) if t.kind == "activation")
        for layer in dict.fromkeys(graph.layers)
        for op in layer.ops
    )


def segment(
    window: tuple[Layer, ...], first: int, ops: Sequence[str] = ()
) -> Iterator[tuple[int, Op]]:
    """Ops from the one that begins a segment (its place in the first layer) up to where the next
    begins, as (layers ahead, op)."""
    for ahead, layer in enumerate(window):
        for op in layer.ops[first + 1 if ahead == 0 else 0 :]:
            if _begins(op, ops):
                return
            yield ahead, op


def _with_prefetches(
    window: tuple[Layer, ...], before: Layer | None, cap: float, options: Options
) -> Layer:
    """The first layer of `window`, with its prefetches; `before` it another, where that matters."""
    layer = window[0]
    ops: list[Op] = []
    joins: tuple[After, ...] = ()
    for place, op in enumerate(layer.ops):
        if joins and op.stream == "compute":
            op, joins = replace(op, after=op.after + joins), ()
        ops.append(op)
        if not _begins(op, options.ops):
            continue
        # A prefetch starts when the op that it is to hide under may.
        after = (*op.after, *(() if is_collective(op) else _preceding(layer, place, before)))
        fetched = [
            _prefetch(tensors, after, number, options, ahead)
            for number, (ahead, tensors) in enumerate(_choose(window, place, cap, options))
        ]
        ops += fetched
        if options.join:
            joins = tuple(After(each.name) for each in fetched[-options.streams :])
    return Layer(layer.name, tuple(ops))


def _running_ahead(layer: Layer, before: Layer | None, cap: float, options: Options) -> Layer:
    """`layer` with a prefetch before each op that can have one, which starts after the last op that
    is still to be over before the cap has room, or the first of the layer before."""
    known = [(1, op) for op in before.ops] if before else []
    ops: list[Op] = []
    number = 0
    for op in layer.ops:
        for tensors in _whole(op, cap, options):
            used = sum(tensor.nbytes for tensor in tensors)
            after: tuple[After, ...] = ()
            for back, earlier in reversed(known):
                used += sum(t.nbytes for each in _whole(earlier, cap, options) for t in each)
                if back or used > cap:
                    after = (After(earlier.name, back),)
                if used > cap:
                    break
            ops.append(_prefetch(tensors, after, number, options))
            number += 1
        ops.append(op)
        known.append((0, op))
    return Layer(layer.name, tuple(ops))


def _whole(op: Op, cap: float, options: Options) -> list[tuple[Tensor, ...]]:
    """What can be fetched for `op`, each tensor cut to the cap."""
    wanted = () if op.idle else (t for t in op.reads if _wanted(op, t, options))
    return [_head(op, tensor, cap) for tensor in wanted]


def _prefetch(
    tensors: tuple[Tensor, ...],
    after: tuple[After, ...],
    number: int,
    options: Options,
    ahead: int = 0,
) -> Op:
    return Op(
        f"prefetch {tensors[0].name}",
        "prefetch",
        _STREAMS[number % options.streams],
        reads=tuple(tensor._replace(ahead=ahead) for tensor in tensors),
        after=after,
    )


def _preceding(layer: Layer, place: int, before: Layer | None) -> tuple[After, ...]:
    """The op before that at `place` in its stream."""
    stream = layer.ops[place].stream
    for back, ops in enumerate((layer.ops[:place], before.ops if before else ())):
        if found := [op.name for op in ops if op.stream == stream]:
            return (After(found[-1], back),)
    return ()


def _choose(
    window: tuple[Layer, ...], place: int, cap: float, options: Options
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """What each prefetch of a segment brings, as (layers ahead, tensors)."""
    used, chosen = 0.0, set()
    for ahead, op in segment(window, place, options.ops):
        for tensor in () if op.idle else op.reads:
            if not _wanted(op, tensor, options) or tensor.name in chosen:
                continue
            chosen.add(tensor.name)
            room = cap - used
            if room <= 0 or (options.whole_tensors and _bytes(op, tensor) > room):
                return
            tensors = _head(op, tensor, room)
            used += sum(each.nbytes for each in tensors)
            yield ahead, tensors


def _head(op: Op, tensor: Tensor, room: float) -> tuple[Tensor, ...]:
    """The first of a tensor that `op` reads, as far as there is room; and of experts what of that
    will not be read, since nothing is known of them before the router has run."""
    whole = _bytes(op, tensor)
    size = min(whole, room)
    if op.kind not in _EXPERTS:
        return (tensor._replace(nbytes=size),)
    read = tensor._replace(nbytes=size * tensor.nbytes / whole)
    unread = Tensor(f"{tensor.name} not read", size - read.nbytes, "weight", 0, 0.0)
    return (read, unread) if unread.nbytes > 0.0 else (read,)


def _bytes(op: Op, tensor: Tensor) -> float:
    """Of the whole tensor as it can be fetched for `op`."""
    return (tensor.held or tensor.nbytes) if op.kind in _EXPERTS else tensor.nbytes


def _wanted(op: Op, tensor: Tensor, options: Options) -> bool:
    wanted = {
        "weights": tensor.kind == "weight" and op.kind in _WEIGHTS,
        "kv": tensor.kind == "kv" and op.kind in _CACHES,
        "experts": tensor.kind == "weight" and op.kind in _EXPERTS,
    }
    wanted["both"] = wanted["weights"] or wanted["kv"]
    return wanted[options.prefetch] and tensor.nbytes > 0.0
