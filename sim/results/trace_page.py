"""A request trace as one interactive page: how many come when, and how long they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.palette import VARIANT_COLOURS, escaped
from sim.traces.description import Description, Lengths, figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FONT = {"family": "system-ui, sans-serif"}
MOST_POINTS = 1_000  # of a curve


def page(found: Description) -> str:
    """The page as HTML: one file that needs no network.  Every name is escaped."""
    from plotly.offline import get_plotlyjs

    title = escaped(found.name)
    rows = "".join(
        f"<tr><th>{escaped(key)}</th><td>{escaped(text)}</td></tr>"
        for key, text in figures(found).items()
    )
    warnings = "".join(f"<li>{escaped(warning)}</li>" for warning in found.warnings)
    drawn = {"rate": rate_figure(found), "lengths": length_figure(found)}
    if len(found.tenants) > 1:
        drawn["tenants"] = tenant_figure(found)
    charts = "".join(
        f"<h2>{heading}</h2>"
        + drawn[name].to_html(
            full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False}
        )
        for name, heading in (
            ("rate", "Requests a second"),
            ("lengths", "Lengths: the share of requests that is no longer"),
            ("tenants", "Requests by tenant"),
        )
        if name in drawn
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><link rel="icon" '
        'href="data:,">'
        f"<title>{title}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>\n"
        "<body><main>"
        f"<h1>{title}</h1><table class=facts>{rows}</table>"
        f"{f'<ul class=warnings>{warnings}</ul>' if warnings else ''}{charts}"
        "</main></body></html>\n"
    )


def rate_figure(found: Description) -> go.Figure:
    """The rate over time, with its mean."""
    import plotly.graph_objects as go

    # The last bin ends with the trace; where it is a sliver its rate says nothing.
    starts = np.arange(len(found.bins)) * found.bin_s
    widths = np.minimum(found.bin_s, np.maximum(found.span_s - starts, 1e-9))
    whole = widths > 0.2 * found.bin_s
    whole[0] = True
    unit, size = _unit(found.span_s)
    rates = found.bins / widths
    out = go.Figure(
        go.Scatter(
            x=((starts + widths / 2) / size)[whole].tolist(),
            y=rates[whole].tolist(),
            mode="lines",
            line={"color": VARIANT_COLOURS[2], "width": 1.5, "shape": "hvh"},
            hovertemplate=f"%{{x:.3g}} {unit}<br>%{{y:.4g}} requests/s<extra></extra>",
        )
    )
    if found.rate_per_s == found.rate_per_s:
        out.add_hline(
            y=found.rate_per_s, line={"color": "#8A8F98", "dash": "dot"}, annotation_text="mean"
        )
    return _laid_out(
        out, f"time since the first request ({unit})", "requests/s", rangemode="tozero"
    )


def length_figure(found: Description) -> go.Figure:
    """Cumulative shares of prompt and output lengths, on a logarithmic axis."""
    import plotly.graph_objects as go

    out = go.Figure()
    for name, each, colour in (
        ("prompt", found.prompt, VARIANT_COLOURS[1]),
        ("output", found.output, VARIANT_COLOURS[3]),
    ):
        tokens, shares = _cumulative(each)
        out.add_trace(
            go.Scatter(
                x=tokens,
                y=shares,
                name=name,
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv"},
                hovertemplate=f"{name}: %{{y:.1%}} have at most %{{x:,}} tokens<extra></extra>",
            )
        )
    _laid_out(out, "tokens", "share of requests", tickformat=".0%")
    return out.update_xaxes(type="log")


def tenant_figure(found: Description) -> go.Figure:
    """The 30 tenants with most requests."""
    import plotly.graph_objects as go

    most = sorted(found.tenants.items(), key=lambda each: -each[1])[:30][::-1]
    names = [escaped(name or "(none)") for name, _ in most]
    out = go.Figure(
        go.Bar(
            x=[count for _, count in most],
            y=names,
            orientation="h",
            marker={"color": VARIANT_COLOURS[0]},
        )
    )
    return _laid_out(out, "requests", "", type="category").update_layout(
        height=120 + 22 * len(most)
    )


def _laid_out(out: go.Figure, across: str, up: str, **upward: Any) -> go.Figure:
    return out.update_layout(
        template="plotly_white",
        height=360,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        font=_FONT,
        xaxis={"title": across},
        yaxis={"title": up, **upward},
        legend={"orientation": "h", "y": 1.08},
    )


def _cumulative(lengths: Lengths) -> tuple[list[int], list[float]]:
    """Points of the curve: each length that occurs, or as many of them as one can see."""
    tokens = np.flatnonzero(lengths.counts)
    upto = np.cumsum(lengths.counts[tokens])
    if len(tokens) > MOST_POINTS:
        even = np.linspace(0, len(tokens) - 1, MOST_POINTS // 2).round()
        by_share = np.searchsorted(upto, np.linspace(1, upto[-1], MOST_POINTS // 2))
        keep = np.unique(np.concatenate((even, by_share)).astype(np.int64))
        tokens, upto = tokens[keep], upto[keep]
    return tokens.tolist(), (upto / lengths.counts.sum()).tolist()


def _unit(span_s: float) -> tuple[str, float]:
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next(((unit, size) for unit, size in units if span_s > 3 * size), ("s", 1.0))


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1F2933;background:#fff;margin:0}
main{max-width:1080px;margin:0 auto;padding:24px}
h1{font-size:22px;overflow-wrap:anywhere}h2{font-size:16px;margin:28px 0 4px}
table{border-collapse:collapse}
th{text-align:left;font-weight:500;color:#5F6B7A;padding:3px 18px 3px 0;vertical-align:top}
td{padding:3px 0;overflow-wrap:anywhere}.warnings{color:#8A4B00}
"""
