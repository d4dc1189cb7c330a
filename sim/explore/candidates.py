"""Which settings of a scenario are looked at: those that its section `sweep` says, or ones that
follow from its machine and its model; one section, which is read as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from sim import catalog
from sim.catalog import PodSpec
from sim.explore.space import Point, as_overrides
from sim.graph.model import Model
from sim.run import load
from sim.scenario import Fault, Scenario, ScenarioError, Variant
from sim.scenario.layers import OVERRIDES, plain
from sim.text import strict_yaml

OVER = "--over"
CHIPS = 16  # of all replicas, if the pod has more
TENSOR, PIPELINE = "parallel.tensor", "parallel.pipeline"
DATA, EXPERT = "parallel.data", "parallel.expert"
REPLICAS, PREFILL = "workload.replicas", "workload.prefill.replicas"
NO_PREFILL = "workload.prefill"  # the pool as a whole, null where there is none
_LAYOUT = (TENSOR, PIPELINE, DATA, EXPERT, REPLICAS, PREFILL)
_STAGES = (1, 2, 4)
CHUNK, BATCH = "workload.max_batched_tokens", "workload.max_batch"
_OTHERS = {CHUNK: (512, 2048, 8192), BATCH: (64, 256)}
_OF_SWEEP = ("over", "zip", "list", "random", "limit")  # what says which points there are
_EACH = 8  # replicas up to here one by one, then by steps of an eighth to a quarter


def alone(scenario: Scenario, name: str) -> dict[str, Any]:
    """One variant as a scenario of its own, as a file would say it."""
    merged = plain(scenario.merged[name])
    return {"question": scenario.question, "seed": scenario.seed, **merged}


def over_of(texts: Sequence[str] | Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Values by key of texts like "parallel.tensor=2,4", which are read as YAML; ScenarioError."""
    if isinstance(texts, Mapping):
        return {key: [*values] for key, values in texts.items()}
    found: dict[str, list[Any]] = {}
    faults = []
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        try:
            read = strict_yaml.parse(f"v: [{values}]", OVER).data["v"]
        except ScenarioError as error:
            faults.append(Fault(OVER, 0, key, error.faults[0].what))
            continue
        if not (key and equals and read):
            faults.append(Fault(OVER, 0, text, "write it as KEY=VALUE,VALUE"))
        elif key in found:
            faults.append(Fault(OVER, 0, key, "this key is given twice"))
        found[key] = read
    if faults:
        raise ScenarioError(faults)
    return found


def check(source: Mapping[str, Any], over: Mapping[str, list[Any]]) -> None:
    """ScenarioError with every key that is none, and every value that its key cannot have."""
    faults = []
    for key, values in over.items():
        for value in values:
            if key == PREFILL and not value:
                continue  # no pool
            try:
                load(source, as_overrides({key: value}))
            except ScenarioError as error:
                about = [one for one in error.faults if one.file == OVERRIDES]
                faults += [Fault(OVER, 0, one.key, one.what) for one in about]
    if faults:
        raise ScenarioError(dict.fromkeys(faults))


def section_of(
    scenario: Scenario, variant: Variant, over: Mapping[str, list[Any]], most: int | None
) -> tuple[dict[str, Any], int | None, list[str]]:
    """What a section `sweep` says of the candidates, how many chips they may have, and what is to
    be said of it.

    The scenario's own, if it has one, else what follows from the machine and the model; `over` sets
    the values of keys in either.
    """
    if scenario.swept is not None:
        given = plain(scenario.swept)
        section = {key: value for key, value in given.items() if key in _OF_SWEEP}
        unused = [key for key, value in given.items() if key not in _OF_SWEEP and value]
        said = [f"sweep.{key} has no effect on what is recommended" for key in unused]
        section["over"] = {**section.get("over", {}), **over}
        return section, most, said
    named = over.get("pod.topology", [variant.pod.topology])
    pods = [catalog.pod(one) for one in named]
    own = variant.parallel.degrees().chips * sum(_pools_of(variant))
    bound = most or max(own, min(max(pod.devices for pod in pods), CHIPS))
    model = catalog.model(variant.model.name, variant.model.change.given())
    layouts = [*_layouts(variant, model, pods, over, bound)]
    others = {key: list(values) for key, values in over.items() if key not in _LAYOUT}
    for key, values in _OTHERS.items():
        now = getattr(variant.workload, key.rpartition(".")[2])
        others.setdefault(key, sorted({*values} | ({now} if now else set())))
    if not layouts:
        raise ValueError(
            f"nothing that --over allows takes {bound} chips or fewer; --chips allows more"
        )
    section = {"over": others, "list": layouts}
    said = [
        f"candidates have at most {bound} chips (--chips); formats, techniques and the pod are as "
        "the scenario says, unless --over varies them"
    ]
    return section, bound, said


def _pools_of(variant: Variant) -> tuple[int, int]:
    """Replicas that a scenario has, and those of them that only prefill."""
    work = variant.workload
    return work.replicas, work.prefill.replicas if work.prefill else 0


def _layouts(
    variant: Variant,
    model: Model,
    pods: Sequence[PodSpec],
    over: Mapping[str, list[Any]],
    most: int,
) -> Iterator[Point]:
    """How the model may lie on up to so many chips, and how many copies there may be."""
    p, experts = variant.parallel, model.experts is not None
    node = max(int(pod.parameters.get("chips", pod.devices)) for pod in pods)
    fit = [t for t in _powers(node) if not (model.heads % t or model.ffn % t)]
    tensors = over.get(TENSOR) or sorted({p.tensor, *fit})
    stages = over.get(PIPELINE) or sorted({p.pipeline, *(s for s in _STAGES if s <= model.layers)})
    datas = over.get(DATA) or sorted({p.data, *(_powers(most) if experts else ())})
    shown = [TENSOR, PIPELINE, *(key for key in (DATA, EXPERT) if experts or key in over)]
    for tensor, pipeline, data in product(tensors, stages, datas):
        spread = sorted({1, tensor}) if data == 1 else [tensor * data]
        for expert in over.get(EXPERT) or (spread if experts else [p.expert]):
            degrees = {TENSOR: tensor, PIPELINE: pipeline, DATA: data, EXPERT: expert}
            for pools in _pools(over, most // (tensor * pipeline * data), variant):
                yield {**{key: degrees[key] for key in shown}, **pools}


def _pools(over: Mapping[str, list[Any]], most: int, variant: Variant) -> Iterator[Point]:
    """Replicas, and where some of them only prefill, how many of each."""
    if PREFILL in over or REPLICAS in over:
        prefills = over.get(PREFILL, [_pools_of(variant)[1]])
        for count, prefill in product(over.get(REPLICAS, [*_counts(most)]), prefills):
            if count + (prefill or 0) <= most:
                yield {REPLICAS: count} | ({PREFILL: prefill} if prefill else {NO_PREFILL: None})
        return
    for count in _counts(most):
        yield {REPLICAS: count, NO_PREFILL: None}
        for prefill in sorted({-(-count // 4), count // 2, count - -(-count // 4)}):
            if 0 < prefill < count:
                yield {REPLICAS: count - prefill, PREFILL: prefill}


def _counts(most: int) -> Iterator[int]:
    count = 1
    while count <= most:
        yield count
        count += max(1, 2 ** (count.bit_length() - 3)) if count >= _EACH else 1


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length())]
