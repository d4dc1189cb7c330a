"""A DNN as a list of matrix products in CSV: whatever no other reader knows.

One row a product, in the order in which they are placed: `m,n,k` for X[m, n] times W[n, k], and if
wanted `name`, `kernel_area`, `after` (names of earlier rows, separated by spaces; empty: none) and
`raw_input`. Without a column `after` each row waits for the one before.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sim.dnn.gemms import Dnn, GemmLayer
from sim.text.outside import MOST, bounded, read_text
from sim.text.pick import closest

_NEEDED, _MORE = ("m", "n", "k"), ("name", "kernel_area", "after", "raw_input")
_MOST_SIZE = MOST["size"].most
_MOST_BLANK = MOST["blank lines"].most
_SHOWN = 10
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0", "")


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, str]


def read_gemms(path: Path, *, batch: int = 1) -> tuple[Dnn, tuple[str, ...]]:
    """The DNN in the file at `path`, for `batch` inputs at once, and what its user should know.

    A batch has that many times the rows of X. ValueError, a line for each fault, if anything is
    wrong.
    """
    rows, columns = _rows(read_text(path, "gemm bytes"))
    faults: list[str] = []
    layers: list[GemmLayer] = []
    names: dict[str, int] = {}
    for row in rows:
        layer = _layer(row, columns, names, layers, batch, faults)
        if layer.name in names:
            faults.append(
                f"line {row.line}: the name {layer.name!r} is that of line {names[layer.name]}"
            )
        names.setdefault(layer.name, row.line)
        layers.append(layer)
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise ValueError("\n".join([*faults[:_SHOWN], *more]))
    notes = (
        []
        if "after" in columns
        else ["the file has no column `after`: each product waits for the one before"]
    )
    return Dnn(path.stem, tuple(layers)), tuple(notes)


def _rows(text: str) -> tuple[list[_Row], list[str]]:
    """The rows that are not blank, and the columns; ValueError if the header or all rows fail."""
    comma = max(",;\t|", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=comma)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            line = [cell.strip() for cell in cells]
            if any(line):
                lines.append((reader.line_num, line))
                bounded("matrix products", len(lines) - 1, f"line {reader.line_num}")
            elif reader.line_num - (lines[-1][0] if lines else 0) > _MOST_BLANK:
                raise ValueError(f"line {reader.line_num}: more than {_MOST_BLANK:,} blank lines")
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    (number, names), *rest = lines or [(0, [])]
    if not names:
        raise ValueError("the file is empty; its first line names the columns: m,n,k")
    _check_header(names, number)
    for number, cells in rest:
        if len(cells) != len(names):
            raise ValueError(f"line {number}: {len(cells)} cells, the header has {len(names)}")
    if not rest:
        raise ValueError("there is no product below the header")
    return [_Row(number, dict(zip(names, cells))) for number, cells in rest], names


def _check_header(names: list[str], line: int) -> None:
    if {"M", "N", "K"} <= {*names}:
        raise ValueError(
            f"line {line}: M, N, K are the columns of SCALE-Sim and BLAS, X[M, K] times W[K, N]; "
            "here they are m, n, k of X[m, n] times W[n, k]: name M m, K n and N k"
        )
    known = (*_NEEDED, *_MORE)
    wrong = [
        f"the column {name!r} is there twice"
        if names.count(name) > 1
        else f"no column {name!r} is known{closest(name, known)}"
        for name in dict.fromkeys(names)
        if names.count(name) > 1 or name not in known
    ]
    wrong += [f"the column {name!r} is missing" for name in _NEEDED if name not in names]
    if wrong:
        raise ValueError("\n".join(f"line {line}: {what}" for what in wrong))


def _layer(
    row: _Row,
    columns: list[str],
    known: Mapping[str, int],
    above: list[GemmLayer],
    batch: int,
    faults: list[str],
) -> GemmLayer:
    """A row as a layer; what is wrong with it goes to `faults`, and stands as 1."""

    def size(column: str) -> int:
        text = row.cells.get(column, "1")
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
        if value is None:
            faults.append(f"line {row.line}: {column} is {text!r}, not a whole number")
        elif not 1 <= value <= _MOST_SIZE:
            least = (
                "a layer has a size of at least 1"
                if value < 1
                else f"a size is at most {_MOST_SIZE:,}"
            )
            faults.append(f"line {row.line}: {column} is {value}; {least}")
        else:
            return value
        return 1

    name = row.cells.get("name") or f"gemm{len(above) + 1}"
    after = (
        tuple(_after(row, known, faults))
        if "after" in columns
        else tuple(each.name for each in above[-1:])
    )
    raw = row.cells.get("raw_input", "" if after else "true").lower()
    if raw not in _TRUE + _FALSE:
        faults.append(f"line {row.line}: raw_input is {raw!r}; write true or false")
    m, n, k, area = size("m"), size("n"), size("k"), size("kernel_area")
    if area > n:
        faults.append(f"line {row.line}: a kernel of {area} elements is more than n, which is {n}")
    return GemmLayer(name, m * batch, n, k, kernel_area=area, after=after, raw_input=raw in _TRUE)


def _after(row: _Row, known: Mapping[str, int], faults: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(row.cells["after"].split()):
        if name in known:
            yield name
        else:
            faults.append(
                f"line {row.line}: no product {name!r} above this line{closest(name, known)}"
            )
