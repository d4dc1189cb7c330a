"""The loops of `sim.systolic.placement` as machine code, where numba is installed (extra `fast`); same answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import isfunction
from types import FunctionType
from typing import Any, NamedTuple

from sim.systolic import placement

COMPILED_FROM = 20_000  # tile ops: below, loading the compiled form costs more than it saves


class Loops(NamedTuple):
    """The loops, and whether they are compiled, hence want arrays and not lists."""

    place_tiles: Callable[..., int]
    chain: Callable[..., int]
    place_adds: Callable[..., int]
    compiled: bool


def loops_for(tile_ops: int) -> Loops:
    """The loops as plain Python, or compiled if that pays for so many tile ops and can be had."""
    if tile_ops < COMPILED_FROM or not find_spec("numba"):
        return Loops(placement.place_tiles, placement.chain, placement.place_adds, False)
    return _compiled()


@cache
def _compiled() -> Loops:
    """Copies of the functions that call each other's compiled form; the originals stay what they are."""
    from numba import njit

    space: dict[str, Any] = dict(vars(placement))
    for name, function in vars(placement).items():
        if isfunction(function) and function.__module__ == placement.__name__:
            copy = FunctionType(function.__code__, space, name, function.__defaults__)
            copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
            space[name] = njit(cache=True, error_model="numpy")(copy)
    return Loops(space["place_tiles"], space["chain"], space["place_adds"], True)
