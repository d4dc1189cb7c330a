"""Folders of ready-made files: `sim/shipped` in an installed wheel, the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from sim.catalog.installed import FILES
from sim.text.strict_yaml import nearest

# Kind -> endings of its files; a name is a file's name without its ending.
KINDS: dict[str, tuple[str, ...]] = {
    "scenarios": (".yaml", ".yml"),
    "topologies": (".yaml", ".yml"),
    "traces": (".csv", ".csv.gz", ".jsonl", ".jsonl.gz"),
}


def folder(kind: str) -> Path:
    """Where the files of `kind` ("scenarios", "topologies", "traces") lie; it may be absent."""
    if kind not in KINDS:
        raise ValueError(
            f"nothing ships under {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}"
        )
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """Names of what ships and of what installed packages add, sorted."""
    found = {
        path.name.removesuffix(end)
        for path in folder(kind).glob("[!.]*")
        for end in KINDS[kind]
        if path.name.endswith(end)
    }
    return sorted(found | {*FILES[kind]})


def find(kind: str, name: str) -> Path | None:
    """The file of that name, with or without its ending; None if there is none."""
    own = (folder(kind) / (name + end) for end in ("", *KINDS[kind]))
    for path in (FILES[kind].get(name), *own):
        if path is not None and path.is_file():
            return path.resolve()
    return None
