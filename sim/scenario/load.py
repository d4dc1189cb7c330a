"""Scenario file in, frozen specs out; or one ScenarioError that lists everything wrong with the
file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from sim.scenario import messages, paths
from sim.scenario.fields import absurd
from sim.scenario.layers import OVERRIDES, Node, merge, nearest_node, plain, tree
from sim.scenario.schema import SECTIONS, Head, Ranging, Technique, Variant, variant_of
from sim.scenario.sweep import Sweep, read_sweep
from sim.text import strict_yaml
from sim.text.choice import models
from sim.text.outside import MOST
from sim.text.strict_yaml import Fault, KeyPath, ScenarioError, nearest

Overrides = Mapping[str, Any] | Sequence[str]
Source = str | Path | Mapping[str, Any]  # a file, a name of what ships, or what a file would say
IN_PLACE = "scenario"  # the name of one given as a mapping
Kinds = Mapping[str, Any]  # the table of `sim.kinds`, handed down so that no kind is imported here
MAX_VARIANTS = 200
ONLY_VARIANT = "run"  # the variant's name where a file names none
_VARIANT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Scenario:
    """A question and the variants that answer it, the first being the baseline.

    `sweep` says what is to vary, if anything is; each point then is a Scenario of its own.
    """

    name: str
    path: Path
    question: str
    seed: int
    variants: dict[str, Variant]
    expect: list[str]
    sweep: Sweep | None
    range: Ranging | None
    common: Node = field(repr=False, compare=False)
    # Where each variant is written, and what it comes to.
    sites: dict[str, Fault] = field(default_factory=dict, repr=False, compare=False)
    merged: dict[str, Node] = field(default_factory=dict, repr=False, compare=False)
    own: dict[str, Node] = field(default_factory=dict, repr=False, compare=False)
    swept: Node | None = field(default=None, repr=False, compare=False)

    def fault(self, variant: str, what: str, at: KeyPath = ()) -> Fault:
        """A fault of `variant`, or of its key `at`, that only shows when its parts are put
        together."""
        if not at:
            return self.sites[variant]._replace(what=what)
        node, below = nearest_node(self.merged[variant], at)
        return node.fault(what, below)

    def sweep_fault(self, what: str, at: KeyPath = ()) -> Fault:
        """A fault of the section `sweep`, or of its key `at`."""
        assert self.swept is not None
        node, below = nearest_node(self.swept, at)
        return node.fault(what, below)

    @property
    def resolved(self) -> str:
        """The file as YAML text with what it extends merged in, overrides applied and paths
        absolute: loading it gives the same variants."""
        data: dict[str, Any] = {"question": self.question, "seed": self.seed, **plain(self.common)}
        data |= {
            "variants": {name: plain(node) for name, node in self.own.items()},
            "expect": [*self.expect],
            "sweep": plain(self.swept) if self.swept else {},
            "range": self.range.model_dump() if self.range else {},
        }
        return strict_yaml.dump({key: each for key, each in data.items() if each not in ({}, [])})


def load(source: Source, overrides: Overrides, kinds: Kinds) -> Scenario:
    """The scenario in the file `source`, or the shipped one of that name, or as a mapping, of one
    of the `kinds` of work.

    `overrides` are "dotted.key=value" texts, or a mapping from dotted key to value; text values are
    read as YAML. They apply to the common part and over each variant; `variants.NAME.key` reaches
    one variant. Raises ScenarioError.
    """
    doc = _document(source)
    path = doc.path.absolute()
    faults: list[Fault] = []
    root = _with_extended(doc, [], faults)
    extended = not faults  # else much may seem to be missing that is only out of reach
    root = _overridden(root, overrides, faults)
    root, variants = _split(root, path.parent, kinds, faults)
    head = _head(root, faults)
    sweep, wrong = read_sweep(root.value.get("sweep"))
    faults += wrong
    common = root._replace(value={key: node for key, node in root.value.items() if key in SECTIONS})
    specs, sites, parts = {}, {}, {}
    faults += _variant(common, kinds, partial=True)[1]  # also what every variant overrides
    for name, node in (variants or {ONLY_VARIANT: common._replace(value={})}).items():
        # A missing section is missing at the top.
        merged = merge(common, node)._replace(doc=root.doc, at=root.at)
        spec, wrong = _variant(merged, kinds, partial=not extended)
        faults += wrong
        sites[name] = node.fault("") if name in variants else root.fault("")
        if spec is not None:
            specs[name], parts[name] = spec, merged
    faults += _expectations(root, list(variants) or [ONLY_VARIANT], specs, kinds)
    if faults or head is None or not specs:
        raise ScenarioError(_in_order(faults))
    return Scenario(
        name=path.stem,
        path=path,
        question=head.question,
        seed=head.seed,
        variants=specs,
        expect=head.expect,
        sweep=sweep,
        range=head.range,
        common=common,
        sites=sites,
        merged=parts,
        own=variants,
        swept=root.value.get("sweep"),
    )


def _document(source: Source) -> strict_yaml.Document:
    """The file, or the mapping as if it stood in one in the current folder."""
    if not isinstance(source, Mapping):
        return strict_yaml.read(paths.shown(find_scenario(source)))
    try:
        text = strict_yaml.dump(dict(source))
    except strict_yaml.Unwritable as error:
        raise ScenarioError([Fault(IN_PLACE, 0, "", str(error))]) from None
    return strict_yaml.parse(text, IN_PLACE)


def find_scenario(path_or_name: str | Path) -> Path:
    """The file of a scenario given by path or by the name of a shipped one; ScenarioError if there
    is none."""
    from sim.catalog import shipped

    text = str(path_or_name)
    found = paths.file_at(text, [Path.cwd()], ("",))
    if found is None and not isinstance(path_or_name, Path) and Path(text).name == text:
        found = shipped.find("scenarios", text)
    if found is not None:
        return found
    if Path(text).name != text or Path(text).suffix in (".yaml", ".yml"):
        strict_yaml.read(path_or_name)  # for its reason why not
    names = paths.known("scenarios")
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
    found = paths.file_at(node.value, paths.around(node, doc.path.parent))
    if found is None and Path(node.value).name == node.value:
        from sim.catalog import shipped

        found = shipped.find("scenarios", node.value)
    if found is None:
        what = f"no such scenario {node.value!r}{nearest(node.value, paths.known('scenarios'))}"
        faults.append(node.fault(what))
        return root
    if found in chain:
        circle = [*chain[chain.index(found) :], found]
        faults.append(
            node.fault(f"extends runs in a circle: {' -> '.join(p.name for p in circle)}")
        )
        return root
    try:
        return merge(_with_extended(strict_yaml.read(paths.shown(found)), chain, faults), root)
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


def _split(
    root: Node, folder: Path, kinds: Kinds, faults: list[Fault]
) -> tuple[Node, dict[str, Node]]:
    """The common part and each variant's own part, with names and paths settled in both."""
    common = _specs(root, kinds)
    root, wrong = paths.settle(root, common, folder)
    faults += wrong
    variants: dict[str, Node] = {}
    given = _variants(root)
    if not given:
        return root, variants
    node = root.value["variants"]
    if len(given) > MAX_VARIANTS:
        faults.append(node.fault(f"{len(given)} variants are more than {MAX_VARIANTS}"))
        return root, variants
    for name, own in given.items():
        if not isinstance(name, str) or not _VARIANT_NAME.fullmatch(name):
            faults.append(
                own.fault(
                    "a variant's name is made of letters, digits, '_' and '-', and is quoted if a "
                    "number"
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
            specs = _specs(own, kinds, common)
            variants[name], wrong = paths.settle(_mapping(own), specs, folder)
            faults += wrong
    settled = node._replace(value=given | variants)
    return root._replace(value=root.value | {"variants": settled}), variants


def _head(root: Node, faults: list[Fault]) -> Head | None:
    """Question, seed and expectations."""
    data = {key: plain(node) for key, node in root.value.items() if key not in SECTIONS}
    if isinstance(data.get("variants"), dict):
        data["variants"] = {}  # each is looked at on its own
    data.pop("sweep", None)  # and so is this
    try:
        return Head.model_validate(data)
    except ValidationError as error:
        faults += messages.faults(error, Head, root, also=SECTIONS)
        return None


def _specs(
    section: Node, kinds: Kinds, otherwise: Sequence[type[BaseModel]] = ()
) -> list[type[BaseModel]]:
    """What the workload of a section may be, as far as it says."""
    kind = _kind(section, kinds)
    if kind is not None:
        return [kind.spec.found]
    return list(otherwise) or [kind.spec.found for kind in kinds.values()]


def _kind(section: Node, kinds: Kinds) -> Any:
    """The row of the kind of work that a section is of; None where it names none that there is."""
    node, rest = nearest_node(section, ("workload", "kind"))
    return None if rest or not isinstance(node.value, str) else kinds.get(node.value)


def _variant(merged: Node, kinds: Kinds, *, partial: bool) -> tuple[Variant | None, list[Fault]]:
    """The part of the file that makes one variant, validated.  `partial`: what it lacks is no
    fault."""
    kind = _kind(merged, kinds)
    faults = list(_no_kind(merged, kinds, partial=partial)) if kind is None else []
    schema = Variant if kind is None else variant_of(kind.spec.found)
    if kind is not None and not partial:
        faults += [*paths.absent_trace(merged, kind.spec.found), *_out_of_place(merged, kind)]
    data = plain(merged)
    techniques, wrong = _techniques(merged)
    faults += wrong
    data["techniques"] = techniques
    try:
        spec = schema.model_validate(data)
    except ValidationError as error:
        return None, faults + list(messages.faults(error, schema, merged, partial=partial))
    return (None if faults else spec), faults


def _no_kind(merged: Node, kinds: Kinds, *, partial: bool) -> Iterator[Fault]:
    """What is wrong where a workload is of no kind that there is."""
    node, rest = nearest_node(merged, ("workload", "kind"))
    choices, shown = ", ".join(kinds), messages.shown(node.value, node)
    if not rest:
        close = nearest(node.value, kinds)
        yield node.fault(f"{shown} is not allowed here{close}; choose one of {choices}")
    elif isinstance(node.value, dict) and rest == ("kind",) and not partial:
        yield node.fault(f"this key is missing; it is one of {choices}", rest)
    elif not isinstance(node.value, dict) and node.value is not None:
        yield node.fault(f"a mapping ('key: value' lines) is due, not {shown}")


def _techniques(section: Node) -> tuple[tuple[Technique, ...], list[Fault]]:
    """The entries of `techniques`, each with its options validated."""
    from sim.techniques import TECHNIQUES

    node, rest = nearest_node(section, ("techniques",))
    if rest or node.value is None:
        return (), []
    if not isinstance(node.value, list):
        return (), [node.fault("a list is due, like [preserve] or [{preserve: {join: false}}]")]
    if len(node.value) > (most := MOST["techniques"].most):
        return (), [node.fault(f"at most {most} techniques are due")]
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
            faults += messages.faults(error, model, options)
    return tuple(techniques), faults


def _out_of_place(merged: Node, kind: Any) -> Iterator[Fault]:
    """What a kind of work needs and has not, or has and does not read."""
    for dotted in kind.needs:
        path = tuple(dotted.split("."))
        at, below = nearest_node(merged, path)
        if (below or at.value is None) and len(below) <= 1:
            at, below = nearest_node(merged, path[:-1]) if not below else (at, below)
            hint = _hint(path)
            what = f"this key is missing: a workload of {kind.name} needs it{hint}"
            yield at.fault(what, below or path[-1:])
    for key in SECTIONS:
        if key in merged.value and key != "workload":
            yield from _unread(merged.value[key], (key,), kind, Variant)


def _hint(path: KeyPath) -> str:
    """What may stand there, if nothing need be said."""
    owner: Any = Variant
    for key in path:
        owner = owner.model_fields[key].annotation
    whole = models(owner)
    plain_too = whole and not any(f.is_required() for f in whole[0].model_fields.values())
    return "; {} takes the defaults" if plain_too else ""


def _unread(
    node: Node, path: tuple[str, ...], kind: Any, owner: type[BaseModel]
) -> Iterator[Fault]:
    """Keys at and below `path`, whose last is one of `owner`'s, that a kind of work does not
    read."""
    dotted = ".".join(path)
    if dotted in kind.reads or node.value in (None, {}, []):
        return
    inside = f"{dotted}."
    if any(key.startswith(inside) for key in kind.reads):
        for model in models(owner.model_fields[path[-1]].annotation):
            for key in model.model_fields:  # what it has not, the schema refuses
                if isinstance(node.value, dict) and key in node.value:
                    yield from _unread(node.value[key], (*path, key), kind, model)
        return
    above = dotted.removesuffix(path[-1])
    siblings = [
        key.removeprefix(above).split(".")[0] for key in kind.reads if key.startswith(above)
    ]
    known = ", ".join(dict.fromkeys(siblings if above else ["workload", *siblings]))
    known += _namesake(path[-1], kind.spec.found, "workload")
    yield node.fault(
        f"unknown key: a workload of {kind.name} reads {known}; take this out, or set it to null"
    )


def _namesake(key: str, section: type[BaseModel], at: str) -> str:
    """Where in a section, which is at `at`, there is a key of that name; '' if nowhere."""
    for name, info in section.model_fields.items():
        if name == key:
            return f", and {at}.{key}"
        below = f"{at}.{name}{'.NAME' if get_origin(info.annotation) is dict else ''}"
        found = [_namesake(key, model, below) for model in models(info.annotation)]
        if any(found):
            return next(filter(None, found))
    return ""


def _expectations(
    root: Node, names: list[str], specs: Mapping[str, Variant], kinds: Kinds
) -> Iterator[Fault]:
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
            variant, _, part = owner.partition(".")
            if variant not in names:
                yield claim_node.fault(
                    f"no variant {variant!r}{nearest(variant, names)} in this file"
                )
            if variant not in specs:
                continue
            work = specs[variant].workload
            kind = kinds[work.kind]
            parts = getattr(work, kind.part_key, {})
            if part and part not in parts:
                what = f"no {kind.part or 'part'} {part!r}{nearest(part, parts)}"
                yield claim_node.fault(f"{what} in variant {variant!r}")
            elif wrong := unknown_metric(metric, kind, of_part=bool(part)):
                yield claim_node.fault(wrong)


def _in_order(faults: list[Fault]) -> list[Fault]:
    return sorted(
        dict.fromkeys(faults), key=lambda fault: (fault.file == OVERRIDES, fault.file, fault.line)
    )
