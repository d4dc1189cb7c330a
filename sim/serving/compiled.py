"""The loop of `sim.serving`, as machine code or in plain Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from sim.compiled import Loops
from sim.serving import (
    draws,
    fleet,
    kv,
    loop,
    order,
    outcome,
    pending,
    router,
    scheduler,
    stages,
    step_time,
    turns,
)
from sim.serving.fleet import (
    RECORD,
    Rules,
    new_fleet,
    new_rows,
    plain_arrivals,
    pool_of,
    replica_of,
)
from sim.serving.step_time import unpriced


def serve_for(requests: float, rules: Rules) -> Callable[..., int]:
    """`loop.serve` for so many requests more; in plain Python if a rule was added from outside."""
    for rows, number, home in (
        (router.ROUTERS, rules.router, router),
        (order.ORDERS, rules.order, order),
    ):
        row: Any = [*rows.values()][number]
        if row not in _own(rows, home):
            LOOPS.plain(f"{row.name} is not of this package")
            return loop.serve
    native = LOOPS.native(requests)
    return loop.serve if native is None else native["serve"]


def _own(rows: Mapping[str, Any], home: ModuleType) -> list[Any]:
    """The rows of the package itself, which come first."""
    return [row for row in rows.values() if row[2].__module__ == home.__name__]


def _instead() -> dict[Any, Any]:
    """A compiler cannot call what it finds in a table: every row by its number."""
    routers, orders = _own(router.ROUTERS, router), _own(order.ORDERS, order)
    calls = [
        f"{row.choose.__name__}(seen, asks{', future' if row.oracle else ''})" for row in routers
    ]
    return {
        router._chosen: _switch("router, seen, asks, future", calls),
        router.apart: _switch("router", [str(row.at_once is not None) for row in routers]),
        order.sooner: _switch("order, a, b", [f"{row.sooner.__name__}(a, b)" for row in orders]),
        order.by_class: _switch("order", [str(row.by_class) for row in orders]),
    }


def _switch(signature: str, answers: list[str]) -> Any:
    """A function whose first argument says which of the answers it gives."""
    first = signature.split(",")[0]
    lines = [f"def switch({signature}):"]
    lines += [f"    if {first} == {i}:\n        return {text}" for i, text in enumerate(answers)]
    space: dict[str, Any] = {}
    exec("\n".join([*lines, f"    return {answers[0]}"]), space)
    return space["switch"]


def _samples() -> dict[Any, tuple[Any, ...]]:
    rules = Rules(0, 0, 0, True, False, 0, False, True)
    some = new_fleet(
        rules,
        replica_of(0, 1, 1, 1, 1),
        pool_of(0, 1),
        slots=1,
        ranks=1,
        kinds=1,
        patterns=1,
        rows=0,
    )
    none = np.zeros(0)
    asked, price = plain_arrivals(none, none, none), unpriced([("dense", 0, 1)])
    return {loop.serve: (rules, some, price, new_rows(RECORD, 1), asked, 0.0, False)}


LOOPS = Loops(
    "serving",
    (draws, kv, pending, step_time, order, scheduler, outcome, router, turns, stages, loop),
    _samples,
    plain_s=0.01,
    compile_s=27,
    beside=(fleet, sys.modules[__name__]),
    instead=_instead,
)
