"""A KV-cache in few bits: fp8, or whole numbers of 4 or 2 bits with a scale and a zero point for
each group.

As KIVI does (arXiv 2402.02750), a group of keys is `group` tokens of one channel, and a group of
values is `group` channels of one token, or all that a head has, if those are fewer. The scales are
bytes of the cache as any other. Unpacking is two FLOP of the vector engine for each element and
step, of which a share `overlap` hides under the reads; fp8 has a scale a tensor, which costs
nothing. Not modelled: the newest tokens, which KIVI keeps in 16 bits until their group is full; a
last group that is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.graph.graph import Graph
from sim.graph.work import AttentionWork, Prepared
from sim.scenario.fields import CardName, Count, Probability
from sim.techniques.accuracy import require_measured
from sim.techniques.kv_cache import changed
from sim.techniques.machine import Machine

_NAME = "kv_quantised"
_BITS = {"fp8": 8, "int4": 4, "int2": 2}
_GROUP, _SCALE_BITS, _UNPACK_FLOP = 32, 32, 2  # a scale and a zero point of 16 bits each
_OVERLAP = 0.5  # where nobody says: midway between what bounds it


class Options(BaseModel):
    """Options of `kv_quantised`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    format: Literal["fp8", "int4", "int2"]
    group: Count | None = Field(
        None, description="elements that share a scale, of int4 and int2; default: 32"
    )
    overlap: Probability | None = Field(
        None,
        description="share of unpacking that hides under the reads, of int4 and int2; default: "
        "0.5, which nobody has measured",
    )

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
    def _of_whole_numbers(self) -> Self:
        given = [key for key in ("group", "overlap") if getattr(self, key) is not None]
        if self.format == "fp8" and given:
            raise ValueError(f"{' and '.join(given)}: fp8 has a scale a tensor; take this out")
        return self


def kv_quantised(graph: Graph, machine: Machine, options: Options) -> Graph:
    """Store each element of the cache in fewer bits, and unpack it where it is read."""
    overlap = _OVERLAP if options.overlap is None else options.overlap

    def change(work: AttentionWork) -> AttentionWork:
        if work.cache_bytes != work.wide_bytes:
            raise ValueError(
                f"{_NAME}: the cache is not in the format that attention computes with any more; "
                "give one of precision.kv and this, and this once"
            )
        keys = work.cached * work.key_share
        values = work.cached - keys
        key_bytes, value_bytes = _bytes_of(options, round(values / work.kv_heads))
        whole = keys * key_bytes + values * value_bytes
        unpacked = Prepared(0.0, _UNPACK_FLOP * work.cached, overlap)
        return replace(
            work,
            cache_bytes=whole / work.cached,
            key_share=keys * key_bytes / whole,
            prepared=work.prepared if options.format == "fp8" else (*work.prepared, unpacked),
        )

    return changed(graph, _NAME, change)


def _bytes_of(options: Options, channels: int) -> tuple[float, float]:
    """Bytes of an element of a key and of a value, of which a head has so many `channels`."""
    bits = _BITS[options.format]
    if options.format == "fp8":
        return bits / 8, bits / 8
    group = _GROUP if options.group is None else options.group
    scales = -(-channels // group)
    return (bits + _SCALE_BITS / group) / 8, (bits + _SCALE_BITS * scales / channels) / 8


def notes(machine: Machine, options: Options) -> Iterator[str]:
    """What a user should know of what the options leave open."""
    if options.format != "fp8" and options.overlap is None:
        yield (
            f"{_NAME}: {_OVERLAP:.0%} of unpacking is taken to hide under the reads; no "
            "measurement says how much does, and overlap: 0 and overlap: 1 bound it"
        )
