"""What makes two points the same: the program, what the scenario comes to, and the files it
names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sim.catalog import shipped
from sim.catalog.installed import add_installed
from sim.facts.version import VERSION
from sim.scenario import Scenario
from sim.text import strict_yaml

_CODE = (".py", ".yaml", ".json")
_CARDS = (".yaml", ".yml", ".json")  # files that may name further files
_LETTERS = 24


@cache
def program() -> str:
    """The version of podscope, with a digest of its own files and of the packages that add to it:
    "podscope 0.1.0 (3f2a...)"."""
    digest = hashlib.sha256()
    roots = [Path(__file__).parents[1], shipped.folder("topologies")]
    for root in roots:
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root)  # what ships in a wheel's folder `shipped` is beside it
            if path.suffix in _CODE and place.parts[0] != "shipped" and path.is_file():
                digest.update(place.as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    digest.update("\n".join(sorted({*add_installed().values()})).encode())
    return f"podscope {VERSION} ({digest.hexdigest()[:8]})"


def digest_of(scenario: Scenario) -> str:
    """Equal for scenarios whose variants, seed and files are equal, however they are written; of
    the same program."""
    facts = {
        "program": program(),
        "seed": scenario.seed,
        "variants": [[name, _plain(spec)] for name, spec in scenario.variants.items()],
    }
    files = {path: _content(path) for path in sorted(set(_files(facts["variants"])))}
    text = json.dumps([facts, files], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_LETTERS]


def _plain(value: Any) -> Any:
    """Specs as plain data, each with the name of its class."""
    if isinstance(value, BaseModel):
        fields = {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        return {"": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, float)):
        return repr(float(value)) if abs(value) < 2**53 else repr(value)
    return f"{type(value).__name__} {value}"


def _files(value: Any, folder: str = "") -> Iterator[str]:
    """The files that texts in plain data name, from a folder, and those that they name in turn."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _files(one, folder)
    elif isinstance(value, str) and ("/" in value or value.endswith(_CARDS)):
        path = os.path.abspath(os.path.join(folder, os.path.expanduser(value)))
        if os.path.isfile(path):
            yield path
            yield from _named_in(path, _stamp(path))


@lru_cache(maxsize=1000)
def _named_in(path: str, stamp: tuple[int, ...]) -> tuple[str, ...]:
    if not path.endswith(_CARDS):
        return ()
    try:
        data = strict_yaml.read(path).data
    except ValueError:  # whoever reads it will say so
        return ()
    return tuple(found for found in _files(data, os.path.dirname(path)) if found != path)


def _content(path: str) -> str:
    return _digest(path, _stamp(path))


@lru_cache(maxsize=1000)
def _digest(path: str, stamp: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: str) -> tuple[int, ...]:
    """Changes when the file does."""
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
