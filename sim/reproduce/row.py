"""One line of a reproduction: what was published, what we compute, how far apart they may be."""

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


def near(
    system: str, id_: str, what: str, known: float, found: float, percent: float, note: str = ""
) -> Row:
    """A prediction that may be so many per cent off."""
    ok = bool(abs(found / known - 1) <= percent / 100)
    return Row(system, id_, what, known, float(found), f"{percent:g} %", ok, note=note)


def equal(
    system: str, id_: str, what: str, known: float | str, found: float | str, note: str = ""
) -> Row:
    """A prediction that has to be met exactly."""
    return Row(system, id_, what, known, found, "equal", found == known, note=note)
