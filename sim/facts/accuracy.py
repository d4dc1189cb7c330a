"""What a technique costs in accuracy: measured on a model, and said with the model's name."""

from __future__ import annotations

from typing import NamedTuple


class Perplexities(NamedTuple):
    """Of the model as it is, and with the technique."""

    full: float
    compressed: float


class Accuracy(NamedTuple):
    """Perplexities from a card, on text like that of its calibration and on other text."""

    card: str
    model: str  # that it was measured on
    window_tokens: int
    in_domain: Perplexities
    out_of_domain: Perplexities
