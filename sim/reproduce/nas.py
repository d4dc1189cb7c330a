"""U-Boost NAS (arXiv 2203.12412): its model of utilisation, its simulated layers, its fronts; what
is searched is in `nas_searched`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from sim.learn.pareto import Point, area_to_ideal, hypervolume
from sim.reproduce import nas_searched
from sim.reproduce.row import Progress, Row, equal, near, rows_of
from sim.systolic.lookup import ONE_ARRAY, network_of, simulated
from sim.systolic.utilisation import (
    LAYERS,
    Layer,
    Product,
    cycles,
    dense,
    smooth_ceil,
    utilisation,
)

_equal, _near = partial(equal, "nas"), partial(near, "nas")

# layer, cycles, multiply-accumulates over 128 x 128 cells: from the paper's formulas by hand
FORMULAS: dict[str, tuple[Layer, int, float]] = {
    "3x3, 32x32, 64 to 64": (LAYERS["conv"](9, 1024, 64, 64), 5120, 2304),
    "3x3, 32x32, 128 to 128": (LAYERS["conv"](9, 1024, 128, 128), 9216, 9216),
    "3x3, 32x32, 128 to 144": (LAYERS["conv"](9, 1024, 128, 144), 18432, 10368),
    "5x5, 16x16, 128 to 128": (LAYERS["conv"](25, 256, 128, 128), 6400, 6400),
    "dilated 3x3, 32x32, 128 to 128": (LAYERS["dilated"](9, 1024, 128, 128), 9216, 9216),
    "depthwise 3x3, 32x32, 128": (LAYERS["depthwise"](9, 1024, 128, 128), 131072, 72),
    "separable 3x3, 32x32, 128 to 128": (LAYERS["separable"](9, 1024, 128, 128), 132096, 1096),
    "fully connected, 1024 to 10": (dense(1, 1024, 10), 8, 0.625),
    "100 x 300 by 300 x 200": ((Product(100, 300, 200),), 600, 366.2109375),
}
SMOOTH = {1: 1.0278, 1.0625: 1.169, 1.125: 1.503, 0.5: 0.9995, 0.0625: 0.169, 9: 9.0278}
# kind, kernel area, positions, channels, filters: ms and utilisation of the authors' simulator
SAMPLES = {
    ("conv", 9, 1024, 64, 64): (0.005258, 0.432),
    ("conv", 9, 1024, 128, 128): (0.009481, 0.9585),
    ("conv", 9, 1024, 128, 144): (0.018769, 0.552),
    ("conv", 9, 1024, 256, 256): (0.037345, 0.984),
    ("conv", 9, 256, 128, 128): (0.002515, 0.865),
    ("conv", 25, 256, 128, 128): (0.006643, 0.944),
    ("conv", 9, 64, 256, 256): (0.006869, 0.326),
    ("conv", 1, 1024, 128, 128): (0.001225, 0.731),
    ("depthwise", 9, 1024, 128, 128): (0.13198, 0.000545),
    ("depthwise", 25, 256, 256, 256): (0.06595, 0.00151),
}
# ms and accuracy on ImageNet-100; hypervolumes of the first two points and of all, as printed
FRONTS = {
    "U-Boost": ([(2.2, 87.8), (1.05, 87.9), (0.77, 86.3)], "12.7", "13.94"),
    "Blackbox": ([(4.8, 87.5), (4.05, 87.8)], "49.4", ""),
    "Roofline": ([(4.7, 86.5), (3.5, 84.0), (2.9, 74.2)], "72.2", "100.62"),
    "FLOPS": ([(6.1, 87.2), (3.45, 78.4), (3.42, 80.2)], "108", "102.02"),
}
CHAIN = 3  # layers


def reproduce(
    quick: bool = False,
    progress: Progress = lambda share: None,
    searched: nas_searched.Record | None = None,
) -> list[Row]:
    """Rows of the system `nas`; `quick`: a coarser grid of sizes; `searched`: a record of searches
    in place of the one that is here."""
    parts = (
        formulas(),
        fronts(),
        samples(),
        against_the_simulator(quick),
        nas_searched.rows(searched),
    )
    return rows_of(parts, len(parts), progress)


def formulas() -> Iterator[Row]:
    """U1: cycles, utilisation, the smooth ceiling."""
    met = [
        cycles(layer, ONE_ARRAY) == known
        and abs(utilisation(layer, ONE_ARRAY) - macs / known) <= 1e-12
        for layer, known, macs in FORMULAS.values()
    ]
    what = "layers whose cycles and utilisation on 128 x 128 are those of the formulas"
    yield _equal("U1", what, float(len(met)), float(sum(met)), "; ".join(FORMULAS))
    for x, known in SMOOTH.items():
        found = float(smooth_ceil(np.float64(x)))
        ok = abs(found - known) <= 1e-3
        yield Row("nas", "U1", f"smooth ceiling of {x:g}", known, found, "1e-3", ok)


def fronts() -> Iterator[Row]:
    """U1: what fronts are worth, as published and by the standard definition."""
    points = {name: [Point(*each) for each in row[0]] for name, row in FRONTS.items()}
    for name, (_, of_two, of_all) in FRONTS.items():
        for known, some in ((of_two, points[name][:2]), (of_all, points[name])):
            if known:
                what = f"{name} on ImageNet-100, {len(some)} points: the paper's hypervolume"
                found = area_to_ideal(some)
                ok = f"{found:.{len(known.partition('.')[2])}f}" == known
                yield Row("nas", "U1", what, float(known), found, "as printed", ok)
    every = [point for some in points.values() for point in some]
    worst = Point(max(p.time for p in every), min(p.accuracy for p in every))
    note = f"higher is better, up to {worst.time:g} ms and {worst.accuracy:g} %; ms x %"
    for name, some in points.items():
        what = f"{name} on ImageNet-100: the standard hypervolume"
        yield Row("nas", "U1", what, None, hypervolume(some, worst), "", None, note=note)


def samples() -> Iterator[Row]:
    """U2: layers of the authors' lookup table, through the array simulator."""
    for (kind, area, positions, channels, filters), (ms, used) in SAMPLES.items():
        layer = LAYERS[kind](area, positions, channels, filters)
        side, size = round(area**0.5), round(positions**0.5)
        what = f"{kind} {side}x{side}, {size}x{size}, {channels} to {filters}: "
        found = simulated(layer)
        ms_found = found.cycles / ONE_ARRAY.clock_hz * 1e3
        error = 1 - cycles(layer, ONE_ARRAY) / simulated(layer, exact=False).cycles
        note = f"utilisation model {100 * error:.1f} % below the machine without the habits"
        yield _near("U2", what + "ms", ms, ms_found, 1.0, note)
        yield _near("U2", what + "utilisation", used, found.utilisation, 1.0)


def against_the_simulator(quick: bool = False) -> Iterator[Row]:
    """U2: the model below what is simulated, over a grid of layers, alone and in a chain."""
    channels = (64, 144) if quick else (16, 72, 128, 144, 256)
    kinds = [("conv", 1), ("conv", 9), ("conv", 25), ("depthwise", 9), ("depthwise", 25)]
    bound: list[tuple[float, float]] = []  # errors alone and in a chain, where compute-bound
    worst, above, above_exact, count = 0.0, 0, 0, 0
    for (kind, area), positions, c, f in product(kinds, (1024, 256, 64), channels, channels):
        if kind == "depthwise" and not c == f <= 144:  # its channels are alike
            continue
        layer = LAYERS[kind](area, positions, c, f)
        known, count = float(cycles(layer, ONE_ARRAY)), count + 1
        alone = simulated(layer, exact=False).cycles
        above += known > alone
        above_exact += known > simulated(layer).cycles
        worst = max(worst, 1 - known / alone)
        if compute_bound(layer):
            more = simulated(*[layer] * CHAIN, exact=False).cycles - alone
            bound.append((1 - known / alone, 1 - known * (CHAIN - 1) / more))
    yield _equal("U2", f"layers of {count} that the model says last longer", 0.0, float(above))
    yield Row(
        "nas",
        "U2",
        f"the same, as the authors count cycles, of {count}",
        None,
        float(above_exact),
        "",
        None,
        note="their last round costs nothing",
    )
    what = f"largest error of the model on {len(bound)} compute-bound layers, "
    alone_errors, chain_errors = (np.array(each) for each in zip(*bound))
    yield _within(
        what + f"as the next of a chain of {CHAIN}",
        chain_errors,
        "compute-bound: streaming takes at least as long as loading cells and as memory",
    )
    yield _within(
        what + "each alone",
        alone_errors,
        f"{int((alone_errors <= 0.05).sum())} are within; alone, a layer waits for its first "
        "weights, up to 191 cycles of memory and 128 of loading",
    )
    text = "largest error of the model, all layers alone"
    yield Row("nas", "U2", text, None, worst, "", None, note="short ones wait for memory")


def compute_bound(layer: Layer) -> bool:
    """Whether streaming takes at least as long as loading the cells, and as memory's weights."""
    array = ONE_ARRAY
    products = network_of(layer).layers
    loads = sum(-(-each.k // array.cols) * each.n for each in products)
    weights = sum(each.n * each.k for each in products)
    memory = weights * array.clock_hz / array.dram_bytes_per_s
    return bool(cycles(layer, array) >= max(loads, memory))


def _within(what: str, errors: np.ndarray, note: str) -> Row:
    most = float(errors.max())
    return Row("nas", "U2", what, 0.0, most, "0.05", most <= 0.05, note=note)
