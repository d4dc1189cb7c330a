"""What prefetching into L2 was worth on machines that exist, as others measured it (P9).

None of these runs is the paper's: other models, batches and ways to prefetch. The engines' numbers
are those on the cards, measured in other runs than these; nothing is fitted to a gain. What the
threads do not say (model, batch, context, layout, where a prefetch begins) is free: it was chosen
before any of it was run, and each free size is varied in rows of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import simpy

from sim import catalog
from sim.engine.group import Group, members_of
from sim.engine.pipeline import run_static
from sim.engine.steps import StaticBatch
from sim.graph.batch import Batch
from sim.graph.graph import Graph
from sim.graph.model import Experts, Model
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.routing import Routing
from sim.graph.transformer import transformer
from sim.network import topology
from sim.network.network import Network
from sim.reproduce.host import chosen
from sim.reproduce.row import Row, listed
from sim.techniques import Machine, apply

_MB = 1e6
CAPS_MB = (10, 40, 64, 80, 100, 120, 160)  # 10, 80, 100, 120 were measured


class Case(NamedTuple):
    """One simulated run: how the experts lie, how they are prefetched, and the free sizes."""

    expert: int = 16  # ranks that experts are spread over; 1: every rank has a slice of each
    engine: str = ""  # "": the card's first
    cap_mb: float = 0.0  # 0: nothing is prefetched
    begins: str = "attention_norm"
    batch: int = 4
    prompt: int = 1024
    output: int = 256
    streams: int = 1
    slower: float = 1.0  # fixed times of kernels and of collectives, by this factor


class Hint(NamedTuple):
    """One simulated run of one GPU: under which ops it prefetches, and the free sizes."""

    ops: tuple[str, ...] = ()
    cap_mb: float = 8.0
    prompt: int = 256
    output: int = 64


def two_nodes(case: Case) -> float:
    """Output tokens a second of DeepSeek-R1 in w8a8 on two nodes of Atlas 800T A2, decode alone."""
    device = catalog.device("ascend_910b2", engine=case.engine or None)
    device = replace(
        device,
        kernel_overhead_s=device.kernel_overhead_s * case.slower,
        vector_overhead_s=device.vector_overhead_s * case.slower,
    )
    # A node's mesh as a switch that gives each chip its seven links together.
    node = catalog.pod("atlas_800t_a2")
    wires = topology.build(
        "multi_node",
        nodes=2,
        chips=8,
        bytes_per_s=7 * node.link_bytes_per_s,
        latency_s=node.link_latency_s,
        nic={"bytes_per_s": 25e9, "latency_s": 1e-6},  # RoCE of 200 Gb/s a chip (recalled)
        spine={"bytes_per_s": 200e9, "latency_s": 1e-6},
    )
    library = catalog.library(node.library)
    model = catalog.model("deepseek-r1")
    parallel = Parallel(
        tensor=16, expert=case.expert, routing=Routing(counts=catalog.profile(model.routing))
    )
    options: dict[str, Any] = {
        "ops": [case.begins],
        "prefetch": "experts",
        "cap": f"{case.cap_mb} MB",
        "streams": case.streams,
    }
    asked = ("preserve", tuple(options.items())) if case.cap_mb else ("", ())
    seconds, steps = _decode(
        device,
        model,
        Precision("int8", "int8", "fp16", "fp16"),
        parallel,
        Network(wires, replace(library, launch_s=library.launch_s * case.slower)),
        asked,
        StaticBatch(case.batch, case.prompt, case.output),
    )
    return case.batch * steps / seconds


def one_gpu(hint: Hint) -> float:
    """Output tokens a second of a model of Qwen3.6-35B-A3B's class on an RTX 5090, batch 1.

    Its linear attention stands as one with projections as wide (2,048 x 12,288 and 4,096 x 2,048)
    and, at a few hundred tokens, a cache as large as its state.
    """
    model = replace(
        catalog.model("qwen3-30b-a3b"),
        name="class of qwen3.6-35b-a3b",
        layers=40,
        kv_heads=32,
        experts=Experts(routed=256, chosen=8, ffn=512, shared_ffn=512),
    )
    options = {"ops": [*hint.ops], "prefetch": "weights", "cap": f"{hint.cap_mb} MB"}
    asked = ("preserve", tuple(options.items())) if hint.ops else ("", ())
    seconds, steps = _decode(
        catalog.device("rtx_5090"),
        model,
        Precision("int8", "bf16", "bf16", "bf16", experts="int4"),
        Parallel(),
        Network(catalog.pod("single").graph(), catalog.library("none")),
        asked,
        StaticBatch(1, hint.prompt, hint.output),
    )
    return steps / seconds


def _decode(
    device: Any,
    model: Model,
    precision: Precision,
    parallel: Parallel,
    network: Network,
    asked: tuple[str, tuple[tuple[str, Any], ...]],
    batch: StaticBatch,
) -> tuple[float, int]:
    """Seconds and steps of the decode phase."""
    machine = Machine(device.l2_bytes, device.hbm_bytes_per_s, parallel.ranks)
    techniques = chosen(*asked)

    @cache
    def graph_of(one: Batch) -> Graph:
        return apply(transformer(model, precision, parallel, one), machine, techniques)

    def group_of(_: object) -> Group:
        return Group(simpy.Environment(), members_of(device, graph_of, parallel.ranks), network)

    phases = run_static([group_of], batch, None).part
    return phases.decode_s, phases.decode_steps


_SDMA = Case(engine="sdma")
_MEASURED_MB = {10: 0.03, 80: 2.05, 100: 2.14, 120: 1.50}  # of 90.71 tok/s: gain in per cent
_BARE_TOKENS_PER_S = 90.7114
_FREE = (
    "free, chosen before it was run: DeepSeek-R1, tensor and expert parallel 16, batch 4, 1,024 + "
    "256 tokens, prefetched from the norm before attention on; the thread names no model"
)
_WHY = (
    "experts are fetched before the router has run, and of a batch of 4 a rank reads few; the rest "
    "is fetched in vain, and a step as modelled has no HBM to spare for it"
)
_BATCHES = (1, 16, 64, 256)


def rows(quick: bool = False) -> Iterator[Row]:
    """P9, and what the free sizes do to it, which `quick` leaves out."""
    yield from _a2()
    if not quick:
        yield from _a2_free()
    yield from _rtx()


def _gain(case: Case) -> float:
    """Per cent of output tokens a second by prefetching."""
    bare = case._replace(engine="", cap_mb=0.0, streams=1)
    return (_two_nodes(case) / _two_nodes(bare) - 1) * 100


_two_nodes = cache(two_nodes)


def _judged(what: str, known: float, found: float, note: str) -> Row:
    """Within half the effect or 0.5 point, whichever is more."""
    most = max(abs(known) / 2, 0.5)
    return _row(what, known, found, f"±{most:.3g} points", abs(found - known) <= most, note)


def _row(
    what: str,
    known: float | None,
    found: float,
    tolerance: str,
    ok: bool | None,
    note: str,
    fitted: str = "",
) -> Row:
    return Row("preserve", "P9", what, known, found, tolerance, ok, fitted, note)


def _over_caps(case: Case) -> dict[int, float]:
    return {cap: _gain(case._replace(cap_mb=cap)) for cap in CAPS_MB}


def _said(gains: Mapping[int, float]) -> str:
    return f"{', '.join(map(str, gains))} MB: {listed(gains.values())} %"


def _a2() -> Iterator[Row]:
    gains = _over_caps(_SDMA)
    measured = {cap: gains[cap] for cap in _MEASURED_MB}
    where = "two Atlas 800T A2, a mixture of experts, SDMA"
    failed = "" if max(measured.values()) > 0 else f"; {_WHY}"
    note = f"vllm-ascend PR #1509; {_said(gains)}; {_FREE}{failed}"
    yield _judged(
        f"{where}, expert parallel: gain in % at the best of caps of 10, 80, 100, 120 MB",
        max(_MEASURED_MB.values()),
        max(measured.values()),
        note,
    )
    best = max(gains, key=lambda cap: gains[cap])
    falls = gains[120] < gains[best] and abs(gains[10]) <= 0.5
    yield _row(
        f"{where}, expert parallel: cap of the largest gain, MB",
        100,
        best,
        "64 to 120, less at 120, within 0.5 point of nothing at 10",
        64 <= best <= 120 and falls,
        note,
    )
    sliced = _SDMA._replace(expert=1, cap_mb=80)
    yield _judged(
        f"{where}, no expert parallelism: gain in % with a cap of 80 MB", 0.35, _gain(sliced), note
    )
    bare = _two_nodes(Case())
    yield _row(
        f"{where}, expert parallel: output tokens a second without prefetch",
        _BARE_TOKENS_PER_S,
        bare,
        "reported",
        None,
        "decode alone; the thread's number counts the whole test, at a load that it does not name",
    )


def _a2_free() -> Iterator[Row]:
    """The same in other sizes, which nobody published; not judged."""
    where = "the same, expert parallel, largest gain in % over the caps"
    for batch in _BATCHES:
        yield _free(f"{where}, batch {batch}", _SDMA._replace(batch=batch))
    yield _free(f"{where}, prefetched from the output projection on", _SDMA._replace(begins="o"))
    yield _free(f"{where}, the card's first engine", Case())
    yield _free(f"{where}, SDMA when cold", Case(engine="sdma_cold"))
    for batch in (4, 8):
        factor = _slower(batch)
        yield _free(
            f"{where}, batch {batch}, fixed times x {factor:.1f}",
            _SDMA._replace(batch=batch, slower=factor),
            f"fixed times of kernels and collectives, to {_BARE_TOKENS_PER_S:.1f} tok/s without "
            "prefetch, not to a gain",
        )


def _free(what: str, case: Case, fitted: str = "") -> Row:
    gains = _over_caps(case)
    sliced = _gain(case._replace(expert=1, cap_mb=80))
    note = f"{_said(gains)}; {sliced:.2f} % with 80 MB without expert parallelism"
    return _row(what, None, max(gains.values()), "reported", None, note, fitted)


def _slower(batch: int) -> float:
    """The factor on fixed times with which a run without prefetch is as slow as was measured."""
    low, high = 1.0, 64.0
    for _ in range(12):  # to 0.1 %
        middle = (low * high) ** 0.5
        quick = two_nodes(Case(batch=batch, slower=middle)) > _BARE_TOKENS_PER_S
        low, high = (middle, high) if quick else (low, middle)
    return low


def _rtx() -> Iterator[Row]:
    bare = one_gpu(Hint())
    where = "RTX 5090, 35B-A3B class, batch 1, hints of a few MB from the tails of kernels"
    free = (
        "Neroued/ninfer #68, #69, #203, #206; free, chosen before it was run: attention in place "
        "of the linear one, 256 + 64 tokens, formats; kernels' times are those measured on an RTX "
        "PRO 6000 with vLLM, so a step has more gaps than the one measured, and the kernel that "
        "gives the hints is not slowed (measured: 41 % of what its hints save)"
    )

    def gain(hint: Hint) -> float:
        return (one_gpu(hint) / bare - 1) * 100

    both, tail = gain(Hint(("top_k", "experts_sum"))), gain(Hint(("experts_sum",)))
    yield _judged(f"{where}: gain in % with both windows", 3.7, both, free)
    head = gain(Hint(("top_k",), cap_mb=1.05))  # what the shared expert's second matrix takes
    for which, known, found in (
        ("after the experts", "+2.5 to +3.3", tail),
        ("after the routing", "+0.9 to +2.5", head),
    ):
        note = f"measured {known} %, by merged parts"
        yield _row(f"{where}: gain in % with the window {which} alone", None, found, "", None, note)
    note = "measured at batch 1; ours is slower"
    yield _row(f"{where}: tokens a second without", 363.7, bare, "reported", None, note)
