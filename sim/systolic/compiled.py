"""The loops of `sim.systolic` as machine code, where numba is installed (extra `fast`); the answers
are the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import isfunction
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from sim.systolic import memory, placement

COMPILED_FROM = 20_000  # tile ops: below, loading the compiled form costs more than it saves


def loops_for(tile_ops: int) -> SimpleNamespace:
    """The loops of `placement`: plain Python, or compiled if that pays for so many tile ops and can
    be had.

    Compiled ones want arrays where plain ones want lists.
    """
    return _loops(placement, tile_ops >= COMPILED_FROM)


def memory_for(tile_ops: int) -> SimpleNamespace:
    """The loops of `memory`, likewise."""
    return _loops(memory, tile_ops >= COMPILED_FROM)


@cache
def _loops(module: ModuleType, compiled: bool) -> SimpleNamespace:
    """The functions of a module; compiled, they are copies that call each other's compiled form."""
    own = {
        n: f for n, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__
    }
    if not (compiled and find_spec("numba")):
        return SimpleNamespace(compiled=False, **own)
    from numba import njit

    space: dict[str, Any] = dict(vars(module))
    for name, function in own.items():
        copy: Callable[..., Any] = FunctionType(
            function.__code__, space, name, function.__defaults__
        )
        copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
        space[name] = njit(cache=True, error_model="numpy")(copy)
    return SimpleNamespace(compiled=True, **{name: space[name] for name in own})
