"""One point, computed: what a worker is asked to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sim import compiled
from sim.explore.identity import digest_of
from sim.explore.questions import Questions, flat
from sim.facts.outcome import Outcome
from sim.run import load, play, prepare, result_of
from sim.scenario import ScenarioError, Source

Also = Callable[[Outcome], Mapping[str, float]]  # further numbers of a variant, by name
DONE, FAILED, PRUNED, LOST = "done", "failed", "pruned", "lost"


class OtherFilesError(OSError):
    """A worker does not have the files that the sweep is of."""


class Measured(NamedTuple):
    """What a point came to.

    `status`: done; failed, of the scenario's own doing; pruned, for it breaks a constraint; lost,
    with the worker that was at it. `values` are metrics by name, `seconds` the wall time of the
    worker, of which `own_s` were the simulation's.
    """

    status: str
    values: Mapping[str, float] = {}
    warnings: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    own_s: float = 0.0


def measure(
    source: Source,
    overrides: Mapping[str, Any],
    digest: str,
    point: Mapping[str, Any],
    prune: Questions | None,
    also: Also | None = None,
) -> Measured:
    """The metrics of all variants of the scenario with these overrides.

    A scenario that cannot be is an answer, not an exception. OtherFilesError where it comes to
    another one here than the `digest` says. With `prune`, variants are left out as
    soon as one of its constraints is broken by those before them. What `also` says of a variant
    stands beside its metrics.
    """
    start_s = time.perf_counter()
    compiled.begin()
    try:
        scenario = load(source, overrides)
        if digest_of(scenario) != digest:
            raise OtherFilesError("a worker has other files than the scenario names here")
        begin_s = time.perf_counter()
        plans = prepare(scenario)
        outcomes, broken, more = {}, list[str](), dict[str, float]()
        for name, plan in plans.items():
            outcomes[name] = play(plan)
            if also is not None:
                more |= {f"{name}.{key}": value for key, value in also(outcomes[name]).items()}
            if prune is not None and len(outcomes) < len(plans):
                so_far = flat(result_of(replace(scenario, expect=[]), outcomes))
                if broken := prune.broken(so_far, point):
                    break
        own_s = time.perf_counter() - begin_s
        result = result_of(replace(scenario, expect=[]), outcomes)
    except ScenarioError as error:
        return Measured(FAILED, error=_said(error), seconds=time.perf_counter() - start_s)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return Measured(FAILED, error=text, seconds=time.perf_counter() - start_s)
    return Measured(
        PRUNED if broken else DONE,
        flat(result) | more,
        tuple(result.warnings),
        f"breaks {broken[0]}" if broken else "",
        time.perf_counter() - start_s,
        own_s,
    )


def failed(error: ScenarioError) -> Measured:
    """A point whose scenario cannot even be read."""
    return Measured(FAILED, error=_said(error))


def _said(error: ScenarioError) -> str:
    """Without the places in the file, which are the same for all points."""
    return "; ".join(
        dict.fromkeys(f"{one.key}: {one.what}" if one.key else one.what for one in error.faults)
    )
