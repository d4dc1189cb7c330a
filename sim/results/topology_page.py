"""A pod's links as one interactive page: what is wired to what, how fast, and the figures an
architect asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from math import cos, pi, sin
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from sim.hardware.device import Fact
from sim.network import measures
from sim.network.topology import shape_of
from sim.network.wires import Wires
from sim.results.palette import VARIANT_COLOURS, escaped
from sim.text.units import show

if TYPE_CHECKING:
    import plotly.graph_objects as go

Place = tuple[float, ...]
MOST_DRAWN = 1_200  # nodes: of more, those nearest to chip 0 are drawn, and the page says so
MOST_MEASURED = 200_000  # links
_SHOWN = 4  # of wires that are named


def figures(graph: nx.DiGraph, most_links: int = MOST_MEASURED) -> dict[str, str]:
    """Chips, switches, wires, degree, diameter, mean distance, bisection bandwidth and routing, as
    text.

    Distances and bisection are left out of a graph of more than `most_links` links.
    """
    chips = [node for node in graph if isinstance(node, int)]
    low, high = measures.degree(graph)
    found = {
        "chips": f"{len(chips):,}",
        "switches": f"{len(graph) - len(chips):,}",
        "wires": f"{measures.wire_count(graph):,}",
        "wires a chip": str(low) if low == high else f"{low} to {high}",
    }
    if graph.number_of_edges() <= most_links and len(chips) > 1:
        wires = Wires(graph)
        apart, cut = measures.distances(graph, wires), measures.bisection(graph, wires)
        found["diameter"] = f"{apart.diameter} hops" + (
            "" if apart.exact else " or more, from a sample"
        )
        found["mean distance"] = f"{apart.average:.3g} hops"
        found["bisection bandwidth"] = f"{show(cut.bytes_per_s, 'B/s')} one way" + (
            "" if cut.exact else ", at most"
        )
    alone = [f"{a} → {b}" for a, b in graph.edges if not graph.has_edge(b, a)]
    if alone:
        more = f" and {len(alone) - _SHOWN:,} more" if len(alone) > _SHOWN else ""
        found["wires of one way"] = ", ".join(alone[:_SHOWN]) + more
    return found | {"routing": str(graph.graph.get("routing", "shortest")).replace("_", " ")}


def page(name: str, graph: nx.DiGraph, facts: Mapping[str, Fact]) -> str:
    """The page as HTML: one file that needs no network.  Every name is escaped."""
    from plotly.offline import get_plotlyjs

    drawn = _near(graph)
    title = escaped(name)
    note = (
        ""
        if len(drawn) == len(graph)
        else f"<p>Drawn: the {len(drawn):,} nodes nearest to chip 0.</p>"
    )
    rows = "".join(
        f"<tr><th>{escaped(key)}</th><td>{escaped(text)}</td></tr>"
        for key, text in figures(graph).items()
    )
    sources = "".join(
        f"<tr><th>{escaped(_NAMES.get(what, what))}</th><td>{escaped(fact.value)}</td>"
        f"<td>{escaped(fact.tag)}</td><td>{escaped(fact.source)}</td></tr>"
        for what, fact in facts.items()
    )
    chart = figure(drawn).to_html(
        full_html=False, include_plotlyjs=False, div_id="wires", config={"displaylogo": False}
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>\n"
        "<body><main>"
        f"<h1>{title}</h1><div class=pair><table class=facts>{rows}</table>"
        "<table class=sources><tr><th>number</th><th>value</th><th></th><th>source</th></tr>"
        f"{sources}</table></div>"
        f"{note}{chart}</main></body></html>\n"
    )


def figure(graph: nx.DiGraph) -> go.Figure:
    """The drawing: chips as filled marks, switches as squares, wires coloured by rate."""
    import plotly.graph_objects as go

    places = _DRAWN[shape_of(graph).drawn](graph)
    deep = len(next(iter(places.values()))) == 3
    line = go.Scatter3d if deep else go.Scatter
    out = go.Figure()
    for number, ((rate, latency, duplex), ends) in enumerate(
        sorted(_wires(graph).items(), reverse=True)
    ):
        path: list[list[float | None]] = [[], [], []]
        for a, b in ends:
            start, end = places[a], _landing(graph, places, a, b)
            for axis in range(len(start)):
                path[axis] += [start[axis], end[axis], None]
        kind = (
            f"{show(rate, 'B/s')}, "
            f"{show(latency, 's')}{', half duplex' if duplex == 'half' else ''}"
        )
        colour = VARIANT_COLOURS[(number + 2) % len(VARIANT_COLOURS)]
        axes: dict[str, Any] = dict(zip("xyz", path[: 3 if deep else 2]))
        out.add_trace(
            line(
                **axes,
                mode="lines",
                name=f"{kind}: {len(ends):,} wires",
                hoverinfo="skip",
                line={"color": colour, "width": 1.3},
            )
        )
    for what, mark, colour, wanted in (
        ("chips", "circle", "#1F2933", int),
        ("switches", "square", "#D55E00", str),
    ):
        nodes = [node for node in graph if isinstance(node, wanted)]
        if nodes:
            spots = [places[node] for node in nodes]
            if wanted is int and _staged(graph):  # once more where the last stage leads
                spots += [_landing(graph, places, "", node) for node in nodes]
                nodes = nodes * 2
            axes = {axis: list(numbers) for axis, numbers in zip("xyz", zip(*spots))}
            size = max(4, min(13, 420 / len(graph) ** 0.5 / 3)) * (0.6 if deep else 1)
            out.add_trace(
                line(
                    **axes,
                    mode="markers",
                    name=f"{len(set(nodes)):,} {what}",
                    text=[_told(graph, node) for node in nodes],
                    hovertemplate="%{text}<extra></extra>",
                    marker={"symbol": mark, "size": size, "color": colour},
                )
            )
    plain = {"visible": False}
    return out.update_layout(
        template="plotly_white",
        height=720,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis=plain,
        yaxis=plain | ({} if deep or shape_of(graph).drawn in _UPRIGHT else {"scaleanchor": "x"}),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        font={"family": "system-ui, sans-serif"},
        scene={"xaxis": plain, "yaxis": plain, "zaxis": plain},
    )


def _wires(graph: nx.DiGraph) -> dict[tuple[float, float, str], list[tuple[Any, Any]]]:
    """Wires by rate, latency and duplex; both ways of one are drawn once, save in stages, which go
    one way."""
    found = defaultdict(list)
    for a, b, link in graph.edges(data=True):
        back = graph.has_edge(b, a) and not _staged(graph)
        if not back or str(a) <= str(b):
            found[link["bytes_per_s"], link["latency_s"], link.get("duplex", "full")].append((a, b))
    return found


def _told(graph: nx.DiGraph, node: Any) -> str:
    """What a hover says of a node."""
    known, links = graph.nodes[node], list(graph.adj[node].items())
    lines = [
        f"<b>{'chip ' if isinstance(node, int) else ''}{escaped(node)}</b>",
        f"at {escaped(known['at'])}" if "at" in known else "",
        f"core {show(known['bytes_per_s'], 'B/s')}" if known.get("bytes_per_s") else "",
        "stores and forwards" if known.get("forwarding") == "store_and_forward" else "",
        *(
            f"→ {escaped(b)}: {show(link['bytes_per_s'], 'B/s')}, {show(link['latency_s'], 's')}"
            for b, link in links[:10]
        ),
        f"and {len(links) - 10:,} more" if len(links) > 10 else "",
    ]
    return "<br>".join(filter(None, lines))


def _staged(graph: nx.DiGraph) -> bool:
    """Whether wires go one way, from chips through stages to chips."""
    return shape_of(graph).drawn == "stages"


def _rings(graph: nx.DiGraph) -> dict[Any, Place]:
    """Chips around their switches."""
    chips = _circle([node for node in graph if isinstance(node, int)], 1.0)
    return chips | _circle([node for node in graph if not isinstance(node, int)], 0.72)


def _circle(nodes: list[Any], radius: float) -> dict[Any, Place]:
    turn = 2 * pi / max(len(nodes), 1)
    return {node: (radius * sin(i * turn), radius * cos(i * turn)) for i, node in enumerate(nodes)}


def _grid(graph: nx.DiGraph) -> dict[Any, Place]:
    """The first three sides as axes; more are laid beside one another.  Slightly bent, so that
    wrapped wires show."""
    dims = graph.graph["dims"]
    if len(dims) == 1:
        return _circle(list(graph), 1.0)
    places: dict[Any, Place] = {}
    for node in graph:
        at = np.unravel_index(node, dims)
        x, y, *rest = (float(part) for part in reversed(at))
        for side, more in zip(reversed(dims[:-3]), rest[1:]):
            x += more * (side + 1) * dims[-1]
        bent = 0.18 * graph.graph["wraps"]
        if len(dims) == 2:
            places[node] = (
                x + bent * sin(pi * y / max(dims[-2] - 1, 1)),
                -y + bent * sin(pi * x / max(dims[-1] - 1, 1)),
            )
        else:
            places[node] = (x, y, rest[0])
    return places


def _stages(graph: nx.DiGraph) -> dict[Any, Place]:
    """Chips at the left (they are drawn again at the right, where the last stage leads), stages
    between."""
    depth = nx.multi_source_dijkstra_path_length(
        graph.subgraph([node for node in graph if not isinstance(node, int)]),
        {b for a, b in graph.edges if isinstance(a, int)},
        weight=None,
    )
    columns: dict[int, list[Any]] = defaultdict(list)
    for node in graph:
        columns[-1 if isinstance(node, int) else int(depth.get(node, 0))].append(node)
    return {
        node: (float(column), -(row + 0.5) / len(nodes))
        for column, nodes in columns.items()
        for row, node in enumerate(nodes)
    }


def _landing(graph: nx.DiGraph, places: Mapping[Any, Place], a: Any, b: Any) -> Place:
    """Where the wire from a to b ends: in stages, chips are also at the right end."""
    if _staged(graph) and isinstance(b, int):
        return max(place[0] for place in places.values()) + 1, places[b][1]
    return places[b]


def _tiers(graph: nx.DiGraph) -> dict[Any, Place]:
    """Chips in a row, each tier of switches above what it joins, over the middle of it."""
    chips = [node for node in graph if isinstance(node, int)]
    up = nx.multi_source_dijkstra_path_length(
        graph.to_undirected(as_view=True), set(chips), weight=None
    )
    places: dict[Any, Place] = {chip: ((i + 0.5) / len(chips), 0.0) for i, chip in enumerate(chips)}
    for tier in range(1, int(max(up.values())) + 1):
        level = [node for node in graph if up[node] == tier]
        middle = {
            node: float(np.mean([places[b][0] for b in graph.adj[node] if b in places] or [0.5]))
            for node in level
        }
        # A node's own switch sits right above it.
        of_node = [
            node
            for node in level
            if all(link.get("tier") == "node" for link in graph.adj[node].values())
        ]
        rest = sorted(
            (node for node in level if node not in set(of_node)), key=lambda node: middle[node]
        )
        places |= {node: (middle[node], tier - 0.45) for node in of_node}
        places |= {node: ((i + 0.5) / len(rest), float(tier)) for i, node in enumerate(rest)}
    return places


def _near(graph: nx.DiGraph) -> nx.DiGraph:
    """The whole graph, or as much of it around chip 0 as can be drawn."""
    if len(graph) <= MOST_DRAWN:
        return graph
    if shape_of(graph).drawn == "grid":
        most = int(MOST_DRAWN ** (1 / len(graph.graph["dims"])))
        kept = [node for node in graph if max(np.unravel_index(node, graph.graph["dims"])) < most]
        return graph.subgraph(sorted(kept))
    near = {0, *islice((b for _, b in nx.bfs_edges(graph, 0)), MOST_DRAWN - 1)}
    return graph.subgraph([node for node in graph if node in near])


# Where the nodes of a shape are, by how its row says that it is drawn.
_DRAWN: dict[str, Callable[[nx.DiGraph], dict[Any, Place]]] = {
    "circle": lambda graph: _circle(list(graph), 1.0),
    "grid": _grid,
    "hub": lambda graph: {0: (0.0, 0.0)} | _circle([node for node in graph if node != 0], 1.0),
    "rings": _rings,
    "spring": lambda graph: {
        node: tuple(map(float, at)) for node, at in nx.spring_layout(graph, seed=1).items()
    },
    "stages": _stages,
    "tiers": _tiers,
}
_UPRIGHT = ("stages", "tiers")  # whose axes have a scale each
_NAMES = {
    f"{level}_{key}": f"{level} {word}"
    for level in ("link", "nic", "spine")
    for key, word in (("bytes_per_s", "rate"), ("latency_s", "latency"))
}
_STYLE = """
body { margin:0; background:#fff; color:#1F2933;
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif }
main { max-width:1280px; margin:0 auto; padding:24px 20px 40px }
h1 { font-size:26px; line-height:1.25; margin:0 0 12px }
.pair { display:flex; flex-wrap:wrap; gap:24px; align-items:flex-start }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:14px }
th, td { text-align:left; padding:3px 12px 3px 0; border-bottom:1px solid #E4E7EB;
  vertical-align:top }
th { font-weight:600; white-space:nowrap } td:nth-child(2) { white-space:nowrap }
.sources { flex:1; min-width:420px; font-size:13px; color:#52606D }
"""
