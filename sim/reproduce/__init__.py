"""Published experiments, rerun: one module a system, one function that returns rows."""

from __future__ import annotations

from collections.abc import Callable

from sim.reproduce import (
    explore,
    hierarchical,
    nas,
    network,
    preserve,
    preserve_dse,
    ranges,
    serving,
    sosa,
    stief,
    typhoon,
)
from sim.reproduce.row import Row

__all__ = ["SYSTEMS", "Row"]

SYSTEMS: dict[str, Callable[..., list[Row]]] = {
    "preserve": preserve.reproduce,
    "preserve-dse": preserve_dse.reproduce,
    "network": network.reproduce,
    "serving": serving.reproduce,
    "explore": explore.reproduce,
    "typhoon": typhoon.reproduce,
    "stief": stief.reproduce,
    "sosa": sosa.reproduce,
    "nas": nas.reproduce,
    "hierarchical": hierarchical.reproduce,
    "ranges": ranges.reproduce,
}
