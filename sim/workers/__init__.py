"""Who does work that can be done apart: processes here, a Dask cluster, or jobs of SLURM, each as
an executor of `concurrent.futures`."""

from sim.workers.opening import Workers, opened
from sim.workers.processes import LostWorkerError

__all__ = ["LostWorkerError", "Workers", "opened"]
