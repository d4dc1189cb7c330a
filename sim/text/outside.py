"""What comes from outside: files that are opened, counts that become allocations, and values that
no code foresaw.

The one place for each. `opened` takes regular files only: a device has no end, and a pipe may
never begin. `bounded` is asked before a count becomes so many objects, cells or bytes; `MOST` says
how many of each are held. `meeting` stands around code that takes a value of a file apart: what it
meets there and did not expect is a refusal that names the place. Only what a wrong value does to
such code is caught: a failed assertion, an unknown name or a lost import is our own mistake, and
keeps its traceback.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

MEBI = 2**20


class Most(NamedTuple):
    """How many of a thing are held, and what they are called."""

    most: int
    noun: str


# Each is some times what has been seen in use, and keeps a refusal below 1 GB and a few seconds.
MOST = {
    # of files, as they are read
    "yaml bytes": Most(4 * MEBI, "bytes of a YAML file"),
    "yaml values": Most(100_000, "values once its aliases are expanded"),
    "yaml levels": Most(60, "levels"),
    "config bytes": Most(4 * MEBI, "bytes of a model's config"),
    "gemm bytes": Most(64 * MEBI, "bytes of a list of matrix products"),
    "network bytes": Most(512 * MEBI, "bytes of a network, weights and all"),
    "table bytes": Most(64 * MEBI, "bytes of a table"),
    "line bytes": Most(16 * MEBI, "bytes of a line"),
    "blank lines": Most(1_000_000, "blank lines in a row"),
    "document bytes": Most(64 * MEBI, "bytes of one JSON document"),
    "json values": Most(6_000_000, "values of a JSON text"),
    "archive bytes": Most(256 * MEBI, "bytes of an archive once unpacked"),
    "archive members": Most(100_000, "files of a folder or an archive"),
    "probabilities": Most(400_000, "probabilities of a client"),
    "group bytes": Most(512 * MEBI, "bytes of a row group, once unpacked"),
    "group values": Most(64_000_000, "values of a row group"),
    # of machines and models
    "layers": Most(2_000, "layers"),
    "heads": Most(65_536, "heads"),
    "width": Most(2**24, "channels"),
    "experts": Most(65_536, "experts"),
    "vocabulary": Most(2**30, "tokens of a vocabulary"),
    "context": Most(2**40, "tokens"),
    "links": Most(500_000, "links"),  # half a GB
    "techniques": Most(30, "techniques of a variant"),
    "patterns": Most(400_000, "patterns of modules to be matched with layers"),
    # of work
    "matrix products": Most(200_000, "matrix products"),
    "operations": Most(200_000, "operations of a network"),
    "dependencies": Most(20_000_000, "dependencies between matrix products"),
    "tile ops": Most(50_000_000, "tile ops of a schedule"),  # some 100 bytes of memory for each
    "tokens": Most(10**8, "tokens of a prompt or an answer"),
    "window requests": Most(4_000_000, "requests of a client in a window"),
    "block id": Most(2**24, "block ids in a table"),
    "size": Most(2**40, "of a size"),
    "macs": Most(2**62, "multiply-accumulates"),
}
# A float tells times apart to 0.1 us up to here; it is 32 years.
MOST_S = 1e9
# What a value of the wrong kind or size does to code that takes it apart.
UNFORESEEN: tuple[type[Exception], ...] = (
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    EOFError,
)


def bounded(kind: str, count: float, where: str = "") -> int:
    """`count` as it is; ValueError if that is more than are held of a `kind` (a key of `MOST`).

    >>> bounded("layers", 126)
    126
    >>> bounded("layers", 10**9, "num_hidden_layers")
    Traceback (most recent call last):
    ValueError: num_hidden_layers: 1,000,000,000 layers are too many; at most 2,000
    """
    most = MOST[kind]
    if not count <= most.most:
        at = f"{where}: " if where else ""
        many = f"{count:,.0f}" if count < 10**24 else "10^24 and more"
        raise ValueError(f"{at}{many} {most.noun} are too many; at most {most.most:,}")
    return int(count)


@contextmanager
def meeting(place: str, *also: type[Exception]) -> Iterator[None]:
    """Around code that takes apart what stands at `place` of a file: ValueError for what it does
    not expect there, and for errors of a library, `also`."""
    caught: tuple[type[Exception], ...] = (*UNFORESEEN, *also)
    try:
        yield
    except caught as error:
        raise unforeseen(place, error) from error


def unforeseen(place: str, error: Exception) -> ValueError:
    """What is said of such an error at `place`."""
    text = " ".join(str(error).split())[:120]
    at = f"{place}: " if place else ""
    return ValueError(f"{at}not what is due there ({type(error).__name__}: {text})")


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading; OSError if it cannot be, ValueError if it is none."""
    # A pipe would wait for its writer, and some devices for theirs.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "is a folder, a file is due")
        if not stat.S_ISREG(mode):
            what = "a pipe" if stat.S_ISFIFO(mode) else "a device"
            raise ValueError(f"is {what}, which may have no end; save its content as a file")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_bytes(path: str | os.PathLike[str], kind: str) -> bytes:
    """All of a regular file; ValueError if that is more than `MOST` holds of `kind`; OSError."""
    with opened(path) as file:
        data = file.read(MOST[kind].most + 1)
        if len(data) > MOST[kind].most:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            bounded(kind, size)
    return data


def read_text(path: str | os.PathLike[str], kind: str) -> str:
    """The same as text in UTF-8, with or without a mark at its beginning; ValueError likewise."""
    data = read_bytes(path, kind)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8 text"
        ) from None
