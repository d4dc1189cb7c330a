"""Fields of files: a name in a table, whatever the table holds when a file is read; and which
sections a field may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import core_schema

from sim.text.strict_yaml import nearest


class Choice:
    """One of the names of a table, as it is when the file is read: installed packages add rows."""

    def __init__(self, table: Iterable[str], *more: str) -> None:
        self.table, self.more = table, more

    @property
    def names(self) -> list[str]:
        """What may be chosen."""
        return [*self.more, *self.table]

    def _known(self, value: str) -> str:
        if value not in self.names:
            close, choices = nearest(value, self.names), ", ".join(self.names)
            raise ValueError(f"{value!r} is not allowed here{close}; choose one of {choices}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": self.names, "type": "string"}


def models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models(part)]
