"""What a scenario says of collectives alone: jobs, and the chips of each."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    WithJsonSchema,
    model_validator,
)

from sim.network.collectives import ALGORITHM_NAMES, AUTO, COLLECTIVES
from sim.scenario.fields import Bytes, Count, Factor, Seconds, Section
from sim.text.choice import Choice
from sim.text.strict_yaml import nearest

_RANGE = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?")
_HOW = "write 'all', '0-7', a list like [0, 1, 4-7], or {every: 8, from: 0, count: 4}"
_ENDLESS = 10**13


class Chips(NamedTuple):
    """A group as ranges of chip numbers; `open`: as far as the pod goes."""

    ranges: tuple[range, ...]
    open: bool = False

    def of(self, chips: int) -> tuple[int, ...]:
        """The numbers, on a pod of so many chips; ValueError if one of them is not in it."""
        if self.open:
            (all_of_them,) = self.ranges
            return tuple(range(all_of_them.start, chips, all_of_them.step))
        for some in self.ranges:
            if some[-1] >= chips:
                first = some[max(0, -(-(chips - some[0]) // some.step))]
                raise ValueError(f"chip {first} is not in the pod: its chips are 0 to {chips - 1}")
        return tuple(chip for some in self.ranges for chip in some)


def _chips(value: Any) -> Chips:
    if isinstance(value, Chips):
        return value
    if value == "all":
        return Chips((range(_ENDLESS),), open=True)
    if isinstance(value, dict):
        return _every(value)
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{value!r} is no group of chips; {_HOW}")
    return Chips(tuple(map(_range, parts)))


def _range(part: Any) -> range:
    match = _RANGE.fullmatch(str(part).strip())
    if not match or isinstance(part, bool):
        raise ValueError(f"{part!r} is neither a chip's number nor a range of them; {_HOW}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"the range {part} runs backwards; write '{last}-{first}'")
    return range(first, last + 1)


def _every(value: dict[Any, Any]) -> Chips:
    least = {"every": 1, "from": 0, "count": 1}
    for key, number in value.items():
        if key not in least:
            raise ValueError(
                f"unknown key {key!r} in a group{nearest(key, least)}; known are {', '.join(least)}"
            )
        if (
            not isinstance(number, int)
            or isinstance(number, bool)
            or not least[key] <= number < _ENDLESS
        ):
            raise ValueError(
                f"{key} of a group is a whole number of at least {least[key]}, not {number!r}"
            )
    step, first, count = value.get("every", 1), value.get("from", 0), value.get("count")
    if count is None:
        return Chips((range(first, _ENDLESS, step),), open=True)
    return Chips((range(first, first + step * count, step),))


_NUMBER = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string", "pattern": r"all|\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*"}
_STEPS = {
    "type": "object",
    "properties": {"every": _NUMBER, "from": _NUMBER, "count": _NUMBER},
    "additionalProperties": False,
}
Group = Annotated[
    InstanceOf[Chips],
    BeforeValidator(_chips),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": [_NUMBER, _TEXT]}}, _STEPS]}
    ),
]


class JobSpec(Section):
    """Issues one collective after the other, each when all its ranks are done with the last."""

    collective: Annotated[str, Choice(COLLECTIVES)]
    bytes: Bytes = Field(
        description="the buffer of one rank; of all-gather, what each has in the end"
    )
    group: Group = Field(
        default="all",
        validate_default=True,
        description="'all', '0-7', [0, 1, 4-7], or {every, from, count}",
    )
    algorithm: Annotated[str, Choice(ALGORITHM_NAMES, AUTO)] | None = Field(
        default=None, description="default: pod.collective"
    )
    start: Seconds = 0.0
    repeat: Count = 1
    gap: Seconds = Field(
        default=0.0, description="between the end of one collective and the start of the next"
    )
    background: bool = Field(default=False, description="goes on until all other jobs are done")
    weight: Factor = Field(
        default=1.0, description="its share of a link that is shared, against that of others"
    )

    @model_validator(mode="after")
    def _endless(self) -> JobSpec:
        return self.unless(
            (
                self.background and "repeat" in self.model_fields_set,
                "a background job goes on until the others are done; take 'repeat' out",
            ),
            (
                self.gap and self.repeat == 1 and not self.background,
                "a gap comes between collectives, and this job has one; take it out",
            ),
        )


def _job_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise ValueError("a job's name is made of letters, digits, '_' and '-'")
    return name


class Collectives(Section):
    """The network alone: jobs that issue collectives, without a model."""

    kind: Literal["collectives"]
    jobs: dict[Annotated[str, AfterValidator(_job_name)], JobSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _somebody_ends(self) -> Collectives:
        return self.unless(
            (
                all(job.background for job in self.jobs.values()),
                "all jobs are in the background, so the run would have no end; one must not be",
            ),
            (
                len(self.jobs) == 1 and any(job.weight != 1 for job in self.jobs.values()),
                "a weight counts against other jobs, and there are none; take it out",
            ),
        )
