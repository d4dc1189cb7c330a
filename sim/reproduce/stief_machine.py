"""What a KV-cache in a low rank buys on a machine: K6, its bytes; K8, the ratio from which it pays,
by runs and by hand.

The closed form of K8 takes the numbers of a device's card, and none of the functions that the
simulator computes costs by. For one cached token and KV head of a layer, in seconds of a decode
step, with d the head_dim, g the query heads of a KV head, 2 bytes an element, and ranks r_K = r_V =
x d:

    R = 4 d / B              keys and values are read at B bytes/s
    G = 2 g d / F            attention's FLOP that fall away with the values, at F FLOP/s
    M = 2 d² / F             the keys' reconstruction at full rank
    V = 6 d / W              their rotation, at W FLOP/s of the vector engine
    P = (2 k + q) D 2 / B' / (E k)    projections: k KV heads and q query heads of d by D elements
                                      of hidden, read at B' bytes/s, over E cached tokens

Of R, x remains; M x and V come, of which the share o hides under the reads as long as it is no
longer than they are; of G and P, x remains. So the whole cache and the low rank take the same at

    x* = 1 - (1 - o) (M + V) / ((1 - o) M + R + G + P)

with G = 0 where attention's arithmetic hides under its reads, as cards without a word on `overlap`
have it. With o = 1 that is 1: it always pays. Launches, norms and the MLP are the same on both
sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import sim
from sim import catalog
from sim.engine.steps import Sums, play
from sim.graph.batch import decode_batch
from sim.graph.footprint import require
from sim.hardware.cost import traffic
from sim.hardware.device import Device
from sim.kinds.static.plan import prepare
from sim.machine.pod import Machinery
from sim.reproduce.row import Progress, Row, equal, listed, near, rows_of, within

SYSTEM = "stief"
DEVICES = ("h100_sxm", "ascend_910b2")
OVERLAPS = (0.0, 0.5, 1.0)
PUBLISHED = (0.85, 0.67, 0.61)  # ratios of the tables of arXiv 2601.21686, v1
_MODEL, _WIDTH = "llama3-8b", 256  # 2 head_dim
_CANDIDATES = (0.5, 0.61, 0.67, 0.75, 0.85, 0.9)  # the ranks that the paper tries
_MOST = 64  # sequences of the grid
_ATTENDING = ("attention", "prepare", "rebuild")
_STATIC = """
question: What does a low rank buy?
pod: {{topology: single, device: {device}}}
model: {{name: llama3-8b, change: {{max_tokens: 131072}}}}
workload: {{kind: decode, batch: 1, prompt_tokens: 1, output_tokens: 1}}
techniques: {techniques}
record: {{enabled: false}}
"""
_SERVED = """
question: Do both fidelities tell the same of a low rank?
pod: {{topology: single, device: h100_sxm}}
model: smollm2-135m
workload:
  kind: requests
  fidelity: {fidelity}
  max_batched_tokens: 256
  kv_tokens: 6000
  trace: {{file: azure_conv_like, limit: {limit}, speed: 20}}
techniques: [{{kv_low_rank: {{ratio: 0.61, overlap: 0.5}}}}]
record: {{enabled: false}}
"""


class Shape(NamedTuple):
    """A decode step: so many sequences of so many cached tokens."""

    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.context:,} tokens"


SHAPES = (Shape(4, 32_768), Shape(1, 8192), Shape(2, 131_071))


@cache
def machine(device: str, options: str = "", beside: str = "") -> Machinery:
    """Llama3-8B on one chip, with a cache in a low rank where `options` say how, and the technique
    `beside`."""
    chosen = [f"{{kv_low_rank: {{{options}}}}}"] if options else []
    text = _STATIC.format(
        device=device,
        techniques=f"[{', '.join([*chosen, *filter(None, [beside])])}]",
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "step.yaml"
        path.write_text(text)
        (variant,) = sim.load(path).variants.values()
    return prepare(variant, 0).machinery


@cache
def step(device: str, shape: Shape, options: str = "", beside: str = "") -> Sums:
    """One decode step, every op played: its sums."""
    here = machine(device, options, beside)
    require(_MODEL, here.room, shape.batch * shape.context)
    batch = decode_batch([shape.context - 1] * shape.batch)
    return play(here.group(None), batch)[0]


def seconds(device: str, shape: Shape, options: str = "", beside: str = "") -> float:
    """Of the step: TPOT."""
    return step(device, shape, options, beside)["seconds",]


def attention_s(device: str, shape: Shape, options: str = "") -> float:
    """Of its attention, and of what rebuilds keys for it."""
    sums = step(device, shape, options)
    return sum(sums.get(("span_s", "compute", kind), 0.0) for kind in _ATTENDING)


def crossover(device: str, shape: Shape, how: str, beside: str = "") -> float:
    """The ratio at which a step in a low rank takes as long as with the whole cache, by bisection
    over the sum of the ranks, and a straight line between the last two; 1 where every rank below
    the full one is quicker, 0 where none is."""
    whole_s = seconds(device, shape, beside=beside)

    def slower(ranks: int) -> float:
        low_s = seconds(device, shape, f"ratio: {ranks / _WIDTH!r}, {how}", beside)
        return low_s / whole_s - 1.0

    low, high = 2, _WIDTH - 2  # a rank of keys and of values; one less than all of both
    if slower(high) < 0.0 or slower(low) >= 0.0:
        return float(slower(high) < 0.0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if slower(middle) < 0.0 else (low, middle)
    below, above = slower(low), slower(high)
    return (low + below / (below - above)) / _WIDTH


def by_hand(device: Device, shape: Shape, overlap: float) -> float:
    """x* above, for Llama3-8B in 16 bits on a chip of its own."""
    m = catalog.model(_MODEL)
    kernel, d, k, q = device.kernels["attention"], m.head_dim, m.kv_heads, m.heads
    flop_per_s = device.matrix_flop_per_s["fp16"]
    flop_per_s *= kernel.matrix_efficiency or device.matrix_efficiency
    port = device.hbm_bytes_per_s * device.hbm_efficiency
    own = device.hbm_bytes_per_s * (kernel.hbm_efficiency or device.hbm_efficiency)
    read_s = 4 * d / min(port, own)
    rebuild_s = 2 * d * d / flop_per_s
    rotate_s = 6 * d / device.vector_flop_per_s
    in_turn = 0.0 if kernel.overlap is None else 1 - kernel.overlap
    attend_s = in_turn * 2 * (q / k) * d / flop_per_s
    cached = shape.batch * shape.context
    project_s = (2 * k + q) * d * m.hidden * 2 / port / (cached * k)
    shown = 1 - overlap
    saved_s = shown * rebuild_s + read_s + attend_s + project_s
    return 1 - shown * (rebuild_s + rotate_s) / saved_s


def _bytes() -> Iterator[Row]:
    """K6: bytes of the cache and their traffic."""
    shape = SHAPES[0]
    whole = machine("h100_sxm")
    cached = shape.batch * shape.context
    held = whole.room.token_bytes * cached
    what = f"KV-cache of Llama3-8B in 16 bits, {shape}, GiB"
    yield equal(SYSTEM, "K6", what, 16.0, held / 2**30)
    weights = whole.room.weight_bytes
    for ratio in PUBLISHED:
        ranks = round(_WIDTH * ratio)
        how = f"ratio: {ratio}, overlap: "
        some = machine("h100_sxm", how + "0.5")
        exact = ranks / _WIDTH
        label = f"ratio {ratio}: ranks {-(-ranks // 2)} and {ranks // 2} of 128"
        found = some.room.token_bytes / whole.room.token_bytes
        yield equal(SYSTEM, "K6", f"{label}; bytes a token over those of the whole", exact, found)
        read = [_kv_read(each, shape) for each in (whole, some)]
        yield equal(SYSTEM, "K6", f"{label}; KV that a step reads", exact, read[1] / read[0])
        yield within(SYSTEM, "K6", f"{label}; tokens that fit, off the hand sum", *_room(ranks))
        moved = [step("h100_sxm", shape, o)["bytes", "HBM"] for o in ("", how + "0.5")]
        lost = read[0] - read[1] + weights - some.room.weight_bytes
        yield within(
            SYSTEM,
            "K6",
            f"{label}; HBM traffic of a step as played, off what KV and weights come to",
            abs((moved[0] - moved[1]) / lost - 1),
            1e-6,
            note=f"{moved[0] / 1e9:.2f} to {moved[1] / 1e9:.2f} GB, x {moved[1] / moved[0]:.4f}",
        )
        times = [seconds("h100_sxm", shape, f"{how}{overlap}") for overlap in OVERLAPS]
        plain = seconds("h100_sxm", shape)
        yield Row(
            SYSTEM,
            "K6",
            f"{label}; TPOT on an H100 over that of the whole, half of the rebuilding hidden",
            None,
            times[1] / plain,
            "",
            None,
            note=f"{times[0] / plain:.3f} with overlap 0, {times[2] / plain:.3f} with 1; "
            f"{plain * 1e3:.2f} ms with the whole cache",
        )


def _intensity() -> Iterator[Row]:
    """K8: what decides it, FLOP for each byte of KV that is read."""
    found = []
    for shape in SHAPES:
        here = machine("h100_sxm", "ratio: 0.5, overlap: 1")
        graph = here.graph(decode_batch([shape.context - 1] * shape.batch))
        flop = sum(op.flop + op.vector_flop for _, op in graph.ops() if op.kind in _ATTENDING)
        found.append(flop / _kv_read(here, shape))
    what = "FLOP a byte of KV read, ranks 64 and 64 of 128"
    d, r, g = 128, 64, 4
    by_hand = (2 * r * d + 6 * d + g * (2 * (d + r) + 5)) / (4 * r)
    note = f"{listed(found)} at {', '.join(map(str, SHAPES))}; about 70 was expected"
    yield near(SYSTEM, "K8", what, by_hand, found[0], 0.1, note)


def _kv_read(here: Machinery, shape: Shape) -> float:
    graph = here.graph(decode_batch([shape.context - 1] * shape.batch))
    return sum(t.nbytes for _, op in graph.ops() for t in op.reads if t.kind == "kv")


def _room(ranks: int) -> tuple[float, float]:
    """How far the capacity is off what is left of 80 GiB beside weights and the activations of one
    token, over the bytes of a token; and how far it may be."""
    m = catalog.model(_MODEL)
    here = machine("h100_sxm", f"ratio: {ranks / _WIDTH!r}, overlap: 0.5")
    k, v = -(-ranks // 2), ranks // 2
    projections = m.hidden * (m.heads * 128 + m.kv_heads * ranks) + m.heads * v * m.hidden
    layer = projections + 3 * m.hidden * m.ffn + 2 * m.hidden + 128 * k
    weights = 2 * (m.layers * layer + 2 * m.vocab * m.hidden)
    # Hidden state, what is added to it, beside its exchange, normed; queries, keys and values; the
    # width of the MLP twice where it is gated, and once.
    queries = m.heads * 128 + m.kv_heads * ranks
    buffers = 2 * (4 * m.hidden + queries + 3 * m.ffn)
    left = 80 * 2**30 - weights - buffers
    return abs(here.room.kv_tokens / (left / (2 * m.layers * m.kv_heads * ranks)) - 1), 1e-9


def _full_rank() -> Iterator[Row]:
    """K6: at full rank nothing but projections may change, and their bases cancel."""
    whole, full = (machine("h100_sxm", options) for options in ("", "ratio: 1, overlap: 0"))
    batch = decode_batch([100])
    pairs = zip(whole.graph(batch).ops(), full.graph(batch).ops(), strict=True)
    other = sum((a.name, a.flop, a.reads) != (b.name, b.flop, b.reads) for (_, a), (_, b) in pairs)
    yield equal(SYSTEM, "K6", "ops that full rank changes", 0, other, "; ".join(full.idle))


def _fidelities(limit: int) -> Iterator[Row]:
    """K6: `step` and `op` tell the same."""
    found = []
    with TemporaryDirectory() as folder:
        for fidelity in ("step", "op"):
            path = Path(folder) / f"{fidelity}.yaml"
            path.write_text(_SERVED.format(fidelity=fidelity, limit=limit))
            (outcome,) = sim.run(path).outcomes.values()
            found.append((outcome.totals.bytes["HBM"], outcome.totals.seconds))
    (read, took), (read_op, took_op) = found
    for what, off in (("HBM traffic", read / read_op - 1), ("makespan", took / took_op - 1)):
        what = f"{what} of {limit} requests at `step`, off that at `op`"
        yield within(SYSTEM, "K6", what, abs(off), 1e-6)


def _pays(device: str, shapes: Sequence[Shape]) -> Iterator[Row]:
    """K8: the ratio below which it pays."""
    card = catalog.device(device)
    for shape in shapes:
        for overlap in OVERLAPS:
            what = f"{card.name}, {shape}, overlap {overlap:g}: pays below the ratio"
            known, found = (
                by_hand(card, shape, overlap),
                crossover(device, shape, f"overlap: {overlap}"),
            )
            note = "any rank below the full one" if found == 1.0 else ""
            yield near(SYSTEM, "K8", what, known, found, 2, note)
    yield from _two_kernels(device, shapes[0])


def _two_kernels(device: str, shape: Shape) -> Iterator[Row]:
    """K8: whole keys that are written and read again are more bytes than are saved."""
    name = catalog.device(device).name

    def over_whole(of: Callable[[str, Shape, str], float], ratio: float) -> float:
        return of(device, shape, f"ratio: {ratio}, kernel: two") / of(device, shape, "")

    moved = [over_whole(_moved, ratio) for ratio in (1 / 128, *_CANDIDATES)]
    what = f"{name}, {shape}, two kernels: HBM traffic of attention over that of the whole, least"
    note = f"{listed(moved, 3)} at ratios 0.01, {listed(_CANDIDATES)}; by hand 1 + ratio"
    yield Row(SYSTEM, "K8", what, None, min(moved), "> 1", min(moved) > 1, note=note)
    took = [over_whole(attention_s, ratio) for ratio in _CANDIDATES]
    what = f"{name}, {shape}, two kernels: time of attention over that on the whole, least"
    steps = listed((over_whole(seconds, ratio) for ratio in _CANDIDATES), 3)
    note = f"{listed(took, 3)} at ratios {listed(_CANDIDATES)}; of a whole step {steps}"
    note += f"; at 0.05 {over_whole(attention_s, 0.05):.3f}"
    yield Row(SYSTEM, "K8", what, None, min(took), "> 1", min(took) > 1, note=note)


def _moved(device: str, shape: Shape, options: str) -> float:
    """Bytes of attention, and of what rebuilds keys for it, that pass HBM in a step."""
    here = machine(device, options)
    graph = here.graph(decode_batch([shape.context - 1] * shape.batch))
    return sum(
        traffic(op.hbm_bytes, op.buffer_bytes, here.device)[0]
        for _, op in graph.ops()
        if op.kind in _ATTENDING
    )


def _grid(device: str) -> Iterator[Row]:
    """K8: what it buys by context and batch, as far as that fits, and with the cache in fewer bits;
    rows to be read."""
    name = catalog.device(device).name
    for beside in ("{kv_quantised: {format: fp8}}", "{kv_quantised: {format: int4, overlap: 1}}"):
        found = [crossover(device, SHAPES[0], f"overlap: {o}", beside) for o in OVERLAPS]
        form = beside.partition("format: ")[2][:4].strip("},")
        what = f"{name}, {SHAPES[0]}, KV in {form}: pays below the ratio, overlap 0.5"
        note = f"{listed(found)} with overlap 0, 0.5 and 1"
        yield Row(SYSTEM, "K8", what, None, found[1], "", None, note=note)
    for context in (2**k for k in range(11, 18)):
        fits: dict[str, int] = {}
        for how in ("", *(f"ratio: 0.61, overlap: {overlap}" for overlap in OVERLAPS)):
            tokens = machine(device, how).room.kv_tokens
            fits[how] = min(int(tokens // (context + 1)), _MOST)
        whole, *low = fits
        if not fits[whole]:
            continue
        batches = [batch for batch in (1, 4, 16, 64) if batch <= fits[whole]]
        ratios = {
            how: [
                seconds(device, Shape(batch, context), how) / seconds(device, Shape(batch, context))
                for batch in batches
            ]
            for how in low
        }
        rates = {
            how: most / seconds(device, Shape(most, context), how) for how, most in fits.items()
        }
        told = "; ".join(
            f"{listed(ratios[how])} with overlap {o:g}" for how, o in zip(low, OVERLAPS)
        )
        more = [rates[how] / rates[whole] for how in low]
        note = (
            f"TPOT at batch {', '.join(map(str, batches))}: {told}. Tokens a second with as many "
            f"sequences as fit, {_MOST} at most ({fits[whole]} and {fits[low[0]]}): {listed(more)}"
        )
        what = f"{name}, {context:,} tokens, ratio 0.61, overlap 0.5: TPOT at batch {batches[-1]}"
        last = ratios[low[1]][-1]
        yield Row(
            SYSTEM, "K8", f"{what} over that of the whole cache", None, last, "", None, note=note
        )


def rows(quick: bool = False, progress: Progress = lambda share: None) -> list[Row]:
    """The rows of K6 and K8."""
    shapes = SHAPES[:1] if quick else SHAPES
    parts = [_bytes(), _full_rank(), _fidelities(4 if quick else 16), _intensity()]
    parts += map(partial(_pays, shapes=shapes), DEVICES)
    parts += [] if quick else map(_grid, DEVICES)
    return rows_of(parts, len(parts), progress)
