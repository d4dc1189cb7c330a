"""The columns of the tables of `podscope list`: heading, cell, and whether it is a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sim.text.units import show

Row = dict[str, Any]


def text_column(key: str) -> tuple[str, Callable[[Row], Any], bool]:
    """A text of a row, as it is."""
    return key, lambda row: row.get(key, ""), False


def _answer(key: str, heading: str = "") -> tuple[str, Callable[[Row], Any], bool]:
    return heading or key, lambda row: "yes" if row[key] else "no", False


def _count(key: str, heading: str = "") -> tuple[str, Callable[[Row], Any], bool]:
    return heading or key, lambda row: f"{row[key]:,}", True


def _quantity(heading: str, key: str, unit: str) -> tuple[str, Callable[[Row], Any], bool]:
    return (
        heading,
        lambda row: show(row[key], unit) if math.isfinite(row[key]) else "unlimited",
        True,
    )


def _peak(dtype: str) -> tuple[str, Callable[[Row], Any], bool]:
    def cell(row: Row) -> str:
        rate = row["matrix_flop_per_s"].get(dtype)
        return show(rate, "FLOP/s") if rate else "-"

    return dtype, cell, True


def _perplexity(domain: str, heading: str) -> tuple[str, Callable[[Row], Any], bool]:
    def cell(row: Row) -> str:
        found = row["perplexity"][domain]
        return f"{found['full']:.4g} to {found['compressed']:.4g}"

    return heading, cell, True


def _sources(row: Row) -> str:
    """The first source of a thing with many, and how many more there are."""
    found = list(dict.fromkeys(fact["source"] for fact in row["facts"].values()))
    more = f" (+{len(found) - 1} more, see --json)" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else ""


_SOURCES = ("source", _sources, False)
COLUMNS: dict[str, list[tuple[str, Callable[[Row], Any], bool]]] = {
    "devices": [
        text_column("name"),
        _quantity("HBM", "hbm_bytes", "B"),
        _quantity("HBM rate", "hbm_bytes_per_s", "B/s"),
        _quantity("L2", "l2_bytes", "B"),
        _quantity("L2 rate", "l2_bytes_per_s", "B/s"),
        _peak("fp32"),
        _peak("fp16"),
        _peak("int8"),
        _SOURCES,
    ],
    "channels": [
        text_column("name"),
        _quantity("up", "up_bytes_per_s", "B/s"),
        _quantity("down", "down_bytes_per_s", "B/s"),
        _quantity("latency", "latency_s", "s"),
        _quantity("jitter", "jitter_s", "s"),
        ("loss", lambda row: f"{row['loss']:.3g}", True),
        _quantity("sending", "send_w", "W"),
        _quantity("receiving", "receive_w", "W"),
        _SOURCES,
    ],
    "models": [
        text_column("name"),
        _count("layers"),
        _count("hidden"),
        ("heads/KV", lambda row: f"{row['heads']}/{row['kv_heads']}", True),
        _count("ffn"),
        _count("vocab"),
        (
            "experts",
            lambda row: "{chosen}/{routed}".format(**row["experts"]) if row["experts"] else "-",
            True,
        ),
        ("parameters", lambda row: f"{row['parameters'] / 1e9:.3g} G", True),
        (
            "active",
            lambda row: f"{row['active_parameters'] / 1e9:.3g} G" if row["experts"] else "-",
            True,
        ),
        text_column("source"),
    ],
    "networks": [
        text_column("name"),
        text_column("input"),
        _count("products", "matrix products"),
        ("MACs", lambda row: f"{row['macs'] / 1e9:.4g} G", True),
    ],
    "libraries": [
        text_column("name"),
        _quantity("launch", "launch_s", "s"),
        _quantity("step", "step_s", "s"),
        ("link efficiency", lambda row: f"{row['link_efficiency']:.3g}", True),
        (
            "measured ways",
            lambda row: ", ".join(dict.fromkeys(way[1] for way in row["ways"])) or "-",
            False,
        ),
        _SOURCES,
    ],
    "topologies": [
        text_column("name"),
        text_column("shape"),
        ("chips", lambda row: f"{row['devices']:,}", True),
        text_column("device"),
        text_column("library"),
        _quantity("link", "link_bytes_per_s", "B/s"),
        ("degree", lambda row: row["figures"]["wires a chip"], True),
        ("diameter", lambda row: row["figures"].get("diameter", "-").split()[0], True),
        (
            "bisection",
            lambda row: row["figures"].get("bisection bandwidth", "-").removesuffix(" one way"),
            True,
        ),
        _SOURCES,
    ],
    "kv_cards": [
        text_column("name"),
        ("model", lambda row: row["model"]["name"], False),
        text_column("method"),
        ("ratio", lambda row: f"{row['ratio']:.4g}", True),
        _perplexity("in_domain", "perplexity, in domain"),
        _perplexity("out_of_domain", "out of domain"),
        ("learned on", lambda row: row["data"]["calibration"], False),
    ],
    "dnn_cards": [
        text_column("name"),
        text_column("method"),
        text_column("widths"),
        ("array", lambda row: "{rows} x {cols}".format(**row["array"]), True),
        ("accuracy", lambda row: f"{row['accuracy']:.1f} %", True),
        ("cycles", lambda row: f"{row['simulated']['cycles']:,}", True),
        ("images", lambda row: row["data"]["images"], False),
    ],
    "shapes": [
        text_column("name"),
        text_column("summary"),
        ("parameters", lambda row: ", ".join(row["parameters"]), False),
        ("routing", lambda row: ", ".join(row["routing"]), False),
    ],
    "collectives": [
        text_column("name"),
        text_column("algorithm"),
        text_column("summary"),
        text_column("needs"),
    ],
    "techniques": [
        text_column("name"),
        text_column("summary"),
        ("options", lambda row: ", ".join(row["options"]), False),
    ],
    "kinds": [text_column("name"), text_column("summary"), text_column("reads")],
    "metrics": [
        text_column("name"),
        text_column("unit"),
        ("of", lambda row: ", ".join(row["of"]), False),
        text_column("definition"),
    ],
    "formats": [text_column("name"), ("first line", lambda row: row["first_line"], False)],
    "interconnects": [
        text_column("name"),
        _answer("free", "without conflicts"),
        _count("tries", "ways tried"),
        _answer("extension"),
    ],
    "dataflows": [
        text_column("name"),
        text_column("stays"),
        text_column("rows"),
        text_column("streams"),
        _answer("extension"),
    ],
    "scenarios": [
        text_column("name"),
        text_column("question"),
        ("variants", lambda row: ", ".join(row["variants"]), False),
    ],
}
