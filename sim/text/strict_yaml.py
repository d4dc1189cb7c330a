"""YAML read strictly: every fault of a file at once, each with its line, before anything else sees
the data.

What differs from stock YAML: equal keys are a fault, not a silent overwrite; `1e9` is a number;
`010`, `1:30` and `2024-01-01` are text; only text and whole numbers are keys; no tags beyond the
plain ones; aliases are expanded up to a bound. `no`, `yes`, `on` and `off` still read as true or
false, and `Document.raw` remembers what was written, so that a message can say so.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sim.text.outside import MOST, read_bytes

# After the aliases are expanded, too: a "billion laughs" file stays small on disk.
MAX_NODES, MAX_DEPTH = MOST["yaml values"].most, MOST["yaml levels"].most

KeyPath = tuple[str | int, ...]
Unwritable = yaml.representer.RepresenterError  # of data that is no plain Python
_TAG = "tag:yaml.org,2002:"


class Fault(NamedTuple):
    """One thing wrong with a user's file.  `line` 0: the file as a whole; `key` "": no key in
    particular."""

    file: str
    line: int
    key: str
    what: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.what}" if self.key else f"{where}: {self.what}"


class ScenarioError(ValueError):
    """The user's files are wrong; `faults` lists everything that is.  Shown without a traceback."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults: list[Fault] = list(faults)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True)
class Document:
    """A YAML file as plain Python (dict, list, str, int, float, bool, None), and where each key of
    it was written."""

    path: Path
    data: dict[Any, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict, repr=False)
    scalars: dict[KeyPath, str] = field(default_factory=dict, repr=False)

    def line(self, key_path: KeyPath) -> int:
        """Line (from 1) of the key or list item at `key_path`, or of the nearest parent that is in
        the file."""
        for end in range(len(key_path), 0, -1):
            if key_path[:end] in self.lines:
                return self.lines[key_path[:end]]
        return 1

    def raw(self, key_path: KeyPath) -> str | None:
        """The scalar at `key_path` as it was written ("no", not False); None where there is no
        scalar."""
        return self.scalars.get(key_path)

    def fault(self, key_path: KeyPath, what: str) -> Fault:
        """A fault of this file at `key_path`."""
        return Fault(str(self.path), self.line(key_path), dotted(key_path), what)


def dotted(key_path: KeyPath) -> str:
    """A key path as a person writes it.

    >>> dotted(("variants", "preserve", "techniques", 0))
    'variants.preserve.techniques[0]'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key_path)
    return text.removeprefix(".")


def nearest(name: object, known: Iterable[object]) -> str:
    """ ", did you mean 'x'?" for the known name nearest to `name`, or nothing when none is near."""
    folded = {str(k).lower(): str(k) for k in known}
    word = str(name).lower()
    found = difflib.get_close_matches(word, folded, 1, cutoff=0.5) or [
        k for k in folded if word and k.startswith(word)
    ]
    return f", did you mean {folded[found[0]]!r}?" if found else ""


def read(path: str | os.PathLike[str]) -> Document:
    """The YAML mapping in the file `path`; ScenarioError with every fault that reading alone can
    find."""
    return parse(_text(Path(path)), path)


def parse(text: str, path: str | os.PathLike[str] = "<text>") -> Document:
    """The YAML mapping in `text`; `path` is the file's name in faults.

    Equal texts give the same Document, which is not to be changed: many runs read the same cards.
    """
    return (_kept if len(text) <= _KEPT_LETTERS else _parse)(text, Path(path))


def _parse(text: str, where: Path) -> Document:
    loader = None
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        return _document(loader, where)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ScenarioError(
            [Fault(str(where), line, "", f"character {error.character:#x} is not allowed")]
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ScenarioError([_syntax(error, where)]) from None
    except RecursionError:
        raise ScenarioError([Fault(str(where), 1, "", _DEEP)]) from None
    finally:
        if loader is not None:
            loader.dispose()


_KEPT_LETTERS = 2**17
_kept = lru_cache(maxsize=64)(_parse)


def scalar(text: str) -> Any:
    """What `text` would be as a value in a file: a number, true or false, a list or mapping in one
    line, or text.

    >>> scalar("4"), scalar("1e3"), scalar("80 GiB"), scalar("[preserve]"), scalar("")
    (4, 1000.0, '80 GiB', ['preserve'], None)
    """
    return _parse(f"value: {text}\n", Path("<value>")).data["value"]


def dump(data: Any) -> str:
    """`data` (plain Python) as YAML text that `parse` reads back as the same data."""
    text = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=110,
        default_flow_style=False,
    )
    if any(
        character in text for character in "\x85\u2028\u2029"
    ):  # line breaks to YAML, unless escaped
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=False)
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader that resolves plain scalars nearly as YAML 1.2 does: no octal, no base 60, no
    dates.  It counts what it makes: a small file can say a lot."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (the parent's shape)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.made = self.level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; an error of its place if there are too many, or if it stands too deep."""
        self.made += 1
        if self.made > MAX_NODES or self.level >= MAX_DEPTH:
            what = _MANY if self.made > MAX_NODES else _DEEP
            raise _TooMuchError(None, None, what, self.peek_event().start_mark)
        self.level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


class _TooMuchError(yaml.MarkedYAMLError):
    """More values, or deeper ones, than a file may have."""


_MANY = f"more than {MAX_NODES:,} values once its aliases are expanded"
_DEEP = f"nested deeper than {MAX_DEPTH} levels"


_NUMBER = r"(?:0|[1-9][0-9_]*)"
for _name, _pattern, _first in (
    (
        "bool",
        r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        [*"yYnNtTfFoO"],
    ),
    ("int", rf"[-+]?{_NUMBER}|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", rf"[-+]?{_NUMBER}[eE][-+]?[0-9]+", [*"-+0123456789"]),
    ("float", rf"[-+]?(?:{_NUMBER}\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", [*"-+0123456789."]),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", [*"-+."]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})\Z"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever the loader above would not read as text, and writes no aliases."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Always: a copy is easier to read than an anchor."""
        return True


def _text(path: Path) -> str:
    """The file's text, or a fault that says why there is none."""
    name = str(path)
    try:
        data = read_bytes(path, "yaml bytes")
    except FileNotFoundError:
        raise ScenarioError([Fault(name, 0, "", _missing(path))]) from None
    except IsADirectoryError:
        raise ScenarioError([Fault(name, 0, "", "is a folder, a YAML file is due")]) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ScenarioError([Fault(name, 0, "", f"cannot be read: {why}")]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8 text"
        raise ScenarioError([Fault(name, line, "", what)]) from None


def _missing(path: Path) -> str:
    try:
        beside = [p.name for p in path.parent.iterdir()]
    except OSError:
        return f"no such file, and no folder {str(path.parent)!r}"
    return f"no such file{nearest(path.name, beside)}"


def _syntax(error: yaml.MarkedYAMLError, path: Path) -> Fault:
    mark = error.problem_mark or error.context_mark
    if isinstance(error, _TooMuchError):
        return Fault(str(path), mark.line + 1 if mark else 1, "", str(error.problem))
    what = " ".join(str(part) for part in (error.context, error.problem) if part)
    if error.problem and "'\\t'" in error.problem:
        what = "a tab in the indentation; use spaces"
    return Fault(str(path), mark.line + 1 if mark else 1, "", f"not valid YAML: {what}")


def _document(loader: _Loader, path: Path) -> Document:
    root = loader.get_single_node()
    if root is None:
        raise ScenarioError([Fault(str(path), 1, "", "the file is empty")])
    if not isinstance(root, yaml.MappingNode):
        shape = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise ScenarioError(
            [
                Fault(
                    str(path),
                    _line(root),
                    "",
                    f"'key: value' lines are due at the top, not {shape}",
                )
            ]
        )
    faults = _bounds(root, path) or list(_faults(loader, root, path))
    if faults:
        raise ScenarioError(sorted(set(faults), key=lambda fault: fault.line))
    doc = Document(path, {})
    doc.data.update(_plain(loader, root, (), doc))
    return doc


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _bounds(root: yaml.Node, path: Path) -> list[Fault]:
    """Whether the tree, aliases expanded, is a tree at all, and not too large or deep to walk."""
    known: dict[int, tuple[int, int]] = {}
    within: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:  # (nodes, depth)
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if id(node) in within:
            raise ScenarioError(
                [
                    Fault(
                        str(path),
                        _line(node),
                        "",
                        "an alias refers to the mapping or list it stands in",
                    )
                ]
            )
        if id(node) not in known:
            within.add(id(node))
            pairs = isinstance(node, yaml.MappingNode)
            children = chain.from_iterable(node.value) if pairs else node.value
            nodes, depths = zip((0, 0), *map(measure, children))
            within.discard(id(node))
            known[id(node)] = 1 + sum(nodes), 1 + max(depths)
        return known[id(node)]

    count, depth = measure(root)
    if count > MAX_NODES:
        return [Fault(str(path), 1, "", _MANY)]
    return [Fault(str(path), 1, "", _DEEP)] if depth > MAX_DEPTH else []


def _faults(loader: _Loader, root: yaml.Node, path: Path) -> Iterator[Fault]:
    """Equal keys, keys that are neither text nor whole numbers, tags, values that are not what
    their tag says."""
    file, done = str(path), set()
    todo: list[tuple[yaml.Node, KeyPath]] = [(root, ())]
    while todo:
        node, at = todo.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            try:
                _value(loader, node)
            except (ValueError, KeyError, ArithmeticError, yaml.YAMLError):
                known = node.tag.removeprefix(_TAG)
                what = f"{node.value[:60]!r} cannot be read as {known}"
                yield Fault(file, _line(node), dotted(at), what)
            continue
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _TAG + kind:
            yield Fault(
                file,
                _line(node),
                dotted(at),
                f"the tag {node.tag.replace(_TAG, '!!')!r} is not allowed here",
            )
        if kind == "seq":
            todo += [(child, (*at, i)) for i, child in enumerate(node.value)]
            continue
        first: dict[str | int, int] = {}
        for key_node, child in node.value:
            key, why = _key(loader, key_node)
            if why:
                yield Fault(file, _line(key_node), dotted(at), why)
            elif key in first:
                what = (
                    f"this key is given twice in one mapping, on lines {first[key]} and "
                    f"{_line(key_node)}"
                )
                yield Fault(file, _line(key_node), dotted((*at, key)), what)
            else:
                first[key] = _line(key_node)
                todo.append((child, (*at, key)))


def _key(loader: _Loader, node: yaml.Node) -> tuple[str | int, str]:
    """(key, "") or ("", what is wrong with it)."""
    if not isinstance(node, yaml.ScalarNode):
        return "", "a list or mapping cannot be a key"
    if node.tag == _TAG + "merge":
        return "<<", ""
    try:
        key = _value(loader, node)
    except (ValueError, KeyError, ArithmeticError, yaml.YAMLError):
        return "", f"the key {node.value[:60]!r} cannot be read as {node.tag.removeprefix(_TAG)}"
    if isinstance(key, bool):
        return (
            "",
            f"the key {node.value} without quotes means {str(key).lower()} in YAML; write it "
            f"as {node.value!r}",
        )
    if not isinstance(key, (str, int)):
        return "", f"the key {node.value!r} is neither text nor a whole number; put it in quotes"
    return key, ""


def _value(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if node.tag.removeprefix(_TAG) not in ("str", "int", "float", "bool", "null"):
        raise ValueError(f"the tag {node.tag} is not allowed")
    return loader.construct_object(node)


def _plain(loader: _Loader, node: yaml.Node, at: KeyPath, doc: Document) -> Any:
    """The node as plain Python, each alias a copy of its own; notes lines and raw text in `doc` on
    the way."""
    if isinstance(node, yaml.ScalarNode):
        doc.scalars[at] = node.value
        return _value(loader, node)
    if isinstance(node, yaml.SequenceNode):
        doc.lines.update({(*at, i): _line(child) for i, child in enumerate(node.value)})
        return [_plain(loader, child, (*at, i), doc) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)  # the only kind left
    loader.flatten_mapping(node)  # `<<: *other` becomes the other's keys, before this mapping's own
    found: dict[str | int, Any] = {}
    for key_node, child in node.value:
        key = _value(loader, key_node)
        doc.lines[(*at, key)] = _line(key_node)
        found[key] = _plain(loader, child, (*at, key), doc)
    return found
