"""A run folder, written so that whoever looks finds the old one or a complete new one, never a
half."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

MARK = "result.json"  # what makes a folder a run folder
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of `folder` if a run may be written there; ValueError if that would destroy
    something else.

    Allowed are a path that does not exist, an empty folder, and an earlier run folder (one that
    holds `result.json`).
    """
    path = Path(folder).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder for the run")
    if path.is_dir() and any(path.iterdir()) and not (path / MARK).is_file():
        raise ValueError(
            f"{path} is not a podscope run folder (it has no {MARK}), so it is left alone; "
            "name another folder"
        )
    return path


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Writes `files` (name to content) as `folder`, replacing an earlier run whole; the folder's
    absolute path.

    The files go into a hidden sibling folder, which then takes the place of the old one: on Linux
    in one atomic exchange, elsewhere in two renames. A killed run leaves at most that sibling,
    `.<name>.<random>.partial`.
    """
    path = check_folder(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
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


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
