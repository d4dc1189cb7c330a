"""JSON in which no key is given twice, and that does not grow in memory without bounds: Python's
own reader takes the last of equal keys, and 24 bytes of memory and more for each byte of text."""

from __future__ import annotations

import json
from typing import Any

from sim.text.outside import bounded


def loads(text: str) -> Any:
    """What a JSON text says; ValueError where it says nothing, too much, or a key twice in one
    object."""
    # As many values as it may have: an object takes the memory of several.
    bounded("json values", text.count(",") + text.count("[") + 3 * text.count("{"))
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} is given twice")
            seen.add(key)
    return found
