"""Interactive figures of arrays as one page: what a kind of work draws, in a common frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from sim.results.palette import escaped, inside_script

FONT = {"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 12}


def figures_page(
    title: str,
    figures: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]] = (),
    left_out: int = 0,
    *,
    pages: Sequence[str] = ("report",),
) -> str:
    """The page as HTML: one file that needs no network.  Every name is escaped.

    `runs` are pictures of which pod was at which layer; `left_out` more are not drawn. `pages` lie
    beside it.
    """
    from plotly.offline import get_plotlyjs

    data = {"figures": figures, "runs": runs, "left_out": left_out, "font": FONT}
    here = resources.files("sim.results")
    links = " · ".join(f'<a href="{page}.html">{page.capitalize()}</a>' for page in pages)
    return (
        (here / "array_figures.html")
        .read_text("utf-8")
        .replace("{{title}}", escaped(title))
        .replace("{{links}}", links)
        .replace("{{data}}", inside_script(json.dumps(data, ensure_ascii=False, allow_nan=False)))
        .replace("{{script}}", (here / "array_figures.js").read_text("utf-8"))
        .replace("{{plotly}}", get_plotlyjs())
    )


def figure(
    heading: str, text: str, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]
) -> dict[str, Any]:
    """One figure: Plotly's traces and layout under a heading."""
    base = {
        "template": "none",
        "font": FONT,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "height": 420,
    }
    return {
        "heading": escaped(heading),
        "text": escaped(text),
        "traces": traces,
        "layout": base | dict(layout),
    }
