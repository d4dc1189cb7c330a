"""A kind of work as a row: everything that the rest needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any


class Named(str):
    """What stands at a dotted path "package.module:name", imported at first use.

    A row of functions is cheap to read: scenario and results see the row and import no kind.
    """

    __slots__ = ()

    @property
    def found(self) -> Any:
        """The thing itself; ImportError or AttributeError if it is not there."""
        return _found(str(self))

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self.found(*given, **named)


@cache
def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Kind:
    """One kind of work, from the YAML to the report.

    `name` is the `kind` of `workload` in a scenario. `reads` are the keys beside `workload` that
    mean something to it, dotted (`pod.topology`; a name alone is the whole section); any other is
    an unknown key. `needs` are those without which it cannot be.
    """

    name: str
    summary: str
    spec: Named  # class of the section `workload`
    reads: tuple[str, ...]
    prepare: Named  # (variant, seed) -> plan; MisfitError or ValueError
    play: Named  # (plan, progress) -> Outcome; with `share` (plan, progress, spread)
    metrics: tuple[Named, ...]  # tables of rows, in the order in which they are shown
    verdict: Named  # (outcomes, metrics, comparison) -> a sentence
    needs: tuple[str, ...] = ()
    share: Named | None = None  # (plan, share, shares) -> the part of one process
    takes: Named | None = None  # plan -> Takes: chips and money, before anything is played
    # Metrics, of which the first that the baseline has is the speed-up, and how each breaks down:
    # outcome -> seconds by what they were spent on (`sim.results.difference`).
    judged: Mapping[str, Named] = field(
        default_factory=lambda: {"makespan_s": Named("sim.results.difference:of_chips")}
    )
    # What a workload is made of that has metrics of its own: jobs, tenants, networks, families.
    part: str = ""  # what one of them is called
    part_key: str = ""  # the key of `workload` under which they stand, by name
    parts: Named | None = None  # outcome -> {name: {metric: value}}
    part_metrics: tuple[Named, ...] = ()  # tables of the rows of these metrics
    part_shown: tuple[str, ...] = ()  # those in a table of the parts on a terminal
    requests: Named | None = None  # outcome -> {part, or "": the Outcome whose requests they are}
    table: Named | None = None  # (outcomes, metrics, comparison) -> a table in place of the usual
    sections: tuple[Named, ...] = ()  # outcomes -> a section of the report
    files: tuple[Named, ...] = ()  # outcomes -> {name: content} beside the usual files
    pages: tuple[tuple[str, str, Named | None], ...] = ()  # title, file, (outcomes, title) -> HTML
