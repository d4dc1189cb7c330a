"""Tables as DataFrames, where pandas is installed: the one place that imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """The records as a DataFrame with these columns; ImportError, which says so, without pandas."""
    try:
        import pandas
    except ImportError:
        raise ImportError("a DataFrame needs pandas, which podscope does not install") from None
    return pandas.DataFrame.from_records(list(records), columns=list(columns))
