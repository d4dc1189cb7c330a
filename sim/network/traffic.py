"""Traffic patterns, and what they load: where a topology and its routing jam.  Nothing here queues.

A pattern gives each chip the chip it sends to. The permutations are those of Dally and Towles,
Principles and Practices of Interconnection Networks (2004), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np

from sim.network.plans import Floats, Ints
from sim.network.routing import routes
from sim.network.wires import Wires


def transpose(chips: int) -> Ints:
    """Chip (y, x) of a square sends to (x, y); of 2**b chips, the upper half of the number's bits
    with the lower."""
    side = isqrt(chips)
    if side * side != chips:
        raise ValueError(f"a transpose needs a square number of chips, not {chips}")
    return np.arange(chips).reshape(side, side).T.ravel()


def bit_reverse(chips: int) -> Ints:
    """The bits of the number in reverse."""
    bits, source = _bits("bit_reverse", chips), np.arange(chips)
    target = np.zeros(chips, dtype=np.int64)
    for bit in range(bits):
        target |= (source >> bit & 1) << (bits - 1 - bit)
    return target


def bit_complement(chips: int) -> Ints:
    """All bits of the number turned over."""
    _bits("bit_complement", chips)
    return chips - 1 - np.arange(chips)


def shuffle(chips: int) -> Ints:
    """The bits of the number rotated by one, upwards (a sort, an FFT)."""
    bits, source = _bits("shuffle", chips), np.arange(chips)
    return (source << 1 | source >> max(bits - 1, 0)) % chips if bits else source


def neighbour(chips: int) -> Ints:
    """The chip with the next number."""
    return shift(chips, 1)


def shift(chips: int, by: int) -> Ints:
    """The chip `by` numbers further, round."""
    return (np.arange(chips) + by) % chips


def all_to_all(chips: int, itself: bool = False) -> tuple[Ints, Ints]:
    """(source, target) of every pair: uniform traffic.  `itself`: chips draw themselves too, as
    BookSim's do."""
    source, target = np.divmod(np.arange(chips * chips), chips)
    kept = np.flatnonzero((source != target) | itself)
    return source[kept], target[kept]


PERMUTATIONS: dict[str, Callable[[int], Ints]] = {
    "transpose": transpose,
    "bit_reverse": bit_reverse,
    "bit_complement": bit_complement,
    "shuffle": shuffle,
    "neighbour": neighbour,
}


def link_load(wires: Wires, source: Ints, target: Ints) -> Floats:
    """By capacity, how many of the messages cross it, all of them sent at rate 1; of a split
    message, its part.

    What a chip sends to itself takes the stages of a butterfly or Benes network, and nothing
    elsewhere.
    """
    legs = routes(wires, source, target, itself=True).legs
    return np.bincount(legs.capacities, legs.share, minlength=len(wires.bytes_per_s))


def saturation(wires: Wires, source: Ints, target: Ints) -> float:
    """The rate that all messages can have at once, as a part of the rate of chip 0's first link: 1
    / greatest load."""
    unit = float(wires.bytes_per_s[wires.capacity[wires.out_first[0]]])
    fullest = float((link_load(wires, source, target) * unit / wires.bytes_per_s).max(initial=0.0))
    return 1.0 / fullest if fullest else np.inf


def _bits(pattern: str, chips: int) -> int:
    if chips < 1 or chips & (chips - 1):
        raise ValueError(
            f"{pattern} needs a power of two of chips, not {chips}; transpose needs a square, "
            "shift none"
        )
    return chips.bit_length() - 1
