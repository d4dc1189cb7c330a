"""Text with units at the edge, plain SI floats inside: the one place where they meet."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

# Exact until the last step, so that "192 MiB" is rounded once.
_PREFIX: dict[str, Fraction] = {
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "m": Fraction(1, 10**3),
    "u": Fraction(1, 10**6),
    "µ": Fraction(1, 10**6),
    "n": Fraction(1, 10**9),
    "p": Fraction(1, 10**12),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
}
_QUANTITY = re.compile(
    r"([+-]?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,2})?)\s*([KMGT]i|[kMGTPmuµnp]?)"
    r"(FLOP/s|FLOPS|OPS|B/s|b/s|bps|B|b|s|W|J/B|J|Hz)"
)
_SAME = {"b": "B", "b/s": "B/s", "bps": "B/s", "FLOPS": "FLOP/s", "OPS": "FLOP/s"}
_EXAMPLE = {
    "B/s": "1.6 TB/s",
    "B": "192 MiB",
    "s": "10 us",
    "FLOP/s": "376 TFLOP/s",
    "W": "700 W",
    "J": "3 J",
    "J/B": "2.7 pJ/B",
    "Hz": "1 GHz",
}


def parse(text: object, unit: str) -> float:
    """Value of `text` in `unit` ("B", "B/s", "s", "FLOP/s", "W", "J", "J/B", "Hz"); ValueError if
    it is not one.

    >>> parse("400 Gb/s", "B/s"), parse("80 GiB", "B"), parse("5 us", "s")
    (50000000000.0, 85899345920.0, 5e-06)
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if not match:
        bare = isinstance(text, (int, float)) and not isinstance(text, bool)
        why = "is a bare number where a unit is due" if bare else "is not a quantity"
        raise ValueError(f"{text!r} {why}; write it like {_EXAMPLE[unit]!r}")
    number, prefix, got = match.groups()
    if _SAME.get(got, got) != unit:
        raise ValueError(
            f"{text!r} is in {got}, but {unit} is due; write it like {_EXAMPLE[unit]!r}"
        )
    return float(Fraction(number) * _PREFIX[prefix] / (8 if got in ("b", "b/s", "bps") else 1))


def quantity(given: object) -> tuple[float, str]:
    """A number and its unit, '' of a bare number; ValueError if it is neither.

    >>> quantity("8 MiB"), quantity(3)
    ((8388608.0, 'B'), (3.0, ''))
    """
    if isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given):
        return float(given), ""
    match = _QUANTITY.fullmatch(given.strip()) if isinstance(given, str) else None
    if not match:
        raise ValueError(f"{given!r} is neither a number nor a quantity like '192 MiB'")
    unit = _SAME.get(match[3], match[3])
    return parse(given, unit), unit


def scaled(value: float, like: object, digits: int = 10) -> float | str:
    """`value`, in SI, written as `like` is: a bare number, or a quantity with its prefix and unit.

    >>> scaled(16777216.0, "8 MiB"), scaled(2.5, 1)
    ('16 MiB', 2.5)
    """
    if not isinstance(like, str):
        return value
    match = _QUANTITY.fullmatch(like.strip())
    assert match, like
    one = parse(f"1 {match[2]}{match[3]}", _SAME.get(match[3], match[3]))
    return f"{value / one:.{digits}g} {match[2]}{match[3]}"


def show(value: float, unit: str) -> str:
    """`value` as text a person reads: three significant digits and a decimal prefix.

    >>> show(1.759e12, "B/s"), show(3.05e-5, "s"), show(0.0, "B")
    ('1.76 TB/s', '30.5 us', '0 B')
    """
    if value == 0:
        return f"0 {unit}"
    for prefix in ("", "m", "u", "n") if unit == "s" else ("P", "T", "G", "M", "k", ""):
        scaled = value / float(_PREFIX[prefix])
        if abs(scaled) >= 1:
            break
    return f"{scaled:.3g} {prefix}{unit}" if abs(scaled) < 1000 else f"{scaled:,.0f} {prefix}{unit}"


def _quantity(unit: str) -> tuple[BeforeValidator, WithJsonSchema]:
    schema = {"type": "string", "pattern": _QUANTITY.pattern, "examples": [_EXAMPLE[unit]]}
    return BeforeValidator(lambda text: parse(text, unit)), WithJsonSchema(schema)


# Field types for anything read from YAML: text with a unit in, SI float out.
Bytes = Annotated[float, *_quantity("B")]
BytesPerSecond = Annotated[float, *_quantity("B/s")]
Seconds = Annotated[float, *_quantity("s")]
FlopPerSecond = Annotated[float, *_quantity("FLOP/s")]
Watts = Annotated[float, *_quantity("W")]
Joules = Annotated[float, *_quantity("J")]
JoulesPerByte = Annotated[float, *_quantity("J/B")]
Hertz = Annotated[float, *_quantity("Hz")]


_UNITS = {"bytes_per_s": "B/s", "flop_per_s": "FLOP/s", "_bytes": "B", "_s": "s", "_w": "W"}
_LARGE, _TINY = ("P", "T", "G", "M", "k", ""), ("", "m", "u", "n")


def unit_of(field: str) -> str:
    """The unit that the name of a field ends in, whatever stands beside it; "" for a bare number.

    >>> unit_of("hbm_bytes_per_s"), unit_of("matrix_flop_per_s.bf16"), unit_of("overlap")
    ('B/s', 'FLOP/s', '')
    """
    parts = field.split(".")[:-3:-1]
    return next((unit for part in parts for end, unit in _UNITS.items() if part.endswith(end)), "")


def in_unit_of(field: str, value: float) -> float | str:
    """`value`, in SI, as a scenario writes it under that key: exact.

    >>> in_unit_of("pod.change.device.kernel_overhead_s", 4.25e-6)
    '4.25e-06 s'
    """
    unit = unit_of(field)
    return f"{value!r} {unit}" if unit else value


def prefixed(field: str, value: float) -> tuple[float, str, float]:
    """`value`, in SI, in a decimal prefix that suits it, the unit with that prefix, and what a
    value in SI is multiplied by."""
    unit = unit_of(field)
    if not unit or not value:
        return value, unit, 1.0
    choices = _TINY if unit == "s" else _LARGE
    fit = next((p for p in choices if abs(value) >= float(_PREFIX[p])), choices[-1])
    scale = 1.0 / float(_PREFIX[fit])
    return value * scale, f"{fit}{unit}", scale


def show_field(field: str, value: object) -> str:
    """`value`, in SI, as text with the unit that the field's name ends in.

    >>> show_field("hbm_bytes_per_s", 1.759e12), show_field("overlap", 0.5)
    ('1.76 TB/s', '0.5')
    """
    unit = unit_of(field)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return str(value)
    if unit:
        return show(value, unit)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
