"""Fused GEMM + all-reduce: the baseline PRESERVE is compared with.

The GEMM before an all-reduce is cut into tiles; a tile's all-reduce runs while the next tile is
computed, inside one kernel. The kernel is launched once: the collective's launch (and a handshake
of the ranks) runs beside the GEMM's, and no tile pays a launch of its own, only its rounds. Not
modelled: the cores that the communication part takes from the GEMM, which makes this baseline a
strong one.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from sim.graph.graph import After, Graph, Layer, Op, Tensor
from sim.techniques.machine import Machine


class Options(BaseModel):
    """Options of `fused_collective`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    tiles: int = Field(
        4, ge=1, le=16, description="pieces that a GEMM and its all-reduce are cut into"
    )


def fused_collective(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Tile every MatMul that an all-reduce directly follows."""
    fused = {layer: _fuse(layer, options.tiles) for layer in dict.fromkeys(graph.layers)}
    if all(fused[layer] is layer for layer in fused):
        raise ValueError(
            "fused_collective: no MatMul is directly followed by an all-reduce (tensor "
            "parallel degree 1?)"
        )
    return Graph(tuple(fused[layer] for layer in graph.layers))


def _fuse(layer: Layer, tiles: int) -> Layer:
    matmuls = {op.name for op in layer.ops if op.kind == "matmul"}
    pairs = {
        op.after[0].name: op
        for op in layer.ops
        if op.kind == "all_reduce" and len(op.after) == 1 and op.after[0].name in matmuls
    }
    if not pairs:
        return layer
    ops: list[Op] = []
    for place, op in enumerate(layer.ops):
        if op.name in pairs:
            before = [earlier for earlier in layer.ops[:place] if earlier.stream == op.stream]
            ops += _tiles(
                op,
                pairs[op.name],
                tiles,
                op.after or tuple(After(earlier.name) for earlier in before[-1:]),
            )
        elif op not in pairs.values():
            ops.append(op)
    return Layer(layer.name, tuple(ops))


def _tiles(matmul: Op, reduce: Op, tiles: int, start: tuple[After, ...]) -> list[Op]:
    """Tiles of a pair in turn; the last one keeps the all-reduce's name, which later ops wait for.

    The GEMM's weight is cut by columns, so each tile reads its own part of the weight and all of
    its input.
    """

    def cut(tensor: Tensor, part: int) -> Tensor:
        name = f"{tensor.name}[{part}]" if tensor.kind == "weight" else tensor.name
        return tensor._replace(name=name, nbytes=tensor.nbytes / tiles)

    ops = [
        replace(
            reduce,
            name=f"{reduce.name} handshake",
            after=start,
            reads=(),
            writes=(),
            message_bytes=0.0,
        )
    ]
    gemm = matmul.gemm and (matmul.gemm[0], matmul.gemm[1] / tiles, matmul.gemm[2])
    for part in range(tiles):
        piece, last = f"{matmul.name}[{part}]", part == tiles - 1
        reads = tuple(cut(t, part) if t.kind == "weight" else t for t in matmul.reads)
        ops.append(
            replace(
                matmul,
                name=piece,
                flop=matmul.flop / tiles,
                gemm=gemm,
                reads=reads,
                writes=tuple(cut(t, part) for t in matmul.writes),
                launch=matmul.launch and part == 0,
            )
        )
        ops.append(
            replace(
                reduce,
                name=reduce.name if last else f"{reduce.name}[{part}]",
                after=(After(piece),),
                reads=tuple(cut(t, part) for t in reduce.reads),
                writes=tuple(cut(t, part) for t in reduce.writes),
                message_bytes=reduce.message_bytes / tiles,
                launch=False,
            )
        )
    return ops
