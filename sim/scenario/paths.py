"""Where the names in a scenario lead: the catalogue, what ships with the package, or a file beside
the scenario."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from sim.scenario.fields import YAML_SUFFIXES, Place
from sim.scenario.layers import Node, nearest_node, replaced
from sim.scenario.schema import variant_of
from sim.text.strict_yaml import Fault, KeyPath, nearest

_NO_FILE = "no such file {!r}, beside the scenario, in the folder above, or in the current one"


def known(kind: str) -> list[str]:
    """Names of the devices, models, libraries, cards, topologies, scenarios or traces there
    are."""
    from sim import catalog
    from sim.catalog import files, shipped

    return list(catalog.names(kind) if kind in files.KINDS else shipped.names(kind))


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


def settle(
    section: Node, specs: Iterable[type[BaseModel]], folder: Path
) -> tuple[Node, list[Fault]]:
    """`section` (a scenario's common part, or one variant) with each path that leads to a file made
    absolute; `specs` are what its workload may be.

    Names of the catalogue stay names. A name that leads nowhere is a fault, except a trace's file,
    which may be absent.
    """
    faults: list[Fault] = []
    for path, place in _places(section, specs):
        node, _ = nearest_node(section, path)
        names = known(place.table) if place.table else []
        if node.value in names and place.table != "traces":
            continue
        found = _file(node, place, folder)
        if found is not None:
            section = replaced(section, path, str(found))
        elif not place.absent:
            faults.append(node.fault(_unknown(node.value, place.noun, names)))
    return section, faults


def absent_trace(variant: Node, spec: type[BaseModel]) -> Iterator[Fault]:
    """A fault when a trace of the variant is not there and nothing stands in for it."""
    for path, place in _places(variant, [spec]):
        beside, rest = nearest_node(variant, (*path[:-1], "fallback"))
        if not place.absent or (not rest and isinstance(beside.value, str)):
            continue
        node, _ = nearest_node(variant, path)
        if not Path(node.value).is_absolute() or not file_at(node.value, [Path("/")], ("",)):
            yield node.fault(
                f"{_NO_FILE.format(node.value)}{nearest(node.value, known(place.table))}"
            )


def _places(section: Node, specs: Iterable[type[BaseModel]]) -> Iterator[tuple[KeyPath, Place]]:
    """Every text of the section that leads somewhere, by what the schema says of it."""
    found: dict[KeyPath, Place] = {}
    for spec in specs:
        for path, place in _below(section, variant_of(spec), ()):
            found.setdefault(path, place)
    found.update(_of_techniques(section))
    return iter(found.items())


def _of_techniques(section: Node) -> Iterator[tuple[KeyPath, Place]]:
    """The places in the options of techniques."""
    from sim.techniques import TECHNIQUES

    node, rest = nearest_node(section, ("techniques",))
    for at, entry in enumerate(node.value if not rest and isinstance(node.value, list) else ()):
        for name, options in entry.value.items() if isinstance(entry.value, dict) else ():
            if name in TECHNIQUES:
                yield from _below(options, TECHNIQUES[name].options, ("techniques", at, name))


def _below(node: Node, of: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Place]]:
    """The places in `node`, which is to be an `of`."""
    if isinstance(of, type) and issubclass(of, BaseModel):
        for key, field in of.model_fields.items():
            if isinstance(node.value, dict) and key in node.value:
                marks = [mark for mark in field.metadata if isinstance(mark, Place)]
                inside = node.value[key]
                if marks and isinstance(inside.value, str):
                    yield (*path, key), marks[0]
                yield from _below(inside, field.annotation, (*path, key))
        return
    arguments = get_args(of)
    marks = [mark for mark in arguments if isinstance(mark, Place)]
    if marks and isinstance(node.value, str):
        yield path, marks[0]
    elif get_origin(of) is dict and isinstance(node.value, dict):
        for key, each in node.value.items():
            yield from _below(each, arguments[1], (*path, key))
    elif get_origin(of) in (list, tuple) and isinstance(node.value, list):
        for place, each in enumerate(node.value):
            yield from _below(each, arguments[0], (*path, place))
    elif get_origin(of) not in (dict, list, tuple):
        for argument in arguments:
            yield from _below(node, argument, path)


def _file(node: Node, place: Place, folder: Path) -> Path | None:
    """The file that `node` names: beside it, or a trace that ships with the package."""
    from sim.catalog import shipped

    if place.table != "traces":
        return file_at(node.value, around(node, folder), place.suffixes)
    beside = file_at(node.value, around(node, folder), ("",))
    return beside or shipped.find("traces", node.value)


def _unknown(name: str, noun: str, names: list[str]) -> str:
    looks_like_a_path = (
        not names
        or "/" in name
        or "\\" in name
        or Path(name).suffix in (".yaml", ".yml", ".json", ".csv", ".gz")
    )
    if looks_like_a_path:
        return _NO_FILE.format(name)
    return (
        f"no {noun} {name!r}{nearest(name, names)}; choose one of "
        f"{', '.join(names)}, or give the path of a file"
    )
