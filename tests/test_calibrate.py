"""Fitting a library: constants that made the data are found again; the catalogue says what the fit
says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from sim import catalog
from sim.calibrate import attention, kernels, latent, moe, work
from sim.calibrate.collectives import Form, fit, leave_one_size_out
from sim.calibrate.libraries import SOURCES, card
from sim.calibrate.tables import Measured
from sim.calibrate.work import fit_8bit
from sim.hardware.cost import Sizes, alone, hbm_bytes_per_s, matrix_flop_per_s, with_kernel
from sim.hardware.device import Device, Kernel
from sim.network import topology
from sim.network.library import Library, Way
from sim.network.network import Fold, Network
from sim.network.topology import Graph
from sim.reproduce.typhoon_rows import BENCH, FITTED, JUDGED

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED = DATA / "collectives"
ONE = ("all_reduce",)


def test_constants_are_found_again():
    ways = (Way(ONE, "ring", "LL", 5e-6, 0.5e-6, 0.1), Way(ONE, "ring", "Simple", 5e-6, 4e-6, 0.8))
    graph = topology.build("switch", 8, 450e9, 0.5e-6)
    network = Network(graph, Library("made up", 5e-6, ways=ways))
    rows = [
        Measured("all_reduce", n, 1 << bit, network.fold("all_reduce", n, float(1 << bit)).seconds)
        for n in (4, 8)
        for bit in range(12, 30)
    ]
    forms = [Form("LL", "ring", ONE), Form("Simple", "ring", ONE)]
    found = fit(rows, graph, forms)
    assert np.abs(found.errors).max() < 1e-9
    for way, known in zip(found.ways, ways):
        assert way[3:] == pytest.approx(known[3:], rel=1e-6)
    assert np.abs(leave_one_size_out(rows, graph, forms)).max() < 1e-6


@pytest.mark.parametrize("name", SOURCES)
def test_the_catalogue_holds_the_fit(name):
    if not (SHARED / SOURCES[name].file).exists():
        pytest.skip(f"{SHARED} is not there")
    if SOURCES[name].file.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the table is a Parquet file")
    source, graph, ways = SOURCES[name], SOURCES[name].pod(), iter(catalog.library(name).ways)
    for forms in source.families:
        kinds = {kind for form in forms for kind in form.collectives}
        rows = [row for row in source.rows(SHARED) if row.kind in kinds]
        found = [(next(ways), fresh) for fresh in fit(rows, graph, forms).ways]
        played = {way: _folds(way, graph, rows) for pair in found for way in pair}
        for way, fresh in found:
            assert way[:3] == fresh[:3]
            assert way.link_efficiency == pytest.approx(fresh.link_efficiency, rel=2e-3)
            seconds, due = ([fold.seconds for fold in played[each]] for each in (way, fresh))
            assert seconds == pytest.approx(due, rel=1e-3)
            # Rows of one number of rounds tell launch + rounds x step, and nothing of its parts.
            if any(len({fold.rounds for fold in played[each]}) > 1 for _, each in found):
                assert way[3:] == pytest.approx(fresh[3:], rel=2e-3, abs=1e-10)
    assert next(ways, None) is None


def test_the_residuals_of_a_card_are_those_of_its_fit():
    if not (SHARED / SOURCES["nccl_p4de"].file).exists():
        pytest.skip(f"{SHARED} is not there")
    shipped = Path(catalog.__file__).parent / "libraries" / "nccl_p4de.yaml"
    (line,) = [line for line in card("nccl_p4de", SHARED).splitlines() if "residual" in line]
    assert line.strip() in shipped.read_text(encoding="utf-8")


def _folds(way: Way, graph: Graph, rows: list[Measured]) -> list[Fold]:
    """The rows that a way serves, each played by that way alone."""
    network = Network(graph, Library("one way", 0.0, ways=(way,)))
    mine = [row for row in rows if row.kind in way.collectives]
    return [network.fold(row.kind, row.ranks, float(row.nbytes)) for row in mine]


BLANK = Device("blank", {"bf16": 500e12}, 125e12, 96e9, 1.597e12, 128e6, 1e12, 0.0, 0.0)
MADE = replace(
    BLANK,
    l2_bytes_per_s=6e12,
    kernel_overhead_s=3e-6,
    vector_overhead_s=2e-6,
    matrix_efficiency=0.8,
    hbm_efficiency=0.9,
    kernels={"matmul": Kernel(overlap=0.5), "attention": Kernel(1e-5, 0.4, 0.85, tile=64.0)},
)
KINDS = {
    "vector": ("vector", "norm"),
    "gemm": ("matrix", "matmul"),
    "decode": ("matrix", "attention"),
    "prefill": ("matrix", "attention"),
    "mixed": ("matrix", "attention"),
}


def made(
    family: str, tokens: int, flop: float, lone_flop: float, read: float, buffers: float
) -> kernels.Kernel:
    engine, kind = KINDS[family]
    op = Sizes(kind, engine, "bf16", flop, lone_flop, read, buffers)
    return kernels.Kernel(family, tokens, op, alone(op, MADE).seconds)


def test_a_devices_constants_are_found_again():
    rows = [
        made("gemm", m, (m > 16) * 2e8 * m * k, 0.0, 2e8 * k, 1e3 * m)
        for m in (1, 8, 16, 64, 200, 700, 2000)
        for k in (0.3, 1)
    ]
    rows += [made("vector", m, 1e4 * m, 0.0, 0.0, 4e4 * m) for m in (1, 30, 300, 1000)]
    rows += [made("decode", n, 0.0, 0.0, 4e6 * n, 1e4 * n) for n in (1, 16, 128)]
    rows += [made("prefill", n, 1e7 * n, 0.0, 1e4 * n, 1e4 * n) for n in (256, 2048)]
    rows += [made("mixed", n, 1e7 * n + 1e9, 1e9, 1e6 * n, 1e4 * n) for n in (256, 2048)]
    found = kernels.fit(rows, BLANK)
    assert np.abs(kernels.errors(rows, found)).max() < 1e-6, (
        "and so the errors are those of the closed form"
    )
    assert found.kernels.keys() == MADE.kernels.keys()
    for name in (field for field in vars(MADE) if getattr(MADE, field) != getattr(BLANK, field)):
        for number in own_numbers(name):
            assert value_of(found, number) == pytest.approx(value_of(MADE, number), rel=1e-4), (
                number
            )


def own_numbers(field: str) -> list[str]:
    if field != "kernels":
        return [field]
    return [
        f"kernels.{kind}.{name}"
        for kind, own in MADE.kernels.items()
        for name in own._fields
        if getattr(own, name) is not None
    ]


def value_of(card: Device, name: str) -> float:
    """The number that a card's fact called `name` is of."""
    if not name.startswith("kernels."):
        return getattr(card, name)
    _, kind, field = name.split(".")
    return getattr(card.kernels[kind], field)


def test_the_card_of_the_rtx_pro_6000_holds_the_fit_and_says_how_good_it_is():
    folder, rows = DATA / "kernels", {}
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    for model, name, tensor in (("llama3.1-8b", "Llama-3.1-8B", 1), ("qwen3-32b", "Qwen3-32B", 2)):
        stem = f"{folder}/kernel__RTXPRO6000__{name}__bf16__tp{tensor}__"
        head = Path(f"{stem}per_sequence.csv")
        rows[model] = kernels.profile(
            replace(catalog.model(model), layers=3),
            tensor,
            Path(f"{stem}dense.csv"),
            Path(f"{stem}attention.csv"),
            head if head.exists() else None,
        )
    card, both = catalog.device("rtx_pro_6000"), rows["llama3.1-8b"] + rows["qwen3-32b"]
    fresh = kernels.fit(both, card)
    for name, fact in card.facts.items():
        if fact.tag == "FITTED":
            assert value_of(card, name) == pytest.approx(value_of(fresh, name), rel=2e-3), name

    def error(family: str, device: Device, kernels_: list[kernels.Kernel]) -> np.ndarray:
        return kernels.errors([kernel for kernel in kernels_ if kernel.family == family], device)

    mean = {family: float(np.abs(error(family, card, both)).mean()) for family in KINDS}
    said = {"gemm": 0.067, "vector": 0.19, "decode": 0.08, "prefill": 0.32, "mixed": 0.24}
    assert mean == pytest.approx(said, abs=0.01)
    # Fitted to one model, the constants predict the other as well.
    seen = kernels.fit(rows["llama3.1-8b"], card)
    for family, mean_error in said.items():
        assert np.abs(error(family, seen, rows["qwen3-32b"])).mean() < mean_error + 0.03, family


NPU = catalog.device("ascend_910b2")
PEAKS = latent.Peaks(NPU.matrix_flop_per_s["bf16"], hbm_bytes_per_s(NPU))
ABSORB_S, TYPHOON_S = (
    np.array([shape.batch / getattr(rates, name) / 1e3 for shape, rates in BENCH.items()])
    for name in ("absorb", "typhoon")
)
SEEN = np.array([shape in FITTED for shape in BENCH])


def test_constants_of_latent_attention_are_found_again():
    known = latent.Fit(6e-4, 150e12, 1.0e12, 120e12, 0.8e12, 20e12)
    hidden = known._replace(absorb_flop_per_s=np.inf)
    found = latent.fit_typhoon(BENCH, hidden.seconds(BENCH), PEAKS)
    assert found == pytest.approx(hidden, rel=1e-6)
    base = latent.fit_absorb(BENCH, known.absorb_seconds(BENCH), PEAKS)
    assert base[:3] == pytest.approx(known[:3], rel=1e-6)
    too_quick = hidden._replace(absorb_bytes_per_s=2 * PEAKS.bytes_per_s)
    held = latent.fit_typhoon(BENCH, too_quick.seconds(BENCH), PEAKS)
    assert held.absorb_bytes_per_s == pytest.approx(PEAKS.bytes_per_s), "no kernel exceeds the chip"


def test_the_card_of_the_910b2_holds_the_fits_of_latent_attention():
    base, own = (
        latent.fit_absorb(FITTED, ABSORB_S[SEEN], PEAKS),
        latent.fit_typhoon(FITTED, TYPHOON_S[SEEN], PEAKS),
    )
    card, flop, nbytes = NPU.kernels, PEAKS.flop_per_s, NPU.hbm_bytes_per_s
    assert card["absorb/torch_npu"][:2] == pytest.approx(
        (base.fixed_s, base.absorb_flop_per_s / flop), rel=1e-3
    )
    assert base.absorb_bytes_per_s == PEAKS.bytes_per_s, "the rate of the GEMMs: not on the card"
    assert card["absorb/catlass"].hbm_efficiency == pytest.approx(
        own.absorb_bytes_per_s / nbytes, rel=1e-3
    )
    naive = own.naive_flop_per_s / flop, own.naive_bytes_per_s / nbytes
    assert card["naive/eager"][1:3] == pytest.approx(naive, rel=1e-3)
    assert card["head_matmul/eager"].matrix_efficiency == pytest.approx(
        own.head_flop_per_s / flop, rel=2e-3
    )
    fixed_s = card["absorb/catlass"].overhead_s + card["naive/eager"].overhead_s
    assert fixed_s == pytest.approx(own.fixed_s, rel=1e-3)


def test_how_well_latent_attention_is_fitted():
    """Rows left out, and those of one number of heads from the other's: what the card says of its
    residuals."""
    base, own = (
        latent.fit_absorb(FITTED, ABSORB_S[SEEN], PEAKS),
        latent.fit_typhoon(FITTED, TYPHOON_S[SEEN], PEAKS),
    )
    for shapes, mine, absorb, typhoon in (
        (FITTED, SEEN, 0.033, 0.118),
        (JUDGED, ~SEEN, 0.033, 0.115),
    ):
        off = (
            base.absorb_seconds(shapes) / ABSORB_S[mine],
            own.seconds(shapes) / TYPHOON_S[mine],
        )
        worst = [np.abs(each - 1).max() for each in off]
        assert worst == pytest.approx([absorb, typhoon], abs=0.001)
    for heads, absorb, typhoon in ((128, 0.039, 0.150), (64, 0.062, 0.212)):
        seen = np.array([row.heads == heads for row in BENCH])
        rows, hidden = (
            [row for row in BENCH if (row.heads == heads) == mine] for mine in (True, False)
        )
        base = latent.fit_absorb(rows, ABSORB_S[seen], PEAKS, False)
        own = latent.fit_typhoon(rows, TYPHOON_S[seen], PEAKS)
        assert np.abs(base.absorb_seconds(hidden) / ABSORB_S[~seen] - 1).max() == pytest.approx(
            absorb, abs=0.001
        )
        assert np.abs(own.seconds(hidden) / TYPHOON_S[~seen] - 1).max() == pytest.approx(
            typhoon, abs=0.001
        )


def test_the_absorb_branch_of_typhoon_waits_for_hbm():
    """As the fit supposes: at the rates of the card, its arithmetic is over before its reads are,
    with any heads."""
    kernel = NPU.kernels["absorb/catlass"]
    for heads in (64, 128):
        arithmetic_s = (
            heads
            * latent.ABSORB_FLOP
            / matrix_flop_per_s(replace(NPU, kernels={"absorb": kernel}), "bf16", "absorb")
        )
        assert arithmetic_s < latent.LATENT_BYTES / (kernel.hbm_efficiency * NPU.hbm_bytes_per_s)


def test_an_overlap_of_absorb_cannot_be_told_from_the_benchmark():
    """Of each number of heads only a slope is seen, of both two: enough for two rates, whatever
    overlaps."""
    pairs = np.array([row.batch * (row.prefix + row.suffix) for row in BENCH], float)
    heads = np.array([row.heads for row in BENCH])
    errors = []
    for columns in (
        [pairs * heads, pairs],  # one after the other
        [
            np.where(heads == 64, pairs, 0.0),
            np.where(heads == 128, pairs, 0.0),
        ],  # bound by HBM, and by arithmetic
    ):
        scaled = np.column_stack([np.ones(54), *columns]) / ABSORB_S[:, None]
        errors.append(scaled @ np.linalg.lstsq(scaled, np.ones(54), rcond=None)[0] - 1)
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)


# ---- kernels of GPUs, from aiconfigurator's tables

GPU = replace(
    catalog.device("h100_sxm"),
    kernels={
        "experts": Kernel(8e-6, 0.6, 0.7, 0.5, 0.3),
        "absorb": Kernel(4e-5, 0.5, 0.6, 0.2),
        "attention": Kernel(1e-5, 0.4, 0.8, 0.7),
    },
)
PLAIN = replace(GPU, kernels={})
# A layer is timed, and they are alike: few, behind the dense ones, are built sooner than all.
DEEPSEEK = replace(catalog.model("deepseek-v3"), layers=5)
LLAMA = replace(catalog.model("llama3-8b"), layers=3)


def test_columns_cost_what_ops_cost():
    flop, lone, read, buffers = (
        np.array(column)
        for column in ([0.0, 1e9, 1e12], [0.0, 1e8, 0.0], [1e9, 1e7, 1e8], [1e3, 1e6, 1e9])
    )
    for kind, engine in (("experts", "matrix"), ("attention", "matrix"), ("norm", "vector")):
        found = alone(Sizes(kind, engine, "fp8", flop, lone, read, buffers), GPU).seconds
        for took, *sizes in zip(found, flop, lone, read, buffers):
            op = alone(Sizes(kind, engine, "fp8", *sizes), GPU)
            assert took == pytest.approx(op.seconds, rel=1e-12)


def test_constants_of_experts_are_found_again():
    shapes = [(4096, 1536, 8, 128), (6144, 2048, 8, 256)]
    rows = [
        moe.Row(*shape, 1, tokens, 0.0, 0.0)
        for shape in shapes
        for tokens in (4, 16, 64, 300, 900, 4000, 16000)
    ]
    for dtype in ("bfloat16", "fp8_block"):
        took = moe.measured(rows, moe.PRECISION[dtype]).predicted(GPU)
        rows = [row._replace(seconds=float(s)) for row, s in zip(rows, took)]
        if dtype == "bfloat16":
            found = moe.fitted(rows, moe.PRECISION[dtype], PLAIN)
            assert told(found.kernels["experts"]) == pytest.approx(
                told(GPU.kernels["experts"]), rel=1e-3
            )
        else:
            found = fit_8bit(moe.measured(rows, moe.PRECISION[dtype]), found)
            assert found.kernels["experts"].matrix_efficiency_8bit == pytest.approx(0.3)


def test_of_a_grid_the_best_is_found_that_is_found_one_by_one():
    rows = [moe.Row(4096, 1536, 8, 128, 1, tokens, 0.0, 0.0) for tokens in (4, 64, 900, 16000)]
    times = moe.measured(rows, moe.PRECISION["bfloat16"])
    times = times._replace(seconds=times.predicted(GPU) * np.array([1.2, 0.9, 1.1, 0.8]))
    grid = {"matrix_efficiency": work.SHARES, "overlap": work.OVERLAPS}
    choices = [dict(zip(grid, each)) for each in product(*grid.values())]
    errors = [mean(times.errors(with_kernel(PLAIN, "experts", **each))) for each in choices]
    found = work.best(times, PLAIN, **grid)
    assert found == [*choices[int(np.argmin(errors))].values()]
    assert work.SHARES[0] < found[0] < work.SHARES[-1], "not at an end of it"


def test_experts_that_are_met():
    row = moe.Row(4096, 1536, 8, 128, 1, 4, 0.0, 1.0)
    assert (moe.met(row), moe.met(row._replace(tokens=500))) == (32, 128), (
        "evenly, each token another"
    )
    few = [moe.met(row._replace(tokens=tokens, skew=1.2)) for tokens in (1, 4, 32, 500)]
    assert few[0] == 8 and few == sorted(few) and few[2] < 128, "popular ones, again and again"
    work = moe.measured([row], moe.PRECISION["bfloat16"])
    assert sum(gemm.hbm_bytes[0] for gemm in work.own) == pytest.approx(32 * 3 * 4096 * 1536 * 2), (
        "each read once"
    )


def test_constants_of_attention_are_found_again():
    rows = [
        attention.Row(heads, heads, batch, 1, cached, 0.0)
        for heads in (1, 8, 128)
        for batch in (1, 32)
        for cached in (300, 5000, 50000)
    ]
    took = attention.measured(rows, DEEPSEEK, "absorb", attention.DECODE).predicted(GPU)
    made = [row._replace(seconds=float(s)) for row, s in zip(rows, took)]
    found = attention.fitted_absorb(made, DEEPSEEK, PLAIN).kernels["absorb"]
    assert told(found) == pytest.approx(told(GPU.kernels["absorb"]), rel=1e-3)
    rows = [
        attention.Row(32, 8, batch, 1, cached, 0.0) for batch in (1, 64) for cached in (300, 9000)
    ]
    rows += [attention.Row(32, 8, batch, new, 0, 0.0) for batch in (1, 8) for new in (128, 4000)]
    took = attention.measured(rows, LLAMA, "attention").predicted(GPU)
    made = [row._replace(seconds=float(s)) for row, s in zip(rows, took)]
    found = attention.fitted(made, LLAMA, PLAIN).kernels["attention"]
    assert told(found) == pytest.approx(told(GPU.kernels["attention"]), rel=1e-3)


def parquet(name: str) -> Path:
    pytest.importorskip("pyarrow", reason="the table is a Parquet file")
    if not (DATA / "kernels" / name).exists():
        pytest.skip(f"{DATA / 'kernels'} is not there")
    return DATA / "kernels" / name


def told(kernel: Kernel) -> list[float]:
    """Overhead, matrix and HBM efficiency, overlap; -1 for what is not said."""
    return [-1.0 if number is None else number for number in kernel[:4]]


def mean(errors: np.ndarray) -> float:
    return float(np.abs(errors).mean())


@pytest.mark.parametrize(
    ("name", "table", "top_k", "said", "others"),
    [
        ("h100_sxm", "h100_sxm__moe__vllm__0.24.0", True, (0.067, 0.046), (0.066, 0.075)),
        ("a100_80g", "a100_sxm__moe__vllm__0.14.0", False, (0.162, 0.111), (0.169, 0.282)),
    ],
)
def test_the_cards_hold_the_fits_of_experts_and_say_how_good_they_are(
    name, table, top_k, said, others
):
    path, card, bf16 = (
        parquet(f"{table}__moe_perf.parquet"),
        catalog.device(name),
        moe.PRECISION["bfloat16"],
    )
    every = moe.aiconfigurator(path, "bfloat16")
    rows = [row for row in every if not row.skew] or every
    kernel = moe.fitted(rows, bf16, card, top_k).kernels["experts"]
    assert told(card.kernels["experts"]) == pytest.approx(told(kernel), rel=2e-3)
    times = moe.measured(rows, bf16, top_k)
    errors, counted = times.errors(card), moe.streamed(times, card.l2_bytes)
    few = counted & (moe.rows_each(rows) <= moe.FEW)
    assert (mean(errors[counted]), mean(errors[few])) == pytest.approx(said, abs=0.002)
    shapes = sorted({row.shape for row in rows})
    for half, due in enumerate(others):  # fitted on every other shape of experts, the others
        hidden = np.array([shapes.index(row.shape) % 2 != half for row in rows])
        seen = moe.fitted([row for row, out in zip(rows, hidden) if not out], bf16, card, top_k)
        assert mean(times.errors(seen)[hidden & counted]) == pytest.approx(due, abs=0.002)
    if name == "h100_sxm":
        times = moe.measured([row for row in every if row.skew], bf16)
        assert mean(times.errors(card)[moe.streamed(times, card.l2_bytes)]) == pytest.approx(
            0.088, abs=0.002
        )
        rows = [row for row in moe.aiconfigurator(path, "fp8_block") if not row.skew]
        times = moe.measured(rows, moe.PRECISION["fp8_block"])
        times = times.of(moe.streamed(times, card.l2_bytes))
        share = fit_8bit(times, card).kernels["experts"].matrix_efficiency_8bit
        assert card.kernels["experts"].matrix_efficiency_8bit == pytest.approx(share)
        assert mean(times.errors(card)) == pytest.approx(0.099, abs=0.002)


@pytest.mark.parametrize(
    ("dtype", "kernels", "tile", "kind", "said", "others"),
    [
        ("int4_wo", moe.MARLIN, moe.TILE, "experts@int4", (0.101, 0.082), (0.085, 0.115)),
        ("w4a16_mxfp4", moe.OPENAI, 90, "experts@fp4", (0.052, 0.036), (0.070, 0.073)),
    ],
)
def test_the_card_of_the_h100_holds_the_fits_of_experts_of_four_bits(
    dtype, kernels, tile, kind, said, others
):
    path, card = (
        parquet("h100_sxm__moe__vllm__0.24.0__moe_perf.parquet"),
        catalog.device("h100_sxm"),
    )
    rows = [row for row in moe.aiconfigurator(path, dtype, kernels, tile) if not row.skew]
    assert told(card.kernels[kind]) == pytest.approx(
        told(moe.fitted(rows, moe.PRECISION[dtype], card).kernels[kind]), rel=2e-3
    )
    times = moe.measured(rows, moe.PRECISION[dtype])
    errors, counted = times.errors(card), moe.streamed(times, card.l2_bytes)
    few = counted & (moe.rows_each(rows) <= moe.FEW)
    assert (mean(errors[counted]), mean(errors[few])) == pytest.approx(said, abs=0.002)
    degrees = sorted({row.tensor for row in rows})
    for half, due in enumerate(others):  # fitted on every other degree, the others
        hidden = np.array([degrees.index(row.tensor) % 2 != half for row in rows])
        seen = moe.fitted(
            [row for row, out in zip(rows, hidden) if not out], moe.PRECISION[dtype], card
        )
        assert mean(times.errors(seen)[hidden & counted]) == pytest.approx(due, abs=0.002)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("h100_sxm", "h100_sxm__attention__vllm__0.24.0", (0.090, 0.187)),
        ("a100_80g", "a100_sxm__attention__vllm__0.14.0", (0.122, 0.142)),
    ],
)
def test_the_cards_hold_the_fits_of_attention(name, table, said):
    card = catalog.device(name)
    rows = [
        row
        for phase in ("generation", "context")
        for row in attention.grouped(parquet(f"{table}__{phase}_attention_perf.parquet"))
    ]
    found = attention.fitted(rows, LLAMA, card).kernels["attention"]
    assert told(card.kernels["attention"]) == pytest.approx(told(found), rel=2e-3)
    errors, decode = (
        attention.measured(rows, LLAMA, "attention").errors(card),
        np.array([r.new == 1 for r in rows]),
    )
    assert (mean(errors[decode]), mean(errors[~decode])) == pytest.approx(said, abs=0.002)


def test_the_card_of_the_h100_holds_the_fit_of_absorb():
    rows = attention.modules(
        parquet("h100_sxm__mla__vllm__0.24.0__mla_generation_module_perf.parquet")
    )
    card = catalog.device("h100_sxm")
    found = attention.fitted_absorb(rows, DEEPSEEK, card).kernels["absorb"]
    assert told(card.kernels["absorb"]) == pytest.approx(told(found), rel=2e-3)
    times, served = (
        attention.measured(rows, DEEPSEEK, "absorb", attention.DECODE),
        [row.cached >= 255 for row in rows],
    )
    errors = times.errors(card)
    assert (mean(errors), mean(errors[served])) == pytest.approx((0.104, 0.071), abs=0.002)
    batches = sorted({row.batch for row in rows})
    for half, due in enumerate((0.102, 0.107)):  # fitted on every other batch, the others
        hidden = np.array([batches.index(row.batch) % 2 != half for row in rows])
        seen = attention.fitted_absorb(
            [row for row, out in zip(rows, hidden) if not out], DEEPSEEK, card
        )
        assert mean(times.errors(seen)[hidden]) == pytest.approx(due, abs=0.002)


def test_the_h200_has_the_kernels_of_the_h100():
    kernels_of_the_chip = {
        name: own for name, own in catalog.device("h100_sxm").kernels.items() if "/" not in name
    }
    assert catalog.device("h200").kernels == kernels_of_the_chip
