"""Folders of ready-made files: `sim/shipped` in an installed wheel, the top of a checkout."""

from __future__ import annotations

from pathlib import Path

import sim
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
    package = Path(sim.__file__).parent
    in_wheel = package / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """Names of what ships, sorted; empty when the folder is absent."""
    where = folder(kind)
    if not where.is_dir():
        return []
    files = (
        path.name for path in where.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    return sorted(
        {name.removesuffix(end) for name in files for end in KINDS[kind] if name.endswith(end)}
    )
