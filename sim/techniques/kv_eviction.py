"""A KV-cache that drops entries: of each sequence it keeps the first few and the newest (attention
sinks, StreamingLLM, arXiv 2309.17453), or those that have got the most attention (heavy hitters,
H2O, arXiv 2306.14048).

A pass attends to what the cache keeps and to what it adds itself; then the cache is cut down again.
So a prompt that is computed in one go is seen whole, and one in chunks is not. Heavy hitters need
the attention that each entry has got so far: four bytes an entry and KV head, read and written in
each step, and one FLOP a score. Not modelled: choosing the entry that goes; that flash attention
has to be run twice to have the probabilities that H2O adds up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.graph.batch import DENSE, Pattern
from sim.graph.graph import Graph, Layer, Tensor
from sim.graph.work import AttentionWork
from sim.scenario.fields import CardName, Count
from sim.techniques.accuracy import require_measured
from sim.techniques.kv_cache import attended, changed
from sim.techniques.machine import Machine

_NAME = "kv_eviction"


class Options(BaseModel):
    """Options of `kv_eviction`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    keep: Literal["sinks", "heavy_hitters"] = Field(
        description="sinks: the first and the newest tokens; heavy_hitters: those of most attention"
    )
    sinks: Count | None = Field(None, description="first tokens, of sinks; default: 4")
    window: Count | None = Field(None, description="newest tokens, of sinks")
    budget: Count | None = Field(None, description="tokens of a sequence, of heavy_hitters")

    card: CardName | None = Field(None, description="that has this way's accuracy; with measured")
    measured: str | None = Field(
        None,
        description="entry of the card's `others`: of this, and of all before it that lose some",
    )

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        require_measured(self.card, self.measured)
        return self

    @model_validator(mode="after")
    def _of_one_way(self) -> Self:
        due = "window" if self.keep == "sinks" else "budget"
        foreign = ("budget",) if self.keep == "sinks" else ("sinks", "window")
        if getattr(self, due) is None:
            raise ValueError(f"keep: {self.keep} needs {due}")
        if given := [key for key in foreign if getattr(self, key) is not None]:
            raise ValueError(f"keep: {self.keep} has no {' or '.join(given)}; take it out")
        return self

    @property
    def tokens(self) -> int:
        """That the cache keeps of a sequence at most."""
        if self.keep == "sinks":
            assert self.window is not None
            return (4 if self.sinks is None else self.sinks) + self.window
        assert self.budget is not None
        return self.budget


def kv_eviction(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Let the cache hold so many tokens of each sequence."""
    scored = options.keep == "heavy_hitters"

    def change(work: AttentionWork) -> AttentionWork:
        if work.pattern != DENSE:
            raise ValueError(
                f"{_NAME}: a layer sees no whole context as it is ({work.pattern.name}); not "
                "modelled beside eviction"
            )
        return replace(work, pattern=Pattern("kept", options.tokens), scored=scored)

    found = changed(graph, _NAME, change)
    return _with_scores(found) if scored else found


def _with_scores(graph: Graph) -> Graph:
    """The scores of all entries are written back after each pass."""

    def write(layer: Layer) -> Layer:
        found = attended(layer, _NAME)
        if found is None:
            return layer
        op, work = found
        scores = Tensor("kv_scores", 0.0, "activation")
        new = replace(op, writes=(*op.writes, scores), work=None).attending(work)
        return Layer(layer.name, tuple(new if each is op else each for each in layer.ops))

    made = {layer: write(layer) for layer in dict.fromkeys(graph.layers)}
    return Graph(tuple(made[layer] for layer in graph.layers))
