"""The catalogue: devices, libraries, models and pods, a file each, every number with its source."""

from sim.catalog.architecture import model, profile
from sim.catalog.files import names
from sim.catalog.hardware import device, library
from sim.catalog.pods import PodSpec, pod

__all__ = ["PodSpec", "device", "library", "model", "names", "pod", "profile"]
