"""From a name or path to a file of the catalogue, and its text to checked fields or all faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sim.catalog.installed import FILES
from sim.text.choice import models
from sim.text.strict_yaml import Document, Fault, KeyPath, ScenarioError, dotted, nearest

KINDS = ("devices", "models", "libraries", "kv", "channels", "dnn")
SUFFIXES = (".yaml", ".yml", ".json")
NOUN = {
    "devices": "device",
    "models": "model",
    "libraries": "library",
    "topologies": "topology",
    "kv": "card of a KV-cache",
    "channels": "channel",
    "dnn": "card of a searched network",
}
_HERE = Path(__file__).parent

Section = TypeVar("Section", bound=BaseModel)


def names(kind: str) -> list[str]:
    """Names of the "devices", "models", "libraries", "kv" cards or "channels" in the catalogue,
    sorted."""
    if kind not in KINDS:
        raise ValueError(
            f"the catalogue has no {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}"
        )
    own = {path.stem for end in SUFFIXES for path in (_HERE / kind).glob(f"*{end}")}
    return sorted(own | {*FILES[kind]})


def find(
    kind: str, name_or_path: str | Path, folder: Path | None = None, known: list[str] | None = None
) -> Path:
    """The file of a catalogue name, or the path itself when it is one.

    `folder` and `known` stand in for the catalogue's own (topologies live elsewhere). A path is
    told from a name by a slash or by its ending; whether it exists is left to whoever reads it.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_path(text):
        return Path(text).expanduser()
    known = names(kind) if known is None else known
    if text not in known:
        there_are = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(
            f"no {NOUN[kind]} {text!r}{nearest(text, known)}; {there_are}, or give the path "
            "of a file"
        )
    return FILES[kind].get(text) or next(
        p for p in ((folder or _HERE / kind) / (text + end) for end in SUFFIXES) if p.is_file()
    )


def is_path(text: str) -> bool:
    """Whether that is a path rather than a name: it has a slash, or a file's ending."""
    return "/" in text or "\\" in text or Path(text).suffix in SUFFIXES


def beside(name_or_path: str, file: Path) -> str:
    """A name as it is, and a path as the file that names it means it: from its own folder."""
    if not is_path(name_or_path):
        return name_or_path
    return str(file.parent / Path(name_or_path).expanduser())


def is_there(kind: str, name_or_path: str | Path) -> bool:
    """Whether there is a file of that name or path."""
    try:
        return find(kind, name_or_path).is_file()
    except (ValueError, OSError):
        return False


def checked(section: type[Section], doc: Document, of: str = "") -> Section:
    """The document as `section`; ScenarioError with every fault, each with its line and key.  `of`
    says of what it is a file."""
    try:
        return section.model_validate(doc.data)
    except ValidationError as error:
        faults = [_fault(section, doc, dict(e), of) for e in error.errors(include_url=False)]
        raise ScenarioError(sorted(set(faults), key=lambda fault: fault.line)) from None


def _fault(section: type[BaseModel], doc: Document, error: dict[str, Any], of: str) -> Fault:
    at: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _fields(section, at[:-1])
        owner = f" of {of}" if of and len(at) == 1 else ""
        what = f"unknown key{owner}{nearest(at[-1], known)}; known here: {', '.join(known)}"
    elif kind == "missing":
        what = "this key is missing" + (f"; {of} needs it" if of and len(at) == 1 else "")
    elif kind in ("model_type", "model_attributes_type") and at:
        what = f"a mapping with {', '.join(_fields(section, at))} is due, not {error['input']!r}"
    elif kind == "value_error":
        what = str(error["ctx"]["error"])
    else:
        what = f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"
    return Fault(str(doc.path), doc.line(at), dotted(at), what)


def _fields(section: type[BaseModel], at: KeyPath) -> list[str]:
    """Keys allowed in the mapping at `at`; follows sections, and the values of mappings."""
    here: Any = section
    for part in at:
        fields = getattr(here, "model_fields", None)
        here = fields[part].annotation if fields and part in fields else here
        here = next(iter(models(here)), here)
    return list(getattr(here, "model_fields", {}))
