"""podscope: a discrete-event simulator of the machines that run AI models.

import sim
result = sim.run("scenarios/preserve.yaml", {"model": "llama3-8b"})
result.comparison["preserve"]["speedup"]
result.timeline().show()
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sim.facts.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from sim.explore.recommend import recommend
    from sim.explore.result import SweepResult
    from sim.explore.sweep import sweep
    from sim.results import Result
    from sim.run import load, run
    from sim.scenario import Scenario, ScenarioError

__all__ = [
    "Result",
    "Scenario",
    "ScenarioError",
    "SweepResult",
    "__version__",
    "load",
    "recommend",
    "run",
    "sweep",
]
_HOME = {
    "Result": "sim.results",
    "Scenario": "sim.scenario",
    "ScenarioError": "sim.scenario",
    "SweepResult": "sim.explore.result",
    "load": "sim.run",
    "recommend": "sim.explore.recommend",
    "run": "sim.run",
    "sweep": "sim.explore.sweep",
}


def __getattr__(name: str) -> Any:
    """What is public is imported when it is asked for: a command pays for what it uses."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


class _Package(ModuleType):
    """`sim.run` is the function, also once the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "run":
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
