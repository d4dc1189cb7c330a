"""A name in a table, as a field of a file: whatever the table holds when a file is read may be
chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


class Choice:
    """Marks a text field that is one of some names: `Annotated[str, Choice(TABLE.keys)]`.

    The names are asked for at each reading, so that a row which a package adds to the table counts
    however late it comes.
    """

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def _known(self, value: Any) -> Any:
        names = list(self.names())
        if value not in names:
            *others, last = map(repr, names)
            expected = " or ".join(filter(None, (", ".join(others), last)))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._known)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict:
        return {"enum": list(self.names()), "type": "string"}
