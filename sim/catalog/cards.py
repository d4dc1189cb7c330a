"""What cards have in common: JSON files that say what they are in `kind` and `version`, found by
name like a device, in an installed package, or by their path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from sim.catalog.files import NOUN, checked, find
from sim.text import strict_yaml
from sim.text.strict_yaml import Document, KeyPath, ScenarioError

STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(gt=0, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True)]

Card = TypeVar("Card", bound=BaseModel)


def no_faults(found: BaseModel, doc: Document) -> Iterator[tuple[KeyPath, str]]:
    """Of a card that stands alone."""
    yield from ()


def reader(
    folder: str,
    section: type[Card],
    beside: Callable[[Card, Document], Iterator[tuple[KeyPath, str]]] = no_faults,
) -> Callable[[str | Path], Card]:
    """A function from a name in `sim/catalog/FOLDER`, or a path, to the card, read once until its
    file changes; ScenarioError with what is wrong of it.  `beside` gives faults of files that
    belong to it."""
    noun = NOUN[folder]

    @cache
    def read(path: Path, changed: int) -> Card:
        doc = strict_yaml.read(path)  # JSON is YAML; faults then have their lines
        said = {
            "kind": f"this is no {noun}: its kind is {{!r}}, not {{!r}}",
            "version": "version {!r}; this podscope reads version {!r}",
        }
        for key, what in said.items():
            (due,) = get_args(section.model_fields[key].annotation)
            if (found := doc.data.get(key)) != due:
                raise ScenarioError([doc.fault((key,), what.format(found, due))])
        card = checked(section, doc, f"a {noun}")
        if wrong := [doc.fault(at, what) for at, what in beside(card, doc)]:
            raise ScenarioError(wrong)
        return card

    def card(name_or_path: str | Path) -> Card:
        path = find(folder, name_or_path)
        return read(path, path.stat().st_mtime_ns if path.is_file() else 0)

    return card
