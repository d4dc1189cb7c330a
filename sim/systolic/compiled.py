"""The loops of `sim.systolic`, as machine code or in plain Python."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.compiled import Loops, own_functions
from sim.systolic import memory, placement
from sim.systolic.memory import Asked, Banks, Stream, Sums
from sim.systolic.placement import Adds, Grid, Net, Placed, Window


def loops_for(tile_ops: int) -> SimpleNamespace:
    """The loops of `placement` and `memory` for so many tile ops more.

    Compiled ones want arrays where plain ones want lists.
    """
    native = LOOPS.native(tile_ops)
    return _plain() if native is None else SimpleNamespace(compiled=True, **native)


@cache
def _plain() -> SimpleNamespace:
    return SimpleNamespace(compiled=False, **own_functions(placement), **own_functions(memory))


def _samples() -> dict[Any, tuple[Any, ...]]:
    short, ints, wide, floats = (
        np.zeros(0, kind) for kind in (np.int16, np.int32, np.int64, np.float64)
    )
    net = Net(1, 1, 1, 1, ints, 1, 1, 1, ints, ints)
    window = Window(*(short if name.endswith("links") else ints for name in Window._fields))
    placed, adds = Placed(ints, ints, ints, ints), Adds(ints, ints, ints, ints, ints)
    grid, stream = Grid(1, 1, 1, 0, 1, 1), Stream(floats, floats, 1.0)
    banks = Banks(wide, wide, wide, wide, wide, wide, floats, wide)
    sums = Sums(*(wide for _ in Sums._fields))
    asked = Asked(wide, wide, wide)
    return {
        placement.place_tiles: (0, grid, net, window, placed),
        placement.chain: (grid, net, window, placed, adds, ints),
        placement.place_adds: (0, 0, 1, net, window, placed, adds),
        memory.play_full: (wide, stream, 0, sums, banks, 0, asked, wide, wide, floats),
    }


LOOPS = Loops("systolic", (placement, memory), _samples, plain_s=4e-5, compile_s=6)
