"""DNNs in files, a row a format, told by the name's ending."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sim.dnn.gemm_file import read_gemms
from sim.dnn.gemms import Dnn
from sim.dnn.onnx_file import read_onnx


class Format(NamedTuple):
    """A format of files that a DNN is read from."""

    suffix: str
    name: str
    # (path, *, batch): the DNN, and what its user should know; ValueError, a line for each fault
    read: Callable[..., tuple[Dnn, tuple[str, ...]]]
    sized: bool = False  # it may leave dimensions free: `read` takes their `sizes`


FORMATS = {
    row.suffix: row
    for row in (
        Format(".csv", "CSV", read_gemms),
        Format(".onnx", "ONNX", read_onnx, sized=True),
    )
}


def read_dnn(
    path: Path, *, batch: int = 1, sizes: Mapping[str, int] | None = None
) -> tuple[Dnn, tuple[str, ...]]:
    """The DNN in the file at `path`, and what its user should know; ValueError, OSError."""
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path.name} is neither {' nor '.join(FORMATS)}, so it is no network that can be read"
        )
    row = FORMATS[path.suffix]
    if sizes and not row.sized:
        able = " and ".join(each.name for each in FORMATS.values() if each.sized)
        raise ValueError(f"sizes are for {able} files; take them out")
    try:
        return row.read(path, batch=batch, **({"sizes": sizes} if row.sized else {}))
    except ValueError as error:
        lines = (f"{path.name}: {line}" for line in str(error).splitlines())
        raise ValueError("\n".join(lines)) from error
