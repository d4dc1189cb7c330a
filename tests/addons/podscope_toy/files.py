"""Files of the catalogue: a device, a pod of it, cards of a KV-cache and of a searched network."""

from pathlib import Path

DEVICE = Path(__file__).with_name("toy_chip.yaml")
CARD = Path(__file__).with_name("toy_card.json")
CELLS = Path(__file__).with_name("toy_cells.json")
POD = Path(__file__).with_name("toy_pod.yaml")
