"""Inner loops as machine code: the answers are the same bits.

The source stays plain Python. Copies of the functions are compiled with each other in place of the
originals, once, to one object file in the user's cache directory, under a digest of the sources,
the compiler and the processor. What is kept there is loaded by LLVM alone and called through
ctypes, so that a run pays neither the seconds nor the memory that numba itself takes. Where numba
is not installed, or there is too little to do, plain Python runs; `ran` says which did, and why.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib.util import find_spec
from inspect import isfunction
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from sim.text.outside import opened
from sim.text.replacing import replacing

# Nothing is allocated in there, so no references need be counted: that is six times as fast.
_OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
_LOAD_S = 0.06  # what LLVM and an object file take to load
# A file is kept for later runs: it is made where this one alone would lose so much of its making.
_WORTH = 0.04
_MOST_BYTES = 2**26  # of an object file; ours are some 100 kB
_WORD = 8  # bytes: of an integer, a float or an address
_ALL: list[Loops] = []
_RAN: dict[str, str] = {}
_FORESEEN: dict[str, float] = {}
_TOLD: set[str] = set()
_ENGINES: list[Any] = []  # code lives as long as its engine


def begin() -> None:
    """A new run: what it will do is not known yet, and nothing has run."""
    _RAN.clear()
    _FORESEEN.clear()
    for loops in _ALL:
        loops.begin()


def foresee(name: str, amount: float) -> None:
    """So much work is to come in this run for the loops of that name, in their unit."""
    _FORESEEN[name] = _FORESEEN.get(name, 0.0) + amount


def ran() -> list[str]:
    """A line for each part of the program that could be compiled, and ran since `begin`: how."""
    return [f"{name}: {how}" for name, how in sorted(_RAN.items())]


class Loops:
    """The inner loops of one part of the program: functions that call nothing but each other.

    `samples()` maps the functions that are called from outside to arguments of the types that they
    always have; each returns a whole number. `modules` hold all functions, in order of imports, and
    `beside` what else the code depends on. `plain_s` is what plain Python takes for one unit of
    work, `compile_s` what compiling takes, in seconds. `instead()` maps functions that a compiler
    cannot take to those that it takes in their place.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[ModuleType],
        samples: Callable[[], Mapping[Callable[..., int], tuple[Any, ...]]],
        *,
        plain_s: float,
        compile_s: float,
        beside: Sequence[ModuleType] = (),
        instead: Callable[[], Mapping[Callable[..., Any], Any]] = dict,
    ) -> None:
        self.name, self.modules, self.samples = name, modules, samples
        self.plain_s, self.compile_s = plain_s, compile_s
        self.beside, self.instead = beside, instead
        self._entries: dict[str, Callable[..., int]] | None = None
        self._never = ""  # why it cannot be compiled
        self.begin()
        _ALL.append(self)

    def begin(self) -> None:
        """Nothing is asked for yet."""
        self._asked_s = 0.0
        self._absent = False  # there is no object file

    def native(self, amount: float) -> Mapping[str, Callable[..., int]] | None:
        """The compiled functions by name, for so much work more; None where plain Python is to do
        it.

        What is loaded is used. Else what is foreseen, or was asked for so far, decides whether
        loading pays, and if there is nothing to load, compiling.
        """
        if self._entries is not None:
            _RAN[self.name] = "compiled"
            return self._entries
        self._asked_s += amount * self.plain_s
        work_s = max(_FORESEEN.get(self.name, 0.0) * self.plain_s, self._asked_s)
        pays = work_s >= _WORTH * self.compile_s
        if not self._never and not find_spec("numba"):
            self._never = "numba is not installed"
        if self._never:
            if pays:
                _say(f"the {self.name} loop runs in plain Python, much slower: {self._never}")
            self.plain(self._never)
            return None
        if work_s < _LOAD_S or (self._absent and not pays):
            self.plain("there is little to do")
            return None
        file = object_file(self)
        code = read(file)
        if code is None and pays:
            code = self._made(file)
        self._absent = code is None
        if code is not None:
            try:
                self._entries = _entries(code, self.samples())
            except (ValueError, LookupError, RuntimeError) as error:
                self._never = f"{file} holds no compiled loops: {error}".split("\n")[0]
        return self.native(0)

    def plain(self, why: str) -> None:
        """Plain Python runs, and that is noted."""
        _RAN[self.name] = f"plain Python ({why})"

    def _made(self, file: Path) -> bytes | None:
        """What is compiled now, by one process at a time where the system can see to that; None if
        it cannot be."""
        with ExitStack() as held:
            with suppress(ImportError, OSError, ValueError):
                import fcntl

                file.parent.mkdir(parents=True, exist_ok=True)
                beside = file.parent / f"{self.name}.lock"
                beside.touch()
                lock = held.enter_context(opened(beside))
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (code := read(file)) is not None:
                return code  # another process was first
            _say(f"compiling the {self.name} loop, once, about {self.compile_s:.0f} s")
            try:
                code = _compile(self)
            except Exception as error:  # a compiler that fails must not stop a run
                self._never = f"compiling failed: {type(error).__name__}: {error}".split("\n")[0]
                return None
            _keep(file, code)
            return code


def read(file: Path) -> bytes | None:
    """The content of an object file; None if there is none that is whole and the user's own."""
    try:
        with opened(file) as source:
            status = os.fstat(source.fileno())
            head, _, code = source.read(_MOST_BYTES).partition(b"\n")
    except OSError:
        return None
    except ValueError as error:  # a pipe or a device
        _say(f"{file} {error}; it is not used")
        return None
    own = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    if own and head == _head(code):
        return code
    _say(f"{file} is {'damaged' if own else 'not yours alone'}, and is not used")
    return None


@cache
def object_file(loops: Loops) -> Path:
    """Where the compiled form is kept."""
    from importlib.metadata import version

    import llvmlite.binding as llvm

    versions = *sys.version_info[:2], version("numba"), version("llvmlite"), llvm.llvm_version_info
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.get_default_triple(), llvm.get_host_cpu_name(), features
    digest = hashlib.sha256(f"{versions} {machine}".encode())
    for source in (__file__, *(each.__file__ for each in (*loops.beside, *loops.modules))):
        assert source
        digest.update(Path(source).read_bytes())
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody's home
        root = Path(tempfile.gettempdir())
    return root / "podscope" / f"{loops.name}-{digest.hexdigest()[:16]}.o"


def _say(text: str) -> None:
    """On stderr, once a process."""
    if text not in _TOLD:
        _TOLD.add(text)
        print(f"podscope: {text}", file=sys.stderr, flush=True)


def _head(code: bytes) -> bytes:
    return f"podscope {len(code)} {hashlib.sha256(code).hexdigest()}".encode()


def _keep(file: Path, code: bytes) -> None:
    """Written whole or not at all."""
    try:
        with replacing(file) as scratch:
            scratch.write_bytes(_head(code) + b"\n" + code)
        file.chmod(0o600)
    except (OSError, ValueError) as error:
        _say(f"what was compiled cannot be kept, and will be again: {error}")


def _compile(loops: Loops) -> bytes:
    """The code of all that is called from outside, behind a line with their names and sizes."""
    import numba

    made: dict[Any, Any] = {}
    instead = loops.instead()
    for module in loops.modules:
        space: dict[str, Any] = {
            name: made.get(value, value) if isfunction(value) else value
            for name, value in vars(module).items()
        }
        for name, function in own_functions(module).items():
            source: Any = instead.get(function, function)
            copy: Any = FunctionType(source.__code__, space, name, source.__defaults__)
            copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
            space[name] = made[function] = numba.njit(**_OPTIONS)(copy)
    table, parts = [], []
    for entry, sample in loops.samples().items():
        types = tuple(numba.typeof(argument) for argument in sample)
        made[entry].compile(types)
        compiled = made[entry].overloads[types]
        _, _, (code, _) = compiled.library.serialize_using_object_code()
        door = _door(entry.__name__, compiled.fndesc.llvm_func_name, sample)
        table.append((entry.__name__, len(code), len(door)))
        parts += [code, door]
    return b"\n".join([json.dumps(table).encode(), b"".join(parts)])


def _door(name: str, symbol: str, sample: tuple[Any, ...]) -> bytes:
    """An object file with a function of one argument, where the words of all are: it calls the
    compiled one with them, and leaves the answer in the first.

    To pass hundreds of arguments through ctypes takes longer than most loops run.
    """
    import llvmlite.binding as llvm
    from llvmlite import ir

    word = ir.IntType(64)
    kinds = {float: ir.DoubleType(), bool: ir.IntType(8), int: word}
    types = [kinds[kind] for kind in _kinds(sample)]
    module = ir.Module(name)
    module.triple = llvm.get_process_triple()
    status = ir.IntType(32)
    inner = ir.Function(module, ir.FunctionType(status, [word, word, *types]), symbol)
    outer = ir.Function(module, ir.FunctionType(status, [word]), f"{name}_by_words")
    at = ir.IRBuilder(outer.append_basic_block())

    def load(place: int, kind: Any) -> Any:
        address = at.add(outer.args[0], ir.Constant(word, place * _WORD))
        return at.load(at.inttoptr(address, kind.as_pointer()), typ=kind)

    back = [at.add(outer.args[0], ir.Constant(word, place * _WORD)) for place in range(2)]
    at.ret(at.call(inner, [*back, *(load(place, kind) for place, kind in enumerate(types, 2))]))
    compiled = llvm.parse_assembly(str(module))
    return _machine().emit_object(compiled)


def _machine() -> Any:
    """What makes code for this processor."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")


def own_functions(module: ModuleType) -> dict[str, Any]:
    """The functions that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__
    }


def _entries(
    code: bytes, samples: Mapping[Callable[..., int], tuple[Any, ...]]
) -> dict[str, Callable[..., int]]:
    """What an object file holds, as functions."""
    import llvmlite.binding as llvm

    table, _, code = code.partition(b"\n")
    found: dict[str, Callable[..., int]] = {}
    for (name, *sizes), sample in zip(json.loads(table), samples.values(), strict=True):
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        for size in sizes:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code[:size]))
            code = code[size:]
        engine.finalize_object()
        _ENGINES.append(engine)
        found[name] = _Native(engine.get_function_address(f"{name}_by_words"), sample)
    return found


class _OfThread(threading.local):
    """What a thread has of a compiled function: its arguments as words, behind room for the answer.

    The code runs without Python's lock, and a cluster's worker may have several threads.
    """

    def __init__(self, count: int) -> None:
        self.words = np.zeros(2 + count, np.int64)
        self.address = self.words.__array_interface__["data"][0]
        self.kept: dict[int, tuple[Any, list[Any]]] = {}


class _Native:
    """Compiled code, called with its arguments laid out as words: every array as seven or more.

    What is passed again is laid out once: the same fleet or price is the same arrays, whatever is
    written into them.
    """

    def __init__(self, address: int, sample: tuple[Any, ...]) -> None:
        counts = [len(_kinds(each)) for each in sample]
        ends = np.cumsum([2, *counts]).tolist()
        self._places = list(zip(sample, ends, ends[1:]))
        self._code = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
        self._mine = _OfThread(sum(counts))

    def __call__(self, *arguments: Any) -> int:
        mine = self._mine
        kept = mine.kept
        for argument, (sample, first, end) in zip(arguments, self._places, strict=True):
            if first not in kept or kept[first][0] is not argument:
                held: list[Any] = []
                mine.words[first:end] = _words(argument, sample, held)
                kept[first] = argument, held
        if status := self._code(mine.address):
            raise RuntimeError(f"a compiled loop stopped with status {status}")
        return int(mine.words[0])


def _kinds(sample: Any) -> list[type]:
    """The type of each word of an argument."""
    if isinstance(sample, tuple):
        return [kind for each in sample for kind in _kinds(each)]
    return [int] * (5 + 2 * sample.ndim) if isinstance(sample, np.ndarray) else [type(sample)]


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
    if isinstance(sample, float):
        return list(struct.unpack("q", struct.pack("d", value)))
    if not isinstance(sample, np.ndarray):
        return [int(value)]
    array = value
    if array.dtype != sample.dtype or not array.flags.c_contiguous:
        array = np.ascontiguousarray(value, sample.dtype)
        held.append(array)
    assert array.ndim == sample.ndim, "the loop was compiled for arrays of another shape"
    address = array.__array_interface__["data"][0]
    return [0, 0, array.size, array.itemsize, address, *array.shape, *array.strides]
