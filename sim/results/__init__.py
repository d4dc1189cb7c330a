"""What a run means: metrics, comparison, expectations, timeline, report and traces, all pure
functions of Outcomes."""

from sim.results.folder import check_folder
from sim.results.result import Result, build

__all__ = ["Result", "build", "check_folder"]
