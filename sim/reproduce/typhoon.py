"""TyphoonMLA (arXiv 2509.21081): threshold, benchmark of an Ascend 910B2, estimate on GPUs.

Layers are played by the engine: the attention ops that `typhoon_mla` makes of a decode step, with
the kernels that the device's card has under the names of the authors' set-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product

import numpy as np
import simpy

from sim import catalog
from sim.calibrate.latent import Peaks, Shape, fit_absorb, fit_typhoon
from sim.calibrate.work import BF16
from sim.engine.group import Group, members_of
from sim.graph.batch import Batch, Sequences, Shared
from sim.graph.footprint import footprint
from sim.graph.graph import Graph, Layer
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.cost import hbm_bytes_per_s
from sim.hardware.device import Device
from sim.network.network import Network
from sim.reproduce.host import chosen
from sim.reproduce.measured import measured
from sim.reproduce.row import Progress, Row, listed, near, rows_of, sign
from sim.reproduce.typhoon_rows import BENCH, FITTED, JUDGED
from sim.techniques import Machine, apply
from sim.techniques.latent import threshold

PROMPTS = {"A": 26_472, "B": 7_069, "C": 4_759}
SUFFIX = 512  # of the user's own tokens where the paper does not say
REST_S, LAYERS = 28.15e-3, 61  # of the end-to-end estimate: all but attention, as published
_NPU_FITTED = f"absorb/torch_npu: 3 constants over {len(FITTED)} rows of the benchmark"
_TYPHOON_FITTED = (
    "absorb/catlass, naive/eager, head_matmul/eager: 5 constants over "
    f"{len(FITTED)} rows of the benchmark"
)
_GPU_FITTED = "absorb/flashmla, naive/flashinfer: 4 constants on prompts A and B"
ABSORB = ("q_absorb", "absorb", "v_expand")
ATTENTION = ("naive", *ABSORB, "lse_merge")


def reproduce(quick: bool = False, progress: Progress = lambda share: None) -> list[Row]:
    """Rows of the system `typhoon`."""
    parts: list[Callable[[], Iterable[Row]]] = [
        thresholds,
        benchmark,
        breakdown,
        end_to_end,
        asymptotes,
        orders,
        memory,
        partial(measured, quick),
    ]
    return rows_of((part() for part in parts), len(parts), progress)


_row, _near, _sign = (partial(made, "typhoon") for made in (Row, near, sign))


@cache
def _device(name: str, kernels: tuple[tuple[str, str], ...]) -> Device:
    return catalog.device(name, kernels=dict(kernels))


NPU_BASE = "ascend_910b2", (("absorb", "torch_npu"), ("head_matmul", "eager"))
NPU = "ascend_910b2", (("absorb", "catlass"), ("naive", "eager"), ("head_matmul", "eager"))
GPU = "h100_sxm", (("absorb", "flashmla"), ("naive", "flashinfer"))
Chosen = tuple[str, tuple[tuple[str, object], ...]]  # a technique and its options
NO_TECHNIQUE: Chosen = "", ()
# Naive whatever the batch: the authors' kernel is timed on both sides of its threshold.
TYPHOON: Chosen = "typhoon_mla", (("threshold", 1.0),)
Machinery = tuple[str, tuple[tuple[str, str], ...]]


def layer_seconds(
    machine: Machinery,
    shape: Shape,
    technique: Chosen = NO_TECHNIQUE,
    only: Iterable[str] = ATTENTION,
) -> float:
    """One layer's attention, played; `only` some of its ops."""
    device = _device(*machine)
    model = replace(
        catalog.model("deepseek-v3"),
        heads=shape.heads,
        kv_heads=shape.heads,
        layers=1,
        experts=None,
    )
    batch = Batch(
        (Sequences(shape.batch, 1, shape.prefix + shape.suffix - 1),),
        shape.batch,
        (Shared(shape.batch, shape.prefix),),
    )
    graph = apply(
        transformer(model, BF16, Parallel(), batch),
        Machine(device.l2_bytes, device.hbm_bytes_per_s, 1, device.matrix_flop_per_s),
        chosen(*technique),
    )
    layer = Layer("attention", tuple(op for op in graph.layers[1].ops if op.name in only))
    pod = catalog.pod("single")
    network, played = Network(pod.graph(), catalog.library(pod.library)), Graph((layer,))
    group = Group(simpy.Environment(), members_of(device, lambda batch: played, 1), network)
    group.env.run(group.env.process(group.run(played)))
    return float(group.env.now)


def gain(
    machine: Machinery, shape: Shape, base: Machinery, alone: Iterable[str], once: bool = False
) -> float:
    """Time of absorb alone, which reads the prefix by request or `once`, over TyphoonMLA's."""
    how: Chosen = ("latent_attention", (("form", "absorb_once"),)) if once else NO_TECHNIQUE
    return layer_seconds(base, shape, how, alone) / layer_seconds(machine, shape, TYPHOON)


# T1: the threshold.


def thresholds() -> Iterator[Row]:
    """B_theta by its formula, for the authors' constants and for the card of a 910B2."""
    latent = catalog.model("deepseek-v3").latent
    assert latent is not None
    found = threshold(latent, 376e12, 1.8e12)
    card = _device(*NPU)
    by_card = threshold(latent, card.matrix_flop_per_s["fp16"], card.hbm_bytes_per_s)
    what = "sequences from which naive is quicker"
    yield _row("T1", f"{what}: 376 TFLOP/s and 1.8 TB/s", 61.0, found, "1", abs(found - 61) <= 1)
    yield _row("T1", f"{what}: the card of a 910B2, fp16", 61.0, by_card, "read beside", None)


# T2 and T3: the benchmark.


def benchmark() -> Iterator[Row]:
    """The authors' benchmark on a 910B2: of its 54 shapes those that no constant was fitted to."""
    counts = f"{len(JUDGED)} shapes left out, {len(FITTED)} fitted to"
    by_heads = _left_out()
    gains = {}
    for shape, published in BENCH.items():
        heads, suffix, batch, prefix = shape
        what = f"{heads} heads, batch {batch}, {prefix} + {suffix} tokens"
        base_s = layer_seconds(NPU_BASE, shape, only=("absorb",))
        gains[shape] = base_s / layer_seconds(NPU, shape, TYPHOON)
        if shape in FITTED:
            continue
        off, off_gain = (f"fitted without its {heads} heads: {x:+.1%}" for x in by_heads[shape])
        rate, speed_up = batch / base_s / 1e3, published.typhoon / published.absorb
        yield _near("T3", f"{what}: absorb, kTok/s", published.absorb, rate, 5, off)
        yield _near("T2", f"{what}: speed-up", speed_up, gains[shape], 15, off_gain)
    known = {shape: rates.typhoon / rates.absorb for shape, rates in BENCH.items()}
    of_judged, of_fitted, published_mean = (
        _geometric_mean(known[shape] for shape in shapes) for shapes in (JUDGED, FITTED, BENCH)
    )
    what = f"geometric mean of the speed-ups ({counts})"
    yield _near("T2", what, of_judged, _geometric_mean(gains[shape] for shape in JUDGED), 5)
    for shapes, mean, of in (
        (FITTED, of_fitted, "fitted to"),
        ([*BENCH], published_mean, "in all"),
    ):
        yield _row(
            "T2",
            f"geometric mean of the {len(shapes)} speed-ups {of}",
            mean,
            _geometric_mean(gains[shape] for shape in shapes),
            "read beside",
            None,
            f"{_TYPHOON_FITTED}; {_NPU_FITTED}",
        )


def _geometric_mean(values: Iterable[float]) -> float:
    return math.exp(np.mean([math.log(value) for value in values]))


def _left_out() -> dict[Shape, tuple[float, float]]:
    """By shape, the errors of rate and speed-up, the constants being fitted to other heads alone.

    With one number of heads arithmetic and HBM traffic of absorb cannot be told apart: its HBM rate
    is then that which the card has for GEMMs.
    """
    found = {}
    card = _device(*NPU)
    peaks = Peaks(card.matrix_flop_per_s["bf16"], hbm_bytes_per_s(card))
    for heads in (64, 128):
        seen, hidden = (
            [shape for shape in BENCH if (shape.heads == heads) == left] for left in (False, True)
        )
        batches, rates = np.array([shape.batch for shape in seen]), [BENCH[each] for each in seen]
        typhoon_s, absorb_s = (batches / np.array(column) / 1e3 for column in zip(*rates))
        base = fit_absorb(seen, absorb_s, peaks, False)
        own = fit_typhoon(seen, typhoon_s, peaks)
        for shape, base_s, own_s in zip(hidden, base.absorb_seconds(hidden), own.seconds(hidden)):
            typhoon, absorb = BENCH[shape]
            found[shape] = (
                shape.batch / base_s / 1e3 / absorb - 1,
                base_s / own_s / (typhoon / absorb) - 1,
            )
    return found


# T4: where the time of Kimi K2 goes.


def breakdown() -> Iterator[Row]:
    """Kimi K2, a prefix of 4096 and suffixes of 512, batch 1024."""
    shape = Shape(64, 512, 1024, 4096)
    fitted = f"{_TYPHOON_FITTED}; how the fixed 689 us divide, by these three"
    for branch, published, seconds in (
        ("CATLASS absorb on everything", 6.43, layer_seconds(NPU, shape, only=("absorb",))),
        ("naive branch", 1.63, layer_seconds(NPU, shape, TYPHOON, ("naive",))),
        ("absorb branch", 1.06, layer_seconds(NPU, shape, TYPHOON, ("absorb",))),
    ):
        what = f"Kimi K2, 4096 + 512 tokens, batch 1024: {branch}, ms"
        yield _near("T4", what, published, seconds * 1e3, 10, fitted=fitted)


# T5: the estimate on GPUs.


def end_to_end() -> Iterator[Row]:
    """DeepSeek-V3, batch 128 a GPU: 61 attention layers and the published time of all else.

    Two constants of each kernel are fitted to prompts A and B, so C alone is judged.
    """
    published = {"A": (1.01, 1.48), "B": (2.04, 2.37), "C": (2.33, 2.56)}
    for name, prefix in PROMPTS.items():
        shape = Shape(128, SUFFIX, 128, prefix)
        times = layer_seconds(GPU, shape, only=ABSORB), layer_seconds(GPU, shape, TYPHOON)
        for kernel, layer_s, rate in zip(("FlashMLA", "TyphoonMLA"), times, published[name]):
            what = f"prompt {name}, {kernel}, kTok/s a GPU"
            found = 128 / (REST_S + LAYERS * layer_s) / 1e3
            if name == "C":
                yield _near("T5", what, rate, found, 3, "28.15 ms of all else, as published")
            else:
                yield _row("T5", what, rate, found, "read beside", None, _GPU_FITTED)


# T6 and T7: bounds and orders.


_ASYMPTOTES = [
    Shape(*shape)
    for shape in product((64, 128), (128, 512), (64, 128, 256, 512, 1024), PROMPTS.values())
]


def asymptotes() -> Iterator[Row]:
    """The largest gains over absorb alone, and what none may pass.

    One baseline on both machines: absorb that reads the prefix for each request, as the kernels of
    the benchmark do. Over absorb that reads it once, as the paper's table of MACs has it, the ratio
    of MACs is the bound; over the judged one it is not, for absorb of few heads waits for HBM.
    """
    for what, published, machine in (
        ("910B2, against CATLASS", 3.0, NPU),
        ("H100, against FlashMLA", 3.24, GPU),
    ):
        for once in (False, True):
            gains = {
                shape: gain(machine, shape, machine, ABSORB, once=once) for shape in _ASYMPTOTES
            }
            most = max(gains, key=lambda shape: gains[shape])
            where = f"{what}, absorb reads the prefix {'once' if once else 'for each request'}"
            largest = f"largest gain of an attention layer, {where}"
            note = (
                f"{most.heads} heads, batch {most.batch}, {most.prefix} + {most.suffix} tokens; of "
                "prompts A, B, C, suffixes of 128 and 512, batch 64 to 1024"
            )
            if once:
                yield _row("T6", largest, published, gains[most], "read beside", None, note=note)
                ok, within = gains[most] <= MACS, f"<= {MACS:g}"
                yield _row("T6", f"ratio of MACs: {largest}", MACS, gains[most], within, ok)
            else:
                yield _near("T6", largest, published, gains[most], 10, note)
                share = max(gains[shape] / bound(machine, shape) for shape in _ASYMPTOTES)
                note = f"of {bound(machine, most):.2f} where the gain is largest: {_BOUND}"
                over = f"largest gain over its bound, {where}"
                yield _row("T6", over, None, share, "<= 1", share <= 1, note=note)


MACS = 3.4  # of absorb over those of naive: (2 D_l + D_r) / (D_qk + D_v), DeepSeek's sizes
_BOUND = "seconds of absorb over those of naive, for the same more tokens of prefix"


def bound(machine: Machinery, shape: Shape) -> float:
    """What a gain over absorb that reads the prefix for each request tends to, the prefix growing.

    What does not depend on the prefix is never less in TyphoonMLA, so no gain passes it.
    """
    short, long = (shape._replace(prefix=prefix) for prefix in (30_000, 60_000))
    absorb_s, naive_s = (
        layer_seconds(machine, long, *how) - layer_seconds(machine, short, *how)
        for how in ((NO_TECHNIQUE, ABSORB), (TYPHOON, ATTENTION))
    )
    return max(absorb_s / naive_s, 1.0)


def orders() -> Iterator[Row]:
    """What is larger than what."""
    by_prompt = [
        gain(GPU, Shape(128, SUFFIX, 128, prefix), GPU, ABSORB) for prefix in PROMPTS.values()
    ]
    by_model = [
        [
            gain(NPU, Shape(heads, SUFFIX, batch, PROMPTS["A"]), NPU_BASE, ("absorb",))
            for heads in (64, 128)
        ]
        for batch in (256, 512, 1024)
    ]
    by_batch = [
        gain(NPU, Shape(128, SUFFIX, batch, PROMPTS["A"]), NPU, ABSORB)
        for batch in (64, 128, 256, 512, 1024)
    ]
    yield _sign("T7", "gain of prompts A, B, C (H100, batch 128)", by_prompt)
    least = min(k2 / v3 for k2, v3 in by_model)
    yield _row(
        "T7",
        "least gain of Kimi K2 over DeepSeek-V3's (910B2, prompt A, batch 256, 512, 1024)",
        None,
        least,
        ">= 1",
        least >= 1,
        note="; ".join(map(listed, by_model)),
    )
    yield _sign("T7", "gain by batch 64 to 1024 (910B2, prompt A)", by_batch, rises=True)


# T8: the memory of the expanded prefix.


def memory() -> Iterator[Row]:
    """DeepSeek-V3 in FP8 on 384 devices: the expanded prompt A beside weights and latent caches."""
    model, fp8 = catalog.model("deepseek-v3"), Precision("fp8", "fp8", "fp8", "fp8")
    devices, batch, suffix = 384, 128, 1024
    weights = model.parameters / devices
    whole = footprint(
        lambda asked: apply(
            transformer(model, fp8, Parallel(), asked), Machine(0.0, 1.0, 1), chosen(*TYPHOON)
        ),
        Parallel(),
        batch,
        [Shared(batch, PROMPTS["A"])],
    )
    cached = whole.kv_bytes_per_token * batch * suffix
    expanded = whole.kept_bytes / devices
    share = expanded / (weights + cached)
    note = (
        f"{expanded / 1e9:.2f} GB beside {weights / 1e9:.2f} GB of weights and "
        f"{cached / 1e9:.2f} GB of cache, all spread over {devices} devices; "
        f"batch {batch} a device, {suffix} own tokens each; its rule is not known"
    )
    what = "HBM of the expanded prefix, per cent of what is in use"
    free = f"batch {batch} a device and {suffix} own tokens, which the paper does not say"
    yield _row("T8", what, 3.0, 100 * share, "2-4", 0.02 <= share <= 0.04, free, note)
