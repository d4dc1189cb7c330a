"""The loop of `sim.serving`, compiled where numba is installed (the extra `fast`); the answers are the same bits.

The source stays plain Python: copies of the functions are compiled with each other in place of the originals. What
was compiled is kept on disk under a digest of all the sources, since a change in one function changes what another
that calls it has been compiled to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from inspect import isfunction
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from sim.serving import draws, fleet, kv, loop, outcome, pending, router, scheduler, step_time, turns

_MODULES = (draws, kv, pending, step_time, scheduler, outcome, router, turns, loop)  # in order of imports
# Nothing is allocated in there, so no references need be counted: that is six times as fast.
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
COMPILED_FROM = 3_000  # requests: below, loading the compiled form costs more than it saves


def serve_for(requests: float) -> Callable[..., int]:
    """`loop.serve`, compiled if that pays for so many requests and can be had."""
    compiled = _compiled() if requests >= COMPILED_FROM else None
    return compiled or loop.serve


@cache
def _compiled() -> Callable[..., int] | None:
    try:
        import numba
    except ImportError:
        return None
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_cache_folder())
    try:
        made: dict[Any, Any] = {}
        for module in _MODULES:
            space = {
                name: made.get(value, value) if isfunction(value) else value for name, value in vars(module).items()
            }
            for name, function in _own_functions(module):
                copy = FunctionType(function.__code__, space, name, function.__defaults__)
                copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
                space[name] = made[function] = numba.njit(**_OPTIONS)(copy)
    finally:
        config.CACHE_DIR = before
    return made[loop.serve]


def _own_functions(module: ModuleType) -> list[tuple[str, FunctionType]]:
    return [(n, f) for n, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__]


def _cache_folder() -> Path:
    digest = hashlib.sha256()
    for module in (fleet, *_MODULES):
        assert module.__file__
        digest.update(Path(module.__file__).read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "podscope" / digest.hexdigest()[:12]
