"""Random numbers that depend on what they are for, and not on how many were drawn before."""

from __future__ import annotations


def draw(seed: int, a: int, b: int) -> int:
    """A whole number of 31 random bits that depends on the three numbers alone (xorshift-multiply
    mixes)."""
    x = int(seed) & 0x7FFFFFFF
    for number in (a, b):
        x = (x * 40503 + int(number)) & 0x7FFFFFFF
        for _ in range(2):
            x = ((x >> 15) ^ x) * 0x2C1B3C6D & 0x7FFFFFFF
            x = ((x >> 12) ^ x) * 0x297A2D39 & 0x7FFFFFFF
        x = (x >> 15) ^ x
    return x


def chance(seed: int, a: int, b: int) -> float:
    """The same as a number in [0, 1)."""
    return draw(seed, a, b) / 2147483648.0
