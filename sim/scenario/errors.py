"""Faults that show only when the parts of a variant are put together, each with the key it is
about."""

from __future__ import annotations

from collections.abc import Iterable

from sim.text.strict_yaml import KeyPath


class MisfitError(ValueError):
    """What does not fit, by key of the variant; whoever knows the file adds where that is."""

    def __init__(self, wrong: Iterable[tuple[KeyPath, str]]):
        self.wrong = list(wrong)
        super().__init__("; ".join(what for _, what in self.wrong))


def refuse(wrong: Iterable[tuple[KeyPath, str]]) -> None:
    """MisfitError if anything is wrong."""
    if found := list(wrong):
        raise MisfitError(found)
