"""Where the names in a scenario lead: the catalogue, what ships with the package, or a file beside
the scenario."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sim.scenario.layers import Node, nearest_node, replaced
from sim.text.strict_yaml import Fault, KeyPath, nearest

YAML_SUFFIXES = ("", ".yaml", ".yml")
# Key of the section -> (what it is, kind in the catalogue, suffixes of its files).
_NAMED: dict[KeyPath, tuple[str, str, tuple[str, ...]]] = {
    ("pod", "topology"): ("topology", "topologies", YAML_SUFFIXES),
    ("pod", "device"): ("device", "devices", YAML_SUFFIXES),
    ("pod", "library"): ("library", "libraries", YAML_SUFFIXES),
    ("model",): ("model", "models", (*YAML_SUFFIXES, "/config.json")),
    ("model", "name"): ("model", "models", (*YAML_SUFFIXES, "/config.json")),
}
_PREFILL: KeyPath = ("workload", "prefill")  # has a pod of its own
_NAMED |= {(*_PREFILL, *path): named for path, named in _NAMED.items() if path[0] == "pod"}
_TRACE: KeyPath = ("workload", "trace")
_NO_FILE = "no such file {!r}, beside the scenario, in the folder above, or in the current one"
_ROUTING: KeyPath = ("parallel", "routing", "file")
_TRACE_SUFFIXES = ("", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


def known(kind: str) -> list[str]:
    """Names of the devices, models, libraries, topologies, scenarios or traces there are."""
    from sim import catalog
    from sim.catalog import shipped

    return list(
        catalog.names(kind) if kind in ("devices", "models", "libraries") else shipped.names(kind)
    )


def file_at(
    text: str, folders: Iterable[Path], suffixes: tuple[str, ...] = YAML_SUFFIXES
) -> Path | None:
    """The first existing file called `text` (with one of `suffixes`) in `folders`; absolute."""
    for folder in folders:
        for suffix in suffixes:
            try:
                path = (folder / (text + suffix)).expanduser()
                if path.is_file() or (path.exists() and not path.is_dir()):
                    return path.resolve()
            except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no such user
                continue
    return None


def shown(path: Path) -> Path:
    """`path` as a person in the current folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def around(node: Node, scenario_folder: Path) -> list[Path]:
    """Where a relative path of `node` may start: its file's folder, the folder above, the current
    one."""
    folder = node.doc.path.absolute().parent if node.doc else Path.cwd()
    return [folder, folder.parent, Path.cwd(), scenario_folder]


def settle(section: Node, scenario_folder: Path) -> tuple[Node, list[Fault]]:
    """`section` (a scenario's common part, or one variant) with each path that leads to a file made
    absolute.

    Names of the catalogue stay names. A name that leads nowhere is a fault, except a trace's file,
    which may be absent.
    """
    faults: list[Fault] = []
    models: list[KeyPath] = [
        (*owner, *key)
        for owner in [*_tenants(section), *_networks(section)]
        for key in (("model",), ("model", "name"))
    ]
    for path, (noun, kind, suffixes) in [
        *_NAMED.items(),
        *((path, _NAMED["model",]) for path in models),
    ]:
        for node in _text_at(section, path):
            names = known(kind)
            if node.value in names:
                continue
            found = file_at(node.value, around(node, scenario_folder), suffixes)
            if found is None:
                faults.append(node.fault(_unknown(node.value, noun, names)))
            else:
                section = replaced(section, path, str(found))
    for path in [_ROUTING, *((*network, "file") for network in _networks(section))]:
        for node in _text_at(section, path):
            found = file_at(node.value, around(node, scenario_folder), ("",))
            if found is None:
                faults.append(node.fault(_NO_FILE.format(node.value)))
            else:
                section = replaced(section, path, str(found))
    for trace in _traces(section):
        for key in ("file", "fallback"):
            for node in _text_at(section, (*trace, key)):
                found = trace_at(node, scenario_folder)
                if found is not None:
                    section = replaced(section, (*trace, key), str(found))
                elif key == "fallback":
                    faults.append(node.fault(_unknown(node.value, "trace", known("traces"))))
    return section, faults


def _tenants(section: Node) -> list[KeyPath]:
    """Where each tenant of the workload is."""
    return _below(section, ("workload", "tenants"))


def _networks(section: Node) -> list[KeyPath]:
    """Where each network of the workload is, also those of families."""
    owners: list[KeyPath] = [("workload",), *_below(section, ("workload", "families"))]
    return [network for owner in owners for network in _below(section, (*owner, "networks"))]


def _below(section: Node, path: KeyPath) -> list[KeyPath]:
    node, rest = nearest_node(section, path)
    return (
        [] if rest or not isinstance(node.value, dict) else [(*path, name) for name in node.value]
    )


def _traces(section: Node) -> list[KeyPath]:
    """Where a trace may be named."""
    return [_TRACE, *((*owner, "trace") for owner in [*_tenants(section), *_networks(section)])]


def absent_trace(variant: Node) -> Iterator[Fault]:
    """A fault when a trace of the variant is not there and nothing stands in for it."""
    for trace in _traces(variant):
        for node in (
            ()
            if any(_text_at(variant, (*trace, "fallback")))
            else _text_at(variant, (*trace, "file"))
        ):
            if not Path(node.value).is_absolute() or not file_at(node.value, [Path("/")], ("",)):
                yield node.fault(
                    f"{_NO_FILE.format(node.value)}{nearest(node.value, known('traces'))}"
                )


def trace_at(node: Node, scenario_folder: Path) -> Path | None:
    """The trace file that `node` names: a path, or a trace that ships with the package."""
    from sim.catalog import shipped

    beside = file_at(node.value, around(node, scenario_folder), ("",))
    return beside or file_at(node.value, [shipped.folder("traces")], _TRACE_SUFFIXES)


def _text_at(section: Node, path: KeyPath) -> Iterator[Node]:
    node, rest = nearest_node(section, path)
    if not rest and isinstance(node.value, str):
        yield node


def _unknown(name: str, noun: str, names: list[str]) -> str:
    looks_like_a_path = (
        "/" in name
        or "\\" in name
        or Path(name).suffix in (".yaml", ".yml", ".json", ".csv", ".gz")
    )
    if looks_like_a_path:
        return _NO_FILE.format(name)
    return (
        f"no {noun} {name!r}{nearest(name, names)}; choose one of {', '.join(names)}, or "
        "give the path of a file"
    )
