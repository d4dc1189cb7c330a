"""The loop of `sim.serving`, as machine code or in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sim.compiled import Loops
from sim.serving import (
    draws,
    fleet,
    kv,
    loop,
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


def serve_for(requests: float) -> Callable[..., int]:
    """`loop.serve` for so many requests more."""
    native = LOOPS.native(requests)
    return loop.serve if native is None else native["serve"]


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
    asked = plain_arrivals(none, none, none)
    return {loop.serve: (rules, some, unpriced(1), new_rows(RECORD, 1), asked, 0.0, False)}


LOOPS = Loops(
    "serving",
    (draws, kv, pending, step_time, scheduler, outcome, router, turns, stages, loop),
    _samples,
    plain_s=0.01,
    compile_s=27,
    beside=(fleet,),
)
