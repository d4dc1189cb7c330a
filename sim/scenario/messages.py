"""Pydantic's complaints as sentences about the user's file: what is wrong, the nearest right name,
what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sim.scenario.layers import Node, nearest_node
from sim.text.choice import models
from sim.text.strict_yaml import Fault, KeyPath, nearest

# Not faults in a part of a file, which another part completes.
INCOMPLETE = {"missing"}
_DUE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping ('key: value' lines)",
    "model_attributes_type": "a mapping ('key: value' lines)",
    "dict_type": "a mapping ('key: value' lines)",
    "list_type": "a list",
    "tuple_type": "a list",
}
_SIGNS = {
    "greater_than": ">",
    "greater_than_equal": ">=",
    "less_than": "<",
    "less_than_equal": "<=",
}
_SAID = {
    "missing": "this key is missing",
    "too_short": "at least one entry is due",
    "string_too_short": "the text is empty",
}


def faults(
    error: ValidationError,
    schema: type[BaseModel],
    root: Node,
    *,
    partial: bool = False,
    also: Iterable[str] = (),
) -> Iterator[Fault]:
    """Each complaint of `error` about `root`, which was validated as `schema`.

    `partial`: `root` is only a part, and what it lacks is no fault. `also` are keys at its top that
    another schema knows.
    """
    for one in error.errors(include_url=False):
        if partial and one["type"] in INCOMPLETE:
            continue
        classes, path = _walk(schema, one["loc"], root)
        node, below = nearest_node(root, path)
        yield node.fault(_sentence(one, classes, node, () if path[1:] else also), below)


def _walk(
    schema: type[BaseModel], loc: tuple[int | str, ...], root: Node
) -> tuple[list[type[BaseModel]], KeyPath]:
    """The models that the innermost mapping of `loc` may be, and `loc` without the marks that
    pydantic adds."""
    classes, owner, path = [schema], [schema], []
    for part in loc:
        if part == "[key]":
            continue
        fields = [
            c.model_fields[part]
            for c in classes
            if isinstance(part, str) and part in c.model_fields
        ]
        path.append(part)
        owner = classes or owner
        classes = models(fields[0].annotation) if fields else []
    return owner, tuple(path)


def _sentence(
    error: ErrorDetails, owner: list[type[BaseModel]], node: Node, also: Iterable[str]
) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        known = [*also, *(name for model in owner for name in model.model_fields)]
        return f"unknown key{nearest(error['loc'][-1], known)}; known keys: {', '.join(known)}"
    if kind in _SAID:
        return _SAID[kind]
    if kind == "literal_error":
        allowed = context.get("expected", "")
        choices = [part.strip(" '") for part in str(allowed).replace(" or ", ", ").split(",")]
        return (
            f"{shown(given, node)} is not allowed here{nearest(given, choices)}; choose one of "
            f"{', '.join(choices)}"
        )
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind in _DUE:
        return f"{_DUE[kind]} is due, not {shown(given, node)}{_quoting(kind, given, node)}"
    if kind in _SIGNS:
        (bound,) = context.values()
        return f"{shown(node.value, node)} is out of range, it must be {_SIGNS[kind]} {bound:g}"
    return error["msg"]


def shown(value: Any, node: Node) -> str:
    """A value as the file has it, short."""
    if isinstance(value, bool):
        return node.raw or str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value) if value is not None else "nothing"
    return text if len(text) <= 60 else text[:57] + "..."


def _quoting(kind: str, given: Any, node: Node) -> str:
    if kind != "string_type" or isinstance(given, (dict, list)) or given is None:
        return ""
    raw = node.raw or str(given)
    means = (
        f" (without quotes it means {str(given).lower()} in YAML)"
        if isinstance(given, bool)
        else ""
    )
    return f"{means}; write it as '{raw}'"
