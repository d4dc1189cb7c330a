"""Arithmetic over names, as a user writes it: Python's own parser, and of what it knows only
numbers, names, the usual operators and a few functions."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MOST_LETTERS = 1000
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "floor": math.floor,
    "ceil": math.ceil,
}
_SEVERAL = {"min", "max"}  # take more than one argument
_EXAMPLE = "write it like 'vanilla.makespan_s / preserve.makespan_s'"
_EXAMPLE_BOUND = "write it like 'run.ttft_p99_s <= 0.5'"

Look = Callable[[str], float]


class UndefinedError(ValueError):
    """An expression has no value at some point, and why."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression; `names` are those that it needs, dotted."""

    text: str
    names: tuple[str, ...]
    node: ast.expr

    def value(self, look: Look) -> float:
        """Its value, a finite number, where `look` tells that of a name; UndefinedError if it has
        none."""
        try:
            found = float(_value(self.node, look))
        except ZeroDivisionError:
            raise UndefinedError(f"{self.text}: division by zero") from None
        except (OverflowError, RecursionError):
            raise UndefinedError(f"{self.text}: a number too large") from None
        except UndefinedError:
            raise
        except (ValueError, TypeError) as error:  # a root of a negative number
            raise UndefinedError(f"{self.text}: {error}") from None
        if not math.isfinite(found):
            raise UndefinedError(f"{self.text}: no finite number")
        return found


@dataclass(frozen=True)
class Bound:
    """`left <= right`, or `>=`."""

    text: str
    left: Expression
    right: Expression
    sign: float

    @property
    def names(self) -> tuple[str, ...]:
        """Those that both sides need."""
        return tuple(dict.fromkeys([*self.left.names, *self.right.names]))

    def excess(self, look: Look) -> float:
        """By how much it is broken, in the unit of its sides: at most zero where it holds."""
        return self.sign * (self.left.value(look) - self.right.value(look))


def parse(text: str) -> Expression:
    """The expression in `text`; ValueError if it is none."""
    return _expression(text, _tree(text, _EXAMPLE))


def parse_bound(text: str) -> Bound:
    """The constraint in `text`; ValueError if it is none."""
    tree = _tree(text, _EXAMPLE_BOUND)
    if (
        not isinstance(tree, ast.Compare)
        or len(tree.ops) != 1
        or not isinstance(tree.ops[0], (ast.LtE, ast.GtE))
    ):
        raise ValueError(
            f"{text!r} is no constraint of the form a <= b or a >= b; {_EXAMPLE_BOUND}"
        )
    left = _expression(text, tree.left)
    right = _expression(text, tree.comparators[0])
    return Bound(text, left, right, 1.0 if isinstance(tree.ops[0], ast.LtE) else -1.0)


def _tree(text: str, example: str) -> ast.expr:
    if len(text) > MOST_LETTERS:
        raise ValueError(f"an expression of more than {MOST_LETTERS} letters; use `metrics`")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is no expression; {example}") from None


def _expression(text: str, node: ast.expr) -> Expression:
    try:
        return Expression(text, tuple(dict.fromkeys(_names(node, text))), node)
    except RecursionError:
        raise ValueError(f"{text!r} is nested too deeply") from None


def _names(node: ast.expr, text: str) -> Iterator[str]:
    """The names in the expression; ValueError for anything that is not on the list."""
    if name := _dotted(node):
        yield name
    elif isinstance(node, ast.Constant) and _number(node.value):
        pass
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        yield from _names(node.left, text)
        yield from _names(node.right, text)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        yield from _names(node.operand, text)
    elif isinstance(node, ast.Call):
        _check_call(node, text)
        for each in node.args:
            yield from _names(each, text)
    else:
        what = ast.unparse(node)
        raise ValueError(
            f"{text!r}: {what!r} is not allowed; numbers, names, + - * / // % **, and "
            f"{', '.join(FUNCTIONS)} are"
        )


def _check_call(node: ast.Call, text: str) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS:
        known = ", ".join(FUNCTIONS)
        raise ValueError(f"{text!r}: no function {ast.unparse(node.func)!r}; there are {known}")
    due = len(node.args) > 1 if name in _SEVERAL else len(node.args) == 1
    if node.keywords or not due or any(isinstance(each, ast.Starred) for each in node.args):
        several = "two numbers or more" if name in _SEVERAL else "one number"
        raise ValueError(f"{text!r}: {name} takes {several}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _dotted(node: ast.expr) -> str:
    """A name with dots; its first part may be in quotes where it is no word of Python's."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _value(node: ast.expr, look: Look) -> float:
    if name := _dotted(node):
        return look(name)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, look), _value(node.right, look)
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_value(node.operand, look))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*[_value(each, look) for each in node.args])
    assert isinstance(node, ast.Constant)
    return float(node.value)  # type: ignore[arg-type]
