"""Techniques: pure functions, graph in, new graph out.  Adding one is a file here and a line in
`TECHNIQUES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from sim.facts.outcome import Pays
from sim.graph.graph import Graph
from sim.techniques import (
    fused_collective,
    kv_eviction,
    kv_low_rank,
    kv_quantised,
    latent,
    preserve,
)
from sim.techniques.machine import Machine

__all__ = ["TECHNIQUES", "Machine", "Technique", "apply"]


class Technique(NamedTuple):
    """A named graph pass, the schema of its options, and one line on what it does.

    `notes` is what a user should know of a run with it: what its options leave open, and what it is
    used beyond. `pays` says under which conditions it does: it is given what a decode step takes
    with other options, or without it (None), and a description of that step.
    """

    rewrite: Callable[[Graph, Machine, Any], Graph]
    options: type[BaseModel]
    summary: str
    notes: Callable[[Machine, Any], Iterable[str]] = lambda machine, options: ()
    pays: Callable[[Machine, Any, Callable[[Any], float], str], Iterable[Pays]] = (
        lambda machine, options, step_s, step: ()
    )


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
    "kv_low_rank": Technique(
        kv_low_rank.kv_low_rank,
        kv_low_rank.Options,
        "KV-cache in a low rank: fewer bytes and more tokens, for rebuilding keys in each step",
        kv_low_rank.notes,
        kv_low_rank.pays,
    ),
    "kv_quantised": Technique(
        kv_quantised.kv_quantised,
        kv_quantised.Options,
        "KV-cache in fp8, or in 4 or 2 bits with a scale a group",
        kv_quantised.notes,
    ),
    "kv_eviction": Technique(
        kv_eviction.kv_eviction,
        kv_eviction.Options,
        "KV-cache of so many tokens a sequence: sinks and the newest, or heavy hitters",
    ),
}


def apply(graph: Graph, machine: Machine, chosen: Sequence[tuple[str, BaseModel]]) -> Graph:
    """Rewrite `graph` by each (name, options) in turn."""
    for name, options in chosen:
        graph = TECHNIQUES[name].rewrite(graph, machine, options)
    return graph
