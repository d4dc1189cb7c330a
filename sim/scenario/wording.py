"""Pydantic's complaints as sentences about the user's file: what is wrong, the nearest right name,
what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sim.scenario.layers import Node, nearest_node
from sim.text.strict_yaml import Fault, KeyPath, nearest

# Not faults in a part of a file, which another part completes.
INCOMPLETE = {"missing", "union_tag_not_found"}
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


def faults(
    error: ValidationError, schema: type[BaseModel], root: Node, *, partial: bool = False
) -> Iterator[Fault]:
    """Each complaint of `error` about `root`, which was validated as `schema`.

    `partial`: `root` is only a part, and what it lacks is no fault.
    """
    for one in error.errors(include_url=False):
        if partial and one["type"] in INCOMPLETE:
            continue
        classes, path = _walk(schema, one["loc"], root)
        node, below = nearest_node(root, path)
        yield node.fault(_sentence(one, classes, node), below)


def _walk(
    schema: type[BaseModel], loc: tuple[int | str, ...], root: Node
) -> tuple[list[type[BaseModel]], KeyPath]:
    """The models that the innermost mapping of `loc` may be, and `loc` without the marks that
    pydantic adds."""
    classes, owner, path = [schema], [schema], []
    for part in loc:
        if part == "[key]":
            continue
        tagged = [
            c
            for c in classes
            if len(classes) > 1 and part in get_args(c.model_fields["kind"].annotation)
        ]
        if tagged:
            classes = tagged
            continue
        fields = [
            c.model_fields[part]
            for c in classes
            if isinstance(part, str) and part in c.model_fields
        ]
        path.append(part)
        owner = classes or owner
        classes = _models(fields[0].annotation) if fields else []
    return owner, tuple(path)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _sentence(error: ErrorDetails, owner: list[type[BaseModel]], node: Node) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        known = [name for model in owner for name in model.model_fields]
        return f"unknown key{nearest(error['loc'][-1], known)}; known keys: {', '.join(known)}"
    if kind == "missing":
        return "this key is missing"
    if kind == "union_tag_not_found":
        return (
            "the key 'kind' is missing; it is one of decode, requests, collectives, "
            "tenants, networks, granularity"
        )
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags", "")
        choices = [part.strip(" '") for part in str(allowed).replace(" or ", ", ").split(",")]
        got = context.get("tag", given)
        return (
            f"{_shown(got, node)} is not allowed here{nearest(got, choices)}; choose one of "
            f"{', '.join(choices)}"
        )
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind in _DUE:
        return f"{_DUE[kind]} is due, not {_shown(given, node)}{_quoting(kind, given, node)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {
            "greater_than": ">",
            "greater_than_equal": ">=",
            "less_than": "<",
            "less_than_equal": "<=",
        }[kind]
        (bound,) = context.values()
        return f"{_shown(node.value, node)} is out of range, it must be {sign} {bound:g}"
    if kind == "too_short":
        return "at least one entry is due"
    if kind == "string_too_short":
        return "the text is empty"
    return error["msg"]


def _shown(value: Any, node: Node) -> str:
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
