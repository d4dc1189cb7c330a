"""What installed packages add: rows of tables, and files of the catalogue.

A package names each in its entry points of the group `podscope`; the name says to which table the
row goes, and under which name. A file is a path, or the text of one:

    [project.entry-points.podscope]
    "technique.halve_kv" = "my_package.techniques:HALVE_KV"
    "device.my_chip" = "my_package:MY_CHIP_YAML"

Rows are added once, before a scenario is read; nothing is imported where no package names any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sim.text.strict_yaml import nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "podscope"
FILES: dict[str, dict[str, Path]] = {
    kind: {}
    for kind in (
        "devices",
        "models",
        "libraries",
        "topologies",
        "scenarios",
        "traces",
        "kv",
        "channels",
        "dnn",
    )
}
# What the name of an entry point begins with -> the table.
TABLES = {
    "kind": "sim.kinds:KINDS",
    "technique": "sim.techniques:TECHNIQUES",
    "metric": "sim.results.metrics:METRICS",
    "format": "sim.traces.formats:FORMATS",
    "router": "sim.serving.router:ROUTERS",
    "order": "sim.serving.order:ORDERS",
    "interconnect": "sim.systolic.interconnect:INTERCONNECTS",
    "dataflow": "sim.systolic.dataflow:DATAFLOWS",
    "dnn": "sim.dnn.known:KNOWN",
    "dnn_file": "sim.dnn.files:FORMATS",
    "shape": "sim.network.topology:SHAPES",
    "collective": "sim.network.collectives:COLLECTIVES",
    "algorithm": "sim.network.collectives:ALGORITHMS",  # algorithm.all_reduce.mine
    "routing": "sim.network.routing:ROUTINGS",
    "device": "sim.catalog.installed:DEVICES",
    "model": "sim.catalog.installed:MODELS",
    "library": "sim.catalog.installed:LIBRARIES",
    "channel": "sim.catalog.installed:CHANNELS",
    "topology": "sim.catalog.installed:TOPOLOGIES",
    "scenario": "sim.catalog.installed:SCENARIOS",
    "trace": "sim.catalog.installed:TRACES",
    "kv_card": "sim.catalog.installed:KV_CARDS",
    "dnn_card": "sim.catalog.installed:DNN_CARDS",
}
DEVICES, MODELS, LIBRARIES, TOPOLOGIES, SCENARIOS, TRACES, *_CARDS = FILES.values()
KV_CARDS, CHANNELS, DNN_CARDS = _CARDS


@cache
def add_installed() -> dict[tuple[str, str], str]:
    """Add the rows of installed packages; (table, name) -> the package that it is from, and its
    version.

    ValueError, naming package and entry point, for one that cannot be added.
    """
    found: dict[tuple[str, str], str] = {}
    for entry in _entries():
        table, _, name = entry.name.partition(".")
        assert entry.dist is not None
        package = f"{entry.dist.name} {entry.dist.version}"
        owner = f"{package}: entry point {entry.name!r}"
        if table not in TABLES or not name:
            close, there_are = nearest(table, TABLES), ", ".join(TABLES)
            raise ValueError(f"{owner}: no table {table!r}{close}; there are {there_are}")
        module, _, attribute = TABLES[table].partition(":")
        rows = getattr(import_module(module), attribute)
        if name in rows:
            raise ValueError(f"{owner}: there is a {table} {name!r} already")
        try:
            row = entry.load()
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"{owner}: {entry.value} cannot be loaded: {what}") from error
        rows[name] = Path(row) if isinstance(row, str) else row
        found[table, name] = package
    return found


def origin(table: str, name: str) -> str:
    """Where a row is from, as a person reads it; '' for podscope's own."""
    return add_installed().get((table, name), "")


def _entries() -> Iterator[EntryPoint]:
    """The entry points of the group, in a fixed order.

    `importlib.metadata` takes a tenth of a second to import, so it is asked only where some
    package's list has the group in it.
    """
    listed = (
        file
        for folder in dict.fromkeys(sys.path)
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt")
        for file in Path(folder or ".").glob(pattern)
    )
    if not any(f"[{GROUP}]" in file.read_text("utf-8", "replace") for file in listed):
        return
    from importlib.metadata import entry_points

    yield from sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
