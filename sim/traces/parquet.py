"""Traces as Parquet tables, with the columns of plain traces.  Needs the extra `parquet`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.text.outside import bounded, meeting
from sim.traces.columns import Array, Columns, row_columns
from sim.traces.formats import FORMATS, Parser, TraceFormat

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = b"PAR1"
_UNSAID = {("session", "int64"): -1, ("think_s", "double"): math.nan}
_LISTS = tuple(
    f"{kind}<{name}: int64>" for kind in ("list", "large_list") for name in ("item", "element")
)
_BATCH_ROWS, _BATCH_VALUES = 65_536, 4_000_000


class Table:
    """Rows of a Parquet file; as a line, a row is the JSON object of a plain JSON Lines trace."""

    def __init__(self, batch: pa.RecordBatch, number: int):
        self.batch = batch
        self.number = np.arange(number, number + batch.num_rows)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def part(self, start: int, stop: int) -> Table:
        """Rows `start` to `stop - 1` of these."""
        number = int(self.number[0]) if len(self) else 0
        return Table(self.batch.slice(start, stop - start), number + start)

    def line(self, index: int) -> str:
        """One row."""
        return json.dumps(self.batch.slice(index, 1).to_pylist()[0], default=str) + "\n"

    def told(self, kinds: Mapping[str, str]) -> dict[str, Any] | None:
        """What the rows tell beside arrival and lengths, by kind; None where a type is not ours."""
        found: dict[str, Any] = {}
        if "session" in kinds and "think_s" not in kinds:
            return None  # it is worked out row by row
        for kind, name in kinds.items():
            column = self.batch.column(name)
            form = str(column.type)
            if form.startswith("dictionary") and kind == "tenant":
                coded = column.fill_null("") if column.null_count else column
                found[kind] = (
                    coded.dictionary.to_pylist(),
                    coded.indices.to_numpy(zero_copy_only=False),
                )
                continue
            if (kind, form) in _UNSAID:
                values = column.fill_null(_UNSAID[kind, form]).to_numpy(zero_copy_only=False)
                if column.null_count + ((values >= 0) & (values < math.inf)).sum() < len(values):
                    return None
                found[kind] = values
            elif kind == "blocks" and form in _LISTS and column.null_count == 0:
                values = column.flatten()
                if values.null_count:
                    return None
                counts = column.value_lengths().to_numpy(zero_copy_only=False)
                found[kind] = counts, values.to_numpy(zero_copy_only=False)
            else:
                return None
        return found

    def plain_rows(self, max_tokens: int) -> tuple[Array, Array, Array, Array]:
        """Arrival, prompt and output of each row, and which are surely right; others are zero."""
        count = len(self)
        columns, kept = [], np.ones(count, bool)
        for name, dtype in zip(FORMATS["plain"].columns, (np.float64, np.int64, np.int64)):
            column = self.batch.column(name)
            right = column.null_count == 0 and (str(column.type) in ("double", "int64", "int32"))
            values = column.to_numpy(zero_copy_only=False) if right else np.full(count, np.nan)
            with np.errstate(invalid="ignore"):
                if dtype is np.float64:
                    kept &= np.isfinite(values) & (values >= 0)
                else:
                    kept &= (values > 0) & (values <= max_tokens) & (values == np.floor(values))
            columns.append(np.where(kept, values, 0).astype(dtype))
        time, prompt, output = (np.where(kept, column, 0) for column in columns)
        return time, prompt, output, kept


def is_parquet(path: Path) -> bool:
    """Told by the first bytes of the file."""
    try:
        if not path.is_file():  # of a pipe nothing may be read twice
            return False
        with open(path, "rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False  # whoever reads it next will say why


def tables(path: Path) -> tuple[TraceFormat, Parser, Iterator[Table]]:
    """Format, parser, and the rows of a file in batches; ValueError without the file's name."""
    pq = _pyarrow_parquet()
    form = FORMATS["plain_jsonl"]
    with _decoding("cannot be read as Parquet"):
        schema = pq.ParquetFile(path).schema_arrow
        names = schema.names
    if missing := [column for column in form.columns if column not in names]:
        raise ValueError(
            f"missing column {', '.join(map(repr, missing))}; columns found: "
            f"{', '.join(names)[:200]}; "
            f"a right table has {', '.join(form.columns)}"
        )
    parser = form.parser(1, json.dumps(dict.fromkeys(names)), sure=True)
    kinds = {**dict.fromkeys(form.columns, ""), **{name: k for k, name in parser.told.items()}}
    for name in kinds:
        if names.count(name) > 1:
            raise ValueError(f"the column {name!r} is there twice")
    texts = [name for name, kind in kinds.items() if _right_type(schema.field(name), kind)]
    with _decoding("cannot be read as Parquet"):
        # Texts stay coded, as in the file, where a few bytes may stand for many.
        file = pq.ParquetFile(path, read_dictionary=texts)
    return form, parser, _batches(file, [*kinds])


def _right_type(field: Any, kind: str) -> bool:
    """Whether a column is one of texts; ValueError where its values cannot be of its type."""
    import pyarrow.types as types

    of, due = field.type, "numbers"
    if types.is_dictionary(of):
        of = of.value_type
    text = types.is_string(of) or types.is_large_string(of)
    number = types.is_integer(of) or types.is_floating(of) or types.is_decimal(of)
    right = number or text or types.is_null(of)
    if kind == "blocks":
        due = "lists of whole numbers"
        listed = types.is_list(of) or types.is_large_list(of)
        right = listed and (
            types.is_integer(of.value_type)
            or types.is_string(of.value_type)
            or types.is_null(of.value_type)
        )
    elif kind in ("tenant", "session"):
        due = "names"
    if not right:
        raise ValueError(f"column {field.name!r} holds {str(of)[:80]}, where {due} are due")
    return text


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Around the library: what it says of a file is a refusal of the file."""
    import pyarrow as pa

    try:
        with meeting("", pa.ArrowException, NotImplementedError, MemoryError):
            yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())[:300]}") from error


def _batches(file: Any, names: list[str]) -> Iterator[Table]:
    number = 1
    rows = _BATCH_ROWS
    with _decoding("cannot be read as Parquet"):
        told, at = file.metadata, {name: file.schema_arrow.names.index(name) for name in names}
        for group in range(told.num_row_groups):
            part = told.row_group(group)
            for column in (part.column(i) for i in range(part.num_columns)):
                name = column.path_in_schema.partition(".")[0]
                if name in at:
                    where = f"row group {group}, column {name!r}"
                    bounded("group bytes", column.total_uncompressed_size, where)
                    bounded("group values", column.num_values, where)
                    each = max(1, column.num_values // max(part.num_rows, 1))
                    rows = min(rows, max(1, _BATCH_VALUES // each))
        batches = file.iter_batches(rows, columns=names)
    while True:
        with _decoding(f"corrupt Parquet data after row {number - 1}, fetch the file again"):
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        if batch is None:
            return
        yield Table(batch, number)
        number += batch.num_rows


def table_of(columns: Columns, tenants: list[str], block_tokens: int) -> pa.Table:
    """Requests as a table with the columns of plain traces."""
    _pyarrow_parquet()
    import pyarrow as pa

    unsaid: dict[str, Callable[[Array], Array]] = {
        "session": lambda numbers: numbers < 0,
        "think_s": np.isnan,
    }
    found: dict[str, Any] = {
        name: pa.array(each, mask=unsaid[name](each) if name in unsaid else None)
        for name, each in row_columns(columns)
    }
    if columns.tenant is not None:
        found["tenant"] = pa.array([tenants[each] for each in columns.tenant.tolist()], pa.string())
    if columns.block_from is not None and columns.blocks is not None:
        found[f"blocks_{block_tokens}"] = pa.LargeListArray.from_arrays(
            columns.block_from, columns.blocks
        )
    return pa.table(found)


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet needs an extra: pip install 'podscope[parquet]'") from None
    return pyarrow.parquet
