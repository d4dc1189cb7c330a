"""Techniques: pure functions, graph in, new graph out.  Adding one is a file here and a line in
`TECHNIQUES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from sim.graph.graph import Graph
from sim.techniques import fused_collective, latent, preserve
from sim.techniques.machine import Machine

__all__ = ["TECHNIQUES", "Machine", "Technique", "apply"]


class Technique(NamedTuple):
    """A named graph pass, the schema of its options, and one line on what it does."""

    rewrite: Callable[[Graph, Machine, Any], Graph]
    options: type[BaseModel]
    summary: str


TECHNIQUES: dict[str, Technique] = {
    "preserve": Technique(
        preserve.preserve,
        preserve.Options,
        "prefetch the next weights and KV-cache from HBM into L2 during collectives",
    ),
    "fused_collective": Technique(
        fused_collective.fused_collective,
        fused_collective.Options,
        "overlap each GEMM with the all-reduce of its own tiles",
    ),
    "typhoon_mla": Technique(
        latent.typhoon_mla,
        latent.TyphoonOptions,
        "latent attention: naive on the prefix that many sequences share, absorb on the rest",
    ),
    "latent_attention": Technique(
        latent.latent_attention,
        latent.LatentOptions,
        "latent attention in another form: naive only, or absorb with one read of a shared prefix",
    ),
}


def apply(graph: Graph, machine: Machine, chosen: Sequence[tuple[str, BaseModel]]) -> Graph:
    """Rewrite `graph` by each (name, options) in turn."""
    for name, options in chosen:
        graph = TECHNIQUES[name].rewrite(graph, machine, options)
    return graph
