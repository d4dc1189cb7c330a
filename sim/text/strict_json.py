"""JSON in which no key is given twice: Python's own reader takes the last."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str) -> Any:
    """What a JSON text says; ValueError where a key is given twice in one object."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is given twice")
    return found
