"""Layers of a scenario (what it extends, the file, a variant, `--set`) merged, each value
remembering its line."""

from __future__ import annotations

from typing import Any, NamedTuple

from sim.text.strict_yaml import Document, Fault, KeyPath, dotted

OVERRIDES = "--set"


class Node(NamedTuple):
    """A value of the file: a dict or list of Nodes, or a scalar.  `doc` None: from the command
    line."""

    value: Any
    doc: Document | None
    at: KeyPath

    def fault(self, what: str, below: KeyPath = ()) -> Fault:
        """A fault at this value, or at a key `below` it that the file does not have."""
        at = (*self.at, *below)
        return self.doc.fault(at, what) if self.doc else Fault(OVERRIDES, 0, dotted(at), what)

    @property
    def raw(self) -> str | None:
        """The scalar as written."""
        return self.doc.raw(self.at) if self.doc else None


def tree(data: Any, doc: Document | None, at: KeyPath = ()) -> Node:
    """Plain Python as Nodes."""
    if isinstance(data, dict):
        return Node({key: tree(value, doc, (*at, key)) for key, value in data.items()}, doc, at)
    if isinstance(data, (list, tuple)):
        return Node([tree(value, doc, (*at, i)) for i, value in enumerate(data)], doc, at)
    return Node(data, doc, at)


def plain(node: Node) -> Any:
    """Nodes as plain Python."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def merge(under: Node, over: Node) -> Node:
    """`over` laid on `under`: mappings merge key by key, anything else replaces.

    A mapping laid on the bare name of a model adds to it. A mapping whose `kind` changes is another
    thing, and replaces too. A merged mapping is said to be from `over`'s file, or, where that is
    the command line, from `under`'s: what it lacks is lacking there.
    """
    if over.at[-1:] == ("model",) and isinstance(under.value, str):
        under = under._replace(value={"name": under})
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    kinds = [node.value["kind"].value for node in (under, over) if "kind" in node.value]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return over
    merged = dict(under.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    home = over if over.doc else under
    return Node(merged, home.doc, home.at)


def nearest_node(root: Node, path: KeyPath) -> tuple[Node, KeyPath]:
    """The Node at `path`, or its nearest parent that exists, and what of `path` is left below
    it."""
    node = root
    for depth, part in enumerate(path):
        inside = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        if not isinstance(inside, dict) or part not in inside:
            return node, path[depth:]
        node = inside[part]
    return node, ()


def replaced(root: Node, path: KeyPath, value: Any) -> Node:
    """`root` with the scalar at `path`, which is there, set to `value`; where it came from is
    kept."""
    if not path:
        return root._replace(value=value)
    inside = replaced(root.value[path[0]], path[1:], value)
    if isinstance(root.value, list):
        at = int(path[0])
        return root._replace(value=[*root.value[:at], inside, *root.value[at + 1 :]])
    return root._replace(value={**root.value, path[0]: inside})
