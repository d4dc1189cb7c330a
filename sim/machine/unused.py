"""What a pod's section says that applies to nothing: refused, by key, before anything runs.

A part is a pod with a share of a model (`sim.machine.pod`); an option is of use if one of the parts
that have it makes something of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.graph.batch import Batch, Sequences, Shared, decode_batch, prefill_batch
from sim.graph.graph import Op, is_collective
from sim.hardware.cost import told_as
from sim.hardware.device import OWN_KERNELS
from sim.machine.pod import Machinery
from sim.network.collectives import AUTO, COLLECTIVES
from sim.scenario.errors import MisfitError
from sim.scenario.machine import Pod
from sim.text.strict_yaml import KeyPath

# Passes that have between them every op that a model asks for: prompts, lone queries, and so many
# on one prefix that no technique lets the chance go by.
_PASSES = (
    prefill_batch([2]),
    decode_batch([1]),
    Batch((Sequences(4096, 1, 4096),), 4096, (Shared(4096, 2048),)),
)


def refuse_unused(pod: Pod, parts: Sequence[Machinery], at: KeyPath = ("pod",)) -> None:
    """MisfitError with everything in `pod`, which is the section `at`, that no part has a use
    for."""
    if wrong := [((*at, *key), what) for key, what in _unused(pod, parts)]:
        raise MisfitError(wrong)


def _unused(pod: Pod, parts: Sequence[Machinery]) -> Iterator[tuple[KeyPath, str]]:
    device = pod.change.device.given()
    links = list(_of_links(pod))
    fetches: list[KeyPath] = [("prefetch_engine",)] if pod.prefetch_engine else []
    fetches += [
        ("change", "device", key)
        for key in device
        if key.startswith("prefetch_") or key == "l2_set_aside_bytes"
    ]
    kernels: list[KeyPath] = [("kernels", kind) for kind in pod.kernels]
    kernels += [("change", "device", "kernels", kind) for kind in device.get("kernels", ())]
    if not (links or fetches or kernels):
        return
    ops = [(part.device, op) for part in parts for op in _ops(part)]
    sent = dict.fromkeys(op.kind for _, op in ops if is_collective(op))
    fit = dict.fromkeys(name for kind in sent for name in COLLECTIVES[kind].algorithms)
    if not sent:
        what = (
            "nothing is sent, so this applies to nothing; take it out, or spread the model over "
            "more than one chip (`parallel`)"
        )
        yield from ((key, what) for key in links)
    elif pod.collective not in (AUTO, *fit):
        yield (
            ("collective",),
            f"{pod.collective!r} is no algorithm for {' or '.join(sent)}, which is all that the "
            f"ranks exchange; choose one of {', '.join((AUTO, *fit))}",
        )
    told = {told_as(card, op.kernel) for card, op in ops}
    there = ", ".join(kind for kind in OWN_KERNELS if kind in {op.kind for _, op in ops})
    for key in kernels:
        if key[-1] not in told:
            yield key, f"there is no {key[-1]} in the model, which has {there}; take this out"
    if not any(op.stream == "prefetch" for _, op in ops):
        what = "nothing is prefetched, for no technique does; take this out"
        yield from ((key, what) for key in fetches)


def _of_links(pod: Pod) -> Iterator[KeyPath]:
    """Keys that are given and speak of what is sent."""
    yield from ((key,) for key in ("library", "faults") if getattr(pod, key))
    if pod.collective != AUTO:
        yield ("collective",)
    for part in ("library", "link"):
        yield from (("change", part, key) for key in getattr(pod.change, part).given())


def _ops(part: Machinery) -> Iterator[Op]:
    """Every op that a pass may ask of a rank of any stage."""
    for stage in range(part.parallel.pipeline):
        for batch in _PASSES:
            for layer in dict.fromkeys(part.graph(batch, stage).layers):
                yield from layer.ops
