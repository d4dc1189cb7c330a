"""Devices and collective libraries: YAML files of numbers with sources, and what-if edits."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.catalog.files import beside, checked, find
from sim.catalog.ranges import over, with_range
from sim.facts.assumption import Range
from sim.hardware.cost import told_as, with_kernel
from sim.hardware.device import CHANGEABLE, OWN_KERNELS, CopyEngine, Device, Fact, Kernel
from sim.network.collectives import ALGORITHM_NAMES, COLLECTIVES
from sim.network.library import Library, Way
from sim.text import strict_yaml
from sim.text.choice import Choice
from sim.text.strict_yaml import Document, KeyPath, ScenarioError, nearest
from sim.text.units import Bytes, BytesPerSecond, FlopPerSecond, Seconds, Watts, show_field

Tag = Literal["READ", "CHECKED", "INFER", "RECALLED", "FITTED", "OWN"]
OWN = "mine"  # the source of a number whose writer gives none
Dtype = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
Quantity = TypeVar("Quantity")

# A kind of op, what it is with weights that are unpacked first (experts@int4), or one of several
# kernels for it: absorb/catlass.
KernelName = Annotated[
    str, Field(pattern=rf"^({'|'.join(OWN_KERNELS)})(@(fp8|int8|fp4|int4))?(/[a-z0-9_]+)?$")
]

_POSITIVE = Field(gt=0)
STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)
AlgorithmName = Annotated[str, Choice(ALGORITHM_NAMES)]


class Sourced(BaseModel):
    """Where something comes from: four keys, of which only the last may be left out."""

    model_config = STRICT
    source: Text
    tag: Tag
    residual: str = ""

    @model_validator(mode="after")
    def _fit_says_how_well(self) -> Self:
        if self.tag == "FITTED" and not self.residual:
            raise ValueError(
                "a FITTED number needs `residual`: how well the model meets its source"
            )
        return self


class Known(BaseModel, Generic[Quantity]):
    """Between which ends a number is known to lie."""

    model_config = STRICT
    low: Quantity
    high: Quantity
    source: Text = OWN


def owned(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of a number: its writer's own, where neither source nor tag is given."""
    unsaid = "source" not in given and "tag" not in given
    return {**given, "source": OWN, "tag": "OWN"} if unsaid else dict(given)


class Number(Sourced, Generic[Quantity]):
    """A number with its parent, and what is known of it; a bare one is its writer's own."""

    value: Quantity
    range: Known[Quantity] | None = None

    @model_validator(mode="before")
    @classmethod
    def _own(cls, given: Any) -> Any:
        given = owned(given if isinstance(given, Mapping) else {"value": given})
        if isinstance(ends := given.get("range"), list) and len(ends) == 2:
            given["range"] = {"low": ends[0], "high": ends[1], "source": given.get("source", OWN)}
        return given

    @model_validator(mode="after")
    def _within(self) -> Self:
        known: Any = self.range
        if known and not known.low <= self.value <= known.high:
            raise ValueError(
                f"its range, {known.low:g} to {known.high:g}, does not hold {self.value:g}"
            )
        return self


Flop = Number[Annotated[FlopPerSecond, _POSITIVE]]
Size = Number[Annotated[Bytes, _POSITIVE]]
Rate = Number[Annotated[BytesPerSecond, _POSITIVE]]
Time = Number[Annotated[Seconds, Field(ge=0)]]


class KernelFile(BaseModel):
    """An entry of `kernels:`; the fields are those of `sim.hardware.device.Kernel`."""

    model_config = STRICT
    overhead_s: Time | None = None
    matrix_efficiency: Number[Share] | None = None
    hbm_efficiency: Number[Share] | None = None
    overlap: Number[Annotated[float, Field(ge=0, le=1, strict=True)]] | None = None
    matrix_efficiency_8bit: Number[Share] | None = None
    tile: Number[Annotated[float, Field(ge=1, strict=True)]] | None = None


class EngineFile(BaseModel):
    """An entry of `prefetch_engines:`; the fields are those of `sim.hardware.device.CopyEngine`."""

    model_config = STRICT
    bytes_per_s: Rate
    shared_bytes_per_s: Rate | None = None
    overhead_s: Time
    tail_s: Time | None = None
    tail_share: Number[Share] | None = None
    hbm_share: Number[Share] | None = None


class DeviceFile(BaseModel):
    """A file in `sim/catalog/devices`; the fields are those of `sim.hardware.device.Device`."""

    model_config = STRICT
    name: Text
    measured_on: tuple[Text, ...] | None = None  # other devices, by name, that its shares are of
    matrix_flop_per_s: Annotated[dict[Dtype, Flop], Field(min_length=1)]
    vector_flop_per_s: Flop
    hbm_bytes: Size
    hbm_bytes_per_s: Rate
    l2_bytes: Size
    l2_bytes_per_s: Rate
    kernel_overhead_s: Time
    vector_overhead_s: Time
    matrix_efficiency: Number[Share] | None = None
    hbm_efficiency: Number[Share] | None = None
    kernels: dict[KernelName, KernelFile] = {}
    prefetch_bytes_per_s: Rate | None = None
    prefetch_overhead_s: Time | None = None
    prefetch_shared_bytes_per_s: Rate | None = None
    prefetch_tail_s: Time | None = None
    prefetch_tail_share: Number[Share] | None = None
    prefetch_hbm_share: Number[Share] | None = None
    prefetch_engines: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], EngineFile] = {}
    l2_set_aside_bytes: Size | None = None
    tile_rows: Number[Annotated[float, Field(gt=0, strict=True)]] | None = None
    tile_columns: Number[Annotated[float, Field(gt=0, strict=True)]] | None = None
    cores: Number[Annotated[float, Field(gt=0, strict=True)]] | None = None
    power_w: Number[Annotated[Watts, _POSITIVE]] | None = None
    idle_power_w: Number[Annotated[Watts, _POSITIVE]] | None = None
    price_per_hour: Number[Annotated[float, Field(gt=0, strict=True)]] | None = None
    max_batch: Number[Annotated[int, Field(gt=0, strict=True)]] | None = None
    max_batched_tokens: Number[Annotated[int, Field(gt=0, strict=True)]] | None = None


class WayFile(BaseModel):
    """A line of `ways.table`: one way of a library to do some collectives."""

    model_config = STRICT
    collectives: Annotated[tuple[Annotated[str, Choice(COLLECTIVES)], ...], Field(min_length=1)]
    algorithm: AlgorithmName
    protocol: Text
    launch: Annotated[Seconds, Field(ge=0)]
    step: Annotated[Seconds, Field(ge=0)]
    efficiency: Share
    most: Annotated[Bytes, _POSITIVE] = math.inf


class WaysFile(Sourced):
    """The `ways:` of a library; one source for all of them."""

    table: Annotated[tuple[WayFile, ...], Field(min_length=1)]


class LibraryFile(BaseModel):
    """A file in `sim/catalog/libraries`; the fields are those of `sim.network.library.Library`."""

    model_config = STRICT
    name: Text
    measured_on: tuple[Text, ...] | None = None  # devices, by name
    launch_s: Time
    step_s: Time | None = None
    link_efficiency: Number[Share] | None = None
    reduce_bytes_per_s: Rate | None = None
    algorithms: tuple[AlgorithmName, ...] | None = None
    # the library that stands for this one where a group is within one node
    within_node: Text | None = None
    also: Text | None = None  # a library whose ways it has beside its own
    ways: WaysFile | None = None


def device(
    name_or_path: str | Path,
    changes: Mapping[str, Any] | None = None,
    kernels: Mapping[str, str] | None = None,
    engine: str | None = None,
) -> Device:
    """The device of that name in the catalogue, or in a file.

    `changes` maps fields to values in SI units, and `kernels` kinds of op to the name of the kernel
    that is to do them; without it the card has all there are. `engine` is the copy engine that
    prefetches, where the card tells of others.
    """
    doc = strict_yaml.read(find("devices", name_or_path))
    file = checked(DeviceFile, doc)
    given, facts = _numbers(file, doc)
    own: dict[str, Kernel] = {}
    for name, entry in file.kernels.items():
        numbers, parents = _numbers(entry, doc, ("kernels", name))
        own[name] = Kernel(**numbers)
        facts |= {f"kernels.{name}.{field}": parent for field, parent in parents.items()}
    for kind, chosen in (kernels or {}).items():
        there = [name.partition("/")[2] for name in own if name.startswith(f"{kind}/")]
        if chosen not in there:
            which = f"it has {', '.join(there)}" if there else "it has none to choose from"
            raise ValueError(
                f"{given['name']} has no kernel {chosen!r} for {kind}{nearest(chosen, there)}; "
                f"{which}"
            )
        own[kind] = own[f"{kind}/{chosen}"]
        # Its numbers come with their parents, and none of those that it replaces stays.
        replaced, stem = f"kernels.{kind}.", f"kernels.{kind}/{chosen}."
        kept = {key: parent for key, parent in facts.items() if not key.startswith(replaced)}
        facts = kept | {
            replaced + key.removeprefix(stem): parent._replace(source=f"{chosen}: {parent.source}")
            for key, parent in kept.items()
            if key.startswith(stem)
        }
    if kernels is not None:  # chosen: what was not is no part of this machine
        own = {name: kernel for name, kernel in own.items() if "/" not in name}
        facts = {
            key: parent for key, parent in facts.items() if not re.match(r"kernels\.\w+/", key)
        }
    engines: dict[str, CopyEngine] = {}
    for name, one in file.prefetch_engines.items():
        numbers, parents = _numbers(one, doc, ("prefetch_engines", name))
        engines[name] = CopyEngine(**numbers)
        facts |= {f"prefetch_engines.{name}.{each}": fact for each, fact in parents.items()}
    if engine is not None:
        given, facts = _with_engine(given, facts, engines, engine)
    if kernels is not None:
        engines = {}
        facts = {k: v for k, v in facts.items() if not k.startswith("prefetch_engines.")}
    edits = dict(over(given["name"], facts, changes))
    card = Device(**given, kernels=own, prefetch_engines=engines, facts=facts)
    return changed(_kernels_changed(card, edits.pop("kernels", None) or {}), edits)


def _with_engine(
    given: dict[str, Any], facts: dict[str, Fact], engines: Mapping[str, CopyEngine], name: str
) -> tuple[dict[str, Any], dict[str, Fact]]:
    """The numbers of a card and their parents with those of a copy engine in place of its own."""
    if name not in engines:
        there = f"it has {', '.join(engines)}" if engines else "it has none beside its own"
        raise ValueError(
            f"{given['name']} has no copy engine {name!r}{nearest(name, engines)}; {there}"
        )
    stem = f"prefetch_engines.{name}."
    fields = {f"prefetch_{field}": value for field, value in engines[name]._asdict().items()}
    kept = {key: parent for key, parent in facts.items() if key not in fields}
    brought = {
        f"prefetch_{key.removeprefix(stem)}": parent._replace(source=f"{name}: {parent.source}")
        for key, parent in facts.items()
        if key.startswith(stem)
    }
    return {**given, **fields}, kept | brought


def library(
    name_or_path: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    inner: bool = False,
    beside_of: tuple[Path, ...] = (),
) -> Library:
    """The library of that name in the catalogue, or in a file; `changes` as for `device`.

    An `inner` one stands for another within a node, and so has none to stand for itself there;
    `beside_of` are those that name each other as `also`.
    """
    doc = strict_yaml.read(find("libraries", name_or_path))
    file = checked(LibraryFile, doc)
    for key in ("within_node", "also"):
        if named := getattr(file, key):
            try:
                find("libraries", named)
            except ValueError as error:
                raise ScenarioError([doc.fault((key,), str(error))]) from None
    chain = (*beside_of, doc.path.absolute())
    if len({*chain}) < len(chain):
        raise ScenarioError([doc.fault(("also",), "the libraries name each other in a circle")])
    given, facts = _numbers(file, doc)
    if file.within_node:
        if inner:
            raise ValueError(
                f"{name_or_path}: it is the within_node of another library, and has one itself"
            )
        within = given["within_node"] = library(
            beside(file.within_node, doc.path), changes, inner=True
        )
        facts |= {f"within a node: {what}": parent for what, parent in within.facts.items()}
    other = (
        library(beside(given.pop("also"), doc.path), changes, beside_of=chain)
        if file.also
        else None
    )
    if other:
        facts |= {f"{other.name}: {what}": parent for what, parent in other.facts.items()}
    if file.ways is None:
        own = over(given["name"], facts, changes)
        return changed(Library(**given, facts=facts), own).timed()
    # The ways, and what stands for them where there are none, are known together, not one by one.
    facts = {key: each._replace(range=None) for key, each in facts.items()}
    parent = Fact(f"{len(file.ways.table)} ways", file.ways.tag, file.ways.source)
    parent = parent._replace(residual=file.ways.residual)
    facts |= {"ways": parent, "times": with_range("times", parent._replace(value="1"), 1.0)}
    card = changed(Library(**given, facts=facts), over(given["name"], facts, changes))
    asked = {
        field: value
        for field, value in (changes or {}).items()
        if field in Way._fields and value is not None
    }
    ways = tuple(
        Way(
            collectives=way.collectives,
            algorithm=way.algorithm,
            protocol=way.protocol,
            launch_s=way.launch,
            step_s=way.step,
            link_efficiency=way.efficiency,
            most_bytes=way.most,
        )._replace(**asked)
        for way in file.ways.table
    )
    card = dataclasses.replace(card, ways=ways).timed()
    return dataclasses.replace(card, ways=card.ways + (other.ways if other else ()))


def _numbers(
    file: BaseModel, doc: Document, at: KeyPath = ()
) -> tuple[dict[str, Any], dict[str, Fact]]:
    """Field values in SI units, and the parent of each, of a file or of its section at `at`."""
    given: dict[str, Any] = {}
    facts: dict[str, Fact] = {}
    for key, entry in file:
        if key in ("kernels", "prefetch_engines"):
            continue
        if isinstance(entry, dict):
            given[key] = {dtype: number.value for dtype, number in entry.items()}
            facts |= {
                f"{key}.{dtype}": told(n, doc, (*at, key, dtype)) for dtype, n in entry.items()
            }
        elif isinstance(entry, Number):
            given[key] = entry.value
            facts[key] = told(entry, doc, (*at, key))
        elif entry is not None and not isinstance(entry, Sourced):
            given[key] = entry
    return given, facts


def told(entry: Number[Any], doc: Document, at: KeyPath) -> Fact:
    """The parent of the number at a place of its file, with what is known of it."""
    written = doc.raw((*at, "value")) or doc.raw(at)
    known = entry.range
    parent = fact(entry, written)._replace(
        range=Range(entry.value, known.low, known.high, known.source) if known else None
    )
    key = ".".join(map(str, at))
    if at[0] == "prefetch_engines":  # one of them becomes the card's
        key = f"prefetch_{at[-1]}"
    return with_range(key, parent, entry.value)


def fact(entry: Sourced, written: str | None) -> Fact:
    """The parent of a number, with the number as its file wrote it."""
    return Fact(written or "", entry.tag, entry.source, entry.residual)


_ZERO_ALLOWED = {
    "latency_s",
    "jitter_s",
    "loss",
    "overhead_s",
    "overlap",
    "kernel_overhead_s",
    "vector_overhead_s",
    "prefetch_overhead_s",
    "prefetch_tail_s",
    "prefetch_tail_share",
    "l2_set_aside_bytes",
    "l2_bytes",
    "launch_s",
    "step_s",
    "link_latency_s",
}
_SHARES = {
    "matrix_efficiency",
    "matrix_efficiency_8bit",
    "hbm_efficiency",
    "overlap",
    "link_efficiency",
    "prefetch_tail_share",
    "prefetch_hbm_share",
}

Card = TypeVar("Card", bound=Any)


def changed(card: Card, changes: Mapping[str, Any] | None) -> Card:
    """A copy of a frozen card with a scenario's numbers, as its facts then say; None: no change."""
    edits = {field: value for field, value in (changes or {}).items() if value is not None}
    numeric = [
        f.name
        for f in dataclasses.fields(card)
        if f.type in ("float", "float | None", "Mapping[str, float]")
    ]
    wrong = [
        f"{card.name} has no number {field!r}{nearest(field, numeric)}"
        for field in edits
        if field not in numeric
    ]
    facts = dict(card.facts)
    for field in edits.keys() & set(numeric):
        one_each = edits[field] if isinstance(edits[field], Mapping) else {"": edits[field]}
        for part, value in one_each.items():
            key = f"{field}.{part}" if part else field
            wrong += _impossible(key, field, value)
            facts[key] = Fact(show_field(field, value), "CHANGED", "set by the scenario")
        if isinstance(getattr(card, field), Mapping):
            if "" in one_each:
                wrong.append(
                    f"{field} is one number for each format, like {dict(getattr(card, field))}"
                )
            edits[field] = {**getattr(card, field), **one_each}
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; what can be changed: {', '.join(numeric)}")
    return dataclasses.replace(card, **edits, facts=facts) if edits else card


def _kernels_changed(card: Device, edits: Mapping[str, Mapping[str, float | None]]) -> Device:
    """A copy with some numbers of its kernels set, by kind and field.

    What a kind had from the kind it is like, it keeps.
    """
    wrong = []
    for kind, numbers in edits.items():
        if kind not in CHANGEABLE:
            wrong.append(f"{card.name}: {kind!r} is no kind of kernel{nearest(kind, CHANGEABLE)}")
            continue
        given = {field: value for field, value in numbers.items() if value is not None}
        like = f"kernels.{told_as(card, kind)}."
        facts = dict(card.facts) | {
            key.replace(like, f"kernels.{kind}."): parent
            for key, parent in card.facts.items()
            if key.startswith(like)
        }
        for field, value in given.items():
            key = f"kernels.{kind}.{field}"
            wrong += (
                _impossible(key, field, value)
                if field in Kernel._fields
                else [f"a kernel has no {field!r}"]
            )
            facts[key] = Fact(show_field(field, value), "CHANGED", "set by the scenario")
        if not wrong:
            card = with_kernel(dataclasses.replace(card, facts=facts), kind, **given)
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}; of {', '.join(CHANGEABLE)}: {', '.join(Kernel._fields)}"
        )
    return card


def _impossible(key: str, field: str, value: object) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return [f"{key}: a number is due, not {value!r}"]
    if value < 0 or (value == 0 and field not in _ZERO_ALLOWED) or (field == "tile" and value < 1):
        return [f"{key}: {value:g} is too small"]
    return [f"{key}: {value:g} is more than the whole"] if field in _SHARES and value > 1 else []
