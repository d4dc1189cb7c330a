"""Files of the catalogue: a device, a pod of it, and a card of a KV-cache."""

from pathlib import Path

DEVICE = Path(__file__).with_name("toy_chip.yaml")
CARD = Path(__file__).with_name("toy_card.json")
POD = Path(__file__).with_name("toy_pod.yaml")
