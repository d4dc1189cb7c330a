"""Files of the catalogue: a device and a pod of it."""

from pathlib import Path

DEVICE = Path(__file__).with_name("toy_chip.yaml")
POD = Path(__file__).with_name("toy_pod.yaml")
