"""podscope: a discrete-event simulator of the machines that run AI models.

import sim
result = sim.run("scenarios/preserve.yaml", {"model": "llama3-8b"})
result.comparison["preserve"]["speedup"]
result.timeline().show()
"""

from __future__ import annotations

from sim.facts.version import VERSION as __version__  # noqa: N811
from sim.results import Result
from sim.run import load, run
from sim.scenario import Scenario, ScenarioError

__all__ = ["Result", "Scenario", "ScenarioError", "__version__", "load", "run"]
