"""One line of a reproduction: what was published, what we compute, how far apart they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[float], None]


class Row(NamedTuple):
    """A published number or claim beside the simulated one.

    A row has one value, a number, or none; what is text stands in `note`. `published` None: nobody
    published a number. `simulated` None: not run, and `note` says why. `ok` None: not judged, the
    row is there to be read. `fitted` names the constants chosen so as to meet this very number;
    empty: the number is a prediction.
    """

    system: str
    id: str
    what: str
    published: float | None
    simulated: float | None
    tolerance: str
    ok: bool | None
    fitted: str = ""
    note: str = ""


def rows_of(parts: Iterable[Iterable[Row]], count: int, progress: Progress) -> list[Row]:
    """The rows of all `count` parts; `progress` is told after each."""
    rows: list[Row] = []
    for done, part in enumerate(parts, 1):
        rows += part
        progress(done / count)
    return rows


def reads(
    system: str, id_: str, what: str, file: Callable[[], Path]
) -> Callable[[Callable[[Path, bool], Iterable[Row]]], Callable[..., list[Row]]]:
    """Decorates a part that reads a file: its rows, or the one that says the file is not there."""

    def of(part: Callable[[Path, bool], Iterable[Row]]) -> Callable[..., list[Row]]:
        @wraps(part)
        def rows(quick: bool = False) -> list[Row]:
            at = file()
            return list(part(at, quick)) if at.exists() else absent(system, id_, what, at)

        return rows

    return of


def absent(system: str, id_: str, what: str, file: Path) -> list[Row]:
    """What is said where the data of a row is not beside the checkout."""
    return [Row(system, id_, what, None, None, "", None, note=f"{file} is not there")]


def near(
    system: str,
    id_: str,
    what: str,
    known: float,
    found: float,
    percent: float,
    note: str = "",
    fitted: str = "",
) -> Row:
    """A number that may be so many per cent off."""
    ok = bool(abs(found / known - 1) <= percent / 100)
    return Row(system, id_, what, known, float(found), f"{percent:g} %", ok, fitted, note)


def within(system: str, id_: str, what: str, off: float, most: float, note: str = "") -> Row:
    """A largest relative difference that is to be at most so much."""
    return Row(
        system, id_, what, 0.0, off, f"{most:.0e}".replace("e-0", "e-"), off <= most, note=note
    )


def listed(values: Iterable[float], digits: int = 2) -> str:
    """Numbers as text, with so many decimals."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def sign(
    system: str, id_: str, what: str, values: Sequence[float], rises: bool = False, note: str = ""
) -> Row:
    """That `values` fall, or rise, at each step: judged by the step that does so least."""
    steps = [after / before for before, after in pairwise(values)]
    least = min(steps) if rises else max(steps)
    return Row(
        system,
        id_,
        f"{what}: {'least' if rises else 'largest'} ratio of one to the one before",
        None,
        least,
        "> 1" if rises else "< 1",
        least > 1 if rises else least < 1,
        note="; ".join(filter(None, (listed(values, 3), note))),
    )


def equal(system: str, id_: str, what: str, known: float, found: float, note: str = "") -> Row:
    """A prediction that has to be met exactly."""
    return Row(system, id_, what, known, found, "equal", found == known, note=note)
