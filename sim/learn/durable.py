"""Checkpoints and a journal that outlive a kill: a file is there whole or not at all, and what was
said to be written is on the disk.  Arrays as npz, the rest as JSON in it; no pickle."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sim.network.protocol import Record
from sim.text.replacing import replacing

_LINE = struct.Struct(">qQI")


def save_checkpoint(path: Path, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    """Both in one file, durable on return."""
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, **{"state.json": text}, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """ValueError for a file that is no checkpoint."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("state.json").tobytes())
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path}: no checkpoint that can be read: {error}") from None


class Journal:
    """Records after a checkpoint, appended; a last one that was cut off was never acted on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        data = path.read_bytes() if path.exists() else b""
        whole = 0
        for at in range(0, len(data) - _LINE.size + 1, _LINE.size):
            batch, number, crc = _LINE.unpack_from(data, at)
            if zlib.crc32(data[at : at + 16]) != crc:
                break
            self.records.append(Record(batch, number))
            whole = at + _LINE.size
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        _sync_folder(path.parent)

    def write(self, record: Record) -> None:
        """In order; a record of a batch is durable on return. ValueError where it cannot be, which
        is no fault of a connection and must not pass for one."""
        head = struct.pack(">qQ", *record)
        try:
            self._file.write(head + struct.pack(">I", zlib.crc32(head)))
            self._file.flush()
            if record.batch >= 0:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """No more records."""
        self._file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
