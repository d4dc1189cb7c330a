"""A run folder, written so that whoever looks finds the old one or a complete new one, never a
half."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from sim.text import strict_json
from sim.text.outside import read_text

MARK = "result.json"  # what makes a folder a run folder
_KEYS = {"scenario", "version", "variants"}  # of it
_LISTING = "files "
# What runs wrote before their logs said so.
_FILES: tuple[str, ...] = (
    MARK,
    "timeline.html",
    "report.html",
    "scenario.yaml",
    "log.txt",
    "trace.json.gz",
)
_FILES += ("requests.csv", "requests.parquet", "figures.html", "links.csv", "edges.csv")
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of `folder` if a run may be written there; ValueError if that would destroy
    something else.

    Allowed are a path that does not exist, an empty folder, and an earlier run folder: one whose
    `result.json` is a run's, and that holds nothing but what runs write.
    """
    path = Path(folder).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder for the run")
    there = sorted(each.name for each in path.iterdir()) if path.is_dir() else []
    if there and not _is_result(path / MARK):
        raise ValueError(
            f"{path} is not a podscope run folder (it has no {MARK} of a run), so it is left "
            "alone; name another folder"
        )
    own = {*_FILES, *_listed(path / "log.txt")} if there else set()
    others = [name for name in there if name not in own or not (path / name).is_file()]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            f"{path} holds what podscope did not write ({', '.join(others[:3])}{more}), so it is "
            "left alone; name another folder, or move that away"
        )
    return path


def listing(names: Iterable[str]) -> str:
    """The line of a run's log that says which files are the run's."""
    return f"{_LISTING}{' '.join(sorted(names))}\n"


def _is_result(file: Path) -> bool:
    try:
        found = strict_json.loads(read_text(file, "document bytes"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= _KEYS


def _listed(log: Path) -> list[str]:
    try:
        lines = read_text(log, "table bytes").splitlines()
    except (OSError, ValueError):
        return []
    return [name for line in lines if line.startswith(_LISTING) for name in line.split()[1:]]


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Writes `files` (name to content) as `folder`, replacing an earlier run whole; the folder's
    absolute path.

    The files go into a hidden sibling folder, which then takes the place of the old one: on Linux
    in one atomic exchange, elsewhere in two renames. A killed run leaves at most that sibling,
    `.<name>.<machine>-<process>-<random>.partial`, which the next run to that folder takes away.
    """
    path = check_folder(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    token = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    fresh = path.with_name(f".{path.name}.{token}.partial")
    fresh.mkdir()
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        check_folder(path)  # it may have changed while we wrote
        if not path.exists():
            fresh.rename(path)
        elif not _exchange(fresh, path):
            old = fresh.with_suffix(".old")
            path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old)
    finally:
        shutil.rmtree(
            fresh, ignore_errors=True
        )  # the old run after an exchange, our half-written files after an error
    return path


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _sweep(path: Path) -> None:
    """Take away what runs to this folder left that were killed while they wrote: those of processes
    of this machine that are no more."""
    mark = re.compile(rf"\.{re.escape(path.name)}\.{_machine()}-(\d+)-[0-9a-f]{{8}}\.partial")
    for beside in path.parent.iterdir():
        found = mark.fullmatch(beside.name)
        if found and beside.is_dir() and not _lives(int(found[1])):
            shutil.rmtree(beside, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
