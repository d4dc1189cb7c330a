"""Scenario file in, frozen specs out; or one ScenarioError that lists everything wrong with the
file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.scenario import places, wording
from sim.scenario.fields import absurd
from sim.scenario.layers import OVERRIDES, Node, merge, nearest_node, plain, tree
from sim.scenario.machine import Pod
from sim.scenario.schema import SECTIONS, File, Head, Technique, Variant
from sim.text import strict_yaml
from sim.text.strict_yaml import Fault, KeyPath, ScenarioError, nearest

Overrides = Mapping[str, Any] | Sequence[str]
MAX_VARIANTS = 200
ONLY_VARIANT = "run"  # the variant's name where a file names none
_VARIANT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Scenario:
    """A question and the variants that answer it, the first being the baseline.

    `resolved` is the file as YAML text with what it extends merged in, overrides applied and paths
    absolute: loading it gives the same variants.
    """

    name: str
    path: Path
    question: str
    seed: int
    variants: dict[str, Variant]
    expect: list[str]
    resolved: str
    sites: dict[str, Fault] = field(
        default_factory=dict, repr=False, compare=False
    )  # where each variant is written
    merged: dict[str, Node] = field(
        default_factory=dict, repr=False, compare=False
    )  # and what it comes to

    def fault(self, variant: str, what: str, at: KeyPath = ()) -> Fault:
        """A fault of `variant`, or of its key `at`, that only shows when its parts are put
        together."""
        if not at:
            return self.sites[variant]._replace(what=what)
        node, below = nearest_node(self.merged[variant], at)
        return node.fault(what, below)

    @property
    def folder(self) -> Path:
        """The folder of the scenario file."""
        return self.path.parent


def load(path_or_name: str | Path, overrides: Overrides = ()) -> Scenario:
    """The scenario in the file `path_or_name`, or the shipped one of that name.

    `overrides` are "dotted.key=value" texts, or a mapping from dotted key to value; text values are
    read as YAML. They apply to the common part and over each variant; `variants.NAME.key` reaches
    one variant. Raises ScenarioError.
    """
    path = find_scenario(path_or_name)
    faults: list[Fault] = []
    root = _with_extended(strict_yaml.read(places.shown(path)), [], faults)
    extended = not faults  # else much may seem to be missing that is only out of reach
    root = _overridden(root, overrides, faults)
    root, variants = _split(root, path.parent, faults)
    head = _head(root, faults)
    common = root._replace(value={key: node for key, node in root.value.items() if key in SECTIONS})
    specs, sites, parts = {}, {}, {}
    faults += _variant(common, partial=True)[1]  # also what every variant overrides
    for name, node in (variants or {ONLY_VARIANT: common._replace(value={})}).items():
        merged = merge(common, node)._replace(
            doc=root.doc, at=root.at
        )  # a missing section is missing at the top
        spec, wrong = _variant(merged, partial=not extended)
        faults += wrong
        sites[name] = node.fault("") if name in variants else root.fault("")
        if spec is not None:
            specs[name], parts[name] = spec, merged
    faults += _expectations(root, list(variants) or [ONLY_VARIANT], specs)
    if faults or head is None or not specs:
        raise ScenarioError(_in_order(faults))
    resolved = _resolved(head, common, variants)
    return Scenario(
        path.stem, path, head.question, head.seed, specs, head.expect, resolved, sites, parts
    )


def find_scenario(path_or_name: str | Path) -> Path:
    """The file of a scenario given by path or by the name of a shipped one; ScenarioError if there
    is none."""
    from sim.catalog import shipped

    text = str(path_or_name)
    found = places.file_at(text, [Path.cwd()], ("",))
    if found is None and not isinstance(path_or_name, Path) and Path(text).name == text:
        found = places.file_at(text, [shipped.folder("scenarios")])
    if found is not None:
        return found
    if Path(text).name != text or Path(text).suffix in (".yaml", ".yml"):
        strict_yaml.read(path_or_name)  # for its reason why not
    names = places.known("scenarios")
    what = (
        f"no such file or scenario{nearest(text, names)}; scenarios that ship: {', '.join(names)}"
    )
    raise ScenarioError([Fault(text, 0, "", what)])


def _with_extended(doc: strict_yaml.Document, under: list[Path], faults: list[Fault]) -> Node:
    """The file laid over what it extends, which is laid over what that extends."""
    root = tree(doc.data, doc)
    node = root.value.get("extends")
    if node is None or not isinstance(node.value, str):
        return root
    chain = [*under, doc.path.resolve()]
    found = places.file_at(node.value, places.around(node, doc.path.parent))
    if found is None and Path(node.value).name == node.value:
        from sim.catalog import shipped

        found = places.file_at(node.value, [shipped.folder("scenarios")])
    if found is None:
        what = f"no such scenario {node.value!r}{nearest(node.value, places.known('scenarios'))}"
        faults.append(node.fault(what))
        return root
    if found in chain:
        circle = [*chain[chain.index(found) :], found]
        faults.append(
            node.fault(f"extends runs in a circle: {' -> '.join(p.name for p in circle)}")
        )
        return root
    try:
        return merge(_with_extended(strict_yaml.read(places.shown(found)), chain, faults), root)
    except ScenarioError as error:
        faults += error.faults
        return root


def _overridden(root: Node, overrides: Overrides, faults: list[Fault]) -> Node:
    """The overrides laid over the common part and over each variant."""
    for key, value in _pairs(overrides, faults):
        parts: list[str | int] = [part.strip() for part in key.split(".")]
        if not all(parts) or len(parts) > 10:
            faults.append(
                Fault(OVERRIDES, 0, key, "a key is due, like 'workload.batch' or 'pod.device'")
            )
            continue
        if parts[:2] == ["pod", "stragglers"] and str(parts[-1]).isdecimal():
            parts[-1] = int(parts[-1])  # ranks are numbers
        node = tree(value, None, tuple(parts))
        for depth in range(len(parts) - 1, -1, -1):
            node = Node({parts[depth]: node}, None, tuple(parts[:depth]))
        variants = _variants(root)
        if parts[0] == "variants" and len(parts) > 1 and parts[1] not in variants:
            what = (
                f"no variant {parts[1]!r}{nearest(parts[1], variants)}; there are "
                f"{', '.join(map(str, variants))}"
            )
            faults.append(Fault(OVERRIDES, 0, key, what))
            continue
        root = merge(root, node)
        if parts[0] in SECTIONS and variants:
            each = {name: _laid_over(own, node) for name, own in variants.items()}
            root = root._replace(
                value={**root.value, "variants": root.value["variants"]._replace(value=each)}
            )
    return root


def _laid_over(variant: Node, override: Node) -> Node:
    variant = _mapping(variant)
    return merge(variant, override) if isinstance(variant.value, dict) else variant


def _pairs(overrides: Overrides, faults: list[Fault]) -> Iterator[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        items = [(str(key), value) for key, value in overrides.items()]
    else:
        faults += [
            Fault(OVERRIDES, 0, text, "write it as key=value")
            for text in overrides
            if "=" not in text
        ]
        items = [
            (text.split("=", 1)[0], text.split("=", 1)[1]) for text in overrides if "=" in text
        ]
    for key, value in items:
        try:
            yield key, strict_yaml.scalar(value) if isinstance(value, str) else value
        except ScenarioError as error:
            faults.append(Fault(OVERRIDES, 0, key, error.faults[0].what))


def _variants(root: Node) -> dict[Any, Node]:
    node = root.value.get("variants")
    return node.value if node and isinstance(node.value, dict) else {}


def _mapping(node: Node) -> Node:
    return node._replace(value={}) if node.value is None else node


def _split(root: Node, folder: Path, faults: list[Fault]) -> tuple[Node, dict[str, Node]]:
    """The common part and each variant's own part, with names and paths settled in both."""
    root, wrong = places.settle(root, folder)
    faults += wrong
    variants: dict[str, Node] = {}
    node = root.value.get("variants")
    if node is None or not isinstance(node.value, dict):
        return root, variants
    if len(node.value) > MAX_VARIANTS:
        faults.append(node.fault(f"{len(node.value)} variants are more than {MAX_VARIANTS}"))
        return root, variants
    for name, own in node.value.items():
        if not isinstance(name, str) or not _VARIANT_NAME.fullmatch(name):
            faults.append(
                own.fault(
                    "a variant's name is made of letters, digits, '_' and '-', and is quoted "
                    "if a number"
                )
            )
        elif own.value is not None and not isinstance(own.value, dict):
            faults.append(
                own.fault(
                    "a mapping ('key: value' lines) of what this variant changes is due; {} "
                    "for nothing"
                )
            )
        else:
            variants[name], wrong = places.settle(_mapping(own), folder)
            faults += wrong
    settled = {**node.value, **variants}
    return root._replace(value={**root.value, "variants": node._replace(value=settled)}), variants


def _head(root: Node, faults: list[Fault]) -> Head | None:
    """Question, seed and expectations."""
    data = {key: plain(node) for key, node in root.value.items() if key not in SECTIONS}
    if isinstance(data.get("variants"), dict):
        data["variants"] = {}  # each is looked at on its own
    try:
        return Head.model_validate(data)
    except ValidationError as error:
        faults += wording.faults(error, File, root)
        return None


def _variant(merged: Node, *, partial: bool) -> tuple[Variant | None, list[Fault]]:
    """The part of the file that makes one variant, validated.  `partial`: what it lacks is no
    fault."""
    faults = [] if partial else [*places.absent_trace(merged), *_out_of_place(merged)]
    data = plain(merged)
    techniques, wrong = _techniques(merged)
    faults += wrong
    data["techniques"] = techniques
    try:
        spec = Variant.model_validate(data)
    except ValidationError as error:
        return None, faults + list(wording.faults(error, Variant, merged, partial=partial))
    return (None if faults else spec), faults


def _techniques(section: Node) -> tuple[tuple[Technique, ...], list[Fault]]:
    """The entries of `techniques`, each with its options validated."""
    from sim.techniques import TECHNIQUES

    node, rest = nearest_node(section, ("techniques",))
    if rest or node.value is None:
        return (), []
    if not isinstance(node.value, list):
        return (), [node.fault("a list is due, like [preserve] or [{preserve: {join: false}}]")]
    techniques, faults = [], []
    for entry in node.value:
        name, options = entry.value, entry._replace(value={})
        if isinstance(name, dict):
            if len(name) != 1:
                faults.append(
                    entry.fault("one name to its options is due, like {preserve: {join: false}}")
                )
                continue
            ((name, options),) = name.items()
        if not isinstance(name, str) or name not in TECHNIQUES:
            what = (
                f"no technique {name!r}{nearest(name, TECHNIQUES)}; choose one of "
                f"{', '.join(sorted(TECHNIQUES))}"
            )
            faults.append(entry.fault(what))
            continue
        model, data = TECHNIQUES[name].options, plain(_mapping(options))
        if isinstance(data, dict) and any(map(absurd, data.values())):
            faults += [
                node.fault(f"{node.value[:40]!r} is out of range")
                for node in options.value.values()
                if absurd(node.value)
            ]
            continue
        try:
            techniques.append(Technique(name, model.model_validate(data, strict=True)))
        except ValidationError as error:
            faults += wording.faults(error, model, options)
    return tuple(techniques), faults


def _out_of_place(merged: Node) -> Iterator[Fault]:
    """What a workload needs and has not, or has and cannot use."""
    node, rest = nearest_node(merged, ("workload", "kind"))
    kind = "" if rest else str(node.value)
    on_array = kind in ("networks", "granularity")
    if kind in ("decode", "requests") and _lacks(merged, ("model",)):
        yield merged.fault("this key is missing", ("model",))
    if (
        kind
        and not _lacks(merged, ("pod",))
        and _lacks(merged, ("pod", "array" if on_array else "topology"))
    ):
        at, below = nearest_node(merged, ("pod",))
        hint = "; {} is that of the paper" if on_array else ""
        yield at.fault(
            f"this key is missing: a workload of {kind} needs it{hint}",
            (*below, "array" if on_array else "topology"),
        )
    for path, what in _UNUSED.get(kind, _OF_COLLECTIVES):
        node, rest = nearest_node(merged, path)
        if not rest and node.value not in (None, {}, []):
            yield node.fault(what)


def _lacks(merged: Node, path: KeyPath) -> bool:
    node, rest = nearest_node(merged, path)
    return bool(rest) or node.value is None


_NO_MODEL = "a workload of collectives has no model; take this out, or set it to null"
_NO_CHIPS = "the machine is an array, which has no part for this; take it out, or set it to null"
_NO_ARRAY = (
    "only workloads of networks and granularity run on an array; take this out, or set it to null"
)
_OF_MODELS: tuple[tuple[KeyPath, str], ...] = (
    *(((key,), _NO_MODEL) for key in ("model", "precision", "parallel", "techniques")),
    (
        ("pod", "device"),
        "the device has no part in a workload of collectives; take this out, or set it to null",
    ),
    (
        ("pod", "change", "device"),
        "the device has no part in a workload of collectives; take this out",
    ),
    (("pod", "array"), _NO_ARRAY),
)
_OF_COLLECTIVES: tuple[tuple[KeyPath, str], ...] = (
    (
        ("pod", "jitter"),
        "only a workload of collectives has jitter so far; take this out, or set it to null",
    ),
    (("pod", "array"), _NO_ARRAY),
)
_OF_ONE_MODEL: tuple[tuple[KeyPath, str], ...] = (
    (("model",), "each tenant has a `model` of its own; take this out, or set it to null"),
    (("parallel",), "each tenant says `tensor` itself; take this out, or set it to null"),
)
_OF_CHIPS: tuple[tuple[KeyPath, str], ...] = (
    *(((key,), _NO_CHIPS) for key in ("model", "precision", "parallel", "techniques")),
    *((("pod", key), _NO_CHIPS) for key in Pod.model_fields if key != "array"),
)
# By kind of workload, others as decode: what has no part in it.
_UNUSED = {
    "collectives": _OF_MODELS,
    "tenants": _OF_COLLECTIVES + _OF_ONE_MODEL,
    "networks": _OF_CHIPS,
    "granularity": _OF_CHIPS,
}


def _expectations(root: Node, names: list[str], specs: Mapping[str, Variant]) -> Iterator[Fault]:
    from sim.results.expect import parse, unknown_metric

    node, rest = nearest_node(root, ("expect",))
    for claim_node in node.value if not rest and isinstance(node.value, list) else ():
        if not isinstance(claim_node.value, str):
            continue  # the schema has said so
        try:
            claim = parse(claim_node.value)
        except ValueError as error:
            yield claim_node.fault(str(error))
            continue
        for owner, metric in ((claim.variant, claim.metric), claim.than.rpartition(".")[::2]):
            if not owner:
                continue
            variant, _, job = owner.partition(".")
            if variant not in names:
                yield claim_node.fault(
                    f"no variant {variant!r}{nearest(variant, names)} in this file"
                )
            elif job and variant in specs:
                work = specs[variant].workload
                noun = _PARTS.get(work.kind, "jobs")
                jobs = getattr(work, noun, {})
                if job not in jobs:
                    yield claim_node.fault(
                        f"no {_ONE[noun]} {job!r}{nearest(job, jobs)} in variant {variant!r}"
                    )
            if variant in specs and (
                wrong := unknown_metric(metric, specs[variant].workload.kind, of_job=bool(job))
            ):
                yield claim_node.fault(wrong)


# What a workload is made of that has metrics of its own, by kind, and what one of it is called.
_PARTS = {"tenants": "tenants", "networks": "networks", "granularity": "families"}
_ONE = {"jobs": "job", "tenants": "tenant", "networks": "network", "families": "family"}


def _resolved(head: Head, common: Node, variants: dict[str, Node]) -> str:
    data: dict[str, Any] = {"question": head.question, "seed": head.seed, **plain(common)}
    data["variants"] = {name: plain(node) for name, node in variants.items()}
    data["expect"] = list(head.expect)
    return strict_yaml.dump({key: value for key, value in data.items() if value not in ({}, [])})


def _in_order(faults: list[Fault]) -> list[Fault]:
    return sorted(
        dict.fromkeys(faults), key=lambda fault: (fault.file == OVERRIDES, fault.file, fault.line)
    )
