"""Numbers from text, a column at a time: eight digits of every row in one 64-bit step.

Each function returns the values and which of them are sound; a field that is anything but plain
digits (a sign, a space, an exponent, nothing) is not sound, and is left to the reader of single
rows. What is sound has the very bits that Python's `int` and `float` give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.traces.columns import Array

PAD = 32  # bytes before and after the text, so that eight bytes can be read at any place of it
_ZEROS, _HIGH, _NINES = (np.uint64(int(byte * 8, 16)) for byte in ("30", "80", "76"))
_KEEP = np.array(
    [((1 << 8 * n) - 1) << (64 - 8 * n) if n else 0 for n in range(9)], np.uint64
)  # the last n bytes
_TENS = np.array([float(10**n) for n in range(23)])  # each one exact
_POWERS = np.array([10**n for n in range(19)], np.int64)
# Days from 1970 to the first of each month, up to that after the last year that is read here.
_MONTHS = np.arange("1970-01", "2200-02", dtype="M8[M]").astype("M8[D]").astype(np.int64)


class Text(NamedTuple):
    """Bytes with room on both sides, also as 64-bit words: `words[i]` are bytes i to i + 7."""

    data: Array
    words: Array


def padded(block: bytes) -> Text:
    """`block` with its first byte at PAD."""
    data = np.frombuffer(b"".join((bytes(PAD), block, bytes(PAD))), np.uint8)
    return Text(data, np.ndarray(len(data) - 7, "<u8", buffer=data, strides=(1,)))


def whole(text: Text, start: Array, end: Array) -> tuple[Array, Array]:
    """Integers of 1 to 15 digits in bytes start to end - 1 of each row."""
    length = end - start
    values, sound = _digits(text, end, np.clip(length, 0, 15))
    return values, sound & (length > 0) & (length < 16)


def decimal(text: Text, start: Array, end: Array, dots: Array) -> tuple[Array, Array]:
    """Decimal numbers such as 12 or 0.125, no sign or exponent; `dots` are where the text has dots.

    A number whose digits make an integer up to 2**53 is that integer over a power of ten, both
    exact, so that one division rounds right. One with more digits is given to `float`, on its own.
    """
    stops = np.append(dots, len(text.data))
    dot = np.minimum(stops[np.searchsorted(dots, start)], end)
    before, after = dot - start, np.maximum(end - dot - 1, 0)
    sound = (before + after > 0) & (before < 16) & (after < 17)
    high, high_sound = _digits(text, dot, np.clip(before, 0, 15))
    if not after.any():
        return high.astype(np.float64), sound & high_sound
    low, low_sound = _digits(text, end, np.clip(after, 0, 16))
    sound &= high_sound & low_sound
    short = sound & (before + after < 19)
    after = np.where(short, after, 0)
    mantissa = np.where(short, high, 0) * _POWERS[after] + low
    short &= mantissa <= 2**53
    values = mantissa / _TENS[after]
    long = np.flatnonzero(sound & ~short)
    if len(long):
        raw = text.data.tobytes()
        values[long] = [float(raw[a:b]) for a, b in zip(start[long].tolist(), end[long].tolist())]
    return values, sound


def date(text: Text, start: Array, end: Array) -> tuple[Array, Array]:
    """Nanoseconds since 1970 of times like 2023-11-16 18:15:46.6805900, in UTC.

    They have no offset, Z or +00:00.

    Only years 1970 to 2199; other offsets and years are left to the reader of rows.
    """
    words, data = text.words, text.data
    offset = (data[end - 6] == ord("+")) & (end - start >= 25)
    sound = ~offset | (words[end - 8] >> np.uint64(16) == int.from_bytes(b"+00:00", "little"))
    stop = end - np.where(offset, 6, data[end - 1] == ord("Z"))
    length = stop - start
    sound &= (length == 19) | ((length > 20) & (length < 30) & (data[start + 19] == ord(".")))
    fields = []
    for at, size, before in (
        (0, 4, b""),
        (5, 2, b"-"),
        (8, 2, b"-"),
        (11, 2, b" T"),
        (14, 2, b":"),
        (17, 2, b":"),
    ):
        if before:
            sound &= np.isin(data[start + at - 1], np.frombuffer(before, np.uint8))
        value, digits = _eight(words, start + at + size, np.full(1, size))
        sound &= digits
        fields.append(value)
    year, month, day, hour, minute, second = fields
    sound &= (year >= 1970) & (year < 2200) & (month > 0) & (month < 13)
    sound &= (day > 0) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(sound, (year - 1970) * 12 + month - 1, 0)
    since = _MONTHS[months] + day - 1
    sound &= since < _MONTHS[months + 1]
    places = np.clip(length - 20, 0, 9)
    fraction, digits = _digits(text, stop, places)
    sound &= digits
    seconds = ((since * 24 + hour) * 60 + minute) * 60 + second
    return np.where(sound, seconds * 10**9 + fraction * _POWERS[9 - places], 0), sound


def _digits(text: Text, end: Array, length: Array) -> tuple[Array, Array]:
    """Values of 0 to 16 digits that end before `end`, and which of them are all digits."""
    value, sound = _eight(text.words, end, np.minimum(length, 8))
    if len(length) and length.max() > 8:
        high, high_sound = _eight(text.words, end - 8, np.maximum(length - 8, 0))
        return high * 10**8 + value, sound & high_sound
    return value, sound


def _eight(words: Array, end: Array, length: Array) -> tuple[Array, Array]:
    """Values of 0 to 8 digits: pairs, then fours, then eight are added side by side in a word."""
    keep = _KEEP[length]
    word = ((words[end - 8] ^ _ZEROS) & keep).view(np.uint64)
    sound = ((word + _NINES) | word) & _HIGH == 0
    word = (word * np.uint64(2561)) >> np.uint64(8)
    word = ((word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601)) >> np.uint64(16)
    word = ((word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001)) >> np.uint64(32)
    return word.astype(np.int64), sound
