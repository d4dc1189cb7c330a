"""What commands print and write: to a terminal, a pipe, or a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A rich console; piped into a file, a table keeps its columns rather than being squeezed into
    80."""
    from rich.console import Console

    class Safe(Console):
        """Shows what a text holds, where a terminal would obey it."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            """The pieces of what is printed: rich's own codes are not among their text."""
            for piece in super().render(renderable, options):
                yield piece if piece.control else piece._replace(text=visible(piece.text))

    found = Safe(stderr=stderr)
    return found if found.is_terminal else Safe(stderr=stderr, width=160)


def say(text: str, stderr: bool = False) -> None:
    """A line as it is: neither coloured nor folded."""
    console(stderr=stderr).print(text, highlight=False, soft_wrap=True)


def warn(warnings: Iterable[str]) -> None:
    """Warnings on stderr, a line each."""
    for warning in warnings:
        say(f"[yellow]warning:[/] {plain(warning)}", stderr=True)


# Characters that a terminal obeys rather than shows, but the ends of lines: what is put for them.
_OBEYED = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_OBEYED |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_OBEYED |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def visible(text: str) -> str:
    """Text from outside for a terminal, which neither clears nor colours it, nor turns it round.

    >>> visible("a \x1b[31mname")
    'a \u241b[31mname'
    """
    return text.translate(_OBEYED)


def plain(text: str) -> str:
    """Text in which nothing is markup."""
    from rich.markup import escape

    return escape(text)


def write(path: Path, text: str) -> None:
    """The whole text or nothing."""
    from sim.text.replacing import replacing

    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


_EVERY_S = 10.0  # between lines of progress, where there is no terminal


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """What says how far something is: one line that changes on a terminal, else a line now and
    then, on stderr."""
    terminal = console(stderr=True)
    if terminal.is_terminal:
        with terminal.status("") as status:
            yield lambda text: status.update(plain(text))
        return
    last_s = time.monotonic()

    def line(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _EVERY_S:
            last_s = time.monotonic()
            say(plain(text), stderr=True)

    yield line


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """A function `progress(done_fraction, label)` that moves a bar on stderr, if stderr is a
    terminal."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield lambda done_fraction, label: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done_fraction, label: bar.update(
            task, completed=done_fraction, description=plain(label)
        )
