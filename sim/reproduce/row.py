"""One line of a reproduction: what was published, what the model computes, and how far apart they
may be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A published number or claim beside the simulated one.

    `published` None: nobody published it; the row is there to be read, and `ok` None says that it
    is not judged. `fitted` names the constants chosen so as to meet this very number; empty: the
    number is a prediction.
    """

    system: str
    id: str
    what: str
    published: float | str | None
    simulated: float | str
    tolerance: str
    ok: bool | None
    fitted: str = ""
    note: str = ""


def absent(system: str, id_: str, what: str, file: Path) -> list[Row]:
    """What is said where the data of a row is not beside the checkout."""
    return [Row(system, id_, what, None, "not run", "", None, note=f"{file} is not there")]
