"""What there is, as plain data and as tables for the terminal: the catalogue, and what ships."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sim.cli.columns import COLUMNS, Row, text_column

if TYPE_CHECKING:
    from rich.table import Table


def rows(kind: str) -> list[Row]:
    """Everything of a kind (devices, models, libraries, topologies, collectives ...), in SI
    units."""
    return [finite(row) for row in _with_origin(kind)]


def table(kind: str) -> Table:
    """The same as a table: the main numbers, in the units that people use, and their source."""
    from rich.markup import escape

    found = _with_origin(kind)
    columns = COLUMNS[kind] + ([text_column("from")] if any(row["from"] for row in found) else [])
    made = grid(kind)
    for heading, _, numeric in columns:
        made.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in found:
        made.add_row(*(escape(str(cell(row))) for _, cell, _ in columns))
    return made


def grid(title: str, *, show_header: bool = True) -> Table:
    """A table without a frame, as all are here."""
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        show_header=show_header,
        show_edge=False,
        pad_edge=False,
    )


def _with_origin(kind: str) -> list[Row]:
    """The rows of installed packages too, each with the package that it is from."""
    from sim.catalog.installed import add_installed, origin

    add_installed()
    return [{"from": origin(_TABLES.get(kind, ""), row["name"]), **row} for row in _ROWS[kind]()]


def pairs(title: str, found: Mapping[str, str]) -> Table:
    """Names and values, a line each."""
    from rich.markup import escape

    made = grid(escape(title), show_header=False)
    for name, value in found.items():
        made.add_row(escape(name), escape(value))
    return made


def finite(value: Any) -> Any:
    """`value` as JSON knows it: tuples as lists, and null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _devices() -> list[Row]:
    from sim import catalog

    return [
        _with_facts(name, device)
        | {"kernels": {kind: own._asdict() for kind, own in device.kernels.items()}}
        | {"prefetch_engines": {n: own._asdict() for n, own in device.prefetch_engines.items()}}
        for name in catalog.names("devices")
        for device in [catalog.device(name)]
    ]


def _channels() -> list[Row]:
    from sim import catalog
    from sim.catalog.channels import channel

    return [_with_facts(name, channel(name)) for name in catalog.names("channels")]


def _libraries() -> list[Row]:
    from sim import catalog

    return [
        _with_facts(name, library)
        | {"within_node": library.within_node and library.within_node.name}
        for name in catalog.names("libraries")
        for library in [catalog.library(name)]
    ]


def _models() -> list[Row]:
    from sim import catalog

    return [
        _fields(name, model)
        | {
            "latent": model.latent and model.latent._asdict(),
            "experts": model.experts and model.experts._asdict(),
        }
        | {"parameters": model.parameters, "active_parameters": model.active_parameters}
        for name in catalog.names("models")
        for model in [catalog.model(name)]
    ]


def _networks() -> list[Row]:
    from sim.dnn.known import KNOWN

    return [
        {
            "name": row.name,
            "input": row.input.text.format(row.input.default),
            "products": len(dnn.layers),
            "macs": dnn.macs,
            "layers": [[layer.name, layer.m, layer.n, layer.k] for layer in dnn.layers],
        }
        for row in KNOWN.values()
        for dnn in [row.of(row.input.default)]
    ]


def _topologies() -> list[Row]:
    from sim import catalog
    from sim.catalog import shipped
    from sim.results.topology_page import figures

    return [
        _with_facts(name, pod) | {"figures": figures(pod.graph(), MOST_LISTED_LINKS)}
        for name in shipped.names("topologies")
        for pod in [catalog.pod(name)]
    ]


MOST_LISTED_LINKS = 2_000  # beyond, `podscope topology` measures a pod: a list is to be quick


def _techniques() -> list[Row]:
    from sim.techniques import TECHNIQUES

    return [
        {
            "name": name,
            "summary": technique.summary,
            "options": {
                key: {
                    **(
                        {}
                        if option.is_required()
                        else {"default": option.get_default(call_default_factory=True)}
                    ),
                    "description": option.description or "",
                }
                for key, option in technique.options.model_fields.items()
            },
        }
        for name, technique in TECHNIQUES.items()
    ]


def _kv_cards() -> list[Row]:
    from sim import catalog
    from sim.catalog.kv_cards import card

    return [
        {**card(name).model_dump(mode="json"), "title": card(name).name, "name": name}
        for name in catalog.names("kv")
    ]


def _dnn_cards() -> list[Row]:
    from sim import catalog
    from sim.catalog.dnn_cards import card

    return [
        {**card(name).model_dump(mode="json"), "title": card(name).name, "name": name}
        for name in catalog.names("dnn")
    ]


def _shapes() -> list[Row]:
    from sim.network.topology import SHAPES

    return [
        {
            "name": name,
            "summary": shape.doc,
            "parameters": [parameter.key or key for key, parameter in shape.parameters.items()],
            "routing": [shape.routing, *(rule for rule in shape.rules if rule != shape.routing)],
        }
        for name, shape in SHAPES.items()
    ]


def _collectives() -> list[Row]:
    from sim.catalog.installed import origin
    from sim.network.collectives import COLLECTIVES

    return [
        {
            "name": kind,
            "algorithm": name,
            "summary": algorithm.doc,
            "needs": algorithm.needs.words,
            "from": origin("collective", kind) or origin("algorithm", f"{kind}.{name}"),
        }
        for kind, collective in COLLECTIVES.items()
        for name, algorithm in collective.algorithms.items()
    ]


def _scenarios() -> list[Row]:
    from sim.catalog import shipped
    from sim.run import load

    return [
        {"name": s.name, "question": s.question, "variants": list(s.variants), "path": str(s.path)}
        for s in map(load, shipped.names("scenarios"))
    ]


def _kinds() -> list[Row]:
    from sim.kinds import KINDS

    return [
        {"name": name, "summary": kind.summary, "reads": ", ".join(kind.reads)}
        for name, kind in KINDS.items()
    ]


def _metrics() -> list[Row]:
    from sim.kinds import KINDS
    from sim.results.metrics import part_rows_of, rows_of

    found: dict[tuple[str, str], Row] = {}
    for kind in KINDS.values():
        for part, table in (("", rows_of(kind)), (kind.part, part_rows_of(kind))):
            for name, row in table.items():
                new = {"name": name, "unit": row.unit, "better": row.better, "definition": row.of}
                of = found.setdefault((name, row.of), new | {"of": []})["of"]
                of.append(f"{part} of {kind.name}" if part else kind.name)
    return list(found.values())


def _formats() -> list[Row]:
    from sim.traces.formats import FORMATS

    return [{"name": name, "first_line": form.first_line()} for name, form in FORMATS.items()]


def _interconnects() -> list[Row]:
    from sim.systolic.interconnect import INTERCONNECTS

    return [
        {"name": row.name, "free": row.free, "tries": row.tries, "extension": row.ours}
        for row in INTERCONNECTS.values()
    ]


def _dataflows() -> list[Row]:
    from sim.systolic.dataflow import DATAFLOWS

    return [
        {"name": row.name, "stays": row.stays, "rows": "mnk"[row.loaded]}
        | {"streams": "mnk"[row.streamed], "extension": row.ours}
        for row in DATAFLOWS.values()
    ]


def _fields(name: str, thing: Any) -> Row:
    """Its fields, under the name that a scenario knows it by; its own name is its title."""
    fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return {
        "name": name,
        "title": thing.name,
        **{key: value for key, value in fields.items() if key != "name"},
    }


def _with_facts(name: str, thing: Any) -> Row:
    return {
        **_fields(name, thing),
        "facts": {key: fact._asdict() for key, fact in thing.facts.items()},
    }


# Under which name packages add to it.
_TABLES = {
    "devices": "device",
    "channels": "channel",
    "models": "model",
    "libraries": "library",
    "topologies": "topology",
    "kv_cards": "kv_card",
    "dnn_cards": "dnn_card",
    "shapes": "shape",
    "techniques": "technique",
    "scenarios": "scenario",
    "kinds": "kind",
    "metrics": "metric",
    "formats": "format",
    "networks": "dnn",
    "interconnects": "interconnect",
    "dataflows": "dataflow",
}
_ROWS: dict[str, Callable[[], list[Row]]] = {
    "devices": _devices,
    "channels": _channels,
    "models": _models,
    "networks": _networks,
    "libraries": _libraries,
    "topologies": _topologies,
    "kv_cards": _kv_cards,
    "dnn_cards": _dnn_cards,
    "shapes": _shapes,
    "collectives": _collectives,
    "techniques": _techniques,
    "scenarios": _scenarios,
    "kinds": _kinds,
    "metrics": _metrics,
    "formats": _formats,
    "interconnects": _interconnects,
    "dataflows": _dataflows,
}
