"""What a scenario says of a sweep: which keys vary and how, what is asked of each point, and what
is to be low or high."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from sim.scenario import messages
from sim.scenario.fields import Count, Index, Seconds, Section, plain_name
from sim.scenario.layers import Node, plain
from sim.text.strict_yaml import Fault
from sim.text.units import quantity

Number = Annotated[Any, Field(json_schema_extra={"type": ["number", "string"]})]


class Range(Section):
    """Numbers, or quantities of one unit, from `low` to `high`; whole where both ends are.

    With `count` so many of them, evenly spaced on the scale; without, any of them, for `random` and
    `search`.
    """

    low: Number
    high: Number
    count: Annotated[Count, Field(ge=2, le=100_000)] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        (low, unit), (high, other) = quantity(self.low), quantity(self.high)
        return self.unless(
            (unit != other, f"low is in {unit or 'no unit'}, high in {other or 'no unit'}"),
            (low >= high, "low must be below high"),
            (self.scale == "log" and low <= 0, "low must be above 0 on a log scale"),
        )


class RandomDraw(Section):
    """So many points drawn at random, each key by itself."""

    points: Count
    seed: Index = 0


class Search(Section):
    """So many points chosen one after the other, by what was found so far (Optuna).

    `ahead` are chosen before the first of them is known: as many workers have something to do, and
    the choice depends on it, not on how many workers there are.
    """

    points: Count
    seed: Index = 0
    sampler: Literal["tpe", "nsga2"] = "tpe"
    ahead: Annotated[Count, Field(le=1000)] = 4


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_listed)]
_Walked = dict[str, list[Any]]  # named here, for the class has a field `list`
_Listed = list[dict[str, Any]]
_SPAN: Any = {
    "type": "object",
    "properties": {
        "low": {"type": ["number", "string"]},
        "high": {"type": ["number", "string"]},
        "count": {"type": "integer", "minimum": 2},
        "scale": {"enum": ["linear", "log"]},
    },
    "additionalProperties": False,
}
_LIST: Any = {"type": "array", "minItems": 1}
_KEYS: Any = Field(
    default={},
    description="dotted key -> its values: a list, or a range",
    json_schema_extra={"additionalProperties": {"anyOf": [_LIST, _SPAN]}},
)


class Sweep(Section):
    """Points: every combination of `over`, with `zip` and `list` as further axes.

    Or with `random` or `search`, some points of that space. Expressions are of metrics
    (`VARIANT.METRIC`), of keys that vary, and of `metrics` above them.
    """

    over: dict[str, Any] = _KEYS
    zip: _Walked = Field(
        default={}, description="keys whose lists are walked together: all of one length"
    )
    list: _Listed = Field(default=[], description="points as they are")
    random: RandomDraw | None = None
    search: Search | None = None
    metrics: dict[str, str] = Field(default={}, description="name -> expression")
    minimise: Texts = Field(default=[], description="expressions to be low")
    maximise: Texts = Field(default=[], description="expressions to be high, after those")
    constraints: Texts = Field(default=[], description="like 'run.ttft_p99_s <= 0.5'")
    limit: Seconds = Field(default=3600.0, description="wall time after which a point is given up")

    @model_validator(mode="after")
    def _one_way(self) -> Sweep:
        lengths = {len(values) for values in self.zip.values()}
        for name in self.metrics:
            plain_name("metric", name)
        return self.unless(
            (not (self.over or self.zip or self.list), "nothing varies: give over, zip or list"),
            (len(lengths) > 1, "the lists of zip are to be of one length"),
            (self.zip and 0 in lengths, "the lists of zip are empty"),
            (self.random and self.search, "random and search are two ways to choose; give one"),
            (
                self.search and not (self.minimise or self.maximise),
                "a search needs something to minimise or to maximise",
            ),
            (self.limit <= 0, "limit must be above 0"),
        )


Axis = list[Any] | Range  # values, or a range of them


def read_sweep(node: Node | None) -> tuple[Sweep | None, list[Fault]]:
    """The section as a Sweep, whose `over` holds lists and Ranges; and what is wrong with it."""
    if node is None or node.value is None:
        return None, []
    if not isinstance(node.value, dict):
        return None, [node.fault("a mapping ('key: value' lines) is due")]
    axes, faults = _axes(node.value.get("over"))
    try:
        sweep = Sweep.model_validate(plain(node))
    except ValidationError as error:
        return None, faults + list(messages.faults(error, Sweep, node))
    return (None if faults else sweep.model_copy(update={"over": axes})), faults


def _axes(over: Node | None) -> tuple[dict[str, Axis], list[Fault]]:
    axes: dict[str, Axis] = {}
    faults: list[Fault] = []
    for key, node in over.value.items() if over and isinstance(over.value, dict) else ():
        if isinstance(node.value, list) and node.value:
            axes[key] = plain(node)
        elif isinstance(node.value, list):
            faults.append(node.fault("the list is empty: at least one value is due"))
        elif isinstance(node.value, dict):
            try:
                axes[key] = Range.model_validate(plain(node))
            except ValidationError as error:
                faults += messages.faults(error, Range, node)
        else:
            faults.append(node.fault("a list of values, or {low, high, count}, is due"))
    return axes, faults
