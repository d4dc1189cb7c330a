"""Pods as graphs: all that is known of a shape stands in its row of `SHAPES`; `build` builds it.

Chips are numbered from 0; there is one directed edge for each way of each wire. Edges carry
`bytes_per_s` and `latency_s`, and `duplex="half"` where both ways share one rate. Switches are
nodes with a name; they may carry `bytes_per_s` (all that a blocking core passes) and `forwarding`.
`graph.graph` has the shape's name, the routing rule and what the shape's function wrote there for
those who route, group and drive (`dims`, `wraps`, `node_chips`, `rails` ...): they ask for such
facts, never for a name. A new shape is a function and a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter as Argument
from inspect import signature
from math import inf, isfinite, log2, prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import networkx as nx

from sim.network import cuts, direct, multistage
from sim.network.edge_list import from_edges
from sim.network.faults import check_link, is_chip
from sim.text.outside import MOST

if TYPE_CHECKING:
    from sim.network.wires import Wires

Graph: TypeAlias = nx.DiGraph

REQUIRED = Argument.empty  # stands for what a parameter without a default is
MOST_LINKS = MOST["links"].most
# of host memory for one directed link, measured: networkx's dicts (290) and our arrays
LINK_BYTES = 500


class Parameter(NamedTuple):
    """What a shape is built with, beside rate and latency of its link.

    `kind` is how a file writes it (`sim.catalog.pods` reads each kind), `key` what a file calls it,
    where that is another word; `check` is told the value, its name and what it belongs to.
    """

    kind: str
    check: Callable[[Any, str, str], None] = lambda value, name, owner: None
    key: str = ""


def _due(what: str, holds: Callable[[Any], bool]) -> Callable[[Any, str, str], None]:
    """A check: ValueError if a value is not what is due."""

    def check(value: Any, name: str, owner: str) -> None:
        if not holds(value):
            raise ValueError(f"{owner} needs {what.format(name=name)}, not {value!r}")

    return check


def whole(least: int = 1) -> Parameter:
    """A whole number of at least so much."""
    what = f"at least {least} {{name}}, as a whole number"
    return Parameter("whole", _due(what, lambda value: is_chip(value) and value >= least))


WHOLE = whole()
SIDES = Parameter(
    "sides",
    _due(
        "{name} that are whole numbers of at least 1",
        lambda sides: sides and all(is_chip(size) and size >= 1 for size in sides),
    ),
)
RATIO = Parameter(
    "ratio", _due("{name} as a positive ratio", lambda value: isfinite(value) and value > 0)
)
LINK = Parameter("link", lambda value, name, owner: check_link(value, f"the {name} of {owner}"))
LINK_PART = Parameter(
    "link", lambda value, name, owner: check_link(value, f"the {name} of {owner}", complete=False)
)
CORE = Parameter(
    "rate",
    _due("{name} as a positive bandwidth", lambda value: isfinite(value) and value > 0),
    key="core",
)
TERMINALS = Parameter(
    "terminals",
    _due(
        "{name} to be neighbours or shuffled",
        lambda value: value in ("neighbours", "shuffled"),
    ),
)
FORWARDING = Parameter(
    "forwarding",
    _due(
        "{name} to be cut_through or store_and_forward",
        lambda value: value in ("cut_through", "store_and_forward"),
    ),
)

Starts: TypeAlias = list[tuple[int, float]]


class Shape(NamedTuple):
    """All that is known of a shape.

    `size` is the number of nodes and of directed links, as floats, by the parameters: what is too
    large is refused before it is built. `routing` is its rule unless told otherwise; `steered` are
    rules that know their way on it, beside those that serve on any graph. Of a whole pod, by its
    `dims` and its number of chips: `starts` are chips from which it looks as from all others, each
    with the number it stands for; `apart` is its diameter and mean distance; `cut` is its bisection
    bandwidth, by graph and wires. `drawn` is how (`sim.results.topology_page`), and `called` what
    messages say where the name with an article is not English.
    """

    build: Callable[..., Graph]
    parameters: Mapping[str, Parameter]
    size: Callable[[Mapping[str, Any]], tuple[float, float]]
    routing: str = "shortest"
    steered: tuple[str, ...] = ()
    starts: Callable[[Sequence[int], int], Starts] | None = None
    apart: Callable[[Sequence[int], int], tuple[int, float]] | None = None
    cut: Callable[[Graph, Wires], float | None] | None = None
    drawn: str = "spring"
    called: str = ""

    @property
    def doc(self) -> str:
        """What it is: the first paragraph of what its function says of itself."""
        return " ".join((self.build.__doc__ or "").partition("\n\n")[0].split())

    @property
    def rules(self) -> tuple[str, ...]:
        """The routing rules that serve on it."""
        return ("shortest", "spray", *self.steered)


def _alike(dims: Sequence[int], chips: int) -> Starts:
    """From every chip it looks the same."""
    return [(0, 1.0)]


def _power(base: int, exponent: int) -> float:
    return float(base**exponent) if exponent * log2(max(base, 1)) < 100 else inf


def _grid_size(dims: Sequence[int], wraps: bool) -> tuple[float, float]:
    count = prod(float(min(side, 10**30)) for side in dims)
    return count, sum(2 * count * (1 if wraps and size > 2 else (size - 1) / size) for size in dims)


def _fly_size(k: int, n: int, expansion: int) -> tuple[float, float]:
    chips = _power(k, n)
    if chips * expansion > MOST_LINKS:
        return chips, n * chips * expansion
    extra = next((e for e in range(64) if k**e >= expansion), 0)
    stages = multistage.fly_stages(k, n, extra)
    between = [
        tops * lows * (stages[j + 1][0] // tops) for j, (tops, lows) in enumerate(stages[:-1])
    ]
    return chips + sum(tops * lows for tops, lows in stages), float(2 * chips + sum(between))


_SWITCH = Shape(
    multistage.switch,
    {"devices": WHOLE},
    lambda p: (p["devices"] + 1, 2 * p["devices"]),
    steered=("up_down",),
    starts=_alike,
    cut=cuts.core,
    drawn="tiers",
)
_TORUS = Shape(
    direct.torus,
    {"dims": SIDES},
    lambda p: _grid_size(p["dims"], True),
    routing="dimension_order",
    steered=("dimension_order",),
    starts=_alike,
    cut=cuts.grid,
    drawn="grid",
)
SHAPES: dict[str, Shape] = {
    "full_mesh": Shape(
        direct.full_mesh,
        {"devices": WHOLE},
        lambda p: (p["devices"], p["devices"] * (p["devices"] - 1)),
        starts=_alike,
        cut=cuts.all_pairs,
        drawn="circle",
    ),
    "switch": _SWITCH._replace(
        parameters={"devices": WHOLE, "core_bytes_per_s": CORE, "forwarding": FORWARDING}
    ),
    "crossbar": _SWITCH,
    "ring": _TORUS._replace(
        build=direct.ring,
        parameters={"devices": WHOLE},
        size=lambda p: _grid_size((p["devices"],), True),
        drawn="circle",
    ),
    "mesh": _TORUS._replace(
        build=direct.mesh,
        size=lambda p: _grid_size(p["dims"], False),
        starts=None,
        apart=lambda dims, chips: (  # two places drawn on each axis
            sum(dims) - len(dims),
            sum((size * size - 1) / (3 * size) for size in dims) * chips / (chips - 1),
        ),
    ),
    "torus": _TORUS,
    "hypercube": _TORUS._replace(
        build=direct.hypercube,
        parameters={"dimensions": whole(0)},
        size=lambda p: (
            _power(2, p["dimensions"]),
            p["dimensions"] * _power(2, p["dimensions"]),
        ),
        drawn="circle",
    ),
    "star": Shape(
        direct.star,
        {"devices": WHOLE},
        lambda p: (p["devices"], 2 * (p["devices"] - 1)),
        steered=("up_down",),
        starts=lambda dims, chips: [(0, 1.0), (1, chips - 1.0)],
        cut=cuts.half_of_the_chips,
        drawn="hub",
    ),
    "fat_tree": Shape(
        multistage.fat_tree,
        {"k": whole(2), "levels": WHOLE, "oversubscription": RATIO},
        lambda p: (
            _power(p["k"], p["levels"]) * (1 + p["levels"] / p["k"]),
            2 * p["levels"] * _power(p["k"], p["levels"]),
        ),
        routing="up_down",
        steered=("up_down",),
        starts=_alike,
        cut=cuts.fat_tree,
        drawn="tiers",
    ),
    "butterfly": Shape(
        multistage.butterfly,
        {"k": whole(2), "n": WHOLE, "expansion": WHOLE, "terminals": TERMINALS},
        lambda p: _fly_size(p["k"], p["n"], p["expansion"]),
        routing="bit_steered",
        steered=("bit_steered",),
        starts=_alike,
        drawn="stages",
    ),
    "benes": Shape(
        multistage.benes,
        {"k": whole(2), "n": WHOLE},
        lambda p: (
            _power(p["k"], p["n"]) * (1 + (2 * p["n"] - 1) / p["k"]),
            2 * p["n"] * _power(p["k"], p["n"]),
        ),
        routing="bit_steered",
        steered=("bit_steered",),
        starts=_alike,
        cut=cuts.half_of_the_chips,
        drawn="stages",
    ),
    "dragonfly": Shape(
        multistage.dragonfly,
        {"groups": WHOLE, "routers": WHOLE, "chips": WHOLE, "global_links": WHOLE},
        lambda p: (
            p["groups"] * p["routers"] * (p["chips"] + 1),
            p["groups"] * p["routers"] * (2 * p["chips"] + p["routers"] - 1 + p["global_links"]),
        ),
        starts=lambda dims, chips: [  # groups are alike, routers of a group are not
            (router * dims[2], 1.0) for router in range(dims[1])
        ],
        drawn="rings",
    ),
    "multi_node": Shape(
        multistage.multi_node,
        {
            "nodes": WHOLE,
            "chips": WHOLE,
            "nic": LINK,
            "spine": LINK_PART,
            "rails": WHOLE,
            "spines": WHOLE,
            "oversubscription": RATIO,
        },
        lambda p: (
            p["nodes"] * (p["chips"] + 1) + (p["rails"] or p["chips"]) + p["spines"],
            4 * p["nodes"] * p["chips"] + 2 * (p["rails"] or p["chips"]) * p["spines"],
        ),
        routing="up_down",
        steered=("up_down",),
        starts=lambda dims, chips: [(chip, 1.0) for chip in range(dims[1])],
        cut=cuts.rails,
        drawn="tiers",
    ),
    "edges": Shape(
        from_edges,
        {
            "edges": Parameter("wires"),
            "nodes": Parameter("switches", key="switches"),
            "chips_forward": Parameter("flag"),
        },
        lambda p: (0, 2 * len(p["edges"])),
        called="an edge list",
    ),
}


IRREGULAR = SHAPES["edges"]


def called(shape: str) -> str:
    """A shape in a sentence."""
    return SHAPES[shape].called or f"a {shape}"


def shape_of(graph: Graph) -> Shape:
    """The row of the shape that a graph was built in; what no row has built is irregular."""
    return SHAPES.get(graph.graph.get("shape"), IRREGULAR)


def build(
    shape: str,
    devices: int | None = None,
    bytes_per_s: float | None = None,
    latency_s: float | None = None,
    *,
    routing: str | None = None,
    **parameters: Any,
) -> Graph:
    """The graph of a shape with its parameters; ValueError on an unknown shape, an impossible link,
    one too large.

    `routing` puts another rule in the place of the shape's own.
    """
    if shape not in SHAPES:
        raise ValueError(
            f"no topology shape {shape!r}; {_nearest(shape, SHAPES)}choose one of "
            f"{', '.join(SHAPES)}"
        )
    row = SHAPES[shape]
    named = {"devices": devices, "bytes_per_s": bytes_per_s, "latency_s": latency_s}
    parameters |= {key: value for key, value in named.items() if value is not None}
    owner, rule = called(shape), routing or row.routing
    nodes, links = row.size(_own(row, parameters, owner))
    if max(nodes, links) > MOST_LINKS:
        nodes, links = (float(each) if each < 1e300 else inf for each in (nodes, links))
        raise ValueError(
            f"this {shape} would have {nodes:,.0f} nodes and {links:,.0f} links, about "
            f"{links * LINK_BYTES / 1e9:,.0f} GB of memory; the most is {MOST_LINKS:,} links"
        )
    if rule not in row.rules:
        raise ValueError(f"no routing {rule!r} on {owner}; choose one of {', '.join(row.rules)}")
    graph = row.build(**parameters)
    graph.graph.update(shape=shape, routing=rule)
    return graph


def defaults(row: Shape) -> dict[str, Any]:
    """The shape's own parameters with what they are if not given, which may be `REQUIRED`."""
    own = signature(row.build).parameters
    return {name: own[name].default for name in row.parameters}


def _nearest(name: str, known: Iterable[str]) -> str:
    return "".join(f"nearest {near!r}; " for near in get_close_matches(name, known, 1))


def _own(row: Shape, parameters: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The shape's own parameters, complete; ValueError if some of all that are given cannot be."""
    known = (*row.parameters, "bytes_per_s", "latency_s", "duplex")
    for name in parameters:
        if name not in known:
            raise ValueError(
                f"{owner} has no parameter {name!r}; {_nearest(name, known)}known are "
                f"{', '.join(known)}"
            )
    own = defaults(row) | {key: parameters[key] for key in row.parameters if key in parameters}
    missing = [name for name, value in own.items() if value is REQUIRED]
    if missing:
        raise ValueError(f"{owner} needs {', '.join(missing)}")
    for name, value in own.items():
        if value is not None:
            row.parameters[name].check(value, name, owner)
    link = {name: value for name, value in parameters.items() if name not in own}
    check_link(link, f"the link of {owner}")
    return own
