"""The loop of `sim.serving` as machine code, where numba is installed (extra `fast`): the answers
are the same bits.

The source stays plain Python: copies of the functions are compiled with each other in place of the
originals, once, to one object file kept on disk under a digest of the sources, the compiler and the
processor. What is kept is loaded by LLVM alone and called through ctypes, so that a run pays
neither the seconds nor the memory that numba itself takes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import isfunction
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from sim.serving import (
    draws,
    fleet,
    kv,
    loop,
    outcome,
    pending,
    router,
    scheduler,
    stages,
    step_time,
    turns,
)
from sim.serving.fleet import (
    RECORD,
    Rules,
    new_fleet,
    new_rows,
    plain_arrivals,
    pool_of,
    replica_of,
)
from sim.serving.step_time import unpriced

_MODULES = (
    draws,
    kv,
    pending,
    step_time,
    scheduler,
    outcome,
    router,
    turns,
    stages,
    loop,
)  # in order of imports
# Nothing is allocated in there, so no references need be counted: that is six times as fast.
_OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
# Requests: below, the compiled form costs more than it saves; to load what was compiled before, and
# to compile.
LOADED_FROM, COMPILED_FROM = 300, 3_000


def serve_for(requests: float) -> Callable[..., int]:
    """`loop.serve`, compiled if that pays for so many requests and can be had."""
    if requests < LOADED_FROM or not find_spec("numba"):
        return loop.serve
    return _Native() if requests >= COMPILED_FROM or _object_file().exists() else loop.serve


class _Native:
    """`loop.serve` with its arguments laid out as compiled code takes them: every array as seven
    words or more.

    What is passed again is laid out once: the same fleet or price is the same arrays, whatever is
    written into them.
    """

    def __init__(self) -> None:
        self._serve = _loaded()
        self._kept: dict[int, tuple[Any, list[Any], list[Any]]] = {}

    def __call__(self, *arguments: Any) -> int:
        words: list[Any] = []
        for place, (argument, sample) in enumerate(zip(arguments, _sample(), strict=True)):
            if place not in self._kept or self._kept[place][0] is not argument:
                held: list[Any] = []
                self._kept[place] = argument, _words(argument, sample, held), held
            words += self._kept[place][1]
        answer, fault = ctypes.c_int64(), ctypes.c_void_p()
        status = self._serve(ctypes.byref(answer), ctypes.byref(fault), *words)
        if status:
            raise RuntimeError(f"the compiled loop stopped with status {status}")
        return answer.value


def _words(value: Any, sample: Any, held: list[Any]) -> list[Any]:
    """An argument as scalars and arrays as (owner, parent, size, item size, address, shape,
    strides).

    What had to be copied to look like `sample` is put into `held`, to stay alive.
    """
    if isinstance(sample, tuple):
        return [
            word
            for each, like in zip(value, sample, strict=True)
            for word in _words(each, like, held)
        ]
    if not isinstance(sample, np.ndarray):
        return [type(sample)(value)]
    array = value
    if array.dtype != sample.dtype or not array.flags.c_contiguous:
        array = np.ascontiguousarray(value, sample.dtype)
        held.append(array)
    assert array.ndim == sample.ndim, "the loop was compiled for arrays of another shape"
    return [
        None,
        None,
        array.size,
        array.itemsize,
        array.__array_interface__["data"][0],
        *array.shape,
        *array.strides,
    ]


@cache
def _sample() -> tuple[Any, ...]:
    """Arguments of `loop.serve` with the types that all have."""
    rules = Rules(0, 0, 0, True, False, 0, False, True)
    some = new_fleet(
        rules,
        replica_of(0, 1, 1, 1, 1),
        pool_of(0, 1),
        slots=1,
        ranks=1,
        kinds=1,
        patterns=1,
        rows=0,
    )
    none = np.zeros(0)
    return (
        rules,
        some,
        unpriced([("dense", 0, 1)]),
        new_rows(RECORD, 1),
        plain_arrivals(none, none, none),
        0.0,
        False,
    )


@cache
def _loaded() -> Callable[..., int]:
    """The entry of the object file, compiled now if there is none."""
    import llvmlite.binding as llvm

    file = _object_file()
    if not file.exists():
        _compile(file)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        jit=True, codemodel="jitdefault"
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    name, code = file.read_bytes().split(b"\n", 1)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    kinds = {
        int: ctypes.c_int64,
        float: ctypes.c_double,
        bool: ctypes.c_int8,
        type(None): ctypes.c_void_p,
    }
    words = [word for each in _sample() for word in _words(each, each, [])]
    types: list[Any] = [kinds[type(word)] for word in words]
    call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)
    return call(engine.get_function_address(name.decode()))


_ENGINES: list[Any] = []  # code lives as long as its engine


def _compile(file: Path) -> None:
    """The object file: the name of its entry on a line of its own, and then the code."""
    import numba

    made: dict[Any, Any] = {}
    for module in _MODULES:
        space = {
            name: made.get(value, value) if isfunction(value) else value
            for name, value in vars(module).items()
        }
        for name, function in _own_functions(module):
            copy = FunctionType(function.__code__, space, name, function.__defaults__)
            copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
            space[name] = made[function] = numba.njit(**_OPTIONS)(copy)
    serve = made[loop.serve]
    types = tuple(numba.typeof(argument) for argument in _sample())
    serve.compile(types)
    compiled = serve.overloads[types]
    _, _, (code, _) = compiled.library.serialize_using_object_code()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(compiled.fndesc.llvm_func_name.encode() + b"\n" + code)
    os.replace(scratch, file)


def _own_functions(module: ModuleType) -> list[tuple[str, FunctionType]]:
    return [
        (n, f) for n, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__
    ]


@cache
def _object_file() -> Path:
    import llvmlite.binding as llvm

    digest = hashlib.sha256(f"{llvm.llvm_version_info} {llvm.get_host_cpu_name()}".encode())
    for module in (fleet, *_MODULES):
        assert module.__file__
        digest.update(Path(module.__file__).read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "podscope" / f"loop-{digest.hexdigest()[:16]}.o"
