"""What a technique costs in accuracy: measured on a model, and said with the model's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Perplexities(NamedTuple):
    """Of the model as it is, and with the technique."""

    full: float
    compressed: float


class Way(NamedTuple):
    """A way to a smaller cache and what was measured of it; `share` is its bytes of KV-cache a
    token over those of 16 bits an element."""

    sort: str
    share: float
    in_domain: Perplexities
    out_of_domain: Perplexities


class Accuracy(NamedTuple):
    """Perplexities from a card, on text like that of its calibration and on other text.

    `differs` says in what the variant is not as was measured; `ways` are, by name, all that the
    card has measured on its model.
    """

    card: str
    model: str  # that it was measured on
    window_tokens: int
    in_domain: Perplexities
    out_of_domain: Perplexities
    differs: tuple[str, ...] = ()
    ways: Mapping[str, Way] = {}
