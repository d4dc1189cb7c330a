"""Values of a trace file, from CSV or JSON: a function reads one kind, or says what is wrong.

They take the value and the name of its column, for the message of the ValueError.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sim.text.outside import MOST_S
from sim.text.strict_json import loads as strictly


def csv_fields(line: str, comma: str = ",") -> list[str]:
    """Fields of a CSV line, which `comma` parts.  Not read: fields with a line end inside."""
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(comma)
    try:
        return next(csv.reader([line], delimiter=comma), [])
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}") from None


def comma_of(header: str) -> str:
    """What parts the fields of a CSV file with this first line: a comma, or as other programs and
    countries have it, a semicolon, a tab or a bar."""
    return max(",;\t|", key=header.count)


def key_names(found: Mapping[str, object], stem: str = "") -> list[str]:
    """Keys of a JSON object with those of the objects in it, dotted."""
    names = []
    for key, value in found.items():
        names.append(stem + key)
        if isinstance(value, dict) and stem.count(".") < 3:
            names += key_names(value, f"{stem}{key}.")
    return names


def lifted(found: dict[str, object], name: str) -> dict[str, object]:
    """The object with what stands at a dotted name under that name, if anything does."""
    value: object = found
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return found
        value = value[key]
    return found | {name: value}


def json_object(line: str) -> dict[str, object] | None:
    """The object that a line of JSON is; None if it is something else, or no JSON.  ValueError if a
    key is given twice."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    # Only then may it hold more keys than it shows: the slower reader looks.
    return strictly(line) if line.count(":") > len(found) else found


def finite(value: object, column: str) -> float:
    """A finite number as written in CSV or JSON, or ValueError."""
    text: Any = value.strip() if isinstance(value, str) else value
    if text == "":
        raise ValueError(f"{column} is empty")
    try:
        # float() also reads "1_000" and digits of other scripts, which no recorder writes.
        if isinstance(text, bool) or not str(text).isascii() or "_" in str(text):
            raise ValueError
        number = float(text)
    except OverflowError:
        number = math.inf
    except (ValueError, TypeError):
        raise ValueError(f"{column} is not a number ({str(value)[:40]!r})") from None
    if not math.isfinite(number):
        raise ValueError(f"{column} is not finite ({str(value)[:40]})")
    return number


def token_count(value: object, column: str) -> int:
    """A number of tokens, zero included.

    A whole number may carry decimals ("374.0"), as tables with gaps write it.
    """
    if type(value) is str and len(value) < 16 and value.isascii() and value.isdigit():
        return int(value)
    if type(value) is int and 0 <= value < 10**15:
        return value
    number = elapsed(value, column)
    if number != int(number):
        raise ValueError(f"{column} is not a whole number ({str(value).strip()[:40]})")
    return int(number)


def elapsed(value: object, column: str) -> float:
    """A clock that counts up from the start of the recording."""
    if (
        type(value) is str and value.isascii() and "_" not in value
    ):  # the fast way through for nearly every row
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if 0 <= number < math.inf:
            return number
    elif (type(value) is float or type(value) is int) and 0 <= value < 1e300:
        return float(value)
    number = finite(value, column)
    if number < 0:
        raise ValueError(f"{column} is negative ({str(value).strip()[:40]})")
    return number


_DATE = re.compile(
    r"(\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d)(:\d\d(?:[.,](\d{1,9}))?)?"
    r" ?(Z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


def date_ns(value: object, column: str) -> int:
    """A date and time of day, in nanoseconds since 1970; without an offset it is UTC."""
    text = str(value).strip()
    match = _DATE.fullmatch(text)
    if not match:
        raise ValueError(f"{column} is not a time like 2023-11-16 18:15:46.6805900 ({text[:40]!r})")
    try:
        minute, second, zone = match[1].replace("/", "-"), (match[2] or ":00")[:3], match[4]
        zone = "Z" if zone in (None, "UTC") else zone
        seconds = int(datetime.fromisoformat(minute + second + zone).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{column} is no time of any calendar ({text[:40]!r})") from None
    if abs(seconds) > 9 * 10**9:  # 1684 to 2255: in nanoseconds, what 64 bits hold
        raise ValueError(f"{column} is no time of these centuries ({text[:40]!r})")
    return seconds * 10**9 + int((match[3] or "").ljust(9, "0"))


def log_time_s(value: object, column: str) -> float:
    """Seconds since 1970, as a number or as a date."""
    if isinstance(value, str) and _DATE.fullmatch(value.strip()):
        return date_ns(value, column) / 1e9
    return elapsed(value, column)


def no_time(value: object, column: str) -> float:
    """The clock of files that have none: all come at once."""
    return 0.0


def identifier(value: object, column: str) -> str | None:
    """An identifier, as text; None if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value).strip() or None
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value) if value == int(value) else value)
    raise ValueError(f"{column} is not an identifier ({str(value)[:40]!r})")


def duration_s(value: object, column: str) -> float:
    """A duration; NaN if there is none.  ValueError beside which a clock stands still."""
    if value is None or value == "":
        return math.nan
    number = elapsed(value, column)
    if number > MOST_S:
        raise ValueError(f"{column} is {number:.3g} s, more than the clock can resolve")
    return number


_IDS = re.compile(r"[0-9]{1,18}( [0-9]{1,18})*", re.ASCII)


def block_ids(value: object, column: str) -> list[Any]:
    """Ids of prefix blocks: a JSON list, or in CSV numbers with spaces between."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and _IDS.fullmatch(value.strip()):
        return [int(each) for each in value.split()]
    if not isinstance(value, list) or not {int, str}.issuperset(map(type, value)):
        raise ValueError(f"{column} is not a list of block ids ({str(value)[:40]!r})")
    return value


# What a trace may tell beside arrival and lengths, and how its value is read.
EXTRAS: dict[str, Callable[[object, str], Any]] = {
    "session": identifier,  # equal in the turns of one conversation
    "chat": identifier,  # of this turn, where ...
    "parent": identifier,  # ... each names the turn before it; -1 in the first
    "elapsed_s": duration_s,  # from the request to the end of its answer
    "think_s": duration_s,  # from the answer before to this request
    "tenant": identifier,
    "blocks": block_ids,
}
