"""A file that is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end.

    A killed or failed write leaves the old file, if there was one. ValueError for a folder.
    """
    beside = temporary(path)
    try:
        yield beside
        beside.chmod(0o644)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def temporary(path: Path) -> Path:
    """An empty file of its own beside `path`, to be renamed to it."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and cannot be written as a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
    os.close(handle)
    return Path(name)
