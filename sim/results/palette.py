"""Colours, escapes and encodings that the timeline, the report and the traces share.

Op kinds keep their colour from run to run. The hues are Okabe and Ito's, which people with any
common colour blindness can tell apart; small vector ops are greys, so that what takes the time
stands out.
"""

from __future__ import annotations

import base64
import html
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

KIND_COLOURS = {
    "matmul": "#0072B2",
    "head_matmul": "#5A8FC8",
    "experts": "#7B5EA7",
    "attention": "#56B4E9",
    "absorb": "#2E9E9E",
    "naive": "#9BD7D0",
    "norm": "#8A8F98",
    "rope": "#B4B8BF",
    "activation": "#6B7280",
    "embedding": "#CC79A7",
    "sampling": "#A05A86",
    "routing": "#A8937D",
    "merge": "#D3C4B1",
    "all_reduce": "#D55E00",
    "all_gather": "#E69F00",
    "reduce_scatter": "#B8860B",
    "all_to_all": "#F0A868",
    "send": "#C46A2B",
    "prefetch": "#009E73",
}
BOUND_COLOURS = {
    "compute": "#CC79A7",
    "HBM": "#0072B2",
    "L2": "#009E73",
    "link": "#D55E00",
    "latency": "#8A8F98",
}
CAPACITY_COLOURS = {"HBM": "#0072B2", "L2": "#009E73", "link": "#D55E00"}
EXPOSED, ENGINE, BUBBLES, IDLE = "#D55E00", "#8C7B6B", "#A9B4C8", "#C9CDD3"
VARIANT_COLOURS = (
    "#5F6B7A",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#A05A86",
)
_SPARE = ("#7B5EA7", "#3D8B8B", "#A66B3F", "#5B7F3A", "#9C4F6B", "#4F6DA8")


def variant_colours(names: Iterable[str]) -> dict[str, str]:
    """Each variant's colour, by its place; the same in every figure of a page, and unlike each
    other while there are enough."""
    known = (*VARIANT_COLOURS, *_SPARE)
    return {name: known[i % len(known)] for i, name in enumerate(names)}


def kind_colour(kind: str) -> str:
    """The colour of an op kind: the same in every run, also for kinds nobody thought of."""
    return KIND_COLOURS.get(kind) or _SPARE[zlib.crc32(kind.encode()) % len(_SPARE)]


def kind_colours(kinds: Iterable[str]) -> dict[str, str]:
    """The same of all kinds on a page, unlike each other while there are enough."""
    found: dict[str, str] = {}
    for kind in kinds:
        first = _SPARE.index(kind_colour(kind)) if kind not in KIND_COLOURS else 0
        spare = [*_SPARE[first:], *_SPARE[:first], *VARIANT_COLOURS]
        free = [colour for colour in spare if colour not in found.values()]
        found[kind] = KIND_COLOURS.get(kind) or next(iter(free), spare[0])
    return found


def kind_order(kind: str) -> tuple[int, str]:
    """Sort key: the kinds we know in their order, then the others by name."""
    known = list(KIND_COLOURS)
    return (known.index(kind) if kind in KIND_COLOURS else len(known), kind)


def escaped(text: str) -> str:
    """`text` safe inside HTML and inside Plotly's labels, which read a subset of HTML."""
    return html.escape(str(text), quote=True)


def inside_script(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")


def packed(values: np.ndarray) -> dict[str, Any]:
    """An array as Plotly takes it from JSON, in base64."""
    found: dict[str, Any] = {
        "dtype": values.dtype.str[1:],
        "bdata": base64.b64encode(values.tobytes()).decode("ascii"),
    }
    return found | ({"shape": ", ".join(map(str, values.shape))} if values.ndim > 1 else {})


def words(name: str) -> str:
    """A kind or metric name as words: `all_reduce` becomes "all-reduce"."""
    return name.replace("all_to_", "all-to-").replace("all_", "all-").replace("_", " ")
